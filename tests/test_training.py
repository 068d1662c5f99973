"""What is our own in training V and M: layers and an optimizer that compute what Keras' do, faster or more exactly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from env.run.errors import UserError
from env.run.training import adam, train, with_seeds
from vae.vae import Conv, Deconv


@pytest.mark.parametrize("size, kernel", [(1, 5), (5, 5), (13, 6)])
def test_deconvolution_is_keras_own(size, kernel):
    """For a single pixel, where it is a matrix product, and for more."""
    options = {"filters": 4, "kernel_size": kernel, "strides": 2, "activation": "relu", "bias_initializer": "normal"}
    ours, keras_own = Deconv(**options), keras.layers.Conv2DTranspose(**options)
    x = tf.random.stateless_normal((3, size, size, 8), [1, 2])
    ours.build(x.shape), keras_own.build(x.shape)
    keras_own.set_weights(ours.get_weights())
    for training in (False, True):
        gradients = []
        for layer in (ours, keras_own):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=training)
                loss = tf.reduce_sum(tf.square(y))
            gradients.append([y, *tape.gradient(loss, [x, *layer.trainable_variables])])
        for own, keras_value in zip(*gradients):
            np.testing.assert_allclose(own, keras_value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Conv, Deconv])
def test_the_biases_gradient_is_whole_in_bfloat16(kind):
    """TensorFlow's own sum over a batch of frames in bfloat16 loses more than half of it."""
    results = []
    for dtype in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(1)
        layer = kind(4, kernel_size=4, strides=2, dtype=dtype)
        x = tf.random.stateless_uniform((20, 32, 32, 3), [1, 2])
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) + 1.0)
        results.append(tape.gradient(loss, layer.bias).numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=0.01)
    assert results[0] == pytest.approx(np.prod(y.shape[:3]))


def test_adam_is_keras_own():
    """The same variables and moments after 50 steps with a falling learning rate."""
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.9)
    start = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    ours, keras_own = adam(schedule), keras.optimizers.Adam(schedule, epsilon=1e-8)
    variables = [keras.Variable(start), keras.Variable(start)]

    @tf.function
    def step(gradient: tf.Tensor) -> None:
        for optimizer, variable in zip((ours, keras_own), variables):
            optimizer.apply_gradients([(gradient, variable)])

    rng = np.random.default_rng(1)
    for _ in range(50):
        step(tf.constant(rng.standard_normal((5, 7)), tf.float32))
    np.testing.assert_allclose(*(np.asarray(v) for v in variables), atol=1e-5)
    assert not np.allclose(np.asarray(variables[0]), start, atol=0.05)
    for own, theirs in zip(ours.variables, keras_own.variables):
        np.testing.assert_allclose(np.asarray(own), np.asarray(theirs), rtol=1e-4, atol=1e-6)


def test_adams_epsilon_is_tf1s():
    """Where gradients are as small as epsilon itself it decides the step: 1e-8 halves it, Keras' own 1e-7 would leave a tenth."""
    variable, optimizer = keras.Variable(np.zeros(3, np.float32)), adam(0.1)
    optimizer.apply_gradients([(tf.fill((3,), 1e-8), variable)])
    # TF1's form: epsilon meets sqrt(v) before v is corrected for its start at zero.
    rate, v = 0.1 * np.sqrt(1 - 0.999) / (1 - 0.9), (1 - 0.999) * 1e-16
    np.testing.assert_allclose(variable, -rate * (1 - 0.9) * 1e-8 / (np.sqrt(v) + 1e-8), rtol=1e-3)


def test_each_step_has_noise_of_its_own_and_keeps_it_when_resumed():
    def seeds(done, count):
        return [tuple(seed.numpy()) for _, seed in with_seeds((tf.zeros(1) for _ in range(count)), 7, done)]

    whole = seeds(0, 6)
    assert len(set(whole)) == 6 and {run for run, _ in whole} == {7}
    assert seeds(4, 2) == whole[4:]
    pairs = [(*parts, seed) for *parts, seed in with_seeds(iter([(tf.zeros(1), tf.ones(1))]), 7, 0)]
    assert len(pairs[0]) == 3


def test_what_a_training_ended_with_is_known_after_a_kill(tmp_path):
    """Killed between the last checkpoint and the stage's record: nothing is left to train, and the last row is in the log."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.build((None, 1))

    def go(steps=6):
        optimizer = keras.optimizers.SGD(0.1)
        batches = lambda done: ((tf.constant(float(i)),) for i in range(done, 6))  # noqa: E731
        return train(tmp_path, "toy", model, optimizer, lambda x: {"loss": x}, batches, steps, log_every=2)

    assert go()["loss"] == 4.5
    assert go()["loss"] == 4.5
    with pytest.raises(UserError, match="4 steps are asked for, but its checkpoint is of step 6"):
        go(steps=4)
