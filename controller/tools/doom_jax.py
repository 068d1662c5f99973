"""The paper's whole Doom table on one GPU where there is JAX but no TensorFlow: recordings, V, M, and a C for each temperature and seed.

    python controller/tools/doom_jax.py OUT --seconds 572
    python controller/tools/doom_jax.py OUT --lay-out RUN
    python controller/tools/doom_jax.py OUT --smoke

How the run in `controller/shipped/doom/table` was made, kept so that such a one can be made again; nothing else of the project uses it, and
JAX is none of its requirements. Games, random policy, seeds and CMA-ES are the project's own modules. The equations of V, M and dreams
(vae/vae.py, rnn/rnn.py, rnn/dream.py) are written down once more, in JAX; tests/test_doom_jax.py holds them to the originals: losses,
gradients, a dream's steps. What is not the same as in `bash run.sh doom`:

- The clock decides how far each part gets: what is not recorded, learned or evolved in its span of time is left out.
- V learns while the recording goes on, each batch drawn at random from all frames that there are by then. M begins with the episodes that
  there are when V is done, and takes up the others from epoch to epoch.
- M has 8,000 steps instead of 24,400, and its learning rate falls by 0.9997 a step instead of 0.99999.
- A candidate dreams 8 times instead of 16, from noise of its own: candidates share none. Scorings of the mean are of 256 new dreams each
  time, so that the best of them is flattering.
- Products are computed in TF32 where the GPU has it; M learns from latents in single precision.
- V and M are rounded to half precision (as controller/ship.py does) before what follows learns from them.

Writes to OUT: vae/ and rnn/ (weights.npz and log.jsonl), initial.npz, facts.json (sizes, times, what was recorded), and for each C
means.npz (the distribution's mean at every scoring) and log.jsonl. With --lay-out, writes them as a run that verify.py and evaluate.py
read, without JAX.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported; each evolution has a core

import argparse
import functools
import json
import mmap
import multiprocessing
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from env.run.errors import UserError
from env.run.files import JsonlLog, load_arrays, read_json, save_arrays, write_json
from env.run.settings import Settings
from env.tasks import get_task

Params = dict[str, Any]
FRAME = (64, 64, 3)
BYTES = 64 * 64 * 3
MIXTURES = 5


class Plan(NamedTuple):
    """The sizes of a run, all times in seconds from its start.

    Attributes:
        episodes, most_frames: to record, and the room for them.
        record_until, vae_until, rnn_until, until: when each part ends at the latest.
        rnn_steps: training steps of M.
        rows, window: M's batch.
        decay: of M's learning rate, a step.
        temperatures, seeds: an evolution for each pair.
        population, dreams, generations, scored: of CMA-ES; every 25 generations the mean solution is scored over `scored` dreams.
        steps: the longest dream.
        workers: processes that record, and then keep an evolution each.
    """

    episodes: int = 10_000
    most_frames: int = 3_500_000
    record_until: float = 240
    vae_until: float = 100
    vae_batches: int = 100
    rnn_until: float = 265
    until: float = 560
    rnn_steps: int = 8_000
    rows: int = 100
    window: int = 500
    decay: float = 0.9997
    temperatures: tuple[float, ...] = (0.1, 0.5, 1.0, 1.15, 1.3)
    seeds: tuple[int, ...] = (1, 2, 3)
    population: int = 64
    dreams: int = 8
    generations: int = 300
    scored: int = 256
    steps: int = 2100
    workers: int = 15

    @property
    def settings(self) -> Settings:
        """The settings of a run that come closest to it."""
        paper = get_task("doom").scales["paper"]
        rnn = replace(paper.rnn, steps=self.rnn_steps, batch=self.rows, window=self.window, decay=self.decay)
        c = replace(paper.controller, population=self.population, episodes=self.dreams, sharing=1, generations=self.generations)
        c = replace(c, eval_every=25, eval_episodes=self.scored, dream_steps=self.steps, device="gpu")
        return replace(paper, rnn=rnn, controller=c)

    @property
    def evolutions(self) -> list[tuple[float, int]]:
        return [(temperature, seed) for seed in self.seeds for temperature in self.temperatures]


SMOKE = Plan(
    episodes=6, most_frames=6_000, record_until=100, vae_until=50, vae_batches=1, rnn_until=120, until=240, rnn_steps=6, rows=4, window=50,
    temperatures=(0.5, 1.15), seeds=(1,), population=8, dreams=2, generations=3, scored=4, steps=200, workers=2,
)  # fmt: skip


def say(began: float, words: str) -> None:
    print(f"{time.monotonic() - began:6.1f} {words}", flush=True)


# --- recording and CMA-ES: the project's own, in processes that never see the GPU ---


class Frames:
    """All recorded frames in memory that processes share: uint8 [most, 64, 64, 3], actions float32 [most]; and how many there are."""

    def __init__(self, most: int) -> None:
        self.obs = np.frombuffer(mmap.mmap(-1, most * BYTES), np.uint8).reshape(most, *FRAME)
        self.action = np.frombuffer(mmap.mmap(-1, most * 4), np.float32)
        self.taken = multiprocessing.Value("q", 0)
        self.next = multiprocessing.Value("q", 0)

    def put(self, obs: np.ndarray, action: np.ndarray) -> int:
        """Copy an episode; returns the place of its first frame, or -1 where there is no room."""
        with self.taken.get_lock():
            place = self.taken.value
            if place + len(action) > len(self.obs):
                return -1
            self.taken.value = place + len(action)
        self.obs[place : place + len(action)] = obs[: len(action)]
        self.action[place : place + len(action)] = action[:, 0]
        return int(place)


def record(frames: Frames, pipe: Connection, plan: Plan, settings: Settings, began: float) -> None:
    """Record episodes until there are enough, or time is up; tell of each (number, place, length, whether it ended by death)."""
    from env.random_policy import random_player
    from env.rollout import Job, Purpose, WorldLanes, Worlds, episode_seed, rollout

    task = get_task("doom")
    worlds = Worlds.of(task, settings.world)
    lanes = WorldLanes(worlds, random_player(settings.extract.policy, task, settings.vae.z_size), record=True, past_done=False)
    while time.monotonic() - began < plan.record_until:
        with frames.next.get_lock():
            number, frames.next.value = frames.next.value, frames.next.value + 1
        if number >= plan.episodes:
            break
        for attempt in range(100):
            again = (attempt,) if attempt else ()
            (result,) = rollout(lanes, [Job(number, 0, episode_seed(settings.seed, Purpose.RECORDING, number, *again))])
            if result.length >= settings.extract.min_frames:
                break
        place = frames.put(result.episode["obs"], result.episode["action"])
        if place < 0:
            break
        pipe.send((number, place, result.length, bool(result.episode["done"][-1])))
    worlds.close()
    pipe.send(None)


def keep_evolution(pipe: Connection, plan: Plan, settings: Settings, seed: int, size: int) -> None:
    """CMA-ES: sends candidates, the mean and the step size; is told fitness, or None at the end."""
    from controller.es import ES

    es = ES(size, plan.population, settings.controller.sigma, settings.controller.l2, seed)
    while True:
        candidates = es.ask()
        pipe.send((candidates.astype(np.float32), np.round(es.mean, 4).astype(np.float32), es.sigma))
        fitness = pipe.recv()
        if fitness is None:
            return
        es.tell(candidates, fitness)


def work(number: int, frames: Frames, pipe: Connection, plan: Plan, settings: Settings, size: int, began: float) -> None:
    """A worker's life: it records, and then keeps an evolution, if there is one for it."""
    record(frames, pipe, plan, settings, began)
    if number < len(plan.evolutions):
        keep_evolution(pipe, plan, settings, plan.evolutions[number][1], size)


