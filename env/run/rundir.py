"""A run's directory: its settings, its lock, its stages (env/run/stages.py), and which of them wait."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from env.run.errors import UserError
from env.run.files import REPOSITORY, read_json, write_json
from env.run.settings import MEMORIES, STAGES, TRAINERS, Settings, load_settings
from env.run.stages import Stage
from env.run.weights import STUDIES, comes_along

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what network disks without locks answer
PATIENCE = 3.0  # seconds for which a run in use is waited for: a process that was killed or asked to stop may still be ending
TRAINED = ("vae", "rnn")  # what cannot be made again to the bit


def default_run(task: str, scale: str, memory: str = MEMORIES[0], trainer: str = TRAINERS[0]) -> Path:
    """Where a run goes when --run is not given: runs/carracing, runs/carracing-smoke, runs/carracing-rssm-actor_critic and so on.

    It lies in `runs_folder`.
    """
    differs = [word for word, usual in ((memory, MEMORIES[0]), (trainer, TRAINERS[0]), (scale, "paper")) if word != usual]
    return runs_folder() / "-".join([task, *differs])


def spoken(word: str) -> str:
    """How a user calls `run.sh WORD`: of an installed package, by its command."""
    return f"bash run.sh {word}" if (REPOSITORY / "run.sh").exists() else f"world-models {word}"


def runs_folder() -> Path:
    """Where runs go: into the repository, from wherever a command is called; from inside, its name is given shortly. Of an installed
    package, into the present directory."""
    path = (REPOSITORY if (REPOSITORY / "run.sh").exists() else Path.cwd()) / "runs"
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class RunInUse(UserError):
    """Another command writes into the run now."""


class Run:
    """An opened run: its settings are resolved, checked against what is on disk, and saved.

    Args:
        path: the run's directory.
        settings: the resolved settings.
        lock: hold the run's lock until the process ends, so that two commands cannot write into it at once.

    Raises:
        UserError: the directory cannot be written, is in use, comes with the project, or holds a stage made with other settings.
    """

    def __init__(self, path: Path, settings: Settings, lock: bool = True) -> None:
        self.path = path
        self.settings = settings
        self._lock: IO[str] | None = None
        for name in STAGES[:-1]:  # a scoring (the last stage) refuses nothing, see controller/evaluate.py
            self.stage(name).check()
        if lock:
            if comes_along(path, settings.task):
                raise UserError(f"{path} comes with the project and is not written into: take another --run")
            try:
                path.mkdir(parents=True, exist_ok=True)
                self._lock = open(path / ".lock", "a+")
            except OSError as error:
                raise UserError(f"cannot write to the run directory {path}: {error.strerror}") from None
            self._take_lock(self._lock)
            write_json(path / "settings.json", settings.to_dict(), seal=True)

    def _take_lock(self, file: IO[str]) -> None:
        until, held = time.monotonic() + PATIENCE, True
        while held:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = False
            except OSError as error:
                if error.errno in NO_LOCKS:
                    print(f"warning: {self.path} lies on a disk without locks: let one command at a time write there", file=sys.stderr)
                    break
                if not isinstance(error, BlockingIOError):
                    raise UserError(f"cannot lock the run directory {self.path}: {error.strerror}") from None
                if time.monotonic() > until:
                    file.seek(0)
                    owner = file.read().strip()
                    raise RunInUse(f"{self.path} is in use by process {owner}: wait for it, or choose another --run") from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()

    def release(self) -> None:
        """Let other commands write into the run."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def stage(self, name: str) -> Stage:
        """The folder of stage `name`."""
        return Stage(self.path, name, self.settings)


def saved_settings(path: Path) -> Settings | None:
    """The settings saved in the run at `path`, or None when there is no run yet."""
    return load_settings(path / "settings.json") if (path / "settings.json").exists() else None


def said_rounds(path: Path) -> bool:
    """Whether the run at `path`, if there is one, has settings for its later rounds (an actor-critic's earlier runs have none)."""
    return not (path / "settings.json").exists() or "rounds" in read_json(path / "settings.json")


def study_folders(path: Path) -> Iterator[Path]:
    """The runs of a run's studies."""
    yield from sorted(folder for folder in (path / STUDIES).glob("*") if folder.is_dir())


def waiting_stages(path: Path, settings: Settings, stages: Sequence[str]) -> list[str]:
    """Those of the stages that are not finished; the run's settings are checked and saved.

    Raises:
        UserError: as `Run`, or a V or M would be trained while there is something that was made from an earlier one.
    """
    run = Run(path, settings)
    waiting = [name for name in stages if not run.stage(name).is_finished()]
    run.release()  # each stage's command takes the lock itself
    trained = next((name for name in TRAINED if name in waiting), None)
    if trained:
        later = STAGES[STAGES.index(trained) + 1 : -1]
        stale = [folder / name for folder in (path, *study_folders(path)) for name in later if Stage(folder, name, settings).started]
        if stale:
            raise UserError(
                f"{path / trained} is to be trained, but {', '.join(map(str, stale))} were made from an earlier one: "
                f"restore it, delete them too, or choose another --run"
            )
    return waiting
