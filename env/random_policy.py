"""The random policies that record the training data, each a Player with one slot (see env/rollout.py).

random: the original's for CarRacing, its agent with random weights.
hold: the original's for Doom, an action held for 1 to 10 steps.
varied: the same with longest holds from 1 to LONGEST_HOLD, another in each episode. Who holds for 10 steps at most hardly ever
    stands at a wall for long, and M then dreams that no fireball comes there.
uniform: a new action each step, the random player that the paper's table of Doom names.

`Exploring` lets a trained agent play, and mixes held random actions in.

In `random` the original gives V, M and C fresh weights for each episode, standard Cauchy times s with s uniform in [0, 0.01] (original
carracing/model.py, init_random_model_params). The functions that put them into V and M, however, divide by 10,000, because
they expect the integers of its weight files (vae/vae.py and rnn/rnn.py, set_model_params). With weights of that size V's mu
and logvar and M's h are nearly zero, so z is plain N(0, 1) noise and the action is C's answer to noise: tanh(W z + b). (Cauchy's tails
leave a largest |h| of .001 to .45 in an episode, which moves the action by .018 at most: measured in six episodes.) This module computes
just that; tests/test_agent.py runs the full agent with such weights beside it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from env.rollout import Job, Player, episode_rng
from env.run.errors import UserError
from env.tasks import Task

LARGEST_SCALE = 0.01
LONGEST_HOLD = 300


def random_parameters(size: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Parameters for C, standard Cauchy times s, and the s that was drawn: float32 [size], float."""
    scale = float(rng.uniform(0, LARGEST_SCALE))
    return (rng.standard_cauchy(size) * scale).astype(np.float32), scale


class RandomPolicy:
    """The original's random agent in one slot (a Player, see env/rollout.py).

    Args:
        task: the game.
        z_size: size of z.
    """

    slots = 1

    def __init__(self, task: Task, z_size: int) -> None:
        self._task, self._z_size = task, z_size

    def begin(self, slot: int, job: Job) -> None:
        self._rng = episode_rng(job.seed)
        outputs = self._task.actions.size
        params, _ = random_parameters((self._z_size + 1) * outputs, self._rng)
        self._bias, self._weights = params[:outputs], params[outputs:].reshape(self._z_size, outputs)

    def act(self, frames: np.ndarray) -> np.ndarray:
        z = self._rng.standard_normal(self._z_size, np.float32)
        y = np.tanh(z @ self._weights + self._bias)
        return self._task.actions.of_outputs(y)[None]


class HoldPolicy:
    """An action uniform in tanh's range, held until the step is a multiple of a number that is drawn with it, 1..10
    (original doomrnn/extract.py).

    Args:
        task: the game.
        longest: 10, or 1 for a new action at each step.
        varied: draw the longest hold for each episode from 1 to `longest`, with a uniform logarithm.
    """

    slots = 1

    def __init__(self, task: Task, longest: int = 10, varied: bool = False) -> None:
        self._task, self._most, self._varied = task, longest, varied

    def begin(self, slot: int, job: Job) -> None:
        self._rng = episode_rng(job.seed)
        self._longest = round(float(np.exp(self._rng.uniform(0, np.log(self._most))))) if self._varied else self._most
        self._step, self._repeat = 0, self._rng.integers(1, self._longest, endpoint=True)

    def act(self, frames: np.ndarray) -> np.ndarray:
        if self._step % self._repeat == 0:
            self._y = self._rng.uniform(-1, 1, self._task.actions.size).astype(np.float32)
            self._repeat = self._rng.integers(1, self._longest, endpoint=True)
        self._step += 1
        return self._task.actions.of_outputs(self._y)[None]


class ConstantPolicy:
    """The same action at each step.

    Args:
        action: float32 [A].
    """

    slots = 1

    def __init__(self, action: np.ndarray) -> None:
        self._action = action

    def begin(self, slot: int, job: Job) -> None:
        pass

    def act(self, frames: np.ndarray) -> np.ndarray:
        return self._action[None]


class ToldPlayer(Player, Protocol):
    """A player that can be told that something else was done than it said."""

    def acted(self, actions: np.ndarray) -> None:
        """What was done instead, float32 [slots, A]."""


class Exploring:
    """A trained agent that now and then does something else: an action uniform in tanh's range, held for 1 to LONGEST steps.

    Where it always does what it would do, recordings show M no other way, and nothing of what lies beside it. The share of the time
    that is spent so is drawn for each episode, so that some are played with all skill and others mostly without.

    Args:
        player: the agent.
        task: the game.
        share: the largest share, below 1.
    """

    LONGEST = 10

    def __init__(self, player: ToldPlayer, task: Task, share: float) -> None:
        self.slots, self._player, self._task, self._share = player.slots, player, task, share
        self.sees_privileged = getattr(player, "sees_privileged", False)
        self._rngs: dict[int, np.random.Generator] = {}
        self._begins = np.zeros(player.slots)  # the probability at each step that it does something else from now on
        self._left = np.zeros(player.slots, np.int64)  # steps for which it still does
        self._held = np.zeros((player.slots, task.actions.size), np.float32)

    def begin(self, slot: int, job: Job) -> None:
        self._player.begin(slot, job)
        self._rngs[slot] = rng = np.random.default_rng((job.seed, 3))  # another stream than world's and agent's
        share, hold = rng.uniform(0, self._share), (1 + self.LONGEST) / 2
        self._begins[slot], self._left[slot] = share / (share + (1.0 - share) * hold), 0

    def act(self, observations: np.ndarray) -> np.ndarray:
        actions = np.array(self._player.act(observations))
        for slot, rng in self._rngs.items():
            if not self._left[slot] and rng.random() < self._begins[slot]:
                self._left[slot] = rng.integers(1, self.LONGEST, endpoint=True)
                self._held[slot] = self._task.actions.of_outputs(rng.uniform(-1, 1, self._task.actions.size).astype(np.float32))
            if self._left[slot]:
                self._left[slot] -= 1
                actions[slot] = self._held[slot]
        self._player.acted(actions)
        return actions


def random_player(name: str, task: Task, z_size: int) -> Player:
    """The random policy called `name`.

    Raises:
        UserError: there is none of that name.
    """
    if name == "random":
        return RandomPolicy(task, z_size)
    if name == "varied":
        return HoldPolicy(task, LONGEST_HOLD, varied=True)
    if name in ("hold", "uniform"):
        return HoldPolicy(task, 10 if name == "hold" else 1)
    raise UserError(f"there is no random policy '{name}': choose random, hold, varied or uniform")
