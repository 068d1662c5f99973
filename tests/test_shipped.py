"""The agent that comes with the project."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT, run_python

from controller.results.scores import bootstrap_interval
from env.run.files import load_arrays
from env.run.settings import load_settings

FLOORS = ("vae", "rnn", "controller")
MOST = {"carracing": 9e6, "doom": 12e6}  # bytes of weights
SHIPPED = [task for task in MOST if (ROOT / "controller" / f"{task}.npz").exists()]


@pytest.mark.parametrize("task", SHIPPED)
def test_shipped_files_are_small_and_hold_no_pickles(task):
    files = [ROOT / floor / f"{task}.npz" for floor in FLOORS]
    assert sum(file.stat().st_size for file in files) < MOST[task]
    initial, _ = load_arrays(ROOT / "vae" / f"{task}.initial.npz")
    assert initial["mu"].shape == initial["logvar"].shape
    for file, floor in zip(files, FLOORS):
        arrays, meta = load_arrays(file)
        assert meta["model"] == floor
        assert all(np.isfinite(array.astype(np.float32)).all() for array in arrays.values())


@pytest.mark.parametrize("task", SHIPPED)
def test_shipped_scores_are_consistent(task):
    scores = json.loads((ROOT / "controller" / f"{task}.scores.json").read_text())
    assert scores["render"] == "official"
    assert len(scores["returns"]) == len(scores["lengths"]) == len(set(scores["seeds"])) == 100
    assert scores["mean"] == pytest.approx(np.mean(scores["returns"]))
    assert scores["std"] == pytest.approx(np.std(scores["returns"]))
    assert tuple(scores["ci95"]) == bootstrap_interval(np.array(scores["returns"]))
    assert f"{scores['mean']:.1f} ± {scores['std']:.1f}" in (ROOT / "README.md").read_text()
    load_settings(ROOT / "controller" / f"{task}.settings.json")
    if "dream" in scores:
        dream = scores["dream"]
        assert dream["mean"] == pytest.approx(np.mean(dream["returns"]))
        assert f"{dream['mean']:.1f} ± {dream['std']:.1f}" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_shipped_agent_drives(tmp_path):
    """Three whole episodes on gymnasium's physics, our drawing: far above any agent that does not follow the road."""
    words = ("--episodes", "3", "--render", "fast", "--weights", ROOT / "controller" / "carracing.npz")
    result = run_python("controller/evaluate.py", "carracing", *words, "--json", tmp_path / "scores.json")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["mean"] > 500
    assert scores["agent"] == "controller/carracing.npz"


@pytest.mark.slow
@pytest.mark.skipif("doom" not in SHIPPED, reason="no Doom agent is shipped yet")
def test_the_shipped_doom_agent_lives(tmp_path):
    """Eight whole episodes of the real game, played by a C that knows it from dreams only: longer than random play's 210."""
    words = ("--episodes", "8", "--render", "fast", "--weights", ROOT / "controller" / "doom.npz")
    result = run_python("controller/evaluate.py", "doom", *words, "--json", tmp_path / "scores.json", ranks=2)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["mean"] > 300
    assert scores["agent"] == "controller/doom.npz"
    assert scores["dream"]["episodes"] == 100


@pytest.mark.slow
@pytest.mark.skipif("doom" not in SHIPPED, reason="no Doom agent is shipped yet")
def test_who_has_no_skill_lives_as_long_in_the_dream_as_in_the_game():
    """Left, right and nothing all the time: where a dream lets one of them live on, C finds it at once, and is worth nothing in
    the game."""
    import tensorflow as tf

    from env.rollout import Job, Worlds
    from env.run.weights import model_paths
    from env.tasks import get_task
    from rnn.dream import Beginnings, DreamLanes
    from rnn.memory import load_memory

    task = get_task("doom")
    paper, paths, episodes = task.scales["paper"], model_paths(task, None), range(48)
    worlds = Worlds(task, paper.world)
    rnn, beginnings = load_memory(paths.rnn, task, paper), Beginnings.load(paths.initial, paper.vae.z_size)

    def always(params: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        return params

    def game(action: float, seed: int) -> int:
        worlds[0].reset(seed=seed)
        return next(steps for steps in range(1, 2101) if any(worlds[0].step(np.array([action], np.float32))[2:4]))

    lanes = DreamLanes(rnn, beginnings, always, "zch", 1.15, 2100, len(episodes))
    for action in (-1.0, 0.0, 1.0):
        dreamt = np.mean([result.length for result in lanes.play(np.array([[action]]), [Job(i, 0, i) for i in episodes])])
        lived = np.mean([game(action, 1000 + i) for i in episodes])
        print(f"action {action:+.0f}: {dreamt:.0f} steps in the dream, {lived:.0f} in the game")
        assert 0.7 < dreamt / lived < 1.4
    worlds.close()
