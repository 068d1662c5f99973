"""Dreams of many C's side by side, and the evolutions that play in them."""

from __future__ import annotations

import functools
import json
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from controller.tools.doom_jax.models import Params, act, dream_step
from controller.tools.doom_jax.plan import Plan, say

BLOCK = 60  # steps of all dreams between two looks at which have ended


def dream_block(limit: int) -> Any:
    """BLOCK steps of all lanes; state: z, h, c, restart, length, alive."""

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
        self._p, self._mu, self._deviation = jax.device_put(p), initial[0], np.exp(initial[1] / 2)
        self._sizes, self._plan, self._block = sizes, plan, block
        self._units = p["output/kernel"].shape[0]

    def play(self, params: np.ndarray, tau: np.ndarray, seed: int) -> np.ndarray:
        """A dream for each row of parameters [n, size], at temperature tau [n] -> lengths [n]."""

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
    names = [plan.name(i) for i in members]
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
