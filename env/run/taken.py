"""A V or an M that another run has trained, or that comes with the project, in the place of one of the run's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from env.run.errors import UserError
from env.run.files import copy_log, load_arrays, read_jsonl
from env.run.rundir import Run
from env.run.weights import fingerprint, memory_path, shipped, vae_path

SHIPPED = "shipped"


def take(run: Run, name: str, source: str, wanted: dict[str, Any]) -> None:
    """The stage `name` of a run, "vae" or "rnn", as a copy of another's weights and log.

    Args:
        run: the run.
        source: "shipped", or the directory of another run.
        wanted: what the weights must say of themselves, such as their task and z_size.

    Raises:
        UserError: there are none there, or others than are wanted; or an M that learned on another V than the run has.
    """
    vae, weights = files(name, source, run.settings.task)
    _, meta = load_arrays(weights)
    for key, value in wanted.items():
        if meta.get(key, value) != value:
            raise UserError(f"{weights} has {key} {meta[key]}, this run needs {value}: take another {name}.source")
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


def files(name: str, source: str, task: str) -> tuple[Path, Path]:
    """The V and the weights `name` of a source."""
    if source == SHIPPED:
        return shipped("vae", task, "weights.npz"), shipped(name, task, "weights.npz")
    vae = vae_path(Path(source))
    return vae, vae if name == "vae" else memory_path(Path(source))
