"""Pictures of a run: curves of its trainings, reconstructions, and the agent at play in the world and in the dream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.results.paper import ORIGINAL_CURVE, ORIGINAL_EVOLUTION, ORIGINAL_TRAINING, Original, saw_the_same
from controller.results.scores import scorings
from controller.results.tables import evolution
from env.episodes import episode_path, read_episode
from env.rollout import Job, Moment, Purpose, WorldLanes, Worlds, episode_seed, rollout
from env.run.files import read_jsonl, write_atomic
from env.run.rundir import Run
from env.run.settings import Settings
from env.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from controller.agent import Agent
    from controller.results.evidence import Evidence

FRAMES_SHOWN = 10
EVERY = 4  # steps of the world for each picture of the video
LONGEST = 1000  # steps that a video shows at most
AHEAD = 50  # steps that M dreams before it is shown the world again


def plot_terms(log: Path, target: Path, title: str, original: Original) -> None:
    """One panel for each named term of a training log, against the training step, and the authors' own at their steps."""
    import matplotlib.pyplot as plt

    rows = read_jsonl(log)
    names = terms_of(rows)
    figure, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names):
        draw_term(axis, rows, name, title, original)
    save_figure(figure, target)


def terms_of(rows: list[dict[str, Any]]) -> list[str]:
    """The names of a training's losses in the rows of its log."""
    return [key for key in rows[0] if key not in ("step", "seconds_per_step", "cores")]


def draw_term(axis: Axes, rows: list[dict[str, Any]], name: str, title: str, original: Original) -> None:
    """A training's loss against its steps, and the authors' as far as ours goes, with the deviation between their batches."""
    axis.plot([row["step"] for row in rows], [row[name] for row in rows], label="ours")
    known = {step: terms[name] for step, terms in original.items() if name in terms and step <= rows[-1]["step"]}
    if known:
        means, deviations = zip(*known.values())
        axis.errorbar(list(known), means, [deviation or 0 for deviation in deviations], fmt="kx", elinewidth=1, label="authors")
        axis.legend(fontsize=8)
    values = [row[name] for row in rows]
    scale = "log" if min(values) > 0 and max(values) > 5 * min(values) else "linear"  # or the first steps hide the rest
    axis.set(title=f"{title}: {name}", xlabel="training step", yscale=scale)
    axis.grid(alpha=0.3)


