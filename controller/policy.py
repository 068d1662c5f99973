"""C: the small controller that maps what it sees, [z, h], to the action.

Its parameters are one flat vector, in the original's order (original carracing/model.py, set_model_params):
linear: biases, then the weight matrix row by row; with a hidden layer: the same for that layer, then for the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Policy:
    """The shape of C.

    Attributes:
        inputs: number of features.
        outputs: number of action elements.
        hidden: tanh units between them; 0 means linear (paper A.3).
        bias: whether the layers have biases.
    """

    inputs: int
    outputs: int
    hidden: int = 0
    bias: bool = True

    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer."""
        return [(self.inputs, self.hidden), (self.hidden, self.outputs)] if self.hidden else [(self.inputs, self.outputs)]

    @property
    def size(self) -> int:
        """Number of parameters: 867 for CarRacing, 1,443 for its variant of z with 40 hidden units."""
        return sum((inputs + self.bias) * outputs for inputs, outputs in self.layers())

    def act(self, params: Any, features: Any) -> Any:
        """B different controllers at once, each with its own features; or one for all.

        Args:
            params: float32 tensor [B, size], or [size] for one controller.
            features: float32 tensor [B, inputs], or [..., inputs] for one controller.

        Returns:
            tanh outputs in [-1, 1], float32 [B, outputs], or [..., outputs].
        """
        import tensorflow as tf  # here, so that the random policy and --help do without it

        if len(params.shape) == 1:
            return tf.tanh(self.sums(params, features))
        x, start = features, 0
        for inputs, outputs in self.layers():
            bias = params[:, start : start + outputs] if self.bias else 0.0
            start += outputs if self.bias else 0
            weights = tf.reshape(params[:, start : start + inputs * outputs], (-1, inputs, outputs))
            start += inputs * outputs
            x = tf.tanh(tf.squeeze(tf.matmul(x[:, None, :], weights), axis=1) + bias)
        return x

    def sums(self, params: Any, features: Any) -> Any:
        """One controller's outputs before the last tanh: parameters [size], features [..., inputs] -> float32 [..., outputs]."""
        import tensorflow as tf

        x, start = features, 0
        for number, (inputs, outputs) in enumerate(self.layers()):
            bias = params[start : start + outputs] if self.bias else 0.0
            start += outputs if self.bias else 0
            weights = tf.reshape(params[start : start + inputs * outputs], (inputs, outputs))
            start += inputs * outputs
            x = tf.tensordot(tf.tanh(x) if number else x, weights, 1) + bias
        return x
