"""The recurrence of the RSSM (rnn/rssm.py): the GRU, the posterior and its draw, step by step and along sequences.

Along sequences with a gradient of its own: left to itself, the gradient of a loop adds up the kernels' gradients step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from rnn.heads import OneHot
from rnn.lstm import product


class State(NamedTuple):
    """What M remembers in each of B lanes, float32: the deterministic h [B, units], the stochastic s, one-hot [B, groups * classes]."""

    h: tf.Tensor
    s: tf.Tensor


class Kernels(NamedTuple):
    """The matrices of the recurrence: of s, of the GRU, of h on its way to the posterior, and of the posterior's logits."""

    s: tf.Tensor
    gru: tf.Tensor
    posterior: tf.Tensor
    logits: tf.Tensor


class Scales(NamedTuple):
    """The vectors of the recurrence: the scales of its three normalisations, and the biases of the GRU and of the logits."""

    s: tf.Tensor
    gru: tf.Tensor
    posterior: tf.Tensor
    gru_bias: tf.Tensor
    logits_bias: tf.Tensor


class Inputs(NamedTuple):
    """What comes into the recurrence at a step [B, ...], or at each of T steps [T, B, ...].

    Attributes:
        action: the action's part of the sum that the GRU's input is made of, [.., hidden].
        embedded: the observation's part of the sum that the posterior is made of, [.., hidden].
        keep: 0 where the state before the step is forgotten, else 1: [.., 1].
        noise: standard normal, decides s: [.., groups].
    """

    action: tf.Tensor
    embedded: tf.Tensor
    keep: tf.Tensor
    noise: tf.Tensor


Product = Callable[[int, tf.Tensor], tf.Tensor]  # number of the kernel, what is multiplied by it


def normed(x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """RMS normalisation."""
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + 1e-4) * scale


class Steps(NamedTuple):
    """h, s and the posterior's logits at each step, [T, B, ...] or [B, T, ...]."""

    h: tf.Tensor
    s: tf.Tensor
    logits: tf.Tensor


def distribution(logits: tf.Tensor, groups: int, unimix: float, temperature: float | tf.Tensor = 1.0) -> OneHot:
    """Flat logits [..., groups * classes] -> the distribution of s."""
    classes = logits.shape[-1] // groups
    return OneHot(tf.reshape(logits, tf.concat([tf.shape(logits)[:-1], [groups, classes]], axis=0)), unimix, temperature)


def next_h(state: State, action: tf.Tensor, scales: Scales, times: Product) -> tf.Tensor:
    """The GRU: a state [B, ...] and the action's part [B, hidden] -> the next h [B, units].

    Normalised as Dreamer's, the update gate's sum lowered by 1, so that at first it keeps more than it takes.
    """
    mixed = tf.nn.silu(normed(times(0, state.s) + action, scales.s))
    sums = normed(times(1, tf.concat([mixed, state.h], axis=-1)), scales.gru) + scales.gru_bias
    reset, candidate, update = tf.split(sums, 3, axis=-1)
    update = tf.sigmoid(update - 1.0)
    return update * tf.tanh(tf.sigmoid(reset) * candidate) + (1.0 - update) * state.h


def posterior_logits(h: tf.Tensor, embedded: tf.Tensor, scales: Scales, times: Product) -> tuple[tf.Tensor, tf.Tensor]:
    """h [B, units] and the observation's part [B, hidden] -> the posterior's logits [B, groups * classes], and what they are made of."""
    mixed = tf.nn.silu(normed(times(2, h) + embedded, scales.posterior))
    return times(3, mixed) + scales.logits_bias, mixed


