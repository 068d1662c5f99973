"""The actor in the real world: what an actor-critic collects there to learn from (controller/learning.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from env.episodes import Episode, episode_path, write_episode
from env.rollout import Job, Pulse, Purpose, WorldLanes, Worlds, episode_seed, rollout
from env.run.rundir import Run
from env.run.weights import vae_path
from env.tasks import Task
from vae.encode import latents_of, make_encoder

if TYPE_CHECKING:
    from controller.actor_critic import ActorCritic
    from rnn.memory import Memory
    from vae.vae import ConvVAE


class Play:
    """The actor in the real world, between trainings.

    Args:
        run, task: whose episodes are played.
        memory, learner, vae: M, the actor and V, with the weights that they have at the moment.
    """

    def __init__(self, run: Run, task: Task, memory: Memory, learner: ActorCritic, vae: ConvVAE) -> None:
        self._settings, self._folder, self._task = run.settings, run.path / "controller" / "played", task
        self._memory, self._learner, self._vae = memory, learner, vae
        self._worlds = Worlds.of(task, run.settings.world)
        self._lanes: WorldLanes | None = None
        # Episodes as they are kept, and what of them is learned from.
        self._keep: Callable[[Episode], Episode] = lambda episode: episode
        if not run.settings.sees_pixels:
            encode = make_encoder(vae_path(run.path), run.settings.vae.z_size)
            self._keep = lambda episode: latents_of(encode, episode)

    def _open(self) -> WorldLanes:
        """Where it is played, with V as it is now; kept as long as V stays as it is."""
        from controller.agent import Agent

        if self._lanes is None or self._settings.sees_pixels:
            policy, c = self._learner.actor.policy, self._settings.controller
            slots, longest = self._settings.actor_critic.round_episodes, self._settings.world.steps()
            actor, mean = self._learner.actor, c.latents == "mean"
            player = Agent(self._task.actions, self._vae, self._memory, policy, c.features, slots, longest, actor, mean)
            self._lanes = WorldLanes(self._worlds, player, record=True)
        return self._lanes

    def path(self, number: int) -> Path:
        """The file of the episode that is played as the `number`th."""
        return episode_path(self._folder, number)

    def round(self, number: int, pulse: Pulse) -> tuple[list[float], int]:
        """Play round `number` and keep its episodes; returns their scores and how many steps they had."""
        count = self._settings.actor_critic.round_episodes
        numbers = range(number * count, (number + 1) * count)
        jobs = [Job(i, 0, episode_seed(self._settings.seed, Purpose.TRAINING, 0, 0, i)) for i in numbers]
        scores, steps = [], 0
        for result in rollout(self._open(), jobs, pulse):
            assert result.episode is not None
            write_episode(self.path(result.job.index), self._keep(result.episode), compress=self._settings.sees_pixels)
            scores.append(result.score)
            steps += result.length
        return scores, steps