# --- the equations ---


def glorot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Glorot uniform as Keras has it; of a bias, too."""
    area = int(np.prod(shape[:-2]))
    fans = 2 * shape[0] if len(shape) == 1 else area * (shape[-2] + shape[-1])
    limit = np.sqrt(6 / fans)
    return rng.uniform(-limit, limit, shape).astype(np.float32)


def vae_shapes(z: int) -> dict[str, tuple[int, ...]]:
    kernels = {
        "enc_conv1": (4, 4, 3, 32), "enc_conv2": (4, 4, 32, 64), "enc_conv3": (4, 4, 64, 128), "enc_conv4": (4, 4, 128, 256),
        "enc_fc_mu": (1024, z), "enc_fc_log_var": (1024, z), "dec_fc": (z, 1024),
        "dec_deconv1": (5, 5, 128, 1024), "dec_deconv2": (5, 5, 64, 128), "dec_deconv3": (6, 6, 32, 64), "dec_deconv4": (6, 6, 3, 32),
    }  # fmt: skip
    return {f"conv_vae/{name}/kernel": shape for name, shape in kernels.items()}


def vae_init(rng: np.random.Generator, z: int) -> Params:
    params: Params = {}
    for name, shape in vae_shapes(z).items():
        params[name] = glorot(rng, shape)
        params[name.replace("kernel", "bias")] = np.zeros(shape[2] if "deconv" in name else shape[-1], np.float32)
    return params


def vae_encode(p: Params, frames: Any) -> tuple[Any, Any]:
    """uint8 [B, 64, 64, 3] -> mu, logvar."""
    import jax
    from jax import lax

    x = frames.astype(np.float32) / 255.0
    for i in range(1, 5):
        kernel, bias = p[f"conv_vae/enc_conv{i}/kernel"], p[f"conv_vae/enc_conv{i}/bias"]
        x = jax.nn.relu(lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias)
    x = x.reshape(len(x), -1)
    return tuple(x @ p[f"conv_vae/{name}/kernel"] + p[f"conv_vae/{name}/bias"] for name in ("enc_fc_mu", "enc_fc_log_var"))


def vae_decode(p: Params, z: Any) -> Any:
    import jax
    from jax import lax

    x = (z @ p["conv_vae/dec_fc/kernel"] + p["conv_vae/dec_fc/bias"]).reshape(-1, 1, 1, 1024)
    for i in range(1, 5):
        kernel, bias = p[f"conv_vae/dec_deconv{i}/kernel"], p[f"conv_vae/dec_deconv{i}/bias"]
        if i == 1:
            x = (x[:, 0, 0] @ kernel.reshape(-1, 1024).T).reshape(-1, *kernel.shape[:3]) + bias
        else:
            x = lax.conv_transpose(x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True) + bias
        x = jax.nn.relu(x) if i < 4 else jax.nn.sigmoid(x)
    return x


def vae_loss(p: Params, frames: Any, noise: Any, tolerance: float = 0.5) -> tuple[Any, dict[str, Any]]:
    import jax.numpy as jnp

    mu, logvar = vae_encode(p, frames)
    y = vae_decode(p, mu + jnp.exp(logvar / 2) * noise)
    reconstruction = jnp.mean(jnp.sum(jnp.square(frames.astype(np.float32) / 255.0 - y), axis=(1, 2, 3)))
    kl = -0.5 * jnp.sum(1 + logvar - jnp.square(mu) - jnp.exp(logvar), axis=1)
    kl = jnp.mean(jnp.maximum(kl, tolerance * mu.shape[1]))
    return reconstruction + kl, {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def adam(p: Params, g: Params, state: tuple[Params, Params], step: Any, rate: Any) -> tuple[Params, tuple[Params, Params]]:
    """TF1's Adam, epsilon 1e-8; `step` counts from 1."""
    import jax
    import jax.numpy as jnp

    m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state[0], g)
    v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, state[1], g)
    t = jnp.asarray(step, jnp.float32)
    rate = rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return jax.tree.map(lambda w, a, b: w - rate * a / (jnp.sqrt(b) + 1e-8), p, m, v), (m, v)


