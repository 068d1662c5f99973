"""What happens on the GPU, from the first recorded frames to the last generation."""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from controller.tools.doom_jax.dreams import Dreams, dream_block, evolve
from controller.tools.doom_jax.models import rnn_init
from controller.tools.doom_jax.plan import Plan, say
from controller.tools.doom_jax.recording import Frames, Recorded
from controller.tools.doom_jax.training import Latents, rnn_step, train_rnn, train_vae
from env.run.files import save_arrays, write_json


def compile_early(plan: Plan, z: int, units: int, sizes: list[int], ready: dict[str, Any], began: float) -> None:
    """Compile M's step and the dreams while V is being trained."""

    def spec(*shape: int, dtype: Any = np.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    params = {name: spec(*array.shape) for name, array in rnn_init(np.random.default_rng(0), z, units).items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = (plan.rows, plan.window)
    carried = spec(plan.rows, units), spec(plan.rows, units)
    ready["rnn"] = (
        rnn_step(plan, z)
        .lower(
            params,
            (params, params),
            spec(dtype=np.int32),
            spec(plan.most_frames + Latents.CHUNK, 2 * z),
            spec(*batch, dtype=np.int32),
            spec(3, *batch),
            *carried,
            key,
        )  # fmt: skip
        .compile()
    )
    say(began, "M's step is compiled")
    block, size = dream_block(plan.steps), z + 2 * units
    for lanes in sizes:
        state = (spec(lanes, z), spec(lanes, units), spec(lanes, units), spec(lanes, 1), spec(lanes, dtype=jnp.int32),
                 spec(lanes, dtype=jnp.bool_))  # fmt: skip
        ready[f"dream {lanes}"] = block.lower(params, spec(lanes, size), spec(lanes), state, key).compile()
    say(began, "dreams are compiled")


def learn(out: Path, plan: Plan, frames: Frames, pipes: list[Connection], z: int, units: int, began: float) -> None:
    """Train V, M and all C's on what the workers behind `pipes` record into `frames`; see train.py for what is written to `out`."""
    say(began, f"devices {jax.devices()}")
    recorded = Recorded(pipes)
    groups = min(3, len(plan.evolutions))
    members = [list(range(len(plan.evolutions)))[i::groups] for i in range(groups)]
    full = len(members[0]) * plan.population * plan.dreams
    sizes = sorted({-(-full // part // 8) * 8 for part in (1, 2, 4, 8)} | {len(members[0]) * plan.scored})
    ready: dict[str, Any] = {}
    early = threading.Thread(target=compile_early, args=(plan, z, units, sizes, ready, began))
    early.start()
    vae = train_vae(frames, recorded, plan, z, out, began)
    early.join()
    latents = Latents(vae, frames, recorded, plan.most_frames, z)
    say(began, f"encoded {latents.look()} episodes")
    rnn = train_rnn(latents, recorded, plan, units, out, began, ready["rnn"])
    initial = write_facts(out, plan, latents)
    while recorded.going_on:
        recorded.look()
        time.sleep(0.1)
    dreams = Dreams(rnn, initial, sizes, plan, lambda p, own, *rest: ready[f"dream {len(own)}"](p, own, *rest))
    threads = [threading.Thread(target=evolve, args=(dreams, group, pipes, plan, out, began)) for group in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def write_facts(out: Path, plan: Plan, latents: Latents) -> tuple[np.ndarray, np.ndarray]:
    """Write what was recorded, and V's posterior of the first 1,000 episodes' first frames; returns the latter, as it was rounded."""
    z = latents.values.shape[1] // 2
    rows = np.asarray(latents.values[np.array([episode.place for episode in sorted(latents.episodes)[:1000]])]).astype(np.float16)
    save_arrays(out / "initial.npz", {"mu": rows[:, :z], "logvar": rows[:, z:]}, {}, compress=9)
    lengths = np.array([episode.length for episode in latents.episodes])
    facts = {
        "episodes": len(lengths),
        "frames": int(lengths.sum()),
        "mean_length": float(lengths.mean()),
        "std_length": float(lengths.std()),
    }
    write_json(out / "facts.json", facts | {"plan": plan._asdict(), "device": str(jax.devices()[0])})
    return rows[:, :z].astype(np.float32), rows[:, z:].astype(np.float32)
