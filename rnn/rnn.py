"""M: the MDN-RNN that predicts the next latent vector from the present one and the action.

        z_t, a_t --> [ LSTM ] --> h_{t+1} --> dense --> mixture of Gaussians over each dimension of z_{t+1}
                      ^    |
                 h_t, c_t  h_{t+1}, c_{t+1}

The rest of the program knows M through its contract: `initial`, `observe`, `imagine`, `features`, `loss_terms`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from env.files import load_arrays
from env.settings import UserError
from rnn.mdn import mixture
from vae.vae import ConvVAE, assign_weights


class State(NamedTuple):
    """What M remembers in each of B lanes: the present z [B, z_size] and the LSTM's h and c [B, units], float32."""

    z: tf.Tensor
    h: tf.Tensor
    c: tf.Tensor


class LSTM(keras.layers.Layer):
    """One LSTM layer with the original's weight layout.

    One kernel [input + units, 4 * units] in gate order i, j, f, o and a bias [4 * units] starting at zero, with 1 added to
    the forget gate (TF1's LayerNormBasicLSTMCell without layer norm). Keras' own LSTM computes the same function, but keeps
    two kernels, other gate order and other initialisers.

    Args:
        inputs: size of the input.
        units: size of h and of c.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__(name="lstm", dtype="float32")
        self.inputs, self.units = inputs, units
        self.kernel = self.add_weight(shape=(inputs + units, 4 * units), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(4 * units,), initializer="zeros", name="bias")

    def split(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The kernel's parts for the input [inputs, 4 * units] and for h [units, 4 * units]."""
        return self.kernel[: self.inputs], self.kernel[self.inputs :]

    @staticmethod
    def gate(gates: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The next h and c from the gates' sums [B, 4 * units] and c [B, units]."""
        i, j, f, o = tf.split(gates, 4, axis=1)
        c = c * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
        return tf.tanh(c) * tf.sigmoid(o), c

    def step(self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The next h and c after the input x [B, inputs]."""
        return self.gate(tf.matmul(tf.concat([x, h], axis=1), self.kernel) + self.bias, c)

    def call(self, x: tf.Tensor, h: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """All h of a sequence.

        Args:
            x: [B, T, inputs].
            h, c: the state before it, [B, units].

        Returns:
            h after each step, [B, T, units].
        """
        # The inputs of all steps go through one large product; only the recurrent product is left in the loop. The kernel
        # is cut outside of it: inside, each step would copy it, and pad its gradient.
        input_kernel, recurrent_kernel = self.split()
        projected = tf.matmul(tf.transpose(x, (1, 0, 2)), input_kernel) + self.bias
        steps = tf.shape(projected)[0]
        inputs = tf.TensorArray(tf.float32, size=steps).unstack(projected)  # slices of a tensor have dear gradients
        every_h = tf.TensorArray(tf.float32, size=steps)

        def body(t: tf.Tensor, h: tf.Tensor, c: tf.Tensor, every_h: tf.TensorArray) -> tuple:
            h, c = self.gate(inputs.read(t) + tf.matmul(h, recurrent_kernel), c)
            return t + 1, h, c, every_h.write(t, h)

        state = (tf.constant(0), h, c, every_h)
        *_, every_h = tf.while_loop(lambda t, *_: t < steps, body, state, maximum_iterations=steps)
        return tf.transpose(every_h.stack(), (1, 0, 2))


class MDNRNN(keras.Model):
    """The MDN-RNN.

    Args:
        z_size: size of z.
        action_size: size of the action that M is fed.
        units: LSTM units.
        mixtures: Gaussians in each dimension's mixture.
    """

    def __init__(self, z_size: int = 32, action_size: int = 3, units: int = 256, mixtures: int = 5) -> None:
        super().__init__(name="mdn_rnn")
        self.z_size, self.action_size, self.units, self.mixtures = z_size, action_size, units, mixtures
        self.lstm = LSTM(z_size + action_size, units)
        self.output_layer = keras.layers.Dense(z_size * mixtures * 3, name="output", dtype="float32")
        self.output_layer.build((None, units))
        self.built = True

    def initial(self, z: tf.Tensor) -> State:
        """The state at the start of B episodes whose first latent vectors are `z` [B, z_size]: h = c = 0."""
        zeros = tf.zeros((tf.shape(z)[0], self.units))
        return State(z, zeros, zeros)

    def advance(self, state: State, action: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """h and c after the action [B, action_size] was taken in `state`."""
        return self.lstm.step(tf.concat([state.z, action], axis=1), state.h, state.c)

    def observe(self, state: State, action: tf.Tensor, z: tf.Tensor) -> State:
        """The next state, when the world answered the action [B, action_size] with the latent vector `z` [B, z_size]."""
        return State(z, *self.advance(state, action))

    def imagine(
        self, state: State, action: tf.Tensor, temperature: float | tf.Tensor, seed: tf.Tensor
    ) -> tuple[State, tf.Tensor, tf.Tensor]:
        """The next state, when M itself invents the answer to the action.

        Args:
            state, action: as in `observe`.
            temperature: tau > 0, see rnn/mdn.py.
            seed: int32 [2], decides the sample.

        Returns:
            state, reward float32 [B] and done bool [B]. This M knows of no reward and no end: zeros and False.
        """
        h, c = self.advance(state, action)
        z = mixture(self.output_layer(h), self.mixtures, temperature).sample(seed=seed)
        lanes = tf.shape(z)[0]
        return State(z, h, c), tf.zeros((lanes,)), tf.zeros((lanes,), tf.bool)

    def predict_next(self, z: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """M's raw output for each step of sequences from zero state: [B, T, z_size], [B, T, A] -> [B, T, outputs]."""
        zeros = tf.zeros((tf.shape(z)[0], self.units))
        return self.output_layer(self.lstm(tf.concat([z, action], axis=2), zeros, zeros))

    def loss_terms(self, mu: tf.Tensor, logvar: tf.Tensor, action: tf.Tensor, noise: tf.Tensor) -> dict[str, tf.Tensor]:
        """The training loss of a batch of sequences: minus the mean log likelihood of each dimension of each next z.

        z is sampled anew for each batch, so that M learns the spread of V's posterior instead of one draw from it.

        Args:
            mu, logvar: V's posterior of each frame, float [B, T, z_size].
            action: the action taken after each frame, float [B, T, action_size]; the last one leads out of the batch.
            noise: standard normal float32 [B, T, z_size].
        """
        z = ConvVAE.sample(tf.cast(mu, tf.float32), tf.cast(logvar, tf.float32), noise)
        output = self.predict_next(z[:, :-1], tf.cast(action[:, :-1], tf.float32))
        loss = -tf.reduce_mean(mixture(output, self.mixtures).log_prob(z[:, 1:]))
        return {"loss": loss}


FEATURES = {"z": ("z",), "zh": ("z", "h"), "zc": ("z", "c"), "zch": ("z", "c", "h")}


def features(state: State, names: str) -> tf.Tensor:
    """What C sees of a state, in the original's order: "z", "zh", "zc" or "zch" -> float32 [B, F]."""
    return tf.concat([getattr(state, name) for name in FEATURES[names]], axis=1)


def feature_size(names: str, z_size: int, units: int) -> int:
    """F, the length of `features`."""
    return sum(z_size if name == "z" else units for name in FEATURES[names])


def load_rnn(path: Path, z_size: int, action_size: int, units: int, mixtures: int) -> MDNRNN:
    """An MDNRNN from a weights file.

    Raises:
        UserError: the file is missing, damaged, a pickle, or of another z size or number of units.
    """
    arrays, meta = load_arrays(path)
    for key, value in (("z_size", z_size), ("units", units), ("mixtures", mixtures)):
        if meta.get(key, value) != value:
            raise UserError(f"M in {path} has {key} {meta[key]}, this run needs {value}: take the M of a run that fits")
    model = MDNRNN(z_size, action_size, units, mixtures)
    assign_weights(path, arrays, model)
    return model
