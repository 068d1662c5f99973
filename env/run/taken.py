"""A V or an M that another run has trained, or that comes with the project: in the place of one of the run's own, or as what the run's
own training begins with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from env.episodes import PRIVILEGED
from env.run.errors import UserError
from env.run.files import copy_log, load_arrays, read_jsonl
from env.run.rundir import Run
from env.run.settings import Settings
from env.run.stages import training_start
from env.run.weights import assign_weights, fingerprint, fingerprints, is_shipped, model_paths, run_of, source_files, start_path, unfit

if TYPE_CHECKING:
    import keras


def take(run: Run, name: str, source: str, wanted: dict[str, Any]) -> None:
    """The stage `name` of a run, "vae" or "rnn", as a copy of another's weights and log.

    Args:
        run: the run.
        source: "shipped", or the directory of another run.
        wanted: what the weights must say of themselves, such as their task and z_size.

    Raises:
        UserError: there are none there, or others than are wanted; or an M that learned on another V than the run has.
    """
    vae, weights = source_files(name, source, run.settings.task)
    _wanted(weights, f"{name}.source", wanted)
    own = run.path / "vae" / "weights.npz"
    for path in (vae, own) if name == "rnn" else ():
        if not path.exists():
            raise UserError(f"{path} is missing, which M is to learn on: take or train V first")
    if name == "rnn" and fingerprint(vae) != fingerprint(own):
        raise UserError(f"{weights} learned on another V than {own}: take V from the same source")
    stage = run.stage(name)
    stage.start()
    shutil.copyfile(weights, stage.dir / "weights.npz")
    log = weights.parent / "log.jsonl"
    if log.exists() and weights.name == "weights.npz":
        copy_log(log, stage.log)
    rows = read_jsonl(stage.log) if stage.log.exists() else []
    last = rows[-1] if rows else {}
    stage.finish({"source": source, **last})
    print(f"{name}: {weights} -> {stage.dir / 'weights.npz'}")


def begin_with(name: str, start: str, task: str, wanted: dict[str, Any], model: keras.Model) -> None:
    """Set a model's weights to those of another run, or that come with the project.

    Args:
        name: the section that `start` is from, such as "vae".
        start: "shipped", or the directory of another run.
        task: the game's name.
        wanted: as for `take`.
        model: V or M.

    Raises:
        UserError: there are none there, or others than are wanted.
    """
    _, weights = source_files(name, start, task)
    arrays = _wanted(weights, f"{name}.start", wanted)
    assign_weights(weights, arrays, model, new=PRIVILEGED)  # whose head another M may not have learned
    print(f"{name}: begins with {weights}")


def check_starts(settings: Settings, stages: Sequence[str]) -> None:
    """Raise UserError when a V, M or C that one of these stages is to begin with is missing: before hours of the stages before it."""
    for name in stages:
        path = training_start(settings, name)
        if path is not None and not path.exists():
            raise UserError(f"{settings.memory_section if name == 'rnn' else name}.start: {path} is missing")


def warn_of_another_v(run: Run) -> None:
    """Say so where the M that a training begins with (rnn.start, rssm.start) learned on another V than the run's, or than the one that this
    began with: each z means something else now. Nothing is said where one of them is gone."""
    settings, own = run.settings, run.path / "vae" / "weights.npz"
    vae, weights = source_files("rnn", settings.of_memory.start, settings.task)
    known = [own, *([source_files("vae", settings.vae.start, settings.task)[1]] if settings.vae.start else [])]
    if vae.exists() and all(path.exists() for path in known) and fingerprint(vae) not in map(fingerprint, known):
        what = f"{weights} learned on another V than this run's"
        print(f"warning: {what}: what it learned may mean nothing here", file=sys.stderr, flush=True)


def warn_of_other_eyes(run: Run) -> None:
    """Say so where the C that a training begins with (controller.start) saw another V or M than the run's, or than those began with: what
    it sees means something else now. Nothing is said where its V and M are gone."""
    settings, task = run.settings, run.settings.task
    if not settings.controller.start:
        return
    path = start_path(task, settings.controller.start)
    try:
        then = fingerprints(model_paths(task, None if is_shipped(path, task) else run_of(path, task)))
        own = model_paths(task, run.path)
    except UserError:
        return
    trained = run.path / "rnn" / "weights.npz"  # where M learns on with C, what it began with
    now = {"vae": own.vae, "rnn": trained if trained.exists() else own.rnn}
    for part, letter, section in (("vae", "V", settings.vae), ("rnn", "M", settings.of_memory)):
        known = [now[part], *([source_files(part, section.start, task)[1]] if section.start else [])]
        if then[part] not in [fingerprint(file) for file in known if file.exists()]:
            what = f"{path} saw another {letter} than this run's"
            print(f"warning: {what}: what it learned may mean nothing here", file=sys.stderr, flush=True)


def _wanted(weights: Path, setting: str, wanted: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a weights file. Raises UserError, which names the setting, when it says something else of itself than is wanted."""
    arrays, meta = load_arrays(weights)
    if found := unfit(meta, wanted):
        raise UserError("{} has {} {}, this run needs {}: take another {}".format(weights, *found, setting))
    return arrays
