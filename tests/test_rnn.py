"""M: its size, its mixture, its sequences, its contract."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from env.settings import UserError
from rnn.mdn import mixture
from rnn.rnn import LSTM, MDNRNN, State, feature_size, features, load_rnn
from vae.vae import save_weights


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return MDNRNN()


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_parameters_by_keras_own_count(model):
    assert model.count_params() == 422_368


def numpy_log_prob(output, z, mixtures):
    """log sum_k pi_k N(z; mu_k, sigma_k) for each dimension, in float64."""
    parts = output.astype(np.float64).reshape(*z.shape, 3, mixtures)
    logits, mean, log_std = parts[..., 0, :], parts[..., 1, :], parts[..., 2, :]
    log_pi = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    log_normal = -0.5 * ((z[..., None] - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    return np.log(np.exp(log_pi + log_normal).sum(axis=-1))


def test_log_likelihood_equals_numpy():
    output, z = random(7, 4, 32 * 15), random(7, 4, 32, seed=1)
    ours = mixture(output, 5).log_prob(z).numpy()
    assert ours.shape == (7, 4, 32)
    np.testing.assert_allclose(ours, numpy_log_prob(output, z, 5), atol=1e-5, rtol=1e-5)


def test_each_dimension_has_its_own_mixture():
    """Changing dimension 3's fifteen numbers changes dimension 3's likelihood alone."""
    output, z = random(1, 32 * 15), random(1, 32, seed=1)
    changed = output.copy()
    changed[:, 3 * 15 : 4 * 15] += random(15, seed=2)
    difference = (mixture(output, 5).log_prob(z) != mixture(changed, 5).log_prob(z)).numpy()[0]
    assert np.flatnonzero(difference).tolist() == [3]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_samples_have_the_theorys_mean_and_variance(temperature):
    output = random(1, 2 * 15)
    logits, mean, log_std = np.moveaxis(output.astype(np.float64).reshape(2, 3, 5), 1, 0)
    pi = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=1, keepdims=True)
    variance = np.exp(2 * log_std) * temperature  # the standard deviation grows with the root of the temperature
    expected = (pi * mean).sum(axis=1)
    expected_variance = (pi * (variance + mean**2)).sum(axis=1) - expected**2
    draws = mixture(np.repeat(output, 200_000, axis=0), 5, temperature).sample(seed=[3, 4]).numpy()
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=5 * np.sqrt(expected_variance.max() / 200_000))
    np.testing.assert_allclose(draws.var(axis=0), expected_variance, rtol=0.03)


def test_temperature_near_zero_leaves_the_likeliest_mean():
    output = random(1, 2 * 15)
    logits, mean, _ = np.moveaxis(output.reshape(2, 3, 5), 1, 0)
    draws = mixture(np.repeat(output, 100, axis=0), 5, 1e-6).sample(seed=[3, 4]).numpy()
    np.testing.assert_allclose(draws, np.tile(mean[np.arange(2), logits.argmax(axis=1)], (100, 1)), atol=0.02)


def test_lstm_equals_keras_own():
    ours, theirs = LSTM(35, 16), keras.layers.LSTM(16, return_sequences=True)
    x = random(2, 6, 35)
    theirs.build((None, None, 35))
    ours.bias.assign(random(64, seed=5))
    i, j, f, o = np.split(ours.kernel.numpy(), 4, axis=1)
    bi, bj, bf, bo = np.split(ours.bias.numpy(), 4)
    kernel = np.concatenate([i, f, j, o], axis=1)
    theirs.set_weights([kernel[:35], kernel[35:], np.concatenate([bi, bf + 1.0, bj, bo])])
    zeros = tf.zeros((2, 16))
    np.testing.assert_allclose(ours(x, zeros, zeros), theirs(x), atol=1e-6)


def test_a_sequence_equals_its_steps(model):
    z, action = random(2, 5, 32), random(2, 5, 3, seed=1)
    state = model.initial(z[:, 0])
    for t in range(5):
        following = z[:, t + 1] if t < 4 else z[:, 0]
        state = model.observe(state, action[:, t], following)
    outputs = model.predict_next(z, action)
    np.testing.assert_allclose(model.output_layer(state.h), outputs[:, -1], atol=1e-5)


def test_the_loss_pairs_each_z_and_action_with_the_next_z(model):
    """Against an off-by-one: z_t and a_t predict z_{t+1}; the last action and the first z as a target play no part."""
    mu, action = tf.constant(random(1, 4, 32)), tf.constant(random(1, 4, 3, seed=1))
    logvar, noise = tf.fill((1, 4, 32), -30.0), tf.zeros((1, 4, 32))
    with tf.GradientTape() as tape:
        tape.watch(action)
        loss = model.loss_terms(mu, logvar, action, noise)["loss"]
    reach = np.abs(tape.gradient(loss, action).numpy()).sum(axis=(0, 2))
    assert (reach[:3] > 0).all()
    assert reach[3] == 0
    output = model.predict_next(mu[:, :3], action[:, :3]).numpy()
    assert float(loss) == pytest.approx(-numpy_log_prob(output, mu[:, 1:].numpy(), 5).mean(), abs=1e-5)


def test_the_loss_samples_z_with_the_posteriors_deviation(model):
    mu, action, noise = random(1, 3, 32), random(1, 3, 3, seed=1), random(1, 3, 32, seed=2)
    logvar = random(1, 3, 32, seed=3)
    sampled = model.loss_terms(mu, logvar, action, noise)["loss"]
    by_hand = model.loss_terms(mu + np.exp(0.5 * logvar) * noise, logvar, action, np.zeros_like(noise))["loss"]
    assert float(sampled) == pytest.approx(float(by_hand), abs=1e-5)


def test_imagining_moves_h_as_observing_does_and_invents_z(model):
    state = model.observe(model.initial(random(4, 32)), random(4, 3), random(4, 32, seed=1))
    action = random(4, 3, seed=2)
    dreamt, reward, done = model.imagine(state, action, 1.0, tf.constant([1, 2]))
    seen = model.observe(state, action, random(4, 32, seed=3))
    np.testing.assert_allclose(dreamt.h, seen.h, atol=1e-6)
    assert dreamt.z.shape == (4, 32)
    assert reward.shape == done.shape == (4,)
    again, _, _ = model.imagine(state, action, 1.0, tf.constant([1, 2]))
    other, _, _ = model.imagine(state, action, 1.0, tf.constant([1, 3]))
    np.testing.assert_array_equal(dreamt.z, again.z)
    assert not np.array_equal(dreamt.z, other.z)


def test_features_come_in_the_originals_order():
    state = State(tf.constant([[1.0]]), tf.constant([[2.0, 3.0]]), tf.constant([[4.0, 5.0]]))
    expected = {"z": [1], "zh": [1, 2, 3], "zc": [1, 4, 5], "zch": [1, 4, 5, 2, 3]}
    for names, values in expected.items():
        assert features(state, names).numpy()[0].tolist() == values
        assert feature_size(names, 1, 2) == len(values)


def test_weights_come_back_and_others_are_named(model, tmp_path):
    meta = {"z_size": 32, "units": 256, "mixtures": 5}
    save_weights(tmp_path / "m.npz", model, meta)
    back = load_rnn(tmp_path / "m.npz", 32, 3, 256, 5)
    z, action = random(1, 3, 32), random(1, 3, 3)
    np.testing.assert_array_equal(back.predict_next(z, action), model.predict_next(z, action))
    with pytest.raises(UserError, match="z_size 32, this run needs 64"):
        load_rnn(tmp_path / "m.npz", 64, 3, 256, 5)
    with pytest.raises(UserError, match="units 256, this run needs 512"):
        load_rnn(tmp_path / "m.npz", 32, 3, 512, 5)
