"""The world: gymnasium's physics and rewards, our drawing."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing as Official
from gymnasium.utils.env_checker import check_env
from PIL import Image

import env.worlds.carracing as carracing
from env.rollout import Worlds, make_world
from env.run.settings import World
from env.tasks import get_task
from env.worlds.carracing import MARKS, PRIVILEGED, SPEED, TILES, CarRacing, process, situation
from env.worlds.drawing import ExactPainter
from env.worlds.frames import process_as_original
from tests.benches.drawing import drive


def test_drawing_is_close_and_physics_equal():
    differences, worst = drive(seed=3, steps=80)
    assert worst == 0.0
    assert differences.mean() <= 0.4
    assert differences.max() <= 2.5


@pytest.mark.slow
def test_drawing_on_ten_tracks():
    results = [drive(seed, steps=200) for seed in range(10)]
    differences = np.concatenate([d for d, _ in results])
    print(f"mean absolute difference over 10 tracks x 200 frames: {differences.mean():.3f} of 255, worst frame {differences.max():.2f}")
    assert max(worst for _, worst in results) == 0.0
    assert differences.mean() <= 0.35, "the README says 0.31 (tests/benches/drawing.json)"
    assert differences.max() <= 2.5


@pytest.mark.parametrize("render", ["fast", "official"])
@pytest.mark.filterwarnings("ignore")
def test_passes_gymnasiums_checker(render):
    world = gymnasium.make("WorldModels/CarRacing-v0", render=render).unwrapped
    check_env(world, skip_render_check=True)  # raises on what is wrong
    assert world.observation_space.shape == (64, 64, 3)


def test_registered_with_the_papers_step_limit():
    assert gymnasium.spec("WorldModels/CarRacing-v0").max_episode_steps == 1000
    assert carracing.CarRacing().lap_complete_percent == 1.0


def test_what_is_privileged_says_where_the_road_goes_and_how_the_car_moves():
    """A road along x = 1.2 that goes to the right after five tiles, and a car at the origin that looks along y."""
    middles = np.array([complex(1.2 + max(0, 3.5 * (tile - 5)), 3.5 * tile) for tile in range(12)])

    def counts(turned=0.0, velocity=(0.0, 0.0), turning=0.0, moved=0j):
        """Of a car that is at `moved`, and all of it turned to the left by `turned`: how many marks each number is above."""
        rotated = np.exp(1j * turned)
        at, going = (complex(*pair) * rotated for pair in ((moved.real, moved.imag), velocity))
        hull = SimpleNamespace(angle=turned, position=(at.real, at.imag), linearVelocity=(going.real, going.imag), angularVelocity=turning)
        bits = situation(hull, middles * rotated)
        assert bits.dtype == np.uint8 and bits.shape == (PRIVILEGED,) and set(np.unique(bits)) <= {0, 1}
        rows = bits.reshape(-1, MARKS)
        assert (np.diff(rows.astype(int)) <= 0).all()  # above a mark is above all lower ones
        return rows.sum(axis=1).tolist()

    still, middle = counts(), MARKS // 2
    # 1.2 units in steps of 1, 1.5 and 2; then 4.7 in steps of 2.5, 11.7 of 3, 18.7 of 4.
    assert still == [middle + 2, middle + 1, middle + 1, middle + 2, middle + 4, middle + 5, middle, middle, 0]
    assert counts(turned=0.6) == still and counts(turned=-2.5) == still
    moving = counts(velocity=(2.0, 3.5 * SPEED), turning=-0.3)
    assert moving[:6] == still[:6] and moving[6:] == [middle + 2, middle - 1, 3]
    assert counts(moved=5 + 0j)[0] == middle - 3 and counts(moved=100 + 0j)[0] == 0 and counts(moved=-100 + 0j)[0] == MARKS
    assert counts(moved=7j)[0] == still[0]  # two tiles further on; the road comes round again
    assert get_task("carracing").privileged == PRIVILEGED == MARKS * (len(TILES) + 3)


def test_the_world_tells_it_at_each_step_drawn_or_not():
    world = CarRacing()
    _, info = world.reset(seed=3)
    told = [info["privileged"]]
    for step in range(30):
        world.draws = step != 20
        info = world.step(np.array([0.0, 1.0, 0.0]))[4]
        told.append(info["privileged"])
    speeds = [marks.reshape(-1, MARKS)[-1].sum() for marks in told]
    assert speeds[0] == 0 and speeds[-1] == int(np.hypot(*world.car.hull.linearVelocity) / SPEED) > 0
    assert (np.diff(speeds) >= 0).all()


@pytest.mark.parametrize("action", [[np.nan, 0, 0], [0, np.inf, 0], [0, 0], [[0, 0, 0]], 0.0])
def test_bad_actions_raise_at_once(action):
    world = CarRacing()
    world.reset(seed=0)
    before = world.t
    with pytest.raises(ValueError, match="three finite numbers"):
        world.step(np.array(action, np.float32))
    assert world.t == before


@pytest.mark.parametrize("render", ["fast", "official"])
def test_an_action_is_held_and_only_what_is_seen_is_drawn(task, render, monkeypatch):
    """Each step of the agent is so many of the world's, with their rewards and the last one's frame; no other is drawn."""
    plain, held = (make_world(task, World(render=render, max_steps=50, repeat=repeat)) for repeat in (1, 4))
    drawn = []
    monkeypatch.setattr(held.unwrapped, "_process", lambda picture: drawn.append(held.unwrapped.t) or process(picture))
    np.testing.assert_array_equal(plain.reset(seed=5)[0], held.reset(seed=5)[0])
    rng, over, steps = np.random.default_rng(0), False, 0
    while not over:
        action = np.array([rng.uniform(-1, 1), rng.uniform(0.5, 1), 0.0], np.float32)
        frame, reward, done, over, _ = held.step(action)
        steps, earned, cut = steps + 1, 0.0, False
        for _ in range(4 if steps < 13 else 2):
            single, paid, _, cut, _ = plain.step(action)
            earned += paid
        np.testing.assert_array_equal(frame, single)
        assert reward == pytest.approx(earned, abs=1e-9) and over == cut and not done
    assert steps == World(max_steps=50, repeat=4).steps() == 13
    assert len(drawn) == 14


@pytest.mark.parametrize(("past_done", "frames"), [(False, 6), (True, 8)])
def test_an_action_is_held_beyond_the_end_only_where_play_goes_on(task, past_done, frames, monkeypatch):
    """Recordings that go on beyond the end have whole steps there, too: else such episodes would have more steps than others."""
    held = Worlds.of(task, World(max_steps=50, repeat=4), past_done=past_done)[0]
    held.reset(seed=5)
    own, times = held.unwrapped.step, []

    def step(action):
        times.append(own(action))
        frame, reward, _, truncated, info = times[-1]
        return frame, reward, len(times) == 6, truncated, info

    monkeypatch.setattr(held.unwrapped, "step", step)
    assert not held.step(np.zeros(3))[2]
    frame, _, done, _, _ = held.step(np.zeros(3))
    assert done and len(times) == frames and frame.shape == (64, 64, 3)


def steer(kind, t, rng):
    """Actions that show what the drawing must get right: bends, skids, leaving the road, braking."""
    return {
        "bends": [0.15 * np.sin(t / 9), 0.35, 0.0],
        "skids": [float(t > 60), 0.9, 0.0],
        "anywhere": [rng.uniform(-1, 1), 1.0, 0.0],
        "brakes": [0.6 * np.sin(t / 30), 0.5, 0.8 * (t % 50 < 5)],
    }[kind]


def differing(tracks, frames):
    """Frames of `ExactPainter` that differ in any bit from gymnasium's own drawing, through the opening zoom and beyond."""
    found = []
    for seed in tracks:
        kind, rng = ("bends", "skids", "anywhere", "brakes")[seed % 4], np.random.default_rng(seed)
        world = CarRacing()
        world.reset(seed=seed)
        painter = ExactPainter(world)
        for t in range(frames):
            world.step(np.array(steer(kind, t, rng), np.float32))
            if not np.array_equal(painter.frame(world), Official._render(world, "state_pixels")[:84]):
                found.append((seed, t))
    return found


