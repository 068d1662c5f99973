"""Recording and CMA-ES, both the project's own, in processes that never see the GPU."""

from __future__ import annotations

import mmap
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from controller.es import ES
from controller.tools.doom_jax.plan import Plan
from env.random_policy import random_player
from env.rollout import Job, Purpose, WorldLanes, Worlds, episode_seed, rollout
from env.run.settings import Settings
from env.tasks import get_task

FRAME = (64, 64, 3)
ATTEMPTS = 100  # at an episode that is long enough


class Episode(NamedTuple):
    """A recorded episode: its number, the place of its first frame, its frames, and whether it ended by death."""

    number: int
    place: int
    length: int
    died: bool


class Frames:
    """All recorded frames in memory that processes share: uint8 [most, 64, 64, 3], actions float32 [most]; and how many there are."""

    def __init__(self, most: int) -> None:
        self.obs = np.frombuffer(mmap.mmap(-1, most * 64 * 64 * 3), np.uint8).reshape(most, *FRAME)
        self.action = np.frombuffer(mmap.mmap(-1, most * 4), np.float32)
        self.taken = multiprocessing.Value("q", 0)
        self.next = multiprocessing.Value("q", 0)

    def put(self, obs: np.ndarray, action: np.ndarray) -> int:
        """Copy an episode; returns the place of its first frame, or -1 where there is no room."""
        with self.taken.get_lock():
            place = self.taken.value
            if place + len(action) > len(self.obs):
                return -1
            self.taken.value = place + len(action)
        self.obs[place : place + len(action)] = obs[: len(action)]
        self.action[place : place + len(action)] = action[:, 0]
        return int(place)


def record(frames: Frames, pipe: Connection, plan: Plan, settings: Settings, began: float) -> None:
    """Record episodes until there are enough, or time is up; tell of each."""
    task = get_task("doom")
    worlds = Worlds.of(task, settings.world)
    lanes = WorldLanes(worlds, random_player(settings.extract.policy, task, settings.vae.z_size), record=True, past_done=False)
    while time.monotonic() - began < plan.record_until:
        with frames.next.get_lock():
            number, frames.next.value = frames.next.value, frames.next.value + 1
        if number >= plan.episodes:
            break
        for attempt in range(ATTEMPTS):
            again = (attempt,) if attempt else ()
            (result,) = rollout(lanes, [Job(number, 0, episode_seed(settings.seed, Purpose.RECORDING, number, *again))])
            if result.length >= settings.extract.min_frames:
                break
        else:
            raise RuntimeError(f"no episode of {ATTEMPTS} had {settings.extract.min_frames} frames")
        assert result.episode is not None
        place = frames.put(result.episode["obs"], result.episode["action"])
        if place < 0:
            break
        pipe.send(Episode(number, place, result.length, bool(result.episode["done"][-1])))
    worlds.close()
    pipe.send(None)


def keep_evolution(pipe: Connection, plan: Plan, settings: Settings, seed: int, size: int) -> None:
    """CMA-ES: sends candidates, the mean and the step size; is told fitness, or None at the end."""
    es = ES(size, plan.population, settings.controller.sigma, settings.controller.l2, seed)
    while True:
        candidates = es.ask()
        pipe.send((candidates.astype(np.float32), np.round(es.mean, 4).astype(np.float32), es.sigma))
        fitness = pipe.recv()
        if fitness is None:
            return
        es.tell(candidates, fitness)


def work(number: int, frames: Frames, pipe: Connection, plan: Plan, settings: Settings, size: int, began: float) -> None:
    """A worker's life: it records, and then keeps an evolution, if there is one for it."""
    record(frames, pipe, plan, settings, began)
    if number < len(plan.evolutions):
        keep_evolution(pipe, plan, settings, plan.evolutions[number][1], size)


class Recorded:
    """What the workers told of."""

    def __init__(self, pipes: list[Connection]) -> None:
        self.episodes: list[Episode] = []
        self._open, self._lock = list(pipes), threading.Lock()

    @property
    def going_on(self) -> bool:
        """Whether any of them still records."""
        return bool(self._open)

    def look(self) -> list[Episode]:
        """All episodes that are whole by now."""
        with self._lock:
            for pipe in list(self._open):
                while pipe in self._open and pipe.poll():
                    row = pipe.recv()
                    self._open.remove(pipe) if row is None else self.episodes.append(row)
            return list(self.episodes)


def start_workers(frames: Frames, plan: Plan, settings: Settings, size: int, began: float) -> list[Connection]:
    """Fork the workers, which share the memory of `frames`, and end with this process; returns the pipe to each.

    Args:
        size: of C.
    """
    pipes, context = [], multiprocessing.get_context("fork")
    for number in range(plan.workers):
        ours, theirs = multiprocessing.Pipe()
        context.Process(target=work, args=(number, frames, theirs, plan, settings, size, began), daemon=True).start()
        pipes.append(ours)
    return pipes
