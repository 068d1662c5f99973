"""Weights on disk: saved, loaded, found in a run or among those shipped with the project, and told apart. One place for all.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from env.run.errors import UserError
from env.run.files import REPOSITORY, save_arrays

if TYPE_CHECKING:
    import keras


SHIPPED = "shipped"  # in the place of a run: what comes with the project
CRITIC = "critic.npz"  # beside an actor-critic's C: what a later training of it goes on from, and nobody else needs
ROUNDS = "rounds"  # the folder of a run that holds its later rounds, see controller/rounds.py
STUDIES = "studies"  # the folder of a run that holds further C's on its V and M, see controller/results/studies.py


class Models(NamedTuple):
    """The files of V and M, and of the first frames from which M's dreams start."""

    vae: Path
    rnn: Path
    initial: Path


def shipped(floor: str, task: str, name: str) -> Path:
    """A file of the agent that comes with the project: `name` in vae/, rnn/ or controller/ of a task."""
    return REPOSITORY / floor / "shipped" / task / name


def shipped_controller(task: str) -> Path:
    """The C that comes with the project."""
    return shipped("controller", task, "best.npz")


def shipped_systems(task: str) -> Path:
    """The folder of the agents with another memory or another trainer than the paper's that come with the project, each laid out as a
    run."""
    return shipped_controller(task).parent / "systems"


def shipped_run(task: str, memory: str, trainer: str) -> Path:
    """One of them."""
    return shipped_systems(task) / f"{memory}-{trainer}"


def comes_along(run: Path, task: str) -> bool:
    """Whether a run, or a file of it, comes with the project. Nobody writes into such a run."""
    return run.resolve().is_relative_to(shipped_systems(task).resolve())


def is_shipped(weights: Path, task: str) -> bool:
    """Whether a C comes with the project, the best one or that of a row of the paper's table: it then plays on the V and M that do."""
    path = weights.resolve()
    return path.is_relative_to(shipped_controller(task).parent) and not comes_along(path, task)


def model_paths(task: str, run: Path | None) -> Models:
    """The V and M that C plays with: the run's own, or, where it trained none, those shipped with the project.

    Args:
        task: its name.
        run: a run's directory, or None for the shipped ones.

    Raises:
        UserError: the run has a V but no M, or there are no weights at all; the message says what to run first.
    """
    if run is not None:
        vae, rnn = _vae_of(task, run), memory_path(run)
        if vae.exists() and rnn.exists():
            encoded = run / "encode" / "initial.npz"
            first = (vae_path(run).with_name("initial.npz"), encoded, vae.with_name("initial.npz"))  # the first: of a V that learned with M
            return Models(vae, rnn, next((path for path in first if path.exists()), encoded))
        for path, command, other in ((vae, "vae/train.py", rnn), (rnn, "rnn/train.py", vae)):
            if other.exists():
                raise UserError(f"{run} has no {path.parent.name}/weights.npz: run {command} {task} --run {run} first")
    own = Models(*(shipped(*where) for where in (("vae", task, "weights.npz"), ("rnn", task, "weights.npz"), ("vae", task, "initial.npz"))))
    if not (own.vae.exists() and own.rnn.exists()):
        raise UserError(f"no trained V and M for {task}: run 'bash run.sh {task}' first, or give the --run that has them")
    return own


def _own(run: Path, name: str, stage: str) -> Path:
    """The file `name` of a V or M that learned with another part of the run, or the weights of its own stage."""
    learned = (run / "controller" / name, run / "rnn" / name)
    return next((path for path in learned if path.exists()), run / stage / "weights.npz")


def vae_path(run: Path) -> Path:
    """A run's V: where it learned with M, the one of that M; else that of the vae stage."""
    return _own(run, "vae.npz", "vae")


def _vae_of(task: str, run: Path) -> Path:
    """The V that a run's M and C see with: of an agent that comes with the project and has no V of its own, the one that comes with it."""
    own = vae_path(run)
    return shipped("vae", task, "weights.npz") if comes_along(run, task) and not own.exists() else own


def memory_path(run: Path) -> Path:
    """A run's M: where C and M learned together, the one that C is best with; else that of the rnn stage."""
    return _own(run, "memory.npz", "rnn")


