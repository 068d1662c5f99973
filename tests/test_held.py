"""Actions held for some frames (world.repeat): what counts frames, what counts steps, and that no two ways of counting are mixed."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal

import keras
import numpy as np
import pytest
from conftest import ROOT, run_python

from controller.agent import load_controller, make_agent, save_controller
from controller.simulate import Dreamer, dream_simulator, make_dream
from env.episodes import episode_path, read_episode
from env.recordings import recordings
from env.rollout import Job, WorldLanes, Worlds, make_world, rollout
from env.run.command import check_repeat
from env.run.errors import UserError
from env.run.files import load_arrays, save_arrays
from env.run.rundir import Run
from env.run.settings import Settings, World
from env.run.taken import take
from env.run.weights import save_weights
from env.tasks import as_shipped, get_task
from env.worlds.doom import TakeCover
from rnn.evaluate import encode_recordings
from rnn.memory import load_memory, make_memory, memory_meta
from vae.vae import ConvVAE

DOOM = get_task("doom")


def held(settings: Settings, frames: int = 4) -> Settings:
    return dataclasses.replace(settings, world=dataclasses.replace(settings.world, repeat=frames))


@pytest.fixture(scope="module")
def settings():
    """Smoke, dreams of 40 frames."""
    smoke = DOOM.scales["smoke"]
    return held(dataclasses.replace(smoke, controller=dataclasses.replace(smoke.controller, dream_steps=42)))


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A run with an untrained V and M, in whose dreams nobody dies."""
    path, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    memory = make_memory(DOOM, settings, "float32")
    bias = memory.output_layer.bias.numpy()
    bias[0] = -50.0
    memory.output_layer.bias.assign(bias)
    save_weights(path / "vae" / "weights.npz", ConvVAE(64), {"model": "vae", "z_size": 64})
    save_weights(path / "rnn" / "weights.npz", memory, memory_meta(DOOM, settings))
    save_arrays(path / "encode" / "initial.npz", {"mu": rng.standard_normal((5, 64)), "logvar": np.full((5, 64), -2.0)})
    return path


def test_a_dream_has_as_many_frames_as_it_would_without(settings, run):
    """Then a score in dreams and one in the game are of the same length of play: 42 frames are 11 steps of 4, which pay 4 each."""
    simulator, (dream, policy) = dream_simulator(DOOM, settings, run), make_dream(DOOM, settings, run)
    [result] = simulator.play(np.zeros((1, simulator.size), np.float32), [Job(0, 0, 1)])
    assert (result.length, result.score) == (11, 44.0)
    dreamer = Dreamer(policy, DOOM.actions, np.zeros(simulator.size, np.float32))
    [shown] = rollout(WorldLanes(Worlds(lambda: dream), dreamer), [Job(0, 0, 1)])
    assert (shown.length, shown.score) == (11, 44.0)


def test_a_game_of_ones_own_draws_only_what_is_seen(monkeypatch):
    """To draw is most of its time. What is shown is what the game shows at that frame."""
    task = get_task(str(ROOT / "tests" / "games" / "pendulum.py"))
    plain, slow = (make_world(task, World(render="official", max_steps=50, repeat=repeat)) for repeat in (1, 4))
    drawn, render = [], slow.unwrapped.render
    monkeypatch.setattr(slow.unwrapped, "render", lambda: drawn.append(1) or render())
    np.testing.assert_array_equal(plain.reset(seed=3)[0], slow.reset(seed=3)[0])
    for number in range(6):
        action = np.array([1.5 * (-1) ** number], np.float32)
        frame, reward, *_ = slow.step(action)
        singles = [plain.step(action) for _ in range(4)]
        np.testing.assert_array_equal(frame, singles[-1][0])
        assert reward == pytest.approx(sum(single[1] for single in singles))
    assert len(drawn) == 7


@pytest.mark.parametrize("render", ["fast", "official"])
def test_doom_draws_only_what_is_seen_and_shows_the_same(render, monkeypatch):
    """Each fourth frame, the last one before the limit, and a death's black; and with a new engine in the place of one that crashed."""
    plain, slow = (make_world(DOOM, World(render=render, max_steps=402, repeat=repeat)) for repeat in (1, 4))
    drawn, play = [], TakeCover._play
    monkeypatch.setattr(TakeCover, "_play", lambda self, buttons, draw: drawn.append(draw) or play(self, buttons, draw))
    ends = set()
    for seed in (1, 2, 3, 11):
        rng = np.random.default_rng(seed)
        np.testing.assert_array_equal(plain.reset(seed=seed)[0], slow.reset(seed=seed)[0])
        over = False
        while not over:
            if seed == 2 and rng.random() < 0.05:
                os.kill(slow.unwrapped._running.pid, signal.SIGKILL)
            action, before = rng.uniform(-1, 1, 1), len(drawn)
            frame, reward, terminated, truncated, info = slow.step(action)
            asked, singles, over = drawn[before:], [], terminated or truncated
            while len(singles) < 4 and not (singles and (singles[-1][2] or singles[-1][3])):
                singles.append(plain.step(action))
            np.testing.assert_array_equal(frame, singles[-1][0])
            assert (reward, terminated, truncated, info["health"]) == (len(singles), *singles[-1][2:4], singles[-1][4]["health"])
            if seed != 2:  # a killed engine may have been asked for the same frame before
                assert asked.count(True) == (len(singles) == 4 or truncated)
        ends.add((terminated, truncated))
    assert ends == {(True, False), (False, True)}, "deaths and the limit"
    plain.close()
    slow.close()


