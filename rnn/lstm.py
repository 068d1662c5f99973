"""The LSTM layer, with the original's weight layout, and a gradient of its own that makes training nearly twice as fast."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf


def product(x: tf.Tensor, kernel: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """x @ kernel, or x @ its transpose, computed in the kernel's type; float32 in and out."""
    y = tf.matmul(tf.cast(x, kernel.dtype), kernel, transpose_b=transpose)
    return tf.cast(y, tf.float32)


def gate(gates: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tuple[tf.Tensor, ...]]:
    """One step of the cell: the gates' sums [B, 4 * units] and c [B, units] -> the next h and c, and the open gates."""
    i, j, f, o = tf.split(gates, 4, axis=1)
    i, j, f, o = tf.sigmoid(i), tf.tanh(j), tf.sigmoid(f + 1.0), tf.sigmoid(o)
    c = c * f + i * j
    return tf.tanh(c) * o, c, (i, j, f, o)


class LSTM(keras.layers.Layer):
    """One LSTM layer.

    One kernel [input + units, 4 * units] in gate order i, j, f, o and a bias [4 * units], with 1 added to the forget gate (TF1's
    LayerNormBasicLSTMCell without layer norm). Both start glorot-uniform: what TF1 does with a variable, the bias too, that names no
    initialiser (original rnn/rnn.py). Keras' own LSTM computes the same function, but keeps two kernels, other gate order and other
    initialisers, and cannot forget in mid-sequence.

    Args:
        inputs: size of the input.
        units: size of h and of c.
        dtype: "float32", or "mixed_bfloat16" to compute matrix products in bfloat16; all else is float32.
    """

    def __init__(self, inputs: int, units: int, dtype: str = "float32") -> None:
        super().__init__(name="lstm", dtype="float32")
        self.inputs, self.units = inputs, units
        self.compute = tf.bfloat16 if dtype == "mixed_bfloat16" else tf.float32
        self.kernel = self.add_weight(shape=(inputs + units, 4 * units), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(4 * units,), initializer="glorot_uniform", name="bias")

    def step(self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The next h and c after the input x [B, inputs]."""
        kernel = tf.cast(self.kernel, self.compute)
        h, c, _ = gate(product(tf.concat([x, h], axis=1), kernel) + self.bias, c)
        return h, c

    def call(
        self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor, reset: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        """A whole sequence.

        Args:
            x: [B, T, inputs].
            h, c: the state before it, [B, units].
            reset: [B, T], 1 where h and c are set to zero before the step, else 0; None for nowhere.

        Returns:
            h after each step, [B, T, units], and h and c after the last one.
        """
        kernel = tf.cast(self.kernel, self.compute)
        x = tf.transpose(x, (1, 0, 2))
        keep = tf.ones(tf.shape(x)[:2]) if reset is None else 1.0 - tf.transpose(reset)
        every_h, h, c = recur(x, kernel, tf.convert_to_tensor(self.bias), h, c, keep[..., None])
        return tf.transpose(every_h, (1, 0, 2)), (h, c)


@tf.custom_gradient
def recur(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, h: tf.Tensor, c: tf.Tensor, keep: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], Callable[..., tuple]]:
    """The recurrence. Left to itself, the gradient of a loop adds up the kernel's gradient step by step, each time through
    all of its memory; here it is one product over all steps at the end.

    Args:
        x: the inputs, [T, B, inputs].
        kernel: [inputs + units, 4 * units], in the type to compute products in.
        bias: [4 * units].
        h, c: the state before the first step, [B, units].
        keep: 0 where h and c are set to zero before the step, else 1: [T, B, 1].

    Returns:
        h after each step [T, B, units], and the last h and c.
    """
    forward, backward = _loops(kernel.dtype)
    inputs, units = x.shape[2], h.shape[1]
    narrow = tf.cast(x, kernel.dtype)
    # No gradient is taken through the loop itself, and XLA must not be asked to keep what one would need.
    every_h, befores, gates, last_c = forward(*map(tf.stop_gradient, (narrow, kernel, bias, h, c, keep)))

    def gradient(d_every_h: tf.Tensor, d_h: tf.Tensor, d_c: tf.Tensor) -> tuple:
        d_sums, d_first_h, d_first_c = backward(d_every_h, kernel[inputs:], d_h, d_c, keep, befores, gates)
        h_before = tf.cast(keep * tf.concat([h[None], every_h[:-1]], axis=0), kernel.dtype)
        # A column of ones: the bias is the weight of an input that is always 1.
        taken = tf.concat([narrow, h_before, tf.ones_like(narrow[..., :1])], axis=2)
        flat = tf.reshape(d_sums, (-1, 4 * units))
        d_weights = tf.matmul(tf.reshape(taken, (-1, inputs + units + 1)), flat, transpose_a=True)
        d_x = tf.reshape(product(flat, kernel[:inputs], transpose=True), tf.shape(x))
        return d_x, d_weights[:-1], tf.cast(d_weights[-1], tf.float32), d_first_h, d_first_c, None

    return (every_h, every_h[-1], last_c), gradient


def _loops(dtype: tf.DType) -> tuple[Callable[..., tuple], Callable[..., tuple]]:
    """`_forward` and `_backward`, in float32 compiled by XLA as a whole: its loop takes two thirds of the time of TensorFlow's. In
    bfloat16 TensorFlow's own products are the faster ones on CPUs, and only what lies between them is compiled."""
    return (_forward_compiled, _backward_compiled) if dtype == tf.float32 else (_forward, _backward)


def _forward(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, h: tf.Tensor, c: tf.Tensor, keep: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The loop through time, as in `recur` -> h after each step and c before it [T, B, units], the gates of each [T, B, 4 * units], and
    the last c."""
    steps = tf.shape(x)[0]
    rows, units = x.shape[1], h.shape[1]

    def step(t: tf.Tensor, h: tf.Tensor, c: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        before = c * keep[t]
        taken = tf.concat([x[t], tf.cast(h * keep[t], kernel.dtype)], axis=1)
        h, c, gates = _cell(tf.matmul(taken, kernel), bias, before)
        return t + 1, h, c, *(array.write(t, value) for array, value in zip(arrays, (h, before, gates)))

    start = (tf.constant(0), h, c, _array(steps, rows, units), _array(steps, rows, units), _array(steps, rows, 4 * units))
    _, _, c, *arrays = tf.while_loop(lambda t, *_: t < steps, step, start, maximum_iterations=steps)
    return *(array.stack() for array in arrays), c


@tf.function(jit_compile=True)
def _cell(sums: tf.Tensor, bias: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Sums without the bias [B, 4 * units], in any type, and c [B, units] -> the next h and c, and the open gates as one tensor."""
    h, c, opened = gate(tf.cast(sums, tf.float32) + bias, c)
    return h, c, tf.concat(opened, axis=1)


def _backward(
    d_every_h: tf.Tensor,
    kernel: tf.Tensor,
    d_h: tf.Tensor,
    d_c: tf.Tensor,
    keep: tf.Tensor,
    befores: tf.Tensor,
    gates: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """The loop back through time: the gradients of the gates' sums [T, B, 4 * units], in the kernel's type, of the first h and of the
    first c.

    Args:
        d_every_h, d_h, d_c: the gradients of what `recur` returns.
        kernel: the part for h, [units, 4 * units].
        keep: as in `recur`.
        befores, gates: what `_forward` gave.
    """
    steps = tf.shape(d_every_h)[0]

    def step(t: tf.Tensor, d_h: tf.Tensor, d_c: tf.Tensor, d_gates: tf.TensorArray) -> tuple:
        d_sums, d_c = _cell_backward(d_h, d_c, d_every_h[t], befores[t], gates[t], kernel.dtype)
        return t - 1, keep[t] * product(d_sums, kernel, transpose=True), keep[t] * d_c, d_gates.write(t, d_sums)

    start = (steps - 1, d_h, d_c, _array(steps, gates.shape[1], gates.shape[2], kernel.dtype))
    _, d_h, d_c, d_gates = tf.while_loop(lambda t, *_: t >= 0, step, start, maximum_iterations=steps)
    return d_gates.stack(), d_h, d_c


@tf.function(jit_compile=True)
def _cell_backward(
    d_h: tf.Tensor, d_c: tf.Tensor, d_output: tf.Tensor, before: tf.Tensor, gates: tf.Tensor, dtype: tf.DType
) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradients of h and c after a step, of h as an output, c before it, and the open gates -> the gradients of the gates' sums,
    in `dtype`, and of c before it."""
    i, j, f, o = tf.split(gates, 4, axis=1)
    tanh_c = tf.tanh(before * f + i * j)
    d_h = d_h + d_output
    d_c = d_c + d_h * o * (1.0 - tanh_c * tanh_c)
    sums = [d_c * j * i * (1.0 - i), d_c * i * (1.0 - j * j), d_c * before * f * (1.0 - f), d_h * tanh_c * o * (1.0 - o)]
    return tf.cast(tf.concat(sums, axis=1), dtype), d_c * f


_forward_compiled = tf.function(_forward, jit_compile=True)
_backward_compiled = tf.function(_backward, jit_compile=True)


def _array(steps: tf.Tensor, rows: int, size: int, dtype: tf.DType = tf.float32) -> tf.TensorArray:
    return tf.TensorArray(dtype, steps, clear_after_read=False, element_shape=(rows, size))
