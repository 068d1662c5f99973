"""A game of one's own: any gymnasium world with an RGB picture, from a Python file."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, run_python
from gymnasium import spaces

from env.actions import Discrete
from env.random_policy import random_player
from env.rollout import Job, WorldLanes, Worlds, make_world, rollout
from env.run.errors import UserError
from env.run.settings import World
from env.tasks import GymnasiumWorld, get_task

LANDER = ROOT / "tests" / "games" / "lunar_lander.py"
HEAD = "from env.tasks import Continuous, Discrete, GymnasiumWorld, Task, World, three_scales\n"


def write(folder, text):
    path = folder / "my_game.py"
    path.write_text(HEAD + text)
    return path


def task_text(world="GymnasiumWorld('CartPole-v1')", actions="Discrete(2)", name="'pole'"):
    return f"TASK = Task(name={name}, world={world}, actions={actions}, scales=three_scales({name}))\n"


def test_discrete_actions_are_one_hot_and_the_largest_output_wins():
    actions, y = Discrete(3), np.array([[0.1, 0.9, -1.0], [1.0, 1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(actions.of_outputs(y), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(actions.of_outputs(tf.constant(y)), actions.of_outputs(y))
    assert actions.rest.tolist() == [1, 0, 0]


def test_the_lander_is_a_real_game_seen_as_frames():
    """Its frames are its picture, its rewards its own: beside gymnasium's own LunarLander, with the same actions."""
    task = get_task(str(LANDER))
    assert (task.name, task.word) == ("lunar_lander", str(LANDER))
    ours, theirs = make_world(task, task.scales["smoke"].world), gymnasium.make("LunarLander-v3")
    frame, _ = ours.reset(seed=4)
    theirs.reset(seed=4)
    frames, rng = [frame], np.random.default_rng(0)
    for _ in range(40):
        number = int(rng.integers(4))
        frame, reward, done, *_ = ours.step(np.eye(4)[number])
        _, expected, their_done, *_ = theirs.step(number)
        assert (reward, done) == (expected, their_done)
        frames.append(frame)
    assert all(frame.shape == (64, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    assert len({frame.tobytes() for frame in frames}) > 20
    picture = ours.env.render()[:400, 100:500]
    assert abs(picture.mean() - frames[-1].mean()) < 1


def test_random_policies_try_every_action(tmp_path):
    task = get_task(str(LANDER))
    worlds = Worlds.of(task, World(render="official", max_steps=60))
    lanes = WorldLanes(worlds, random_player("uniform", task, 32), record=True)
    [result] = rollout(lanes, [Job(0, 0, 1)])
    actions = result.episode["action"]
    assert (actions.sum(axis=1) == 1).all() and (actions.sum(axis=0) > 0).all()
    assert len(result.episode["obs"]) == len(actions) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines 0 Tasks: it must define one"),
        (task_text() + "OTHER" + task_text(name="'other'")[4:], "defines 2 Tasks"),
        ("TASK = Task(\n", "failed with SyntaxError"),
        ("\n\nTASK = Tusk()\n", r"failed with NameError: .*Tusk.* \(line 4\)"),
        (task_text(name="'doom'"), "name 'doom' must be"),
        (task_text(name="'a/b'"), "name 'a/b' must be"),
        (task_text().replace("three_scales('pole')", "three_scales('stick')"), "are those of stick"),
        (task_text().replace("three_scales('pole')", "three_scales('pole', world=World(max_steps=0))"), "world.max_steps is 0"),
        (task_text().replace("scales=", "keys=(('left', (1.0, 0.0, 0.0)),), scales="), "key left stands for 3 numbers, an action is 2"),
    ],
)
def test_files_that_do_not_fit_are_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        get_task(str(write(tmp_path, text)))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="gone.py is missing: give a Python file with a Task"):
        get_task(str(tmp_path / "gone.py"))


class Blind(gymnasium.Env):
    """A world without a picture."""

    observation_space, action_space = spaces.Box(0, 1, (3,)), spaces.Discrete(2)

    def __init__(self, render_mode=None):
        pass


