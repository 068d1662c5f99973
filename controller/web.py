"""Put an agent's dream on a web page: one file, in which V, M and C are computed by the browser.

    python controller/web.py doom
    python controller/web.py carracing --run runs/carracing --out page.html

On it people watch the agent in M's dream, turn the temperature, take over by keys or touch, see a real game beside V's pictures and M's
dream of it, and move V's numbers. It needs no network and no server: open the file, or put it on any host. The agent is RUN's, or,
where there is none yet, the one shipped with the project. Some real games are played first, which the page shows.

Writes RUN/web/index.html (for the shipped agent runs/web/TASK.html).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import dataclasses
import html
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from controller.page.pack import Blob, add_decoder, sprite
from controller.results.evidence import Agent as Scored
from controller.results.evidence import of_run, of_shipped
from controller.results.paper import ORIGINAL_CURVE, SCORES, saw_the_same
from controller.results.scores import mean_and_std, scorings
from env.actions import Continuous
from env.episodes import Episode, episode_path, read_episode
from env.rollout import Job, Purpose, WorldLanes, Worlds, episode_seed, rollout
from env.run.command import parser, resolve, run_command
from env.run.compute import limit_threads
from env.run.errors import UserError
from env.run.files import write_atomic
from env.run.rundir import runs_folder, saved_settings, study_folders
from env.run.settings import Settings, load_settings
from env.run.weights import comes_along, controller_path, fingerprint, is_shipped, memory_path, shipped_controller, shipped_run
from env.tasks import Task

if TYPE_CHECKING:
    from controller.agent import Agent
    from rnn.memory import Memory
    from vae.vae import ConvVAE

PAGE = Path(__file__).parent / "page"
GAMES = 3  # real games on the page
LONGEST = 400  # frames of each, at most
POINTS = 300  # of a curve, at most


class Player(NamedTuple):
    """Who dreams and acts.

    Attributes:
        settings: the agent's.
        vae, memory: V and M.
        params: C's parameters, or None where there is no C.
        weights: C's file, or None.
        agent: all three, ready to play the real game; None where there is no C.
        run: whose V and M they are; None for those shipped with the project.
    """

    settings: Settings
    vae: ConvVAE
    memory: Memory
    params: np.ndarray | None
    weights: Path | None
    agent: Agent | None
    run: Path | None


def load_player(task: Task, settings: Settings, run: Path, run_given: bool) -> Player:
    """The agent of a run, or the shipped one; or, of a run without a C yet, V and M alone.

    Raises:
        UserError: there is no V and M, or weights do not fit.
    """
    from controller.agent import load_agent, load_models

    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, slots=1))
    has_shipped = shipped_controller(task.name).exists() and settings.is_papers
    if (run_given or not has_shipped) and memory_path(run).exists() and not (run / "controller" / "best.npz").exists():
        vae, memory = load_models(task, settings, run)
        print(f"{run} has no scored C yet: on this page you play")
        return Player(settings, vae, memory, None, None, None, run)
    if not (run_given or has_shipped or (run / "controller" / "best.npz").exists()):
        system = "" if settings.is_papers else f" --memory {settings.memory} --trainer {settings.trainer}"
        raise UserError(
            f"there is no trained agent of {task.shown} in {run}: run 'bash run.sh {task.word}{system}' first, or give its --run"
        )
    weights = controller_path(task.name, run, run_given)
    agent, settings = load_agent(task, settings, run, weights)
    own = None if is_shipped(weights, task.name) else run
    return Player(settings, agent.vae, agent.memory, agent.candidates[0], weights, agent, own)


def played_games(task: Task, player: Player) -> list[Episode]:
    """Some real games, the agent's; or recorded ones of the run, where there is no agent.

    Raises:
        UserError: there are no recordings either.
    """
    settings = player.settings
    if player.agent is None:
        assert player.run is not None
        folder = player.run / "extract" / "episodes"
        studies = next(study_folders(player.run), None)
        if studies is not None and not folder.exists():
            raise UserError(f"{player.run} has no C and no recordings of its own: give one of its studies, such as --run {studies}")
        paths = [episode_path(folder, number) for number in range(min(GAMES, settings.extract.episodes))]
        return [read_episode(path) for path in paths]
    worlds = Worlds.of(task, settings.world)
    jobs = [Job(i, 0, episode_seed(settings.seed, Purpose.PICTURES, i)) for i in range(GAMES)]
    found = {result.job.index: result.episode for result in rollout(WorldLanes(worlds, player.agent, record=True), jobs)}
    worlds.close()
    return [episode for _, episode in sorted(found.items()) if episode is not None]


def add_games(blob: Blob, player: Player, games: list[Episode]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Keep the games' latents and actions; returns what the page is told of each, and all their frames [n, 64, 64, 3]."""
    import tensorflow as tf

    told, frames, start = [], [], 0
    for number, game in enumerate(games):
        steps = min(len(game["done"]), LONGEST - 1)
        shown = game["obs"][: steps + 1]
        mu, logvar = player.vae.encode(tf.constant(shown))
        for name, array in (("mu", mu), ("logvar", logvar), ("action", game["action"][:steps])):
            blob.add(f"episode{number}:{name}", np.asarray(array), "float16" if name != "action" else "float32")
        whole = len(game["done"])
        length = f"{whole} steps" if whole == steps else f"the first {steps} of {whole} steps"
        told.append({"from": start, "steps": steps, "note": f"score {float(np.sum(game['reward'])):.0f}, {length}"})
        frames.append(shown)
        start += len(shown)
    return told, np.concatenate(frames)


