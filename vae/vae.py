"""V: the convolutional variational autoencoder that turns a 64x64 frame into a latent vector z.

Layers, sizes and loss are the original's (paper A.1; original vae/vae.py):

    frame [64,64,3] -> conv 32 -> conv 64 -> conv 128 -> conv 256 (4x4, stride 2, valid, ReLU) -> flatten 1024 -> mu, logvar
    z -> dense 1024 (no activation) -> 1x1x1024 -> deconv 128 (5x5), 64 (5x5), 32 (6x6) ReLU -> 3 (6x6) sigmoid
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from env.run.errors import UserError
from env.run.files import load_arrays
from env.run.weights import assign_weights

FRAME = (64, 64, 3)


def to_float(frames: tf.Tensor) -> tf.Tensor:
    """uint8 [..., 64, 64, 3] in 0..255 -> float32 in 0..1; floats pass through."""
    return tf.cast(frames, tf.float32) / 255.0 if frames.dtype == tf.uint8 else frames


@tf.custom_gradient
def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """x [..., C] + bias [C]. TensorFlow's own gradient of it adds up in x's type: in bfloat16 a sum stops growing at 256 times
    its parts, and on a batch of frames it loses most of the bias's gradient. Here it is added up in float32. Only for training,
    since it keeps TensorFlow from fusing the sum with what is before it."""

    def gradient(d: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        total = tf.reduce_sum(tf.cast(d, tf.float32), axis=tuple(range(len(d.shape) - 1)))
        return d, tf.cast(total, d.dtype)

    return tf.nn.bias_add(x, bias), gradient


class Conv(keras.layers.Conv2D):
    """Keras' convolution, trained with `add_bias`."""

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        y = self.convolution_op(x, self.kernel)
        bias = tf.cast(self.bias, y.dtype)
        return self.activation(add_bias(y, bias) if training else tf.nn.bias_add(y, bias))


class Deconv(keras.layers.Conv2DTranspose):
    """Keras' transposed convolution, trained with `add_bias`, and as a plain matrix product where the input is a single pixel: that is
    several times faster on CPUs."""

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        kernel = tf.cast(self.kernel, x.dtype)  # [height, width, outputs, inputs]
        if tuple(x.shape[1:3]) == (1, 1) and self.padding == "valid":
            y = tf.matmul(x[:, 0, 0], tf.reshape(kernel, (-1, kernel.shape[3])), transpose_b=True)
            y = tf.reshape(y, (-1, *kernel.shape[:3]))
        else:
            y = keras.ops.conv_transpose(x, kernel, self.strides, self.padding)
        bias = tf.cast(self.bias, y.dtype)
        return self.activation(add_bias(y, bias) if training else tf.nn.bias_add(y, bias))


