"""The trained agent as a library: its world, its dream, its V and M, in one value (controller/README.md, "As a library")."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gymnasium
import numpy as np

from controller.agent import Agent, load_agent
from controller.simulate import Dreamer, make_dream
from env.rollout import Job, make_world
from env.run.rundir import saved_settings
from env.run.settings import Settings
from env.run.weights import controller_path
from env.tasks import Task, get_task
from rnn.memory import Memory
from vae.vae import ConvVAE


class Game:
    """A trained agent, and what it knows and plays.

    Attributes:
        task, settings: the game, and how the agent plays it.
        agent: V, M and C in one slot.
        vae, memory: V and M.
        world: the real game, a gymnasium environment: frames uint8 [64, 64, 3], actions float32 [A].
    """

    def __init__(self, task: Task, settings: Settings, agent: Agent, run: Path | None) -> None:
        self.task, self.settings, self.agent = task, settings, agent
        self.vae: ConvVAE = agent.vae
        self.memory: Memory = agent.memory
        self.world: gymnasium.Env = make_world(task, settings.world, render_mode="rgb_array")
        self._run = run
        self._dreamer: Dreamer | None = None

    def begin(self, seed: int) -> np.ndarray:
        """Start an episode of the real game, decided by its seed: the first frame, uint8 [64, 64, 3]."""
        self.agent.begin(0, Job(0, 0, seed))
        frame, _ = self.world.reset(seed=seed)
        return frame

    def act(self, frame: np.ndarray) -> np.ndarray:
        """The agent's action for the frame, float32 [A]; each frame of an episode is to be shown once, in order."""
        return self.agent.act(frame[None])[0]

    def dream(self, temperature: float | None = None) -> gymnasium.Env:
        """M's dream of the game, a gymnasium environment, too: it shows what C sees of M, float32 [F]; `render()` what V makes of it.

        Args:
            temperature: tau > 0; None for that at which C was evolved.
        """
        c = self.settings.controller
        c = dataclasses.replace(c, temperature=c.temperature if temperature is None else temperature)
        dream, policy = make_dream(self.task, dataclasses.replace(self.settings, controller=c), self._run)
        self._dreamer = Dreamer(policy, self.task.actions, self.agent.candidates[0])
        return dream

    def dream_act(self, seen: np.ndarray) -> np.ndarray:
        """C's action in the dream that `dream` made last, float32 [A]."""
        if self._dreamer is None:
            raise RuntimeError("there is no dream yet: call dream() first")
        return self._dreamer.act(seen[None])[0]


def load(task: str, run: str | Path | None = None) -> Game:
    """The agent that comes with the project, or a run's.

    Args:
        task: the game's name, or the .py file of a game of one's own.
        run: a run's directory; None for the shipped agent.

    Raises:
        UserError: there is no such game, run or agent; the message says what to do.
    """
    game = get_task(task)
    path = Path(run) if run else Path()
    weights = controller_path(game.name, path, run is not None, use_shipped=run is None)
    settings = saved_settings(path) if run else None
    settings = settings or game.scales["paper"]
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, slots=1))
    agent, settings = load_agent(game, settings, path, weights)
    return Game(game, settings, agent, Path(run) if run else None)
