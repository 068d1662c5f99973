"""Score the agent over many episodes, and print the paper's figures beside it.

    python controller/evaluate.py carracing
    python controller/evaluate.py carracing --shipped --episodes 100 --json scores.json
    python controller/evaluate.py doom --run runs/doom --ranks 4
    python controller/evaluate.py doom --temperature 1.25 --dream-episodes 256 --episodes 1
    python controller/evaluate.py doom --policy uniform
    python controller/evaluate.py doom --policy constant --action=-1 --episodes 48 --dream-episodes 48
    mpirun -np 8 python controller/evaluate.py carracing --render fast --weights my_controller.npz
    python controller/evaluate.py carracing --original path/to/WorldModelsExperiments/carracing

Without --run, the default run's agent is scored, or, where there is none yet, the agent shipped with the project; --shipped takes
that one in any case. All cores share the episodes, unless --ranks says otherwise or mpirun has started the command. The run's own
agent, scored with the run's own settings, leaves RUN/evaluate/scores.json and log.jsonl, and the same command resumes; with other
flags the scores are only printed, and written to --json.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported; a rank has one core

import argparse
import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.results.paper import row_for
from controller.results.scores import mean_and_std, score_table, summarise
from controller.scored import Scored, build_scored
from env.rollout import Job, Moment, Purpose, WorldLanes, Worlds, episode_seed, rollout
from env.run.command import SHOW, check_repeat, check_writable, duration, parser, processes, progress, resolve, run_command
from env.run.compute import available_cores, limit_threads
from env.run.errors import UserError
from env.run.files import JsonlLog, read_jsonl, write_json
from env.run.ranks import Ranks, launched, mpirun, run_ranks
from env.run.rundir import Run, RunInUse, saved_settings
from env.run.settings import MEMORIES, TRAINERS, Settings
from env.run.stages import Stage
from env.run.weights import comes_along, controller_path, is_shipped, shipped_run
from env.tasks import Task

if TYPE_CHECKING:
    from controller.simulate import Simulator

DTYPES = ("float32", "mixed_bfloat16")
POLICIES = ("random", "hold", "varied", "uniform", "constant")
PROBE = 3.0  # seconds of play after which the rest is estimated


def add_arguments(new: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The flags that only this command has."""
    new.add_argument("--weights", type=Path, metavar="FILE", help="score this C (an .npz like RUN/controller/best.npz)")
    new.add_argument("--shipped", action="store_true", help="score the agent that comes with the project, whatever runs there are")
    new.add_argument("--original", type=Path, metavar="DIR", help="score the authors' released weights in DIR")
    new.add_argument("--policy", choices=POLICIES, help="score a policy without skill instead of an agent, see env/random_policy.py")
    new.add_argument("--action", metavar="LIST", help="for --policy constant: the action, such as --action=-1 or --action=0,0.5,0")
    new.add_argument("--dtype", choices=DTYPES, help="compute type while the agent plays (default: the run's, float32 for shipped ones)")
    new.add_argument("--latents", choices=("sampled", "mean"), help="what the agent sees of V's answer (default: as its C learned)")
    new.add_argument("--temperature", type=float, metavar="float", help="of the dreams (default: that of C's training)")
    new.add_argument("--ranks", type=int, metavar="int", help="processes that share the episodes (default: one for each core)")
    new.add_argument("--json", type=Path, metavar="FILE", help="also write the scores to this file")
    return new


class Pace:
    """Says, a few seconds after play began, how long it will take (to be a rollout's `watch`).

    Args:
        steps: of all episodes of all ranks together, as far as known.
        ranks: how many play.
    """

    def __init__(self, steps: float, ranks: int) -> None:
        self._steps, self._ranks = steps, ranks
        self._began, self._done, self._said = 0.0, 0, False

    def __call__(self, moment: Moment) -> None:
        if self._said:
            return
        now = time.monotonic()
        self._began, self._done = self._began or now, self._done + 1
        if now - self._began >= PROBE:
            seconds = self._steps / (self._done / (now - self._began) * self._ranks)
            print(f"evaluate: about {duration(seconds)} on {processes(self._ranks)}", flush=True)
            self._said = True


