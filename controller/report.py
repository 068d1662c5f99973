"""Make a run visible: curves, reconstructions, the agent driving, and the score table.

    python controller/report.py carracing --run runs/carracing-smoke

Writes RUN/report: report.md, reconstructions.png, vae.png, rnn.png, controller.png, drive.gif and drive.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.paper import ORIGINAL_CURVE, row_for
from controller.scores import score_table
from env.command import existing, parser, resolve, run_command
from env.compute import limit_threads
from env.episodes import episode_path, read_episode
from env.files import read_jsonl, write_atomic
from env.rundir import Run
from env.settings import UserError
from env.tasks import STAGES, Settings, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from controller.agent import Agent

FRAMES_SHOWN = 10
EVERY = 4  # steps of the world for each picture of the video


def plot_terms(log: Path, target: Path, title: str) -> None:
    """One panel for each named term of a training log, against the training step."""
    import matplotlib.pyplot as plt

    rows = read_jsonl(log)
    names = [key for key in rows[0] if key not in ("step", "seconds_per_step")]
    figure, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names):
        axis.plot([row["step"] for row in rows], [row[name] for row in rows])
        axis.set(title=f"{title}: {name}", xlabel="training step")
        axis.grid(alpha=0.3)
    save_figure(figure, target)


def plot_controller(log: Path, target: Path, task: str) -> None:
    """The population's fitness and the mean solution's scores, with the authors' own curve at the same generations."""
    import matplotlib.pyplot as plt

    rows = read_jsonl(log)
    generations = [row["generation"] for row in rows]
    figure, axis = plt.subplots(figsize=(7, 4))
    axis.fill_between(generations, [r["min"] for r in rows], [r["max"] for r in rows], alpha=0.2, label="population, min to max")
    axis.plot(generations, [row["mean"] for row in rows], label="population, mean")
    scored = [row for row in rows if "eval" in row]
    axis.plot([r["generation"] for r in scored], [r["eval"] for r in scored], "o-", label="mean solution, scored")
    known = {g: v for g, v in ORIGINAL_CURVE[task].items() if g <= generations[-1]}
    axis.plot(list(known), [v[0] for v in known.values()], "k--", marker=".", label="authors' population, mean")
    evaluated = {g: v[3] for g, v in known.items() if v[3] is not None}
    axis.plot(list(evaluated), list(evaluated.values()), "kx", label="authors' mean solution, scored")
    axis.set(xlabel="generation", ylabel="score", title="C: evolution")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    save_figure(figure, target)


def save_figure(figure: Figure, target: Path) -> None:
    """Write a figure as PNG, atomically, and free it."""
    import matplotlib.pyplot as plt

    figure.tight_layout()
    write_atomic(target, lambda file: figure.savefig(file, format="png", dpi=110))
    plt.close(figure)


def sample_frames(run: Run) -> np.ndarray:
    """Frames from recorded episodes, spread over episodes and time: uint8 [n, 64, 64, 3]."""
    rng, frames = np.random.default_rng(0), []
    for index in rng.choice(run.settings.extract.episodes, min(FRAMES_SHOWN, run.settings.extract.episodes), replace=False):
        obs = read_episode(episode_path(run.path / "extract" / "episodes", int(index)), ("obs",))["obs"]
        frames.append(obs[rng.integers(len(obs))])
    return np.stack(frames)


