"""A run's directory: settings, one folder a stage, and the rule for what is skipped, resumed or refused.

    RUN/settings.json            the resolved settings of the last call
    RUN/<stage>/stage.json       the settings that the stage was made with, and whether it is finished
    RUN/<stage>/log.jsonl        its log
    RUN/<stage>/...              its results and checkpoint
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from env.files import write_json
from env.settings import UserError
from env.tasks import DEPENDS, SECTIONS, STAGES, Settings, load_settings


REPOSITORY = Path(__file__).resolve().parents[1]


def default_run(task: str, scale: str) -> Path:
    """Where a run goes when --run is not given: runs/carracing, and runs/carracing-smoke and so on for the other scales.

    It lies in the repository, from wherever the command is called; from inside, its name is given shortly.
    """
    path = REPOSITORY / "runs" / (task if scale == "paper" else f"{task}-{scale}")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class RunInUse(UserError):
    """Another command writes into the run now."""


class Stage:
    """One stage's folder in a run."""

    def __init__(self, run: Path, name: str, settings: Settings) -> None:
        self.name = name
        self.dir = run / name
        self.log = self.dir / "log.jsonl"
        self._settings = settings
        self._record = self.dir / "stage.json"

    @property
    def summary(self) -> dict[str, Any]:
        """What `finish` was given, or nothing."""
        return self._read().get("summary", {})

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (json.JSONDecodeError, UnicodeDecodeError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
            raise UserError(f"{self._record} is damaged: delete {self.dir} to make the stage again")
        return record

    def _relevant(self) -> dict[str, Any]:
        """The settings that decide this stage's result, as {section.field: value}."""
        flat = {"task": self._settings.task, "seed": self._settings.seed}
        for section in DEPENDS[self.name]:
            for key, value in dataclasses.asdict(getattr(self._settings, section)).items():
                flat[f"{section}.{key}"] = value
        return flat

    def check(self) -> bool:
        """Whether the stage is finished with these settings.

        Raises:
            UserError: it was made with other settings. A resumable setting may grow, or change while it is unfinished.
        """
        record = self._read()
        if not record:
            return False
        grown = False
        for key, now in self._relevant().items():
            then = record["settings"].get(key, self._default(key))
            if then == now:
                continue
            if self._may_change(key, then, now, bool(record.get("finished"))):
                grown = True
                continue
            raise UserError(
                f"stage {self.name} in {self.dir.parent} was made with {key} = {then}, now it is {now}: "
                f"take {then}, choose another --run, or delete {self.dir} to make it again"
            )
        return bool(record.get("finished")) and not grown

    @staticmethod
    def _default(key: str) -> Any:
        """What a setting was before it became one, for stages older than it."""
        section, _, name = key.rpartition(".")
        return next((f.default for f in dataclasses.fields(SECTIONS[section]) if f.name == name), None) if section else None

    @property
    def finished(self) -> bool:
        """Whether the stage was finished, with whatever settings."""
        return bool(self._read().get("finished"))

    def _may_change(self, key: str, then: Any, now: Any, finished: bool) -> bool:
        """Whether the stage can go on from its checkpoint with another value: a resumable setting, grown if finished."""
        section, _, name = key.rpartition(".")
        if section != self.name or then is None:
            return False
        fields = {f.name: f for f in dataclasses.fields(SECTIONS[section])}
        if not fields[name].metadata["resumable"]:
            return False
        # vae.limit_steps = 0 means "no limit": the largest value there is.
        size = {0: float("inf")} if name == "limit_steps" else {}
        return not finished or size.get(now, now) > size.get(then, then)

    def start(self) -> None:
        """Note the settings; the stage counts as unfinished from here on."""
        self.dir.mkdir(parents=True, exist_ok=True)
        write_json(self._record, {"stage": self.name, "finished": False, "settings": self._relevant()})

    def finish(self, summary: dict[str, Any]) -> None:
        """Note that the stage is whole; `summary` is kept for the report."""
        record = {"stage": self.name, "finished": True, "settings": self._relevant(), "summary": summary}
        write_json(self._record, record)


class Run:
    """An opened run: its settings are resolved, checked against what is on disk, and saved.

    Args:
        path: the run's directory.
        settings: the resolved settings.
        lock: hold the run's lock until the process ends, so that two commands cannot write into it at once.

    Raises:
        UserError: the directory cannot be written, is in use, or holds a stage made with other settings.
    """

    def __init__(self, path: Path, settings: Settings, lock: bool = True) -> None:
        self.path = path
        self.settings = settings
        self._lock: IO[str] | None = None
        for name in STAGES[:-1]:  # a scoring (the last stage) refuses nothing, see controller/evaluate.py
            self.stage(name).check()
        if lock:
            try:
                path.mkdir(parents=True, exist_ok=True)
                self._lock = open(path / ".lock", "a+")
            except OSError as error:
                raise UserError(f"cannot write to the run directory {path}: {error.strerror}") from None
            self._take_lock(self._lock)
            write_json(path / "settings.json", settings.to_dict())

    def _take_lock(self, file: IO[str]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            raise RunInUse(f"{self.path} is in use by process {owner}: wait for it, or choose another --run") from None
        file.truncate(0)
        file.write(str(os.getpid()))
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
