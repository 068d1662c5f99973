"""V: the convolutional variational autoencoder that turns a 64x64 frame into a latent vector z.

Layers, sizes and loss are the original's (paper A.1; original vae/vae.py):

    frame [64,64,3] -> conv 32 -> conv 64 -> conv 128 -> conv 256 (4x4, stride 2, valid, ReLU) -> flatten 1024 -> mu, logvar
    z -> dense 1024 (no activation) -> 1x1x1024 -> deconv 128 (5x5), 64 (5x5), 32 (6x6) ReLU -> 3 (6x6) sigmoid
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from env.files import load_arrays, save_arrays
from env.settings import UserError

FRAME = (64, 64, 3)


def to_float(frames: tf.Tensor) -> tf.Tensor:
    """uint8 [..., 64, 64, 3] in 0..255 -> float32 in 0..1; floats pass through."""
    return tf.cast(frames, tf.float32) / 255.0 if frames.dtype == tf.uint8 else frames


class ConvVAE(keras.Model):
    """The VAE.

    Args:
        z_size: size of z (32 in CarRacing, 64 in Doom).
        kl_tolerance: KL is not pushed below kl_tolerance * z_size nats ("free bits").
        dtype: "float32", or "mixed_bfloat16" to compute layers in bfloat16 with float32 weights. mu, logvar, z, the
            picture and the loss are float32 either way.
    """

    def __init__(self, z_size: int = 32, kl_tolerance: float = 0.5, dtype: str = "float32") -> None:
        super().__init__(name="conv_vae")
        self.z_size = z_size
        self.kl_tolerance = kl_tolerance
        layers = keras.layers
        # TF1's default initialiser, glorot uniform, is Keras' too.
        conv = {"kernel_size": 4, "strides": 2, "activation": "relu", "dtype": dtype}
        deconv = {"strides": 2, "activation": "relu", "dtype": dtype}
        self.encoder_layers = [
            layers.Conv2D(32, name="enc_conv1", **conv),
            layers.Conv2D(64, name="enc_conv2", **conv),
            layers.Conv2D(128, name="enc_conv3", **conv),
            layers.Conv2D(256, name="enc_conv4", **conv),
            layers.Flatten(dtype=dtype),
        ]
        self.mu_layer = layers.Dense(z_size, name="enc_fc_mu", dtype="float32")
        self.logvar_layer = layers.Dense(z_size, name="enc_fc_log_var", dtype="float32")
        self.decoder_layers = [
            layers.Dense(1024, name="dec_fc", dtype=dtype),
            layers.Reshape((1, 1, 1024), dtype=dtype),
            layers.Conv2DTranspose(128, 5, name="dec_deconv1", **deconv),
            layers.Conv2DTranspose(64, 5, name="dec_deconv2", **deconv),
            layers.Conv2DTranspose(32, 6, name="dec_deconv3", **deconv),
            layers.Conv2DTranspose(3, 6, name="dec_deconv4", **(deconv | {"activation": None})),
        ]
        self(tf.zeros((1, *FRAME)))

    def encode(self, frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Frames (uint8, or float in 0..1) [B, 64, 64, 3] -> mu, logvar, each float32 [B, z_size]."""
        x = to_float(tf.convert_to_tensor(frames))
        for layer in self.encoder_layers:
            x = layer(x)
        return self.mu_layer(x), self.logvar_layer(x)

    def decode(self, z: tf.Tensor) -> tf.Tensor:
        """z float32 [B, z_size] -> frames float32 in 0..1 [B, 64, 64, 3]."""
        x = z
        for layer in self.decoder_layers:
            x = layer(x)
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

        Args:
            frames: uint8 or float [B, 64, 64, 3].
            noise: standard normal float32 [B, z_size].
        """
        x = to_float(frames)
        mu, logvar = self.encode(x)
        y = self.decode(self.sample(mu, logvar, noise))
        reconstruction = tf.reduce_mean(tf.reduce_sum(tf.square(x - y), axis=(1, 2, 3)))
        kl = -0.5 * tf.reduce_sum(1 + logvar - tf.square(mu) - tf.exp(logvar), axis=1)
        kl = tf.reduce_mean(tf.maximum(kl, self.kl_tolerance * self.z_size))
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def save_weights(path: Path, model: keras.Model, meta: dict[str, Any], dtype: str = "float32", compress: int = 0) -> None:
    """Save a model's weights as an npz of named arrays, with `meta`, atomically."""
    save_arrays(path, {v.path: np.asarray(v).astype(dtype) for v in model.weights}, meta, compress)


def assign_weights(path: Path, arrays: dict[str, np.ndarray], model: keras.Model) -> None:
    """Set a model's weights from the arrays of the file `path`.

    Raises:
        UserError: an array is missing or has another shape.
    """
    wanted = {v.path: tuple(v.shape) for v in model.weights}
    for name, shape in wanted.items():
        if name not in arrays:
            raise UserError(f"weights file {path} has no array '{name}': is it another model's?")
        if arrays[name].shape != shape:
            found = arrays[name].shape
            raise UserError(f"weights file {path}: '{name}' has shape {found}, expected {shape}: it was made with other settings")
    for variable in model.weights:
        variable.assign(arrays[variable.path].astype(np.float32))


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
