"""The temperature study: a C for each temperature of the dream, on the V and M of one run (paper 4.4).

    RUN/temperatures/1.15/       a run of its own, with links to RUN's recordings, V, latents and M
    RUN/temperatures/table.md    the paper's table, with ours beside it
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from controller.results.paper import SCORES
from controller.results.scores import mean_and_std
from env.run.errors import UserError
from env.run.files import write_atomic
from env.run.rundir import STUDIES, Run, saved_settings, study_folders
from env.run.settings import Settings
from env.run.stages import Stage
from env.tasks import Task

SHARED = ("extract", "vae", "encode", "rnn")  # the stages that all temperatures have in common
OWN = ("controller", "evaluate")


def parse_temperatures(words: str) -> tuple[float, ...]:
    """'0.1,1.15' -> (0.1, 1.15). Raises UserError when it is no list of different positive numbers."""
    try:
        values = tuple(float(word) for word in words.split(","))
    except ValueError:
        values = ()
    names = {f"{value:g}" for value in values}  # of the folders
    if not values or not all(0 < value < float("inf") for value in values) or len(names) < len(values):
        raise UserError(f"--temperatures is '{words}': give different positive numbers with commas, such as 0.5,1.0,1.15")
    return values


def plan_studies(run: Path, settings: Settings, words: str) -> list[tuple[Path, Settings]]:
    """The directory and the settings of the study's run at each temperature of the list `words`.

    Raises:
        UserError: it is no such list, or C is not evolved in dreams, where alone the temperature plays a part.
    """
    temperatures = parse_temperatures(words)
    if settings.controller.world != "dream":
        raise UserError(f"--temperatures needs a C that is evolved in dreams; that of {settings.task} is evolved in the real world")
    plan = []
    for temperature in temperatures:
        its = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, temperature=temperature))
        its.check()
        plan.append((run / STUDIES / f"{temperature:g}", its))
    return plan


def link_stages(run: Path, settings: Settings, study: Path, its: Settings) -> None:
    """Let the study's run use RUN's stages up to M, and, at RUN's own temperature, its finished C as well."""
    study.mkdir(parents=True, exist_ok=True)
    same = its == settings and Stage(run, "controller", settings).finished
    for name in (*SHARED, *(OWN if same else ())):
        if not os.path.lexists(study / name):
            (study / name).symlink_to(os.path.relpath(run / name, study), target_is_directory=True)


def read_scores(path: Path) -> dict[float, dict[str, Any]]:
    """The scores of all finished temperatures of a run, by temperature, each with its settings.

    Raises:
        UserError: a file is damaged.
    """
    found = {}
    for folder in study_folders(path):
        settings = saved_settings(folder)
        if settings is None or not Run(folder, settings, lock=False).stage("evaluate").is_finished():
            continue
        try:
            scores = json.loads((folder / "evaluate" / "scores.json").read_text())
        except (OSError, json.JSONDecodeError):
            raise UserError(f"{folder / 'evaluate'} has no whole scores.json: delete that folder and run the same again") from None
        found[settings.controller.temperature] = scores | {"generations": settings.controller.generations}
    return dict(sorted(found.items()))


def temperature_table(task: Task, found: dict[float, dict[str, Any]]) -> str:
    """A Markdown table: dream score and actual score at each temperature, ours and the paper's."""
    published = {row.temperature: row for row in SCORES.get(task.name, ()) if row.temperature}
    lines = [
        "| temperature | generations | ours: dream score | ours: actual score | 95% interval | paper: dream score | paper: actual score |",
        "|---|---|---|---|---|---|---|",
    ]
    for temperature in sorted({*found, *published}):
        ours, row = found.get(temperature), published.get(temperature)
        cells = [f"{temperature:g}"]
        if ours:
            low, high = ours["ci95"]
            dream = mean_and_std(ours["dream"]) if ours.get("dream") else ""
            cells += [str(ours["generations"]), dream, f"**{mean_and_std(ours)}**", f"{low:.0f} .. {high:.0f}"]
        else:
            cells += [""] * 4
        cells += [f"{row.dream[0]:g} ± {row.dream[1]:g}", f"{row.mean:g} ± {row.std:g}"] if row and row.dream else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    for row in SCORES.get(task.name, ()):
        if row.features is None:
            lines.append(f"| {row.method} | | | | | | {row.mean:g} ± {row.std:g} |")
    return "\n".join(lines)


def write_table(run: Path, task: Task) -> str:
    """Write RUN/temperatures/table.md, and return what it says."""
    text = temperature_table(task, read_scores(run))
    write_atomic(run / STUDIES / "table.md", lambda file: file.write((text + "\n").encode()))
    return text
