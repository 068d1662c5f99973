"""What was played, and the sequences cut from it."""

from __future__ import annotations

import numpy as np
import pytest

from env.episodes import episode_path, packed, write_episode
from env.run.errors import UserError
from rnn.replay import Replay


def episode(number, steps, died=True):
    """Frame t of episode e has mu = 100 e + t; action and reward t say so, too."""
    mu = (100.0 * number + np.arange(steps + 1))[:, None]
    return {
        "mu": mu.astype(np.float16),
        "logvar": -mu.astype(np.float16),
        "action": mu[:-1].astype(np.float32),
        "reward": mu[:-1, 0].astype(np.float32),
        "done": np.arange(steps) == (steps - 1 if died else -1),
    }


def filled(capacity=1000, lengths=(5, 9, 7), with_last=True, died=True):
    replay = Replay(capacity, 1, 1, with_last)
    for number, steps in enumerate(lengths):
        replay.add(episode(number, steps, died))
    return replay


def drawn(replay, rows, window, seed=0):
    replay.all_seen()
    return replay.sample(np.random.default_rng(seed), rows, window)


def test_a_sequence_holds_what_came_after_each_frame():
    batch = drawn(filled(), 200, 6)
    mu, first = batch.mu[..., 0].astype(int), batch.first.astype(bool)
    number, t = mu // 100, mu % 100
    last = t == np.array([5, 9, 7])[number]
    assert last.any() and first.any()
    assert (first == (t == 0)).all()
    np.testing.assert_array_equal(batch.action[..., 0], np.where(last, 0, mu))
    np.testing.assert_array_equal(batch.reward, np.where(last, 0, mu))
    np.testing.assert_array_equal(batch.done, t == np.array([4, 8, 6])[number])
    np.testing.assert_array_equal(batch.logvar, -batch.mu)
    assert (first[:, 1:] == last[:, :-1]).all()  # the next episode begins after a last frame


