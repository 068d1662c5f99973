"""Where candidates are tried: in the real world, or in M's dream. To the trainer both are one function, candidates and jobs ->
results (the original's function of this name: train.py, model.py, simulate)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from controller.agent import load_models, make_agent, make_policy
from controller.policy import Policy
from controller.told import Teacher, is_told
from env.actions import Actions
from env.random_policy import Exploring
from env.rollout import Job, Pulse, Result, Watch, WorldLanes, Worlds, rollout, silent
from env.run.settings import Settings
from env.run.weights import model_paths
from env.tasks import Task
from rnn.dream import Act, Beginnings, Dream, DreamLanes, acting_rng
from rnn.memory import Memory, load_memory
from vae.vae import load_vae


class Simulate(Protocol):
    """Lets candidates play."""

    def __call__(self, candidates: np.ndarray, jobs: Sequence[Job], pulse: Pulse = silent) -> Iterator[Result]:
        """Parameter vectors [n, size], and the jobs that name them -> results; `pulse` as in env/rollout.py."""


class Simulator(NamedTuple):
    """Plays episodes for the trainer.

    Attributes:
        play: see Simulate.
        size: parameters of a candidate.
    """

    play: Simulate
    size: int


def real_simulator(task: Task, settings: Settings, run: Path | None, watch: Watch | None = None) -> Simulator:
    """Plays in the real world with V and M by `model_paths`, with random actions mixed in where controller.explore says so: the same in
    an episode, whoever plays it."""
    c = settings.controller
    agent = Teacher(task, settings) if is_told(settings) else make_agent(task, settings, *load_models(task, settings, run))
    bonus = (lambda: c.curiosity * agent.surprise()) if c.curiosity else None
    player = Exploring(agent, task, c.explore) if c.explore else agent
    lanes = WorldLanes(Worlds.of(task, settings.world), player, watch=watch, bonus=bonus)

    def play(candidates: np.ndarray, jobs: Sequence[Job], pulse: Pulse = silent) -> Iterator[Result]:
        agent.set_candidates(candidates)
        return rollout(lanes, jobs, pulse)

    return Simulator(play, agent.policy.size)


def make_act(policy: Policy, actions: Actions) -> Act:
    """C as dreams ask it: parameters [B, size], what it sees, features [B, F], and what its actions are drawn by, standard normal
    [B, policy.noise] -> actions [B, A]."""

    def act(params: tf.Tensor, features: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        return actions.of_outputs(policy.act(params, features, noise))

    return act


def dream_lanes(task: Task, settings: Settings, memory: Memory, beginnings: Beginnings) -> DreamLanes:
    """Lanes of the dreams of `memory`, acted in by the settings' C."""
    c, policy = settings.controller, make_policy(task, settings, memory)
    act = make_act(policy, task.actions)
    return DreamLanes(memory, beginnings, act, c.features, c.temperature, settings.dream_steps, c.lanes, policy.noise)


def play_lanes(lanes: DreamLanes, candidates: np.ndarray, jobs: Sequence[Job], pulse: Pulse = silent) -> Iterator[Result]:
    """The jobs' dreams, acted in by the parameter vectors [n, size] that they name."""
    lanes.set_candidates(candidates)
    return rollout(lanes, jobs, pulse)


def dream_simulator(task: Task, settings: Settings, run: Path | None) -> Simulator:
    """Dreams with M by `model_paths`, at the settings' temperature.

    Raises:
        UserError: as `model_paths`, weights that do not fit the settings, or no first frames to start from.
    """
    paths = model_paths(task.name, run)
    memory = load_memory(paths.rnn, task, settings, settings.controller.dtype)
    lanes = dream_lanes(task, settings, memory, Beginnings.load(paths.initial, settings.vae.z_size))
    return Simulator(partial(play_lanes, lanes), make_policy(task, settings, memory).size)


def constant_simulator(task: Task, settings: Settings) -> Simulator:
    """Dreams with the shipped M in which a candidate is an action, float [A], taken at each step: who has no skill should live as
    long in the dream as in the game."""
    paths, c = model_paths(task.name, None), settings.controller
    memory = load_memory(paths.rnn, task, settings, c.dtype)
    beginnings = Beginnings.load(paths.initial, settings.vae.z_size)
    lanes = DreamLanes(memory, beginnings, lambda action, *_: action, c.features, c.temperature, settings.dream_steps, c.lanes)
    return Simulator(partial(play_lanes, lanes), task.actions.size)


def make_simulator(task: Task, settings: Settings, run: Path | None) -> Simulator:
    """The one that `controller.world` names."""
    makers = {"real": real_simulator, "dream": dream_simulator}
    return makers[settings.controller.world](task, settings, run)


class Dreamer:
    """C in one dream that is a gymnasium world (a Player, see env/rollout.py).

    Args:
        policy: C's shape.
        actions: the game's.
        params: C's parameters, float32 [size].
    """

    slots = 1

    def __init__(self, policy: Policy, actions: Actions, params: np.ndarray) -> None:
        self._act, self._params, self._noise = tf.function(make_act(policy, actions)), tf.constant(params[None]), policy.noise
        self.begin(0, Job(0, 0, 0))

    def begin(self, slot: int, job: Job) -> None:
        self._rng = acting_rng(job.seed)

    def act(self, observations: np.ndarray) -> np.ndarray:
        noise = self._rng.standard_normal((1, self._noise), np.float32)
        return self._act(self._params, tf.constant(observations), tf.constant(noise)).numpy()


def make_dream(task: Task, settings: Settings, run: Path | None) -> tuple[Dream, Policy]:
    """One dream as a gymnasium world, at the settings' temperature, and the shape of the settings' C for it.

    Raises:
        UserError: as `dream_simulator`.
    """
    paths, c = model_paths(task.name, run), settings.controller
    vae = load_vae(paths.vae, settings.vae.z_size)
    beginnings = Beginnings.load(paths.initial, settings.vae.z_size)
    memory = load_memory(paths.rnn, task, settings, c.dtype)
    dream = Dream(vae, memory, beginnings, c.features, c.temperature, settings.dream_steps, task.actions)
    return dream, make_policy(task, settings, memory)