def test_the_official_picture_is_gymnasiums_to_the_bit():
    assert differing([2], 90) == []


@pytest.mark.slow
def test_the_official_picture_is_gymnasiums_on_twenty_tracks():
    assert differing(range(20), 200) == []


def test_the_official_world_shows_it():
    ours, theirs = CarRacing(render="official"), Official(lap_complete_percent=1.0)
    frame, picture = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]
    for t in range(30):
        np.testing.assert_array_equal(frame, process(picture))
        action = np.array([0.3 * np.sin(t / 5), 0.6, 0.0], np.float32)
        frame, picture = ours.step(action)[0], theirs.step(action)[0]


def test_unknown_drawing_is_refused():
    with pytest.raises(ValueError, match="'fast' or 'official'"):
        CarRacing(render="pretty")
    with pytest.raises(ValueError, match="'plain' or 'original'"):
        CarRacing(frames="odd")


def test_an_episode_depends_on_its_seed_alone():
    def play(world):
        frame, _ = world.reset(seed=11)
        rows = [(int(frame.sum()), 0.0)]
        for t in range(40):
            frame, reward, *_ = world.step(np.array([0.3 * np.sin(t / 5), 0.6, 0.0], np.float32))
            rows.append((int(frame.sum()), reward))
        return rows

    used = CarRacing()
    used.reset(seed=5)
    for _ in range(30):
        used.step(np.array([0.5, 1.0, 0.0], np.float32))
    assert play(used) == play(CarRacing())


def test_frames_are_the_cropped_picture():
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    assert process(picture).shape == (64, 64, 3)
    changed = picture.copy()
    changed[84:] = 0
    np.testing.assert_array_equal(process(picture), process(changed))


def test_original_frames_follow_the_authors_formula():
    picture = np.random.default_rng(0).integers(20, 200, (96, 96, 3), np.uint8)
    x = picture[:84] / 255.0
    stretched = ((x - x.min()) * (255.0 / (x.max() - x.min())) + 0.5).clip(0, 255).astype(np.uint8)
    small = np.asarray(Image.fromarray(stretched).resize((64, 64), Image.Resampling.BILINEAR))
    expected = np.round((1.0 - small.astype(float)) * 255).astype(np.int64) % 256
    np.testing.assert_array_equal(process_as_original(picture[:84]), expected)
