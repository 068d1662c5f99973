"""Whole stages on real worlds and real ranks, at a size of seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_python, without_times

from controller.pipeline import made_so_far, run_words
from env.episodes import episode_path, is_whole, read_episode
from env.run.files import load_arrays, read_jsonl, save_arrays
from env.run.rundir import saved_settings
from env.run.settings import load_settings
from env.run.stages import Stage
from env.run.stopping import RESUME
from env.run.weights import fingerprint

TINY = ("--scale", "smoke", "--max-steps", "40")
STAGES = ("extract", "vae", "encode", "rnn", "controller", "evaluate")
FLAGS = ("--extract-episodes", "5", "--rnn-window", "20", "--rnn-steps", "6", "--controller-episodes", "2", "--controller-slots", "2")


def ok(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run by the pipeline from the first stage to the report."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    ok(run_python("controller/pipeline.py", "carracing", "--run", path, *TINY, *FLAGS, "--ranks", "2", "--no-estimate"))
    return path


@pytest.mark.slow
def test_the_pipeline_leaves_everything(run):
    assert len(list((run / "extract" / "episodes").glob("*.npz"))) == 5
    assert len(list((run / "encode" / "latents").glob("*.npz"))) == 5
    assert load_arrays(run / "encode" / "initial.npz")[0]["mu"].shape == (5, 32)
    for stage in STAGES:
        assert json.loads((run / stage / "stage.json").read_text())["finished"]
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    assert len(scores["returns"]) == len(scores["lengths"]) == len(scores["seeds"]) == 4
    assert scores["mean"] == pytest.approx(np.mean(scores["returns"]))
    assert scores["render"] == "official"
    files = {"vae": "vae/weights.npz", "rnn": "rnn/weights.npz", "controller": "controller/best.npz"}
    assert scores["fingerprints"] == {name: fingerprint(run / file) for name, file in files.items()}
    pictures = [f"{name}.png" for name in ("reconstructions", "moments", "vae", "rnn", "controller", "agent", "dream")]
    for name in ("report.md", "agent.gif", "dream.gif", *pictures):
        assert (run / "report" / name).stat().st_size > 500
    assert load_settings(run / "settings.json").world.max_steps == 40


@pytest.mark.slow
@pytest.mark.parametrize(("search", "most"), [("directions", 21), ("first_steps", 6)])
def test_evolution_goes_on_along_directions(run, tmp_path, search, most):
    """From a run's C, on its recordings; and with the same ones when it is resumed."""
    later = tmp_path / "later"
    for stage in ("extract", "vae", "encode", "rnn"):
        shutil.copytree(run / stage, later / stage)
    saved = load_settings(run / "settings.json").to_dict()
    saved["controller"] |= {"start": str(run), "search": search, "search_first": 10, "generations": 2, "eval_every": 1, "l2": 0.0}
    (later / "settings.json").write_text(json.dumps(saved))
    latents = (later / "encode" / "latents").rename(tmp_path / "latents")
    result = run_python("controller/train.py", "carracing", "--run", later)
    assert result.returncode == 2 and "--extract-policy controller" in result.stderr and "Traceback" not in result.stderr
    latents.rename(later / "encode" / "latents")
    ok(run_python("controller/train.py", "carracing", "--run", later, ranks=2))
    made = (later / "controller" / "directions.npz").read_bytes()
    ok(run_python("controller/train.py", "carracing", "--run", later, "--generations", "3"))
    assert (later / "controller" / "directions.npz").read_bytes() == made
    rows, first = read_jsonl(later / "controller" / "log.jsonl"), load_arrays(run / "controller" / "best.npz")[0]["params"]
    assert [row["generation"] for row in rows] == [1, 2, 3] and "start" in rows[0]
    directions = load_arrays(later / "controller" / "directions.npz")[0]
    np.testing.assert_array_equal(directions["start"], first)
    assert 0 < len(directions["basis"]) <= most
    change = load_arrays(later / "controller" / "mean.npz")[0]["params"] - directions["start"]
    numbers = np.linalg.lstsq(directions["basis"].T, change, rcond=None)[0]
    assert np.abs(change).max() > 1e-3
    np.testing.assert_allclose(numbers @ directions["basis"], change, atol=1e-3)  # C's weights are rounded


