"""The dream: M in the place of the world (paper 4; original doomrnn/doomrnn.py, DoomCoverRNNEnv).

An episode starts from the latent vector of a recorded first frame. At each step M invents the next one, at a temperature, and
ends the episode when it holds the agent for dead. `Dream` is one dream as a gymnasium world, to look at and to play;
`DreamLanes` are many side by side within the compiled graph, for the evolution of C, played by the same loop (env/rollout.py). An
episode's seed decides its start and all its noise, so that both dream the same. Any memory can dream (rnn/memory.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from env.actions import Actions
from env.rollout import Job, Result
from env.run.errors import UserError
from env.run.files import load_arrays
from rnn.memory import Memory, State
from vae.vae import ConvVAE

BLOCK = 25  # steps of all lanes between two looks at which have ended
# Lanes come in multiples of this, so that a lane's numbers do not depend on its place or on how many there are: products take 6 rows
# at a time with AVX2, 16 with AVX-512 (env/run/compute.py, steady_sizes).
WIDTH = 48

Act = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class Beginnings:
    """V's posterior of recorded first frames: where dreams start.

    Args:
        mu, logvar: float [n, z_size].
    """

    def __init__(self, mu: np.ndarray, logvar: np.ndarray) -> None:
        self._mu, self._deviation = mu.astype(np.float32), np.exp(logvar.astype(np.float32) / 2)

    @staticmethod
    def load(path: Path, z_size: int) -> Beginnings:
        """From an initial.npz by vae/encode.py.

        Raises:
            UserError: the file is missing, damaged, or of another z size.
        """
        arrays, _ = load_arrays(path)
        if not {"mu", "logvar"} <= set(arrays) or arrays["mu"].shape[1:] != (z_size,):
            raise UserError(f"{path} holds no first frames of z size {z_size}: run vae/encode.py again")
        return Beginnings(arrays["mu"], arrays["logvar"])

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A first z, float32 [z_size]."""
        chosen = rng.integers(len(self._mu))
        return self._mu[chosen] + self._deviation[chosen] * rng.standard_normal(self._mu.shape[1], np.float32)


def dream_rng(seed: int) -> np.random.Generator:
    """What decides all of a dream: another stream than those of the real world's episode of the same seed."""
    return np.random.default_rng((seed, 2))


def acting_rng(seed: int) -> np.random.Generator:
    """What decides the actions that are drawn in a dream."""
    return np.random.default_rng((seed, 3))


class Dream(gymnasium.Env):
    """One dream as a gymnasium world.

    Observations: what C sees of M's state, float32 [F]. Actions: float32 [A], as M was trained on. `render()` gives z decoded
    by V, uint8 [64, 64, 3]. An episode is truncated after max_steps.

    Args:
        vae, memory: V and M.
        beginnings: where it starts.
        feature_names: what is observed, see Memory.features.
        temperature: tau > 0.
        max_steps: the longest dream.
        actions: the game's.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}

    def __init__(
        self,
        vae: ConvVAE,
        memory: Memory,
        beginnings: Beginnings,
        feature_names: str,
        temperature: float,
        max_steps: int,
        actions: Actions,
    ) -> None:
        self.render_mode = "rgb_array"
        self.temperature = temperature
        self._memory, self._beginnings, self._feature_names, self._max_steps = memory, beginnings, feature_names, max_steps
        self._imagine, self._decode = tf.function(memory.imagine), tf.function(vae.decode)
        self.observation_space = spaces.Box(-np.inf, np.inf, (memory.feature_size(feature_names),), np.float32)
        self.action_space = spaces.Box(np.array(actions.low, np.float32), np.array(actions.high, np.float32), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._rng = dream_rng(int(self.np_random.integers(2**31)) if seed is None else seed)
        first = self._beginnings.sample(self._rng)
        noise = self._rng.standard_normal(self._memory.initial_noise, np.float32)
        self._states = self._memory.initial(_alike(first), _alike(noise))
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action is {action}: this dream needs finite numbers of shape {self.action_space.shape}")
        noise = self._rng.standard_normal(self._memory.imagine_noise, np.float32)
        temperature = tf.constant(self.temperature, tf.float32)
        self._states, reward, _, over = self._imagine(self._states, _alike(action), temperature, _alike(noise))
        self._steps += 1
        return self._observe(), float(reward[0]), bool(over[0]), self._steps >= self._max_steps, {}

    @property
    def state(self) -> State:
        """M's state, a nest of tensors [1, ...]."""
        return tf.nest.map_structure(lambda part: part[:1], self._states)

    def _observe(self) -> np.ndarray:
        return self._memory.features(self.state, self._feature_names).numpy()[0]

    def render(self) -> Any:
        return np.rint(self._decode(self._memory.latent(self.state)).numpy()[0] * 255).astype(np.uint8)