def test_an_m_whose_steps_are_others_is_refused(settings, run, tmp_path):
    usual, path = held(settings, 1), tmp_path / "usual.npz"
    save_weights(path, make_memory(DOOM, usual, "float32"), memory_meta(DOOM, usual))
    assert "repeat" not in load_arrays(path)[1], "files are as they were before there was a choice"
    with pytest.raises(UserError, match="has repeat 4, this run needs 1"):
        load_memory(run / "rnn" / "weights.npz", DOOM, usual)
    with pytest.raises(UserError, match="has repeat 1, this run needs 4"):
        load_memory(path, DOOM, settings)
    other = Run(tmp_path / "other", usual)
    take(other, "vae", str(run), {"model": "vae", "task": "doom", "z_size": 64})
    with pytest.raises(UserError, match="has repeat 4, this run needs 1: take another rnn.source"):
        take(other, "rnn", str(run), memory_meta(DOOM, usual))


def test_recordings_of_other_steps_are_not_mixed_in(tmp_path):
    usual = DOOM.scales["smoke"]
    Run(tmp_path / "pool", held(usual)).release()
    pooled = dataclasses.replace(usual, extract=dataclasses.replace(usual.extract, pool=str(tmp_path / "pool")))
    with pytest.raises(UserError, match="has world.repeat 4, this run has 1: their episodes do not go together"):
        recordings(tmp_path / "own", pooled)
    with pytest.raises(UserError, match="has world.repeat 4, this M's is 1"):
        encode_recordings(DOOM, None, tmp_path / "pool", tmp_path)


def test_who_records_may_ask_an_agent_more_often_than_it_was_made_for(task, tiny):
    """All of an episode's steps have noise of their own; the first ones that which they had."""
    memory, vae = make_memory(task, tiny, "float32"), ConvVAE(tiny.vae.z_size)
    agents = [make_agent(task, of, vae, memory) for of in (tiny, held(tiny))]
    for agent in agents:
        agent.set_candidates(np.zeros((1, agent.policy.size)))
        agent.begin(0, Job(0, 0, 5))
    noises = [agent._noise[0] for agent in agents]
    assert len(noises[1]) == tiny.world.max_steps
    np.testing.assert_array_equal(*noises)


def test_a_c_is_asked_as_it_was_made_for_and_nobody_asks_otherwise_unheard(task, tiny, tmp_path):
    save_controller(tmp_path / "c.npz", np.zeros(867), held(tiny), {"score": 0.0})
    _, found = load_controller(tmp_path / "c.npz", task, tiny)
    assert found.world.repeat == 4
    check_repeat(argparse.Namespace(repeat=None), found)
    check_repeat(argparse.Namespace(repeat=4), found)
    with pytest.raises(UserError, match="--repeat 1: this C was made to hold its actions for 4"):
        check_repeat(argparse.Namespace(repeat=1), found)
    assert as_shipped(held(tiny), task).world.repeat == 1, "where a run has no C yet, the shipped one plays as it always does"


@pytest.mark.parametrize(
    ("world", "extract", "message"),
    [
        ({"max_steps": 100, "repeat": 100}, {}, "world.repeat is 100: an episode of 100 frames must have two steps"),
        ({"max_steps": 100, "repeat": 4}, {"min_frames": 101}, "no episode is longer than 100 frames"),
        ({"max_steps": 100, "repeat": 4}, {"min_frames": 100}, ""),
    ],
)
def test_what_cannot_be_is_refused(world, extract, message):
    smoke = DOOM.scales["smoke"]
    settings = dataclasses.replace(
        smoke,
        world=dataclasses.replace(smoke.world, **world),
        extract=dataclasses.replace(smoke.extract, **extract),
        rnn=dataclasses.replace(smoke.rnn, window=20),
    )
    if not message:
        settings.check()
        return settings.check_together()
    with pytest.raises(UserError, match=message):
        settings.check()
        settings.check_together()


@pytest.mark.slow
def test_the_shortest_recording_that_is_kept_is_told_in_frames(tmp_path):
    flags = ("--scale", "smoke", "--run", tmp_path, "--repeat", "4", "--min-frames", "90", "--episodes", "2")
    result = run_python("controller/extract.py", "carracing", *flags)
    assert result.returncode == 0, result.stderr
    for number in range(2):
        assert len(read_episode(episode_path(tmp_path / "extract" / "episodes", number))["action"]) >= 23