@pytest.mark.slow
def test_latents_are_vs_answer_to_the_recorded_frames(run):
    from vae.vae import load_vae

    frames = read_episode(episode_path(run / "extract" / "episodes", 3))
    latents = read_episode(episode_path(run / "encode" / "latents", 3), ("mu", "logvar", "action", "reward"))
    mu, logvar = load_vae(run / "vae" / "weights.npz", 32).encode(frames["obs"])
    np.testing.assert_allclose(latents["mu"], mu, atol=2e-3)
    np.testing.assert_allclose(latents["logvar"], logvar, atol=2e-3)
    np.testing.assert_array_equal(latents["action"], frames["action"])


@pytest.mark.slow
def test_a_second_call_does_no_work(run):
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name not in ("settings.json", ".lock")}
    started = time.monotonic()
    result = ok(run_python("controller/pipeline.py", "carracing", "--run", run, "--ranks", "2"))
    assert "is finished" in result.stdout
    assert time.monotonic() - started < 20
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.slow
def test_a_changed_setting_is_named(run):
    result = run_python("controller/pipeline.py", "carracing", "--run", run, "--vae-batch", "10")
    assert result.returncode == 2
    assert "vae.batch = 20, now it is 10" in result.stderr
    assert load_settings(run / "settings.json").vae.batch == 20, "a refused call must not change the run"


