"""TakeCover as the agent sees it: frames, seeds, crashes, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import vizdoom
from conftest import ROOT
from gymnasium.utils.env_checker import check_env

from env.run.errors import UserError
from env.tasks import get_task
from env.worlds import engine as starting
from env.worlds.doom import PLACE, PLACES, TIME, TIMES, TakeCover, threats
from env.worlds.frames import process_as_original, shrink


@pytest.fixture(scope="module")
def world():
    made = TakeCover()
    yield made
    made.close()


def play(world: TakeCover, seed: int, actions: np.ndarray) -> list[np.ndarray]:
    frames = [world.reset(seed=seed)[0]]
    for action in actions:
        frame, reward, terminated, truncated, _ = world.step(action)
        frames.append(frame)
        assert reward == 1.0
        assert not truncated
        if terminated:
            break
    return frames


def random_actions(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 1)).astype(np.float32)


def test_passes_gymnasiums_checker():
    registered = gymnasium.make("WorldModels/TakeCover-v0")
    assert registered.spec.max_episode_steps == 2100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(registered.unwrapped, skip_render_check=True)
    registered.close()


def test_health_falls_from_one_to_nothing(world):
    health = [world.reset(seed=3)[1]["health"]]
    terminated = False
    while not terminated:
        _, _, terminated, _, info = world.step(np.zeros(1))
        health.append(info["health"])
    falls = -np.diff(health)
    assert (health[0], health[-1]) == (1.0, 0.0)
    assert (falls >= 0).all() and 1 < (falls > 0).sum() < 10 and falls.sum() == pytest.approx(1)
    assert world.reset(seed=4)[1]["health"] == 1.0


def thing(name, x, y, vx=0.0, vy=0.0):
    return SimpleNamespace(name=name, position_x=x, position_y=y, velocity_x=vx, velocity_y=vy)


def test_fireballs_are_told_of_by_when_and_where_they_come_through():
    player = thing("DoomPlayer", -416.0, 300.0)  # who looks along x, with y to its left

    def told(*others):
        return [tuple(map(int, divmod(cell, PLACES))) for cell in np.flatnonzero(threats([*others, player]))]

    middle = PLACES // 2
    assert told(thing("DoomImpBall", -416.0 + 90, 300.0 - 1, -10.0)) == [(9 // TIME, middle)]
    aside = thing("DoomImpBall", -416.0 + 200, 300.0 - 10, -10.0, -4.0)  # 20 frames away, by then 90 to the right
    assert told(aside) == [(20 // TIME, middle + 90 // PLACE)]
    left = thing("DoomImpBall", -416.0 - 10, 300.0 + 30, -10.0)
    assert told(left) == [(0, middle - 2)]
    assert told(aside, left, left) == [(0, middle - 2), (20 // TIME, middle + 90 // PLACE)]
    for harmless in (
        thing("DoomImpBall", -400.0, 300.0),  # burst
        thing("DoomImpBall", -450.0, 300.0, -10.0),  # gone by
        thing("DoomImp", -300.0, 300.0, -10.0),
        thing("DoomImpBall", 400.0, 300.0, -10.0),  # too far
        thing("DoomImpBall", -400.0, 900.0, -10.0),
    ):
        assert told(harmless) == []
    assert threats([thing("DoomImpBall", 0, 0, -1)]).tolist() == [0] * (TIMES * PLACES) and threats([]).dtype == np.uint8
    assert get_task("doom").privileged == TIMES * PLACES


def test_who_stands_still_is_hit_by_what_comes_through_there_now(world):
    hits = 0
    for seed in range(3):
        _, info = world.reset(seed=seed)
        terminated, health, cells = False, 1.0, [info["privileged"].reshape(TIMES, PLACES)]
        while not terminated:
            _, _, terminated, _, info = world.step(np.zeros(1))
            if info["health"] < health:
                hits += 1
                assert any(before[0, PLACES // 2 - 2 : PLACES // 2 + 2].any() for before in cells[-3:])  # from aside it touches earlier
            health = info["health"]
            cells.append(info["privileged"].reshape(TIMES, PLACES))
        assert not cells[-1].any()
    assert hits >= 3


def test_frames_show_the_room_without_the_status_bar(world):
    frame, _ = world.reset(seed=1)
    assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
    floor, wall = frame[40:].reshape(-1, 3), frame[25:30, 10:50].reshape(-1, 3)
    assert np.ptp(floor.mean(axis=0)) < 8  # grey down to the last row: the status bar is brown and red
    assert floor.max() < 130
    assert wall[:, 0].mean() > wall[:, 2].mean() + 10  # brown


def test_the_same_seed_and_actions_give_the_same_episode(world):
    actions = random_actions(60)
    first = play(world, 5, actions)
    play(world, 6, actions[:20])
    again = play(world, 5, actions)
    fresh_world = TakeCover()
    fresh = play(fresh_world, 5, actions)
    fresh_world.close()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, fresh)
    assert not np.array_equal(first[-1], play(world, 7, actions)[-1])


@pytest.mark.parametrize("action,same_as", [(-0.34, -1.0), (0.34, 1.0), (0.32, 0.0), (-0.32, 0.0)])
def test_thirds_of_the_action_move_left_stay_or_right(world, action, same_as):
    ours, expected = (play(world, 3, np.full((25, 1), a, np.float32)) for a in (action, same_as))
    np.testing.assert_array_equal(ours, expected)


def test_left_is_left(world):
    """Near the left wall it fills the left of the view, near the right wall the right."""
    left, right = (play(world, 3, np.full((40, 1), a, np.float32))[-1].astype(int) for a in (-1, 1))

    def brown(view):
        return int((view[..., 0] - view[..., 2] > 15).sum())

    assert brown(left[:, :16]) > 1.5 * brown(right[:, :16])
    assert brown(right[:, 48:]) > 1.5 * brown(left[:, 48:])


def test_the_room_is_the_same_in_a_mirror(world):
    """But for who is in it: Task.mirror of env/tasks.py."""
    [factor] = get_task("doom").mirror
    left, right = (play(world, 2, np.full((60, 1), direction, np.float32))[-1].astype(int) for direction in (-1.0, factor * -1.0))
    mirrored, plain = (np.abs(seen - right).mean() for seen in (left[:, ::-1], left))
    assert plain > 4 * mirrored


def test_an_episode_ends_in_death_with_a_black_frame(world):
    frames = play(world, 11, np.zeros((2000, 1), np.float32))
    assert 50 < len(frames) < 1000  # nobody survives standing still
    assert frames[-1].max() == 0
    assert frames[-2].max() > 0


def test_the_smaller_screen_gives_nearly_the_originals_frames(world):
    official = TakeCover(render="official")
    actions = random_actions(150, seed=2)
    differences = [
        np.abs(ours.astype(int) - theirs).mean()
        for seed in range(3)
        for ours, theirs in zip(play(world, seed, actions), play(official, seed, actions))
    ]
    official.close()
    assert np.mean(differences) < 1.7
    assert np.max(differences) < 3.0


def test_the_originals_colours_are_the_stretched_frame_minus_one():
    picture = np.random.default_rng(0).integers(40, 200, (250, 400, 3)).astype(np.uint8)
    stretched = np.clip((picture - picture.min()) * (255.0 / np.ptp(picture)) + 0.5, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(process_as_original(picture), shrink(stretched) - np.uint8(1))


@pytest.mark.parametrize("action", [[np.nan], [0.0, 1.0], 0.5, [[0.0]]])
def test_other_actions_are_refused(world, action):
    world.reset(seed=1)
    with pytest.raises(ValueError, match="needs one finite number"):
        world.step(action)


def engines(parent: int) -> set[int]:
    """The engines that a process has started."""
    command = ["pgrep", "-P", str(parent), "-f", "vizdoom/vizdoom"]
    return {int(word) for word in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()}


def test_a_crashed_engine_is_replaced_and_the_episode_goes_on():
    others = engines(os.getpid())
    world, actions = TakeCover(), random_actions(60)
    expected = play(world, 9, actions)
    play(world, 9, actions[:30])
    for engine in engines(os.getpid()) - others:
        os.kill(engine, signal.SIGKILL)
    frames = [world.step(action)[0] for action in actions[30:]]
    np.testing.assert_array_equal(frames, expected[31:])
    for engine in engines(os.getpid()) - others:
        os.kill(engine, signal.SIGKILL)
    np.testing.assert_array_equal(play(world, 9, actions), expected)
    world.close()


def test_nothing_is_left_after_a_kill(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "temporary files").mkdir()
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from env.worlds.doom import TakeCover\n"
        "worlds = [TakeCover(), TakeCover()]\n"
        "for world in worlds: world.reset(seed=1); world.step([0.0])\n"
        "print(*[line.split()[-2] for line in open('/proc/self/maps') if '/dev/shm/ViZDoom' in line], flush=True); time.sleep(60)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary files")}
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path / "work", env=environment)
    shared = child.stdout.readline().split()
    assert len(shared) >= 4
    started = engines(child.pid)
    assert len(started) == 2
    child.kill()
    child.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert not any(Path(name).exists() for name in shared)
    assert list((tmp_path / "temporary files").iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []  # no _vizdoom.ini, no _vizdoom


def test_an_engine_whose_starter_cannot_run_is_started_plainly(monkeypatch, tmp_path):
    """As where temporary files may not be executed."""
    monkeypatch.chdir(tmp_path)  # a plain engine leaves _vizdoom where it stands
    monkeypatch.setattr("env.worlds.engine.STARTER", "#!/nowhere/sh\n# {python} {code}\n")
    plain = TakeCover()
    with pytest.warns(UserWarning, match="cannot run"):
        frame, _ = plain.reset(seed=5)
    plain.close()
    monkeypatch.undo()
    usual = TakeCover()
    np.testing.assert_array_equal(usual.reset(seed=5)[0], frame)
    usual.close()


def test_an_engine_that_hangs_is_killed_and_the_episode_goes_on(monkeypatch, capfd):
    monkeypatch.setattr("env.worlds.engine.HANGS", 1.0)
    world, actions = TakeCover(), random_actions(40)
    expected = play(world, 9, actions)
    play(world, 9, actions[:20])
    os.kill(world._running.pid, signal.SIGSTOP)
    frames = [world.step(action)[0] for action in actions[20:]]
    np.testing.assert_array_equal(frames, expected[21:])
    assert "has not answered for 1 s: killed" in capfd.readouterr().err
    world.close()


ASKING = """
import os, signal, sys
sys.path.insert(0, {root!r})
import env.worlds.engine as engine
from env.worlds.doom import TakeCover
engine.HANGS = {hangs}
{more}
world = TakeCover()
world.reset(seed=1)
os.kill(world._running.pid, signal.SIGSTOP)
print(world._running.pid, flush=True)
world.step([0.0])
print("answered", flush=True)
"""


def asking(hangs: float, more: str = "") -> tuple[subprocess.Popen, int]:
    """A process that waits for an engine that does not answer, and the engine."""
    code = ASKING.format(root=str(ROOT), hangs=hangs, more=more)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return child, int(child.stdout.readline())


def test_an_engine_is_given_its_time_where_the_whole_process_was_stopped():
    """As by Ctrl-Z: the clock went on, but nobody could answer."""
    child, engine = asking(hangs=5.0)
    time.sleep(1.6)  # the watchdog looks once a second
    child.send_signal(signal.SIGSTOP)
    time.sleep(6)
    child.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    assert Path(f"/proc/{engine}").exists(), "it was killed"
    os.kill(engine, signal.SIGCONT)
    out, errors = child.communicate(timeout=60)
    assert (out, errors) == ("answered\n", "")


def test_a_process_whose_engine_is_gone_unnoticed_ends():
    """An engine that is killed in the middle of a message can leave ViZDoom waiting for ever."""
    child, _ = asking(hangs=1.0, more="kill = os.kill\nos.kill = lambda pid, number: number == signal.SIGKILL or kill(pid, number)")
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 70
    assert errors.splitlines()[-1] == "error: ViZDoom waits for an engine that is gone: ending; the same command goes on from here"


STARTING = """
import sys, vizdoom
sys.path.insert(0, {root!r})
import env.worlds.engine as engine
engine.HANGS, engine.STARTS = 0.1, {starts}
engine.CODE = engine.CODE.replace("import ctypes, os", "import ctypes, time, os")
engine.CODE = engine.CODE.replace("os.execv(", "time.sleep({delay}); os.execv(")
engine.Engine(vizdoom.ScreenResolution.RES_160X120, tried=True).close()
print("started")
"""


@pytest.mark.parametrize(
    "starts, delay, code, said",
    [(60.0, 1.5, 0, ""), (1.0, 100.0, 70, "error: Doom's engine has not started within 1 s")],
    ids=["slow", "never"],
)
def test_an_engine_that_still_starts_is_not_killed(starts, delay, code, said):
    """ViZDoom would end the process with a segmentation fault; so has a busy machine ended it, which took longer than HANGS was."""
    words = [sys.executable, "-c", STARTING.format(root=str(ROOT), starts=starts, delay=delay)]
    child = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (child.returncode, child.stdout) == (code, "" if code else "started\n"), child.stderr
    assert child.stderr.startswith(said) and len(child.stderr.splitlines()) == bool(said)


def test_engines_that_fail_again_and_again_are_no_score(monkeypatch):
    """Nor an endless wait: one line that names the episode."""
    world, actions = TakeCover(), random_actions(20)
    play(world, 9, actions[:10])
    started = []

    def fail(self, buttons, draw):
        started.append(self._running.pid)
        raise vizdoom.ViZDoomErrorException("gone")

    monkeypatch.setattr(TakeCover, "_play", fail)
    with pytest.raises(UserError, match=rf"failed 4 times in the episode of seed {world._seed} \(ViZDoomErrorException"):
        world.step(actions[10])
    assert len(set(started)) == 4, "each time a new engine"
    world.close()


@pytest.mark.parametrize("instead, said", [("false", "exit code -11"), ("sleep", "no answer within 3 s")])
def test_an_engine_that_cannot_start_is_one_line(monkeypatch, instead, said):
    """ViZDoom itself ends the process with a segmentation fault, or waits for ever."""
    right = "os.execv({engine!r}, [{engine!r}, *sys.argv[1:]])"
    wrong = f"os.execv('/bin/{instead}', ['{instead}', '1000'])"
    assert right in starting.CODE
    swap = f"import env.worlds.engine as e\ne.CODE = e.CODE.replace({right!r}, {wrong!r})\n".replace("{", "{{").replace("}", "}}")
    broken = starting.TRIAL.replace("Engine(vizdoom", f"{swap}Engine(vizdoom")
    monkeypatch.setattr(starting, "TRIAL", broken)
    monkeypatch.setattr(starting, "CAN_START", 3.0)
    monkeypatch.setattr(starting.Trial, "done", False)
    world = TakeCover()
    with pytest.raises(UserError, match=f"does not start.*{said}"):
        world.reset(seed=1)


def test_an_engine_that_hangs_keeps_nobody_from_leaving(monkeypatch, capfd):
    monkeypatch.setattr("env.worlds.engine.HANGS", 1.0)
    world = TakeCover()
    world.reset(seed=1)
    os.kill(world._running.pid, signal.SIGSTOP)
    began = time.monotonic()
    world.close()
    assert time.monotonic() - began < 10
