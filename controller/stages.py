"""Which stages of a run are finished, and which wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from controller.weights import fingerprint
from env.episodes import cut_or_missing
from env.rundir import Run, Stage
from env.settings import UserError
from env.tasks import Settings

STUDIES = "temperatures"  # the folder of a run that holds its temperature study, see controller/temperatures.py


def is_finished(run: Run, name: str) -> bool:
    """Whether a stage is finished with the run's settings; a scoring with others, or of an older C, counts as not."""
    stage = run.stage(name)
    if name in ("extract", "encode"):
        folder = stage.dir / ("episodes" if name == "extract" else "latents")
        return stage.check() and not cut_or_missing(folder, range(run.settings.extract.episodes))
    if name != "evaluate":
        return stage.check()
    best = run.path / "controller" / "best.npz"
    try:
        return stage.check() and best.exists() and stage.summary.get("controller") == fingerprint(best)
    except UserError:
        return False


def waiting_stages(path: Path, settings: Settings, stages: Sequence[str]) -> list[str]:
    """Those of the stages that are not finished; the run's settings are checked and saved.

    Raises:
        UserError: as `Run`, or a finished C would be left on another V and M.
    """
    run = Run(path, settings)
    waiting = [name for name in stages if not is_finished(run, name)]
    run.release()  # each stage's command takes the lock itself
    if {"vae", "rnn"} & set(waiting):
        for folder in (path, *study_folders(path)):
            if Stage(folder, "controller", settings).finished:
                raise UserError(
                    f"{folder} has a C that was evolved on another V and M: choose another --run, or delete {folder / 'controller'}"
                )
    return waiting


def study_folders(path: Path) -> Iterator[Path]:
    """The runs of a run's temperature study."""
    yield from sorted(folder for folder in (path / STUDIES).glob("*") if folder.is_dir())
