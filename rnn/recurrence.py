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


def mixed(sums: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """A hidden layer's sums [B, hidden] -> its values."""
    return tf.nn.silu(normed(sums, scale))


def gated(sums: tf.Tensor, h: tf.Tensor, scale: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """The GRU's sums [B, 3 * units] and its h [B, units] -> the next h.

    Normalised as Dreamer's, the update gate's sum lowered by 1, so that at first it keeps more than it takes.
    """
    reset, candidate, update = tf.split(normed(sums, scale) + bias, 3, axis=-1)
    update = tf.sigmoid(update - 1.0)
    return update * tf.tanh(tf.sigmoid(reset) * candidate) + (1.0 - update) * h


def next_h(state: State, action: tf.Tensor, scales: Scales, times: Product) -> tf.Tensor:
    """The GRU: a state [B, ...] and the action's part [B, hidden] -> the next h [B, units]."""
    seen = mixed(times(0, state.s) + action, scales.s)
    return gated(times(1, tf.concat([seen, state.h], axis=-1)), state.h, scales.gru, scales.gru_bias)


def posterior_logits(h: tf.Tensor, embedded: tf.Tensor, scales: Scales, times: Product) -> tf.Tensor:
    """h [B, units] and the observation's part [B, hidden] -> the posterior's logits [B, groups * classes]."""
    return times(3, mixed(times(2, h) + embedded, scales.posterior)) + scales.logits_bias


class Trace(NamedTuple):
    """What the gradient needs of each step, [T, B, ...].

    Attributes:
        s, joint, h, hidden: what the kernels were multiplied with, in their order.
        action_sums, gru_sums, posterior_sums, logits: what came of it, with all that was added before the next function.
    """

    s: tf.Tensor
    joint: tf.Tensor
    h: tf.Tensor
    hidden: tf.Tensor
    action_sums: tf.Tensor
    gru_sums: tf.Tensor
    posterior_sums: tf.Tensor
    logits: tf.Tensor


def unroll(kernels: Kernels, scales: Scales, start: State, inputs: Inputs, groups: int, unimix: float) -> Steps:
    """The recurrence along T steps, [T, B, ...].

    Left to itself, the gradient of a loop keeps each number of it, and adds up the kernels' gradients step by step, each time through all
    of their memory. Here only the sums are kept, and the kernels' gradients are one product each over all steps (as in rnn/lstm.py).

    Args:
        kernels: in the type to compute products in.
        scales, start, inputs: float32; of `inputs` only action and embedded get a gradient, of `start` nothing does: a carried state is a
            value, not something to learn.
        groups, unimix: of s.
    """
    count = len(kernels)

    @tf.custom_gradient
    def run(*flat: tf.Tensor) -> tuple:
        own, vectors = Kernels(*flat[:count]), Scales(*flat[count:-2])
        taken = inputs._replace(action=flat[-2], embedded=flat[-1])
        s, trace = _loop(own, vectors, start, taken, groups, unimix)

        def gradient(*d_steps: tf.Tensor) -> tuple:
            d_sums, d_vectors = _back(own, vectors, taken, trace, Steps(*d_steps), groups, unimix)
            d_kernels = [_outer(x, d, own.s.dtype) for x, d in zip(trace[:count], d_sums)]
            return (*d_kernels, *d_vectors, d_sums[0], d_sums[2])

        return (trace.h, s, trace.logits), gradient

    return Steps(*run(*kernels, *scales, inputs.action, inputs.embedded))


def _outer(x: tf.Tensor, d: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The gradient of a kernel: what it was multiplied with [T, B, m], and the gradients of the sums [T, B, n] -> [m, n]."""
    flat = (tf.cast(tf.reshape(part, (-1, part.shape[-1])), dtype) for part in (x, d))
    return tf.matmul(*flat, transpose_a=True)


def _loop(
    kernels: Kernels, scales: Scales, start: State, inputs: Inputs, groups: int, unimix: float
) -> tuple[tf.Tensor, Trace]:
    """The loop of `unroll`: s of each step, and what the gradient needs."""
    count, rows, hidden = inputs.action.shape
    units, stochastic = start.h.shape[1], start.s.shape[1]
    reading = [tf.TensorArray(tf.float32, count).unstack(part) for part in inputs]
    sizes = (stochastic, *Trace(stochastic, hidden + units, units, hidden, hidden, 3 * units, hidden, stochastic))
    writing = [tf.TensorArray(tf.float32, count, element_shape=(rows, size)) for size in sizes]

    def step(t: tf.Tensor, h: tf.Tensor, s: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        action, embedded, keep, noise = (array.read(t) for array in reading)
        before = State(h * keep, s * keep)
        factors: dict[int, tf.Tensor] = {}
        sums: dict[int, tf.Tensor] = {}

        def times(number: int, x: tf.Tensor) -> tf.Tensor:
            factors[number], sums[number] = x, product(x, kernels[number])
            return sums[number]

        h = next_h(before, action, scales, times)
        logits = posterior_logits(h, embedded, scales, times)
        s = distribution(logits, groups, unimix).sample(noise)
        trace = (*(factors[n] for n in range(4)), sums[0] + action, sums[1], sums[2] + embedded, logits)
        return (t + 1, h, s, *(array.write(t, value) for array, value in zip(arrays, (s, *trace))))

    first = (tf.constant(0), tf.stop_gradient(start.h), tf.stop_gradient(start.s), *writing)
    _, _, _, *arrays = tf.while_loop(lambda t, *_: t < count, step, first, maximum_iterations=count)
    s, *trace = (array.stack() for array in arrays)
    return s, Trace(*trace)


def _back(
    kernels: Kernels, scales: Scales, inputs: Inputs, trace: Trace, d_steps: Steps, groups: int, unimix: float
) -> tuple[list[tf.Tensor], Scales]:
    """The loop of `unroll` backwards: the gradients of the kernels' sums [T, B, ...], and those of the scales."""
    count, rows, hidden = inputs.action.shape
    units, stochastic = trace.h.shape[2], trace.s.shape[2]
    read = (inputs.keep, inputs.noise, trace.joint[:, :, hidden:], *trace[4:], *d_steps)
    reading = [tf.TensorArray(tf.float32, count).unstack(part) for part in read]
    writing = [tf.TensorArray(tf.float32, count, element_shape=(rows, size)) for size in (hidden, 3 * units, hidden, stochastic)]
    turned = Kernels(*map(tf.transpose, kernels))

    def through(function: Callable[..., tf.Tensor], arguments: tuple[tf.Tensor, ...], d: tf.Tensor) -> list[tf.Tensor]:
        """The gradients of a function's arguments, given that of its value."""
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = function(*arguments)
        return tape.gradient(value, arguments, output_gradients=d)

    def step(t: tf.Tensor, d_h: tf.Tensor, d_s: tf.Tensor, d_scales: Scales, *arrays: tf.TensorArray) -> tuple:
        keep, noise, h, action_sums, gru_sums, posterior_sums, logits, d_own_h, d_own_s, d_own_logits = (a.read(t) for a in reading)
        (d_logits,) = through(lambda logits: distribution(logits, groups, unimix).sample(noise), (logits,), d_s + d_own_s)
        d_logits += d_own_logits
        d_hidden = product(d_logits, turned.logits)
        d_posterior, d_posterior_scale = through(mixed, (posterior_sums, scales.posterior), d_hidden)
        d_h += d_own_h + product(d_posterior, turned.posterior)
        d_gru, d_before, d_gru_scale, d_gru_bias = through(gated, (gru_sums, h, scales.gru, scales.gru_bias), d_h)
        d_mixed, d_joint_h = tf.split(product(d_gru, turned.gru), [hidden, units], axis=-1)
        d_action, d_s_scale = through(mixed, (action_sums, scales.s), d_mixed)
        more = Scales(d_s_scale, d_gru_scale, d_posterior_scale, d_gru_bias, tf.reduce_sum(d_logits, axis=0))
        written = (d_action, d_gru, d_posterior, d_logits)
        return (
            t - 1,
            (d_before + d_joint_h) * keep,
            product(d_action, turned.s) * keep,
            Scales(*(total + d for total, d in zip(d_scales, more))),
            *(array.write(t, value) for array, value in zip(arrays, written)),
        )

    nothing = (tf.zeros((rows, units)), tf.zeros((rows, stochastic)), Scales(*map(tf.zeros_like, scales)))
    last = (tf.constant(count - 1), *nothing, *writing)
    _, _, _, d_scales, *arrays = tf.while_loop(lambda t, *_: t >= 0, step, last, maximum_iterations=count)
    return [array.stack() for array in arrays], d_scales
