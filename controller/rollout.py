"""The one rollout loop: several episodes side by side in slots that refill with the next job."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import gymnasium
import numpy as np

from env.episodes import Episode
from env.tasks import Task, World


@dataclass(frozen=True)
class Job:
    """One episode to play.

    Attributes:
        index: the caller's number for it.
        candidate: which parameter vector plays it.
        seed: decides everything random in it: the world, V's sampling, and a random policy's weights.
    """

    index: int
    candidate: int
    seed: int


@dataclass(frozen=True)
class Result:
    """A played episode: its job, the sum of its rewards, its length in steps, and its frames if they were recorded."""

    job: Job
    score: float
    length: int
    episode: Episode | None = None


class Player(Protocol):
    """Whoever drives: `slots` worlds at once."""

    slots: int

    def begin(self, slot: int, job: Job) -> None:
        """`slot` starts an episode: forget the last one."""

    def act(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [slots, 64, 64, 3] -> actions float32 [slots, A]. Slots without an episode get any answer."""


def episode_seed(*key: int) -> int:
    """A seed in [0, 2^31) from the run's seed and what the episode is, well mixed: equal on any number of processes."""
    return int(np.random.SeedSequence(key).generate_state(1)[0] & 0x7FFFFFFF)


def episode_rng(seed: int) -> np.random.Generator:
    """The player's generator for an episode: another stream than the one that the world draws from the same seed."""
    return np.random.default_rng((seed, 1))


def make_world(task: Task, world: World, render_mode: str | None = None) -> gymnasium.Env:
    """A world of the task, without gymnasium's per-step checks; its own checks of actions stay.

    Args:
        task, world: which world, and its settings.
        render_mode: gymnasium's, for those who call the world's render().
    """
    importlib.import_module(task.env_module)
    options = {"render": world.render, "frames": world.frames, "render_mode": render_mode}
    return gymnasium.make(task.env_id, max_episode_steps=world.max_steps, disable_env_checker=True, **options)


class Worlds:
    """The worlds that a process plays in, one for each slot: made when first needed, and kept from one rollout to the next.

    Making them anew for each generation would cost time, and memory too: a world is a cycle of references that holds
    megabytes, which Python frees late.

    Args:
        task, world: which world, and its settings.
    """

    def __init__(self, task: Task, world: World) -> None:
        self._task, self._world = task, world
        self._made: list[gymnasium.Env] = []

    def __getitem__(self, slot: int) -> gymnasium.Env:
        while len(self._made) <= slot:
            self._made.append(make_world(self._task, self._world))
        return self._made[slot]

    def close(self) -> None:
        """Close all of them."""
        while self._made:
            self._made.pop().close()


class _Slot:
    """A slot's world and the episode it is in."""

    def __init__(self, world: gymnasium.Env, job: Job, record: bool) -> None:
        self.world, self.job, self.record = world, job, record
        self.score, self.length = 0.0, 0
        self.rows: list[tuple] = []
        self.frame, _ = world.reset(seed=job.seed)

    def step(self, action: np.ndarray, past_done: bool) -> bool:
        """Take the action; returns whether the episode is over."""
        frame, reward, terminated, truncated, _ = self.world.step(action)
        if self.record:
            self.rows.append((self.frame, action.copy(), reward, terminated))
        self.frame = frame
        self.score += float(reward)
        self.length += 1
        return truncated or (terminated and not past_done)

    def result(self) -> Result:
        episode = None
        if self.record:
            obs, action, reward, done = zip(*self.rows)
            episode = {
                "obs": np.stack(obs),
                "action": np.stack(action).astype(np.float32),
                "reward": np.array(reward, np.float32),
                "done": np.array(done, bool),
            }
        return Result(self.job, self.score, self.length, episode)


def rollout(
    worlds: Worlds, player: Player, jobs: Iterable[Job], *, record: bool = False, past_done: bool = False
) -> Iterator[Result]:
    """Play all jobs and yield each result as its episode ends.

    A slot whose episode ended takes the next job at once. What happens in an episode depends on its job alone, not on the
    slot or on its neighbours.

    Args:
        worlds: where it is played.
        player: who drives.
        jobs: the episodes.
        record: whether results carry their frames.
        past_done: go on to the step limit when the world says done (the original's recording of CarRacing).
    """
    queue = iter(jobs)
    slots: dict[int, _Slot] = {}
    frames = np.zeros((player.slots, 64, 64, 3), np.uint8)

    def refill(number: int) -> None:
        job = next(queue, None)
        slots.pop(number, None)
        if job is not None:
            player.begin(number, job)
            slots[number] = _Slot(worlds[number], job, record)
            frames[number] = slots[number].frame

    for number in range(player.slots):
        refill(number)
    while slots:
        actions = player.act(frames)
        for number, slot in list(slots.items()):
            over = slot.step(actions[number], past_done)
            frames[number] = slot.frame
            if over:
                yield slot.result()
                refill(number)
