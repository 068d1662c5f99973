"""The agent that comes with the project."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT, run_python

from controller.results.scores import bootstrap_interval
from env.run.files import load_arrays, read_json, read_jsonl
from env.run.rundir import Run
from env.run.settings import load_settings
from env.run.taken import take
from env.run.weights import comes_along, fingerprint, fingerprints, model_paths, run_of, shipped, shipped_controller, shipped_systems
from env.tasks import get_task
from rnn.evaluate import settings_of
from rnn.memory import memory_meta

FLOORS = ("vae", "rnn", "controller")
MOST = {"carracing": 9e6, "doom": 12e6}  # bytes of weights
SHIPPED = [task for task in MOST if shipped_controller(task).exists()]


@pytest.mark.parametrize("task", SHIPPED)
def test_shipped_files_are_small_and_hold_no_pickles(task):
    files = [shipped("vae", task, "weights.npz"), shipped("rnn", task, "weights.npz"), shipped_controller(task)]
    assert sum(file.stat().st_size for file in files) < MOST[task]
    initial, _ = load_arrays(shipped("vae", task, "initial.npz"))
    assert initial["mu"].shape == initial["logvar"].shape
    for file, floor in zip(files, FLOORS):
        arrays, meta = load_arrays(file)
        assert meta["model"] == floor
        assert all(np.isfinite(array.astype(np.float32)).all() for array in arrays.values())


@pytest.mark.parametrize("task", SHIPPED)
def test_shipped_scores_are_consistent(task):
    scores = json.loads(shipped("controller", task, "scores.json").read_text())
    now = fingerprints(model_paths(task, None)) | {"controller": fingerprint(shipped_controller(task))}
    assert scores["fingerprints"] == now, "the scores are those of other weights: score the shipped agent again"
    assert scores["render"] == "official"
    assert len(scores["returns"]) == len(scores["lengths"]) == len(set(scores["seeds"])) == 100
    assert scores["mean"] == pytest.approx(np.mean(scores["returns"]))
    assert scores["std"] == pytest.approx(np.std(scores["returns"]))
    assert tuple(scores["ci95"]) == bootstrap_interval(np.array(scores["returns"]))
    assert f"{scores['mean']:.1f} ± {scores['std']:.1f}" in (ROOT / "README.md").read_text()
    load_settings(shipped("controller", task, "settings.json"))
    if "dream" in scores:
        dream = scores["dream"]
        assert dream["mean"] == pytest.approx(np.mean(dream["returns"]))
        assert f"{dream['mean']:.1f} ± {dream['std']:.1f}" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_shipped_agent_drives(tmp_path):
    """Three whole episodes on gymnasium's physics, our drawing: far above any agent that does not follow the road."""
    words = ("--episodes", "3", "--render", "fast", "--shipped")
    result = run_python("controller/evaluate.py", "carracing", *words, "--json", tmp_path / "scores.json")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["mean"] > 500
    assert scores["agent"] == "controller/shipped/carracing/best.npz"


@pytest.mark.slow
@pytest.mark.skipif("doom" not in SHIPPED, reason="no Doom agent is shipped yet")
def test_the_shipped_doom_agent_lives(tmp_path):
    """Eight whole episodes of the real game, played by a C that knows it from dreams only: longer than random play's 210."""
    words = ("--episodes", "8", "--dream-episodes", "16", "--render", "fast", "--shipped")
    result = run_python("controller/evaluate.py", "doom", *words, "--json", tmp_path / "scores.json", ranks=2)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["mean"] > 300
    assert scores["agent"] == "controller/shipped/doom/best.npz"
    assert scores["dream"]["episodes"] == 16


@pytest.mark.slow
@pytest.mark.skipif("doom" not in SHIPPED, reason="no Doom agent is shipped yet")
def test_the_agent_is_scored_in_dreams_of_another_temperature(tmp_path):
    """At 0.1 it lives on and on, as any C does (controller/README.md); its settings stay those of its training."""
    scores = {}
    for words in (["--temperature", "0.1"], []):
        command = ["controller/evaluate.py", "doom", "--dream-episodes", "4", "--episodes", "1", "--ranks", "1", "--render", "fast"]
        result = run_python(*command, *words, "--json", tmp_path / "scores.json")
        assert result.returncode == 0, result.stderr
        scores[len(words)] = read_json(tmp_path / "scores.json", sealed=True)
    assert (scores[0]["dream"]["temperature"], scores[2]["dream"]["temperature"]) == (1.15, 0.1)
    assert scores[0]["dream"]["seeds"] == scores[2]["dream"]["seeds"]
    assert scores[2]["dream"]["mean"] > 1.5 * scores[0]["dream"]["mean"]
    assert scores[0]["returns"] == scores[2]["returns"], "the game has no temperature"


@pytest.mark.slow
@pytest.mark.skipif("doom" not in SHIPPED, reason="no Doom agent is shipped yet")
def test_who_has_no_skill_does_not_live_in_the_dream():
    """Who stands still lives as long in the dream as in the game. At the walls, where the recordings' `hold` policy hardly ever is,
    dreams are too easy (controller/README.md): C finds that, but who dodges must live far longer there, or no C would learn to."""
    from controller.simulate import constant_simulator
    from env.random_policy import ConstantPolicy
    from env.rollout import Job, WorldLanes, Worlds, rollout
    from env.tasks import get_task

    task = get_task("doom")
    paper, jobs = task.scales["paper"], [Job(i, 0, i) for i in range(48)]
    worlds, dreams = Worlds.of(task, paper.world), constant_simulator(task, paper)
    for action in (-1.0, 0.0, 1.0):
        dreamt = np.mean([result.length for result in dreams.play(np.array([[action]]), jobs)])
        lived = np.mean([result.length for result in rollout(WorldLanes(worlds, ConstantPolicy(np.array([action], np.float32))), jobs)])
        print(f"action {action:+.0f}: {dreamt:.0f} steps in the dream, {lived:.0f} in the game")
        assert 0.7 < dreamt / lived < (3.0 if action else 1.4)
        assert dreamt < 0.6 * read_json(shipped("controller", "doom", "scores.json"))["dream"]["mean"]
    worlds.close()