def _alike(row: np.ndarray) -> tf.Tensor:
    """WIDTH times the same row: the one dream is computed as lanes are, and so to the same bits."""
    return tf.constant(np.repeat(row[None], WIDTH, axis=0))


class DreamLanes:
    """Many dreams side by side, wholly within the graph, each acted in by a parameter vector of its own (Lanes, see env/rollout.py).

    A lane whose dream has ended takes the next job; when there are no more, the rest is gathered in fewer lanes. What happens
    in a dream depends on its job alone, not on its lane or on the number of lanes.

    Args:
        memory: M.
        beginnings: where dreams start.
        act: C: parameters [B, size], features [B, F] and standard normal numbers [B, acting] -> M's action [B, A].
        feature_names: what C sees, see Memory.features.
        temperature: tau > 0.
        max_steps: the longest dream.
        lanes: how many at most, rounded up to a multiple of WIDTH.
        acting: standard normal numbers that an action takes.
    """

    def __init__(
        self,
        memory: Memory,
        beginnings: Beginnings,
        act: Act,
        feature_names: str,
        temperature: float,
        max_steps: int,
        lanes: int,
        acting: int = 0,
    ) -> None:
        self._memory, self._beginnings, self._act = memory, beginnings, act
        self._feature_names, self._max_steps = feature_names, max_steps
        self._temperature, self._lanes, self._acting = tf.constant(temperature, tf.float32), lanes, acting
        self._compiled = tf.function(self._block, reduce_retracing=True)
        self._parameters = tf.zeros((0, 0))

    def set_candidates(self, candidates: np.ndarray) -> None:
        """The parameter vectors [n, size] that jobs name by `candidate`."""
        self._parameters = tf.constant(candidates, tf.float32)

    def open(self, jobs: int) -> None:
        size = -(-min(self._lanes, max(1, jobs)) // WIDTH) * WIDTH
        self._jobs: list[Job | None] = [None] * size
        self._rngs: list[tuple[np.random.Generator, np.random.Generator] | None] = [None] * size
        self._candidate = np.zeros(size, np.int32)
        self._length, self._score = np.zeros(size, np.int64), np.zeros(size)
        self._alive = np.zeros(size, bool)
        self._fresh: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of lanes that begin: the first z, and noise for M's start
        self._state = self._memory.initial(tf.zeros((size, self._memory.z_size)), tf.zeros((size, self._memory.initial_noise)))

    def free(self) -> list[int]:
        return [int(lane) for lane in np.flatnonzero(~self._alive)]

    def begin(self, lane: int, job: Job) -> None:
        rng = dream_rng(job.seed)
        self._jobs[lane], self._rngs[lane], self._candidate[lane] = job, (rng, acting_rng(job.seed)), job.candidate
        self._length[lane] = self._score[lane] = 0
        self._alive[lane] = True
        first = self._beginnings.sample(rng)
        self._fresh[lane] = first, rng.standard_normal(self._memory.initial_noise, np.float32)

    def busy(self) -> bool:
        return bool(self._alive.any())

    def advance(self) -> Iterator[Result]:
        """BLOCK steps of all lanes."""
        self._gather()
        self._start()
        left = tf.constant(np.where(self._alive, self._max_steps - self._length, 0), tf.int32)
        noise, chosen = tf.constant(self._noise()), tf.constant(self._candidate)
        self._state, reward, steps, alive = self._compiled(self._parameters, chosen, self._state, noise, left)
        self._score += reward.numpy()
        self._length += steps.numpy()
        ended = np.flatnonzero(self._alive & ~alive.numpy())
        self._alive[ended] = False
        for lane in ended:
            job = self._jobs[lane]
            assert job is not None
            yield Result(job, float(self._score[lane]), int(self._length[lane]))

    def _block(
        self, parameters: tf.Tensor, chosen: tf.Tensor, state: State, noise: tf.Tensor, left: tf.Tensor
    ) -> tuple[State, tf.Tensor, tf.Tensor, tf.Tensor]:
        """BLOCK steps of all lanes, of which each has `left` steps to its limit.

        Returns:
            The state; the sum of rewards and the number of steps of each lane while it was alive; and whether it still is.
        """
        own = tf.gather(parameters, chosen)
        lanes = tf.shape(left)[0]
        noise, drawing = tf.split(noise, [self._memory.imagine_noise, self._acting], axis=2)

        def step(t: tf.Tensor, state: State, reward: tf.Tensor, steps: tf.Tensor, alive: tf.Tensor) -> tuple:
            action = self._act(own, self._memory.features(state, self._feature_names), drawing[t])
            state, gain, _, over = self._memory.imagine(state, action, self._temperature, noise[t])
            reward += tf.where(alive, gain, 0.0)
            steps += tf.cast(alive, tf.int32)
            return t + 1, state, reward, steps, alive & ~over & (steps < left)

        start = (tf.constant(0), state, tf.zeros((lanes,)), tf.zeros((lanes,), tf.int32), left > 0)
        return tf.while_loop(lambda t, *_: t < BLOCK, step, start, maximum_iterations=BLOCK)[1:]

    def _start(self) -> None:
        """Set M's state to the beginning in the lanes that begin."""
        if not self._fresh:
            return
        lanes = np.array(list(self._fresh))[:, None]
        first, noise = (tf.constant(np.stack(parts)) for parts in zip(*self._fresh.values()))
        begun = self._memory.initial(first, noise)
        self._fresh = {}
        self._state = tf.nest.map_structure(lambda now, new: tf.tensor_scatter_nd_update(now, lanes, new), self._state, begun)

    def _noise(self) -> np.ndarray:
        """The next BLOCK steps' noise of all lanes, each from its own job's generators: float32 [BLOCK, size, imagine_noise + acting]."""
        parts = [np.zeros((len(self._jobs), BLOCK, size), np.float32) for size in (self._memory.imagine_noise, self._acting)]
        for lane in np.flatnonzero(self._alive):
            for rng, part in zip(self._rngs[lane] or (), parts):
                rng.standard_normal(out=part[lane], dtype=np.float32)
        return np.concatenate([part.transpose(1, 0, 2) for part in parts], axis=2)

    def _gather(self) -> None:
        """While at most half of the lanes are busy, move those to the front, and forget the other half."""
        size, busy = len(self._jobs), int(self._alive.sum())
        while size // 2 // WIDTH * WIDTH >= max(busy, 1):
            size = size // 2 // WIDTH * WIDTH
        if size == len(self._jobs):
            return
        order = np.argsort(~self._alive, kind="stable")[:size]
        place = {int(lane): new for new, lane in enumerate(order)}
        self._fresh = {place[lane]: parts for lane, parts in self._fresh.items()}
        self._jobs, self._rngs = [self._jobs[i] for i in order], [self._rngs[i] for i in order]
        self._candidate, self._length, self._score = self._candidate[order], self._length[order], self._score[order]
        self._alive = self._alive[order]
        self._state = tf.nest.map_structure(lambda part: tf.gather(part, order), self._state)
