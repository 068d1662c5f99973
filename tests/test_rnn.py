"""M: its size, its mixture, its sequences, its contract."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from env.run.errors import UserError
from env.run.files import load_arrays
from env.run.weights import assign_weights, save_weights
from env.tasks import get_task
from rnn.lstm import LSTM
from rnn.mdn import log_prob, mixture, sample
from rnn.memory import as_batch, load_memory, make_memory, memory_meta
from rnn.rnn import MDNRNN, State
from rnn.train import make_carried, make_optimizer, make_step


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return MDNRNN()


NONE = tf.zeros((1, 0))  # the noise that this M takes where it invents nothing


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_parameters_by_keras_own_count(model):
    assert model.count_params() == 422_368
    doom = get_task("doom")
    assert make_memory(doom, doom.scales["paper"], "float32").count_params() == 1_678_785


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


def test_the_likelihood_takes_any_size():
    """Compiled anew for each, whatever came before: one process may hold two M's."""
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 4), (2, 5, 4), (3, 5, 8), (2, 3, 64)):
        output = rng.standard_normal((*shape[:2], shape[2] * 15)).astype(np.float32)
        z = rng.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(log_prob(output, 5, z), numpy_log_prob(output, z, 5), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dimension", [0, 3, 31])
def test_each_dimension_has_its_own_mixture(dimension):
    """Changing a dimension's fifteen numbers changes that dimension's likelihood alone."""
    output, z = random(1, 32 * 15), random(1, 32, seed=1)
    changed = output.copy()
    changed[:, dimension * 15 : (dimension + 1) * 15] += random(15, seed=2)
    difference = (mixture(output, 5).log_prob(z) != mixture(changed, 5).log_prob(z)).numpy()[0]
    assert np.flatnonzero(difference).tolist() == [dimension]


def draw_by_tfp(output, temperature):
    return mixture(output, 5, temperature).sample(seed=[3, 4]).numpy()


def draw_from_noise(output, temperature):
    """The sampler of dreams."""
    choice, noise = random(2, len(output), output.shape[1] // 15, seed=4)
    return sample(tf.constant(output), 5, temperature, choice, noise).numpy()


@pytest.mark.parametrize("draw", [draw_by_tfp, draw_from_noise])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_samples_have_the_theorys_mean_and_variance(draw, temperature):
    output = random(1, 2 * 15)
    logits, mean, log_std = np.moveaxis(output.astype(np.float64).reshape(2, 3, 5), 1, 0)
    pi = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=1, keepdims=True)
    variance = np.exp(2 * log_std) * temperature  # the standard deviation grows with the root of the temperature
    expected = (pi * mean).sum(axis=1)
    expected_variance = (pi * (variance + mean**2)).sum(axis=1) - expected**2
    draws = draw(np.repeat(output, 200_000, axis=0), temperature)
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=5 * np.sqrt(expected_variance.max() / 200_000))
    np.testing.assert_allclose(draws.var(axis=0), expected_variance, rtol=0.03)


@pytest.mark.parametrize("draw", [draw_by_tfp, draw_from_noise])
def test_temperature_near_zero_leaves_the_likeliest_mean(draw):
    output = random(1, 2 * 15)
    logits, mean, _ = np.moveaxis(output.reshape(2, 3, 5), 1, 0)
    draws = draw(np.repeat(output, 100, axis=0), 1e-6)
    np.testing.assert_allclose(draws, np.tile(mean[np.arange(2), logits.argmax(axis=1)], (100, 1)), atol=0.02)


def test_both_samplers_have_the_same_quantiles():
    output = np.repeat(random(1, 15, seed=8), 200_000, axis=0)
    ours, tfps = draw_from_noise(output, 1.25)[:, 0], draw_by_tfp(output, 1.25)[:, 0]
    levels = np.linspace(0.02, 0.98, 25)
    for level, value in zip(levels, np.quantile(tfps, levels)):
        assert (ours < value).mean() == pytest.approx(level, abs=0.006)


