"""A teacher: a C that sees what a world tells in training alone, such as where CarRacing's road goes, in the place of frames.

No V and no M are needed for it, and, where a world tells that undrawn, no picture, so that it is evolved in a small part of an agent's
time (`controller.features privileged`). It is no agent, for no player is told such things: it records games (`extract.agent`), and shows
an agent's C what to do (`controller.teacher`, controller/imitate.py): "learning by cheating" (Chen et al. 2019).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from controller.policy import Policy
from env.episodes import PRIVILEGED
from env.rollout import Job, episode_rng
from env.run.settings import Settings
from env.tasks import Task


def numbers(privileged: np.ndarray, marks: int) -> np.ndarray:
    """The numbers that the answers, uint8 [..., K], are marks of: float32 [..., K / marks], each between -1 and 1, 0 for its middle one."""
    counts = privileged.reshape(*privileged.shape[:-1], -1, marks).sum(axis=-1, dtype=np.float32)
    return 2.0 * counts / marks - 1.0


def told_features(privileged: np.ndarray, marks: int) -> np.ndarray:
    """What a teacher sees of the answers, uint8 [..., K]: the numbers, and how large each is, float32 [..., 2 K / marks]. A linear C could
    not slow down for bends to either side by the numbers alone."""
    seen = numbers(privileged, marks)
    return np.concatenate([seen, np.abs(seen)], axis=-1)


class Teacher:
    """Plays `slots` episodes side by side by what is privileged (a Player, see env/rollout.py).

    Args:
        task, settings: the game, and the settings of C.
    """

    sees_privileged = True

    def __init__(self, task: Task, settings: Settings) -> None:
        c = settings.controller
        self.slots, self._actions, self._marks = c.slots, task.actions, task.privileged_marks
        self._noise, self._longest = c.privileged_noise / task.privileged_marks * 2.0, settings.world.max_steps
        self._numbers = task.privileged // task.privileged_marks
        self.policy = Policy(2 * self._numbers, task.actions.size, c.hidden, c.bias)
        self.candidates = np.zeros((1, self.policy.size), np.float32)
        self._params = np.zeros((self.slots, self.policy.size), np.float32)
        self._rngs = [np.random.default_rng(0) for _ in range(self.slots)]
        self._compiled = tf.function(self.policy.act)

    def set_candidates(self, candidates: np.ndarray) -> None:
        """The parameter vectors [n, size] that jobs name by `candidate`."""
        self.candidates = np.asarray(candidates, np.float32)

    def begin(self, slot: int, job: Job) -> None:
        self._params[slot], self._rngs[slot] = self.candidates[job.candidate], episode_rng(job.seed)

    def act(self, observations: np.ndarray) -> np.ndarray:
        seen = numbers(observations, self._marks)
        if self._noise:
            seen = seen + self._noise * np.stack([rng.standard_normal(self._numbers, np.float32) for rng in self._rngs])
        features = np.concatenate([seen, np.abs(seen)], axis=-1).astype(np.float32)
        return self._actions.of_outputs(self._compiled(self._params, features).numpy())

    def acted(self, actions: np.ndarray) -> None:
        """It remembers nothing, so that what was done instead does not matter."""


def is_told(settings: Settings) -> bool:
    """Whether C is a teacher."""
    return settings.controller.features == PRIVILEGED
