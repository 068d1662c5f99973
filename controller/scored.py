"""Who is scored: an agent of a run, the one that comes with the project, the authors' own, or a policy without skill."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from env.random_policy import ConstantPolicy, random_player
from env.rollout import Player
from env.run.errors import UserError
from env.run.files import REPOSITORY
from env.run.settings import Settings
from env.run.weights import comes_along, controller_path, fingerprint, fingerprints, is_shipped, model_paths, run_of
from env.tasks import Task, as_shipped

if TYPE_CHECKING:
    from controller.simulate import Simulator


@dataclass
class Scored:
    """Who is scored.

    Attributes:
        player: plays the real world.
        settings: with which it plays.
        source: where it came from.
        fingerprints: those of V, M and C.
        policy: whether it is one without skill.
        dream: plays in M's dreams, with `params`; None where that is not asked for.
        temperature: of these dreams.
    """

    player: Player
    settings: Settings
    source: str
    fingerprints: dict[str, str] = field(default_factory=dict)
    policy: bool = False
    dream: Simulator | None = None
    params: np.ndarray | None = None
    temperature: float = 1.0


def at_temperature(settings: Settings, temperature: float | None) -> Settings:
    """The settings with another temperature of dreams; as they are where that is None."""
    if temperature is None:
        return settings
    return dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, temperature=temperature))


def build_scored(parsed: argparse.Namespace, task: Task, run: Path, settings: Settings) -> Scored:
    """The agent or the policy to score. What it needs in the dream is looked for before the real world is played."""
    settings = dataclasses.replace(settings, world=dataclasses.replace(settings.world, render=settings.evaluate.render))
    if parsed.dtype:
        settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, dtype=parsed.dtype))
    if parsed.policy == "constant":
        return constant_policy(parsed.action, task, settings, parsed.temperature)
    if parsed.policy:
        player = random_player(parsed.policy, task, settings.vae.z_size)
        return Scored(player, settings, f"{parsed.policy} policy", policy=True)
    if parsed.original:
        return original_agent(parsed.original, task, settings)
    from controller.agent import load_agent
    from controller.simulate import dream_simulator

    weights = controller_path(task.name, run, parsed.run is not None, parsed.weights, parsed.shipped)
    if comes_along(weights, task.name) and not weights.resolve().is_relative_to(run.resolve()):
        its = run_of(weights, task.name).relative_to(REPOSITORY)
        raise UserError(f"{weights} plays on a V and M of its own: give --run {its}, too")
    agent, settings = load_agent(task, settings, run, weights, parsed.latents)
    inside = weights.resolve().is_relative_to(REPOSITORY)
    source = str(weights.resolve().relative_to(REPOSITORY) if inside else weights)
    models = None if is_shipped(weights, task.name) else run
    dreamt = at_temperature(settings, parsed.temperature)  # C's own stays in the settings: the paper's row is found by it
    dream = dream_simulator(task, dreamt, models) if settings.evaluate.dream_episodes else None
    made_of = fingerprints(model_paths(task.name, models)) | {"controller": fingerprint(weights)}
    return Scored(agent, settings, source, made_of, dream=dream, params=agent.candidates[0], temperature=dreamt.controller.temperature)


def constant_policy(words: str | None, task: Task, settings: Settings, temperature: float | None) -> Scored:
    """The same action at each step, in the world and in the dream of the shipped M."""
    try:
        action = np.array([float(word) for word in (words or "").split(",")], np.float32)
    except ValueError:
        action = np.zeros(0, np.float32)
    if action.shape != (task.actions.size,) or not np.isfinite(action).all():
        raise UserError(f"--action is {words}: --policy constant needs {task.actions.size} numbers with commas, such as --action=-1")
    scored = Scored(ConstantPolicy(action), settings, f"always {words}", policy=True, params=action)
    if settings.evaluate.dream_episodes:
        from controller.simulate import constant_simulator

        if settings.world.repeat != 1:
            raise UserError("--repeat: the shipped M, whose dream this is, knows of no held actions: take --dream-episodes 0")
        scored.settings = as_shipped(settings, task)
        dreamt = at_temperature(scored.settings, temperature)
        scored.dream, scored.temperature = constant_simulator(task, dreamt), dreamt.controller.temperature
        scored.fingerprints = fingerprints(model_paths(task.name, None))
    return scored


def original_agent(folder: Path, task: Task, settings: Settings) -> Scored:
    """The authors' agent, with their frame processing."""
    from controller.agent import make_agent
    from controller.tools.original import load_original_controller, load_original_rnn, load_original_vae, original_paths
    from rnn.memory import make_memory
    from vae.vae import ConvVAE

    paper, world = task.scales["paper"], dataclasses.replace(settings.world, frames="original", repeat=1)
    settings = dataclasses.replace(paper, seed=settings.seed, evaluate=settings.evaluate, world=world)
    vae, memory = ConvVAE(paper.vae.z_size), make_memory(task, settings, "float32")
    agent = make_agent(task, settings, vae, memory)
    params = load_original_controller(folder / "log", agent.policy.size)
    paths = original_paths(folder)
    load_original_rnn(paths.rnn, memory)
    load_original_vae(paths.vae, vae)
    agent.set_candidates(params[None])
    return Scored(agent, settings, str(folder))