def plot_reconstructions(frames: np.ndarray, decoded: np.ndarray, target: Path) -> None:
    """Frames above, what V makes of them below."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(frames), figsize=(1.4 * len(frames), 3.2))
    for column, pair in enumerate(zip(frames, decoded)):
        for axis, picture in zip(axes[:, column], pair):
            axis.imshow(picture)
            axis.set_axis_off()
    figure.suptitle("recorded frames (above) and V's reconstructions (below)")
    save_figure(figure, target)


def video_frames(task: Task, settings: Settings, agent: Agent) -> tuple[list[np.ndarray], float]:
    """One episode of a one-slot agent: gymnasium's picture, beside it what the agent sees and what V keeps of it.

    Returns:
        Pictures uint8 [256, 512, 3], one for every EVERY steps, and the episode's score.
    """
    import cv2
    import tensorflow as tf

    from controller.rollout import Job, episode_seed, make_world

    job = Job(0, 0, episode_seed(settings.seed, 4, 0))
    world = make_world(task, settings.world, render_mode="rgb_array")
    agent.begin(0, job)
    frame, _ = world.reset(seed=job.seed)
    pictures, score, over, step = [], 0.0, False, 0
    decode = tf.function(agent.vae.decode)
    while not over:
        action = agent.act(frame[None])[0]
        if step % EVERY == 0:
            seen = decode(agent.latents).numpy()[0]
            views = [cv2.resize(v, (128, 128), interpolation=cv2.INTER_NEAREST) for v in (frame, (seen * 255).astype(np.uint8))]
            outside = cv2.resize(np.asarray(world.render()), (384, 256), interpolation=cv2.INTER_AREA)
            pictures.append(np.hstack([outside, np.vstack(views)]))
        frame, reward, terminated, truncated, _ = world.step(action)
        score, over, step = score + float(reward), terminated or truncated, step + 1
    world.close()
    return pictures, score


def save_gif(pictures: list[np.ndarray], target: Path) -> None:
    """Write pictures as an endless GIF at 12.5 pictures a second: real time for EVERY = 4 at 50 steps a second."""
    from PIL import Image

    images = [Image.fromarray(p).quantize(64, dither=Image.Dither.NONE) for p in pictures]
    write_atomic(target, lambda file: images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=80, loop=0))


def save_strip(pictures: list[np.ndarray], target: Path) -> None:
    """Six moments of the video in two rows, as PNG."""
    from PIL import Image

    chosen = [pictures[i] for i in np.linspace(0, len(pictures) - 1, 6).round().astype(int)]
    strip = np.vstack([np.hstack(chosen[:3]), np.hstack(chosen[3:])])
    write_atomic(target, lambda file: Image.fromarray(strip).quantize(128, dither=Image.Dither.NONE).save(file, "PNG"))


def short(value: Any) -> str:
    """A number, or a list of them, with four digits; all else as it is."""
    if isinstance(value, list):
        return " .. ".join(map(short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_report(run: Run, task: Task, score: float, scores: dict[str, Any]) -> None:
    """report.md: the score table, the pictures, what each stage ended with, and the settings."""
    settings = run.settings
    row = row_for(task.name, settings.controller.features, settings.controller.hidden)
    lines = [f"# {task.title}, scale {settings.scale}, seed {settings.seed}", ""]
    drawing = "gymnasium's own drawing" if scores["render"] == "official" else "our drawing"
    lines += [score_table(f"ours ({drawing})", task.name, row, scores), ""]
    lines += ["Each return, with its seed, is in `../evaluate/scores.json`.", ""]
    lines += [f"![the agent driving](drive.gif)\n\nThis episode: {score:.1f}.", ""]
    lines += [f"![{name}]({name}.png)\n" for name in ("reconstructions", "vae", "rnn", "controller")]
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
            raise UserError(f"{run.path} is not finished (stage {name}): run 'bash run.sh {task.name} --run {run.path}' first")
    try:
        scores = json.loads((run.path / "evaluate" / "scores.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{run.path / 'evaluate'} has no whole scores.json: delete that folder and run the same again") from None
    limit_threads()
    import matplotlib

    matplotlib.use("Agg")
    from controller.agent import load_agent

    settings, folder = run.settings, run.path / "report"
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, slots=1))
    agent, settings = load_agent(task, settings, run.path, run.path / "controller" / "best.npz")
    frames = sample_frames(run)
    plot_reconstructions(frames, agent.vae(frames).numpy(), folder / "reconstructions.png")
    for stage, title in (("vae", "V"), ("rnn", "M")):
        plot_terms(run.stage(stage).log, folder / f"{stage}.png", title)
    plot_controller(run.stage("controller").log, folder / "controller.png", task.name)
    pictures, score = video_frames(task, settings, agent)
    save_gif(pictures, folder / "drive.gif")
    save_strip(pictures, folder / "drive.png")
    write_report(run, task, score, scores)
    print(f"report: {folder / 'report.md'}")


def main() -> None:
    parsed = parser(__doc__ or "", "report").parse_args()
    task, path, settings = resolve(parsed, "report")
    make_report(Run(existing(path, task), settings), task)


if __name__ == "__main__":
    run_command(main)
