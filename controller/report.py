"""Make a run visible: curves, reconstructions, the agent at play, a dream, and the score table.

    python controller/report.py carracing --run runs/carracing-smoke

Writes RUN/report: report.md, reconstructions.png, moments.png, vae.png, rnn.png, controller.png, agent.gif, agent.png, dream.gif
and dream.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import json
from typing import Any

from controller.results.paper import ORIGINAL_TRAINING, row_for
from controller.results.scores import score_table
from controller.results.temperatures import read_scores, temperature_table
from env.run.command import existing, parser, resolve, run_command
from env.run.compute import limit_threads
from env.run.errors import UserError
from env.run.files import read_jsonl, write_atomic
from env.run.rundir import Run
from env.run.settings import STAGES, Controller
from env.tasks import Task


def short(value: Any) -> str:
    """A number, or a list of them, with four digits; all else as it is."""
    if isinstance(value, list):
        return " .. ".join(map(short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def evolution(c: Controller) -> str:
    """Under which settings a C was evolved: '64 x 8 dreams at temperature 1.15'."""
    where = f"dreams at temperature {c.temperature:g}" if c.world == "dream" else "episodes"
    return f"{c.population} x {c.episodes} {where}"


def loss_table(run: Run, task: Task) -> list[str]:
    """Lines of Markdown: ours and the authors' losses at equal training steps; none where theirs are not published."""
    lines = []
    for stage, title in (("vae", "V"), ("rnn", "M")):
        ours = {row["step"]: row for row in read_jsonl(run.stage(stage).log)}
        both = {step: terms for step, terms in ORIGINAL_TRAINING.get(task.name, {}).get(stage, {}).items() if step in ours}
        if not both:
            continue
        names = list(next(iter(both.values())))
        lines += ["", f"| {title}'s step | " + " | ".join(f"{name}: ours | authors" for name in names) + " |"]
        lines.append("|---" * (1 + 2 * len(names)) + "|")
        for step, terms in both.items():
            lines.append(f"| {step} | " + " | ".join(f"{short(ours[step][name])} | {short(terms[name])}" for name in names) + " |")
    note = "Ours are means since the last row of the log, the authors' of one batch."
    return ["## Losses at equal steps", *lines, "", note, ""] if lines else []


def write_report(run: Run, task: Task, score: float, dreamt: float, scores: dict[str, Any]) -> None:
    """report.md: the score table, the pictures, what each stage ended with, and the settings."""
    settings = run.settings
    lines = [f"# {task.shown}, scale {settings.scale}, seed {settings.seed}", ""]
    row = row_for(task.name, settings.controller)
    lines += [score_table(f"ours ({scores['render']} drawing)", task.name, row, scores), ""]
    lines += ["Each return, with its seed, is in `../evaluate/scores.json`.", ""]
    lines += [f"| the world: this episode scores {score:.1f} | a dream of M's: {dreamt:.0f} steps |", "|---|---|"]
    lines += ["| ![the agent in the world](agent.gif) | ![the agent in M's dream](dream.gif) |", ""]
    lines += [f"![{name}]({name}.png)\n" for name in ("moments", "reconstructions", "vae", "rnn", "controller")]
    lines += loss_table(run, task)
    studied = read_scores(run.path)
    if studied:
        lines += ["## Temperatures", "", temperature_table(task, studied), ""]
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
        scores = json.loads((run.path / "evaluate" / "scores.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{run.path / 'evaluate'} has no whole scores.json: delete that folder and run the same again") from None
    limit_threads()
    import matplotlib

    matplotlib.use("Agg")
    from controller.agent import load_agent
    from controller.results import pictures

    settings, folder = run.settings, run.path / "report"
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, slots=1))
    agent, settings = load_agent(task, settings, run.path, run.path / "controller" / "best.npz")
    frames = pictures.sample_frames(run)
    decoded = agent.vae(frames).numpy()
    pictures.plot_reconstructions(frames, decoded, folder / "reconstructions.png")
    for stage, title in (("vae", "V"), ("rnn", "M")):
        original = ORIGINAL_TRAINING.get(task.name, {}).get(stage, {})
        pictures.plot_terms(run.stage(stage).log, folder / f"{stage}.png", title, original)
    pictures.plot_controller(run.stage("controller").log, folder / "controller.png", task.name, evolution(settings.controller))
    video, score = pictures.video_frames(task, settings, agent)
    dream, hundredth, dreamt = pictures.dream_frames(task, settings, run.path, agent.candidates[0])
    pictures.plot_moments(frames[0], decoded[0], hundredth, folder / "moments.png")
    for name, shown in (("agent", video), ("dream", dream)):
        pictures.save_gif(shown, folder / f"{name}.gif", task.frame_rate)
        pictures.save_strip(shown, folder / f"{name}.png")
    write_report(run, task, score, dreamt, scores)
    print(f"report: {folder / 'report.md'}")


def main() -> None:
    parsed = parser(__doc__ or "", "report").parse_args()
    task, path, settings = resolve(parsed, "report")
    make_report(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
