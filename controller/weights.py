"""Where trained weights are found: in a run, or shipped with the project. Nothing here imports TensorFlow."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from env.rundir import REPOSITORY
from env.settings import UserError
from env.tasks import Task


MODELS = "models.json"  # in a run's controller folder: the fingerprints of the V and M that C was evolved on


class Models(NamedTuple):
    """The files of V and M, and of the first frames from which M's dreams start."""

    vae: Path
    rnn: Path
    initial: Path


def shipped(floor: str, task: Task) -> Path:
    """The weights that come with the project: vae/, rnn/ or controller/ with the task's name."""
    return REPOSITORY / floor / f"{task.name}.npz"


def model_paths(task: Task, run: Path | None) -> Models:
    """The V and M that C plays with: the run's own, or, where it trained none, those shipped with the project.

    Args:
        run: a run's directory, or None for the shipped ones.

    Raises:
        UserError: the run has a V but no M, or there are no weights at all; the message says what to run first.
    """
    if run is not None:
        vae, rnn = run / "vae" / "weights.npz", run / "rnn" / "weights.npz"
        if vae.exists() and rnn.exists():
            return Models(vae, rnn, run / "encode" / "initial.npz")
        for path, command, other in ((vae, "vae/train.py", rnn), (rnn, "rnn/train.py", vae)):
            if other.exists():
                raise UserError(f"{run} has no {path.parent.name}/weights.npz: run {command} {task.name} --run {run} first")
    vae, rnn = shipped("vae", task), shipped("rnn", task)
    if not (vae.exists() and rnn.exists()):
        raise UserError(f"no trained V and M for {task.name}: run 'bash run.sh {task.name}' first, or give the --run that has them")
    return Models(vae, rnn, vae.with_suffix(".initial.npz"))


def fingerprint(path: Path) -> str:
    """Twelve hex digits of a file's SHA-256: which C was scored, when the training of C went on meanwhile."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def check_models(task: Task, run: Path) -> dict[str, str]:
    """The fingerprints of the V and M that the run's C is to be played on.

    Raises:
        UserError: they are not those that C was evolved on; a C is worth nothing on another V and M.
    """
    models = model_paths(task, run)
    now = {"vae": fingerprint(models.vae), "rnn": fingerprint(models.rnn)}
    try:
        then = json.loads((run / "controller" / MODELS).read_text())
    except FileNotFoundError:
        return now
    except json.JSONDecodeError:
        then = None
    if then != now:
        raise UserError(
            f"the C in {run / 'controller'} was evolved on another V and M than the run has now: "
            f"delete {run / 'controller'} to evolve it anew, or choose another --run"
        )
    return now


def controller_path(task: Task, run: Path, run_given: bool, weights: Path | None) -> Path:
    """The file of C to play with: `weights`, else the run's best, else the shipped one.

    Args:
        run: the run's directory.
        run_given: whether the user named it, who then wants no other's C.
        weights: the file that the user named, or None.

    Raises:
        UserError: it does not exist; the message says what to do.
    """
    if run_given and not run.is_dir():
        raise UserError(f"run directory {run} is missing: give one that 'bash run.sh {task.name}' made, or leave --run out")
    if weights:
        if not weights.exists():
            raise UserError(f"weights file {weights} is missing")
        return weights
    best = run / "controller" / "best.npz"
    if best.exists():
        return best
    if run_given:
        raise UserError(f"{run} has no scored C yet: run controller/train.py {task.name} --run {run} first")
    if not shipped("controller", task).exists():
        raise UserError(f"there is no trained C for {task.name}: run 'bash run.sh {task.name}' first, or give --run or --weights")
    return shipped("controller", task)