class ConvVAE(keras.Model):
    """The VAE.

    Args:
        z_size: size of z (32 in CarRacing, 64 in Doom).
        kl_tolerance: KL is not pushed below kl_tolerance * z_size nats ("free bits").
        dtype: "float32", or "mixed_bfloat16" to compute layers in bfloat16 with float32 weights. mu, logvar, z, the
            picture and the loss are float32 either way.
        beta_outliers: weight of the errors' fourth powers in the loss (not the original's, which has their squares alone).
    """

    def __init__(self, z_size: int = 32, kl_tolerance: float = 0.5, dtype: str = "float32", beta_outliers: float = 0.0) -> None:
        super().__init__(name="conv_vae")
        self.z_size = z_size
        self.kl_tolerance = kl_tolerance
        self.beta_outliers = beta_outliers
        layers = keras.layers
        # TF1's default initialiser, glorot uniform, is Keras' too.
        conv = {"kernel_size": 4, "strides": 2, "activation": "relu", "dtype": dtype}
        deconv = {"strides": 2, "activation": "relu", "dtype": dtype}
        self.encoder_layers = [
            Conv(32, name="enc_conv1", **conv),
            Conv(64, name="enc_conv2", **conv),
            Conv(128, name="enc_conv3", **conv),
            Conv(256, name="enc_conv4", **conv),
            layers.Flatten(dtype=dtype),
        ]
        self.mu_layer = layers.Dense(z_size, name="enc_fc_mu", dtype="float32")
        self.logvar_layer = layers.Dense(z_size, name="enc_fc_log_var", dtype="float32")
        self.decoder_layers = [
            layers.Dense(1024, name="dec_fc", dtype=dtype),
            layers.Reshape((1, 1, 1024), dtype=dtype),
            Deconv(128, 5, name="dec_deconv1", **deconv),
            Deconv(64, 5, name="dec_deconv2", **deconv),
            Deconv(32, 6, name="dec_deconv3", **deconv),
            Deconv(3, 6, name="dec_deconv4", **(deconv | {"activation": None})),
        ]
        self(tf.zeros((1, *FRAME)))

    def encode(self, frames: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Frames (uint8, or float in 0..1) [B, 64, 64, 3] -> mu, logvar, each float32 [B, z_size]."""
        x = to_float(tf.convert_to_tensor(frames))
        for layer in self.encoder_layers:
            x = layer(x, training=training)
        return self.mu_layer(x), self.logvar_layer(x)

    def fixed_encoder(self, batch: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        """`encode` for batches of exactly `batch` frames of bytes, with the present weights as constants: TensorFlow then puts them
        into the order that its convolutions want once, and not in each call, which saves a tenth to a fifth of the time."""
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        traced = tf.function(self.encode).get_concrete_function(tf.TensorSpec((batch, *FRAME), tf.uint8))
        return convert_variables_to_constants_v2(traced)

    def decode(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        """z float32 [B, z_size] -> frames float32 in 0..1 [B, 64, 64, 3]."""
        x = z
        for layer in self.decoder_layers:
            x = layer(x, training=training)
        return tf.sigmoid(tf.cast(x, tf.float32))

    @staticmethod
    def sample(mu: tf.Tensor, logvar: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """z ~ N(mu, exp(logvar)) from standard normal `noise`: logvar is the log variance, so the deviation halves it."""
        return mu + tf.exp(logvar / 2) * noise

    def call(self, frames: tf.Tensor) -> tf.Tensor:
        """Reconstruction through the mean of z: [B, 64, 64, 3] float32."""
        mu, _ = self.encode(frames)
        return self.decode(mu)

    def loss_terms(self, frames: tf.Tensor, noise: tf.Tensor) -> dict[str, tf.Tensor]:
        """The training loss of a batch, and its parts, as scalars.

        reconstruction: squared error summed over pixels and channels, then averaged over the batch. (A mean over pixels
        would be 12,288 times weaker against KL, and the posterior would collapse.)
        kl: KL to N(0, 1) summed over z, floored at kl_tolerance * z_size for each frame, then averaged.
        outliers, where beta_outliers is not 0: the same as reconstruction, of the errors' fourth powers.

        Args:
            frames: uint8 or float [B, 64, 64, 3].
            noise: standard normal float32 [B, z_size].
        """
        return self.loss_and_z(frames, noise)[0]

    def loss_and_z(self, frames: tf.Tensor, noise: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The terms of `loss_terms`, and the z that they are of, float32 [B, z_size]."""
        x = to_float(frames)
        mu, logvar = self.encode(x, training=True)
        z = self.sample(mu, logvar, noise)
        squares = tf.square(x - self.decode(z, training=True))
        reconstruction = tf.reduce_mean(tf.reduce_sum(squares, axis=(1, 2, 3)))
        kl = -0.5 * tf.reduce_sum(1 + logvar - tf.square(mu) - tf.exp(logvar), axis=1)
        kl = tf.reduce_mean(tf.maximum(kl, self.kl_tolerance * self.z_size))
        terms = {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}
        if self.beta_outliers:
            terms["outliers"] = tf.reduce_mean(tf.reduce_sum(tf.square(squares), axis=(1, 2, 3)))
            terms["loss"] += self.beta_outliers * terms["outliers"]
        return terms, z


def load_vae(path: Path, z_size: int, kl_tolerance: float = 0.5, dtype: str = "float32") -> ConvVAE:
    """A ConvVAE from a weights file.

    Raises:
        UserError: the file is missing, damaged or a pickle, as `assign_weights`, and when the file's z_size is not `z_size`.
    """
    arrays, meta = load_arrays(path)
    if meta.get("z_size", z_size) != z_size:
        raise UserError(f"V in {path} has z_size {meta['z_size']}, this run has vae.z_size {z_size}: take the V of a run that fits")
    model = ConvVAE(z_size, kl_tolerance, dtype)
    assign_weights(path, arrays, model)
    return model