def played_before(stage: Stage) -> list[dict[str, Any]]:
    """The episodes that an interrupted scoring of the same agent with the same settings left; they are gathered in the run's log."""
    files = [stage.log, *sorted(stage.dir.glob("part-*.jsonl"))]
    rows = [row for file in files if file.exists() for row in read_jsonl(file)]
    try:
        stage.check()
    except UserError:
        print("evaluate: the settings or the agent changed since the last scoring: playing anew")
        rows = []
    whole = {row["episode"]: row for row in rows}
    JsonlLog(stage.log, rows=list(whole.values()))  # whole, before the parts go
    for file in files[1:]:
        file.unlink()
    return list(whole.values())


def score_world(ranks: Ranks, task: Task, scored: Scored, stage: Stage | None) -> list[dict[str, Any]]:
    """Play the episodes that are not in the stage's log yet. Each rank keeps what it has played, and takes its next episode as soon
    as one has ended.

    Args:
        ranks, task, scored: who plays what.
        stage: the run's evaluate stage, for the run's own scoring; else None.

    Returns:
        A row for each episode, in order, on rank 0; nothing on the others.
    """
    settings = scored.settings
    count = settings.evaluate.episodes
    before = (ranks.on_first(lambda: played_before(stage)) or []) if stage else []
    played = np.zeros(count, np.int64)
    played[[row["episode"] for row in before if row["episode"] < count]] = 1
    played = ranks.broadcast(played)
    jobs = [Job(i, 0, episode_seed(settings.seed, Purpose.EVALUATION, i)) for i in range(count) if not played[i]]
    if stage and jobs and ranks.first:
        stage.start()
    ranks.broadcast(np.zeros(1))  # the stage's folder is there
    log = JsonlLog(stage.dir / f"part-{ranks.rank}.jsonl") if stage and jobs else None
    bar = progress(desc="evaluate", total=count, initial=count - len(jobs), unit="episode") if ranks.first else None
    length = settings.world.steps(task.recorded_steps if scored.policy else task.played_steps)
    pace = Pace(len(jobs) * length, ranks.size) if ranks.first else None
    worlds, table = Worlds.of(task, settings.world), np.zeros((count, 2))
    for result in rollout(WorldLanes(worlds, scored.player, watch=pace), ranks.share(jobs), ranks.pulse):
        table[result.job.index] = result.score, result.length
        if log:
            log.append(row_of(result.job, result.score, result.length))
        if bar is not None:
            bar.update(min(ranks.size, bar.total - bar.n))
    worlds.close()
    if bar is not None:
        bar.close()
    table = ranks.total(table)
    if not ranks.first:
        return []
    rows = {row["episode"]: row for row in before} | {job.index: row_of(job, *table[job.index]) for job in jobs}
    if stage and jobs:
        played_before(stage)  # the parts of all ranks become one log
    return [rows[i] for i in range(count)]


def row_of(job: Job, score: float, length: float) -> dict[str, Any]:
    """An episode's row in the log."""
    return {"episode": job.index, "seed": job.seed, "return": float(score), "length": int(length)}


def score_dream(ranks: Ranks, scored: Scored, simulate: Simulator) -> dict[str, Any]:
    """The score in M's dreams, summarised."""
    assert scored.params is not None
    count = scored.settings.evaluate.dream_episodes
    seeds = [episode_seed(scored.settings.seed, Purpose.EVALUATION, i) for i in range(count)]
    jobs, table = [Job(i, 0, seed) for i, seed in enumerate(seeds)], np.zeros((count, 2))
    for result in simulate.play(scored.params[None], ranks.share(jobs), ranks.pulse):
        table[result.job.index] = result.score, result.length
    table = ranks.total(table)
    summary = summarise(table[:, 0], table[:, 1].astype(int), np.array(seeds))
    return {"temperature": scored.temperature, "steps": scored.settings.dream_steps} | summary


