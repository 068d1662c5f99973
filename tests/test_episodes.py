"""Episodes on disk and their streaming."""

from __future__ import annotations

import numpy as np
import pytest

from env.episodes import FRAMES, episode_path, frame_batches, is_whole, lost_lives, packed, read_episode, unpacked, write_episode
from env.run.errors import UserError


def make_episode(number: int, length: int = 30) -> dict[str, np.ndarray]:
    """An episode whose frames say which they are: the first two pixels hold episode and time."""
    obs = np.zeros((length + 1, 64, 64, 3), np.uint8)
    obs[:, 0, 0, 0], obs[:, 0, 0, 1] = number, np.arange(length + 1)
    return {
        "obs": obs,
        "action": np.zeros((length, 3), np.float32),
        "reward": np.ones(length, np.float32),
        "done": np.zeros(length, bool),
    }


@pytest.fixture()
def folder(tmp_path):
    for number in range(6):
        write_episode(episode_path(tmp_path, number), make_episode(number, 20 + number))
    return tmp_path


def test_an_episode_comes_back(folder):
    back, made = read_episode(episode_path(folder, 3)), make_episode(3, 23)
    for key, array in made.items():
        np.testing.assert_array_equal(back[key], array)
        assert back[key].dtype == array.dtype


def test_health_comes_back_with_whole_episodes_where_there_is_any(tmp_path):
    path, made = episode_path(tmp_path, 3), make_episode(3) | {"health": np.linspace(1, 0.4, 31, dtype=np.float32)}
    write_episode(path, made)
    np.testing.assert_array_equal(read_episode(path)["health"], made["health"])
    assert set(read_episode(path, ("obs",))) == {"obs"}
    write_episode(path, made | {"health": made["health"][:-1]})
    with pytest.raises(UserError, match="lacks its last frame"):
        read_episode(path)


def test_what_is_privileged_takes_a_bit_each():
    told = [np.array(row, np.uint8) for row in np.random.default_rng(0).integers(0, 2, (5, 11))]
    bits = packed(told)
    assert bits.shape == (5, 2) and bits.dtype == np.uint8
    np.testing.assert_array_equal(unpacked(bits, 11), told)
    assert unpacked(np.zeros((2, 3, 0), np.uint8), 0).shape == (2, 3, 0)


def test_what_a_life_lost_sums_to_one_at_its_end():
    health = np.array([1.0, 0.79, 0.79, 0.37, 0.5, 0.2, 0.2], np.float32)
    done = np.zeros(6, bool)
    np.testing.assert_allclose(lost_lives({"health": health, "done": done}), [0.21, 0, 0.42, 0, 0.3, 0], atol=1e-6)
    done[-1] = True  # whatever the world says of the dead
    lost = lost_lives({"health": health, "done": done})
    np.testing.assert_allclose(lost, [0.21, 0, 0.42, 0, 0.3, 0.2], atol=1e-6)
    assert lost.sum() == pytest.approx(1 + 0.13) and lost.dtype == np.float32  # 0.13 was healed


def test_damaged_files_are_found_and_named(folder):
    path = episode_path(folder, 2)
    whole = path.read_bytes()
    assert is_whole(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert not is_whole(path)
    with pytest.raises(UserError, match="000002.npz is damaged"):
        read_episode(path)
    flipped = bytearray(whole)
    flipped[200] ^= 255
    path.write_bytes(bytes(flipped))
    assert not is_whole(path)
    assert not is_whole(episode_path(folder, 99))


@pytest.mark.parametrize("keys", [FRAMES, ("obs",)])
def test_recordings_without_their_last_frame_are_refused(folder, keys):
    path = episode_path(folder, 2)
    old = make_episode(2)
    write_episode(path, old | {"obs": old["obs"][:-1]})
    with pytest.raises(UserError, match="lacks its last frame, an older version made it: delete .* and make it anew"):
        read_episode(path, keys)


@pytest.mark.parametrize("pool", [1, 3, 32])
def test_a_pass_gives_each_frame_once(folder, pool):
    paths = [episode_path(folder, i) for i in range(6)]
    batches = list(frame_batches(paths, 5, np.random.default_rng(0), pool))
    assert {frames.shape for frames, in batches} == {(5, 64, 64, 3)}
    seen = [tuple(frame[0, 0, :2]) for frames, in batches for frame in frames]
    total = sum(20 + i for i in range(6))
    assert len(seen) == total - total % 5
    assert len(set(seen)) == len(seen)
    assert all(time < 20 + number for number, time in seen), "V does not learn what came after the last action"


def test_what_is_beside_a_frame_comes_with_it(tmp_path):
    paths = [episode_path(tmp_path, number) for number in range(4)]
    for number, path in enumerate(paths):
        steps = 20 + number
        write_episode(path, make_episode(number, steps) | {"privileged": np.array([[number, t, 7] for t in range(steps + 1)], np.uint8)})
    for frames, told in frame_batches(paths, 5, np.random.default_rng(0), beside=("privileged",)):
        np.testing.assert_array_equal(frames[:, 0, 0, :2], told[:, :2])
        assert told.shape == (5, 3) and told.dtype == np.uint8
    write_episode(paths[0], make_episode(0, 20))
    with pytest.raises(UserError, match="000000.npz has no privileged"):
        list(frame_batches(paths, 5, np.random.default_rng(0), beside=("privileged",)))


def test_a_pass_mixes_episodes_and_repeats_with_its_seed(folder):
    paths = [episode_path(folder, i) for i in range(6)]
    first, again, other = (np.concatenate([frames for frames, in frame_batches(paths, 5, np.random.default_rng(s))]) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    episodes = first[:, 0, 0, 0]
    assert np.mean(episodes[1:] == episodes[:-1]) < 0.6, "neighbours mostly come from one episode"


@pytest.mark.parametrize("pool", [1, 3, 32])
def test_a_pass_that_begins_in_its_middle_is_the_rest_of_the_whole_one(folder, pool, monkeypatch):
    paths, read = [episode_path(folder, i) for i in range(6)], []
    whole = list(frame_batches(paths, 5, np.random.default_rng(0), pool))
    monkeypatch.setattr(
        "env.episodes.read_episode", lambda path, keys: (read.append(path) if "obs" in keys else None, read_episode(path, keys))[1]
    )
    for skip in range(len(whole) + 1):
        read.clear()
        rest = list(frame_batches(paths, 5, np.random.default_rng(0), pool, skip))
        assert len(rest) == len(whole) - skip
        for one, other in zip(rest, whole[skip:]):
            np.testing.assert_array_equal(one, other)
        assert len(read) == len(set(read)), "each file once"
        if pool == 1 and skip == 10:
            assert len(read) < 5, "what only the batches before had is not read again"
    assert not read, "nothing is left to be read"
