"""Episodes on disk: one npz each, checked by its CRC and its number, streamed so that memory does not grow with their number.

An episode of T steps holds obs uint8 [T + 1, 64, 64, 3], action float32 [T, A], reward float32 [T] and done bool [T]:
obs[t] is the frame that the agent saw before it took action[t]; reward[t], done[t] and obs[t + 1] are what that action brought.
The last frame, obs[T], is thus what an episode ended with, such as a death: a memory with heads on its own state learns the
reward and the end from it. V, and the paper's M, learn from the T frames before it, as the authors' do.
Of a world whose `info` tells the agent's health, from 1 to 0, there is also health float32 [T + 1], and of one that tells what is
privileged, known in training alone and to no player (Task.privileged), that, K bits in uint8 [T + 1, K / 8 rounded up].
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from env.run.errors import UserError
from env.run.files import DAMAGE, META, check_members, save_arrays

Episode = dict[str, np.ndarray]
FRAMES = ("obs", "action", "reward", "done")
LATENTS = ("mu", "logvar", "action", "reward", "done")
HEALTH, PRIVILEGED = "health", "privileged"
BESIDE = (HEALTH, PRIVILEGED)  # what a world may tell besides, in its `info`, at the start and at each step
WITH_LAST = frozenset(("obs", "mu", "logvar", *BESIDE))  # one more than there are steps


def episode_path(folder: Path, index: int) -> Path:
    """The file of episode `index`."""
    return folder / f"{index:06d}.npz"


def write_episode(path: Path, episode: Episode, compress: bool = True) -> None:
    """Write atomically, with the number that the file's name says, so that one in the place of another is found.

    Args:
        path: by `episode_path`.
        episode: its arrays.
        compress: level 1 of zlib: frames shrink about tenfold at a small part of a rollout's time. Latents hardly do: they are noise.
    """
    save_arrays(path, episode, {"episode": int(path.stem)}, compress=int(compress))


def read_episode(path: Path, keys: tuple[str, ...] = FRAMES) -> Episode:
    """Read the arrays `keys` of one file; with all FRAMES or LATENTS comes what of BESIDE the file has, too.

    Raises:
        UserError: the file is missing, damaged or of an older version, or has nothing of what a world may tell that is among `keys`; the
            message says how to mend it.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            check_members(path, archive)
            more = tuple(key for key in BESIDE if keys in (FRAMES, LATENTS) and key in archive.files)
            if missing := [key for key in keys if key in BESIDE and key not in archive.files]:
                raise UserError(f"{path} has no {missing[0]}, which is asked for: record anew, or ask for it no more")
            episode = {key: archive[key] for key in keys + more}
            steps = len(archive["done"])
            number = json.loads(str(archive[META]))["episode"] if META in archive.files else int(path.stem)
        if number != int(path.stem):
            raise ValueError(f"it is episode {number}")
        found = {key: len(array) - (key in WITH_LAST) for key, array in episode.items()}
        if steps == 0 or any(length not in (steps, steps - (key in WITH_LAST)) for key, length in found.items()):
            raise ValueError("arrays of unequal length")
    except FileNotFoundError:
        raise UserError(f"episode file {path} is missing: run its stage again, it fills the gap") from None
    except DAMAGE as error:
        raise UserError(f"episode file {path} is damaged ({error}): delete it and run its stage again, it fills the gap") from None
    if any(length != steps for length in found.values()):
        raise UserError(f"episode file {path} lacks its last frame, an older version made it: delete {path.parents[1]} and make it anew")
    return episode


def lost_lives(episode: Episode) -> np.ndarray:
    """Which share of a whole life each step cost, float32 [T]: 0.42 for a hit of 42 points of a health of 100, and for the last one,
    if it was deadly, what was left. Healing gives none back. Over a life that ends with a death they sum to one, as `done` does."""
    health = np.where(np.append(False, episode["done"]), 0.0, episode[HEALTH])
    return np.maximum(health[:-1] - health[1:], 0.0).astype(np.float32)


