"""Make a run visible: curves, reconstructions, the agent at play, a dream, and the score table.

    python controller/report.py carracing --run runs/carracing-smoke

Writes RUN/report: report.md, reconstructions.png, moments.png, vae.png, rnn.png, controller.png, agent.gif, agent.png, dream.gif,
dream.png, openloop.gif and openloop.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import json
from typing import Any

from controller.results.evidence import of_run
from controller.results.paper import ORIGINAL_TRAINING, SCORES, row_for, saw_the_same
from controller.results.scores import score_table
from controller.results.tables import all_tables, evolution
from env.run.command import existing, parser, resolve, run_command
from env.run.compute import limit_threads
from env.run.errors import UserError
from env.run.files import read_json, write_atomic
from env.run.rundir import Run, spoken
from env.run.settings import STAGES
from env.tasks import Task


def short(value: Any) -> str:
    """A number, or a list of them, with four digits; all else as it is."""
    if isinstance(value, list):
        return " .. ".join(map(short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_report(run: Run, task: Task, score: float, dreamt: float, scores: dict[str, Any]) -> None:
    """report.md: the score table, the pictures, what each stage ended with, and the settings."""
    settings = run.settings
    lines = [f"# {task.shown}, scale {settings.scale}, seed {settings.seed}", ""]
    row = row_for(task.name, settings)
    lines += [score_table(f"ours ({scores['render']} drawing)", task.name, row, scores), ""]
    lines += ["Each return, with its seed, is in `../evaluate/scores.json`.", ""]
    lines += [f"| the world: this episode scores {score:.1f} | a dream of M's: {dreamt:.0f} steps |", "|---|---|"]
    lines += ["| ![the agent in the world](agent.gif) | ![the agent in M's dream](dream.gif) |", ""]
    lines += ["| the world | what M sees of it (V's picture of its state) | M's dream from every 50th step on, with the same actions |"]
    lines += ["|---|---|---|", "| ![the world, M's state and M's dream](openloop.gif) | | |", ""]
    shown = [name for name in ("moments", "reconstructions", "vae", "rnn", "controller") if (run.path / "report" / f"{name}.png").exists()]
    lines += [f"![{name}]({name}.png)\n" for name in shown]
    if task.name in SCORES and settings.is_papers:
        lines += ["## Beside the paper", "", *(f"{table.markdown()}\n" for table in all_tables(of_run(task, run.path)))]
    own = f"`{spoken('web')} {task.word} --run {run.path}`"
    lines += ["## Play in its dream", "", f"{own} writes a page on which to watch, to take over, and to turn the temperature.", ""]
    lines += ["## Stages", "", "| stage | result |", "|---|---|"]
    for name in STAGES:
        summary = ", ".join(f"{key} {short(value)}" for key, value in run.stage(name).summary.items())
        lines.append(f"| {name} | {summary} |")
    lines += ["", "## Settings", "", "```json", json.dumps(settings.to_dict(), indent=2), "```", ""]
    write_atomic(run.path / "report" / "report.md", lambda file: file.write("\n".join(lines).encode()))


def make_report(run: Run, task: Task) -> None:
    """All of RUN/report.

    Raises:
        UserError: a stage is not finished.
    """
    for name in STAGES:
        if not run.stage(name).check():
            raise UserError(f"{run.path} is not finished (stage {name}): run 'bash run.sh {task.word} --run {run.path}' first")
    try:
        scores = read_json(run.path / "evaluate" / "scores.json", sealed=True)
    except UserError as error:
        raise UserError(f"{error}: delete {run.path / 'evaluate'} and run the same again") from None
    limit_threads()
    import matplotlib

    matplotlib.use("Agg")
    from controller.agent import load_agent
    from controller.results import pictures

    settings, folder = run.settings, run.path / "report"
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, slots=1))
    agent, settings = load_agent(task, settings, run.path, run.path / "controller" / "best.npz")
    frames = pictures.sample_frames(run)
    decoded = pictures.seen(agent, frames, settings.sees_pixels)
    pictures.plot_reconstructions(frames, decoded, folder / "reconstructions.png")
    for stage, title in (("vae", "V"), ("rnn", "M")):
        original = ORIGINAL_TRAINING.get(task.name, {}).get(stage, {}) if stage == "vae" or settings.memory == "mdnrnn" else {}
        if run.stage(stage).log.exists():  # a V or an M that was taken, may come without
            pictures.plot_terms(run.stage(stage).log, folder / f"{stage}.png", title, original)
    ours = evolution(settings) if settings.trainer == "cmaes" else "ours"
    authors = task.name if saw_the_same(task.name, settings) else ""
    pictures.plot_controller(run.stage("controller").log, folder / "controller.png", authors, ours)
    video, score = pictures.video_frames(task, settings, agent)
    dream, hundredth, dreamt = pictures.dream_frames(task, settings, run.path, agent.candidates[0])
    pictures.plot_moments(frames[0], decoded[0], hundredth, folder / "moments.png")
    open_loop = pictures.open_loop_frames(task, settings, agent)
    for name, shown in (("agent", video), ("dream", dream), ("openloop", open_loop)):
        pictures.save_gif(shown, folder / f"{name}.gif", task.frame_rate / settings.world.repeat)
        pictures.save_strip(shown, folder / f"{name}.png")
    write_report(run, task, score, dreamt, scores)
    print(f"report: {folder / 'report.md'}")


def main() -> None:
    parsed = parser(__doc__ or "", "report").parse_args()
    task, path, settings = resolve(parsed, "report")
    make_report(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
