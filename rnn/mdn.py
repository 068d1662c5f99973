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
