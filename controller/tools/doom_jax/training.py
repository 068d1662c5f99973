"""V's and M's trainings."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from controller.ship import small
from controller.tools.doom_jax.models import MIXTURES, Params, adam, rnn_init, rnn_loss, vae_encode, vae_init, vae_loss
from controller.tools.doom_jax.plan import Plan, say
from controller.tools.doom_jax.recording import FRAME, Episode, Frames, Recorded
from env.run.files import save_arrays


def half(params: Params) -> Params:
    """Rounded as the project ships weights."""
    return {name: small(name, np.asarray(array)).astype(np.float32) for name, array in params.items()}


class Log:
    """Rows of means over some steps, as the project's logs have them."""

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every, self._sums, self._count, self._began = path, every, {}, 0, time.monotonic()  # type: ignore[var-annotated]
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, step: int, terms: dict[str, Any], count: int = 1) -> dict[str, float] | None:
        """Add the means of the last `count` steps, up to `step`; returns the row that this fills."""
        self._sums = {key: self._sums.get(key, 0.0) + value * count for key, value in terms.items()}
        self._count += count
        if self._count < self._every:
            return None
        row = {"step": step} | {key: float(value) / self._count for key, value in self._sums.items()}
        row["seconds_per_step"] = (time.monotonic() - self._began) / self._count
        self._sums, self._count, self._began = {}, 0, time.monotonic()
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row


def save(out: Path, floor: str, params: Params, meta: dict[str, Any]) -> Params:
    """Write V's or M's weights in half precision; returns them as what follows learns from them."""
    params = half({name: np.asarray(array) for name, array in params.items()})
    halves = {name: array.astype(np.float16) for name, array in params.items()}
    save_arrays(out / floor / "weights.npz", halves, {"model": floor, "task": "doom"} | meta, compress=9)
    return params


def train_vae(frames: Frames, recorded: Recorded, plan: Plan, z: int, out: Path, began: float) -> Params:
    """V, while the recording goes on."""
    rng = np.random.default_rng(1)
    params = vae_init(rng, z)
    state = tuple({name: np.zeros_like(array) for name, array in params.items()} for _ in range(2))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def steps(params: Params, state: Any, done: Any, batches: Any, key: Any) -> Any:
        def one(carry: Any, now: Any) -> Any:
            params, state, done = carry
            noise = jax.random.normal(jax.random.fold_in(key, done), (batches.shape[1], z))
            gradient, terms = jax.grad(vae_loss, has_aux=True)(params, now, noise)
            params, state = adam(params, gradient, state, done + 1, 1e-4)
            return (params, state, done + 1), terms

        (params, state, _), terms = lax.scan(one, (params, state, done), batches)
        return params, state, jax.tree.map(jnp.mean, terms)

    def batches() -> Iterator[np.ndarray]:
        while time.monotonic() - began < plan.vae_until:
            episodes = recorded.look()
            if not episodes:
                time.sleep(0.2)
                continue
            places, lengths = (np.array(part) for part in list(zip(*episodes))[1:3])
            ends = np.cumsum(lengths)
            drawn = rng.integers(0, ends[-1], plan.vae_batches * 100)
            episode = np.searchsorted(ends, drawn, side="right")
            chosen = places[episode] + drawn - (ends - lengths)[episode]
            yield frames.obs[chosen].reshape(plan.vae_batches, 100, *FRAME)

    log, done, key = Log(out / "vae" / "log.jsonl", plan.vae_batches), 0, jax.random.key(1)
    params, state = jax.device_put((params, state))
    for batch in ahead(batches(), 2):
        params, state, terms = steps(params, state, jnp.int32(done), batch, key)
        done += plan.vae_batches
        row = log.add(done, terms, plan.vae_batches)
        if row and done // plan.vae_batches % 20 == 1:
            say(began, f"vae {done} {row['loss']:.2f} {row['reconstruction']:.2f} {row['seconds_per_step'] * 1e3:.2f} ms, "
                f"{len(recorded.episodes)} episodes")  # fmt: skip
    params = save(out, "vae", params, {"z_size": z, "steps": done})
    say(began, f"vae done: {done} steps")
    return params


def ahead(source: Iterator[Any], most: int) -> Iterator[Any]:
    """The items of `source`, made ahead of time in a thread."""
    queue: Queue[Any] = Queue(most)

    def fill() -> None:
        for item in source:
            queue.put((item,))
        queue.put(None)

    threading.Thread(target=fill, daemon=True).start()
    while (item := queue.get()) is not None:
        yield item[0]


