"""Studies: several C's on the V and M of one run, such as all rows of the paper's table.

    RUN/studies/tau-1.15/       a run of its own, with links to RUN's recordings, V, latents and M
    RUN/studies/z-hidden-40/    and so on
    RUN/studies/carracing.md    the paper's tables, with ours beside them (controller/verify.py)
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from controller.results.paper import SCORES
from env.run.errors import UserError
from env.run.settings import Controller, Settings
from env.run.stages import Stage
from env.run.weights import STUDIES

SHARED = ("extract", "vae", "encode", "rnn")  # the stages that all of them have in common
OWN = ("controller", "evaluate")


def parse_numbers(words: str, flag: str, kind: type, example: str) -> tuple[Any, ...]:
    """'0.1,1.15' -> (0.1, 1.15). Raises UserError, which names the flag, when it is no list of different positive numbers."""
    try:
        values = tuple(kind(word) for word in words.split(","))
    except ValueError:
        values = ()
    names = {str(value) if kind is int else f"{value:g}" for value in values}  # of the folders
    if not values or not all(0 < value < float("inf") for value in values) or len(names) < len(values):
        raise UserError(f"{flag} is '{words}': give different positive numbers with commas, such as {example}")
    return values


def study_name(c: Controller) -> str:
    """What tells a study's C from the others of its run: 'tau-1.15', 'z-hidden-40', 'zh-seed-2'."""
    name = f"tau-{c.temperature:g}" if c.world == "dream" else c.features + (f"-hidden-{c.hidden}" if c.hidden else "")
    return name + (f"-seed-{c.es_seed}" if c.es_seed else "")


def plan_studies(
    run: Path, settings: Settings, temperatures: str | None = None, table: bool = False, es_seeds: str | None = None
) -> list[tuple[Path, Settings]]:
    """The directory and the settings of each of a study's runs.

    Args:
        run, settings: on whose V and M, and with which settings but for the following.
        temperatures: a list such as '0.5,1.15': a C from dreams at each.
        table: a C for each row of the paper's table that one of ours can fill.
        es_seeds: a list such as '1,2,3': each of these by as many evolutions.

    Raises:
        UserError: one of the lists is none; temperatures, or a table of them, for a C that is not evolved in dreams, where alone they
            play a part; the paper has no table of this game; or a value is out of its bounds.
    """
    c = settings.controller
    if temperatures is not None and c.world != "dream":
        raise UserError(f"--temperatures needs a C that is evolved in dreams; that of {settings.task} is evolved in the real world")
    if temperatures is not None and table:
        raise UserError("--table has the paper's temperatures: leave --temperatures out")
    variants = [c]
    if temperatures is not None:
        variants = [dataclasses.replace(c, temperature=t) for t in parse_numbers(temperatures, "--temperatures", float, "0.5,1.0,1.15")]
    if table and c.world != "dream" and any(row.temperature for row in SCORES.get(settings.task, ())):
        raise UserError(f"--table has the temperatures of dreams in {settings.task}; this C is evolved in the real world")
    if table:
        variants = [
            dataclasses.replace(c, features=row.features, hidden=row.hidden, temperature=row.temperature or c.temperature)
            for row in SCORES.get(settings.task, ())
            if row.features
        ]
        if not variants:
            raise UserError(f"--table is for the paper's games; it has none of {settings.task}")
    if es_seeds is not None:
        seeds = parse_numbers(es_seeds, "--es-seeds", int, "1,2,3")
        variants = [dataclasses.replace(variant, es_seed=seed) for variant in variants for seed in seeds]
    plan = [(run / STUDIES / study_name(variant), dataclasses.replace(settings, controller=variant)) for variant in variants]
    for _, its in plan:
        its.check()
    return plan


def link_stages(run: Path, settings: Settings, study: Path, its: Settings) -> None:
    """Let the study's run use RUN's stages up to M, and, if its settings are RUN's own, RUN's finished C as well."""
    study.mkdir(parents=True, exist_ok=True)
    same = its == settings and Stage(run, "controller", settings).finished
    for name in (*SHARED, *(name for name in OWN if same and (run / name).exists())):
        if not os.path.lexists(study / name):
            (study / name).symlink_to(os.path.relpath(run / name, study), target_is_directory=True)
