"""C: its size and its answer."""

from __future__ import annotations

import numpy as np
import pytest

from controller.policy import Policy


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_sizes_are_the_papers():
    assert Policy(288, 3).size == 867
    assert Policy(32, 3, hidden=40).size == 1443
    assert Policy(1088, 1, bias=False).size == 1088


def test_each_slot_has_its_own_linear_controller():
    """Biases first, then the matrix row by row, as in the original's files."""
    policy, params, features = Policy(6, 3), random(4, 21), random(4, 6, seed=1)
    expected = [np.tanh(f @ p[3:].reshape(6, 3) + p[:3]) for p, f in zip(params, features)]
    np.testing.assert_allclose(policy.act(params, features), expected, atol=1e-6)


def test_hidden_layer():
    policy, features = Policy(6, 3, hidden=5), random(2, 6, seed=1)
    params = random(2, policy.size)
    expected = []
    for p, f in zip(params, features):
        hidden = np.tanh(f @ p[5:35].reshape(6, 5) + p[:5])
        expected.append(np.tanh(hidden @ p[38:].reshape(5, 3) + p[35:38]))
    np.testing.assert_allclose(policy.act(params, features), expected, atol=1e-6)


def test_without_bias_the_whole_vector_is_the_matrix():
    params, features = random(2, 6), random(2, 6, seed=1)
    expected = np.tanh((params * features).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(Policy(6, 1, bias=False).act(params, features), expected, atol=1e-6)


@pytest.mark.parametrize(("y", "action"), [((-1, -1, -1), (-1, 0, 0)), ((1, 1, 1), (1, 1, 1)), ((0.5, 0, 0.25), (0.5, 0.5, 0.25))])
def test_carracing_actions_are_the_originals(task, y, action):
    np.testing.assert_allclose(task.actions.of_outputs(np.array([y], np.float32))[0], action)