@pytest.mark.parametrize("dimension", [0, 3, 31])
def test_dreams_have_a_mixture_for_each_dimension(dimension):
    """Changing a dimension's fifteen numbers changes samples of that dimension alone."""
    output, choice, noise = random(1, 32 * 15), random(1, 32, seed=1), random(1, 32, seed=2)
    changed = output.copy()
    changed[:, dimension * 15 : (dimension + 1) * 15] += random(15, seed=2)
    before, after = (sample(tf.constant(numbers), 5, 1.0, choice, noise).numpy()[0] for numbers in (output, changed))
    assert np.flatnonzero(before != after).tolist() == [dimension]


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
    np.testing.assert_allclose(ours(x, zeros, zeros)[0], theirs(x), atol=1e-6)


def sequence(model, z, action):
    """M's output after each step, from zero state."""
    zeros = tf.zeros((len(z), model.units))
    return model.output_layer(model.lstm(tf.concat([z, action], axis=2), zeros, zeros)[0]).numpy()


def by_steps(lstm, x, h, c, reset):
    """What the layer computes, step by step and with TensorFlow's own gradients."""
    every_h = []
    for t in range(x.shape[1]):
        keep = 1.0 - reset[:, t : t + 1]
        h, c = lstm.step(x[:, t], h * keep, c * keep)
        every_h.append(h)
    return tf.stack(every_h, axis=1), (h, c)


def test_the_lstms_own_gradient_is_the_right_one():
    lstm = LSTM(3, 4)
    x, h, c = tf.constant(random(2, 6, 3)), tf.constant(random(2, 4, seed=1)), tf.constant(random(2, 4, seed=2))
    reset = np.zeros((2, 6), np.float32)
    reset[0, 3] = reset[1, 0] = 1
    weights = random(2, 6, 4, seed=3)
    results = []
    for compute in (lambda: lstm(x, h, c, tf.constant(reset)), lambda: by_steps(lstm, x, h, c, reset)):
        with tf.GradientTape() as tape:
            tape.watch([x, h, c])
            every_h, (last_h, last_c) = compute()
            total = tf.reduce_sum(every_h * weights) + tf.reduce_sum(2 * last_h + 3 * last_c)
        results.append([every_h, last_h, last_c, *tape.gradient(total, [lstm.kernel, lstm.bias, x, h, c])])
    for ours, expected in zip(*results):
        np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_products_in_bfloat16_stay_near_float32():
    exact, rounded = LSTM(35, 64), LSTM(35, 64, "mixed_bfloat16")
    rounded.kernel.assign(exact.kernel)
    rounded.bias.assign(exact.bias)
    x, zeros = random(4, 30, 35), tf.zeros((4, 64))
    np.testing.assert_allclose(rounded(x, zeros, zeros)[0], exact(x, zeros, zeros)[0], atol=0.02)


def test_a_sequence_equals_its_steps(model):
    z, action = random(2, 5, 32), random(2, 5, 3, seed=1)
    state = model.initial(z[:, 0], NONE)
    for t in range(5):
        following = z[:, t + 1] if t < 4 else z[:, 0]
        state = model.observe(state, action[:, t], following, NONE)
    np.testing.assert_allclose(model.output_layer(state.h), sequence(model, z, action)[:, -1], atol=1e-5)


def test_the_loss_pairs_each_z_and_action_with_the_next_z(model):
    """Against an off-by-one: z_t and a_t predict z_{t+1}; the last action and the first z as a target play no part."""
    mu, action = tf.constant(random(1, 4, 32)), tf.constant(random(1, 4, 3, seed=1))
    logvar, noise = tf.fill((1, 4, 32), -30.0), tf.zeros((1, 4, 32))
    with tf.GradientTape() as tape:
        tape.watch(action)
        loss = model.loss_terms(as_batch(mu, logvar, action), noise)[0]["loss"]
    reach = np.abs(tape.gradient(loss, action).numpy()).sum(axis=(0, 2))
    assert (reach[:3] > 0).all()
    assert reach[3] == 0
    output = sequence(model, mu[:, :3], action[:, :3])
    assert float(loss) == pytest.approx(-numpy_log_prob(output, mu[:, 1:].numpy(), 5).mean(), abs=1e-5)


def test_the_loss_samples_z_with_the_posteriors_deviation(model):
    mu, action, noise = random(1, 3, 32), random(1, 3, 3, seed=1), random(1, 3, 32, seed=2)
    logvar = random(1, 3, 32, seed=3)
    sampled = model.loss_terms(as_batch(mu, logvar, action), noise)[0]["loss"]
    by_hand = model.loss_terms(as_batch(mu + np.exp(0.5 * logvar) * noise, logvar, action), np.zeros_like(noise))[0]["loss"]
    assert float(sampled) == pytest.approx(float(by_hand), abs=1e-5)