class Latents:
    """mu and logvar of all frames, on the device; encoded as they come."""

    CHUNK = 4096

    def __init__(self, vae: Params, frames: Frames, recorded: Recorded, most: int, z: int) -> None:
        self._vae, self._frames, self._recorded = jax.device_put(vae), frames, recorded
        self.values = jnp.zeros((most + self.CHUNK, 2 * z), jnp.float32)
        self.action, self.first, self.died = (np.zeros(most, np.float32) for _ in range(3))
        self.episodes: list[Episode] = []

        @functools.partial(jax.jit, donate_argnums=0)
        def put(values: Any, vae: Params, frames: Any, place: Any) -> Any:
            return lax.dynamic_update_slice(values, jnp.concatenate(vae_encode(vae, frames), axis=1), (place, 0))

        self._put = put

    def look(self) -> int:
        """Encode what came since; returns how many episodes there are."""

        new = self._recorded.look()[len(self.episodes) :]
        if new:
            places = np.concatenate([np.arange(episode.place, episode.place + episode.length) for episode in new])
            runs = np.split(np.sort(places), np.flatnonzero(np.diff(np.sort(places)) > 1) + 1)  # episodes beside each other are one
            for run in runs:
                for start in range(run[0], run[-1] + 1, self.CHUNK):
                    # What lies behind the run is encoded for nothing, and again when it is whole.
                    chunk = self._frames.obs[start : start + self.CHUNK]
                    chunk = np.concatenate([chunk, np.zeros((self.CHUNK - len(chunk), *FRAME), np.uint8)])
                    self.values = self._put(self.values, self._vae, chunk, jnp.int32(start))
        for _, place, length, died in new:
            self.action[place : place + length] = self._frames.action[place : place + length]
            self.first[place], self.died[place + length - 1] = 1.0, float(died)
        self.episodes += new
        return len(self.episodes)


def rnn_step(plan: Plan, z: int) -> Any:
    """M's training step."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: Any, done: Any, values: Any, chosen: Any, facts: Any, h: Any, c: Any, key: Any) -> Any:
        rows = values[chosen]
        noise = jax.random.normal(jax.random.fold_in(key, done), (*chosen.shape, z))
        sampled = rows[..., :z] + jnp.exp(rows[..., z:] / 2) * noise
        gradient, (terms, (h, c)) = jax.grad(rnn_loss, has_aux=True)(params, sampled, *facts, h, c)
        gradient = jax.tree.map(lambda g: jnp.clip(g, -1.0, 1.0), gradient)
        rate = 1e-5 + (1e-3 - 1e-5) * jnp.exp(np.log(plan.decay) * done.astype(jnp.float32))
        params, state = adam(params, gradient, state, done + 1, rate)
        return params, state, h, c, terms

    return step


def train_rnn(latents: Latents, recorded: Recorded, plan: Plan, units: int, out: Path, began: float, compiled: Any) -> Params:
    """M, on a stream of all episodes, shuffled anew for each epoch (rnn/sequences.py), by the step that `rnn_step` made."""
    rng = np.random.default_rng(2)
    z = latents.values.shape[1] // 2
    params = jax.device_put(rnn_init(rng, z, units))
    state = jax.tree.map(jnp.zeros_like, (params, params))
    log, done, key, epochs = Log(out / "rnn" / "log.jsonl", 20 if plan.rnn_steps > 20 else 2), 0, jax.random.key(2), 0
    window = plan.rows * plan.window
    while done < plan.rnn_steps and time.monotonic() - began < plan.rnn_until:
        if recorded.going_on or epochs == 0 or len(recorded.look()) > len(latents.episodes):
            latents.look()
        order = rng.permutation(len(latents.episodes))
        played = [latents.episodes[i] for i in order]
        stream = np.concatenate([np.arange(episode.place, episode.place + episode.length) for episode in played])
        count = len(stream) // window
        if not count:
            time.sleep(0.2)
            continue
        stream = stream[: count * window].reshape(plan.rows, count, plan.window).transpose(1, 0, 2).astype(np.int32)
        facts = np.stack([latents.action[stream], latents.first[stream], latents.died[stream]])
        h = c = jnp.zeros((plan.rows, units))
        for i in range(count):
            params, state, h, c, terms = compiled(params, state, jnp.int32(done), latents.values, stream[i], facts[:, i], h, c, key)
            done += 1
            row = log.add(done, terms)
            if row and done % 400 == 0:
                say(began, f"rnn {done} loss {row['loss']:.4f} restart {row['restart']:.4f} {row['seconds_per_step'] * 1e3:.1f} ms, "
                    f"{len(latents.episodes)} episodes")  # fmt: skip
            if done == plan.rnn_steps or time.monotonic() - began > plan.rnn_until:
                break
        epochs += 1
    count = {"episodes": len(latents.episodes), "frames": sum(episode.length for episode in latents.episodes)}
    meta = {"z_size": z, "units": units, "mixtures": MIXTURES, "restart": True, "steps": done, "epochs": epochs} | count
    params = save(out, "rnn", params, meta)
    say(began, f"rnn done: {done} steps, {epochs} epochs, {count['episodes']} episodes, {count['frames']} frames")
    return params