def test_ends_are_learned_from_deaths_or_from_what_lives_lost(tmp_path):
    replay, by_deaths = Replay(1000, 1, 1, True, health=True), filled()
    for number, steps in enumerate((5, 9, 7)):
        health = np.linspace(1, 0, steps + 1).astype(np.float32)
        replay.add(episode(number, steps) | {"health": health})
    batch, other = drawn(replay, 200, 6), drawn(by_deaths, 200, 6)
    mu = batch.mu[..., 0].astype(int)
    steps = np.array([5, 9, 7])[mu // 100]
    np.testing.assert_allclose(batch.lost, np.where(mu % 100 == steps, 0, 1 / steps), rtol=1e-5)
    np.testing.assert_array_equal(batch.done, mu % 100 == steps - 1)
    np.testing.assert_array_equal(other.lost, other.done)
    path = episode_path(tmp_path, 0)
    write_episode(path, episode(0, 5))
    with pytest.raises(UserError, match="000000.npz tells of no health.*--rssm-ends-from deaths"):
        replay.fill([path])
    by_deaths.fill([path])


def test_what_is_privileged_stands_at_its_frame(tmp_path):
    replay = Replay(1000, 1, 1, True, privileged=3)
    paths = [episode_path(tmp_path, number) for number in range(3)]
    for number, steps in enumerate((5, 9)):
        told = np.arange(steps + 1)[:, None] == np.array([0, 3, steps])
        write_episode(paths[number], episode(number, steps) | {"privileged": packed(list(told))})
    replay.fill(paths[:2])
    batch = drawn(replay, 100, 6)
    number, t = np.divmod(batch.mu[..., 0].astype(int), 100)
    np.testing.assert_array_equal(batch.privileged[..., 1], t == 3)
    np.testing.assert_array_equal(batch.privileged[..., 2], t == np.array([5, 9])[number])
    assert batch.privileged.dtype == np.uint8 and drawn(filled(), 2, 6).privileged.shape == (2, 6, 0)
    for other in ({}, {"privileged": packed([np.ones(9)] * 6)}):
        write_episode(paths[2], episode(2, 5) | other)
        with pytest.raises(UserError, match="000002.npz does not tell the 3 privileged answers that rssm.beta_privileged asks for"):
            Replay(1000, 1, 1, True, privileged=3).fill(paths)


def test_without_last_frames_there_are_as_many_as_actions():
    replay = filled(with_last=False)
    assert len(replay) == 5 + 9 + 7
    assert len(filled()) == 5 + 9 + 7 + 3
    mu = drawn(replay, 200, 6).mu[..., 0].astype(int)
    assert not np.isin(mu, [5, 109, 207]).any()


def test_a_step_limit_is_no_end():
    assert not drawn(filled(died=False), 100, 6).done.any()


def test_each_frame_is_about_as_likely_as_any_other():
    """The last ones of episodes, too, but for those at the stream's ends."""
    batch = drawn(filled(), 20000, 4)
    counts = np.unique(batch.mu, return_counts=True)[1]
    inner = counts[3:-3]
    assert inner.std() / inner.mean() < 0.05


def test_the_oldest_make_room():
    replay = filled(capacity=15)
    assert len(replay) == 15
    mu = drawn(replay, 500, 4).mu[..., 0].astype(int)
    assert set(np.unique(mu)) == {*range(103, 110), *range(200, 208)}
    assert (np.diff(mu) == 1).sum() + (mu[:, 1:] == 200).sum() == mu[:, 1:].size  # still in order, around the end of the memory


def test_what_is_new_is_learned_from_at_least_once():
    replay = filled(lengths=(50, 50))
    replay.all_seen()
    replay.add(episode(2, 39))
    rng, seen = np.random.default_rng(0), set()
    for _ in range(3):
        fresh = replay.sample(rng, 4, 15).mu[0, :, 0].astype(int)  # a quarter of the rows
        seen |= set(fresh[fresh >= 200])
    assert seen == set(range(200, 240))


def test_a_sequence_longer_than_all_is_refused():
    with pytest.raises(ValueError, match="24 frames are kept, a sequence needs 25"):
        filled().sample(np.random.default_rng(0), 2, 25)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="more than this machine can give"):
        Replay(10**9, 32, 3, True, pixels=True)
    with pytest.raises(UserError, match="24 frames are kept to learn from, a sequence needs 25"):
        filled().check(25)


def test_the_same_generator_draws_the_same():
    one, two = drawn(filled(), 8, 6, seed=5), drawn(filled(), 8, 6, seed=5)
    for a, b in zip(one, two):
        np.testing.assert_array_equal(a, b)


def test_a_share_of_a_batch_can_end_near_where_episodes_ended():
    """Never beyond an end, and none at one that a step limit made; the rest is as it was."""
    replay = Replay(10_000, 4, 1, with_last=True)
    lengths, deaths = (300, 200, 400), (True, False, True)
    for length, dies in zip(lengths, deaths):
        done = np.zeros(length, bool)
        done[-1] = dies
        mu = np.arange(length + 1, dtype=np.float16)[:, None] * np.ones((1, 4), np.float16)
        replay.add({"mu": mu, "logvar": mu * 0, "action": np.zeros((length, 1)), "reward": np.ones(length), "done": done})
    replay.all_seen()
    batch = replay.sample(np.random.default_rng(1), 400, 32, near_ends=0.5)
    plain = replay.sample(np.random.default_rng(1), 400, 32)
    np.testing.assert_array_equal(batch.mu[:200], plain.mu[:200])
    before = np.array([min(abs(int(row[-1, 0]) - length) for length in (300, 400)) for row in batch.mu[200:].astype(int)])
    assert before.max() <= 40 and before.min() == 0 and 15 < before.mean() < 25
    last = batch.mu[200:, -1, 0].astype(int)
    assert ((last >= 260) & (last <= 300) | (last >= 360) & (last <= 400)).all()
    assert 0.3 < (last <= 300).mean() < 0.7
