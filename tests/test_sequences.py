"""From encoded episodes to M's batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from env.episodes import LATENTS, episode_path, packed, read_episode, write_episode
from env.run.errors import UserError
from rnn.sequences import Episodes, batches, stream_batches


@pytest.fixture()
def episodes(tmp_path):
    """Seven episodes of 5..11 frames; frame t of episode e has mu = 100 e + t, action = mu + 0.5, logvar = -mu."""
    lengths = np.arange(5, 12)
    for number, length in enumerate(lengths):
        mu = (100.0 * number + np.arange(length + 1))[:, None]
        arrays = {"mu": mu.astype(np.float16), "logvar": -mu.astype(np.float16), "action": (mu[:-1] + 0.5).astype(np.float32)}
        arrays |= {"reward": -mu[:-1, 0].astype(np.float32)}
        arrays["done"] = np.arange(length) == length - 1
        write_episode(episode_path(tmp_path, number), arrays)
    return Episodes([episode_path(tmp_path, i) for i in range(7)], lengths)


def joined(parts):
    """Batches [rows, window] side by side: each row's part of the stream."""
    return np.concatenate([np.asarray(p) for p in parts], axis=1)


def test_a_stream_is_all_episodes_in_random_order_read_in_rows(episodes):
    parts = list(stream_batches(episodes, 3, 4, np.random.default_rng(0)))
    assert len(parts) == 56 // 12
    assert parts[0].mu.shape == (3, 4, 1)
    assert [bool(p.fresh) for p in parts] == [True, False, False, False]
    flat = joined([p.mu[..., 0] for p in parts]).astype(int).ravel()
    assert len(set(flat)) == len(flat) == 48  # each frame once
    order = np.random.default_rng(0).permutation(7)
    expected = np.concatenate([100 * e + np.arange(episodes.lengths[e]) for e in order])[:48]
    np.testing.assert_array_equal(flat, expected)
    np.testing.assert_array_equal(joined([p.action[..., 0] for p in parts]).ravel(), expected + 0.5)


def test_restart_marks_first_frames_and_nothing_else(episodes):
    parts = list(stream_batches(episodes, 3, 4, np.random.default_rng(1)))
    mu, restart = (joined([getattr(p, name) for p in parts]) for name in ("mu", "first"))
    np.testing.assert_array_equal(restart == 1, mu[..., 0] % 100 == 0)
    assert set(np.unique(restart)) == {0.0, 1.0}


def test_a_row_goes_on_where_its_last_window_ended(episodes):
    one, two = (list(stream_batches(episodes, 2, window, np.random.default_rng(2))) for window in (7, 14))
    np.testing.assert_array_equal(joined([p.mu for p in one]), joined([p.mu for p in two]))


@pytest.mark.parametrize("done", [1, 3, 4, 9])
def test_a_resumed_stream_sees_what_an_uninterrupted_one_would(episodes, done, tiny):
    rnn = dataclasses.replace(tiny.rnn, sequences="stream", batch=3, window=4, steps=12)
    settings = dataclasses.replace(tiny, rnn=rnn)
    whole, resumed = batches(episodes, settings, 0), batches(episodes, settings, done)
    for _ in range(done):
        next(whole)
    for _ in range(5):
        for a, b in zip(next(whole), next(resumed)):
            np.testing.assert_array_equal(a, b)


def test_epochs_differ_in_order(episodes, tiny):
    settings = dataclasses.replace(tiny, rnn=dataclasses.replace(tiny.rnn, sequences="stream", batch=3, window=4))
    source = batches(episodes, settings, 0)
    parts = [next(source) for _ in range(8)]
    assert not np.array_equal(joined([p.mu for p in parts[:4]]), joined([p.mu for p in parts[4:]]))
    assert [bool(p.fresh) for p in parts] == [True, False, False, False] * 2


@pytest.mark.parametrize("sequences", ["stream", "episodes"])
def test_what_is_privileged_comes_with_its_frame(episodes, sequences, tiny):
    """Frame t of episode e answers t > 2, e > 3, and no for the rest of nine."""
    for number, path in enumerate(episodes.paths):
        t = np.arange(episodes.lengths[number] + 1)
        told = np.stack([t > 2, np.full(len(t), number > 3), *np.zeros((7, len(t)), bool)], axis=1)
        write_episode(path, read_episode(path, LATENTS) | {"privileged": packed(list(told))})
    settings = dataclasses.replace(tiny, rnn=dataclasses.replace(tiny.rnn, sequences=sequences, batch=3, window=5))
    plain, batch = next(batches(episodes, settings, 0)), next(batches(episodes, settings, 0, privileged=9))
    for a, b in zip(plain._replace(privileged=0), batch._replace(privileged=0)):
        np.testing.assert_array_equal(a, b)
    assert plain.privileged.shape == (3, 5, 0) and batch.privileged.shape == (3, 5, 9) and batch.privileged.dtype == np.uint8
    mu = batch.mu[..., 0].astype(int)
    np.testing.assert_array_equal(batch.privileged[..., 0], mu % 100 > 2)
    np.testing.assert_array_equal(batch.privileged[..., 1], mu // 100 > 3)
    assert not batch.privileged[..., 2:].any()
    with pytest.raises(UserError, match="does not tell the 17 privileged answers that beta_privileged asks for: record anew"):
        next(batches(episodes, settings, 0, privileged=17))


def test_a_file_of_another_length_than_logged_is_named(episodes):
    wrong = Episodes(episodes.paths, episodes.lengths + 1)
    with pytest.raises(UserError, match="record and encode anew"):
        list(stream_batches(wrong, 2, 4, np.random.default_rng(0)))


def test_sequences_of_episodes_mark_first_frames(episodes, tiny):
    settings = dataclasses.replace(tiny, rnn=dataclasses.replace(tiny.rnn, batch=4, window=5))
    batch = next(batches(episodes, settings, 0))
    assert batch.mu.shape == (4, 5, 1)
    np.testing.assert_array_equal(batch.first == 1, batch.mu[..., 0] % 100 == 0)
    np.testing.assert_array_equal(np.diff(batch.mu[..., 0], axis=1), 1)
    assert batch.fresh
