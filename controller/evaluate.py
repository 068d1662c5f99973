"""Score the agent over many episodes, and print the paper's figures beside it.

    python controller/evaluate.py carracing
    python controller/evaluate.py carracing --episodes 100 --run runs/carracing --json scores.json
    python controller/evaluate.py doom --policy uniform
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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from controller.paper import row_for
from controller.parallel import Ranks, run_ranks
from controller.scores import mean_and_std, score_table, summarise
from controller.weights import controller_path, fingerprint, shipped
from env.command import parser, progress, resolve
from env.compute import limit_threads
from env.files import JsonlLog, read_jsonl, write_json
from env.rundir import REPOSITORY, Run, RunInUse, Stage, saved_settings
from env.settings import UserError
from env.tasks import Settings, Task

if TYPE_CHECKING:
    from controller.rollout import Player
    from controller.simulate import Simulator

RANDOM = ("random", "hold", "varied", "uniform")
EVALUATION = 3  # keeps these episodes' seeds apart from all that anything was trained on


def add_arguments(new: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The flags that only this command has."""
    new.add_argument("--weights", type=Path, metavar="FILE", help="score this C (an .npz like RUN/controller/best.npz)")
    new.add_argument("--original", type=Path, metavar="DIR", help="score the authors' released weights in DIR")
    new.add_argument("--policy", choices=RANDOM, help="score a random policy instead of an agent, see controller/random_policy.py")
    new.add_argument("--json", type=Path, metavar="FILE", help="also write the scores to this file")
    return new


class Scored(NamedTuple):
    """Who is scored.

    Attributes:
        player: plays the real world.
        settings: with which it plays.
        source: where it came from.
        random: whether it is a random policy.
        models: the run of its V and M, None for the shipped ones, where it can be scored in its dream, too.
        params: C's parameters then, float32 [size], or None.
    """

    player: Player
    settings: Settings
    source: str
    random: bool = False
    models: Path | None = None
    params: np.ndarray | None = None


def build_agent(parsed: argparse.Namespace, task: Task, run: Path, settings: Settings) -> Scored:
    """The agent or the random policy to score."""
    settings = dataclasses.replace(settings, world=dataclasses.replace(settings.world, render=settings.evaluate.render))
    if parsed.policy:
        from controller.random_policy import random_player

        return Scored(random_player(parsed.policy, task, settings.vae.z_size), settings, f"{parsed.policy} policy", random=True)
    if parsed.original:
        return original_agent(parsed.original, task, settings)
    from controller.agent import load_agent

    weights = controller_path(task, run, parsed.run is not None, parsed.weights)
    agent, settings = load_agent(task, settings, run, weights)
    inside = weights.resolve().is_relative_to(REPOSITORY)
    source = str(weights.resolve().relative_to(REPOSITORY) if inside else weights)
    return Scored(agent, settings, source, False, None if weights == shipped("controller", task) else run, agent.candidates[0])


def original_agent(folder: Path, task: Task, settings: Settings) -> Scored:
    """The authors' agent, with their frame processing."""
    from controller.agent import make_agent
    from controller.original import load_original_controller, load_original_rnn, load_original_vae, original_paths
    from rnn.rnn import make_rnn
    from vae.vae import ConvVAE

    paper, world = task.scales["paper"], dataclasses.replace(settings.world, frames="original")
    settings = dataclasses.replace(paper, seed=settings.seed, evaluate=settings.evaluate, world=world)
    vae, rnn = ConvVAE(paper.vae.z_size), make_rnn(task, settings, "float32")
    agent = make_agent(task, settings, vae, rnn)
    params = load_original_controller(folder / "log", agent.policy.size)
    paths = original_paths(folder)
    load_original_rnn(paths.rnn, rnn)
    load_original_vae(paths.vae, vae)
    agent.set_candidates(params[None])
    return Scored(agent, settings, str(folder))


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


def score_agent(ranks: Ranks, task: Task, settings: Settings, agent: Player, stage: Stage | None) -> list[dict[str, Any]]:
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


def open_dream(task: Task, scored: Scored) -> Simulator | None:
    """M's dreams, to score the agent in, where the settings ask for that. Called before the real world is played, for it may
    find that something is missing."""
    if not scored.settings.evaluate.dream_episodes or scored.params is None:
        return None
    from controller.simulate import dream_simulator

    return dream_simulator(task, scored.settings, scored.models)


