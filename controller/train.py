"""Evolve C with CMA-ES, the population's episodes spread over MPI ranks.

    mpirun -np 64 python controller/train.py
    mpirun -np 8 python controller/train.py carracing --population 32 --episodes 4 --sharing 0
    python controller/train.py carracing --scale smoke

C plays in the real world or wholly in M's dream (--world, --temperature). Uses V and M of RUN, or, where that run has none,
those shipped with the project. Writes RUN/controller: best.npz (the distribution's mean at its best scoring, or the C that evolution
began with, --start, while none is better), mean.npz (at the last scoring), log.jsonl, and, to resume by the same command, checkpoints/
(the state of CMA-ES at some generations) and fitness.jsonl (all candidates' fitness, which leads from there to the last generation).
The curve is the same on any number of processes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported; a rank has one core

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from env.rollout import Job, Purpose, episode_seed
from env.run.checkpoints import Checkpoints
from env.run.command import duration, parser, progress, resolve
from env.run.compute import limit_threads
from env.run.errors import UserError
from env.run.files import JsonlLog, load_arrays, read_jsonl
from env.run.ranks import Ranks, run_ranks
from env.run.rundir import Run
from env.run.settings import Settings
from env.run.taken import warn_of_other_eyes
from env.run.weights import fingerprints, model_paths, start_path, unfit
from env.tasks import Task

if TYPE_CHECKING:
    from controller.directions import Directions
    from controller.simulate import Simulator

TELL_EVERY = 30.0  # seconds between lines where there is no terminal for a progress bar


def training_seeds(settings: Settings, generation: int) -> np.ndarray:
    """Seeds of a generation's episodes, int64 [population, episodes]. Candidates seed_groups apart share theirs."""
    c, run_seed = settings.controller, settings.evolution_seed
    groups = [[episode_seed(run_seed, Purpose.TRAINING, generation, g, e) for e in range(c.episodes)] for g in range(c.seed_groups)]
    return np.array([groups[candidate % c.seed_groups] for candidate in range(c.population)])


def scoring_seeds(settings: Settings) -> np.ndarray:
    """Seeds of the episodes that score the mean, int64 [1, eval_episodes]: the same at every scoring, so that the best of them is
    not the one with the easiest episodes (original train.py, evaluate_batch)."""
    return np.array([[episode_seed(settings.seed, Purpose.SCORING, e) for e in range(settings.controller.eval_episodes)]])


