"""The second system's stages on real worlds, at a size of seconds."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, run_python, without_times

from controller.learn import first_score, learn_on
from controller.learning import Learning
from env.episodes import LATENTS, episode_path, read_episode
from env.run.checkpoints import Checkpoints
from env.run.compute import start_tensorflow
from env.run.errors import UserError
from env.run.files import JsonlLog, load_arrays, read_jsonl, save_arrays
from env.run.rundir import Run, load_settings
from env.run.stopping import Stopped
from env.run.weights import fingerprint
from env.tasks import get_task

TINY = "--scale smoke --max-steps 40 --extract-episodes 4 --rssm-steps 6 --evaluate-episodes 2 --no-estimate".split()
ACTOR = "--actor-critic-updates 9 --actor-critic-eval-every 3 --controller-eval-episodes 2 --actor-critic-train-ratio 3".split()


def ok(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """CarRacing, RSSM and actor-critic, from the first stage to the report."""
    path = tmp_path_factory.mktemp("runs") / "online"
    words = ("--memory", "rssm", "--trainer", "actor_critic", "--run", path, *TINY, *ACTOR, "--vae-source", "shipped")
    ok(run_python("controller/pipeline.py", "carracing", *words))
    return path


@pytest.mark.slow
def test_world_and_imagination_take_turns(online):
    rows = read_jsonl(online / "controller" / "log.jsonl")
    assert [row["update"] for row in rows] == [3, 6, 9]  # 3 frames learned for each of 80 played, 80 in a batch
    assert [row["steps"] for row in rows] == [80, 160, 240]
    assert all({"eval", "played", "loss", "recon", "reward", "cont", "kl", "actor", "critic", "entropy"} <= set(row) for row in rows)
    for number in range(6):
        assert len(read_episode(episode_path(online / "controller" / "played", number), LATENTS)["reward"]) == 40
    best = max(rows, key=lambda row: row["eval"])
    assert load_arrays(online / "controller" / "best.npz")[1]["score"] == best["eval"] == rows[-1]["eval_best"]


@pytest.mark.slow
def test_what_is_played_tells_more_than_frames_and_c_that_it_sees_the_mean(tmp_path):
    words = ["--memory", "rssm", "--trainer", "actor_critic", "--run", tmp_path, *TINY, *ACTOR, "--vae-limit-steps", 3]
    words += "--controller-world real --repeat 2 --extract-min-frames 1 --rssm-ends-from health --controller-latents mean".split()
    words += "--vae-batch 10 --vae-beta-outliers 9 --vae-beta-privileged 0.5 --rssm-beta-privileged 0.5".split()
    ok(run_python("controller/pipeline.py", "doom", *words))
    rows = read_jsonl(tmp_path / "controller" / "log.jsonl")
    assert rows[-1]["update"] == 9 and all(np.isfinite([row["cont"], row["privileged"]]).all() for row in rows)
    assert all(row["privileged"] > 0 for stage in ("vae", "rnn") for row in read_jsonl(tmp_path / stage / "log.jsonl"))
    played = sorted((tmp_path / "controller" / "played").glob("*.npz"))
    assert played and all(read_episode(path, LATENTS)["health"][0] == 1 for path in played)
    assert all(read_episode(path, LATENTS)["privileged"].shape[1] == get_task("doom").privileged // 8 for path in played)
    assert load_arrays(tmp_path / "controller" / "best.npz")[1]["latents"] == "mean"


@pytest.mark.slow
def test_c_is_scored_with_the_m_that_it_learned_with(online):
    scores = json.loads((online / "evaluate" / "scores.json").read_text())
    assert scores["fingerprints"]["rnn"] == fingerprint(online / "controller" / "memory.npz")
    assert scores["fingerprints"]["rnn"] != fingerprint(online / "rnn" / "weights.npz")
    assert (scores["memory"], scores["trainer"], scores["paper"]) == ("rssm", "actor_critic", None)
    for name in ("report.md", "controller.png", "agent.gif", "dream.gif", "openloop.gif"):
        assert (online / "report" / name).stat().st_size > 500


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_end(online, tmp_path):
    """Killed after the first scoring, whose checkpoint it goes on from."""
    again = tmp_path / "again"
    shutil.copytree(online, again)
    shutil.rmtree(again / "controller")
    words = [sys.executable, str(ROOT / "controller" / "learn.py"), "carracing", "--run", str(again)]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not len(list((again / "controller" / "checkpoints").glob("*.npz"))) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.wait()
    assert len(read_jsonl(again / "controller" / "log.jsonl")) < 3
    ok(run_python("controller/learn.py", "carracing", "--run", again))
    rows, expected = ([without_times(row) for row in read_jsonl(path / "controller" / "log.jsonl")] for path in (again, online))
    assert rows == expected
    ours, theirs = (load_arrays(path / "controller" / "mean.npz")[0]["params"] for path in (again, online))
    np.testing.assert_array_equal(ours, theirs)


class AskedAfter:
    """Somebody asks to stop at the moment at which it is looked for the `count`th time."""

    def __init__(self, count: float) -> None:
        self._left = count

    @property
    def signal(self) -> int:
        self._left -= 1
        return signal.SIGTERM if self._left <= 0 else 0


@pytest.mark.slow
def test_stopped_again_and_again_it_comes_to_the_same(online, tmp_path):
    """While it plays, between two updates of a round, and while C is scored: what is on disk then is enough."""
    start_tensorflow()
    task, settings = get_task("carracing"), load_settings(online / "settings.json")
    options = dataclasses.replace(settings.actor_critic, updates=6)
    settings = dataclasses.replace(settings, actor_critic=options)

    def learn_until(run: Run, looks: float) -> bool:
        """Whether it came to the end before it was asked to stop."""
        learning = Learning(run, task, AskedAfter(looks))
        log = JsonlLog(run.stage("controller").log, keep=lambda row: row["update"] <= learning.updates, steps="update")
        try:
            learn_on(learning, log)
        except Stopped:
            return False
        return True

    # It looks 40 times while it plays a round, then after each of three updates, and 40 times while C is scored.
    runs, looks, stopped = [tmp_path / "whole", tmp_path / "stopped"], iter((np.inf, 50, 42, 42, np.inf)), []
    for path in runs:
        for stage in ("extract", "vae", "encode", "rnn"):
            shutil.copytree(online / stage, path / stage)
        run = Run(path, settings)
        run.stage("controller").start()
        while not learn_until(run, next(looks)):
            begun = Checkpoints(path / "controller", run.stage("controller").identity()).latest().meta["round"]
            stopped.append(begun["row"]["count"] if begun else None)
        run.release()
    assert stopped == [3, None, 2], "in scoring, in play, and after two updates"
    rows, expected = ([without_times(row) for row in read_jsonl(path / "controller" / "log.jsonl")] for path in reversed(runs))
    assert rows == expected and [row["update"] for row in rows] == [3, 6]
    for name in ("mean.npz", "best.npz"):
        ours, theirs = (load_arrays(path / "controller" / name)[0]["params"] for path in runs)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_only_the_best_scorings_m_is_kept_and_other_cs_say_so(online):
    best, mean = (load_arrays(online / "controller" / f"{name}.npz")[1] for name in ("best", "mean"))
    assert best["made_with"]["rnn"] == fingerprint(online / "controller" / "memory.npz")
    assert mean == best if mean["update"] == best["update"] else mean["made_with"] == {"rnn": f"that of update {mean['update']}"}


@pytest.mark.slow
def test_a_scoring_at_an_early_end_does_not_count_for_a_longer_run(online, tmp_path):
    start_tensorflow()
    task, settings = get_task("carracing"), load_settings(online / "settings.json")
    settings = dataclasses.replace(settings, actor_critic=dataclasses.replace(settings.actor_critic, updates=2))
    for stage in ("extract", "vae", "encode", "rnn"):
        shutil.copytree(online / stage, tmp_path / "run" / stage)
    run = Run(tmp_path / "run", settings)
    run.stage("controller").start()
    learning = Learning(run, task, AskedAfter(np.inf))
    learn_on(learning, JsonlLog(run.stage("controller").log, steps="update"))
    assert load_arrays(run.path / "controller" / "best.npz")[1]["unplanned"] and np.isfinite(learning.best)
    assert Learning(run, task, AskedAfter(np.inf)).best == -np.inf
    learning.best = 5.0  # as that of a C that learning began with, whose place another takes for now
    learning.keep(np.array([6.0]), unplanned=True)
    assert Learning(run, task, AskedAfter(np.inf)).best == 5.0
    # What is lost is not gone on from, whoever asks to stop.
    learning.settings = settings = dataclasses.replace(settings, actor_critic=dataclasses.replace(settings.actor_critic, updates=4))
    learning.begun = learning.begin_round()
    learning.begun.row.add({"loss": tf.constant(np.nan)})
    learning._asked = AskedAfter(0)
    with pytest.raises(UserError, match="loss became nan: the last checkpoint is from before it"):
        learning.pulse()
    assert learning.checkpoints.latest().number == 2
    run.release()


@pytest.mark.slow
def test_a_later_training_goes_on_with_the_c_and_the_critic_of_another(online, tmp_path):
    start_tensorflow()
    task, settings = get_task("carracing"), load_settings(online / "settings.json")
    start = tmp_path / "start"
    shutil.copytree(online / "controller", start / "controller")
    best, critic = start / "controller" / "best.npz", start / "controller" / "critic.npz"
    options = dataclasses.replace(settings.actor_critic, average_rate=0.5)
    settings = dataclasses.replace(
        settings, actor_critic=options, controller=dataclasses.replace(settings.controller, start=str(start), world="dream")
    )
    for stage in ("extract", "vae", "encode", "rnn"):
        shutil.copytree(online / stage, tmp_path / "later" / stage)

    def begun() -> Learning:
        run = Run(tmp_path / "later", settings)
        run.stage("controller").start()
        try:
            return Learning(run, task, AskedAfter(np.inf))
        finally:
            run.release()

    learning = begun()
    learner, params, arrays = learning.learner, load_arrays(best)[0]["params"], load_arrays(critic)[0]
    assert float(learner.high) == arrays["high"] != 0 and np.abs(arrays["critic/4"]).max() > 0
    for candidate in (learner.actor.candidate(), learner.average.candidate()):
        np.testing.assert_array_equal(candidate, params)
    for number, (ours, slow) in enumerate(zip(learner.critic.trainable_variables, learner.slow.variables)):
        np.testing.assert_array_equal(ours, arrays[f"critic/{number}"])
        np.testing.assert_array_equal(slow, ours)
    # It is scored, and kept until a better one is found; resumed, it is known what it was worth.
    assert first_score(learning, lambda: np.array([3.0, 5.0])) == {"start": 4.0, "start_std": 1.0}
    np.testing.assert_array_equal(load_arrays(learning.folder / "best.npz")[0]["params"], params)
    assert learning.best == 4.0 and begun().best == -np.inf, "what another training left does not count"
    learning.updates = 5
    assert learning.keep(np.array([3.0]))["eval_best"] == 4.0
    np.testing.assert_array_equal(load_arrays(learning.folder / "best.npz")[0]["params"], params)
    learning.updates = 0
    # Resumed, it does not begin again.
    learner.actor.params.assign_add(np.ones_like(learner.actor.params))
    learning.save()
    assert not np.array_equal(begun().learner.actor.candidate(), params)
    # A critic of another update is told of and left, one of another size refused; where there is none, it is begun anew.
    for arrays_then, meta, words in (
        (arrays, {"update": 1}, None),
        (arrays | {"critic/0": np.zeros((1, 2), np.float32)}, load_arrays(critic)[1], "critic/0' has shape"),
        (None, {}, None),
    ):
        shutil.rmtree(tmp_path / "later" / "controller")
        critic.unlink()
        if arrays_then is not None:
            save_arrays(critic, arrays_then, meta)
        if words:
            with pytest.raises(UserError, match=words):
                begun()
        else:
            assert not np.asarray(begun().learner.critic.trainable_variables[-1]).any()


@pytest.mark.slow
def test_a_played_episode_that_is_lost_is_told_of_and_done_without(online, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(online, again)
    shutil.rmtree(again / "evaluate")
    lost = episode_path(again / "controller" / "played", 1)
    lost.unlink()
    result = run_python("controller/learn.py", "carracing", "--run", again, "--actor-critic-updates", "12")
    ok(result)
    assert f"warning: {lost} is missing or damaged: learning goes on without that episode" in result.stderr
    rows = read_jsonl(again / "controller" / "log.jsonl")
    assert [row["update"] for row in rows] == [3, 6, 9, 12] and not lost.exists()


@pytest.mark.slow
def test_c_is_evolved_in_an_rssms_dreams_of_the_track(online, tmp_path):
    """On the M of another run: CarRacing's dream has a reward of its own."""
    run = tmp_path / "dreamt"
    run.mkdir()
    for stage in ("extract", "vae", "encode", "rnn"):
        shutil.copytree(online / stage, run / stage)
    words = "--memory rssm --vae-source shipped --controller-world dream --evaluate-dream-episodes 2 --ranks 2".split()
    result = ok(run_python("controller/pipeline.py", "carracing", "--run", run, *TINY, *words))
    assert "in M's dream at temperature 1" in result.stdout
    rows = read_jsonl(run / "controller" / "log.jsonl")
    assert [row["generation"] for row in rows] == [1, 2]


