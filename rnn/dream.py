"""The dream: M in the place of the world (paper 4; original doomrnn/doomrnn.py, DoomCoverRNNEnv).

An episode starts from the latent vector of a recorded first frame. At each step M invents the next one, at a temperature, and
ends the episode when it holds the agent for dead. `Dream` is one dream as a gymnasium world, to look at and to play;
`DreamLanes` are many side by side within the compiled graph, for the evolution of C. An episode's seed decides its start and
all its noise, so that both dream the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from env.files import load_arrays
from env.settings import UserError
from rnn.rnn import MDNRNN, State, feature_size, features
from vae.vae import ConvVAE

BLOCK = 25  # steps of all lanes between two looks at which have ended
WIDTH = 16  # lanes come in multiples of this, so that a lane's numbers do not depend on how many there are

Act = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


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


class Dream(gymnasium.Env):
    """One dream as a gymnasium world.

    Observations: what C sees of M's state, float32 [F]. Actions: float32 [A], as M was trained on. `render()` gives z decoded
    by V, uint8 [64, 64, 3]. An episode is truncated after max_steps.

    Args:
        vae, rnn: V and M.
        beginnings: where it starts.
        feature_names: what is observed, see rnn/rnn.py.
        temperature: tau > 0.
        max_steps: the longest dream.
        action_low, action_high: bounds of the action, [A].
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}

    def __init__(
        self,
        vae: ConvVAE,
        rnn: MDNRNN,
        beginnings: Beginnings,
        feature_names: str,
        temperature: float,
        max_steps: int,
        action_low: Sequence[float],
        action_high: Sequence[float],
    ) -> None:
        self.render_mode = "rgb_array"
        self.temperature = temperature
        self._rnn, self._beginnings, self._feature_names, self._max_steps = rnn, beginnings, feature_names, max_steps
        self._imagine, self._decode = tf.function(rnn.imagine), tf.function(vae.decode)
        size = feature_size(feature_names, rnn.z_size, rnn.units)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = spaces.Box(np.array(action_low, np.float32), np.array(action_high, np.float32), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._rng = dream_rng(int(self.np_random.integers(2**31)) if seed is None else seed)
        self._state = self._rnn.initial(tf.constant(self._beginnings.sample(self._rng)[None]))
        self._steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action is {action}: this dream needs finite numbers of shape {self.action_space.shape}")
        noise = self._rng.standard_normal((1, self._rnn.noise_size), np.float32)
        temperature = tf.constant(self.temperature, tf.float32)
        self._state, reward, done = self._imagine(self._state, tf.constant(action[None]), temperature, tf.constant(noise))
        self._steps += 1
        return self._observe(), float(reward[0]), bool(done[0]), self._steps >= self._max_steps, {}

    @property
    def state(self) -> State:
        """M's state, of one lane."""
        return self._state

    def _observe(self) -> np.ndarray:
        return features(self._state, self._feature_names).numpy()[0]

    def render(self) -> Any:
        return np.rint(self._decode(self._state.z).numpy()[0] * 255).astype(np.uint8)


class Job(Protocol):
    """One dream to dream: which parameter vector acts in it, and its seed."""

    @property
    def candidate(self) -> int: ...

    @property
    def seed(self) -> int: ...


class Result(NamedTuple):
    """A dream that has ended: its job, the sum of its rewards, and its length in steps."""

    job: Any  # as it was given
    score: float
    length: int


class DreamLanes:
    """Many dreams side by side, wholly within the graph, each acted in by a parameter vector of its own.

    A lane whose dream has ended takes the next job; when there are no more, the rest is gathered in fewer lanes. What happens
    in a dream depends on its job alone, not on its lane or on the number of lanes.

    Args:
        rnn: M.
        beginnings: where dreams start.
        act: C: parameters [B, size] and features [B, F] -> M's action [B, A].
        feature_names: what C sees, see rnn/rnn.py.
        temperature: tau > 0.
        max_steps: the longest dream.
        lanes: how many at most, rounded up to a multiple of WIDTH.
    """

    def __init__(
        self, rnn: MDNRNN, beginnings: Beginnings, act: Act, feature_names: str, temperature: float, max_steps: int, lanes: int
    ) -> None:
        self._rnn, self._beginnings, self._act = rnn, beginnings, act
        self._feature_names, self._max_steps = feature_names, max_steps
        self._temperature, self._lanes = tf.constant(temperature, tf.float32), lanes
        self._compiled = tf.function(self._block, reduce_retracing=True)

    def play(self, candidates: np.ndarray, jobs: Sequence[Job]) -> Iterator[Result]:
        """Dream all jobs and yield each result, soon after it has ended.

        Args:
            candidates: the parameter vectors [n, size] that jobs name.
            jobs: what to dream.
        """
        size = -(-min(self._lanes, max(1, len(jobs))) // WIDTH) * WIDTH
        table = _Table(size, self._rnn, self._beginnings)
        parameters, queue = tf.constant(candidates, tf.float32), iter(jobs)
        state = self._rnn.initial(tf.zeros((size, self._rnn.z_size)))
        table.refill(queue)
        while table.busy.any():
            state = table.start(state)
            noise, chosen = tf.constant(table.noise()), tf.constant(table.candidate)
            left = tf.constant(np.where(table.busy, self._max_steps - table.length, 0), tf.int32)
            state, reward, steps, alive = self._compiled(parameters, chosen, state, noise, left)
            yield from table.advance(reward.numpy(), steps.numpy(), alive.numpy())
            table.refill(queue)
            half = table.size // 2 // WIDTH * WIDTH
            while half and table.busy.sum() <= half:
                state = table.gather(state, half)
                half = half // 2 // WIDTH * WIDTH

    def _block(
        self, parameters: tf.Tensor, chosen: tf.Tensor, state: State, noise: tf.Tensor, left: tf.Tensor
    ) -> tuple[State, tf.Tensor, tf.Tensor, tf.Tensor]:
        """BLOCK steps of all lanes, of which each has `left` steps to its limit.

        Returns:
            The state; the sum of rewards and the number of steps of each lane while it was alive; and whether it still is.
        """
        own = tf.gather(parameters, chosen)
        lanes = tf.shape(left)[0]

        def step(t: tf.Tensor, state: State, reward: tf.Tensor, steps: tf.Tensor, alive: tf.Tensor) -> tuple:
            action = self._act(own, features(state, self._feature_names))
            state, gain, done = self._rnn.imagine(state, action, self._temperature, noise[t])
            reward += tf.where(alive, gain, 0.0)
            steps += tf.cast(alive, tf.int32)
            return t + 1, state, reward, steps, alive & ~done & (steps < left)

        start = (tf.constant(0), state, tf.zeros((lanes,)), tf.zeros((lanes,), tf.int32), left > 0)
        return tf.while_loop(lambda t, *_: t < BLOCK, step, start, maximum_iterations=BLOCK)[1:]


class _Table:
    """Which job each lane is in, and how far it is."""

    def __init__(self, size: int, rnn: MDNRNN, beginnings: Beginnings) -> None:
        self.size, self._rnn, self._beginnings = size, rnn, beginnings
        self.jobs: list[Job | None] = [None] * size
        self._rngs: list[np.random.Generator | None] = [None] * size
        self.candidate = np.zeros(size, np.int32)
        self.length, self.score = np.zeros(size, np.int64), np.zeros(size)
        self.busy = np.zeros(size, bool)
        self._fresh: dict[int, np.ndarray] = {}  # the first z of lanes that begin

    def refill(self, queue: Iterator[Job]) -> None:
        """Give free lanes the next jobs."""
        for lane in np.flatnonzero(~self.busy):
            job = next(queue, None)
            if job is None:
                return
            rng = dream_rng(job.seed)
            self.jobs[lane], self._rngs[lane], self.candidate[lane] = job, rng, job.candidate
            self.length[lane] = self.score[lane] = 0
            self.busy[lane] = True
            self._fresh[int(lane)] = self._beginnings.sample(rng)

    def start(self, state: State) -> State:
        """The state, set to the beginning in the lanes that begin."""
        if not self._fresh:
            return state
        lanes = np.array(list(self._fresh))[:, None]
        first = self._rnn.initial(tf.constant(np.stack(list(self._fresh.values()))))
        self._fresh = {}
        return State(*(tf.tensor_scatter_nd_update(now, lanes, new) for now, new in zip(state, first)))

    def noise(self) -> np.ndarray:
        """The next BLOCK steps' noise of all lanes, each from its own job's generator: float32 [BLOCK, size, noise_size]."""
        noise = np.zeros((self.size, BLOCK, self._rnn.noise_size), np.float32)
        for lane in np.flatnonzero(self.busy):
            rng = self._rngs[lane]
            assert rng is not None
            rng.standard_normal(out=noise[lane], dtype=np.float32)
        return np.ascontiguousarray(noise.transpose(1, 0, 2))

    def advance(self, reward: np.ndarray, steps: np.ndarray, alive: np.ndarray) -> Iterator[Result]:
        """Count a block, and yield the dreams that ended in it."""
        self.score += reward
        self.length += steps
        for lane in np.flatnonzero(self.busy & ~alive):
            self.busy[lane] = False
            yield Result(self.jobs[lane], float(self.score[lane]), int(self.length[lane]))

    def gather(self, state: State, size: int) -> State:
        """Move the busy lanes, `size` at most, to the front, and forget all lanes beyond."""
        order = np.argsort(~self.busy, kind="stable")[:size]
        place = {int(lane): new for new, lane in enumerate(order)}
        self._fresh = {place[lane]: z for lane, z in self._fresh.items()}
        self.size = size
        self.jobs, self._rngs = [self.jobs[i] for i in order], [self._rngs[i] for i in order]
        self.candidate, self.length, self.score = self.candidate[order], self.length[order], self.score[order]
        self.busy = self.busy[order]
        return State(*(tf.gather(part, order) for part in state))
