"""What there is to check against the paper: weights, logs and scores, of the agents that come with the project or of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from env.run.errors import UserError
from env.run.files import load_arrays, read_json, read_jsonl
from env.run.rundir import saved_settings, study_folders
from env.run.settings import Settings, load_settings
from env.run.weights import SHIPPED, fingerprint, fingerprints, model_paths, shipped, shipped_systems
from env.tasks import Task

Rows = list[dict[str, Any]]
ROWS = "rows"  # in controller/shipped/TASK: further C's that come with the project, a folder for each


@dataclass(frozen=True)
class Agent:
    """A C, as far as it got.

    Attributes:
        name: its folder's; that of the agent that comes with the project ends with SHIPPED.
        settings: with which it was evolved.
        log: its evolution's.
        weights: its parameters' file.
        scores: what controller/evaluate.py wrote; None if it was not scored.
        stale: why its scores do not count; empty if they do.
        others: further scorings of the same V, M and C on the same episodes under other conditions, by their files' names.
    """

    name: str
    settings: Settings
    log: Rows
    weights: Path
    scores: dict[str, Any] | None = None
    stale: str = ""
    others: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All of one game.

    Attributes:
        source: the run, or that it comes with the project.
        task: the game.
        settings: with which V and M were trained.
        models: the weights of "vae" and "rnn", as far as they are there.
        logs: those of the trainings of "vae" and "rnn".
        agents: the C's on them.
        policies: scores of policies without skill, by name.
        systems: agents with another memory or another trainer than the paper's, with the logs of their V and M.
        forecasts: what rnn/evaluate.py found of each M, by the M's name and the file's.
    """

    source: str
    task: Task
    settings: Settings
    models: dict[str, Path]
    logs: dict[str, Rows]
    agents: list[Agent]
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    systems: list[tuple[Agent, dict[str, Rows]]] = field(default_factory=list)
    forecasts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)


def of_shipped(task: Task) -> Evidence:
    """What comes with the project.

    Raises:
        UserError: nothing does, or a file is damaged.
    """
    paths = model_paths(task.name, None)
    own = shipped("controller", task.name, "best.npz").parent
    agents = [_agent(folder, folder.name, folder, None) for folder in sorted((own / ROWS).glob("*")) if folder.is_dir()]
    best = _agent(own, SHIPPED, own, None)
    same = [fingerprint(agent.weights) == fingerprint(best.weights) for agent in agents]  # it may be one of them
    agents = [replace(agent, name=f"{agent.name}, {SHIPPED}") if its else agent for agent, its in zip(agents, same)]
    if not any(same):
        agents.insert(0, best)
    policies = {}
    for path in sorted(own.glob("*.json")):
        scores = _read(path)
        if str(scores.get("agent", "")).endswith(" policy"):
            policies[path.stem] = scores
    folders = sorted(folder for folder in shipped_systems(task.name).glob("*") if (folder / "controller" / "best.npz").exists())
    forecasts = _forecasts(SHIPPED, paths.rnn.parent, task, None)
    for folder in folders:
        forecasts |= _forecasts(folder.name, folder / "rnn", task, folder)
    return Evidence(
        "the files that come with the project",
        task,
        best.settings,
        {"vae": paths.vae, "rnn": paths.rnn},
        {stage: _log(shipped(stage, task.name, "log.jsonl")) for stage in ("vae", "rnn")},
        agents,
        policies,
        [_system(folder) for folder in folders],
        forecasts,
    )


def _forecasts(name: str, folder: Path, task: Task, run: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """What rnn/evaluate.py found of the V and M that are there now, and wrote beside M; what it found of others does not count."""
    found = {(name, path.stem): _read(path) for path in sorted(folder.glob("foreseen_*.json"))}
    now = fingerprints(model_paths(task.name, run)) if found else {}
    return {key: figures for key, figures in found.items() if figures.get("fingerprints") == now}


def _system(path: Path) -> tuple[Agent, dict[str, Rows]]:
    """The agent of a run, and the logs of its V and M; of one that plays on the V that comes with the project, that one's."""
    agent = _agent(path / "controller", path.name, path / "evaluate", path)
    logs = {stage: _log(path / stage / "log.jsonl") for stage in ("vae", "rnn")}
    return agent, logs | ({} if logs["vae"] else {"vae": _log(shipped("vae", agent.settings.task, "log.jsonl"))})


def of_run(task: Task, path: Path) -> Evidence:
    """A run and its studies, however far they got.

    Raises:
        UserError: there is no run, or it is another game's, or a file is damaged.
    """
    settings = saved_settings(path)
    if settings is None:
        raise UserError(f"{path} is no run: give a directory that 'bash run.sh {task.word}' made, or leave --run out")
    if settings.task != task.name:
        raise UserError(f"{path} is a run of {settings.task}, not of {task.name}")
    folders = [path, *study_folders(path)]
    agents = [
        _agent(folder / "controller", "run" if folder == path else folder.name, folder / "evaluate", folder)
        for folder in folders
        if (folder / "controller" / "best.npz").exists()
    ]
    forecasts = _forecasts("run", path / "rnn", task, path)
    if not settings.is_papers:
        logs = {stage: _log(path / stage / "log.jsonl") for stage in ("vae", "rnn")}
        parts = {"vae": logs["vae"], "rnn": []}
        return Evidence(str(path), task, settings, {}, parts, [], systems=[(agent, logs) for agent in agents], forecasts=forecasts)
    linked = {agent.weights.resolve() for agent in agents if agent.name != "run"}  # a study that took over the run's own C
    return Evidence(
        str(path),
        task,
        settings,
        {stage: path / stage / "weights.npz" for stage in ("vae", "rnn") if (path / stage / "weights.npz").exists()},
        {stage: _log(path / stage / "log.jsonl") for stage in ("vae", "rnn")},
        [agent for agent in agents if agent.name != "run" or agent.weights.resolve() not in linked],
        forecasts=forecasts,
    )


def _agent(folder: Path, name: str, scored: Path, run: Path | None) -> Agent:
    """The C in `folder`, whose scores lie in `scored`, of `run`, or of those that come with the project."""
    settings = load_settings((run or folder) / "settings.json")
    weights = folder / "best.npz"
    if not (scored / "scores.json").exists():
        return Agent(name, settings, _log(folder / "log.jsonl"), weights)
    scores = _read(scored / "scores.json")
    stale = _stale(scores, fingerprints(model_paths(settings.task, run)) | {"controller": fingerprint(weights)})
    files = {path.stem: _read(path) for path in sorted(scored.glob("*.json")) if path.name != "scores.json"}
    same = {
        stem: other
        for stem, other in files.items()
        if other.get("fingerprints") == scores.get("fingerprints") and other.get("seeds") == scores["seeds"]
    }
    return Agent(name, settings, _log(folder / "log.jsonl"), weights, scores, stale, {} if stale else same)


def _stale(scores: dict[str, Any], now: dict[str, str]) -> str:
    """What of V, M and C was another one when the scores were made."""
    names = {"vae": "V", "rnn": "M", "controller": "C"}
    then = scores.get("fingerprints") or {}
    changed = [names[part] for part, value in now.items() if then.get(part) != value]
    return f"scored with another {' and '.join(changed)}" if changed else ""


def _log(path: Path) -> Rows:
    return read_jsonl(path) if path.exists() else []


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(f"{error}: score the agent again") from None


def parameters(path: Path) -> int:
    """Numbers in a weights file.

    Raises:
        UserError: it is damaged.
    """
    arrays, _ = load_arrays(path)
    return sum(array.size for array in arrays.values())
