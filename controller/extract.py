"""Record episodes: the data that V and M learn from.

    python controller/extract.py carracing
    mpirun -np 8 python controller/extract.py carracing --episodes 1000
    python controller/extract.py carracing --policy controller --run runs/driven
    python controller/extract.py carracing --policy controller --agent runs/carracing --run runs/driven
    python controller/extract.py doom --policy mirrored --pool runs/doom --run runs/both

Writes RUN/extract/episodes/*.npz (obs, action, reward, done; see env/episodes.py) and log.jsonl. Exactly the asked number of episodes is
recorded, whatever the number of processes; episode i is the same on all of them. The same command resumes, and replaces
files that are missing or damaged.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported; a rank has one core

from collections.abc import Callable

import numpy as np

from env.episodes import PRIVILEGED, Episode, cut_or_missing, episode_path, is_whole, read_episode, write_episode
from env.random_policy import Exploring, random_player
from env.recordings import pooled, pooled_rows
from env.rollout import Job, Player, Purpose, WorldLanes, Worlds, episode_seed, rollout
from env.run.command import parser, progress, resolve
from env.run.compute import limit_threads
from env.run.errors import UserError
from env.run.files import JsonlLog
from env.run.ranks import Ranks, run_ranks
from env.run.rundir import Run
from env.run.settings import Settings
from env.run.weights import controller_path
from env.tasks import Task

MOST_ATTEMPTS = 100  # at an episode of min_frames


def make_player(task: Task, settings: Settings) -> Player:
    """The player that `extract.policy` names: a random policy, or the agent of another run, or the shipped one."""
    if settings.extract.policy != "controller":
        return random_player(settings.extract.policy, task, settings.vae.z_size)
    from controller.agent import load_agent, load_controller, load_teacher
    from controller.told import is_told

    other = Path(settings.extract.agent) if settings.extract.agent else None
    weights = controller_path(task.name, other or Path(), other is not None, use_shipped=other is None)
    # It may have been made to hold its actions for another time; here it is asked as often as the recordings have steps.
    asked = replace(settings, world=replace(settings.world, repeat=1))
    shown = load_controller(weights, task, asked)[1]
    agent = load_teacher(task, asked, weights)[0] if is_told(shown) else load_agent(task, asked, other or Path(), weights)[0]
    return Exploring(agent, task, settings.extract.explore) if settings.extract.explore else agent


def recording_seeds(run: Path, settings: Settings) -> Callable[..., int]:
    """The number of an episode of the run's own, and of a further attempt at it -> its seed. Pooled episodes come first in the count:
    those of all rounds of a run are then different games."""
    first = len(pooled_rows(run, settings, 0))

    def seed(index: int, *attempt: int) -> int:
        return episode_seed(settings.seed, Purpose.RECORDING, first + index, *attempt)

    return seed


def record_episodes(ranks: Ranks, run: Path, task: Task, settings: Settings, indices: list[int]) -> None:
    """Record this rank's share of the episodes `indices` into the run."""
    folder = run / "extract" / "episodes"
    extract = settings.extract
    seed = recording_seeds(run, settings)
    jobs = [Job(i, 0, seed(i)) for i in ranks.share(indices)]
    if not jobs:
        return
    attempts = dict.fromkeys(ranks.share(indices), 0)
    worlds = Worlds.of(task, settings.world, past_done=extract.past_done)
    lanes = WorldLanes(worlds, make_player(task, settings), record=True, past_done=extract.past_done)
    bar = progress(desc="extract", total=len(indices), unit="episode") if ranks.first else None
    while jobs:
        again: list[Job] = []
        for result in rollout(lanes, jobs, ranks.pulse):
            index = result.job.index
            if result.length < settings.world.steps(extract.min_frames):
                attempts[index] += 1
                if attempts[index] == MOST_ATTEMPTS:
                    raise UserError(f"extract.min_frames is {extract.min_frames}, which no episode of {MOST_ATTEMPTS} reached: lower it")
                again.append(Job(index, 0, seed(index, attempts[index])))
                continue
            assert result.episode is not None
            write_episode(episode_path(folder, index), result.episode)
            if bar is not None:
                bar.update(min(ranks.size, bar.total - bar.n))
        jobs = again
    worlds.close()
    if bar is not None:
        bar.close()