def play(ranks: Ranks, simulate: Simulator, candidates: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let each candidate play its episodes, shared by all ranks.

    Args:
        simulate: this rank's, see controller/simulate.py.
        candidates: float64 [n, size], equal on all ranks.
        seeds: int64 [n, e].

    Returns:
        scores float64 [n, e] and lengths int64 [n, e], complete on every rank.
    """
    episodes = seeds.shape[1]
    jobs = [Job(i, i // episodes, int(seed)) for i, seed in enumerate(seeds.ravel())]
    scores, lengths = np.zeros(len(jobs)), np.zeros(len(jobs), np.int64)
    for result in simulate.play(candidates, ranks.share(jobs), ranks.pulse):
        scores[result.job.index], lengths[result.job.index] = result.score, result.length
    return ranks.total(scores).reshape(seeds.shape), ranks.total(lengths).reshape(seeds.shape)


class Evolution:
    """What rank 0 alone keeps: the evolution strategy, the best solution so far, the log and the progress.

    The whole state of CMA-ES takes long to write (21 MB at 1,088 parameters), its candidates' fitness does not: each generation's
    is on disk before it counts, beside its row of the log, the state so seldom that both take at most a hundredth of the time, and
    resuming goes from the one to the other.

    Args:
        run: whose controller stage it is.
        size: of C's weights.
        directions: what is searched in their place.

    Raises:
        UserError: there is no checkpoint left to go on from, see Checkpoints.
    """

    def __init__(self, run: Run, size: int, directions: Directions | None = None) -> None:
        from controller.es import ES

        self.run, self.settings, self._directions = run, run.settings, directions
        self.folder = run.path / "controller"
        c = self.settings.controller
        self.generation = 0
        self.checkpoints = Checkpoints(self.folder, run.stage("controller").identity())
        latest = self.checkpoints.latest()
        if latest is None:
            warn_of_other_eyes(run)
        start = None if latest or directions else beginning(run, size)
        self.es = ES(directions.size if directions else size, c.population, c.sigma, c.l2, self.settings.evolution_seed, start)
        if latest:
            self.es.restore(latest.arrays)
            self.generation = latest.number
        else:
            self.checkpoints.save(0, self.es.arrays())
        told = self._replay(self.folder / "fitness.jsonl")
        rows = self._rows(self.folder / "log.jsonl", told)
        best = self.folder / "best.npz"
        note, past = load_arrays(best)[1] if best.exists() else {}, [row[key] for row in rows for key in ("start", "eval") if key in row]
        if past and not note:
            print(f"warning: {best} is gone: the next scoring's C takes its place", file=sys.stderr, flush=True)
            past = []
        # A scoring that no longer evolution would have made was for want of any; one of a later generation will be made again.
        # Before the first generation nothing counts: a C to begin with is scored again, and another evolution may have left its own.
        counts = self.generation and note and not note["unplanned"] and note["generation"] <= self.generation
        scored = [note["score"]] if counts else past
        self.best = max(filter(np.isfinite, scored), default=-np.inf)
        self.journal = JsonlLog(self.folder / "fitness.jsonl", rows=told)
        self.log = JsonlLog(self.folder / "log.jsonl", rows=rows, steps="generation")
        self.bar = progress(desc="controller", total=c.generations, initial=self.generation, unit="generation")
        self._began, self._first = time.monotonic(), self.generation
        self._told = self._began

    def _replay(self, journal: Path) -> list[dict[str, Any]]:
        """Learn again what was learned since the state was written: the candidates are the same. Returns the journal's rows up to there;
        what is damaged after the state is evolved again."""
        rows = read_jsonl(journal) if journal.exists() else []
        for row in rows:
            if row["generation"] == self.generation + 1:
                self.es.tell(self.es.ask(), np.array(row["fitness"]))
                self.generation += 1
        return [row for row in rows if row["generation"] <= self.generation]

    def _rows(self, log: Path, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The log's rows up to the present generation: those that the journal has, too, which is always on disk before; else its own."""
        rows = {row["generation"]: row for row in (read_jsonl(log) if log.exists() else [])}
        rows |= {row["generation"]: row["log"] for row in told}
        known = [rows[generation] for generation in range(1, self.generation + 1) if generation in rows]
        if len(known) < self.generation:
            print(f"warning: {log} has lost {self.generation - len(known)} of its rows", file=sys.stderr, flush=True)
        return known

    def weights(self, searched: np.ndarray) -> np.ndarray:
        """C's weights of what CMA-ES searches, float64 [..., n] -> [..., size]."""
        return self._directions.weights(searched) if self._directions else searched

    def tell(self, candidates: np.ndarray, scores: np.ndarray, lengths: np.ndarray, seconds: float) -> dict[str, Any]:
        """Learn from a generation, of what `es.ask` gave, and return its row for the log."""
        fitness, bad = ranked_last(scores.mean(axis=1))
        self.es.tell(candidates, fitness)
        self.generation += 1
        self._fitness = fitness
        self.bar.update()
        self.bar.set_postfix(mean=f"{fitness.mean():.0f}", max=f"{fitness.max():.0f}", best=f"{self.best:.0f}")
        self._say(f"mean {fitness.mean():.1f}, max {fitness.max():.1f}, best mean solution {self.best:.1f}", TELL_EVERY)
        row = {"generation": self.generation, "mean": fitness.mean(), "min": fitness.min(), "max": fitness.max(), "std": fitness.std()}
        row |= {"sigma": self.es.sigma, "mean_length": lengths.mean(), "steps": int(lengths.sum()), "seconds": seconds}
        row |= {"not_finite": bad} if bad else {}
        return {key: float(value) if isinstance(value, np.floating) else value for key, value in row.items()}

    def _say(self, words: str, every: float = 0.0) -> None:
        """A line with the time left, where there is no terminal for a progress bar, at most every so many seconds."""
        now, total = time.monotonic(), self.settings.controller.generations
        if self.bar.disable and now - self._told >= every:
            left = (now - self._began) / max(1, self.generation - self._first) * (total - self.generation)
            print(f"controller: generation {self.generation} of {total}, {words}, {duration(left)} left", flush=True)
            self._told = now

    def scored(self, mean: np.ndarray, scores: np.ndarray, unplanned: bool = False) -> dict[str, Any]:
        """Keep the mean solution if it is the best so far; returns what the log's row gets."""
        from controller.agent import save_controller

        note = {"generation": self.generation, "score": float(scores.mean()), "std": float(scores.std()), "episodes": scores.size}
        note |= {"unplanned": unplanned}
        save_controller(self.folder / "mean.npz", mean, self.settings, note)
        if note["score"] > self.best:
            self.best = note["score"]
            save_controller(self.folder / "best.npz", mean, self.settings, note)
        self._say(f"mean solution {note['score']:.1f} ± {note['std']:.1f}")
        return {"eval": note["score"], "eval_std": note["std"], "eval_best": self.best}

    def check_scored(self) -> None:
        """Raise UserError when no mean solution had a finite score: there is no C to keep."""
        if not np.isfinite(self.best):
            raise UserError("no mean solution of this evolution has a finite score: are V and M whole?")

    def commit(self, row: dict[str, Any]) -> None:
        """The generation that was told is whole: write its row, and what a killed run goes on from."""
        # From here on it counts: the log's row can be made from this one.
        self.journal.append({"generation": self.generation, "fitness": self._fitness.tolist(), "log": row}, durable=True)
        self.log.append(row)
        if self.checkpoints.due() or self.generation == self.settings.controller.generations:
            self.checkpoints.save(self.generation, self.es.arrays())


def beginning(run: Run, size: int) -> np.ndarray | None:
    """The C that evolution begins with, float32 [size]: what a teacher showed (controller/imitate.py), or `first_mean`."""
    if run.settings.controller.teacher:
        return load_arrays(run.path / "controller" / "imitated.npz")[0]["params"]
    return first_mean(run.settings, size)


def first_mean(settings: Settings, size: int) -> np.ndarray | None:
    """The C that evolution begins with, float32 [size]; None for zeros.

    Raises:
        UserError: it is missing, or of another size than this run's.
    """
    if not settings.controller.start:
        return None
    check_start(settings)
    path = start_path(settings.task, settings.controller.start)
    params = load_arrays(path)[0]["params"]
    if params.shape != (size,):
        raise UserError(f"controller.start: the C in {path} has {params.size} parameters, this run's has {size}: take one that fits")
    return params


def searched(run: Run, task: Task, size: int) -> Directions | None:
    """The directions that CMA-ES searches; None where it searches all weights.

    Raises:
        UserError: as `first_mean`, or the run has no recorded episodes, which show them.
    """
    if run.settings.controller.search == "weights":
        return None
    from controller.directions import load_directions

    start = beginning(run, size)
    assert start is not None  # Settings.check
    return load_directions(run, task, start)


def check_start(settings: Settings) -> None:
    """Raise UserError when the C that the training is to begin with is there, and is none, or says that it is of another game, or sees
    something else, or has other layers than this run's."""
    path = start_path(settings.task, settings.controller.start)
    if not settings.controller.start or not path.exists():
        return
    c, (arrays, meta) = settings.controller, load_arrays(path)
    if "params" not in arrays:
        raise UserError(f"controller.start: {path} holds no C: give a run, or its controller/best.npz or controller/mean.npz")
    wanted = {"task": settings.task, "repeat": settings.world.repeat, "features": c.features, "hidden": c.hidden, "bias": c.bias}
    if found := unfit(meta, wanted):
        raise UserError("controller.start: the C in {} has {} {}, this run's has {}: take one that fits".format(path, *found))


def ranked_last(fitness: np.ndarray) -> tuple[np.ndarray, int]:
    """Fitness with numbers below all others in the place of those that are not finite, and how many there were.

    Raises:
        UserError: none is finite; there is nothing to learn from.
    """
    finite = np.isfinite(fitness)
    if not finite.any():
        raise UserError("no candidate of this generation has a finite fitness: nothing was learned from it; are V and M whole?")
    low, high = fitness[finite].min(), fitness[finite].max()
    return np.where(finite, fitness, low - (high - low) - 1.0), int((~finite).sum())


def play_again(
    ranks: Ranks, simulate: Simulator, candidates: np.ndarray, seeds: np.ndarray, scores: np.ndarray, lengths: np.ndarray
) -> None:
    """Let candidates with a score that is not finite play once more, and put what comes of it in the place of the old."""
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if bad.size:
        scores[bad], lengths[bad] = play(ranks, simulate, candidates[bad], seeds[bad])


def score_mean(
    ranks: Ranks, simulate: Simulator, evolution: Evolution | None, settings: Settings, unplanned: bool = False
) -> dict[str, Any]:
    """Score the distribution's mean, rounded to 4 decimals like the original's solutions (train.py, evaluate_batch), and keep
    it if it is the best; returns what the generation's row gets."""
    started = time.monotonic()
    mean = ranks.broadcast(np.round(evolution.weights(evolution.es.mean), 4) if evolution else np.empty(simulate.size))
    seeds = scoring_seeds(settings)
    scores, lengths = play(ranks, simulate, mean[None], seeds)
    play_again(ranks, simulate, mean[None], seeds, scores, lengths)
    return evolution.scored(mean, scores, unplanned) | {"eval_seconds": time.monotonic() - started} if evolution else {}


def check_agreement(ranks: Ranks, settings: Settings, models: dict[str, str]) -> None:
    """Make sure that all ranks see the same run.

    Raises:
        UserError: this rank has other settings or another V and M than rank 0.
    """
    own = hashlib.sha256(json.dumps([settings.to_dict(), models]).encode()).digest()
    if ranks.broadcast(np.frombuffer(own, np.uint8).copy()).tobytes() != own:
        raise UserError("this rank has other settings or weights than rank 0: the run must lie on a disk that all hosts share")


def take_device(ranks: Ranks, device: str) -> None:
    """One thread for this process, and a GPU only if the settings say so: its numbers are not a core's to the last bit.

    Raises:
        UserError: there is none, or more ranks than one would fill it.
    """
    limit_threads(gpu=device == "gpu")
    if device == "cpu":
        return
    import tensorflow as tf

    if ranks.size > 1:
        raise UserError(f"controller.device is gpu, but there are {ranks.size} ranks: start a single process, or take cpu")
    if not tf.config.list_physical_devices("GPU"):
        raise UserError("controller.device is gpu, but TensorFlow finds none: take cpu")


def evolve(ranks: Ranks, task: Task, path: Path, settings: Settings) -> None:
    """The controller stage of a run, on all ranks."""
    run = ranks.on_first(lambda: Run(path, settings))
    if ranks.broadcast(np.array([run.stage("controller").check() if run else False]))[0]:
        if ranks.first:
            print(f"controller: finished already in {path / 'controller'}")
        return
    ranks.check_shared(path)
    models = model_paths(task.name, path)
    check_agreement(ranks, settings, fingerprints(models))
    take_device(ranks, settings.controller.device)
    from controller.simulate import make_simulator

    c = settings.controller
    if run:
        run.stage("controller").start()
    if c.teacher:
        from controller.imitate import imitate

        imitate(ranks, run, task, path, settings)
    simulate = make_simulator(task, settings, path)
    if run:
        where = "the real world" if c.world == "real" else f"dreams at temperature {c.temperature:g}"
        what = f"{c.population} x {c.episodes} episodes a generation in {where}"
        by = "by what is privileged" if c.features == "privileged" else f"M of {models.rnn}"
        print(f"controller: {what}, on {ranks.size} ranks, {by}", flush=True)
    evolution = ranks.on_first(lambda: Evolution(run, simulate.size, searched(run, task, simulate.size)) if run else None)
    generation = int(ranks.broadcast(np.array([evolution.generation if evolution else 0]))[0])
    # A C to begin with is kept until evolution has found a better one, by the same episodes.
    begun = score_mean(ranks, simulate, evolution, settings) if (c.start or c.teacher) and not generation else {}
    while generation < c.generations:
        started = time.monotonic()
        asked = evolution.es.ask() if evolution else None
        candidates = ranks.broadcast(evolution.weights(asked) if evolution else np.empty((c.population, simulate.size)))
        seeds = training_seeds(settings, generation)
        scores, lengths = play(ranks, simulate, candidates, seeds)
        play_again(ranks, simulate, candidates, seeds, scores, lengths)
        row = evolution.tell(asked, scores, lengths, time.monotonic() - started) | {"cores": ranks.size} if evolution else {}
        if evolution and begun:
            row |= {"start": begun["eval"], "start_std": begun["eval_std"]}
        begun, generation = {}, generation + 1
        if generation % c.eval_every == 0:
            row |= score_mean(ranks, simulate, evolution, settings)
        if evolution:
            evolution.commit(row)
    # Ended before any scoring was due: score what there is.
    if ranks.broadcast(np.array([evolution is not None and (generation < c.eval_every or not np.isfinite(evolution.best))]))[0]:
        score_mean(ranks, simulate, evolution, settings, unplanned=True)
    ranks.on_first(lambda: evolution.check_scored() if evolution else None)
    if run and evolution:
        evolution.bar.close()
        run.stage("controller").finish({"generations": generation, "best": evolution.best})
        print(f"controller: {generation} generations, best mean solution {evolution.best:.1f} -> {path / 'controller' / 'best.npz'}")


def main(ranks: Ranks) -> None:
    parsed = parser(__doc__ or "", "controller").parse_args()
    task, path, settings = resolve(parsed, "controller")
    if settings.trainer != "cmaes":
        raise UserError(f"this run's trainer is {settings.trainer}: use controller/learn.py, or give --trainer cmaes for a new run")
    evolve(ranks, task, path, settings)


if __name__ == "__main__":
    run_ranks(main)
