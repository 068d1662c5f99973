"""How much of everything, and until when."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from env.run.settings import Settings
from env.tasks import get_task


class Plan(NamedTuple):
    """The sizes of a run, all times in seconds from its start.

    Attributes:
        episodes, most_frames: to record, and the room for them.
        record_until, vae_until, rnn_until, until: when each part ends at the latest.
        vae_batches: V's training steps in one call.
        rnn_steps: training steps of M.
        rows, window: M's batch.
        decay: of M's learning rate, a step.
        temperatures, seeds: an evolution for each pair.
        population, dreams, generations, scored: of CMA-ES; every 25 generations the mean solution is scored over `scored` dreams.
        steps: the longest dream.
        workers: processes that record, and then keep an evolution each.
    """

    episodes: int = 10_000
    most_frames: int = 3_500_000
    record_until: float = 240
    vae_until: float = 100
    vae_batches: int = 100
    rnn_until: float = 265
    until: float = 572
    rnn_steps: int = 8_000
    rows: int = 100
    window: int = 500
    decay: float = 0.9997
    temperatures: tuple[float, ...] = (0.1, 0.5, 1.0, 1.15, 1.3)
    seeds: tuple[int, ...] = (1, 2, 3)
    population: int = 64
    dreams: int = 8
    generations: int = 300
    scored: int = 256
    steps: int = 2100
    workers: int = 15

    @property
    def settings(self) -> Settings:
        """The settings of a run that come closest to it."""
        paper = get_task("doom").scales["paper"]
        rnn = replace(paper.rnn, steps=self.rnn_steps, batch=self.rows, window=self.window, decay=self.decay)
        c = replace(paper.controller, population=self.population, episodes=self.dreams, sharing=1, generations=self.generations)
        c = replace(c, eval_every=25, eval_episodes=self.scored, dream_steps=self.steps, device="gpu")
        return replace(paper, rnn=rnn, controller=c)

    @property
    def evolutions(self) -> list[tuple[float, int]]:
        """Temperature and seed of each."""
        return [(temperature, seed) for seed in self.seeds for temperature in self.temperatures]

    def name(self, number: int) -> str:
        """What an evolution's folder is called, as a study's is (controller/results/studies.py)."""
        temperature, seed = self.evolutions[number]
        return f"tau-{temperature:g}-seed-{seed}"


SMOKE = Plan(
    episodes=6, most_frames=6_000, record_until=100, vae_until=20, vae_batches=1, rnn_until=300, until=400, rnn_steps=6, rows=4, window=50,
    temperatures=(0.5, 1.15), seeds=(1,), population=8, dreams=2, generations=3, scored=4, steps=200, workers=2,
)  # fmt: skip


# All arrays of their real sizes, and each part for some seconds only: whether it compiles, fits, and how fast it is.
QUICK = Plan(episodes=600, record_until=25, vae_until=30, rnn_until=55, until=80, rnn_steps=300, generations=6)


def say(began: float, words: str) -> None:
    """A line with the seconds since the start."""
    print(f"{time.monotonic() - began:6.1f} {words}", flush=True)
