"""C: the small controller that maps what it sees, [z, h], to the action.

Its parameters are one flat vector, in the original's order (original carracing/model.py, set_model_params):
linear: biases, then the weight matrix row by row; with a hidden layer: the same for that layer, then for the output.
An actor's C (controller/actor_critic.py) may draw its outputs from a distribution: where that is normal, the linear map to its deviations
comes last, biases first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LEAST_STD, MOST_STD = 0.1, 1.0  # of what a normal distribution's C draws (DreamerV3)
SURE = 8.0  # the largest logit of a discrete action: where tanh tells two outputs apart, the logits do, and the other way round


@dataclass(frozen=True)
class Policy:
    """The shape of C.

    Attributes:
        inputs: number of features.
        outputs: number of action elements.
        hidden: tanh units between them; 0 means linear (paper A.3).
        bias: whether the layers have biases.
        drawn: the distribution that its outputs are drawn from, "normal" (see `normal`) or "categorical" (see `logarithms`); "" where they
            are not drawn, as in the paper.
    """

    inputs: int
    outputs: int
    hidden: int = 0
    bias: bool = True
    drawn: str = ""

    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer."""
        return [(self.inputs, self.hidden), (self.hidden, self.outputs)] if self.hidden else [(self.inputs, self.outputs)]

    @property
    def own_size(self) -> int:
        """Number of parameters without those of the deviations: 867 for CarRacing, 1,443 for its variant of z with 40 hidden units."""
        return sum((inputs + self.bias) * outputs for inputs, outputs in self.layers())

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.own_size + (self.inputs + 1) * self.outputs * (self.drawn == "normal")

    @property
    def noise(self) -> int:
        """Standard normal numbers that an action takes."""
        return self.outputs if self.drawn else 0

    def act(self, params: Any, features: Any, noise: Any = None) -> Any:
        """B different controllers at once, each with its own features; or one for all.

        Args:
            params: float32 tensor [B, size], or [size] for one controller.
            features: float32 tensor [B, inputs], or [..., inputs] for one controller.
            noise: what drawn outputs are drawn by, standard normal [B, noise], or [..., noise].

        Returns:
            The outputs, float32 [B, outputs], or [..., outputs]: by tanh in [-1, 1], if they are not drawn; normal, beyond them, too;
            categorical, one-hot.
        """
        import tensorflow as tf  # here, so that the random policy and --help do without it

        sums = self.sums(params, features)
        if self.drawn == "normal":
            mean, deviation = normal(sums, linear(params, self.own_size, features, self.outputs, bias=True)[0])
            return mean + deviation * noise
        return choice(logarithms(sums), noise) if self.drawn else tf.tanh(sums)

    def sums(self, params: Any, features: Any) -> Any:
        """The outputs before the last tanh; shapes as in `act`."""
        import tensorflow as tf

        x, start = features, 0
        for number, (_, outputs) in enumerate(self.layers()):
            x, start = linear(params, start, tf.tanh(x) if number else x, outputs, self.bias)
        return x


def linear(params: Any, start: int, x: Any, outputs: int, bias: bool) -> tuple[Any, int]:
    """A layer whose parameters begin at `start`: params [B, size] and x [B, n], or [size] and [..., n] -> [B, outputs], or [..., outputs];
    and where the next layer's begin."""
    import tensorflow as tf

    inputs, end = x.shape[-1], start + outputs * bias
    offset = params[..., start:end] if bias else 0.0
    kernel = params[..., end : end + inputs * outputs]
    if len(params.shape) == 1:
        y = tf.tensordot(x, tf.reshape(kernel, (inputs, outputs)), 1)
    else:
        y = tf.squeeze(tf.matmul(x[:, None, :], tf.reshape(kernel, (-1, inputs, outputs))), axis=1)
    return y + offset, end + inputs * outputs


def normal(sums: Any, spread: Any) -> tuple[Any, Any]:
    """Means and deviations of normal outputs, of the sums before tanh and of the map to deviations: [..., outputs] each."""
    import tensorflow as tf

    return tf.tanh(sums), LEAST_STD + (MOST_STD - LEAST_STD) * tf.sigmoid(spread + 2.0)


def logarithms(sums: Any) -> Any:
    """Log probabilities of discrete actions, of the sums before tanh [..., outputs]: softmax of SURE times C's outputs, mixed with a
    hundredth of the uniform distribution."""
    import tensorflow as tf

    return tf.math.log(0.99 * tf.nn.softmax(SURE * tf.tanh(sums)) + 0.01 / sums.shape[-1])


def choice(logs: Any, noise: Any) -> Any:
    """A discrete action, one-hot [..., outputs], drawn by standard normal noise [..., outputs] from its log probabilities."""
    import tensorflow as tf

    uniform = 0.5 + 0.5 * tf.math.erf(noise * 0.5**0.5)
    gumbel = -tf.math.log(-tf.math.log(tf.clip_by_value(uniform, 1e-6, 1.0 - 1e-6)))
    return tf.one_hot(tf.argmax(logs + gumbel, axis=-1), logs.shape[-1])