@pytest.mark.slow
def test_an_actor_learns_in_the_papers_dream(tmp_path):
    """Doom's MDN-RNN, whose dream has a reward of 1 a step and an end: offline, scored in dreams."""
    run = tmp_path / "doom"
    words = "--trainer actor_critic --scale smoke --max-steps 120 --extract-episodes 5 --no-estimate --vae-source shipped".split()
    words += "--rnn-window 20 --rnn-steps 6 --evaluate-episodes 2 --evaluate-dream-episodes 2 --controller-dream-steps 60".split()
    ok(run_python("controller/pipeline.py", "doom", "--run", run, *words, *ACTOR))
    rows = read_jsonl(run / "controller" / "log.jsonl")
    assert rows[-1]["update"] == 9
    assert rows[-1]["eval"] > 0 and "played" not in rows[-1]
    assert not (run / "controller" / "memory.npz").exists()


@pytest.mark.slow
def test_v_learns_with_m_and_c_from_pixels(tmp_path):
    """From a V of random weights; what is scored, shown and dreamt has the V that M learned with."""
    run = tmp_path / "pixels"
    words = ("--memory", "rssm", "--trainer", "actor_critic", "--run", run, *TINY, *ACTOR, "--vae-source", "random")
    words += ("--rssm-observations", "pixels", "--rssm-batch", "2", "--rssm-window", "10", "--actor-critic-batch", "2")
    ok(run_python("controller/pipeline.py", "carracing", *words, "--actor-critic-window", "10", "--actor-critic-train-ratio", "0.75"))
    random, after_m, best = (
        load_arrays(run / path)[0]["conv_vae/enc_conv1/kernel"] for path in ("vae/weights.npz", "rnn/vae.npz", "controller/vae.npz")
    )
    assert 0 < np.abs(after_m - random).max() and 0 < np.abs(best - after_m).max()
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    assert scores["fingerprints"]["vae"] == fingerprint(run / "controller" / "vae.npz")
    assert load_arrays(run / "controller" / "initial.npz")[0]["mu"].shape == (4, 32)
    assert read_episode(episode_path(run / "controller" / "played", 0))["obs"].shape == (41, 64, 64, 3)
    assert (run / "report" / "openloop.gif").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (("controller/learn.py", "carracing", "--trainer", "actor_critic"), "this M dreams of no reward or no end: take --memory rssm"),
        (("controller/pipeline.py", "carracing", "--memory", "rssm", "--extract-past-done", "yes"), "take --extract-past-done no"),
        (("controller/pipeline.py", "carracing", "--memory", "rssm", "--controller-features", "zch"), "an RSSM has no c"),
        (("controller/train.py", "doom", "--trainer", "actor_critic"), "use controller/learn.py"),
        (("controller/pipeline.py", "doom", "--trainer", "actor_critic", "--controller-l2", "0"), "--controller-l2 means nothing with"),
        (("controller/learn.py", "doom", "--memory", "rssm"), "evolve C with controller/train.py"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, message, tmp_path):
    (tmp_path / "run").mkdir()
    result = run_python(*words, "--run", tmp_path / "run")
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
