"""One stage of a run: what it was made with and from, and the rule for what is skipped, resumed or refused.

    RUN/<stage>/stage.json       the settings that the stage was made with, the fingerprints of what it was made from, and whether
                                 it is finished
    RUN/<stage>/log.jsonl        its log
    RUN/<stage>/...              its results and checkpoint
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from env.episodes import cut_or_missing
from env.run.errors import UserError
from env.run.files import read_json, read_jsonl, write_json
from env.run.settings import BESIDE, SECTIONS, Settings, absent_settings
from env.run.weights import CRITIC, controller_path, fingerprint, fingerprints, model_paths, source_files, start_path

# What each stage is made from. (The controller's V and M are the shipped ones in a run that trained none.)
INPUTS: dict[str, tuple[str, ...]] = {
    "extract": (),
    "vae": ("extract",),
    "encode": ("extract", "vae"),
    "rnn": ("encode",),
    "controller": ("vae", "rnn"),
    "evaluate": ("vae", "rnn", "controller"),
}
# Files of a finished stage that must stay as they were when it was finished.
KEPT = ("weights.npz", "vae.npz", "memory.npz", "initial.npz", "best.npz", "critic.npz", "scores.json", "log.jsonl")


def pool_path(run: Path, settings: Settings) -> Path:
    """The run that `run` has pooled (extract.pool). A pool of a pool may have been named from another folder than the present one: what
    is not found from here is looked for from each of the folders that the run lies in."""
    pool = Path(settings.extract.pool)
    return next((place / pool for place in (Path(), *run.resolve().parents) if (place / pool).is_dir()), pool)


def training_start(settings: Settings, stage: str) -> Path | None:
    """The V, M or C that the training of a stage begins with, if the settings name one; it may be missing."""
    section = {"vae": settings.vae, "rnn": settings.of_memory, "controller": settings.controller}.get(stage)
    if section is None or not section.start:
        return None
    of_c = stage == "controller"
    return start_path(settings.task, section.start) if of_c else source_files(stage, section.start, settings.task)[1]


class Stage:
    """One stage's folder in a run.

    Args:
        run: the run's directory.
        name: the stage's.
        settings: the run's, resolved.
    """

    def __init__(self, run: Path, name: str, settings: Settings) -> None:
        self.name = name
        self.dir = run / name
        self.log = self.dir / "log.jsonl"
        self._run = run
        self._settings = settings
        self._record = self.dir / "stage.json"

    @property
    def summary(self) -> dict[str, Any]:
        """What `finish` was given, or nothing."""
        return self._read().get("summary", {})

    @property
    def finished(self) -> bool:
        """Whether the stage was finished, with whatever settings."""
        return bool(self._read().get("finished"))

    @property
    def started(self) -> bool:
        """Whether there is anything of it."""
        return bool(self._read())

    @property
    def product(self) -> str | None:
        """The fingerprint of what the stage made, which others are made from; None while there is none."""
        if self.name == "encode":  # thousands of files, decided by what they were made from
            made = self._read().get("made_from")
            return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12] if made else None
        names = {"extract": "log.jsonl", "controller": "best.npz"}
        path = self.dir / names.get(self.name, "weights.npz")
        return fingerprint(path) if path.exists() else None

    def inputs(self) -> dict[str, str]:
        """The fingerprints of what the stage would be made from now; what is missing is left out."""
        if self.name == "extract" and self._settings.extract.policy == "controller":
            other = Path(self._settings.extract.agent) if self._settings.extract.agent else None
            try:
                path = controller_path(self._settings.task, other or self._run, other is not None, use_shipped=other is None)
                made = fingerprints(model_paths(self._settings.task, other)) | {"controller": fingerprint(path)}
            except UserError:  # it is gone, or not seen from here; who records with it will hear of that
                made = {}
            return made | {name: value for name, value in self._begun_with().items() if value}
        if self.name == "evaluate":
            best = self._run / "controller" / "best.npz"
            try:
                models = fingerprints(model_paths(self._settings.task, self._run))
            except UserError:
                models = {}
            return models | ({"controller": fingerprint(best)} if best.exists() else {})
        found = {name: Stage(self._run, name, self._settings).product for name in INPUTS[self.name]} | self._begun_with()
        if {"vae", "rnn"} <= set(found) and not (found["vae"] or found["rnn"]):
            try:
                found |= fingerprints(model_paths(self._settings.task, self._run))
            except UserError:  # none are shipped
                pass
        return {name: value for name, value in found.items() if value}

    def _begun_with(self) -> dict[str, str | None]:
        """The fingerprints of what the settings name of other runs, to begin with or to learn from: nothing if they name none."""
        settings = self._settings
        if self.name == "extract" and settings.extract.pool:
            return {"pool": Stage(pool_path(self._run, settings), "extract", settings).product}
        path = training_start(settings, self.name)
        if self.name == "controller" and settings.controller.teacher:
            teacher = start_path(settings.task, settings.controller.teacher)
            return {"teacher": fingerprint(teacher) if teacher.exists() else None}
        if path is None:
            return {}
        start, critic = {"start": fingerprint(path) if path.exists() else None}, path.with_name(CRITIC)
        if self.name == "controller" and settings.trainer == "actor_critic" and critic.exists():
            return start | {"critic": fingerprint(critic)}
        return start

    def _read(self) -> dict[str, Any]:
        if not self._record.is_file():
            return {}
        try:
            record = read_json(self._record, sealed=True)
        except UserError as error:
            raise UserError(f"{error}: restore it, or delete {self.dir} to make the stage again") from None
        if not isinstance(record.get("settings"), dict) or record.get("stage") != self.name:
            raise UserError(f"{self._record} is damaged: delete {self.dir} to make the stage again")
        if not isinstance(record.get("made_from"), dict):
            raise UserError(f"{self.dir} was made by an older version of the program: delete it, or choose another --run")
        return record

    def check(self) -> bool:
        """Whether the stage is finished with these settings.

        Raises:
            UserError: it was made with other settings, or from something else than the run has now. A resumable setting may grow,
                or change while the stage is unfinished.
        """
        record = self._read()
        if not record:
            return False
        grown = False
        decided, later = self._settings.deciding(self.name), absent_settings()
        for key in (*decided, *(key for key in record["settings"] if key in later and key not in decided)):
            if key not in record["settings"] and key not in later:
                raise UserError(f"{self._record} is of another version of the program ({key} is missing): start a new run")
            then, now = (values[key] if key in values else later[key] for values in (record["settings"], decided))
            if then == now:
                continue
            if self._may_change(key, then, now, bool(record.get("finished"))):
                grown = True
                continue
            raise UserError(
                f"stage {self.name} in {self.dir.parent} was made with {key} = {then}, now it is {now}: "
                f"take {then}, choose another --run, or delete {self.dir} to make it again"
            )
        self.check_inputs()
        for name, made in record.get("files", {}).items():
            path = self.dir / name
            if not path.is_file() or fingerprint(path) != made:
                what = f"{path}, which stage {self.name} made, is missing, damaged or another's"
                raise UserError(f"{what}: restore it, or delete {self.dir} to make it again")
        return bool(record.get("finished")) and not grown

    def check_inputs(self) -> None:
        """Raise UserError when the stage was made from something else than the run has now: a C is worth nothing on another V."""
        record = self._read()
        then = record.get("made_from", {})
        # What an agent has played stays what it is, whatever became of the agent.
        past = {"vae", "rnn", "controller"} if self.name == "extract" and record.get("finished") else set()
        for name, now in self.inputs().items():
            if name not in past and then.get(name, now) != now:
                raise UserError(
                    f"stage {self.name} in {self.dir.parent} was made from another {name} than the run has now: "
                    f"delete {self.dir} to make it again, or choose another --run"
                )

    def _resumable(self, key: str) -> bool:
        """Whether the stage can go on from its checkpoint with another value of a setting."""
        section, _, name = key.rpartition(".")
        if section not in (self.name, *BESIDE.get(self.name, ())):
            return False
        fields = {f.name: f for f in dataclasses.fields(SECTIONS[section])}
        return bool(fields[name].metadata["resumable"])

    def identity(self) -> str:
        """What decides all that happens in the stage, as twelve hex digits: its settings, but those that may change on the way, and
        what it is made from. A checkpoint of another identity leads elsewhere."""
        if None in self._begun_with().values():  # else its own checkpoints would look like another run's
            section = self._settings.memory_section if self.name == "rnn" else self.name
            start = getattr(self._settings, section).start
            raise UserError(f"{section}.start is {start}, where there are no weights now: a path is seen from where the command is called")
        fixed = {key: value for key, value in self._settings.deciding(self.name).items() if not self._resumable(key)}
        whole = json.dumps([self.name, fixed, self.inputs()], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    def _may_change(self, key: str, then: Any, now: Any, finished: bool) -> bool:
        """Whether the stage can go on from its checkpoint with another value: a resumable setting, grown if finished."""
        name = key.rpartition(".")[2]
        if not self._resumable(key):
            return False
        # vae.limit_steps = 0 means "no limit": the largest value there is.
        size = {0: float("inf")} if name == "limit_steps" else {}
        return not finished or size.get(now, now) > size.get(then, then)

    def is_finished(self) -> bool:
        """`check`, and for stages of many files that all are there; a scoring with other settings, or of an older C, counts as
        not finished instead of raising, for it is quickly made again."""
        if self.name in ("extract", "encode"):
            folder = self.dir / ("episodes" if self.name == "extract" else "latents")
            return self.check() and not cut_or_missing(folder, range(self._episodes()))
        if self.name != "evaluate":
            return self.check()
        try:
            return self.check()
        except UserError:
            return False

    def _episodes(self) -> int:
        """How many files there are to be: one for each recorded episode, and latents for each pooled one, too."""
        own, log = self._settings.extract.episodes, self._run / "extract" / "log.jsonl"
        return len(read_jsonl(log)) if self.name == "encode" and self._settings.extract.pool and log.exists() else own

    def start(self) -> None:
        """Note the settings, and what it is made from; the stage counts as unfinished from here on."""
        self.dir.mkdir(parents=True, exist_ok=True)
        for half in self.dir.rglob(".*.tmp"):  # what a killed one was writing
            half.unlink(missing_ok=True)
        write_json(self._record, self._whole(False, self.inputs()), seal=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """Note that the stage is whole; `summary` is kept for the report."""
        record = self._whole(True, self._read().get("made_from", {}))  # what it was started from, whatever happened since
        files = {name: fingerprint(self.dir / name) for name in KEPT if (self.dir / name).is_file()}
        write_json(self._record, record | {"files": files, "summary": summary}, seal=True)

    def _whole(self, finished: bool, made_from: dict[str, str]) -> dict[str, Any]:
        return {"stage": self.name, "finished": finished, "settings": self._settings.deciding(self.name), "made_from": made_from}
