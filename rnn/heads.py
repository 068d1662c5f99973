"""What a memory or a critic says of something unknown: distributions over it, and the networks that answer with their numbers.

Each distribution is a small class with what it predicts, samples and loses; the numbers that it is made of come from a `network`.
"""

from __future__ import annotations

from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

FARTHEST = 10.0  # the outermost bin of TwoHot, as a symmetric logarithm: a value of about 22,000


class Network(keras.layers.Layer):
    """Hidden layers, each a product, RMS normalisation and SiLU (DreamerV3), and a linear output in float32.

    Args:
        inputs, hidden, outputs: sizes.
        name: of its weights.
        layers: how many hidden layers.
        zero: start with outputs of exactly 0.
        dtype: "float32", or "mixed_bfloat16" for the hidden layers' products.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, name: str, *, layers: int = 1, zero: bool = False, dtype: str = "float32"
    ) -> None:
        super().__init__(name=name, dtype="float32")
        self.hidden: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []
        for number in range(1, layers + 1):
            dense = keras.layers.Dense(hidden, use_bias=False, name=f"{name}_dense{number}", dtype=dtype)
            norm = keras.layers.RMSNormalization(epsilon=1e-4, name=f"{name}_norm{number}", dtype="float32")
            dense.build((None, inputs if number == 1 else hidden))
            norm.build((None, hidden))
            self.hidden.append((dense, norm))
        start = "zeros" if zero else "glorot_uniform"
        self.last = keras.layers.Dense(outputs, name=f"{name}_output", kernel_initializer=start, dtype="float32")
        self.last.build((None, hidden))
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[..., inputs] -> [..., outputs]."""
        for dense, norm in self.hidden:
            x = tf.nn.silu(norm(dense(x)))
        return self.last(x)


def quantile(noise: tf.Tensor) -> tf.Tensor:
    """Standard normal noise -> the uniform number that it is the normal quantile of."""
    return 0.5 + 0.5 * tf.math.erf(noise * 0.5**0.5)


class OneHot:
    """Independent categorical variables, `groups` of `classes` values each: the stochastic state of an RSSM (DreamerV2).

    Args:
        logits: float32 [..., groups, classes].
        unimix: share of the uniform distribution mixed into each, so that no value is impossible and KL stays finite (DreamerV3).
        temperature: tau > 0 divides the logarithms of the mixed probabilities: near 0 only the likeliest value is left.
    """

    def __init__(self, logits: tf.Tensor, unimix: float, temperature: float | tf.Tensor = 1.0) -> None:
        mixed = (1.0 - unimix) * tf.nn.softmax(logits) + unimix / logits.shape[-1]
        self.log_probs = tf.nn.log_softmax(tf.math.log(mixed + 1e-20) / temperature)
        self.probs = tf.exp(self.log_probs)

    def sample(self, noise: tf.Tensor) -> tf.Tensor:
        """One-hot values float32 [..., groups * classes], decided by standard normal noise [..., groups]: its quantile picks each. The
        gradient goes straight through to the probabilities."""
        reached = quantile(noise)[..., None] > tf.cumsum(self.probs, axis=-1)[..., :-1]
        picked = tf.one_hot(tf.reduce_sum(tf.cast(reached, tf.int32), axis=-1), self.probs.shape[-1])
        straight = tf.stop_gradient(picked - self.probs) + self.probs
        return tf.reshape(straight, (*_dynamic(straight)[:-2], straight.shape[-2] * straight.shape[-1]))

    def entropy(self) -> tf.Tensor:
        """In nats, summed over the groups: [...]."""
        return -tf.reduce_sum(self.probs * self.log_probs, axis=(-2, -1))

    def kl(self, other: OneHot) -> tf.Tensor:
        """KL(self || other) in nats, summed over the groups: [...]."""
        return tf.reduce_sum(self.probs * (self.log_probs - other.log_probs), axis=(-2, -1))

    def surprise(self, s: tf.Tensor) -> tf.Tensor:
        """Minus the log probability of one-hot values s [..., groups * classes], in nats: [...]."""
        return -tf.reduce_sum(tf.reshape(s, tf.shape(self.log_probs)) * self.log_probs, axis=(-2, -1))

    def stopped(self) -> OneHot:
        """The same, through which no gradient goes."""
        twin = object.__new__(OneHot)
        twin.log_probs, twin.probs = tf.stop_gradient(self.log_probs), tf.stop_gradient(self.probs)
        return twin


def _dynamic(tensor: tf.Tensor) -> list:
    """The tensor's shape, each dimension as a number where it is known."""
    sizes = tf.shape(tensor)
    return [sizes[i] if size is None else size for i, size in enumerate(tensor.shape)]


class Scalar(Protocol):
    """How a network's outputs mean a number.

    Attributes:
        size: how many outputs it takes.
    """

    size: int

    def pred(self, outputs: tf.Tensor) -> tf.Tensor:
        """outputs [..., size] -> the expected number [...]."""

    def loss(self, outputs: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """How far the outputs [..., size] are from the target [...]: [...]."""


class Squared:
    """The number itself; its loss is the squared error."""

    size = 1

    def pred(self, outputs: tf.Tensor) -> tf.Tensor:
        return outputs[..., 0]

    def loss(self, outputs: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        return tf.square(outputs[..., 0] - target)


class TwoHot:
    """A distribution over bins, closest around 0: symexp of equal steps (DreamerV3). Its loss is the cross entropy with the target
    split between the two bins beside it, so that large and small numbers are learned at the same rate.

    Args:
        bins: how many; an odd number has one at 0.
    """

    def __init__(self, bins: int) -> None:
        steps = np.linspace(-FARTHEST, FARTHEST, bins)
        # Mirrored, so that the mean of equal probabilities is 0 to the bit.
        half = np.sign(steps) * np.expm1(np.abs(steps))
        self.size = bins
        self.bins = ((half - half[::-1]) / 2).astype(np.float32)

    def pred(self, outputs: tf.Tensor) -> tf.Tensor:
        parts = tf.nn.softmax(outputs) * self.bins
        return tf.reduce_sum(parts + tf.reverse(parts, [-1]), axis=-1) / 2  # each bin with its mirror image first

    def loss(self, outputs: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax_cross_entropy_with_logits(self.two_hot(target), outputs)

    def two_hot(self, target: tf.Tensor) -> tf.Tensor:
        """Weights of the bins [..., bins] whose mean is the target [...], two of them not 0; beyond the outermost bin, that bin."""
        target = tf.clip_by_value(target, self.bins[0], self.bins[-1])
        above = tf.reduce_sum(tf.cast(self.bins[1:-1] <= target[..., None], tf.int32), axis=-1) + 1
        low, high = tf.gather(self.bins, above - 1), tf.gather(self.bins, above)
        share = ((target - low) / (high - low))[..., None]
        return (1.0 - share) * tf.one_hot(above - 1, self.size) + share * tf.one_hot(above, self.size)


def scalar(kind: str, bins: int) -> Scalar:
    """The one of a setting such as rssm.reward_loss: "two_hot" or "squared"."""
    return TwoHot(bins) if kind == "two_hot" else Squared()