def is_runs_own(parsed: argparse.Namespace, path: Path, settings: Settings) -> bool:
    """Whether this is the run's own scoring, kept in its folder: of its own agent, with just the settings of the run."""
    saved = saved_settings(path)
    who = parsed.original or parsed.weights or parsed.policy or parsed.shipped
    other = who or parsed.dtype or parsed.latents or parsed.temperature is not None
    if saved is None or other or not (path / "controller" / "best.npz").exists():
        return False
    if comes_along(path, saved.task):
        return False
    return saved == settings


def open_own(parsed: argparse.Namespace, path: Path, settings: Settings) -> Run | None:
    """The run to keep the scores in; None for a free scoring, or while another command writes into the run."""
    if not is_runs_own(parsed, path, settings):
        return None
    try:
        return Run(path, settings)
    except RunInUse as error:
        print(f"evaluate: {error}. Scoring goes on, but is not kept in the run")
        return None


def summary_of(task: Task, scored: Scored, rows: list[dict[str, Any]], dream: dict[str, Any] | None) -> dict[str, Any]:
    """The JSON of a scoring."""
    settings, c = scored.settings, scored.settings.controller
    returns, lengths, seeds = (np.array([row[key] for row in rows]) for key in ("return", "length", "seed"))
    scores: dict[str, Any] = {"task": task.name, "agent": scored.source, "render": settings.world.render, "frames": settings.world.frames}
    scores |= {"fingerprints": scored.fingerprints, "max_steps": settings.world.max_steps, "repeat": settings.world.repeat}
    scores |= {"seed": settings.seed}
    if not scored.policy:
        scores |= {"memory": settings.memory, "trainer": settings.trainer}
        scores |= {"features": c.features, "latents": c.latents, "hidden": c.hidden, "dtype": c.dtype}
    scores |= summarise(returns, lengths, seeds)
    paper = row_for(task.name, None if scored.policy else settings)
    scores["paper"] = dataclasses.asdict(paper) if paper else None
    if dream:
        scores["dream"] = dream
    return scores


def print_scores(task: Task, scored: Scored, scores: dict[str, Any]) -> None:
    """The table with the published scores of the game, where there are any, and a line for ours."""
    paper, dream = row_for(task.name, None if scored.policy else scored.settings), scores.get("dream")
    print(score_table(f"ours, {scored.source}", task.name, paper, scores))
    low, high = scores["ci95"]
    print(
        f"\n{task.shown}, {scores['episodes']} episodes, {scores['render']} drawing: {mean_and_std(scores)} "
        f"(95% interval {low:.1f} .. {high:.1f})" + (f"; paper, {paper.method}: {paper.mean:g} ± {paper.std:g}" if paper else "")
    )
    if dream:
        low, high = dream["ci95"]
        print(
            f"in M's dream at temperature {dream['temperature']:g}, {dream['episodes']} episodes: {mean_and_std(dream)} "
            f"(95% interval {low:.1f} .. {high:.1f})"
        )