def plot_controller(log: Path, target: Path, task: str, ours: str) -> None:
    """The population's fitness and the mean solution's scores, with the authors' own curve at the same generations, where there is
    one. `ours` says under which settings ours was made."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    rows = read_jsonl(log)
    if "generation" in rows[0]:
        draw_evolution(axis, rows, task, ours)
    else:
        draw_learning(axis, rows)
    save_figure(figure, target)


def draw_learning(axis: Axes, rows: list[dict[str, Any]], title: str = "C: actor and critic") -> None:
    """An actor's training: what it played with noise, its scorings without, and what dreams return by the critic's account."""
    updates = [row["update"] for row in rows]
    if "played" in rows[0]:
        axis.fill_between(updates, [r["played_min"] for r in rows], [r["played_max"] for r in rows], alpha=0.2, label="played, min to max")
        axis.plot(updates, [row["played"] for row in rows], label="played while it learned, mean")
    scored = scorings(rows, "update")
    axis.plot(list(scored), list(scored.values()), "o-", label="scored")
    axis.plot(updates, [row["return"] for row in rows], ":", label="dreams' discounted return")
    axis.set(xlabel="training step", ylabel="score", title=title)
    axis.legend(fontsize=7, framealpha=0.5)
    axis.grid(alpha=0.3)


def draw_evolution(axis: Axes, rows: list[dict[str, Any]], task: str, ours: str, title: str = "C: evolution") -> None:
    """What `plot_controller` shows."""
    generations = [row["generation"] for row in rows]
    axis.fill_between(generations, [r["min"] for r in rows], [r["max"] for r in rows], alpha=0.2, label="population, min to max")
    axis.plot(generations, [row["mean"] for row in rows], label=f"population, mean ({ours})")
    scored = scorings(rows, "generation")
    axis.plot(list(scored), list(scored.values()), "o-", label="mean solution, scored")
    known = {g: v for g, v in ORIGINAL_CURVE.get(task, {}).items() if g <= generations[-1]}
    if known:
        theirs = ORIGINAL_EVOLUTION[task]
        axis.plot(list(known), [v[0] for v in known.values()], "k--", marker=".", label=f"authors' population, mean ({theirs})")
        evaluated = {g: v[3] for g, v in known.items() if v[3] is not None}
        axis.plot(list(evaluated), list(evaluated.values()), "kx", label="authors' mean solution, scored")
    axis.set(xlabel="generation", ylabel="score", title=title)
    axis.legend(fontsize=7, framealpha=0.5)
    axis.grid(alpha=0.3)


def plot_against_authors(evidence: Evidence, target: Path) -> bool:
    """All evolutions and both trainings of a game beside the authors', a panel each; whether there was anything to draw."""
    import matplotlib.pyplot as plt

    evolved = [agent for agent in evidence.agents if agent.log]
    terms = [(stage, name) for stage in ("vae", "rnn") if evidence.logs[stage] for name in terms_of(evidence.logs[stage])]
    panels = len(evolved) + len(terms)
    if not panels:
        return False
    columns = min(3, panels)
    figure, axes = plt.subplots(-(-panels // columns), columns, figsize=(6 * columns, 4 * -(-panels // columns)), squeeze=False)
    free = iter(axes.flat)
    for agent in evolved:
        task = evidence.task.name if saw_the_same(evidence.task.name, agent.settings) else ""
        draw_evolution(next(free), agent.log, task, evolution(agent.settings), f"C: {agent.name}")
    for stage, name in terms:
        original = ORIGINAL_TRAINING.get(evidence.task.name, {}).get(stage, {})
        draw_term(next(free), evidence.logs[stage], name, "V" if stage == "vae" else "M", original)
    for axis in free:
        axis.set_axis_off()
    save_figure(figure, target)
    return True


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


def seen(agent: Agent, frames: np.ndarray, through_m: bool) -> np.ndarray:
    """What is kept of single frames [n, 64, 64, 3], as V decodes it, float in 0..1. A V that learned with M from pixels draws only what M
    makes of its z (through_m)."""
    import tensorflow as tf

    if not through_m:
        return agent.vae(frames).numpy()
    mu, _ = agent.vae.encode(tf.constant(frames))
    return agent.vae.decode(agent.memory.latent(agent.memory.initial(mu, tf.zeros((len(frames), agent.memory.initial_noise))))).numpy()


def video_frames(task: Task, settings: Settings, agent: Agent) -> tuple[list[np.ndarray], float]:
    """One episode of a one-slot agent: the world's own picture, beside it what the agent sees and what V keeps of it.

    Returns:
        Pictures uint8 [256, 512, 3], one for every EVERY steps up to LONGEST, and the episode's score.
    """
    import tensorflow as tf

    decode = tf.function(agent.vae.decode)
    pictures: list[np.ndarray] = []

    def watch(moment: Moment) -> None:
        if moment.action is None or moment.step % EVERY or moment.step >= LONGEST:
            return
        seen = decode(agent.latents).numpy()[0]
        views = [enlarged(view, 2) for view in (moment.observation, (seen * 255).astype(np.uint8))]
        pictures.append(np.hstack([scaled(np.asarray(moment.world.render()), 384, 256), np.vstack(views)]))

    worlds = Worlds.of(task, settings.world, render_mode="rgb_array")
    result = next(rollout(WorldLanes(worlds, agent, watch=watch), [shown_job(settings)]))
    worlds.close()
    return pictures, result.score


def dream_frames(task: Task, settings: Settings, run: Path, params: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, float]:
    """One dream of the run's M, acted in by its C, as V decodes it.

    Returns:
        Pictures uint8 [256, 256, 3], one for every EVERY steps up to LONGEST; the frame after 100 steps, or the last one of
        a shorter dream, uint8 [64, 64, 3]; and the dream's length in steps.
    """
    from controller.simulate import Dreamer, make_dream

    dream, policy = make_dream(task, settings, run)
    pictures: list[np.ndarray] = []
    hundredth = np.zeros((64, 64, 3), np.uint8)

    def watch(moment: Moment) -> None:
        nonlocal hundredth
        if moment.action is not None and moment.step % EVERY == 0 and moment.step < LONGEST:
            pictures.append(enlarged(dream.render(), 4))
        if moment.step == 100 or (moment.step < 100 and moment.action is None):
            hundredth = dream.render()

    lanes = WorldLanes(Worlds(lambda: dream), Dreamer(policy, task.actions, params), watch=watch)
    result = next(rollout(lanes, [shown_job(settings)]))
    return pictures, hundredth, float(result.length)


def open_loop_frames(task: Task, settings: Settings, agent: Agent) -> list[np.ndarray]:
    """One episode of a one-slot agent three times over: as it was; as V draws M's states; and as M dreams it on, told of the actions
    alone, from each step that AHEAD divides.

    Returns:
        Pictures uint8 [192, 576, 3], one for every EVERY steps up to LONGEST.
    """
    import tensorflow as tf

    memory, temperature = agent.memory, tf.constant(1.0)
    decode = tf.function(lambda state: agent.vae.decode(memory.latent(state)))
    imagine, rng = tf.function(memory.imagine), np.random.default_rng(0)
    pictures: list[np.ndarray] = []
    dreamt: Any = None

    def watch(moment: Moment) -> bool:
        nonlocal dreamt
        if moment.action is None or moment.step >= LONGEST:
            return True
        if moment.step % AHEAD == 0:
            dreamt = agent.state
        if moment.step % EVERY == 0:
            views = [moment.observation, *(np.rint(decode(s).numpy()[0] * 255).astype(np.uint8) for s in (agent.state, dreamt))]
            pictures.append(np.hstack([enlarged(view, 3) for view in views]))
        noise = tf.constant(rng.standard_normal((1, memory.imagine_noise), np.float32))
        dreamt = imagine(dreamt, tf.constant(moment.action[None]), temperature, noise).state
        return False

    worlds = Worlds.of(task, settings.world)
    next(rollout(WorldLanes(worlds, agent, watch=watch), [shown_job(settings)]))
    worlds.close()
    return pictures


def shown_job(settings: Settings) -> Job:
    """The episode that reports show, in the world and in the dream."""
    return Job(0, 0, episode_seed(settings.seed, Purpose.PICTURES, 0))


def enlarged(frame: np.ndarray, times: int) -> np.ndarray:
    """A frame with each pixel `times` as wide and as high."""
    return frame.repeat(times, axis=0).repeat(times, axis=1)


def scaled(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture at another size."""
    import cv2

    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def plot_moments(frame: np.ndarray, decoded: np.ndarray, dreamt: np.ndarray, target: Path) -> None:
    """A real frame, what V keeps of it, and a frame dreamt from scratch by M, side by side."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.9))
    titles = ("a real frame", "its reconstruction by V", "M's dream after 100 steps, or its end")
    for axis, picture, title in zip(axes, (frame, decoded, dreamt), titles):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    save_figure(figure, target)


def save_gif(pictures: list[np.ndarray], target: Path, frame_rate: float) -> None:
    """Write pictures of every EVERY steps as an endless GIF, in real time for a world of `frame_rate` steps a second."""
    from PIL import Image

    images = [Image.fromarray(p).quantize(64, dither=Image.Dither.NONE) for p in pictures]
    options = {"save_all": True, "append_images": images[1:], "duration": int(1000 * EVERY / frame_rate), "loop": 0}
    write_atomic(target, lambda file: images[0].save(file, "GIF", **options))


def save_strip(pictures: list[np.ndarray], target: Path) -> None:
    """Six moments of the video in two rows, as PNG."""
    from PIL import Image

    chosen = [pictures[i] for i in np.linspace(0, len(pictures) - 1, 6).round().astype(int)]
    strip = np.vstack([np.hstack(chosen[:3]), np.hstack(chosen[3:])])
    write_atomic(target, lambda file: Image.fromarray(strip).quantize(128, dither=Image.Dither.NONE).save(file, "PNG"))