def score_dream(ranks: Ranks, scored: Scored, simulate: Simulator) -> dict[str, Any]:
    """The agent's score in M's dreams, summarised."""
    from controller.rollout import Job, episode_seed

    assert scored.params is not None
    count = scored.settings.evaluate.dream_episodes
    seeds = [episode_seed(scored.settings.seed, EVALUATION, i) for i in range(count)]
    jobs, table = [Job(i, 0, seed) for i, seed in enumerate(seeds)], np.zeros((count, 2))
    for result in simulate(scored.params[None], ranks.share(jobs)):
        table[result.job.index] = result.score, result.length
    table = ranks.total(table)
    summary = summarise(table[:, 0], table[:, 1].astype(int), np.array(seeds))
    return {"temperature": scored.settings.controller.temperature, "steps": scored.settings.controller.dream_steps} | summary


def is_runs_own(parsed: argparse.Namespace, path: Path, settings: Settings) -> bool:
    """Whether this is the run's own scoring, kept in its folder: of its own agent, with just the settings of the run."""
    saved = saved_settings(path)
    if saved is None or parsed.original or parsed.weights or parsed.policy or not (path / "controller" / "best.npz").exists():
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


def report_scores(task: Task, scored: Scored, rows: list[dict[str, Any]], dream: dict[str, Any] | None) -> dict[str, Any]:
    """Summarise the rows, print the score and the paper's table, and return the JSON."""
    settings, c = scored.settings, scored.settings.controller
    returns, lengths, seeds = (np.array([row[key] for row in rows]) for key in ("return", "length", "seed"))
    paper = row_for(task.name, None if scored.random else c)
    scores: dict[str, Any] = {"task": task.name, "agent": scored.source, "render": settings.world.render, "frames": settings.world.frames}
    scores |= {"max_steps": settings.world.max_steps, "features": c.features, "hidden": c.hidden, "seed": settings.seed}
    scores |= summarise(returns, lengths, seeds)
    scores["paper"] = dataclasses.asdict(paper) if paper else None
    if dream:
        scores["dream"] = dream
    print(score_table(f"ours, {scored.source}", task.name, paper, scores))
    low, high = scores["ci95"]
    print(
        f"\n{task.title}, {len(rows)} episodes, {settings.world.render} drawing: {mean_and_std(scores)} "
        f"(95% interval {low:.1f} .. {high:.1f})" + (f"; paper, {paper.method}: {paper.mean:g} ± {paper.std:g}" if paper else "")
    )
    if dream:
        low, high = dream["ci95"]
        print(
            f"in M's dream at temperature {dream['temperature']:g}, {dream['episodes']} episodes: {mean_and_std(dream)} "
            f"(95% interval {low:.1f} .. {high:.1f})"
        )
    return scores


def evaluate(ranks: Ranks, parsed: argparse.Namespace, task: Task, path: Path, settings: Settings) -> None:
    """Score the agent that the flags name, on all ranks."""
    if parsed.json and (parsed.json.is_dir() or not os.access(parsed.json.resolve().parent, os.W_OK)):
        raise UserError(f"--json {parsed.json} cannot be written: name a file in a folder that is there and yours")
    if sum(map(bool, (parsed.original, parsed.weights, parsed.policy))) > 1:
        raise UserError("--original, --weights and --policy each name who plays: give one of them")
    if parsed.original is None and parsed.policy is None:
        controller_path(task, path, parsed.run is not None, parsed.weights)  # fail before TensorFlow starts
    run = ranks.on_first(lambda: open_own(parsed, path, settings))
    stage = run.stage("evaluate") if run else None
    limit_threads(tensorflow=parsed.policy is None)
    scored = build_agent(parsed, task, path, settings)
    simulate = open_dream(task, scored)
    rows = score_agent(ranks, task, scored.settings, scored.player, stage)
    dream = score_dream(ranks, scored, simulate) if simulate else None
    if not ranks.first:
        return
    scores = report_scores(task, scored, rows, dream)
    if stage:
        write_json(stage.dir / "scores.json", scores)
        summary = {key: scores[key] for key in ("episodes", "mean", "std", "ci95", "render")}
        if dream:
            summary |= {"dream_mean": dream["mean"], "dream_std": dream["std"]}
        stage.finish(summary | {"controller": rows[0]["controller"]})
    if parsed.json:
        write_json(parsed.json, scores)


def main(ranks: Ranks) -> None:
    parsed = add_arguments(parser(__doc__ or "", "evaluate")).parse_args()
    task, path, settings = resolve(parsed, "evaluate")
    evaluate(ranks, parsed, task, path, settings)


if __name__ == "__main__":
    run_ranks(main)