def mirrored(episode: Episode, task: Task) -> Episode:
    """An episode as it looks in a mirror, left for right, without what is privileged: how that looks there is not known."""
    episode = {key: array for key, array in episode.items() if key != PRIVILEGED}
    flipped = np.ascontiguousarray(episode["obs"][:, :, ::-1])
    return episode | {"obs": flipped, "action": episode["action"] * np.array(task.mirror, np.float32)}


def mirror_episodes(ranks: Ranks, run: Path, task: Task, settings: Settings, indices: list[int]) -> None:
    """Write this rank's share of the episodes `indices` into the run: mirror images of those that it has pooled, in their order."""
    sources = pooled(run, settings)
    for index in ranks.share(indices):
        ranks.pulse()
        write_episode(episode_path(run / "extract" / "episodes", index), mirrored(read_episode(sources[index]), task))


def check_sources(path: Path, task: Task, settings: Settings) -> None:
    """Refuse, before hours of play, what cannot be pooled or mirrored.

    Raises:
        UserError: see `pooled`; or the game is another one in a mirror; or fewer episodes are pooled than are to be mirrored.
    """
    sources = pooled(path, settings)
    if settings.extract.policy != "mirrored":
        return
    if not task.mirror:
        raise UserError(f"extract.policy is mirrored, but {task.word} is not known to be the same game left for right: take another")
    if len(sources) < settings.extract.episodes:
        asked = f"extract.episodes is {settings.extract.episodes}"
        raise UserError(f"{asked}, but extract.pool has {len(sources)} to mirror: take no more, or record more there")


def whole(ranks: Ranks, path: Path) -> bool:
    """`is_whole`, by a rank that has many to look at."""
    ranks.pulse()
    return is_whole(path)


def write_log(run: Run, ranks: Ranks) -> dict[str, float]:
    """One row for each episode, read from the files, and for each that is pooled; returns the summary."""
    stage = run.stage("extract")
    rows, scores, frames = [], [], 0
    for index in range(run.settings.extract.episodes):
        ranks.pulse()
        reward = read_episode(episode_path(stage.dir / "episodes", index), ("reward",))["reward"]
        rows.append({"episode": index, "score": float(reward.sum()), "length": len(reward)})
        scores.append(float(reward.sum()))
        frames += len(reward)
    others = pooled_rows(run.path, run.settings, len(rows))
    JsonlLog(stage.log, rows=rows + others)
    summary = {"pooled_episodes": len(others), "pooled_frames": sum(row["length"] for row in others)} if others else {}
    return summary | {"episodes": len(scores), "frames": frames, "mean_score": float(np.mean(scores)), "std_score": float(np.std(scores))}


def extract_run(ranks: Ranks, task: Task, path: Path, settings: Settings) -> None:
    """The extract stage of a run, on all ranks."""
    run = ranks.on_first(lambda: Run(path, settings))
    ranks.on_first(lambda: check_sources(path, task, settings))
    ranks.check_shared(path)
    finished = bool(ranks.broadcast(np.array([run.stage("extract").check() if run else False]))[0])
    folder = path / "extract" / "episodes"
    everything = list(range(settings.extract.episodes))
    damaged = np.zeros(len(everything), np.int64)
    own = ranks.share(everything)
    # A finished stage is looked over quickly, an interrupted one byte by byte.
    bad = cut_or_missing(folder, own) if finished else [i for i in own if not whole(ranks, episode_path(folder, i))]
    damaged[bad] = 1
    missing = [int(i) for i in np.flatnonzero(ranks.total(damaged))]
    if finished and not missing:
        if ranks.first:
            print(f"extract: finished already in {path / 'extract'}")
        return
    if run:
        run.stage("extract").start()
        folder.mkdir(parents=True, exist_ok=True)
    ranks.broadcast(np.zeros(1))  # the folder is there
    make = mirror_episodes if settings.extract.policy == "mirrored" else record_episodes
    make(ranks, path, task, settings, missing)
    ranks.total(np.zeros(1))  # all ranks are done
    if run:
        summary = write_log(run, ranks)
        run.stage("extract").finish(summary)
        print(f"extract: {len(everything)} episodes, mean score {summary['mean_score']:.1f} -> {folder}")


def main(ranks: Ranks) -> None:
    parsed = parser(__doc__ or "", "extract").parse_args()
    task, path, settings = resolve(parsed, "extract")
    limit_threads(tensorflow=settings.extract.policy == "controller")
    extract_run(ranks, task, path, settings)


if __name__ == "__main__":
    run_ranks(main)