def source_files(name: str, source: str, task: str) -> tuple[Path, Path]:
    """The V, and the weights `name` ("vae", or M's "rnn" or "rssm"), of a run's directory, or of what comes with the project."""
    if source == SHIPPED:
        vae = shipped("vae", task, "weights.npz")
        return vae, vae if name == "vae" else shipped("rnn", task, "weights.npz")
    vae = _vae_of(task, Path(source))
    return vae, vae if name == "vae" else memory_path(Path(source))


def start_path(task: str, source: str) -> Path:
    """The C that a training begins with: the best of a run, or of one of the rows that come along, or the shipped one, or a file."""
    if source == SHIPPED:
        return shipped_controller(task)
    given = Path(source)
    choices = given, given / "best.npz", given / "controller" / "best.npz"
    return next((path for path in choices if path.is_file()), choices[-1])


def run_of(weights: Path, task: str) -> Path:
    """The directory of the run that a C is of: RUN for RUN/controller/best.npz; for one that comes along with a system, wherever it lies in
    there, that system's.

    Raises:
        UserError: it lies in no run's controller directory.
    """
    path = weights.resolve()
    if comes_along(path, task):
        systems = shipped_systems(task).resolve()
        return systems / path.relative_to(systems).parts[0]
    if path.parent.name != "controller":
        raise UserError(f"{weights} lies in no run's controller directory: which V and M it saw is not known")
    return path.parents[1]


def controller_path(task: str, run: Path, run_given: bool, weights: Path | None = None, use_shipped: bool = False) -> Path:
    """The file of C to play with: `weights`, else the run's best, else the shipped one.

    Args:
        task: its name.
        run: the run's directory.
        run_given: whether the user named it, who then wants no other's C.
        weights: the file that the user named, or None.
        use_shipped: take the shipped one, whatever the run has.

    Raises:
        UserError: it does not exist; the message says what to do.
    """
    own, best = shipped_controller(task), run / "controller" / "best.npz"
    if run_given and not run.is_dir():
        raise UserError(f"run directory {run} is missing: give one that 'bash run.sh {task}' made, or leave --run out")
    if weights:
        if not weights.exists():
            raise UserError(f"weights file {weights} is missing")
        return weights
    if best.exists() and not use_shipped:
        return best
    if run_given and not use_shipped:
        raise UserError(f"{run} has no scored C yet: run controller/train.py {task} --run {run} first")
    if not own.exists():
        raise UserError(f"there is no trained C for {task}: run 'bash run.sh {task}' first, or give --run or --weights")
    return own


def fingerprint(path: Path) -> str:
    """Twelve hex digits of a file's SHA-256: tells whether something was made from it or from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def fingerprints(models: Models) -> dict[str, str]:
    """Those of V and M."""
    return {"vae": fingerprint(models.vae), "rnn": fingerprint(models.rnn)}


def unfit(meta: dict[str, Any], wanted: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first thing that a weights file says otherwise of itself than is wanted: its name, the file's value, the wanted one.

    What a file does not say fits, but for "repeat", the frames of each of M's steps, which is said where it is not 1.
    """
    for key, value in ({"repeat": 1} | wanted).items():
        its = meta.get(key, 1 if key == "repeat" else value)
        if its != value:
            return key, its, value
    return None


def save_weights(path: Path, model: keras.Model, meta: dict[str, Any]) -> None:
    """Save a model's weights as an npz of named arrays, with `meta`, atomically."""
    save_arrays(path, {v.path: np.asarray(v) for v in model.weights}, meta)


def assign_weights(path: Path, arrays: dict[str, np.ndarray], model: keras.Model, new: str = "") -> None:
    """Set a model's weights from the arrays of the file `path`.

    Args:
        path, arrays, model: which.
        new: weights that have this in their names stay as they are where the file has none of these.

    Raises:
        UserError: an array is missing or has another shape.
    """
    left = new if new and not any(new in name for name in arrays) else None
    weights = [v for v in model.weights if left is None or left not in v.path]
    wanted = {v.path: tuple(v.shape) for v in weights}
    for name, shape in wanted.items():
        if name not in arrays:
            raise UserError(f"weights file {path} has no array '{name}': is it another model's?")
        if arrays[name].shape != shape:
            found = arrays[name].shape
            raise UserError(f"weights file {path}: '{name}' has shape {found}, expected {shape}: it was made with other settings")
    for variable in weights:
        variable.assign(arrays[variable.path].astype(np.float32))
