"""Distributions over what is not known: one-hot variables and numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from rnn.heads import Network, OneHot, Squared, TwoHot, scalar


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_probabilities_are_mixed_with_the_uniform_one():
    logits = 30 * random(5, 3, 4)
    mixed = OneHot(tf.constant(logits), unimix=0.08)
    np.testing.assert_allclose(tf.reduce_sum(mixed.probs, axis=-1), 1, atol=1e-6)
    assert float(tf.reduce_min(mixed.probs)) == pytest.approx(0.08 / 4, rel=1e-3)
    np.testing.assert_allclose(mixed.probs, 0.92 * tf.nn.softmax(logits) + 0.02, atol=1e-6)


def test_samples_come_as_often_as_the_probabilities_say():
    logits, count = random(1, 2, 5), 40000
    variable = OneHot(tf.repeat(tf.constant(logits), count, axis=0), 0.01)
    sampled = variable.sample(tf.constant(random(count, 2, seed=1))).numpy()
    assert sampled.shape == (count, 10)
    assert set(np.unique(sampled.round(5))) == {0.0, 1.0}
    np.testing.assert_allclose(sampled.mean(axis=0).reshape(2, 5), variable.probs[0], atol=0.01)


def test_the_gradient_goes_straight_through_a_sample():
    """With a weight for each value, for their plain sum is always 1."""
    logits, weights = tf.Variable(random(1, 2, 3)), random(6, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        variable = OneHot(logits, 0.01)
        through_sample = tf.reduce_sum(variable.sample(tf.constant(random(1, 2, seed=2))) * weights)
        through_probs = tf.reduce_sum(tf.reshape(variable.probs, (1, 6)) * weights)
    expected = tape.gradient(through_probs, logits)
    assert float(tf.reduce_max(tf.abs(expected))) > 0.01
    np.testing.assert_allclose(tape.gradient(through_sample, logits), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 1.0, 2.0])
def test_temperature_sharpens_or_flattens(temperature):
    logits = tf.constant(random(100, 2, 5))
    plain, heated = OneHot(logits, 0.01), OneHot(logits, 0.01, temperature)
    logs = np.log(plain.probs.numpy().astype(np.float64)) / temperature
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(heated.probs, powers / powers.sum(axis=-1, keepdims=True), atol=1e-3)
    assert np.sign(float(tf.reduce_mean(heated.entropy() - plain.entropy())).__round__(5)) == np.sign(temperature - 1)


def test_kl_and_entropy_against_sums_by_hand():
    p, q = OneHot(tf.constant(random(7, 3, 4)), 0.01), OneHot(tf.constant(random(7, 3, 4, seed=1)), 0.01)
    by_hand = (p.probs.numpy() * np.log(p.probs.numpy() / q.probs.numpy())).sum(axis=(1, 2))
    np.testing.assert_allclose(p.kl(q), by_hand, rtol=1e-4)
    np.testing.assert_allclose(p.kl(p), 0, atol=1e-6)
    np.testing.assert_allclose(p.entropy(), -(p.probs.numpy() * np.log(p.probs.numpy())).sum(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("bins", [63, 255])
def test_two_hot_weights_mean_the_target(bins):
    kind = TwoHot(bins)
    targets = np.array([0, 0.1, -0.1, 3.3, -100, 1999.5, -22000, 1e-4], np.float32)
    weights = kind.two_hot(tf.constant(targets)).numpy()
    assert ((weights > 1e-6).sum(axis=-1) <= 2).all()
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.astype(np.float64) @ kind.bins, targets, rtol=2e-4, atol=1e-5)
    outermost = kind.two_hot(tf.constant([1e9, -1e9])).numpy()
    assert outermost[0, -1] == outermost[1, 0] == 1


def test_two_hot_predicts_nothing_at_first_and_learns_its_target():
    kind, target = TwoHot(63), tf.constant([7.5, -0.1, 900.0])
    assert (kind.pred(tf.zeros((3, 63))).numpy() == 0).all()
    outputs, optimizer = tf.Variable(tf.zeros((3, 63))), keras.optimizers.Adam(0.5)
    for _ in range(300):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(kind.loss(outputs, target))
        optimizer.apply_gradients([(tape.gradient(loss, outputs), outputs)])
    np.testing.assert_allclose(kind.pred(outputs), target, rtol=0.05, atol=0.05)


def test_squared_is_the_number_itself():
    outputs = tf.constant([[1.5], [-2.0]])
    assert isinstance(scalar("squared", 63), Squared)
    assert scalar("two_hot", 31).size == 31
    np.testing.assert_allclose(Squared().pred(outputs), [1.5, -2.0])
    np.testing.assert_allclose(Squared().loss(outputs, tf.constant([0.5, 0.0])), [1.0, 4.0])


def test_a_network_can_start_at_zero():
    x = tf.constant(random(2, 3, 5))
    assert (Network(5, 8, 4, "net", layers=2, zero=True)(x).numpy() == 0).all()
    net = Network(5, 8, 4, "net", layers=2)
    assert net(x).shape == (2, 3, 4)
    assert len(net.trainable_variables) == 6
