"""Score the agent over many episodes, and print the paper's figures beside it.

    python controller/evaluate.py carracing
    python controller/evaluate.py carracing --episodes 100 --run runs/carracing --json scores.json
    mpirun -np 8 python controller/evaluate.py carracing --render fast --weights my_controller.npz
    python controller/evaluate.py carracing --original path/to/WorldModelsExperiments/carracing

Without --run, the default run's agent is scored, or, where there is none yet, the agent shipped with the project. The
run's own agent, scored with the run's own settings, leaves RUN/evaluate/scores.json and log.jsonl, and the same command
resumes; with other flags the scores are only printed, and written to --json.
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
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.paper import row_for
from controller.parallel import Ranks, run_ranks
from controller.weights import controller_path, fingerprint
from env.command import parser, progress, resolve
from env.compute import limit_threads
from env.files import JsonlLog, read_jsonl, write_json
from env.rundir import REPOSITORY, Run, RunInUse, Stage, saved_settings
from env.settings import UserError
from env.tasks import Settings, Task

if TYPE_CHECKING:
    from controller.agent import Agent

EVALUATION = 3  # keeps these episodes' seeds apart from all that anything was trained on


def add_arguments(new: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The flags that only this command has."""
    new.add_argument("--weights", type=Path, metavar="FILE", help="score this C (an .npz like RUN/controller/best.npz)")
    new.add_argument("--original", type=Path, metavar="DIR", help="score the authors' released weights in DIR")
    new.add_argument("--json", type=Path, metavar="FILE", help="also write the scores to this file")
    return new


def build_agent(parsed: argparse.Namespace, task: Task, run: Path, settings: Settings) -> tuple[Agent, Settings, str]:
    """The agent to score, the settings that it plays with, and where it came from."""
    from controller.agent import load_agent, make_agent

    world = dataclasses.replace(settings.world, render=settings.evaluate.render)
    settings = dataclasses.replace(settings, world=world)
    if parsed.original is None:
        weights = controller_path(task, run, parsed.run is not None, parsed.weights)
        agent, settings = load_agent(task, settings, run, weights)
        inside = weights.resolve().is_relative_to(REPOSITORY)
        return agent, settings, str(weights.resolve().relative_to(REPOSITORY) if inside else weights)
    from controller.original import load_original_controller, load_original_rnn, load_original_vae
    from rnn.rnn import MDNRNN
    from vae.vae import ConvVAE

    paper = task.scales["paper"]
    settings = dataclasses.replace(
        paper, seed=settings.seed, evaluate=settings.evaluate, world=dataclasses.replace(world, frames="original")
    )
    vae = ConvVAE(paper.vae.z_size)
    rnn = MDNRNN(paper.vae.z_size, task.action_size, paper.rnn.units, paper.rnn.mixtures)
    agent = make_agent(task, settings, vae, rnn)
    params = load_original_controller(parsed.original / "log", agent.policy.size)
    load_original_rnn(parsed.original / "rnn" / "rnn.json", rnn)
    load_original_vae(parsed.original / "vae" / "vae.json", vae)
    agent.set_candidates(params[None])
    return agent, settings, str(parsed.original)


def played_before(stage: Stage, controller: str) -> dict[int, dict[str, Any]]:
    """The episodes that an interrupted scoring of the same C with the same settings left in the run's log."""
    rows = read_jsonl(stage.log) if stage.log.exists() else []
    try:
        stage.check()
        kept = {row["episode"]: row for row in rows if row.get("controller") == controller}
    except UserError:
        kept = {}
    if len(kept) < len(rows):
        print("evaluate: the settings or the agent changed since the last scoring: playing anew")
    return kept


