r"""M: the MDN-RNN that predicts the next latent vector from the present one and the action.

        z_t, a_t, restart_t --> [ LSTM ] --> h_{t+1} --> dense --> mixture of Gaussians over each dimension of z_{t+1}
                                 ^    |                        \-> logit of restart_{t+1}: the agent dies
                            h_t, c_t  h_{t+1}, c_{t+1}

Where a task has the agent die (restart=True), M is told which frame is the first of its episode (restart = 1), and predicts
whether the next one is; then the agent is dead. Else the graph has neither. The rest of the program knows M through the contract
of rnn/memory.py alone.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from env.episodes import PRIVILEGED
from rnn.lstm import LSTM, product
from rnn.mdn import log_prob, sample
from rnn.memory import Batch, Imagined
from vae.vae import ConvVAE

FEATURES = {"z": ("z",), "zh": ("z", "h"), "zc": ("z", "c"), "zch": ("z", "c", "h")}  # in the original's order


class State(NamedTuple):
    """What M remembers in each of B lanes, float32: the present z [B, z_size], the LSTM's h and c [B, units], and whether
    z is an episode's first, restart [B, 1], 0 or 1."""

    z: tf.Tensor
    h: tf.Tensor
    c: tf.Tensor
    restart: tf.Tensor


Carried = tuple[tf.Tensor, tf.Tensor]  # h and c