def packed(told: list[np.ndarray]) -> np.ndarray:
    """What a world told of T frames that is privileged, uint8 [K] of 0 and 1 each -> uint8 [T, K / 8 rounded up], eight to a byte."""
    return np.packbits(np.array(told, np.uint8), axis=1)


def unpacked(bits: np.ndarray, count: int) -> np.ndarray:
    """The same back: uint8 [..., count / 8 rounded up] -> uint8 [..., count] of 0 and 1."""
    return np.unpackbits(bits, axis=-1, count=count)


def is_whole(path: Path, keys: tuple[str, ...] = FRAMES) -> bool:
    """Whether the file exists and every byte of `keys` passes its check."""
    try:
        read_episode(path, keys)
    except UserError:
        return False
    return True


def cut_or_missing(folder: Path, indices: Iterable[int]) -> list[int]:
    """Those of the episodes `indices` whose file is missing or was cut short; quick, for it reads the files' ends only."""
    return [index for index in indices if not zipfile.is_zipfile(episode_path(folder, index))]


def steps_of(path: Path) -> int:
    """How many steps an episode has, read without its frames.

    Raises:
        UserError: as `read_episode`.
    """
    return len(read_episode(path, ("done",))["done"])


def frame_batches(
    paths: list[Path], batch: int, rng: np.random.Generator, pool: int = 32, skip: int = 0, beside: tuple[str, ...] = ()
) -> Iterator[tuple[np.ndarray, ...]]:
    """One pass over all frames of `paths`, but the last of each, in random order, each exactly once, as uint8 [batch, 64, 64, 3], and
    with each batch what else of these frames is asked for.

    The original shuffles the whole data set in memory. Here `pool` episodes, drawn in random order, are in memory at a
    time: a frame of the n-th episode is given out at a random moment while episodes n..n+pool-1 are read. With episodes of
    1000 frames, a batch of 100 then mixes frames of 32 episodes, at 12 MB each.

    Args:
        paths: the episodes.
        batch: frames in a batch; the last ones that do not fill a batch are left out.
        rng: decides the whole order.
        pool: episodes in memory.
        skip: so many batches were given out before: what is left is that of the whole pass, and the frames that only they had
            are not read again.
        beside: arrays of the episodes, with a row for each frame, that come with the frames.
    """
    order = rng.permutation(len(paths))
    read: dict[int, list[np.ndarray]] = {}  # turn in which an episode came up -> its frames, and what is beside them
    waiting: dict[int, np.ndarray] = {}  # the same -> the turns in which its frames are given out

    def rows_of(turn: int) -> list[np.ndarray]:
        if turn not in read:
            episode = read_episode(paths[order[turn]], ("obs", *beside))
            read[turn] = [episode[key][: len(episode["obs"]) - 1] for key in ("obs", *beside)]
        return read[turn]

    rest = np.empty((0, 2), np.int64)  # frames, as (turn in which their episode came up, number in it)
    for turn in range(len(paths) + pool - 1):
        if turn < len(paths):
            steps = steps_of(paths[order[turn]]) if skip else len(rows_of(turn)[0])
            waiting[turn] = turn + rng.integers(0, pool, steps)
        given = [np.stack(np.broadcast_arrays(other, np.flatnonzero(when == turn)), axis=1) for other, when in waiting.items()]
        share = np.concatenate([rest, *given])
        share = share[rng.permutation(len(share))]
        whole = len(share) - len(share) % batch
        for start in range(0, whole, batch):
            if skip:
                skip -= 1
                continue
            chosen = [[array[number] for array in rows_of(other)] for other, number in share[start : start + batch]]
            yield tuple(map(np.stack, zip(*chosen)))
        rest = share[whole:]
        waiting = {other: when for other, when in waiting.items() if when.max(initial=-1) > turn}
        read = {other: rows for other, rows in read.items() if other in waiting or (rest[:, 0] == other).any()}
