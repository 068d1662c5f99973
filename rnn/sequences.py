"""From encoded episodes on disk to M's training batches, in the two ways of the original."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from env.episodes import PRIVILEGED, Episode, episode_path, read_episode, unpacked
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


def batches(episodes: Episodes, settings: Settings, done: int, privileged: int = 0) -> Iterator[Batch]:
    """The batches of all training steps after `done`, with the `privileged` answers if M learns any; a step's batch depends on the seed and
    its number alone."""
    if settings.rnn.sequences == "episodes":
        for step in range(done, settings.rnn.steps):
            yield episodes_batch(episodes, settings, step, privileged)
        return
    per_epoch = int(episodes.lengths.sum()) // (settings.rnn.batch * settings.rnn.window)
    epoch, step = divmod(done, per_epoch)
    while True:
        rng = np.random.default_rng([settings.seed, 2, epoch])
        yield from stream_batches(episodes, settings.rnn.batch, settings.rnn.window, rng, step, privileged)
        epoch, step = epoch + 1, 0


def episodes_batch(episodes: Episodes, settings: Settings, step: int, privileged: int = 0) -> Batch:
    """Different episodes drawn at random, cut to the window from a random start (original carracing/rnn_train.py)."""
    rng = np.random.default_rng([settings.seed, 2, step])
    sequences, firsts = [], []
    for choice in rng.choice(len(episodes.paths), settings.rnn.batch, replace=False):
        episode = _learned(episodes.paths[choice], privileged)
        length = settings.rnn.window or len(episode["mu"])
        start = rng.integers(0, len(episode["mu"]) - length + 1)
        sequences.append([array[start : start + length] for array in episode.values()])
        firsts.append(np.arange(start, start + length) == 0)
    return _batch((*zip(*sequences), firsts))


def _batch(parts: Iterable[Sequence[np.ndarray]]) -> Batch:
    """Rows of the arrays KEYS, of the privileged answers, and of whether a frame is its episode's first -> a batch of them."""
    mu, logvar, action, reward, done, answers, first = map(np.stack, parts)
    batch = as_batch(mu, logvar, action, first.astype(np.float32), reward, done.astype(np.float32))
    return batch._replace(privileged=answers)


def _learned(path: Path, privileged: int) -> Episode:
    """The arrays KEYS of an episode, and the `privileged` answers of each frame, uint8 [T, privileged], each without what came after the
    last action: the paper's M is not told of it.

    Raises:
        UserError: the episode tells of other questions.
    """
    episode = read_episode(path, (*KEYS, PRIVILEGED) if privileged else KEYS)
    steps = len(episode["action"])
    bits = episode[PRIVILEGED] if privileged else np.empty((steps, 0), np.uint8)
    if bits.shape[1] != -(-privileged // 8):
        raise UserError(f"{path} does not tell the {privileged} privileged answers that beta_privileged asks for: record anew")
    return {key: episode[key][:steps] for key in KEYS} | {PRIVILEGED: unpacked(bits[:steps], privileged)}


def stream_batches(
    episodes: Episodes, rows: int, window: int, rng: np.random.Generator, skip: int = 0, privileged: int = 0
) -> Iterator[Batch]:
    """One epoch: all episodes, shuffled and joined into one stream, cut into `rows` equal parts that are read side by side,
    a window at a time (original doomrnn/rnn_train.py, create_batches). What does not fill the last windows is left out.

    Args:
        episodes: at least rows * window frames.
        rows, window: a batch is [rows, window].
        rng: decides the order.
        skip: batches at the start to leave out.
        privileged: how many answers come with each frame.
    """
    order = rng.permutation(len(episodes.paths))
    paths, lengths = [episodes.paths[i] for i in order], episodes.lengths[order]
    count = int(lengths.sum()) // (rows * window)
    parts = [_frames_from(paths, lengths, (row * count + skip) * window, window, privileged) for row in range(rows)]
    for number in range(skip, count):
        yield _batch(zip(*(next(part) for part in parts)))._replace(fresh=np.array(number == 0))


def _frames_from(
    paths: list[Path], lengths: np.ndarray, start: int, window: int, privileged: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Windows of the joined stream from frame `start` on: what `_batch` takes. Holds two episodes at most, unless a window is longer."""
    ends = np.cumsum(lengths)
    number = int(np.searchsorted(ends, start, side="right"))
    offset = start - int(ends[number] - lengths[number])
    held: list[tuple[np.ndarray, ...]] = []
    while True:
        while sum(len(arrays[0]) for arrays in held) < window:
            if number == len(paths):
                return
            episode = _learned(paths[number], privileged)
            if len(episode["mu"]) != lengths[number]:
                raise UserError(f"{paths[number]} has {len(episode['mu'])} frames, its log says {lengths[number]}: record and encode anew")
            first = np.arange(lengths[number]) == 0
            held.append(tuple(array[offset:] for array in (*episode.values(), first)))
            number, offset = number + 1, 0
        joined = [np.concatenate(arrays) for arrays in zip(*held)]
        yield tuple(array[:window] for array in joined)
        held = [tuple(array[window:] for array in joined)]