def evaluate(ranks: Ranks, parsed: argparse.Namespace, task: Task, path: Path, settings: Settings) -> None:
    """Score the agent that the flags name, on all ranks."""
    run = ranks.on_first(lambda: open_own(parsed, path, settings))
    own = bool(ranks.broadcast(np.array([run is not None]))[0])
    if own:
        ranks.check_shared(path)
    stage = Stage(path, "evaluate", settings) if own else None
    limit_threads(tensorflow=parsed.policy is None or settings.evaluate.dream_episodes > 0)
    scored = build_scored(parsed, task, path, settings)
    check_repeat(parsed, scored.settings)
    if ranks.first:
        print(f"evaluate: {settings.evaluate.episodes} episodes of {task.shown}, played by {scored.source}", flush=True)
    rows = score_world(ranks, task, scored, stage)
    dream = score_dream(ranks, scored, scored.dream) if scored.dream else None
    if not ranks.first:
        return
    scores = summary_of(task, scored, rows, dream)
    print_scores(task, scored, scores)
    if stage:
        write_json(stage.dir / "scores.json", scores, seal=True)
        summary = {key: scores[key] for key in ("episodes", "mean", "std", "ci95", "render")}
        if dream:
            summary |= {"dream_mean": dream["mean"], "dream_std": dream["std"]}
        stage.finish(summary)
    if parsed.json:
        write_json(parsed.json, scores, seal=True)


def parse() -> tuple[argparse.Namespace, Task, Path, Settings]:
    """The command line, checked before anything is started."""
    parsed = add_arguments(parser(__doc__ or "", "evaluate")).parse_args()
    wanted = (parsed.memory or MEMORIES[0], parsed.trainer or TRAINERS[0])
    if parsed.shipped and wanted != (MEMORIES[0], TRAINERS[0]):
        if parsed.run or parsed.weights:
            raise UserError("--shipped, --run and --weights each name who plays: give one of them")
        parsed.run, parsed.shipped = shipped_run(parsed.task, *wanted), False
        if not parsed.run.is_dir():
            raise UserError(
                f"no agent with --memory {wanted[0]} and --trainer {wanted[1]} comes with the project: train one, give its --run"
            )
    own = parsed.run is not None or not (parsed.shipped or parsed.policy or (parsed.weights and is_shipped(parsed.weights, parsed.task)))
    task, path, settings = resolve(parsed, "evaluate", own)  # what comes with the project does not depend on what runs there are
    check_writable(parsed.json)
    if sum(map(bool, (parsed.original, parsed.weights, parsed.policy, parsed.shipped))) > 1:
        raise UserError("--original, --weights, --policy and --shipped each name who plays: give one of them")
    if parsed.dtype and (parsed.original or parsed.policy):
        raise UserError("--dtype is that of V while an agent of ours plays: leave it out")
    if parsed.latents and (parsed.original or parsed.policy):
        raise UserError("--latents is what an agent of ours sees: leave it out")
    if parsed.dream_episodes and (parsed.original or parsed.policy not in (None, "constant")):
        raise UserError("--dream-episodes are those of an agent of ours or of --policy constant: leave it out")
    if parsed.temperature is not None:
        if parsed.original or parsed.policy not in (None, "constant") or not settings.evaluate.dream_episodes:
            raise UserError("--temperature is that of M's dreams, of which there are none here: give --dream-episodes, or leave it out")
        if not (math.isfinite(parsed.temperature) and parsed.temperature > 0):
            raise UserError(f"--temperature is {parsed.temperature:g}: it must be above 0")
    if parsed.action and parsed.policy != "constant":
        raise UserError("--action is that of --policy constant: give both")
    if parsed.ranks is not None and parsed.ranks < 1:
        raise UserError(f"--ranks is {parsed.ranks}: it must be at least 1")
    if parsed.original is None and parsed.policy is None:
        controller_path(task.name, path, parsed.run is not None or not settings.is_papers, parsed.weights, parsed.shipped)
    return parsed, task, path, settings


def spread() -> None:
    """Start this command again on all cores, unless mpirun has started it already."""
    parsed, _, _, settings = parse()
    words = mpirun(min(parsed.ranks or available_cores(), settings.evaluate.episodes))
    if words:
        environment = os.environ | ({SHOW: "1"} if sys.stderr.isatty() else {})
        os.execvpe(words[0], [*words, sys.executable, *sys.argv], environment)


def main(ranks: Ranks) -> None:
    evaluate(ranks, *parse())


if __name__ == "__main__":
    if not launched():
        run_command(spread)
    run_ranks(main)
