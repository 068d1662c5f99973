"""The recordings that a run learns from: its own episodes, and those of other runs that it has pooled (extract.pool)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from env.episodes import episode_path
from env.run.errors import UserError
from env.run.files import read_jsonl
from env.run.rundir import saved_settings
from env.run.settings import Settings
from env.run.stages import Stage, pool_path


def recordings(run: Path, settings: Settings, seen: tuple[Path, ...] = ()) -> list[Path]:
    """The files of a run's recorded episodes, its own first, then those that it has pooled, as its log counts them.

    Args:
        run, settings, seen: as `pooled`.

    Raises:
        UserError: as `pooled`.
    """
    own = [episode_path(run / "extract" / "episodes", index) for index in range(settings.extract.episodes)]
    return own + pooled(run, settings, seen)


def pooled(run: Path, settings: Settings, seen: tuple[Path, ...] = ()) -> list[Path]:
    """The files of the episodes that a run has pooled, none if `extract.pool` is empty.

    Args:
        run: its directory.
        settings: its settings.
        seen: the runs that led here.

    Raises:
        UserError: the pool is no run of this game, has no finished recordings, has frames of another kind, or leads back to itself.
    """
    if not settings.extract.pool:
        return []
    pool, seen = pool_path(run, settings), (*seen, run.resolve())
    if pool.resolve() in seen:
        raise UserError(f"extract.pool of {run} is {pool}, which leads back to itself: give another run")
    its = saved_settings(pool)
    if its is None or its.task != settings.task:
        raise UserError(f"extract.pool is {pool}: that is no run of {settings.task}; give one that has recordings")
    for name, own, other in (
        ("world.frames", settings.world.frames, its.world.frames),
        ("world.repeat", settings.world.repeat, its.world.repeat),
        ("extract.past_done", settings.extract.past_done, its.extract.past_done),
    ):
        if own != other:
            raise UserError(f"extract.pool is {pool}, which has {name} {other}, this run has {own}: their episodes do not go together")
    if not Stage(pool, "extract", its).check():
        raise UserError(
            f"extract.pool is {pool}, whose recordings are not finished: run controller/extract.py {its.task} --run {pool} first"
        )
    return recordings(pool, its, seen)


def pooled_rows(run: Path, settings: Settings, first: int) -> list[dict[str, Any]]:
    """The log's rows of the episodes that `run` has pooled, numbered from `first` on; none while the pool has no log."""
    if not settings.extract.pool:
        return []
    log = pool_path(run, settings) / "extract" / "log.jsonl"
    rows = read_jsonl(log) if log.exists() else []
    return [row | {"episode": first + number, "pooled": True} for number, row in enumerate(rows)]


def pooled_frames(run: Path, settings: Settings) -> int:
    """How many frames a run has pooled, as far as it is known yet."""
    return sum(row["length"] for row in pooled_rows(run, settings, 0))
