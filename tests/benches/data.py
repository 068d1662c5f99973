"""What the benchmarks work on: real recordings and latents, made once in a temporary folder by the project's own code."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from env.run.files import JsonlLog, read_jsonl
from env.run.rundir import Run
from env.run.settings import Settings
from env.tasks import get_task

EPISODES = 32  # recorded ones; larger data sets are links to them
AT_ONCE = 8  # episodes between two looks at the clock


@dataclass(frozen=True)
class Drive:
    """An episode of the shipped agent: the track's seed, and the actions, float32 [T, 3]."""

    seed: int
    actions: np.ndarray


DOOM_EPISODES = 200  # of 300 frames: a batch of the paper's M has 50,000


class Data:
    """Recordings of CarRacing, made when they are first asked for.

    Args:
        folder: where; the caller removes it.
        doom_run: take Doom's V, M and C from this run instead of the shipped ones.

    Attributes:
        extract_rates, encode_rates: frames a second while they were made, on one core.
    """

    def __init__(self, folder: Path, doom_run: Path | None = None) -> None:
        self.folder, self.doom_run = folder, doom_run
        self.extract_rates: list[float] = []
        self.encode_rates: list[float] = []
        self.task = get_task("carracing")

    def _settings(self, episodes: int) -> Settings:
        paper = self.task.scales["paper"]
        return replace(paper, extract=replace(paper.extract, episodes=episodes))

    def driven(self) -> Drive:
        """The shipped agent on one track."""
        from controller.agent import load_agent
        from env.rollout import Job, WorldLanes, Worlds, rollout
        from env.run.weights import shipped_controller

        paper = self.task.scales["paper"]
        settings = replace(paper, controller=replace(paper.controller, slots=1))
        agent, settings = load_agent(self.task, settings, Path(), shipped_controller(self.task.name))
        worlds = Worlds.of(self.task, settings.world)
        result = next(rollout(WorldLanes(worlds, agent, record=True), [Job(0, 0, 1)]))
        worlds.close()
        assert result.episode is not None
        return Drive(1, result.episode["action"])

    def recorded(self) -> Run:
        """A run with EPISODES recorded episodes of 1000 frames."""
        from controller.extract import extract_run, record_episodes
        from env.run.ranks import Ranks

        path, settings = self.folder / "recorded", self._settings(EPISODES)
        if not self.extract_rates:
            (path / "extract" / "episodes").mkdir(parents=True)
            ranks = Ranks()
            for start in range(0, EPISODES, AT_ONCE):
                started = time.perf_counter()
                record_episodes(ranks, path, self.task, settings, list(range(start, start + AT_ONCE)))
                self.extract_rates.append(AT_ONCE * settings.world.max_steps / (time.perf_counter() - started))
            with contextlib.redirect_stdout(io.StringIO()):
                extract_run(ranks, self.task, path, settings)
        return Run(path, settings, lock=False)

    def encoded(self) -> Run:
        """The same run with the shipped V and the latents."""
        from env.run.weights import shipped
        from vae.encode import encode_episode, encode_run, make_encoder, vae_weights

        run = self.recorded()
        if not self.encode_rates:
            stage = run.stage("vae")
            stage.start()
            shutil.copyfile(shipped("vae", self.task.name, "weights.npz"), stage.dir / "weights.npz")
            stage.finish({})
            encode, folder = make_encoder(vae_weights(run), run.settings.vae.z_size), run.path / "encode" / "latents"
            paths = sorted((run.path / "extract" / "episodes").iterdir())
            for start in range(0, EPISODES, AT_ONCE):
                started = time.perf_counter()
                for path in paths[start : start + AT_ONCE]:
                    encode_episode(encode, path, folder / path.name)
                self.encode_rates.append(AT_ONCE * run.settings.world.max_steps / (time.perf_counter() - started))
            with contextlib.redirect_stdout(io.StringIO()):
                encode_run(run)
        return run

    def many(self, episodes: int, latents: bool = False) -> Path:
        """A new run of `episodes` episodes, links to the recorded ones in turn: recordings, or latents as well."""
        source = self.encoded() if latents else self.recorded()
        path = self.folder / f"many-{episodes}-{'latents' if latents else 'frames'}"
        if path.exists():
            shutil.rmtree(path)
        run = Run(path, self._settings(episodes))
        for name, inner in (("extract", "episodes"), ("encode", "latents")) if latents else (("extract", "episodes"),):
            stage = run.stage(name)
            stage.start()
            (stage.dir / inner).mkdir()
            for i in range(episodes):
                os.symlink(source.path / name / inner / f"{i % EPISODES:06d}.npz", stage.dir / inner / f"{i:06d}.npz")
            stage.finish({})
        rows, log = read_jsonl(source.stage("extract").log), JsonlLog(run.stage("extract").log)
        for i in range(episodes):
            log.append(rows[i % EPISODES] | {"episode": i})
        run.release()
        return path

    def doom_latents(self) -> Path:
        """A run of Doom with the authors' recordings, enough for a batch of the paper's M, and the shipped V's latents of them."""
        from controller.extract import extract_run
        from env.run.ranks import Ranks
        from env.run.weights import shipped
        from vae.encode import encode_run

        task, path = get_task("doom"), self.folder / "doom"
        paper = task.scales["paper"]
        settings = replace(paper, extract=replace(paper.extract, episodes=DOOM_EPISODES, policy="hold"))
        with contextlib.redirect_stdout(io.StringIO()):
            extract_run(Ranks(), task, path, settings)
            run = Run(path, settings)
            stage = run.stage("vae")
            stage.start()
            shutil.copyfile(shipped("vae", "doom", "weights.npz"), stage.dir / "weights.npz")
            stage.finish({})
            encode_run(run)
            run.release()
        return path
