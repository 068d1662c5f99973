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

from controller.paper import SCORES
from controller.scores import mean_and_std
from env.files import write_atomic
from env.settings import UserError
from env.tasks import Settings, Task

SHARED = ("extract", "vae", "encode", "rnn")  # the stages that all temperatures have in common
OWN = ("controller", "evaluate")


def parse_temperatures(words: str) -> tuple[float, ...]:
    """'0.1,1.15' -> (0.1, 1.15). Raises UserError when it is no list of different positive numbers."""
    try:
        values = tuple(float(word) for word in words.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < float("inf") for value in values) or len(set(values)) < len(values):
        raise UserError(f"--temperatures is '{words}': give different positive numbers with commas, such as 0.5,1.0,1.15")
    return values


def check_study(settings: Settings) -> None:
    """Raise UserError when C is not evolved in dreams, where alone the temperature plays a part."""
    if settings.controller.world != "dream":
        raise UserError(f"--temperatures needs a C that is evolved in dreams; that of {settings.task} is evolved in the real world")


def at_temperature(run: Path, settings: Settings, temperature: float) -> tuple[Path, Settings]:
    """The directory and the settings of the study's run at one temperature."""
    controller = dataclasses.replace(settings.controller, temperature=temperature)
    return run / "temperatures" / f"{temperature:g}", dataclasses.replace(settings, controller=controller)


def link_stages(run: Path, study: Path) -> None:
    """Let the study's run use RUN's stages up to M."""
    study.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        if not (study / name).is_symlink():
            (study / name).symlink_to(os.path.relpath(run / name, study), target_is_directory=True)


def read_scores(run: Path) -> dict[float, dict[str, Any]]:
    """The scores of all finished temperatures of a run, by temperature."""
    found = {}
    for path in (run / "temperatures").glob("*/evaluate/scores.json"):
        scores = json.loads(path.read_text())
        if scores.get("dream"):
            found[float(scores["dream"]["temperature"])] = scores
    return dict(sorted(found.items()))


def temperature_table(task: Task, found: dict[float, dict[str, Any]]) -> str:
    """A Markdown table: dream score and actual score at each temperature, ours and the paper's."""
    published = {row.temperature: row for row in SCORES[task.name] if row.temperature}
    lines = [
        "| temperature | ours: dream score | ours: actual score | 95% interval | paper: dream score | paper: actual score |",
        "|---|---|---|---|---|---|",
    ]
    for temperature in sorted({*found, *published}):
        ours, row = found.get(temperature), published.get(temperature)
        cells = [f"{temperature:g}"]
        if ours:
            low, high = ours["ci95"]
            cells += [mean_and_std(ours["dream"]), f"**{mean_and_std(ours)}**", f"{low:.0f} .. {high:.0f}"]
        else:
            cells += ["", "", ""]
        cells += [f"{row.dream[0]:g} ± {row.dream[1]:g}", f"{row.mean:g} ± {row.std:g}"] if row and row.dream else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    for row in SCORES[task.name]:
        if row.features is None:
            lines.append(f"| {row.method} | | | | | {row.mean:g} ± {row.std:g} |")
    return "\n".join(lines)


def write_table(run: Path, task: Task) -> str:
    """Write RUN/temperatures/table.md, and return what it says."""
    text = temperature_table(task, read_scores(run))
    write_atomic(run / "temperatures" / "table.md", lambda file: file.write((text + "\n").encode()))
    return text