def rnn_init(rng: np.random.Generator, z: int, units: int) -> Params:
    outputs = 1 + 3 * MIXTURES * z
    shapes = {"lstm/kernel": (z + 2 + units, 4 * units), "lstm/bias": (4 * units,), "output/kernel": (units, outputs)}
    return {name: glorot(rng, shape) for name, shape in (shapes | {"output/bias": (outputs,)}).items()}


def cell(sums: Any, c: Any) -> tuple[Any, Any, Any]:
    import jax
    import jax.numpy as jnp

    i, j, f, o = jnp.split(sums, 4, axis=1)
    i, j, f, o = jax.nn.sigmoid(i), jnp.tanh(j), jax.nn.sigmoid(f + 1.0), jax.nn.sigmoid(o)
    c = c * f + i * j
    return jnp.tanh(c) * o, c, jnp.concatenate([i, j, f, o], axis=1)


def _lstm_forward(x_sums: Any, w: Any, h: Any, c: Any, keep: Any) -> tuple[Any, Any]:
    """x_sums [T, B, 4U] (inputs' part and bias), w [U, 4U], keep [T, B, 1] -> (every h, last c), what the gradient needs."""
    from jax import lax

    def step(carry: Any, now: Any) -> Any:
        (h, c), (sums, keep) = carry, now
        h, c = h * keep, c * keep
        new_h, new_c, gates = cell(sums + h @ w, c)
        return (new_h, new_c), (new_h, h, c, gates)

    (_, last_c), (every_h, h_before, c_before, gates) = lax.scan(step, (h, c), (x_sums, keep), unroll=4)
    return (every_h, last_c), (w, keep, h_before, c_before, gates)


