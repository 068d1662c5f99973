"""The mixture density output of M: for each latent dimension its own mixture of Gaussians.

The output layer's numbers are laid out [dimension][logits | means | log standard deviations], K of each, as in the
original (rnn/rnn.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:
    import tensorflow_probability as tfp


def mixture(output: tf.Tensor, mixtures: int, temperature: float | tf.Tensor = 1.0) -> tfp.distributions.MixtureSameFamily:
    """The distribution of the next z.

    At temperature tau the mixture logits are divided by tau and the standard deviations multiplied by sqrt(tau): above 1
    the rarer outcomes come more often, near 0 only the likeliest one is left (paper 2.2; original rnn/rnn.py, sample).

    Args:
        output: float32 [..., z_size * 3 * mixtures], M's output layer.
        mixtures: K.
        temperature: tau > 0.

    Returns:
        A distribution with batch shape [..., z_size] and scalar events.
    """
    # Here and not above: it takes 50 MB, which the ranks that only play the real world need not spend.
    import tensorflow_probability as tfp

    shape = tf.concat([tf.shape(output)[:-1], [output.shape[-1] // (3 * mixtures), 3 * mixtures]], axis=0)
    logits, mean, log_std = tf.split(tf.reshape(output, shape), 3, axis=-1)
    tfd = tfp.distributions
    return tfd.MixtureSameFamily(
        tfd.Categorical(logits=logits / temperature),
        tfd.Normal(mean, tf.exp(log_std) * tf.sqrt(tf.cast(temperature, tf.float32))),
    )


@tf.function(jit_compile=True)
def log_prob(output: tf.Tensor, mixtures: int, z: tf.Tensor) -> tf.Tensor:
    """`mixture(output, mixtures).log_prob(z)`, float32 [..., z_size], compiled by XLA: its many small operations, one by one,
    take twice as long."""
    return mixture(output, mixtures).log_prob(z)


def sample(output: tf.Tensor, mixtures: int, temperature: float | tf.Tensor, choice: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """A sample of `mixture(output, mixtures, temperature)` from given noise: the next z, in few operations and reproducibly.

    tfp's own sampler draws all K Gaussians and throws K - 1 away; a dream spends its time here.

    Args:
        output, mixtures, temperature: as `mixture`.
        choice: standard normal float32 [..., z_size]; its quantile picks the Gaussian.
        noise: standard normal float32 [..., z_size]; the place within the Gaussian.

    Returns:
        z float32 [..., z_size].
    """
    shape = tf.concat([tf.shape(noise), [3, mixtures]], axis=0)
    parts = tf.reshape(output, shape)
    logits, mean, log_std = parts[..., 0, :], parts[..., 1, :], parts[..., 2, :]
    weights = tf.exp((logits - tf.reduce_max(logits, axis=-1, keepdims=True)) / temperature)
    heights = tf.cumsum(weights, axis=-1)
    quantile = 0.5 + 0.5 * tf.math.erf(choice * 0.5**0.5)
    reached = quantile[..., None] * heights[..., -1:]
    picked = tf.reduce_sum(tf.cast(reached > heights[..., :-1], tf.int32), axis=-1, keepdims=True)
    mean, log_std = (tf.gather(part, picked, batch_dims=len(part.shape) - 1)[..., 0] for part in (mean, log_std))
    return mean + tf.exp(log_std) * tf.sqrt(tf.cast(temperature, tf.float32)) * noise