@pytest.fixture(scope="module")
def mortal():
    """A small M with restart, with a weight of 10."""
    keras.utils.set_random_seed(0)
    made = MDNRNN(4, 1, 8, 2, restart=True, restart_weight=10.0, step_reward=1.0)
    made.output_layer.bias.assign(random(1 + 4 * 6, seed=5))
    return made


def test_the_loss_of_death_against_numpy(mortal):
    """State set to zero where restart is 1, restart an input, the next restart the target, weighted 10 to 1, but for an episode
    that was cut, which teaches nothing of death; state carried in, and out after the last step."""
    mu, logvar, action, noise = (random(2, 6, size, seed=seed) for seed, size in enumerate((4, 4, 1, 4)))
    restart = np.zeros((2, 6), np.float32)
    restart[0, 3] = restart[1, 0] = restart[1, 5] = restart[0, 5] = 1
    done = np.zeros((2, 6), np.float32)
    done[0, 2] = done[1, 4] = 1  # and not [0, 4]: there a limit of steps came first
    h, c = tf.constant(random(2, 8, seed=6)), tf.constant(random(2, 8, seed=7))
    terms, carried = mortal.loss_terms(as_batch(mu, logvar, action, restart, done=done), noise, (h, c))
    z = mu + np.exp(logvar / 2) * noise
    z_losses, restart_losses = [], []
    for t in range(5):
        keep = 1 - restart[:, t : t + 1]
        h, c = mortal.lstm.step(tf.concat([z[:, t], action[:, t], restart[:, t : t + 1]], axis=1), h * keep, c * keep)
        output = mortal.output_layer(h).numpy().astype(np.float64)
        z_losses.append(-numpy_log_prob(output[:, 1:].astype(np.float32), z[:, t + 1], 2))
        p, dead = 1 / (1 + np.exp(-output[:, 0])), restart[:, t + 1]
        known = 1 - dead * (1 - done[:, t])
        restart_losses.append(-known * (10 * dead * np.log(p) + (1 - dead) * np.log(1 - p)))
    assert float(terms["z"]) == pytest.approx(np.mean(z_losses), abs=1e-5)
    assert float(terms["restart"]) == pytest.approx(np.mean(restart_losses), abs=1e-5)
    assert float(terms["loss"]) == pytest.approx(np.mean(z_losses) + np.mean(restart_losses), abs=1e-5)
    np.testing.assert_allclose(carried[0], h, atol=1e-6)
    np.testing.assert_allclose(carried[1], c, atol=1e-6)


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_privileged_is_a_linear_function_of_what_c_sees(restart, tmp_path):
    """Of each frame's z and the h before it, and h is 0 at an episode's first frame; nothing of the batch's first frame, whose h is not
    known."""
    told = np.random.default_rng(5).integers(0, 2, (2, 6, 3)).astype(np.uint8)
    plain, keen = (MDNRNN(4, 1, 8, 2, restart=restart, privileged=3, beta_privileged=beta) for beta in (0.0, 0.5))
    assert len(keen.weights) == len(plain.weights) + 2  # without a weight for it M has no head for it
    batch = as_batch(random(2, 6, 4), random(2, 6, 4, seed=1), random(2, 6, 1, seed=2), done=np.zeros((2, 6), np.float32))
    first = np.zeros((2, 6), np.float32)
    first[1, 3] = 1
    batch, noise = batch._replace(first=first), random(2, 6, 4, seed=3)
    without = keen.loss_terms(batch, noise)[0]  # as scored: nobody tells
    terms = keen.loss_terms(batch._replace(privileged=told), noise)[0]
    assert "privileged" not in without and "privileged" not in plain.loss_terms(batch._replace(privileged=told), noise)[0]
    states = keen.follow(batch, noise)
    logits = (tf.concat([states.z, states.h], axis=-1) @ keen.teller.kernel + keen.teller.bias).numpy()
    expected = np.where(told == 1, np.logaddexp(0, -logits), np.logaddexp(0, logits))[:, 1:].sum(-1).mean()
    assert float(terms["privileged"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(float(without["loss"]) + 0.5 * expected, rel=1e-5)
    with tf.GradientTape() as tape:
        loss = keen.loss_terms(batch._replace(privileged=told), noise)[0]["privileged"]
    assert np.abs(tape.gradient(loss, keen.lstm.trainable_variables[0])).max() > 0

    save_weights(tmp_path / "plain.npz", plain, {})
    assign_weights(tmp_path / "plain.npz", load_arrays(tmp_path / "plain.npz")[0], keen, new="privileged")
    np.testing.assert_array_equal(keen.output_layer.kernel, plain.output_layer.kernel)


def test_what_was_before_a_restart_is_forgotten(mortal):
    """The loss of what follows a restart does not depend on what came before it."""
    mu, action = tf.constant(random(1, 6, 4)), tf.constant(random(1, 6, 1, seed=1))
    restart = tf.constant([[0.0, 0, 0, 1, 0, 0]])
    x = tf.concat([mu, action, restart[..., None]], axis=2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        every_h, _ = mortal.lstm(x, tf.ones((1, 8)), tf.ones((1, 8)), restart)
        total = tf.reduce_sum(every_h[:, 3:])
    reach = np.abs(tape.gradient(total, x).numpy()).sum(axis=(0, 2))
    assert (reach[:3] == 0).all()
    assert (reach[3:] > 0).all()


def test_restart_is_one_at_an_episodes_first_step_only(mortal):
    state = mortal.initial(tf.constant(random(3, 4)), NONE)
    assert (state.restart.numpy() == 1).all() and (state.h.numpy() == 0).all() and (state.c.numpy() == 0).all()
    following = mortal.observe(state, tf.constant(random(3, 1)), tf.constant(random(3, 4, seed=1)), NONE)
    assert (following.restart.numpy() == 0).all()
    without = State(state.z, state.h, state.c, tf.zeros((3, 1)))
    assert not np.allclose(mortal.advance(state, tf.zeros((3, 1)))[0], mortal.advance(without, tf.zeros((3, 1)))[0])


def test_imagining_moves_h_as_observing_does_and_invents_z(model):
    state = model.observe(model.initial(random(4, 32), NONE), random(4, 3), random(4, 32, seed=1), NONE)
    action, noise, other = random(4, 3, seed=2), random(4, 64, seed=3), random(4, 64, seed=4)
    dreamt, reward, goes_on, over = model.imagine(state, action, 1.0, noise)
    seen = model.observe(state, action, random(4, 32, seed=3), NONE)
    np.testing.assert_allclose(dreamt.h, seen.h, atol=1e-6)
    assert dreamt.z.shape == (4, 32)
    assert (reward.numpy() == 0).all() and (goes_on.numpy() == 1).all() and not over.numpy().any()
    np.testing.assert_array_equal(dreamt.z, model.imagine(state, action, 1.0, noise)[0].z)
    assert not np.array_equal(dreamt.z, model.imagine(state, action, 1.0, other)[0].z)


def test_features_come_in_the_originals_order():
    state = State(tf.constant([[1.0]]), tf.constant([[2.0, 3.0]]), tf.constant([[4.0, 5.0]]), tf.constant([[1.0]]))
    expected = {"z": [1], "zh": [1, 2, 3], "zc": [1, 4, 5], "zch": [1, 4, 5, 2, 3]}
    small = MDNRNN(z_size=1, units=2)
    for names, values in expected.items():
        assert small.features(state, names).numpy()[0].tolist() == values
        assert small.feature_size(names) == len(values)


def test_what_c_sees_of_many_moments_is_what_it_sees_of_each(model):
    """A critic learns from sequences, too, not from dreams alone."""
    states = model.follow(as_batch(random(2, 5, 32), random(2, 5, 32, seed=1), random(2, 5, 3, seed=2)), tf.zeros((2, 5, 32)))
    features = model.features(states, "zch")
    for step in range(5):
        state = tf.nest.map_structure(lambda part, at=step: part[:, at], states)
        np.testing.assert_array_equal(features[:, step], model.features(state, "zch"))


def test_weights_come_back_and_others_are_named(model, tmp_path, task):
    paper, doom = task.scales["paper"], get_task("doom")
    save_weights(tmp_path / "m.npz", model, memory_meta(task, paper))
    back = load_memory(tmp_path / "m.npz", task, paper)
    z, action = random(1, 3, 32), random(1, 3, 3)
    np.testing.assert_array_equal(sequence(back, z, action), sequence(model, z, action))
    wide = dataclasses.replace(paper, vae=dataclasses.replace(paper.vae, z_size=64))
    with pytest.raises(UserError, match="z_size 32, this run needs 64"):
        load_memory(tmp_path / "m.npz", task, wide)
    large = dataclasses.replace(paper, rnn=dataclasses.replace(paper.rnn, units=512))
    with pytest.raises(UserError, match="units 256, this run needs 512"):
        load_memory(tmp_path / "m.npz", task, large)
    with pytest.raises(UserError, match="task carracing, this run needs doom"):
        load_memory(tmp_path / "m.npz", doom, doom.scales["paper"])


def test_the_learning_rate_falls_as_the_originals():
    rnn = get_task("doom").scales["paper"].rnn
    optimizer = make_optimizer(rnn)
    for step in (0, 1000, 24400):
        optimizer.iterations.assign(step)
        expected = 1e-5 + (1e-3 - 1e-5) * 0.99999**step
        assert float(optimizer.learning_rate) == pytest.approx(expected, rel=1e-4)
    assert float(make_optimizer(get_task("carracing").scales["paper"].rnn).learning_rate) == pytest.approx(1e-3)


def test_state_is_carried_from_window_to_window_and_not_into_an_epoch(mortal):
    """Two windows in two steps see what one step over both does, but for the prediction between them."""
    rnn = dataclasses.replace(get_task("doom").scales["smoke"].rnn, batch=2, units=8)
    carried = make_carried(mortal, rnn)
    step = make_step(mortal, keras.optimizers.SGD(0.0), rnn.grad_clip, carried)
    mu, logvar, action = (tf.constant(random(2, 10, size, seed=seed)) for seed, size in enumerate((4, 4, 1)))
    restart, seed = tf.zeros((2, 10)), tf.constant([1, 2])
    batch = as_batch(mu, logvar, action)
    step(*batch, seed)
    first = [variable.numpy() for variable in carried]
    step(*batch._replace(fresh=tf.constant(False)), seed)
    second = [variable.numpy() for variable in carried]
    step(*batch, seed)
    np.testing.assert_allclose([variable.numpy() for variable in carried], first, atol=1e-6)
    assert np.abs(np.subtract(second, first)).max() > 1e-4
    noise = tf.random.stateless_normal((2, 10, 4), seed)
    expected = mortal.loss_terms(as_batch(mu, logvar, action, restart), noise, tuple(map(tf.constant, first)))[1]
    np.testing.assert_allclose(second, expected, atol=1e-6)


def test_gradients_are_clipped_element_by_element(mortal):
    """Not by norm, and not left alone: an SGD step of rate 1 moves each weight by its own gradient, at most by the limit."""
    rnn = dataclasses.replace(get_task("doom").scales["smoke"].rnn, batch=2, units=8, sequences="episodes", grad_clip=1e-3)
    batch = as_batch(*(tf.constant(random(2, 10, size, seed=seed)) for seed, size in enumerate((4, 4, 1))))
    seed = tf.constant([1, 2])
    with tf.GradientTape() as tape:
        loss = mortal.loss_terms(batch, tf.random.stateless_normal((2, 10, 4), seed))[0]["loss"]
    exact = [gradient.numpy() for gradient in tape.gradient(loss, mortal.trainable_variables)]
    before = [np.asarray(variable) for variable in mortal.trainable_variables]
    make_step(mortal, keras.optimizers.SGD(1.0), rnn.grad_clip)(*batch, seed)
    for variable, was, gradient in zip(mortal.trainable_variables, before, exact):
        np.testing.assert_allclose(was - np.asarray(variable), np.clip(gradient, -1e-3, 1e-3), atol=2e-7)
        variable.assign(was)
    every = np.concatenate([gradient.ravel() for gradient in exact])
    assert (np.abs(every) > 1e-3).mean() > 0.1 and (np.abs(every) < 1e-3).mean() > 0.1


def test_biases_start_glorot_uniform_as_tf1_left_them(model):
    for bias in (model.lstm.bias, model.output_layer.bias):
        values, limit = np.asarray(bias), np.sqrt(3 / bias.shape[0])
        assert 0.9 * limit < np.abs(values).max() <= limit
        assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