@pytest.mark.slow
def test_damaged_and_missing_episodes_are_replaced_alike(run):
    folder = run / "extract" / "episodes"
    kept = {i: read_episode(episode_path(folder, i)) for i in (1, 4)}
    whole = episode_path(folder, 1).read_bytes()
    episode_path(folder, 1).write_bytes(whole[: len(whole) // 2])
    episode_path(folder, 4).unlink()
    other = run_python("vae/train.py", "carracing", "--run", run, "--epochs", "2")
    assert other.returncode == 2, "what was made from V is there: a V trained on must be refused"
    ok(run_python("controller/extract.py", "carracing", "--run", run))
    for i, episode in kept.items():
        again = read_episode(episode_path(folder, i))
        for key in episode:
            np.testing.assert_array_equal(again[key], episode[key])
    assert all(is_whole(episode_path(folder, i)) for i in range(5))


@pytest.mark.slow
def test_a_truncated_episode_stops_training_with_one_line(tmp_path):
    path = tmp_path / "run"
    ok(run_python("controller/extract.py", "carracing", "--run", path, *TINY, "--episodes", "3"))
    file = episode_path(path / "extract" / "episodes", 1)
    file.write_bytes(file.read_bytes()[:5000])
    result = run_python("vae/train.py", "carracing", "--run", path)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert "000001.npz is damaged" in lines[0]


@pytest.mark.slow
def test_a_c_is_not_played_on_another_v_and_m(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    arrays, meta = load_arrays(path / "vae" / "weights.npz")
    arrays["conv_vae/enc_fc_mu/bias"] += 1
    save_arrays(path / "vae" / "weights.npz", arrays, meta)
    commands = (("controller/evaluate.py", "carracing"), ("controller/train.py", "carracing", "--generations", "3"))
    for words in commands:
        result = run_python(*words, "--run", path)
        assert result.returncode == 2
        assert "vae/weights.npz, which stage vae made, is missing, damaged or another's" in result.stderr
    settings = saved_settings(path)
    Stage(path, "vae", settings).finish({})  # as if it had been trained so
    for words in commands:
        result = run_python(*words, "--run", path)
        assert result.returncode == 2
        assert "was made from another vae than the run has now" in result.stderr


@pytest.mark.slow
def test_a_trained_c_records_too(run, tmp_path):
    """A new run has no C of its own: the shipped one drives."""
    path = tmp_path / "driven"
    ok(run_python("controller/extract.py", "carracing", "--run", path, *TINY, "--policy", "controller", "--episodes", "3"))
    driven = read_episode(episode_path(path / "extract" / "episodes", 0))
    assert driven["obs"].shape == (41, 64, 64, 3)
    random = read_episode(episode_path(run / "extract" / "episodes", 0))
    assert not np.array_equal(driven["action"], random["action"])
    np.testing.assert_array_equal(driven["obs"][0], random["obs"][0], "episode i has the same track whoever drives")


@pytest.mark.slow
def test_damaged_latents_are_made_again(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    file = episode_path(path / "encode" / "latents", 2)
    whole = file.read_bytes()
    file.write_bytes(whole[:3000])
    ok(run_python("vae/encode.py", "carracing", "--run", path))
    before = read_episode(episode_path(run / "encode" / "latents", 2), ("mu",))
    np.testing.assert_array_equal(read_episode(file, ("mu",))["mu"], before["mu"])


@pytest.mark.slow
def test_the_authors_weights_play(tmp_path):
    """Files as the authors released them (here with random integers) drive the real world, with their frames."""
    from test_original import RNN_SHAPES, VAE_SHAPES, integers, write

    for name, shapes in (("vae/vae.json", VAE_SHAPES), ("rnn/rnn.json", RNN_SHAPES)):
        (tmp_path / name).parent.mkdir()
        write(tmp_path / name, [array // 10 for array in integers(shapes)])
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "carracing.cma.16.64.best.json").write_text(json.dumps([[0.1] * 867, 900.0]))
    words = ("--original", tmp_path, "--episodes", "1", "--max-steps", "20", "--json", tmp_path / "scores.json")
    ok(run_python("controller/evaluate.py", "carracing", *words))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["frames"], scores["render"], scores["lengths"]) == ("original", "official", [20])


@pytest.mark.slow
def test_a_killed_recording_goes_on_and_loses_nothing(tmp_path):
    path = tmp_path / "run"
    words = ("controller/extract.py", "carracing", "--run", path, "--scale", "smoke", "--episodes", "12")
    process = subprocess.Popen([sys.executable, str(ROOT / words[0]), *map(str, words[1:])])
    folder = path / "extract" / "episodes"
    while len(list(folder.glob("0*.npz"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("0*.npz")}
    assert 3 <= len(kept) < 12
    assert all(is_whole(file) for file in kept)
    ok(run_python(*words))
    assert len(list(folder.glob("0*.npz"))) == 12
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert len(read_jsonl(path / "extract" / "log.jsonl")) == 12


@pytest.mark.slow
def test_a_scoring_of_another_seed_or_weights_leaves_the_run_alone(run, tmp_path):
    before = (run / "evaluate" / "scores.json").read_bytes()
    base = ("controller/evaluate.py", "carracing", "--run", run, "--episodes", "3", "--render", "fast", "--json")
    ok(run_python(*base, tmp_path / "seed.json", "--seed", "5"))
    ok(run_python(*base, tmp_path / "weights.json", "--weights", run / "controller" / "mean.npz", ranks=2))
    ok(run_python(*base, tmp_path / "again.json", "--weights", run / "controller" / "mean.npz"))
    seed, weights, again = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("seed", "weights", "again"))
    assert weights == again, "two ranks score like one"
    assert set(seed["seeds"]).isdisjoint(weights["seeds"])
    for scores in (seed, weights):
        assert len(scores["returns"]) == len(scores["lengths"]) == 3
        assert scores["ci95"][0] <= scores["mean"] <= scores["ci95"][1]
    assert (run / "evaluate" / "scores.json").read_bytes() == before


@pytest.mark.slow
def test_training_resumed_equals_training_at_one_go(run, tmp_path):
    """V stopped after 4 of 8 steps and resumed ends with the weights of an unbroken training."""
    for name, first in (("broken", "4"), ("whole", "8")):
        path = tmp_path / name
        ok(run_python("controller/extract.py", "carracing", "--run", path, *TINY, "--episodes", "4"))
        ok(run_python("vae/train.py", "carracing", "--run", path, "--epochs", "3", "--limit-steps", first))
    ok(run_python("vae/train.py", "carracing", "--run", tmp_path / "broken", "--limit-steps", "8"))
    broken, whole = (load_arrays(tmp_path / name / "vae" / "weights.npz")[0] for name in ("broken", "whole"))
    for key, array in whole.items():
        np.testing.assert_allclose(broken[key], array, atol=1e-5)
    assert [row["step"] for row in read_jsonl(tmp_path / "broken" / "vae" / "log.jsonl")][-1] == 8


@pytest.mark.slow
def test_the_curve_is_the_same_on_one_two_and_five_ranks(run, tmp_path):
    histories = {}
    for ranks in (1, 2, 5):
        path = tmp_path / str(ranks)
        shutil.copytree(run, path, ignore=shutil.ignore_patterns("controller", "evaluate", "report", "episodes"))
        words = ("--population", "5", "--sharing", "2", "--generations", "3", "--eval-every", "2", "--eval-episodes", "3")
        ok(run_python("controller/train.py", "carracing", "--run", path, *words, ranks=ranks))
        rows = read_jsonl(path / "controller" / "log.jsonl")
        histories[ranks] = [without_times(row) for row in rows]
    assert histories[1] == histories[2] == histories[5]
    assert len(histories[1]) == 3
    assert len({row["mean"] for row in histories[1]}) == 3


@pytest.mark.slow
def test_evolution_resumed_equals_evolution_at_one_go(run, tmp_path):
    rows = {}
    for name, parts in (("broken", ("2", "4")), ("whole", ("4",))):
        path = tmp_path / name
        shutil.copytree(run, path, ignore=shutil.ignore_patterns("controller", "evaluate", "report", "episodes"))
        for generations in parts:
            words = ("--population", "4", "--generations", generations, "--eval-every", "2", "--eval-episodes", "2")
            ok(run_python("controller/train.py", "carracing", "--run", path, *words))
        rows[name] = [without_times(row) for row in read_jsonl(path / "controller" / "log.jsonl")]
    assert rows["broken"] == rows["whole"]


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_job(tmp_path):
    """Rank 1 cannot write its episode: the whole job must end, and say so, not wait for ever."""
    path = tmp_path / "run"
    episode_path(path / "extract" / "episodes", 1).mkdir(parents=True)
    result = run_python("controller/extract.py", "carracing", "--run", path, *TINY, "--episodes", "2", ranks=2, timeout=60)
    assert result.returncode != 0
    assert "rank 1 of 2 failed" in result.stderr


@pytest.mark.slow
def test_a_deleted_v_is_not_silently_made_again(run, tmp_path):
    """V from the same settings is another V: what was made from the old one must not be combined with it."""
    path = tmp_path / "run"
    shutil.copytree(run, path)
    shutil.rmtree(path / "vae")
    started = time.monotonic()
    result = run_python("controller/pipeline.py", "carracing", "--run", path)
    assert result.returncode == 2 and time.monotonic() - started < 20
    assert "vae is to be trained, but" in result.stderr and "delete them too" in result.stderr
    assert not (path / "vae").exists()


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_refused_before_the_first_stage(tmp_path):
    result = run_python("controller/pipeline.py", "doom", "--run", tmp_path / "run", "--controller-device", "gpu", "--scale", "smoke")
    assert result.returncode == 2
    assert "controller.device is gpu, but TensorFlow finds none" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_scoring_goes_on_and_every_rank_keeps_what_it_played(run, tmp_path):
    """On two ranks, killed in the middle: each has kept its own, and nothing is played twice."""
    path = tmp_path / "run"
    shutil.copytree(run, path, ignore=shutil.ignore_patterns("evaluate", "report"))
    words = [str(Path(sys.executable).with_name("mpirun")), "-np", "2", sys.executable, str(ROOT / "controller/evaluate.py"), "carracing"]
    process = subprocess.Popen([*words, "--run", str(path)], stdout=subprocess.DEVNULL)
    parts = lambda: [row for file in (path / "evaluate").glob("part-*.jsonl") for row in read_jsonl(file)]  # noqa: E731
    while not parts():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    time.sleep(1)
    kept = parts()
    ok(run_python("controller/evaluate.py", "carracing", "--run", path, "--ranks", "1"))
    rows = {row["episode"]: row for row in read_jsonl(path / "evaluate" / "log.jsonl")}
    assert len(rows) == 4 and all(rows[row["episode"]] == row for row in kept)
    assert not list((path / "evaluate").glob("part-*.jsonl"))
    whole, before = (json.loads((folder / "evaluate" / "scores.json").read_text()) for folder in (path, run))
    assert whole["returns"] == before["returns"]


def test_what_counts_as_getting_on(tmp_path):
    """Checkpoints, episodes, generations; not a log, which each start writes again."""
    for name in ("log.jsonl", "checkpoints/000000000.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    before = made_so_far(tmp_path)
    (tmp_path / "log.jsonl").write_text("{}\n{}\n")
    (tmp_path / "checkpoints" / ".000000060.npz.17.tmp").write_text("half")
    assert made_so_far(tmp_path) == before
    for name in ("checkpoints/000000060.npz", "fitness.jsonl", "part-0.jsonl"):
        (tmp_path / name).write_text("{}\n")
        assert made_so_far(tmp_path) != before
        before = made_so_far(tmp_path)


def test_who_is_asked_to_stop_does_not_begin_what_comes_next():
    """Though the stage came to its end just then."""
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(0.5)"
    ignoring = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {code}"
    assert run_words([sys.executable, "-c", ignoring], 1) == RESUME
    assert run_words([sys.executable, "-c", "pass"], 1) == 0
