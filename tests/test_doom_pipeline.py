"""Doom's stages on the real game and real ranks, at a size of seconds."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, run_python, without_times

from env.episodes import episode_path, read_episode
from env.run.files import load_arrays, read_jsonl

TINY = ("--scale", "smoke", "--max-steps", "120")
FLAGS = ("--extract-episodes", "5", "--rnn-window", "20", "--rnn-steps", "6", "--controller-dream-steps", "60", "--evaluate-episodes", "2")


def ok(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run by the pipeline from the first stage to the report."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    ok(run_python("controller/pipeline.py", "doom", "--run", path, *TINY, *FLAGS, "--ranks", "2", "--no-estimate"))
    return path


@pytest.mark.slow
def test_the_pipeline_leaves_everything(run):
    for index in range(5):
        episode = read_episode(episode_path(run / "extract" / "episodes", index))
        assert 101 <= len(episode["action"]) <= 120
        assert len(episode["obs"]) == len(episode["action"]) + 1
        assert episode["obs"][:-1].max(axis=(1, 2, 3)).min() > 0
        assert (episode["obs"][-1].max() == 0) == episode["done"][-1]  # the black frame after death is the last one
    assert load_arrays(run / "encode" / "initial.npz")[0]["mu"].shape == (5, 64)
    assert {"loss", "z", "restart"} < set(read_jsonl(run / "rnn" / "log.jsonl")[-1])
    assert load_arrays(run / "controller" / "best.npz")[0]["params"].shape == (1088,)
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    assert scores["render"] == "official"
    assert len(scores["returns"]) == 2 and len(scores["dream"]["returns"]) == 4
    assert scores["dream"]["temperature"] == 1.15
    assert scores["paper"]["mean"] == 1092
    for name in ("report.md", "reconstructions.png", "moments.png", "vae.png", "rnn.png", "controller.png", "agent.gif", "dream.gif"):
        assert (run / "report" / name).stat().st_size > 500
    assert "dream score" in (run / "report" / "report.md").read_text()


@pytest.mark.slow
def test_a_c_for_each_temperature_on_one_v_and_m(run):
    words = ("controller/pipeline.py", "doom", "--run", run, "--temperatures", "0.5,1.15", "--ranks", "2", "--no-estimate")
    result = ok(run_python(*words))
    for name in ("tau-0.5", "tau-1.15"):
        study = run / "studies" / name
        assert (study / "rnn").resolve() == (run / "rnn").resolve()
        scores = json.loads((study / "evaluate" / "scores.json").read_text())
        assert scores["dream"]["temperature"] == float(name[4:])
        line, deaths = [line for line in result.stdout.splitlines() if f"| {name} " in line]
        assert deaths.startswith(f"| {name} "), "the table of scores begins with the paper's row, that of deaths with the C"
        assert "not comparable (episodes of" in line and f"{scores['dream']['mean']:.1f} ± " not in line
    assert (run / "studies" / "tau-1.15" / "controller").resolve() == (run / "controller").resolve(), "the run's own C is at 1.15"
    assert "tau-0.5" in (run / "studies" / "doom.md").read_text() and (run / "studies" / "doom.png").stat().st_size > 10000
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.npz")}
    assert "controller: took" not in ok(run_python(*words)).stdout, "a second call evolves nothing"
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "Evolution of tau-0.5" in (run / "report" / "report.md").read_text()
    other = run_python("controller/pipeline.py", "doom", "--run", run, "--temperatures", "0.5", "--rnn-steps", "9", "--no-estimate")
    assert other.returncode == 2, "a C must not be left on another M"


@pytest.mark.slow
def test_the_curve_in_dreams_is_the_same_on_one_two_and_five_ranks(run, tmp_path):
    histories = {}
    for ranks in (1, 2, 5):
        path = tmp_path / str(ranks)
        shutil.copytree(run, path, ignore=shutil.ignore_patterns("controller", "evaluate", "report", "episodes", "temperatures"))
        words = ("--population", "5", "--sharing", "2", "--generations", "3", "--eval-every", "2", "--eval-episodes", "3")
        ok(run_python("controller/train.py", "doom", "--run", path, *words, ranks=ranks))
        rows = read_jsonl(path / "controller" / "log.jsonl")
        histories[ranks] = [without_times(row) for row in rows]
    assert histories[1] == histories[2] == histories[5]
    assert len(histories[1]) == 3


@pytest.mark.slow
def test_recordings_are_the_same_on_any_number_of_ranks(run, tmp_path):
    """Though episodes that are too short are played anew."""
    path = tmp_path / "run"
    ok(run_python("controller/extract.py", "doom", "--run", path, *TINY, "--episodes", "5", ranks=3))
    for index in range(5):
        ours, expected = (read_episode(episode_path(p / "extract" / "episodes", index)) for p in (path, run))
        for key in expected:
            np.testing.assert_array_equal(ours[key], expected[key])


@pytest.mark.slow
def test_m_stopped_and_resumed_equals_m_trained_at_one_go(run, tmp_path):
    """In mid-epoch: the state carried from window to window is part of the checkpoint."""
    weights = {}
    for name, parts in (("broken", ("5", "9")), ("whole", ("9",))):
        path = tmp_path / name
        shutil.copytree(run, path, ignore=shutil.ignore_patterns("rnn", "controller", "evaluate", "report", "episodes", "temperatures"))
        for steps in parts:
            ok(run_python("rnn/train.py", "doom", "--run", path, "--steps", steps))
        weights[name] = load_arrays(path / "rnn" / "weights.npz")[0]
    for key, array in weights["whole"].items():
        np.testing.assert_allclose(weights["broken"][key], array, atol=1e-6)


@pytest.mark.slow
def test_random_policies_are_scored(tmp_path):
    words = ("--episodes", "2", "--max-steps", "20", "--render", "fast", "--json", tmp_path / "scores.json")
    ok(run_python("controller/evaluate.py", "doom", "--policy", "uniform", *words))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["agent"], scores["lengths"]) == ("uniform policy", [20, 20])
    result = run_python("controller/evaluate.py", "doom", "--policy", "uniform", "--weights", tmp_path / "c.npz")
    assert result.returncode == 2 and "give one of them" in result.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("doom", "--temperatures", "1,hot"), "give different positive numbers"),
        (("doom", "--temperatures", "0"), "give different positive numbers"),
        (("doom", "--temperatures", "1,1e-9"), "controller.temperature is 1e-09"),
        (("doom", "--es-seeds", "1,1"), "--es-seeds is '1,1': give different positive numbers"),
        (("doom", "--es-seeds", "0.5"), "--es-seeds is '0.5'"),
        (("doom", "--table", "--temperatures", "1"), "leave --temperatures out"),
        (("tests/games/lunar_lander.py", "--table"), "has none of lunar_lander"),
        (("doom", "--rnn-sequences", "episodes"), "rnn.restart needs sequences of a stream"),
        (("doom", "--rnn-min-learning-rate", "0.1"), "rnn.min_learning_rate is above"),
        (("carracing", "--evaluate-dream-episodes", "2"), "no score in its dreams"),
        (("carracing", "--temperatures", "1"), "evolved in the real world"),
        (("carracing", "--controller-world", "dream"), "dreams of no reward"),
        (("doom", "--rnn-window", "0"), "give a window"),
        (("doom", "--extract-min-frames", "3000"), "extract.min_frames is 3000"),
    ],
)
def test_contradictions_are_refused_early(tmp_path, words, part):
    result = run_python("controller/pipeline.py", *words, "--run", tmp_path / "run", "--no-estimate")
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and part in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [("doom",), ("doom", "--dream", "--temperature", "0.5")])
def test_play_on_a_screen_without_glass(run, monkeypatch, words):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    result = ok(run_python("controller/play.py", *words, "--run", run, "--max-steps", "30", "--episodes", "2"))
    assert result.stdout.count("steps, score") == 2


def test_play_without_a_display_says_so(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    result = run_python("controller/play.py", "carracing")
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no display")
    assert run_python("controller/play.py", "doom", "--temperature", "1").returncode == 2


def test_nothing_outside_env_asks_which_game_it_is():
    """A game is a value: no comparison with a task's name above env/."""
    found = subprocess.run(
        ["grep", "-rnE", r"""(==|!=|in|if)\s*\(?["'](doom|carracing)["']""", "controller", "rnn", "vae", "--include=*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
