"""The directions that CMA-ES may search in the place of C's weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from controller.directions import AHEAD, Directions, first_basis, make_basis, rewards_ahead
from controller.policy import Policy
from env.run.errors import UserError
from env.tasks import get_task


def sums(params, features, outputs=3):
    return Policy(features.shape[1], outputs).sums(tf.constant(params, tf.float32), tf.constant(features, tf.float32)).numpy()


@pytest.fixture
def played():
    """A C, and episodes in which feature 4 tells the reward of the next step, 7 is nothing, and the rest is noise."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal(3 + 12 * 3)
    episodes = []
    for length in (300, 200, 40):
        features = rng.standard_normal((length, 12)) + 2.0
        features[:, 4] = np.cumsum(rng.standard_normal(length)) / 5.0  # slow, as a car's speed is
        features[:, 7] = 1.0
        episodes.append((features.astype(np.float32), features[:, 4].astype(np.float32), False))
    return start, episodes


def test_rewards_ahead():
    reward = np.arange(1.0, 6.0)
    np.testing.assert_array_equal(rewards_ahead(reward, 2, ends=False), [3, 5, 7, 9])
    np.testing.assert_array_equal(rewards_ahead(reward, 2, ends=True), [3, 5, 7, 9, 5])
    np.testing.assert_array_equal(rewards_ahead(reward, 10, ends=True), [15, 14, 12, 9, 5])
    assert rewards_ahead(reward, 10, ends=False).shape == (0,) and rewards_ahead(reward, 5, ends=False) == [15.0]


def test_a_unit_of_each_direction_adds_a_standard_deviation_to_one_output(played):
    start, episodes = played
    basis = make_basis(start, 3, episodes)
    assert basis.shape == (3 * (1 + 3 + len(AHEAD)), start.size)
    features = np.concatenate([seen for seen, _, _ in episodes])
    directions, before = Directions(start, basis), sums(start, features)
    np.testing.assert_array_equal(directions.weights(np.zeros(21)), start)
    for number, unit in enumerate(np.eye(21)):
        added = sums(directions.weights(unit), features) - before
        others = np.delete(added, number % 3, axis=1)
        np.testing.assert_allclose(others, 0, atol=1e-4)
        added = added[:, number % 3]
        if number < 3:
            np.testing.assert_allclose(added, 1, atol=1e-4)
        else:
            assert added.mean() == pytest.approx(0, abs=1e-3) and added.std() == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(directions.weights(np.stack([np.eye(21)[1]] * 2))[1], directions.weights(np.eye(21)[1]))


def test_readouts_foretell_the_reward_and_gains_are_cs_own(played):
    start, episodes = played
    basis = make_basis(start, 3, episodes)
    features = np.concatenate([seen for seen, _, _ in episodes])
    own, before = sums(start + basis[3], features)[:, 0], sums(start, features)[:, 0]
    assert np.corrcoef(own - before, before)[0, 1] == pytest.approx(1)
    soon = sums(start + basis[3 + 9], features)[:, 0] - before
    assert np.corrcoef(soon, features[:, 4])[0, 1] > 0.95


def test_the_first_steps_are_told_apart_from_those_after_them(played):
    start, episodes = played
    rng = np.random.default_rng(1)
    for seen, _, _ in episodes:
        seen[:, 9] = np.arange(len(seen)) < 20
        seen[:, 10] = (np.arange(len(seen)) < 40) + 0.1 * rng.standard_normal(len(seen))
    basis = first_basis(3, [seen for seen, _, _ in episodes], 20)
    assert basis.shape == (3 * 2, start.size)
    features, step = np.concatenate([seen for seen, _, _ in episodes]), np.concatenate([np.arange(len(seen)) for seen, _, _ in episodes])
    before = sums(start, features)[:, 1]
    for direction, wanted in ((basis[1], step < 20), (basis[4], (step >= 20) & (step < 40))):
        added = sums(start + direction, features)[:, 1] - before
        assert np.corrcoef(added, wanted)[0, 1] > 0.95
        assert added.mean() == pytest.approx(0, abs=1e-3) and added.std() == pytest.approx(1, abs=1e-3)
    with pytest.raises(UserError, match="the longest recorded episode has 300 steps"):
        first_basis(3, [seen for seen, _, _ in episodes], 300)


def test_what_tells_nothing_is_left_out(played):
    """Rewards that are always the same, as Doom's are where nobody dies."""
    start, episodes = played
    same = [(seen, np.ones_like(reward), False) for seen, reward, _ in episodes]
    assert make_basis(start, 3, same).shape == (3 * (1 + 3), start.size)
    dying = [(seen, np.ones_like(reward), True) for seen, reward, _ in episodes]
    assert make_basis(start, 3, dying).shape == (3 * (1 + 3 + len(AHEAD)), start.size)


@pytest.mark.parametrize("search", ["directions", "first_steps"])
@pytest.mark.parametrize("changes", [{}, {"start": "shipped", "hidden": 4}, {"start": "shipped", "bias": False}])
def test_directions_take_a_linear_c_to_begin_with(changes, search):
    settings = get_task("carracing").scales["smoke"]
    settings = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, search=search, **changes))
    with pytest.raises(UserError, match="give --controller-start"):
        settings.check()
