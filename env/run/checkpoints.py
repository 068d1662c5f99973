"""Checkpoints: what a killed stage goes on from. Plain arrays, each file whole or not there, the last few of them.

    RUN/<stage>/checkpoints/000001200.npz       the stage after its step 1200

A zip archive holds a checksum of each array, and of the description, which says what the checkpoint belongs to.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from env.run.errors import UserError
from env.run.files import load_arrays, save_arrays

KEPT = 3
SHARE = 125  # between two lies this many times what one takes, if there is a choice: with C's journal, at most a hundredth of the time
FOLDER = "checkpoints"


class Checkpoint(NamedTuple):
    """One of them.

    Attributes:
        number: the step, update or generation that it was made after.
        arrays, meta: what `Checkpoints.save` was given.
    """

    number: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Checkpoints:
    """A stage's checkpoints.

    Args:
        stage: the stage's folder.
        owner: what they belong to (env/run/stages.py, Stage.identity): one of another run, put there, is taken for damaged.
    """

    def __init__(self, stage: Path, owner: str) -> None:
        self._folder, self._stage, self._owner = stage / FOLDER, stage, owner
        self._saved, self._took = time.monotonic(), 0.0

    def due(self, least: float = 0.0) -> bool:
        """Whether enough time has passed since the last one, or since a stage began: SHARE times what that took, and `least` seconds."""
        return time.monotonic() - self._saved >= max(least, SHARE * self._took)

    def save(self, number: int, arrays: dict[str, np.ndarray], meta: dict[str, Any] | None = None) -> None:
        """Write one; when it has reached the disk, the oldest goes."""
        began = time.monotonic()
        save_arrays(self._path(number), arrays, {"number": number, "owner": self._owner, "kept": meta or {}})
        for path in self._paths()[KEPT:]:
            path.unlink(missing_ok=True)
        self._saved = time.monotonic()
        self._took = self._saved - began

    def latest(self) -> Checkpoint | None:
        """The newest one that is whole; None where there is none and none is missed. Damaged ones are named, and set aside.

        Raises:
            UserError: all are damaged, or all are gone though the stage's log has rows: nothing is ever begun anew unasked.
        """
        paths, bad = self._paths(), []
        for path in paths:
            try:
                found = self._read(path)
            except UserError as error:
                bad.append(error)
                continue
            for reason, damaged in zip(bad, paths):
                print(f"warning: {reason}; going on from {path.name}, {found.number}", file=sys.stderr, flush=True)
                damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))  # not deleted: a disk may only have been away
            return found
        if bad:
            raise UserError(f"{bad[0]}, and so are all others in {self._folder}: restore one, or delete {self._stage} to make it again")
        log = self._stage / "log.jsonl"
        if log.exists() and log.stat().st_size:
            raise UserError(f"{self._folder} has no checkpoint, but {log} has rows: restore one, or delete {self._stage} to make it again")
        return None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:09d}.npz"

    def _paths(self) -> list[Path]:
        """The newest first. (A kill may have left files that are being written; their names begin with a dot.)"""
        return sorted((path for path in self._folder.glob("*.npz") if path.stem.isdigit()), reverse=True)

    def _read(self, path: Path) -> Checkpoint:
        arrays, meta = load_arrays(path, "checkpoint")
        if meta.get("owner") != self._owner or meta.get("number") != int(path.stem):
            raise UserError(f"checkpoint {path} is another run's, or another step's")
        return Checkpoint(meta["number"], arrays, meta["kept"])