def unroll(kernels: Kernels, scales: Scales, start: State, inputs: Inputs, groups: int, unimix: float) -> Steps:
    """The recurrence along T steps, [T, B, ...].

    Left to itself, the gradient of a loop adds up the kernels' gradients step by step, each time through all of their memory. Here the
    loop is differentiated for the sums that the kernels make alone, and the kernels' gradients are one product each over all steps. (As
    in rnn/lstm.py, but that TensorFlow differentiates the loop.)

    Args:
        kernels: in the type to compute products in.
        scales, start, inputs: float32; of `inputs` only action and embedded get a gradient, of `start` nothing does.
        groups, unimix: of s.
    """
    sizes = [len(kernels), len(scales)]

    @tf.custom_gradient
    def run(*flat: tf.Tensor) -> tuple:
        own = Kernels(*map(tf.stop_gradient, flat[: sizes[0]]))
        vectors = Scales(*flat[sizes[0] : sum(sizes)])
        action, embedded = flat[sum(sizes) :]
        h_sums, s_sums = (tf.zeros((*action.shape[:2], kernel.shape[1])) for kernel in (own.gru, own.logits))
        watched = [*vectors, action, embedded, h_sums, s_sums]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            steps, before = _loop(own, vectors, start, inputs._replace(action=action, embedded=embedded), h_sums, s_sums, groups, unimix)

        def gradient(*d_steps: tf.Tensor) -> tuple:
            *d_vectors, d_action, d_embedded, d_gru, d_logits = tape.gradient(steps, watched, output_gradients=Steps(*d_steps))
            d_kernels = [_outer(x, d, own.s.dtype) for x, d in zip(before, (d_action, d_gru, d_embedded, d_logits))]
            return (*d_kernels, *d_vectors, d_action, d_embedded)

        return tuple(steps), gradient

    return Steps(*run(*kernels, *scales, inputs.action, inputs.embedded))


def _outer(x: tf.Tensor, d: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The gradient of a kernel: what it was multiplied with [T, B, m], and the gradients of the sums [T, B, n] -> [m, n]."""
    flat = (tf.cast(tf.reshape(part, (-1, part.shape[-1])), dtype) for part in (x, d))
    return tf.matmul(*flat, transpose_a=True)


def _loop(
    kernels: Kernels, scales: Scales, start: State, inputs: Inputs, h_sums: tf.Tensor, s_sums: tf.Tensor, groups: int, unimix: float
) -> tuple[Steps, tuple[tf.Tensor, ...]]:
    """The loop of `unroll`.

    Args:
        h_sums, s_sums: added to the products of the kernels gru and logits, [T, B, 3 * units] and [T, B, groups * classes]: zeros, whose
            gradients are those of these sums.

    Returns:
        The states and logits, and what each of the kernels was multiplied with: [T, B, ...].
    """
    count = inputs.action.shape[0]
    rows = inputs.action.shape[1]
    units, stochastic, hidden = start.h.shape[1], start.s.shape[1], inputs.action.shape[2]
    reading = [tf.TensorArray(tf.float32, count, clear_after_read=False).unstack(part) for part in (*inputs, h_sums, s_sums)]
    sizes = (units, stochastic, stochastic, stochastic, hidden + units, hidden)
    writing = [tf.TensorArray(tf.float32, count, element_shape=(rows, size)) for size in sizes]

    def step(t: tf.Tensor, h: tf.Tensor, s: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        action, embedded, keep, noise, h_sum, s_sum = (array.read(t) for array in reading)
        before = State(h * keep, s * keep)
        taken: dict[int, tf.Tensor] = {}

        def times(number: int, x: tf.Tensor) -> tf.Tensor:
            taken[number] = x
            return product(x, kernels[number]) + {1: h_sum, 3: s_sum}.get(number, 0.0)

        h = next_h(before, action, scales, times)
        logits, mixed = posterior_logits(h, embedded, scales, times)
        s = distribution(logits, groups, unimix).sample(noise)
        written = (h, s, logits, before.s, taken[1], mixed)
        return (t + 1, h, s, *(array.write(t, value) for array, value in zip(arrays, written)))

    # A carried state is a value, not something to learn.
    first = (tf.constant(0), tf.stop_gradient(start.h), tf.stop_gradient(start.s))
    _, _, _, *arrays = tf.while_loop(lambda t, *_: t < count, step, (*first, *writing), maximum_iterations=count)
    h, s, logits, *taken = (array.stack() for array in arrays)
    return Steps(h, s, logits), (taken[0], taken[1], h, taken[2])
