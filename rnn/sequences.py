"""From encoded episodes on disk to M's training batches, in the two ways of the original."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from env.episodes import Episode, episode_path, read_episode
from env.run.errors import UserError
from env.run.files import read_jsonl
from env.run.rundir import Run
from env.run.settings import Settings
from rnn.memory import KINDS, Batch, as_batch

KEYS = ("mu", "logvar", "action", "reward", "done")


class Episodes(NamedTuple):
    """Encoded episodes: their files, and their lengths in frames."""

    paths: list[Path]
    lengths: np.ndarray


def usable_episodes(run: Run) -> Episodes:
    """The encoded episodes that M can learn from.

    Raises:
        UserError: the encode stage is not finished, or the episodes are too few or too short for a batch.
    """
    settings = run.settings
    rnn = settings.rnn
    if not run.stage("encode").check():
        raise UserError(f"{run.path} has no latents: run vae/encode.py {settings.task} --run {run.path} first")
    lengths = {row["episode"]: row["length"] for row in read_jsonl(run.stage("extract").log)}
    if KINDS[settings.memory].replayed:
        return _all_of(run, lengths)
    if rnn.sequences == "stream":
        frames = sum(lengths.values())
        if frames < rnn.batch * rnn.window:
            raise UserError(f"the recordings have {frames} frames, a batch {rnn.batch} x {rnn.window}: take a smaller batch or window")
        chosen = sorted(lengths)
    else:
        if not rnn.window and len(set(lengths.values())) > 1:
            raise UserError("rnn.window is 0 (whole episodes), but the recorded episodes differ in length: give a --window, such as 100")
        chosen = sorted(i for i, length in lengths.items() if length >= rnn.window)
        if len(chosen) < rnn.batch:
            raise UserError(
                f"rnn.batch is {rnn.batch}, but only {len(chosen)} episodes have {rnn.window} frames: take a smaller batch or window"
            )
    return _all_of(run, {i: lengths[i] for i in chosen})


def _all_of(run: Run, lengths: dict[int, int]) -> Episodes:
    folder = run.path / "encode" / "latents"
    return Episodes([episode_path(folder, i) for i in sorted(lengths)], np.array([lengths[i] for i in sorted(lengths)]))


def batches(episodes: Episodes, settings: Settings, done: int) -> Iterator[Batch]:
    """The batches of all training steps after `done`; a step's batch depends on the seed and its number alone."""
    if settings.rnn.sequences == "episodes":
        for step in range(done, settings.rnn.steps):
            yield episodes_batch(episodes, settings, step)
        return
    per_epoch = int(episodes.lengths.sum()) // (settings.rnn.batch * settings.rnn.window)
    epoch, step = divmod(done, per_epoch)
    while True:
        rng = np.random.default_rng([settings.seed, 2, epoch])
        yield from stream_batches(episodes, settings.rnn.batch, settings.rnn.window, rng, step)
        epoch, step = epoch + 1, 0


def episodes_batch(episodes: Episodes, settings: Settings, step: int) -> Batch:
    """Different episodes drawn at random, cut to the window from a random start (original carracing/rnn_train.py)."""
    rng = np.random.default_rng([settings.seed, 2, step])
    sequences, firsts = [], []
    for choice in rng.choice(len(episodes.paths), settings.rnn.batch, replace=False):
        episode = _learned(episodes.paths[choice])
        length = settings.rnn.window or len(episode["mu"])
        start = rng.integers(0, len(episode["mu"]) - length + 1)
        sequences.append([episode[key][start : start + length] for key in KEYS])
        firsts.append(np.arange(start, start + length) == 0)
    mu, logvar, action, reward, done = (np.stack(parts) for parts in zip(*sequences))
    done = done.astype(np.float32)
    return as_batch(mu, logvar, action, np.stack(firsts).astype(np.float32), reward, done)


def _learned(path: Path) -> Episode:
    """The arrays KEYS of an episode, each without what came after the last action: the paper's M is not told of it."""
    episode = read_episode(path, KEYS)
    return {key: array[: len(episode["action"])] for key, array in episode.items()}


def stream_batches(episodes: Episodes, rows: int, window: int, rng: np.random.Generator, skip: int = 0) -> Iterator[Batch]:
    """One epoch: all episodes, shuffled and joined into one stream, cut into `rows` equal parts that are read side by side,
    a window at a time (original doomrnn/rnn_train.py, create_batches). What does not fill the last windows is left out.

    Args:
        episodes: at least rows * window frames.
        rows, window: a batch is [rows, window].
        rng: decides the order.
        skip: batches at the start to leave out.
    """
    order = rng.permutation(len(episodes.paths))
    paths, lengths = [episodes.paths[i] for i in order], episodes.lengths[order]
    count = int(lengths.sum()) // (rows * window)
    parts = [_frames_from(paths, lengths, (row * count + skip) * window, window) for row in range(rows)]
    for number in range(skip, count):
        mu, logvar, action, reward, done, restart = (np.stack(arrays) for arrays in zip(*(next(part) for part in parts)))
        done = done.astype(np.float32)
        yield as_batch(mu, logvar, action, restart, reward, done)._replace(fresh=np.array(number == 0))


def _frames_from(paths: list[Path], lengths: np.ndarray, start: int, window: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Windows of the joined stream from frame `start` on: the arrays KEYS, and restart. Holds two episodes at most, unless a
    window is longer."""
    ends = np.cumsum(lengths)
    number = int(np.searchsorted(ends, start, side="right"))
    offset = start - int(ends[number] - lengths[number])
    held: list[tuple[np.ndarray, ...]] = []
    while True:
        while sum(len(arrays[0]) for arrays in held) < window:
            if number == len(paths):
                return
            episode = _learned(paths[number])
            if len(episode["mu"]) != lengths[number]:
                raise UserError(f"{paths[number]} has {len(episode['mu'])} frames, its log says {lengths[number]}: record and encode anew")
            restart = (np.arange(lengths[number]) == 0).astype(np.float32)
            held.append(tuple(array[offset:] for array in (*(episode[key] for key in KEYS), restart)))
            number, offset = number + 1, 0
        joined = [np.concatenate(arrays) for arrays in zip(*held)]
        yield tuple(array[:window] for array in joined)
        held = [tuple(array[window:] for array in joined)]