def lstm(x_sums: Any, w: Any, h: Any, c: Any, keep: Any) -> tuple[Any, Any]:
    """The recurrence, whose kernel's gradient is one product over all steps (rnn/lstm.py, recur)."""
    import jax

    return _LSTM(jax)(x_sums, w, h, c, keep)


@functools.cache
def _LSTM(jax: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    run = jax.custom_vjp(lambda *args: _lstm_forward(*args)[0])

    def backward(saved: Any, given: Any) -> Any:
        w, keep, h_before, c_before, gates = saved
        d_every_h, d_c = given

        def step(carry: Any, now: Any) -> Any:
            (d_h, d_c), (d_output, keep, before, gates) = carry, now
            i, j, f, o = jnp.split(gates, 4, axis=1)
            tanh_c = jnp.tanh(before * f + i * j)
            d_h = d_h + d_output
            d_c = d_c + d_h * o * (1.0 - tanh_c * tanh_c)
            sums = [d_c * j * i * (1.0 - i), d_c * i * (1.0 - j * j), d_c * before * f * (1.0 - f), d_h * tanh_c * o * (1.0 - o)]
            d_sums = jnp.concatenate(sums, axis=1)
            return (keep * (d_sums @ w.T), keep * d_c * f), d_sums

        zero = jnp.zeros_like(d_c)
        (d_h, d_c), d_sums = lax.scan(step, (zero, d_c), (d_every_h, keep, c_before, gates), reverse=True, unroll=4)
        d_w = jnp.einsum("tbu,tbg->ug", h_before, d_sums)
        return d_sums, d_w, d_h, d_c, jnp.zeros_like(keep)

    run.defvjp(_lstm_forward, backward)
    return run


def mixture_parts(output: Any, z: int) -> tuple[Any, Any, Any]:
    import jax.numpy as jnp

    parts = output.reshape(*output.shape[:-1], z, 3, MIXTURES)
    return tuple(jnp.squeeze(part, -2) for part in jnp.split(parts, 3, axis=-2))


def rnn_loss(p: Params, z: Any, action: Any, first: Any, died: Any, h: Any, c: Any, weight: float = 10.0) -> tuple[Any, Any]:
    """z [B, T, Z], action, first (1 at an episode's first frame), died (1 at an episode's last frame if it ended by death) [B, T]."""
    import jax
    import jax.numpy as jnp

    size, units = z.shape[-1], h.shape[1]
    x = jnp.concatenate([z, action[..., None], first[..., None]], axis=-1).transpose(1, 0, 2)[:-1]
    kernel = p["lstm/kernel"]
    every_h, c = lstm(x @ kernel[:-units] + p["lstm/bias"], kernel[-units:], h, c, 1.0 - first.T[:-1, :, None])
    flat = every_h.reshape(-1, units)
    logit = flat @ p["output/kernel"][:, 0] + p["output/bias"][0]
    logits, mean, log_std = mixture_parts(flat @ p["output/kernel"][:, 1:] + p["output/bias"][1:], size)
    wanted = z.transpose(1, 0, 2)[1:].reshape(-1, size, 1)
    normal = -0.5 * jnp.square((wanted - mean) * jnp.exp(-log_std)) - log_std - 0.5 * np.log(2 * np.pi)
    z_loss = -jnp.mean(jax.nn.logsumexp(jax.nn.log_softmax(logits) + normal, axis=-1))
    target, ended = first.T[1:].reshape(-1), died.T[:-1].reshape(-1)
    w = (1.0 + (weight - 1.0) * target) * (1.0 - target * (1.0 - ended))
    cross = jnp.maximum(logit, 0) - logit * target + jnp.log1p(jnp.exp(-jnp.abs(logit)))
    restart = jnp.mean(w * cross)
    return z_loss + restart, ({"loss": z_loss + restart, "z": z_loss, "restart": restart}, (every_h[-1], c))


def dream_step(p: Params, z: Any, h: Any, c: Any, restart: Any, action: Any, tau: Any, choice: Any, noise: Any) -> tuple[Any, ...]:
    """One imagined step of B dreams (rnn/rnn.py, imagine): choice uniform, noise normal [B, Z], tau [B] -> z, h, c, logit of death."""
    import jax.numpy as jnp

    x = jnp.concatenate([z, action, restart, h], axis=1)
    h, c, _ = cell(x @ p["lstm/kernel"] + p["lstm/bias"], c)
    output = h @ p["output/kernel"] + p["output/bias"]
    logits, mean, log_std = mixture_parts(output[:, 1:], z.shape[1])
    tau = tau[:, None]
    weights = jnp.exp((logits - jnp.max(logits, axis=-1, keepdims=True)) / tau[..., None])
    heights = jnp.cumsum(weights, axis=-1)
    picked = jnp.sum(choice[..., None] * heights[..., -1:] > heights[..., :-1], axis=-1, keepdims=True)
    chosen = picked == jnp.arange(MIXTURES)
    mean, log_std = (jnp.sum(jnp.where(chosen, part, 0.0), axis=-1) for part in (mean, log_std))
    return mean + jnp.exp(log_std) * jnp.sqrt(tau) * noise, h, c, output[:, 0]


# --- training ---


def half(params: Params) -> Params:
    """Rounded as the project ships weights."""
    from controller.ship import small

    return {name: small(name, np.asarray(array)).astype(np.float32) for name, array in params.items()}


class Log:
    """Rows of means over some steps, as the project's logs have them."""

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every, self._sums, self._count, self._began = path, every, {}, 0, time.monotonic()  # type: ignore[var-annotated]
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, step: int, terms: dict[str, Any], count: int = 1) -> dict[str, float] | None:
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