class MDNRNN(keras.Model):
    """The MDN-RNN (a Memory, see rnn/memory.py).

    Args:
        z_size: size of z.
        action_size: size of the action that M is fed.
        units: LSTM units.
        mixtures: Gaussians in each dimension's mixture.
        restart: whether restart is an input, and is predicted (Doom).
        restart_weight: weight of restarts in the loss of their prediction, against 1 for all other frames.
        step_reward: the reward of each imagined step. The paper's M predicts none, but where the world pays for each step
            lived and for nothing else, it is known.
        dtype: "float32", or "mixed_bfloat16" to compute matrix products in bfloat16 with float32 weights and states.
        privileged, beta_privileged: of how many yes-or-no questions the world tells the answers in training (Batch.privileged), and the
            weight of the loss, summed over them, by which a linear function of z and h learns to tell them; where it is 0, none does.
    """

    def __init__(
        self,
        z_size: int = 32,
        action_size: int = 3,
        units: int = 256,
        mixtures: int = 5,
        restart: bool = False,
        restart_weight: float = 10.0,
        step_reward: float = 0.0,
        dtype: str = "float32",
        privileged: int = 0,
        beta_privileged: float = 0.0,
    ) -> None:
        super().__init__(name="mdn_rnn")
        self.z_size, self.action_size, self.units, self.mixtures = z_size, action_size, units, mixtures
        self.restart, self.restart_weight, self.step_reward = restart, restart_weight, step_reward
        self.lstm = LSTM(z_size + action_size + restart, units, dtype)
        outputs = restart + z_size * mixtures * 3
        # The bias, too, as TF1 does where no initialiser is named.
        self.output_layer = keras.layers.Dense(outputs, name="output", bias_initializer="glorot_uniform", dtype=dtype)
        self.output_layer.build((None, units))
        # What it tells nobody asks: it is there so that z and h hold it as a linear C can use it.
        self.beta_privileged, told = beta_privileged, privileged if beta_privileged else 0
        self.teller = keras.layers.Dense(told, name=PRIVILEGED, dtype="float32") if told else None
        if self.teller:
            self.teller.build((None, z_size + units))
        self.built = True

        # It takes z as the world gives it; only what it invents is drawn.
        self.initial_noise, self.observe_noise, self.imagine_noise, self.sample_noise = 0, 0, 2 * z_size, z_size
        self.foresees_end = restart
        self.with_last = False  # the authors' recordings lack it

    @property
    def learning(self) -> list[tf.Variable]:
        """The variables that training changes."""
        return self.trainable_variables

    def _input(self, z: tf.Tensor, action: tf.Tensor, restart: tf.Tensor) -> tf.Tensor:
        return tf.concat([z, action, restart] if self.restart else [z, action], axis=-1)

    def _output(self, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """h [..., units] -> the mixtures' numbers [..., z_size * 3 * mixtures], and the restart's logit [...] or None."""
        output = tf.cast(self.output_layer(h), tf.float32)
        return (output[..., 1:], output[..., 0]) if self.restart else (output, None)

    def _outputs(self, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The same as `_output` of a whole sequence's h [B, T, units], by a product for each of the two parts: to cut them out of one
        would copy all of it, and the gradient once more."""
        if not self.restart:
            return self._output(h)
        kernel, bias = tf.convert_to_tensor(self.output_layer.kernel), tf.convert_to_tensor(self.output_layer.bias)
        flat = tf.reshape(h, (-1, self.units))
        parts = (product(flat, tf.cast(kernel[:, part], self.lstm.compute)) + bias[part] for part in (slice(1, None), slice(1)))
        numbers, logit = (tf.reshape(part, (*tf.unstack(tf.shape(h)[:2]), part.shape[1])) for part in parts)
        return numbers, logit[..., 0]

    def initial(self, x: tf.Tensor, noise: tf.Tensor) -> State:
        """The state at the start of B episodes whose first latent vectors are `x` [B, z_size]: h = c = 0, restart = 1."""
        lanes = tf.shape(x)[0]
        zeros = tf.zeros((lanes, self.units))
        return State(x, zeros, zeros, tf.ones((lanes, 1)))

    def advance(self, state: State, action: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """h and c after the action [B, action_size] was taken in `state`."""
        return self.lstm.step(self._input(state.z, action, state.restart), state.h, state.c)

    def observe(self, state: State, action: tf.Tensor, x: tf.Tensor, noise: tf.Tensor) -> State:
        """The next state, when the world answered the action [B, action_size] with the latent vector `x` [B, z_size]."""
        h, c = self.advance(state, action)
        return State(x, h, c, tf.zeros_like(state.restart))

    def imagine(self, state: State, action: tf.Tensor, temperature: float | tf.Tensor, noise: tf.Tensor) -> Imagined:
        """The next state, when M itself invents the answer to the action (original doomrnn/doomrnn.py, _step).

        Args:
            state, action: as in `observe`.
            temperature: tau > 0, see rnn/mdn.py. It has no part in the agent's death, which is not sampled: it comes when
                M holds it for likelier than not.
            noise: standard normal float32 [B, imagine_noise], decides the sample.

        Returns:
            The state, the reward and the probability to live on. An M without restart knows of no end: that is 1.
        """
        h, c = self.advance(state, action)
        output, logit = self._output(h)
        z = sample(output, self.mixtures, temperature, *tf.split(noise, 2, axis=1))
        reward = tf.fill((tf.shape(z)[0],), self.step_reward)
        goes_on = tf.ones_like(reward) if logit is None else tf.sigmoid(-logit)
        over = goes_on < 0.5
        return Imagined(State(z, h, c, tf.cast(over, tf.float32)[:, None]), reward, goes_on, over)

    def features(self, state: State, names: str) -> tf.Tensor:
        """What C sees of states [..., :]: "z", "zh", "zc" or "zch" -> float32 [..., F]."""
        return tf.concat([getattr(state, name) for name in FEATURES[names]], axis=-1)

    def feature_size(self, names: str) -> int:
        """F, the length of `features`."""
        return sum(self.z_size if name == "z" else self.units for name in FEATURES[names])

    def latent(self, state: State) -> tf.Tensor:
        """The present z, float32 [B, z_size]."""
        return state.z

    def surprise(self, state: State) -> tf.Tensor:
        """See Memory.surprise: of z, given the h that M had of all before it."""
        return -tf.reduce_mean(log_prob(self._output(state.h)[0], self.mixtures, state.z), axis=-1)

    def blank(self, rows: int) -> Carried:
        """h = c = 0, each float32 [rows, units]."""
        return (tf.zeros((rows, self.units)), tf.zeros((rows, self.units)))

    def loss_terms(self, batch: Batch, noise: tf.Tensor, carried: Carried | None = None) -> tuple[dict[str, tf.Tensor], Carried]:
        """The training loss of a batch of sequences: minus the mean log likelihood of each dimension of each next z, and,
        for an M with restart, the cross entropy of each next restart.

        z is sampled anew for each batch, so that M learns the spread of V's posterior instead of one draw from it. h and c
        are set to zero before a step whose frame is an episode's first. An episode's end that is no death but a limit of steps has
        no part in the restart's loss (the original took it for a death; its recordings hardly ever reach the limit).

        Args:
            batch: sequences [B, T].
            noise: standard normal float32 [B, T, sample_noise].
            carried: h and c [B, units] before the first frame; None for zeros.

        Returns:
            "loss", and, where it has more than one, its parts "z", "restart" for an M with restart, and "privileged", summed over its
            questions, for one that learns that from a batch that has it, as scalars; and h and c after the last step.
        """
        z = _sampled(batch, noise)
        first = tf.cast(batch.first, tf.float32)
        h, c = carried or self.blank(tf.shape(z)[0])
        x = self._input(z, tf.cast(batch.action, tf.float32), first[..., None])
        every_h, carried = self.lstm(x[:, :-1], h, c, first[:, :-1])
        output, logit = self._outputs(every_h)
        terms = {"z": -tf.reduce_mean(log_prob(output, self.mixtures, z[:, 1:]))}
        loss = terms["z"]
        if logit is not None:
            target = first[:, 1:]
            weight = 1.0 + (self.restart_weight - 1.0) * target
            # An episode that a limit of steps cut did not end by a death, and nothing says whether it would have.
            weight *= 1.0 - target * (1.0 - tf.cast(batch.done, tf.float32)[:, :-1])
            terms["restart"] = tf.reduce_mean(weight * tf.nn.sigmoid_cross_entropy_with_logits(target, logit))
            loss += terms["restart"]
        if self.teller and batch.privileged.shape[-1]:
            # What C sees of a frame: its z, and the h after all that came before it.
            seen = tf.concat([z[:, 1:], tf.cast(every_h, tf.float32) * (1.0 - first[:, 1:, None])], axis=-1)
            answers = tf.cast(batch.privileged[:, 1:], tf.float32)
            told = tf.nn.sigmoid_cross_entropy_with_logits(answers, self.teller(seen))
            terms[PRIVILEGED] = tf.reduce_mean(tf.reduce_sum(told, axis=-1))
            loss += self.beta_privileged * terms[PRIVILEGED]
        return {"loss": loss, **(terms if len(terms) > 1 else {})}, carried

    def follow(self, batch: Batch, noise: tf.Tensor) -> State:
        """M's states at the batch's frames, [B, T, ...], without gradient; see Memory.follow."""
        z, first = _sampled(batch, noise), tf.cast(batch.first, tf.float32)
        action = tf.cast(batch.action, tf.float32)
        count, rows = z.shape[1] or tf.shape(z)[1], tf.shape(z)[0]

        def step(t: tf.Tensor, state: State, *arrays: tf.TensorArray) -> tuple:
            # Before the batch's first frame there is no action, but h = c = 0, which `observe` must not advance.
            began = (first[:, t] + tf.cast(t == 0, tf.float32))[:, None] > 0
            went_on = self.observe(state, action[:, tf.maximum(t - 1, 0)], z[:, t], noise[:, t, :0])
            restart = first[:, t, None]
            state = State(z[:, t], tf.where(began, 0.0, went_on.h), tf.where(began, 0.0, went_on.c), restart)
            return (t + 1, state, *(array.write(t, part) for array, part in zip(arrays, state)))

        blank = self.initial(tf.zeros((rows, self.z_size)), noise[:, 0, :0])
        arrays = [tf.TensorArray(tf.float32, count, element_shape=part.shape) for part in blank]
        _, _, *arrays = tf.while_loop(lambda t, *_: t < count, step, (tf.constant(0), blank, *arrays), maximum_iterations=count)
        return State(*(tf.stop_gradient(tf.transpose(array.stack(), (1, 0, 2))) for array in arrays))

    def loss_and_states(self, batch: Batch, noise: tf.Tensor) -> tuple[dict[str, tf.Tensor], State]:
        """See Memory.loss_and_states."""
        return self.loss_terms(batch, noise)[0], self.follow(batch, noise)


def _sampled(batch: Batch, noise: tf.Tensor) -> tf.Tensor:
    """z of each frame, a sample of V's posterior: float32 [B, T, z_size]."""
    return ConvVAE.sample(tf.cast(batch.mu, tf.float32), tf.cast(batch.logvar, tf.float32), noise)