def add_weights(blob: Blob, player: Player) -> None:
    """Keep V's decoder, M (in half precision, whose error does not add up to anything) and C."""
    add_decoder(blob, {v.path: np.asarray(v) for v in player.vae.weights})
    for v in player.memory.weights:
        blob.add(f"rnn:{v.path}", np.asarray(v), "float16")
    if player.params is not None:
        blob.add("controller:params", player.params, "float32")


def shape_of_actions(task: Task) -> dict[str, Any]:
    """How outputs and keys become an action, as numbers."""
    actions = task.actions
    low, high = ([value if np.isfinite(value) else None for value in side] for side in (actions.low, actions.high))
    shape: dict[str, Any] = {"kind": "discrete", "low": low, "high": high, "rest": actions.rest.tolist()}
    if isinstance(actions, Continuous):
        shape |= {"kind": "continuous", "scale": actions.scale, "offset": actions.offset}
    return shape


def shape_of_policy(task: Task, player: Player) -> dict[str, Any] | None:
    """C's, or None."""
    if player.agent is None:
        return None
    c = player.settings.controller
    own = dataclasses.asdict(player.agent.policy)
    dreamt = c.world == "dream" or player.settings.trainer == "actor_critic"  # which always learns in imagination
    return own | {"features": c.features, "temperature": c.temperature, "dreamt": dreamt}