class Recorded:
    """What the workers told of: episodes' numbers, places, lengths, deaths; and how many frames are whole from the start on."""

    def __init__(self, pipes: list[Connection]) -> None:
        self.episodes: list[tuple[int, int, int, bool]] = []
        self._open, self._lock = list(pipes), threading.Lock()

    @property
    def going_on(self) -> bool:
        return bool(self._open)

    def look(self) -> list[tuple[int, int, int, bool]]:
        """All episodes that are whole by now."""
        with self._lock:
            for pipe in list(self._open):
                while pipe in self._open and pipe.poll():
                    row = pipe.recv()
                    self._open.remove(pipe) if row is None else self.episodes.append(row)
            return list(self.episodes)


def train_vae(frames: Frames, recorded: Recorded, plan: Plan, z: int, out: Path, began: float) -> Params:
    import jax
    import jax.numpy as jnp
    from jax import lax

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
    params = half({name: np.asarray(array) for name, array in params.items()})
    meta = {"model": "vae", "task": "doom", "z_size": z, "steps": done}
    save_arrays(out / "vae" / "weights.npz", {name: array.astype(np.float16) for name, array in params.items()}, meta, compress=9)
    say(began, f"vae done: {done} steps")
    return params


def ahead(source: Iterator[Any], most: int) -> Iterator[Any]:
    """The items of `source`, made ahead of time in a thread."""
    from queue import Queue

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
        import jax
        import jax.numpy as jnp
        from jax import lax

        self._vae, self._frames, self._recorded = jax.device_put(vae), frames, recorded
        self.values = jnp.zeros((most + self.CHUNK, 2 * z), jnp.float32)
        self.action, self.first, self.died = (np.zeros(most, np.float32) for _ in range(3))
        self.episodes: list[tuple[int, int, int, bool]] = []

        @functools.partial(jax.jit, donate_argnums=0)
        def put(values: Any, vae: Params, frames: Any, place: Any) -> Any:
            return lax.dynamic_update_slice(values, jnp.concatenate(vae_encode(vae, frames), axis=1), (place, 0))

        self._put = put

    def look(self) -> int:
        """Encode what came since; returns how many episodes there are."""
        import jax.numpy as jnp

        new = self._recorded.look()[len(self.episodes) :]
        if new:
            places = np.concatenate([np.arange(place, place + length) for _, place, length, _ in new])
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


def train_rnn(latents: Latents, recorded: Recorded, plan: Plan, units: int, out: Path, began: float, compiled: Any) -> Params:
    import jax
    import jax.numpy as jnp

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
        stream = np.concatenate([np.arange(latents.episodes[i][1], latents.episodes[i][1] + latents.episodes[i][2]) for i in order])
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
    params = half({name: np.asarray(array) for name, array in params.items()})
    meta = {"model": "rnn", "task": "doom", "z_size": z, "units": units, "mixtures": MIXTURES, "restart": True, "steps": done}
    meta |= {"epochs": epochs, "episodes": len(latents.episodes), "frames": int(sum(e[2] for e in latents.episodes))}
    save_arrays(out / "rnn" / "weights.npz", {name: array.astype(np.float16) for name, array in params.items()}, meta, compress=9)
    say(began, f"rnn done: {done} steps, {epochs} epochs, {meta['episodes']} episodes, {meta['frames']} frames")
    return params


def rnn_step(plan: Plan, z: int) -> Any:
    """M's training step."""
    import jax
    import jax.numpy as jnp

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


# --- dreams ---

