"""What was played, kept in memory to learn from again and again: latents, actions, rewards and ends."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from env.episodes import FRAMES, HEALTH, LATENTS, PRIVILEGED, Episode, lost_lives, read_episode, unpacked
from env.run.errors import UserError
from rnn.memory import Batch

MOST_MEMORY = 0.7  # of the machine's
FRESH = 4  # a batch takes at most one in so many of its sequences from what was not learned from yet
NEAR = 40  # steps: so long before an episode's end a sequence ends that is cut near it, at most


class Replay:
    """Episodes joined to one stream, in the order in which they came, from which sequences are cut at random places.

    A sequence may run from one episode into the next (`Batch.first` says where), so that each frame, an episode's last and its death,
    too, is as likely to be learned from as any other: cut within episodes, their ends would be the rarest.

    Args:
        capacity: frames kept; the oldest make room for new ones.
        z_size, actions: sizes of z and of an action.
        with_last: keep each episode's last frame, the one after its last action (rnn/memory.py, Memory).
        pixels: keep frames instead of latents.
        health: learn ends from the agent's health (env/episodes.py, lost_lives) instead of from deaths.
        privileged: keep so many numbers of what the world tells in training alone (Batch.privileged).

    Raises:
        UserError: so much would not fit into this machine's memory.
    """

    def __init__(
        self,
        capacity: int,
        z_size: int,
        actions: int,
        with_last: bool,
        pixels: bool = False,
        health: bool = False,
        privileged: int = 0,
    ) -> None:
        self._capacity, self._with_last, self._pixels, self._health, self._privileged = capacity, with_last, pixels, health, privileged
        bits = -(-privileged // 8)  # bytes that they are kept in
        size = capacity * ((64 * 64 * 3 if pixels else 4 * z_size) + 4 * (actions + 4) + bits)
        if size > MOST_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            raise UserError(f"a capacity of {capacity} frames takes {size / 1e9:.0f} GB, more than this machine can give: lower it")
        # Not touched before they are written to, so that they take up no memory until then.
        self._arrays: dict[str, np.ndarray] = {
            "mu": np.empty((capacity, 64, 64, 3), np.uint8) if pixels else np.empty((capacity, z_size), np.float16),
            "logvar": np.empty((capacity, 0 if pixels else z_size), np.float16),
            "action": np.empty((capacity, actions), np.float32),
            "reward": np.empty(capacity, np.float32),
            "done": np.empty(capacity, np.float32),
            "first": np.empty(capacity, np.float32),
            "lost": np.empty(capacity, np.float32),
            "privileged": np.empty((capacity, bits), np.uint8),
        }
        self._added = 0  # frames, those that made room included
        self._unseen: list[tuple[int, int]] = []  # frames from, to, counted from the first that was ever added
        self._ends: list[int] = []  # frames whose action ended an episode

    def __len__(self) -> int:
        """Frames kept."""
        return min(self._added, self._capacity)

    def add(self, episode: Episode) -> None:
        """Keep an episode (env/episodes.py): encoded (LATENTS), or as it was recorded (FRAMES)."""
        steps = len(episode["done"])
        frames = steps + self._with_last
        rows = {key: np.zeros((frames, *array.shape[1:]), array.dtype) for key, array in self._arrays.items()}
        for key, source in (("mu", "obs"),) if self._pixels else (("mu", "mu"), ("logvar", "logvar")):
            rows[key][:] = episode[source][:frames]
        for key in ("action", "reward", "done"):  # nothing was done at the last frame
            rows[key][:steps] = episode[key]
        rows["lost"][:steps] = lost_lives(episode) if self._health else episode["done"]
        if self._privileged:
            rows["privileged"][:] = episode[PRIVILEGED][:frames]
        rows["first"][0] = 1
        place = np.arange(self._added, self._added + frames) % self._capacity
        for key, array in self._arrays.items():
            array[place] = rows[key]
        self._unseen.append((self._added, self._added + frames))
        self._ends += (self._added + np.flatnonzero(rows["done"])).tolist()
        self._added += frames
        while self._ends and self._ends[0] < self._added - len(self):
            self._ends.pop(0)

    def all_seen(self) -> None:
        """Let nothing that was added so far count as not learned from yet."""
        self._unseen = []

    def sample(self, rng: np.random.Generator, rows: int, window: int, near_ends: float = 0.0) -> Batch:
        """A batch of sequences [rows, window], some of them from frames that were not learned from yet, while there are any.

        Args:
            rng: decides it.
            rows, window: its size.
            near_ends: share of the sequences that end up to NEAR steps before an episode's end, or with it.

        Raises:
            ValueError: less is kept than a sequence.
        """
        if len(self) < window:
            raise ValueError(f"{len(self)} frames are kept, a sequence needs {window}")
        starts = self._added - len(self) + rng.integers(0, len(self) - window + 1, rows)
        fresh = self._fresh_starts(max(1, rows // FRESH), window)
        starts[: len(fresh)] = fresh
        near = min(round(near_ends * rows), rows - len(fresh)) if self._ends else 0
        if near:
            last = np.array(self._ends)[rng.integers(0, len(self._ends), near)] + self._with_last - rng.integers(0, NEAR + 1, near)
            starts[rows - near :] = np.clip(last + 1 - window, self._added - len(self), self._added - window)
        place = (starts[:, None] + np.arange(window)) % self._capacity
        cut = {key: array[place] for key, array in self._arrays.items()}
        cut[PRIVILEGED] = unpacked(cut[PRIVILEGED], self._privileged)
        return Batch(**cut, fresh=np.array(True))

    def _fresh_starts(self, most: int, window: int) -> list[int]:
        """Where up to `most` sequences of unseen frames start; these count as seen from now on."""
        starts: list[int] = []
        while self._unseen and len(starts) < most:
            begin, end = self._unseen[0]
            starts.append(int(np.clip(begin, self._added - len(self), self._added - window)))
            self._unseen[0] = (begin + window, end)
            if begin + window >= end:
                self._unseen.pop(0)
        return starts

    def check(self, window: int) -> None:
        """Raise UserError when less is kept than a sequence."""
        if len(self) < window:
            raise UserError(f"{len(self)} frames are kept to learn from, a sequence needs {window}: record more, or take a smaller window")

    def fill(self, paths: list[Path]) -> None:
        """Keep episodes from files, as many as fit; the last ones of `paths` are left out if not all do."""
        for path in paths:
            episode = read_episode(path, FRAMES if self._pixels else LATENTS)
            if self._health and HEALTH not in episode:
                raise UserError(f"{path} tells of no health, which rssm.ends_from asks for: record anew, or take --rssm-ends-from deaths")
            if self._privileged and episode.get(PRIVILEGED, np.empty((0, 0))).shape[1] != self._arrays[PRIVILEGED].shape[1]:
                what = f"{path} does not tell the {self._privileged} privileged answers"
                raise UserError(f"{what} that rssm.beta_privileged asks for: record anew, or leave that at 0")
            if len(self) + len(episode["done"]) + 1 > self._capacity:
                break
            self.add(episode)
        if not self._added:
            raise UserError(f"the capacity of {self._capacity} frames is less than an episode has: raise it")