def score_agent(ranks: Ranks, task: Task, settings: Settings, agent: Agent, stage: Stage | None) -> list[dict[str, Any]]:
    """Play the episodes that are not in the stage's log yet.

    Args:
        ranks, task, settings, agent: who plays what.
        stage: the run's evaluate stage, on rank 0 and for the run's own scoring; else None.

    Returns:
        A row for each episode on rank 0, nothing on the others.
    """
    from controller.rollout import Job, Worlds, episode_seed, rollout

    count = settings.evaluate.episodes
    controller = fingerprint(stage.dir.parent / "controller" / "best.npz") if stage else ""
    done = played_before(stage, controller) if stage else {}
    played = np.zeros(count, np.int64)
    played[[index for index in done if index < count]] = 1
    played = ranks.broadcast(played)
    jobs = [Job(i, 0, episode_seed(settings.seed, EVALUATION, i)) for i in range(count) if not played[i]]
    if stage and jobs:
        stage.start()
    log = JsonlLog(stage.log, keep=lambda row: done.get(row["episode"]) == row) if stage else None
    bar = progress(desc="evaluate", total=count, initial=count - len(jobs), unit="episode") if ranks.first else None
    worlds = Worlds(task, settings.world)
    chunk = ranks.size * agent.slots  # what is kept at a time
    for start in range(0, len(jobs), chunk):
        part = jobs[start : start + chunk]
        table = np.zeros((len(part), 2))
        where = {job.index: number for number, job in enumerate(part)}
        for result in rollout(worlds, agent, ranks.share(part)):
            table[where[result.job.index]] = result.score, result.length
        for job, (score, length) in zip(part, ranks.total(table)):
            done[job.index] = {"episode": job.index, "seed": job.seed, "return": float(score), "length": int(length)}
            if log:
                done[job.index]["controller"] = controller
                log.append(done[job.index])
        if bar is not None:
            bar.update(len(part))
    worlds.close()
    if bar is not None:
        bar.close()
    return [done[i] for i in range(count)] if ranks.first else []


def is_runs_own(parsed: argparse.Namespace, path: Path, settings: Settings) -> bool:
    """Whether this is the run's own scoring, kept in its folder: of its own agent, with just the settings of the run."""
    saved = saved_settings(path)
    if saved is None or parsed.original or parsed.weights or not (path / "controller" / "best.npz").exists():
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


def report_scores(task: Task, settings: Settings, rows: list[dict[str, Any]], source: str) -> dict[str, Any]:
    """Summarise the rows, print the score and the paper's table, and return the JSON."""
    from controller.scores import score_table, summarise

    returns, lengths, seeds = (np.array([row[key] for row in rows]) for key in ("return", "length", "seed"))
    c, paper = settings.controller, row_for(task.name, settings.controller.features, settings.controller.hidden)
    scores: dict[str, Any] = {"task": task.name, "agent": source, "render": settings.world.render, "frames": settings.world.frames}
    scores |= {"max_steps": settings.world.max_steps, "features": c.features, "hidden": c.hidden, "seed": settings.seed}
    scores |= summarise(returns, lengths, seeds)
    scores["paper"] = dataclasses.asdict(paper)
    print(score_table(f"ours, {source}", task.name, paper, scores))
    drawing = "gymnasium's own drawing" if settings.world.render == "official" else "our drawing"
    low, high = scores["ci95"]
    print(
        f"\n{task.title}, {len(rows)} episodes, {drawing}: {scores['mean']:.1f} ± {scores['std']:.1f} "
        f"(95% interval {low:.1f} .. {high:.1f}); paper, {paper.method}: {paper.mean:g} ± {paper.std:g}"
    )
    return scores


def evaluate(ranks: Ranks, parsed: argparse.Namespace, task: Task, path: Path, settings: Settings) -> None:
    """Score the agent that the flags name, on all ranks."""
    if parsed.json and (parsed.json.is_dir() or not os.access(parsed.json.resolve().parent, os.W_OK)):
        raise UserError(f"--json {parsed.json} cannot be written: name a file in a folder that is there and yours")
    if parsed.original and parsed.weights:
        raise UserError("--original brings its own controller: leave --weights out")
    if parsed.original is None:
        controller_path(task, path, parsed.run is not None, parsed.weights)  # fail before TensorFlow starts
    run = ranks.on_first(lambda: open_own(parsed, path, settings))
    stage = run.stage("evaluate") if run else None
    limit_threads()
    agent, settings, source = build_agent(parsed, task, path, settings)
    rows = score_agent(ranks, task, settings, agent, stage)
    if not ranks.first:
        return
    scores = report_scores(task, settings, rows, source)
    if stage:
        write_json(stage.dir / "scores.json", scores)
        summary = {key: scores[key] for key in ("episodes", "mean", "std", "ci95", "render")}
        stage.finish(summary | {"controller": rows[0]["controller"]})
    if parsed.json:
        write_json(parsed.json, scores)


def main(ranks: Ranks) -> None:
    parsed = add_arguments(parser(__doc__ or "", "evaluate")).parse_args()
    task, path, settings = resolve(parsed, "evaluate")
    evaluate(ranks, parsed, task, path, settings)


if __name__ == "__main__":
    run_ranks(main)