BLOCK = 60


def act(own: Any, z: Any, h: Any, c: Any) -> Any:
    """C of each lane [B, F] -> its action [B, 1]."""
    import jax.numpy as jnp

    return jnp.tanh(jnp.sum(own * jnp.concatenate([z, c, h], axis=1), axis=1, keepdims=True))


def dream_block(limit: int) -> Any:
    """BLOCK steps of all lanes; state: z, h, c, restart, length, alive."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    @functools.partial(jax.jit, donate_argnums=(3,))
    def block(p: Params, own: Any, tau: Any, state: Any, key: Any) -> Any:
        def one(state: Any, number: Any) -> Any:
            z, h, c, restart, length, alive = state
            action = act(own, z, h, c)
            draw, normal = jax.random.split(jax.random.fold_in(key, number))
            choice, noise = jax.random.uniform(draw, z.shape), jax.random.normal(normal, z.shape)
            z, h, c, logit = dream_step(p, z, h, c, restart, action, tau, choice, noise)
            length += alive
            alive = alive & (logit <= 0) & (length < limit)
            return (z, h, c, jnp.zeros_like(restart), length, alive), None

        return lax.scan(one, state, jnp.arange(BLOCK))[0]

    return block


class Dreams:
    """Dreams of many C's side by side."""

    def __init__(self, p: Params, initial: tuple[np.ndarray, np.ndarray], sizes: list[int], plan: Plan, block: Any) -> None:
        import jax

        self._p, self._mu, self._deviation = jax.device_put(p), initial[0], np.exp(initial[1] / 2)
        self._sizes, self._plan, self._block = sizes, plan, block
        self._units = p["output/kernel"].shape[0]

    def play(self, params: np.ndarray, tau: np.ndarray, seed: int) -> np.ndarray:
        """A dream for each row of parameters [n, size], at temperature tau [n] -> lengths [n]."""
        import jax
        import jax.numpy as jnp

        rng = np.random.default_rng(seed)
        n = len(params)
        chosen = rng.integers(len(self._mu), size=n)
        z = self._mu[chosen] + self._deviation[chosen] * rng.standard_normal((n, self._mu.shape[1])).astype(np.float32)
        size = min(size for size in self._sizes if size >= n)
        pad = size - n
        own = jnp.asarray(np.pad(params, ((0, pad), (0, 0))))
        taus = jnp.asarray(np.pad(tau.astype(np.float32), (0, pad), constant_values=1.0))
        alive = np.arange(size) < n
        zeros = jnp.zeros((size, self._units))
        state = (jnp.asarray(np.pad(z, ((0, pad), (0, 0)))), zeros, jnp.zeros_like(zeros), jnp.ones((size, 1)), jnp.zeros(size, jnp.int32),
                 jnp.asarray(alive))  # fmt: skip
        place, lengths, key = np.arange(size), np.zeros(size, np.int64), jax.random.key(seed)
        for number in range(-(-self._plan.steps // BLOCK)):
            state = self._block(self._p, own, taus, state, jax.random.fold_in(key, number))
            alive = np.asarray(state[5])
            lengths[place] = np.asarray(state[4])
            busy = int(alive.sum())
            if not busy:
                break
            smaller = min(size for size in self._sizes if size >= busy)
            if smaller < len(place):
                order = np.argsort(~alive, kind="stable")[:smaller]
                place = place[order]
                own, taus, *state = (part[order] for part in (own, taus, *state))
                state = tuple(state)
        return lengths[:n]


def evolve(dreams: Dreams, members: list[int], pipes: list[Connection], plan: Plan, out: Path, began: float) -> None:
    """A group of evolutions, side by side."""
    taus = np.array([plan.evolutions[i][0] for i in members])
    names = [f"tau-{plan.evolutions[i][0]:g}-seed-{plan.evolutions[i][1]}" for i in members]
    means: list[dict[str, np.ndarray]] = [{} for _ in members]
    rows: list[list[dict[str, Any]]] = [[] for _ in members]
    for generation in range(1, plan.generations + 1):
        started = time.monotonic()
        asked = [pipes[i].recv() for i in members]
        params = np.concatenate([np.repeat(candidates, plan.dreams, axis=0) for candidates, _, _ in asked])
        each = plan.population * plan.dreams
        lengths = dreams.play(params, np.repeat(taus, each), 1_000_000 * members[0] + 2 * generation)
        lengths = lengths.reshape(len(members), plan.population, plan.dreams)
        for k, i in enumerate(members):
            fitness = lengths[k].mean(axis=1)
            pipes[i].send(fitness)
            rows[k].append({"generation": generation, "mean": float(fitness.mean()), "min": float(fitness.min()),
                            "max": float(fitness.max()), "std": float(fitness.std()), "sigma": float(asked[k][2]),
                            "mean_length": float(lengths[k].mean()), "steps": int(lengths[k].sum()),
                            "seconds": time.monotonic() - started})  # fmt: skip
        last = generation == plan.generations or time.monotonic() - began > plan.until - 6
        if generation % 25 == 0 or last:
            # Of the distribution that this generation has led to.
            following = [pipes[i].recv() for i in members]
            params = np.concatenate([np.repeat(mean[None], plan.scored, axis=0) for _, mean, _ in following])
            scores = dreams.play(params, np.repeat(taus, plan.scored), 1_000_000 * members[0] + 2 * generation + 1)
            scores = scores.reshape(len(members), plan.scored)
            for k, i in enumerate(members):
                means[k][f"generation-{generation}"] = following[k][1]
                rows[k][-1] |= {"eval": float(scores[k].mean()), "eval_std": float(scores[k].std())}
                (out / names[k]).mkdir(parents=True, exist_ok=True)
                np.savez(out / names[k] / "means.npz", **means[k])
                (out / names[k] / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[k]))
            if generation % 50 == 0 or last:
                told = ", ".join(f"{name[4:]} {row[-1]['mean']:.0f} ({row[-1]['eval']:.0f})" for name, row in zip(names, rows))
                say(began, f"generation {generation}: {told}")
            if last:
                break
            for k, i in enumerate(members):  # what was received ahead is dreamt in the next generation
                pipes[i] = Ahead(following[k], pipes[i])  # type: ignore[call-overload]
    for i in members:
        pipes[i].send(None)


class Ahead:
    """A pipe from which something was received already."""

    def __init__(self, item: Any, pipe: Any) -> None:
        self._items, self._pipe = [item], pipe

    def recv(self) -> Any:
        return self._items.pop() if self._items else self._pipe.recv()

    def send(self, item: Any) -> None:
        self._pipe.send(item)


def compile_early(plan: Plan, z: int, units: int, sizes: list[int], ready: dict[str, Any], began: float) -> None:
    """Compile M's step and the dreams while V is being trained."""
    import jax
    import jax.numpy as jnp

    def spec(*shape: int, dtype: Any = np.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    params = {name: spec(*array.shape) for name, array in rnn_init(np.random.default_rng(0), z, units).items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = (plan.rows, plan.window)
    carried = spec(plan.rows, units), spec(plan.rows, units)
    ready["rnn"] = (
        rnn_step(plan, z)
        .lower(params, (params, params), spec(dtype=np.int32), spec(plan.most_frames + Latents.CHUNK, 2 * z), spec(*batch, dtype=np.int32),
               spec(3, *batch), *carried, key)  # fmt: skip
        .compile()
    )
    say(began, "M's step is compiled")
    block, size = dream_block(plan.steps), z + 2 * units
    for lanes in sizes:
        state = (spec(lanes, z), spec(lanes, units), spec(lanes, units), spec(lanes, 1), spec(lanes, dtype=jnp.int32),
                 spec(lanes, dtype=jnp.bool_))  # fmt: skip
        ready[f"dream {lanes}"] = block.lower(params, spec(lanes, size), spec(lanes), state, key).compile()
    say(began, "dreams are compiled")


def lay_out(out: Path, run: Path) -> None:
    """What this program wrote to `out`, as a run: V, M, first frames, and a study for each C, the mean solution that was best in dreams.
    A study's seconds are its share of those of all evolutions, which dream side by side.

    Raises:
        UserError: `out` lacks something, or `run` exists.
    """
    from controller.agent import save_controller
    from controller.results.studies import study_name

    if run.exists():
        raise UserError(f"{run} exists: name a new folder")
    facts = read_json(out / "facts.json")
    plan = Plan(**facts["plan"])
    steps = load_arrays(out / "vae" / "weights.npz")[1]["steps"]
    settings = plan.settings
    settings = replace(settings, extract=replace(settings.extract, episodes=facts["episodes"]))
    settings = replace(settings, vae=replace(settings.vae, epochs=1, limit_steps=steps))
    (run / "encode").mkdir(parents=True)
    write_json(run / "settings.json", settings.to_dict())
    write_json(run / "facts.json", facts)
    shutil.copyfile(out / "initial.npz", run / "encode" / "initial.npz")
    for floor in ("vae", "rnn"):
        (run / floor).mkdir()
        shutil.copyfile(out / floor / "weights.npz", run / floor / "weights.npz")
        JsonlLog(run / floor / "log.jsonl", rows=_rows(out / floor / "log.jsonl"))
    for temperature, seed in plan.evolutions:
        its = replace(settings, controller=replace(settings.controller, temperature=temperature, es_seed=seed))
        name = study_name(its.controller)
        rows, study = _rows(out / name / "log.jsonl"), run / "studies" / name
        best = max((row for row in rows if "eval" in row), key=lambda row: row["eval"])
        (study / "controller").mkdir(parents=True)
        write_json(study / "settings.json", its.to_dict())
        shared = [row | {"seconds": row["seconds"] / len(plan.evolutions)} for row in rows]
        JsonlLog(study / "controller" / "log.jsonl", rows=shared)
        with np.load(out / name / "means.npz", allow_pickle=False) as means:
            mean = means[f"generation-{best['generation']}"]
        note = {"generation": best["generation"], "score": best["eval"], "std": best["eval_std"], "episodes": plan.scored}
        save_controller(study / "controller" / "best.npz", mean, its, note | {"unplanned": False})


def _rows(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=Plan().until, help="when to stop")
    parser.add_argument("--smoke", action="store_true", help="everything in small")
    parser.add_argument("--quick", action="store_true", help="the real sizes of all arrays, but each part for some seconds only")
    parser.add_argument("--lay-out", type=Path, metavar="RUN", help="write what is in OUT as a run, and end")
    args = parser.parse_args()
    if args.lay_out:
        lay_out(args.out, args.lay_out)
        return
    plan = SMOKE if args.smoke else Plan(until=args.seconds)
    if args.quick:
        plan = plan._replace(episodes=600, record_until=25, vae_until=30, rnn_until=55, until=80, rnn_steps=300, generations=6)
    began = time.monotonic()
    settings = get_task("doom").scales["paper"]
    z, units = settings.vae.z_size, settings.rnn.units
    size = z + 2 * units
    frames = Frames(plan.most_frames)
    pipes, processes = [], []
    context = multiprocessing.get_context("fork")  # they share the frames' memory; JAX is imported only afterwards
    for number in range(plan.workers):
        ours, theirs = multiprocessing.Pipe()
        process = context.Process(target=work, args=(number, frames, theirs, plan, settings, size, began), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    recorded = Recorded(pipes)

    import jax

    say(began, f"devices {jax.devices()}")
    groups = 3 if len(plan.evolutions) > 3 else 1
    members = [list(range(len(plan.evolutions)))[i::groups] for i in range(groups)]
    full = len(members[0]) * plan.population * plan.dreams
    sizes = sorted({-(-full // part // 8) * 8 for part in (1, 2, 4, 8)} | {len(members[0]) * plan.scored})
    ready: dict[str, Any] = {}
    early = threading.Thread(target=compile_early, args=(plan, z, units, sizes, ready, began))
    early.start()
    vae = train_vae(frames, recorded, plan, z, args.out, began)
    early.join()
    latents = Latents(vae, frames, recorded, plan.most_frames, z)
    say(began, f"encoded {latents.look()} episodes")
    rnn = train_rnn(latents, recorded, plan, units, args.out, began, ready["rnn"])
    first = sorted(latents.episodes)[:1000]
    rows = np.asarray(latents.values[np.array([place for _, place, _, _ in first])])
    initial = rows[:, :z].astype(np.float16), rows[:, z:].astype(np.float16)
    save_arrays(args.out / "initial.npz", {"mu": initial[0], "logvar": initial[1]}, {}, compress=9)
    lengths = np.array([length for _, _, length, _ in latents.episodes])
    facts = {"episodes": len(lengths), "frames": int(lengths.sum())}
    facts |= {"mean_length": float(lengths.mean()), "std_length": float(lengths.std())}
    (args.out / "facts.json").write_text(json.dumps(facts | {"plan": plan._asdict(), "device": str(jax.devices()[0])}))
    while recorded.going_on:
        recorded.look()
        time.sleep(0.1)

    def block(p: Params, own: Any, tau: Any, state: Any, key: Any) -> Any:
        return ready[f"dream {len(own)}"](p, own, tau, state, key)

    beginnings = initial[0].astype(np.float32), initial[1].astype(np.float32)
    dreams = Dreams(rnn, beginnings, sizes, plan, block)
    threads = [threading.Thread(target=evolve, args=(dreams, group, pipes, plan, args.out, began)) for group in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.terminate()
    say(began, "done")


if __name__ == "__main__":
    main()
