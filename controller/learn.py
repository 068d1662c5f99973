"""Let C learn as an actor in M's imagination, beside a critic: the trainer actor_critic, in the place of CMA-ES.

    python controller/learn.py doom --memory rssm --trainer actor_critic --run runs/doom-rssm-actor_critic
    python controller/learn.py carracing --memory rssm --trainer actor_critic --actor-critic-updates 40000

--world dream: M stays as it is, dreams start from the recorded episodes, and C is scored in dreams: all that C knows of the game is M.
--world real: in turns the actor plays some episodes of the real game, and M, actor and critic learn from all that was played so far,
beginning with the first recorded episodes (Dreamer's procedure); C is scored in the game. M goes on from the rnn stage's.

Writes RUN/controller: best.npz (C at its best scoring, or the one that learning began with, --start, while none is better; with it
memory.npz, where M learns, too, and critic.npz, with which another run goes on that names this one by --start), mean.npz (at the last
scoring, whose M is not kept where it learns), log.jsonl, checkpoints/, and played/*.npz, the latents of what was played. The same
command resumes.
One process, which takes all cores, or the GPU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.learning import Learning
from env.actions import Discrete
from env.rollout import Job, WorldLanes, Worlds, rollout
from env.run.command import duration, existing, parser, progress, resolve, run_command
from env.run.compute import start_tensorflow
from env.run.errors import UserError
from env.run.files import JsonlLog, load_arrays
from env.run.rundir import Run
from env.run.settings import Settings
from env.run.stopping import asked_to_stop
from env.run.weights import model_paths
from env.tasks import Task
from rnn.sequences import usable_episodes

if TYPE_CHECKING:
    from controller.agent import Agent

TELL_EVERY = 30.0  # seconds between lines where there is no terminal for a progress bar


def make_scorer(learning: Learning) -> Callable[[], np.ndarray]:
    """What plays the scoring's episodes with C, and M, as they are at the moment: -> scores float64 [eval_episodes]. It raises Stopped as
    `learning` does."""
    from functools import partial

    from controller.agent import make_agent
    from controller.simulate import dream_lanes, play_lanes
    from controller.train import scoring_seeds
    from rnn.dream import Beginnings

    task, settings, run = learning.task, learning.settings, learning.run.path
    jobs = [Job(i, 0, int(seed)) for i, seed in enumerate(scoring_seeds(settings)[0])]
    if learning.online:
        worlds = Worlds.of(task, settings.world)
        agents: list[Agent] = []

        def play(candidates: np.ndarray) -> Iterator[Any]:
            if not agents or learning.learns_to_see:  # an agent keeps the V that it was made with
                agents[:] = [make_agent(task, settings, learning.vae, learning.memory)]
            agents[0].set_candidates(candidates)
            return rollout(WorldLanes(worlds, agents[0]), jobs, learning.pulse)
    else:
        beginnings = Beginnings.load(model_paths(task.name, run).initial, settings.vae.z_size)
        dreams = dream_lanes(task, settings, learning.memory, beginnings)
        play = partial(play_lanes, dreams, jobs=jobs, pulse=learning.pulse)

    def score() -> np.ndarray:
        scores = np.zeros(len(jobs))
        for result in play(learning.candidate()[None]):
            scores[result.job.index] = result.score
        return scores

    return score


def check_actor(task: Task, settings: Settings) -> None:
    """Raise UserError when the settings ask for what this game's actions do not allow."""
    if settings.trainer != "actor_critic":
        raise UserError("this run's trainer is cmaes: evolve C with controller/train.py, or give --trainer actor_critic for a new run")
    if settings.actor_critic.gradient == "dynamics" and isinstance(task.actions, Discrete):
        raise UserError("actor_critic.gradient is dynamics, but no gradient goes through an action that is a number: take reinforce")


def learn(run: Run, task: Task) -> None:
    """The controller stage of a run whose trainer is actor_critic."""
    settings, stage = run.settings, run.stage("controller")
    check_actor(task, settings)
    if stage.check():
        print(f"controller: finished already in {stage.dir}")
        return
    if not run.stage("rnn").check():
        raise UserError(f"{run.path} has no trained M: run rnn/train.py {task.word} --run {run.path} first")
    usable_episodes(run)
    start_tensorflow()
    stage.start()
    with asked_to_stop() as asked:
        learning = Learning(run, task, asked)
        learn_on(learning, JsonlLog(stage.log, keep=lambda row: row["update"] <= learning.updates, steps="update"))
    stage.finish({"updates": learning.updates, "steps": learning.steps, "best": learning.best})
    print(f"controller: {learning.updates} updates, {learning.steps} steps played, best {learning.best:.1f} -> {stage.dir / 'best.npz'}")


def learn_on(learning: Learning, log: JsonlLog) -> None:
    """All rounds that are left.

    Raises:
        Stopped: see Learning; and UserError where a loss is no number.
    """
    options, score = learning.settings.actor_critic, make_scorer(learning)
    where = "the real world" if learning.online else f"dreams at temperature {learning.settings.controller.temperature:g}"
    print(f"controller: actor and critic learn in imagination, scored in {where}; {options.updates} updates", flush=True)
    bar = progress(desc="controller", total=options.updates, initial=learning.updates, unit="update")
    began, first = time.monotonic(), learning.updates
    told, begun = began, first_score(learning, score)
    while learning.updates < options.updates:
        learning.learn_round()
        scoring = time.monotonic()
        scores = score() if learning.due else None
        row, begun = learning.finish_round() | begun, {}
        bar.update(learning.updates - bar.n)
        if scores is not None:
            row |= learning.keep(scores) | {"eval_seconds": time.monotonic() - scoring}
        log.append(row)
        now = time.monotonic()
        if bar.disable and (now - told >= TELL_EVERY or "eval" in row):
            left = (now - began) / (learning.updates - first) * (options.updates - learning.updates)
            words = [f"{name} {row[key]:.1f}" for name, key in (("played", "played"), ("scored", "eval"), ("value", "value")) if key in row]
            print(f"controller: update {learning.updates} of {options.updates}, {', '.join(words)}, {duration(left)} left", flush=True)
            told = now
        if learning.checkpoints.due() or learning.updates == options.updates or "eval" in row:
            learning.save()
    bar.close()
    if learning.updates < options.eval_every or not np.isfinite(learning.best):  # ended before any scoring was due
        learning.keep(score(), unplanned=True)
        learning.save()


def first_score(learning: Learning, score: Callable[[], np.ndarray]) -> dict[str, float]:
    """Score the C that learning begins with, if the settings name one: it is kept until a better one is found, by the same episodes.
    Returns what the first row gets."""
    if learning.updates or not learning.settings.controller.start:
        return {}
    if not learning.begun:  # else it was scored before the process was stopped, in the first round
        learning.keep(score())
    note = load_arrays(learning.folder / "best.npz")[1]
    return {"start": note["score"], "start_std": note["std"]}


def main() -> None:
    parsed = parser(__doc__ or "", "controller").parse_args()
    task, path, settings = resolve(parsed, "controller")
    learn(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
