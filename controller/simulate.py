"""Where candidates are tried: in the real world, or in M's dream. To the trainer both are one function, candidates and jobs ->
results (the original's function of this name: train.py, model.py, simulate)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from controller.agent import load_models, make_agent, make_policy
from controller.policy import to_action
from controller.rollout import Job, Worlds, rollout
from controller.weights import model_paths
from env.tasks import Settings, Task
from rnn.dream import Act, Beginnings, Dream, DreamLanes
from rnn.rnn import MDNRNN, load_rnn
from vae.vae import load_vae


class Outcome(Protocol):
    """A played episode: its job, the sum of its rewards, and its length in steps."""

    @property
    def job(self) -> Any: ...

    @property
    def score(self) -> float: ...

    @property
    def length(self) -> int: ...


Simulator = Callable[[np.ndarray, Sequence[Job]], Iterator[Outcome]]


def real_simulator(task: Task, settings: Settings, run: Path | None) -> Simulator:
    """Plays in the real world with V and M by `model_paths`."""
    worlds = Worlds(task, settings.world)
    agent = make_agent(task, settings, *load_models(task, settings, run))

    def simulate(candidates: np.ndarray, jobs: Sequence[Job]) -> Iterator[Outcome]:
        agent.set_candidates(candidates)
        return rollout(worlds, agent, jobs)

    return simulate


def make_act(task: Task, settings: Settings) -> Act:
    """The settings' C as dreams ask it: parameters [B, size] and what it sees, features [B, F] -> actions [B, A]."""
    policy = make_policy(task, settings)

    def act(params: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        return to_action(task, policy.act(params, features), tf.clip_by_value)

    return act


def dream_lanes(task: Task, settings: Settings, rnn: MDNRNN, beginnings: Beginnings) -> DreamLanes:
    """Lanes of the dreams of `rnn`, acted in by the settings' C."""
    c = settings.controller
    return DreamLanes(rnn, beginnings, make_act(task, settings), c.features, c.temperature, c.dream_steps, c.lanes)


def dream_simulator(task: Task, settings: Settings, run: Path | None) -> Simulator:
    """Dreams with M by `model_paths`, at the settings' temperature.

    Raises:
        UserError: as `model_paths`, weights that do not fit the settings, or no first frames to start from.
    """
    paths = model_paths(task, run)
    rnn = load_rnn(paths.rnn, task, settings, settings.controller.dtype)
    return dream_lanes(task, settings, rnn, Beginnings.load(paths.initial, settings.vae.z_size)).play


def make_simulator(task: Task, settings: Settings, run: Path | None) -> Simulator:
    """The one that `controller.world` names."""
    makers = {"real": real_simulator, "dream": dream_simulator}
    return makers[settings.controller.world](task, settings, run)


def make_dream(task: Task, settings: Settings, run: Path | None) -> Dream:
    """One dream as a gymnasium world, at the settings' temperature.

    Raises:
        UserError: as `dream_simulator`.
    """
    paths, c = model_paths(task, run), settings.controller
    vae = load_vae(paths.vae, settings.vae.z_size)
    beginnings = Beginnings.load(paths.initial, settings.vae.z_size)
    rnn = load_rnn(paths.rnn, task, settings, c.dtype)
    return Dream(vae, rnn, beginnings, c.features, c.temperature, c.dream_steps, task.action_low, task.action_high)