@pytest.mark.parametrize("path", sorted((ROOT / "rnn" / "shipped").glob("*/*.json")), ids=lambda path: path.stem)
def test_figures_of_m_belong_to_the_shipped_files(path):
    figures = json.loads(path.read_text())
    now = fingerprints(model_paths(figures["task"], None)) | {"controller": fingerprint(shipped_controller(figures["task"]))}
    assert figures["fingerprints"] == {part: now[part] for part in figures["fingerprints"]}


SYSTEMS = [path for task in MOST for path in sorted(shipped_systems(task).glob("*"))]


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: f"{path.parents[1].name}-{path.name}")
def test_a_shipped_systems_scores_are_its_own(path):
    """Small files; scores of the very arrays that are shipped, on gymnasium's or Doom's own drawing."""
    settings = load_settings(path / "settings.json")
    assert path.name.startswith(f"{settings.memory}-{settings.trainer}") and comes_along(path, settings.task)
    assert run_of(path / "controller" / "best.npz", settings.task) == run_of(path / "another.npz", settings.task) == path.resolve()
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 12e6
    scores = json.loads((path / "evaluate" / "scores.json").read_text())
    now = fingerprints(model_paths(settings.task, path)) | {"controller": fingerprint(path / "controller" / "best.npz")}
    assert scores["fingerprints"] == now
    assert scores["render"] == "official" and len(scores["returns"]) == len(set(scores["seeds"])) >= 100
    text = (ROOT / "README.md").read_text() + (ROOT / "controller" / "README.md").read_text()
    assert f"{scores['mean']:.1f} ± {scores['std']:.1f}" in text


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: f"{path.parents[1].name}-{path.name}")
def test_v_and_m_of_a_shipped_system_are_scored_and_taken_by_another_run(tmp_path, path):
    """Most of them see with the V that comes with the project, and have none of their own."""
    theirs = load_settings(path / "settings.json")
    assert settings_of(get_task(theirs.task), path) == theirs
    task, run = get_task(theirs.task), Run(tmp_path / "run", theirs)
    wanted = {"model": "vae", "task": task.name, "z_size": theirs.vae.z_size}
    take(run, "vae", str(path), wanted)
    take(run, "rnn", str(path), memory_meta(task, theirs))
    assert fingerprints(model_paths(task.name, run.path)) == fingerprints(model_paths(task.name, path))


ROWS = sorted((shipped_controller("doom").parent / "rows").glob("*"))


def test_the_shipped_rows_are_small_and_the_shipped_c_is_one_of_them():
    assert sum(file.stat().st_size for path in ROWS for file in path.rglob("*")) < 2e6
    assert len(ROWS) == 15
    assert fingerprint(shipped_controller("doom")) in {fingerprint(path / "best.npz") for path in ROWS}


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.name)
def test_each_c_of_the_papers_table_is_the_best_of_its_scorings_and_has_scores_of_its_own(path):
    settings, (arrays, meta) = load_settings(path / "settings.json"), load_arrays(path / "best.npz")
    assert path.name == f"tau-{settings.controller.temperature:g}-seed-{settings.controller.es_seed}"
    rows = [row for row in read_jsonl(path / "log.jsonl") if "eval" in row]
    best = max(rows, key=lambda row: row["eval"])
    assert (meta["generation"], meta["score"]) == (best["generation"], best["eval"]) and arrays["params"].shape == (1088,)
    assert meta["temperature"] == settings.controller.temperature
    scores = json.loads((path / "scores.json").read_text())
    assert scores["fingerprints"] == fingerprints(model_paths("doom", None)) | {"controller": fingerprint(path / "best.npz")}
    assert scores["render"] == "official" and len(scores["returns"]) == len(set(scores["seeds"])) == 100
    assert scores["agent"] == str((path / "best.npz").relative_to(ROOT))


@pytest.mark.parametrize("command", ["controller/train.py", "controller/report.py", "vae/train.py"])
def test_nothing_is_trained_within_what_is_shipped(command):
    run = next(path for path in SYSTEMS if path.name == "mdnrnn-cmaes-round-2" and "doom" in path.parts)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if "evaluate" not in path.parts}
    result = run_python(command, "doom", "--run", run)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert "comes with the project and is not written into" in result.stderr
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if "evaluate" not in path.parts}


def test_a_c_of_a_shipped_system_is_not_scored_on_another_m(tmp_path):
    run = next(path for path in SYSTEMS if path.name == "mdnrnn-cmaes-round-2" and "doom" in path.parts)
    result = run_python("controller/evaluate.py", "doom", "--weights", run / "controller" / "best.npz", "--json", tmp_path / "scores.json")
    assert result.returncode == 2 and f"--run {run.relative_to(ROOT)}" in result.stderr
    assert not (tmp_path / "scores.json").exists()