def curve(rows: list[dict[str, Any]], x: str, y: str) -> list[list[float]]:
    """Points of a log, not more than POINTS."""
    points = [[float(row[x]), float(row[y])] for row in rows if x in row and y in row and np.isfinite(row[y])]
    return points[:: -(-len(points) // POINTS)] if points else []


def curves(task: Task, settings: Settings, scored: Scored | None, logs: dict[str, Any]) -> list[dict[str, Any]]:
    """The curves of the report: C's, M's and V's."""
    charts = []
    rows = scored.log if scored else []
    if rows:
        time = "generation" if "generation" in rows[0] else "update"
        names = {"max": "best of the population", "mean": "population, mean", "min": "worst", "played": "played", "eval": "scored"}
        colors = {"max": "#8a9a5b", "mean": "#b3471f", "min": "#a89f91", "played": "#b3471f", "eval": "#1f6f8b"}
        scored_at = [{time: step, "eval": score} for step, score in scorings(rows, time).items()]
        points = {key: curve(scored_at if key == "eval" else rows, time, key) for key in names}
        lines = [{"name": names[key], "points": points[key], "color": colors[key], "dots": key == "eval"} for key in names]
        if saw_the_same(task.name, settings):
            last = rows[-1]["generation"]
            theirs = [[g, v[0]] for g, v in ORIGINAL_CURVE.get(task.name, {}).items() if g <= last]
            lines.append({"name": "the authors' population, mean", "points": theirs, "color": "#777777", "dashed": True})
        lines = [line for line in lines if line["points"]]
        charts.append({"title": "C's score, as it was trained", "x": time, "y": "score", "lines": lines})
    for stage, title in (("rnn", "M's loss"), ("vae", "V's loss")):
        lines = [{"name": "loss", "points": curve(logs.get(stage) or [], "step", "loss"), "color": "#b3471f"}]
        charts.append({"title": title, "x": "training step", "y": "loss", "lines": lines})
    return charts


def report(task: Task, player: Player) -> dict[str, Any]:
    """Scores, the paper's beside them, curves, sizes, and the settings that the agent was trained with."""
    trained = (saved_settings(player.run) if player.run else None) or player.settings
    evidence = of_run(task, player.run) if player.run else of_shipped(task)
    found: list[tuple[Scored | None, dict[str, Any]]] = [(agent, evidence.logs) for agent in evidence.agents]
    found += evidence.systems
    this = fingerprint(player.weights) if player.weights else ""
    scored, logs = next((pair for pair in found if pair[0] and fingerprint(pair[0].weights) == this), (None, evidence.logs))
    rows = []
    if scored and scored.scores and not scored.stale:
        for where, scores in (("this agent, in the game", scored.scores), ("this agent, in M's dream", scored.scores.get("dream"))):
            if scores:
                low, high = scores["ci95"]
                row = {"where": where, "mean": mean_and_std(scores), "interval": f"{low:.0f} .. {high:.0f}"}
                rows.append(row | {"episodes": str(scores["episodes"])})
    v, m = (f"{sum(int(np.prod(weight.shape)) for weight in part.weights):,}" for part in (player.vae, player.memory))
    sizes = f"V has {v} parameters, M {m}" + (f", C {player.params.size:,}." if player.params is not None else ".")
    return {
        "scores": rows,
        "published": [{"method": row.method, "mean": f"{row.mean:g} ± {row.std:g}"} for row in SCORES.get(task.name, ())],
        "source": next((f"The other rows: {row.source}." for row in SCORES.get(task.name, ())), ""),
        "curves": curves(task, player.settings, scored, logs),
        "sizes": sizes,
        "settings": (scored.settings if scored else trained).to_dict(),
    }


def models_data(task: Task, player: Player, blob: Blob) -> dict[str, Any]:
    """What the page must know of V, M, C and the actions to compute them; their weights go to the blob."""
    settings = player.settings
    add_weights(blob, player)
    reward = task.step_reward * settings.world.repeat
    own = {"kind": settings.memory, "z_size": settings.vae.z_size, "actions": task.actions.size, "step_reward": reward}
    return {
        "memory": dataclasses.asdict(settings.of_memory) | own,
        "policy": shape_of_policy(task, player),
        "actions": shape_of_actions(task),
        "arrays": blob.manifest,
    }


def page_data(task: Task, player: Player, games: list[Episode]) -> tuple[dict[str, Any], Blob]:
    """What the page is told, and its arrays."""
    settings, blob = player.settings, Blob()
    models = models_data(task, player, blob)
    episodes, frames = add_games(blob, player, games)
    dreams_reward = settings.memory == "rssm" or bool(task.step_reward)
    by = "an MDN-RNN" if settings.memory == "mdnrnn" else "a recurrent state-space model"
    shown = f"A dream of {task.shown}" if player.run is None or player.agent else f"{task.shown}, dreamt"
    data = {
        "title": shown,
        "lead": f"The agent's memory, {by}, invents this game from what it has learned of the real one. "
        + ("Watch the agent live in it, or take over." if player.agent else "Play in it."),
        "made": f"World Models (Ha and Schmidhuber, 2018), replicated. {task.shown}, "
        + (f"run {player.run.name}." if player.run and not comes_along(player.run, task.name) else "an agent that comes with the project."),
        "keys": [{"key": key, "action": action} for key, action in task.keys],
        "frame_rate": task.frame_rate / settings.world.repeat,
        "most_steps": settings.dream_steps if settings.controller.world == "dream" else settings.world.steps(),
        # An M that foresees ends dreams from first frames, too.
        "begin_at": 0 if player.memory.foresees_end else -(-task.opening // settings.world.repeat),
        "dreams_reward": dreams_reward,
        "keeps_by_m": settings.sees_pixels,
        "episodes": episodes,
        "sprite": sprite(frames),
        "report": report(task, player),
    }
    return data | models, blob


def fill(data: dict[str, Any], blob: Blob) -> str:
    """The page.

    Raises:
        UserError: a weight or a setting is not a finite number.
    """
    bad = [name for name, array in blob.arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(f"{bad[0]} holds numbers that are not finite: this agent cannot be shown")
    text = {name: (PAGE / file).read_text() for name, file in (("style", "style.css"), ("models", "models.js"), ("app", "app.js"))}
    # "<" could begin what ends a script element, or hides its end.
    told = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    text |= {"title": html.escape(data["title"]), "data": told, "weights": blob.text()}
    parts = (PAGE / "page.html").read_text().split("{{")
    filled = [parts[0]]
    for part in parts[1:]:
        name, rest = part.split("}}", 1)
        filled += [text[name].rstrip("\n"), rest]
    return "".join(filled)


def default_target(task: Task, run: Path | None) -> Path:
    """Where the page of a run goes, or of an agent that comes with the project."""
    if run is None or comes_along(run, task.name):
        return runs_folder() / "web" / ("-".join([task.name, *([run.name] if run else [])]) + ".html")
    return run / "web" / "index.html"


def check_out(out: Path | None) -> None:
    """Raise UserError now, and not after the games were played, when the page cannot be written there."""
    if out is None:
        return
    if out.is_dir():
        raise UserError(f"--out {out} is a directory: name a file, such as {out / 'index.html'}")
    if not os.access(out.resolve().parent, os.W_OK) or len(out.name) > 200:
        raise UserError(f"--out {out} cannot be written: name a file in a folder that is there and yours")


def make_page(task: Task, settings: Settings, run: Path, run_given: bool, out: Path | None) -> Path:
    """Write the page; returns its path.

    Raises:
        UserError: as `load_player`.
    """
    limit_threads()
    player = load_player(task, settings, run, run_given)
    print(f"{task.shown}: {GAMES} real games are {'played for the page' if player.agent else 'taken from the recordings'}", flush=True)
    games = played_games(task, player)
    page = fill(*page_data(task, player, games))
    target = out or default_target(task, player.run)
    write_atomic(target, lambda file: file.write(page.encode()))
    print(f"page: {target} ({len(page) / 1e6:.1f} MB): open it in a browser")
    return target


def main() -> None:
    new = parser(__doc__ or "", "web")
    new.add_argument("--out", type=Path, metavar="FILE", help="where to write the page")
    parsed = new.parse_args()
    task, run, settings = resolve(parsed, "web")
    check_out(parsed.out)
    system = shipped_run(task.name, settings.memory, settings.trainer)
    if parsed.run is None and not settings.is_papers and not run.is_dir() and system.is_dir():
        run, settings = system, load_settings(system / "settings.json")
    make_page(task, settings, run, parsed.run is not None or run == system, parsed.out)


if __name__ == "__main__":
    run_command(main)
