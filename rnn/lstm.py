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
        self._compute = tf.bfloat16 if dtype == "mixed_bfloat16" else tf.float32
        self.kernel = self.add_weight(shape=(inputs + units, 4 * units), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(4 * units,), initializer="glorot_uniform", name="bias")

    def step(self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The next h and c after the input x [B, inputs]."""
        kernel = tf.cast(self.kernel, self._compute)
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
        # The inputs of all steps go through one large product; only the recurrent product is left in the loop.
        kernel = tf.cast(self.kernel, self._compute)
        projected = product(tf.transpose(x, (1, 0, 2)), kernel[: self.inputs]) + self.bias
        keep = tf.ones(tf.shape(projected)[:2]) if reset is None else 1.0 - tf.transpose(reset)
        every_h, h, c = recur(projected, kernel[self.inputs :], h, c, keep[..., None])
        return tf.transpose(every_h, (1, 0, 2)), (h, c)


@tf.custom_gradient
def recur(
    projected: tf.Tensor, kernel: tf.Tensor, h: tf.Tensor, c: tf.Tensor, keep: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], Callable[..., tuple]]:
    """The recurrence. Left to itself, the gradient of a loop adds up the kernel's gradient step by step, each time through
    all of its memory; here it is one product over all steps at the end.

    Args:
        projected: the inputs' part of the gates' sums, [T, B, 4 * units].
        kernel: the part for h, [units, 4 * units], in the type to compute products in.
        h, c: the state before the first step, [B, units].
        keep: 0 where h and c are set to zero before the step, else 1: [T, B, 1].

    Returns:
        h after each step [T, B, units], and the last h and c.
    """
    forward, backward = _loops(kernel.dtype)
    # No gradient is taken through the loop itself, and XLA must not be asked to keep what one would need.
    every_h, every_c, gates = forward(*map(tf.stop_gradient, (projected, kernel, h, c, keep)))
    units = h.shape[1]

    def gradient(d_every_h: tf.Tensor, d_h: tf.Tensor, d_c: tf.Tensor) -> tuple:
        c_before = tf.concat([c[None], every_c[:-1]], axis=0)
        d_projected, d_first_h, d_first_c = backward(d_every_h, kernel, d_h, d_c, keep, every_c, c_before, gates)
        h_before = keep * tf.concat([h[None], every_h[:-1]], axis=0)
        flat_h, flat_d = tf.reshape(h_before, (-1, units)), tf.reshape(d_projected, (-1, 4 * units))
        d_kernel = tf.matmul(tf.cast(flat_h, kernel.dtype), tf.cast(flat_d, kernel.dtype), transpose_a=True)
        return d_projected, d_kernel, d_first_h, d_first_c, None

    return (every_h, every_h[-1], every_c[-1]), gradient


def _loops(dtype: tf.DType) -> tuple[Callable[..., tuple], Callable[..., tuple]]:
    """`_forward` and `_backward`, in float32 compiled by XLA: its loop takes two thirds of the time of TensorFlow's, for what lies
    between the products becomes one pass. In bfloat16 TensorFlow's own products are the faster ones on CPUs."""
    return (_forward_compiled, _backward_compiled) if dtype == tf.float32 else (_forward, _backward)


def _forward(projected: tf.Tensor, kernel: tf.Tensor, h: tf.Tensor, c: tf.Tensor, keep: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The loop through time, as in `recur` -> h and c after each step [T, B, units], the gates of each [T, B, 4 * units]."""
    steps = tf.shape(projected)[0]
    rows, units = projected.shape[1], h.shape[1]
    inputs, keeps = _unstack(projected), _unstack(keep)

    def step(t: tf.Tensor, h: tf.Tensor, c: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        kept = keeps.read(t)
        h, c, opened = gate(inputs.read(t) + product(h * kept, kernel), c * kept)
        return t + 1, h, c, *(array.write(t, value) for array, value in zip(arrays, (h, c, tf.concat(opened, axis=1))))

    start = (tf.constant(0), h, c, _array(steps, rows, units), _array(steps, rows, units), _array(steps, rows, 4 * units))
    _, _, _, *arrays = tf.while_loop(lambda t, *_: t < steps, step, start, maximum_iterations=steps)
    return tuple(array.stack() for array in arrays)


def _backward(
    d_every_h: tf.Tensor,
    kernel: tf.Tensor,
    d_h: tf.Tensor,
    d_c: tf.Tensor,
    keep: tf.Tensor,
    every_c: tf.Tensor,
    c_before: tf.Tensor,
    gates: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """The loop back through time: the gradients of the gates' sums [T, B, 4 * units], of the first h and of the first c.

    Args:
        d_every_h, d_h, d_c: the gradients of what `recur` returns.
        kernel, keep: as in `recur`.
        every_c, gates: what `_forward` gave.
        c_before: c before each step, [T, B, units].
    """
    steps = tf.shape(d_every_h)[0]
    d_outputs, keeps, all_c, befores, all_gates = map(_unstack, (d_every_h, keep, every_c, c_before, gates))

    def step(t: tf.Tensor, d_h: tf.Tensor, d_c: tf.Tensor, d_gates: tf.TensorArray) -> tuple:
        kept = keeps.read(t)
        i, j, f, o = tf.split(all_gates.read(t), 4, axis=1)
        tanh_c, before = tf.tanh(all_c.read(t)), kept * befores.read(t)
        d_h = d_h + d_outputs.read(t)
        d_c = d_c + d_h * o * (1.0 - tanh_c * tanh_c)
        sums = [d_c * j * i * (1.0 - i), d_c * i * (1.0 - j * j), d_c * before * f * (1.0 - f), d_h * tanh_c * o * (1.0 - o)]
        d_sums = tf.concat(sums, axis=1)
        return t - 1, kept * product(d_sums, kernel, transpose=True), kept * d_c * f, d_gates.write(t, d_sums)

    start = (steps - 1, d_h, d_c, _array(steps, *gates.shape[1:]))
    _, d_h, d_c, d_gates = tf.while_loop(lambda t, *_: t >= 0, step, start, maximum_iterations=steps)
    return d_gates.stack(), d_h, d_c


_forward_compiled = tf.function(_forward, jit_compile=True)
_backward_compiled = tf.function(_backward, jit_compile=True)


def _array(steps: tf.Tensor, rows: int, size: int) -> tf.TensorArray:
    return tf.TensorArray(tf.float32, steps, clear_after_read=False, element_shape=(rows, size))


def _unstack(tensor: tf.Tensor) -> tf.TensorArray:
    """A tensor's slices along its first axis, as they are cheapest to read in a loop."""
    return tf.TensorArray(tf.float32, tf.shape(tensor)[0], clear_after_read=False).unstack(tensor)