class Grid(Blind):
    """A world whose observation is its picture, with actions of a kind that is not served."""

    observation_space, action_space = spaces.Box(0, 255, (80, 60, 3), np.uint8), spaces.MultiBinary(3)


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ("GymnasiumWorld('CartPole-v1')", r"takes actions Discrete\(2\), the task's are Discrete\(size=4\)"),
        ("GymnasiumWorld('LunarLander-v3', continuous=True)", "takes actions Continuous, 2 numbers"),
        ("GymnasiumWorld('NoSuchGame-v0')", "the world NoSuchGame-v0 cannot be made: NameNotFound"),
    ],
)
def test_worlds_that_do_not_fit_are_one_line(tmp_path, world, message):
    task = get_task(str(write(tmp_path, task_text(world, "Discrete(4)"))))
    with pytest.raises(UserError, match=message) as error:
        make_world(task, task.scales["smoke"].world)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("crop", [(0, 400, 700, 900), (500, 600, 0, 100), (100, 0, 0, 100), (-10, 100, 0, 100), (0, 401, 0, 600)])
def test_a_crop_beyond_the_picture_is_refused(crop):
    """It would show black, or something else than was meant, without a word."""
    with pytest.raises(UserError, match="its picture has 400 rows and 600 columns"):
        GymnasiumWorld("CartPole-v1", crop=crop)(World(), None).reset(seed=1)


@pytest.mark.parametrize("crop", [(0, 100, 0), (0.0, 100.0, 0.0, 100.0)])
def test_a_crop_is_four_whole_numbers(crop):
    with pytest.raises(UserError, match="give four whole numbers"):
        GymnasiumWorld("CartPole-v1", crop=crop)(World(), None)


def test_worlds_without_a_picture_or_with_odd_actions_are_named():
    with pytest.raises(UserError, match="Blind has no RGB picture"):
        GymnasiumWorld(Blind)(World(), None)
    with pytest.raises(UserError, match="Grid takes actions MultiBinary.*only Discrete and vectors"):
        GymnasiumWorld(Grid)(World(), None)
    with pytest.raises(UserError, match="plain ones only"):
        GymnasiumWorld("CartPole-v1")(World(frames="original"), None)


@pytest.mark.slow
def test_a_world_that_does_not_fit_is_refused_by_the_command_in_one_line(tmp_path):
    path = write(tmp_path, task_text(actions="Discrete(5)"))
    result = run_python("controller/pipeline.py", path, "--scale", "smoke", "--run", tmp_path / "run")
    assert result.returncode == 2
    [line] = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ") and "Discrete(2)" in line


@pytest.mark.slow
def test_the_third_game_goes_through_every_stage(tmp_path):
    """At scale smoke, each action held for two frames, to a report without the paper's rows; no file of the project knows of it."""
    run = tmp_path / "run"
    flags = ("--ranks", "2", "--no-estimate", "--repeat", "2", "--rnn-window", "20")
    result = run_python("controller/pipeline.py", LANDER, "--scale", "smoke", "--run", run, *flags)
    assert result.returncode == 0, result.stderr
    report = (run / "report" / "report.md").read_text()
    assert "# LunarLander, scale smoke" in report and "Ha & Schmidhuber" not in report and "authors" not in report
    for name in ("agent.gif", "dream.gif", "controller.png", "reconstructions.png"):
        assert (run / "report" / name).stat().st_size > 500
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    assert scores["paper"] is None and len(scores["returns"]) == 4 and scores["repeat"] == 2
    assert max(scores["lengths"]) <= 50, "in steps of the agent"
    again = run_python("controller/pipeline.py", LANDER, "--scale", "smoke", "--run", run)
    assert "is finished" in again.stdout
    result = run_python("controller/web.py", LANDER, "--run", run)
    assert result.returncode == 0, result.stderr
    page = (run / "web" / "index.html").read_text()
    assert "A dream of LunarLander" in page and "Ha & Schmidhuber" not in page.split('id="data">')[1].split("</script>")[0]
