r"""M as a recurrent state-space model (PlaNet, Hafner et al. 2019; DreamerV2, DreamerV3), beside the paper's MDN-RNN.

                     a_{t-1}
                        |
        h_{t-1} --> [  GRU  ] --> h_t -------------> prior p(s_t | h_t)          imagined: s_t is drawn from it
        s_{t-1} ------/            |  \
                                   |   +-- e_t ----> posterior q(s_t | h_t, e_t) observed: s_t is drawn from it
                                   |       ^
                                   |    encoder(x_t)                             x_t: V's z of frame t
                                   v
                             h_t, s_t --> decoder: x_t | reward r_t | whether the episode goes on, c_t

h is deterministic and carries what happened, s is stochastic (groups of one-hot variables) and carries what could not be known
before frame t was seen. The rest of the program knows M through the contract of rnn/memory.py alone; what an MDN-RNN calls z is x here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from env.episodes import PRIVILEGED
from env.run.settings import Rssm
from rnn.heads import Network, OneHot, quantile, scalar
from rnn.lstm import product
from rnn.memory import Batch, Imagined
from rnn.recurrence import Inputs, Kernels, Scales, State, Steps, distribution, next_h, posterior_logits, unroll
from vae.vae import ConvVAE, to_float

FEATURES = {"z": ("s",), "zh": ("s", "h")}  # the setting says z for the stochastic state, as the MDN-RNN's C sees it


class Carried(NamedTuple):
    """What leads from a batch of a stream to the next: the last state, and the action, reward and loss of life that came after it."""

    state: State
    action: tf.Tensor
    reward: tf.Tensor
    lost: tf.Tensor


class Unrolled(NamedTuple):
    """The posterior along a batch, [B, T, ...].

    Attributes:
        steps: h, s and the posterior's logits.
        x: V's z of each frame.
        led: the action that led to it.
        known: 0 where nothing led to it, at the first frame of an episode, else 1: [B, T].
    """

    steps: Steps
    x: tf.Tensor
    led: tf.Tensor
    known: tf.Tensor


class RSSM(keras.Model):
    """The recurrent state-space model (a Memory, see rnn/memory.py).

    Args:
        z_size: size of x, V's z.
        action_size: size of the action that M is fed.
        settings: sizes, and the weights of the losses.
        dtype: "float32", or "mixed_bfloat16" to compute matrix products in bfloat16 with float32 weights, states and losses.
        privileged: of how many yes-or-no questions the world tells the answers in training (Batch.privileged); M learns to tell them
            where settings.beta_privileged is not 0.
    """

    def __init__(self, z_size: int, action_size: int, settings: Rssm, dtype: str = "float32", privileged: int = 0) -> None:
        super().__init__(name="rssm")
        self.settings = settings
        self.z_size, self.action_size = z_size, action_size
        self.units, self.groups, self.classes = settings.units, settings.groups, settings.classes
        self.stochastic = self.groups * self.classes
        self._compute = tf.bfloat16 if dtype == "mixed_bfloat16" else tf.float32
        hidden, units, both = settings.hidden, settings.units, settings.units + self.stochastic

        def kernel(name: str, rows: int, columns: int) -> Any:
            return self.add_weight(shape=(rows, columns), initializer="glorot_uniform", name=f"{name}_kernel")

        def vector(name: str, size: int, initializer: str) -> Any:
            return self.add_weight(shape=(size,), initializer=initializer, name=name)

        self.kernels = Kernels(
            kernel("s", self.stochastic, hidden),
            kernel("gru", hidden + units, 3 * units),
            kernel("posterior", units, hidden),
            kernel("logits", hidden, self.stochastic),
        )
        self.scales = Scales(
            vector("s_scale", hidden, "ones"),
            vector("gru_scale", 3 * units, "ones"),
            vector("posterior_scale", hidden, "ones"),
            vector("gru_bias", 3 * units, "zeros"),
            vector("logits_bias", self.stochastic, "zeros"),
        )
        self.action_layer = keras.layers.Dense(hidden, name="action", dtype="float32")
        self.action_layer.build((None, action_size))
        self.reward_kind = scalar(settings.reward_loss, settings.bins)
        self.encoder = Network(z_size, hidden, hidden, "encoder", dtype=dtype)
        self.prior = Network(units, hidden, self.stochastic, "prior", dtype=dtype)
        self.decoder = Network(both, hidden, z_size, "decoder", dtype=dtype)
        self.reward = Network(both, hidden, self.reward_kind.size, "reward", zero=True, dtype=dtype)
        self.goes_on = Network(both, hidden, 1, "continue", dtype=dtype)
        # What it tells nobody asks: it is there so that h and s have to hold it.
        told = privileged if settings.beta_privileged else 0
        self.teller = Network(both, hidden, told, PRIVILEGED, dtype=dtype) if told else None
        # How far, in each dimension of x, the decoder is off: learned, so that no weight has to be chosen between x's likelihood and KL.
        self.log_scale = self.add_weight(shape=(z_size,), initializer="zeros", name="log_scale")
        self.built = True
        self._eyes: Callable[[], ConvVAE] | None = None

        self.initial_noise = self.observe_noise = self.groups
        self.imagine_noise = self.groups + 1
        self.sample_noise = z_size + self.groups
        self.foresees_end = self.with_last = True

    def see_with(self, vae: ConvVAE) -> None:
        """From now on learn from frames, through a V that learns with M; its weights stay its own."""
        self._eyes = lambda: vae  # not an attribute: Keras would take V for a part of M

    @property
    def learning(self) -> list[Any]:
        """The variables that training changes: M's, and V's if M sees with it."""
        return [*self.trainable_variables, *(self._eyes().trainable_variables if self._eyes else ())]

    def _posterior_of(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """V's mu and logvar of each frame, float32 [B, T, z_size]."""
        if self._eyes is None:
            return tf.cast(batch.mu, tf.float32), tf.cast(batch.logvar, tf.float32)
        shape = tf.shape(batch.mu)
        flat = self._eyes().encode(tf.reshape(batch.mu, (-1, *batch.mu.shape[2:])), training=True)
        mu, logvar = (tf.reshape(part, (shape[0], shape[1], self.z_size)) for part in flat)
        return tf.ensure_shape(mu, (*batch.mu.shape[:2], self.z_size)), tf.ensure_shape(logvar, (*batch.mu.shape[:2], self.z_size))

    # One step.

    def _product(self, number: int, x: tf.Tensor) -> tf.Tensor:
        return product(x, tf.cast(self.kernels[number], self._compute))

    def _next_h(self, state: State, action: tf.Tensor) -> tf.Tensor:
        return next_h(state, self.action_layer(action), self.scales, self._product)

    def zero_state(self, rows: int | tf.Tensor) -> State:
        """h = s = 0: nothing happened yet."""
        return State(tf.zeros((rows, self.units)), tf.zeros((rows, self.stochastic)))

    def initial(self, x: tf.Tensor, noise: tf.Tensor) -> State:
        """The state at the start of B episodes that show x [B, z_size] first: what is observed after no state and no action."""
        rows = tf.shape(x)[0]
        return self.observe(self.zero_state(rows), tf.zeros((rows, self.action_size)), x, noise)

    def observe(self, state: State, action: tf.Tensor, x: tf.Tensor, noise: tf.Tensor) -> State:
        """The next state, when the world answered the action [B, A] with x [B, z_size]: s is drawn from the posterior."""
        h = self._next_h(state, action)
        logits = posterior_logits(h, self.encoder(x), self.scales, self._product)
        return State(h, self._distribution(logits).sample(noise))

    def imagine(self, state: State, action: tf.Tensor, temperature: float | tf.Tensor, noise: tf.Tensor) -> Imagined:
        """The next state, when M itself invents the answer to the action: s is drawn from the prior, at temperature tau > 0.

        The end is drawn, too, by its probability as it is: deaths that M cannot foresee for certain, and these are most, would else never
        come. (The paper's M, whose loss gives deaths ten times their weight, lets them come where they are likelier than not.)
        """
        h = self._next_h(state, action)
        state = State(h, self._distribution(self.prior(h), temperature).sample(noise[..., :-1]))
        seen = self.both(state)
        goes_on = tf.sigmoid(self.goes_on(seen)[..., 0])
        return Imagined(state, self.reward_kind.pred(self.reward(seen)), goes_on, quantile(noise[..., -1]) > goes_on)

    def _distribution(self, logits: tf.Tensor, temperature: float | tf.Tensor = 1.0) -> OneHot:
        return distribution(logits, self.groups, self.settings.unimix, temperature)

    def surprise(self, state: State) -> tf.Tensor:
        """See Memory.surprise: of s, by the prior."""
        return self._distribution(self.prior(state.h)).surprise(state.s)

    # What others see of a state.

    @staticmethod
    def both(state: State) -> tf.Tensor:
        """h and s, what all heads see: float32 [..., units + groups * classes]."""
        return tf.concat([state.h, state.s], axis=-1)

    def features(self, state: State, names: str) -> tf.Tensor:
        """What C sees of a state: "z" (s) or "zh" (s and h) -> float32 [..., F]."""
        return tf.concat([getattr(state, name) for name in FEATURES[names]], axis=-1)

    def feature_size(self, names: str) -> int:
        """F, the length of `features`."""
        return sum({"s": self.stochastic, "h": self.units}[name] for name in FEATURES[names])

    def latent(self, state: State) -> tf.Tensor:
        """The decoder's x, float32 [..., z_size]."""
        return self.decoder(self.both(state))

    # Sequences.

    def blank(self, rows: int) -> Carried:
        """Nothing, as if before any frame."""
        nothing = tf.zeros((rows,))
        return Carried(self.zero_state(rows), tf.zeros((rows, self.action_size)), nothing, nothing)

    def _unroll(self, batch: Batch, noise: tf.Tensor, carried: Carried | None) -> Unrolled:
        """The posterior along a batch.

        Which action, state, reward and end belong together (a batch says what came after each frame, M wants to know what led to it):

            frame t            x_t
            state t            h_t = GRU(h_{t-1}, s_{t-1}, action[t-1]),  s_t ~ q(h_t, x_t)
            heads of state t   x_t,  reward[t-1],  1 - lost[t-1]

        At an episode's first frame, and at the batch's first one if nothing is carried, the state and action before it are zero, and there
        is no reward and no end to learn.
        """
        z_noise, own = tf.split(noise, [self.z_size, self.groups], axis=-1)
        x = ConvVAE.sample(*self._posterior_of(batch), z_noise)
        rows = x.shape[0] or tf.shape(x)[0]
        start = self.blank(rows) if carried is None else carried
        keep = 1.0 - tf.cast(batch.first, tf.float32)
        if carried is None:
            keep = tf.concat([tf.zeros_like(keep[:, :1]), keep[:, 1:]], axis=1)
        led = tf.concat([start.action[:, None], tf.cast(batch.action, tf.float32)[:, :-1]], axis=1) * keep[..., None]
        parts = (self.action_layer(led), self.encoder(x), keep[..., None], own)
        inputs = Inputs(*(tf.transpose(part, (1, 0, 2)) for part in parts))
        kernels = Kernels(*(tf.cast(kernel, self._compute) for kernel in self.kernels))
        scales = Scales(*(tf.convert_to_tensor(vector) for vector in self.scales))
        outputs = unroll(kernels, scales, start.state, inputs, self.groups, self.settings.unimix)
        return Unrolled(Steps(*(tf.transpose(part, (1, 0, 2)) for part in outputs)), x, led, keep)

    def _dreamt(self, unrolled: Unrolled, noise: tf.Tensor) -> State:
        """What M imagined of each frame before it saw that, [B, T, ...]: of the first frame from what it saw before, of the second from
        what it imagined of the first, and so on, by the actions that were taken; every `ends_ahead` frames, and at an episode's first
        one, it begins again from what it saw. No gradient goes through what it drew itself, it goes through h.

        Args:
            unrolled: the posterior along a batch.
            noise: standard normal [B, T, groups], decides s.
        """
        ahead, steps = self.settings.ends_ahead, unrolled.known.shape[1]
        parts, most = -(-steps // ahead), -(-steps // ahead) * ahead

        def cut(x: tf.Tensor) -> tf.Tensor:
            """[B, T, ...] -> [ahead, B * parts, ...], what is missing at the end filled up."""
            padded = tf.pad(x, ((0, 0), (0, most - steps), (0, 0)))
            return tf.transpose(tf.reshape(padded, (-1, ahead, x.shape[-1])), (1, 0, 2))

        seen = unrolled.steps
        h_seen, s_seen, led, known, own = map(cut, (seen.h, seen.s, unrolled.led, unrolled.known[..., None], noise))
        actions = self.action_layer(led)
        h, states = h_seen[0], []
        for t in range(ahead):
            if t:
                h = known[t] * next_h(states[-1], actions[t], self.scales, self._product) + (1.0 - known[t]) * h_seen[t]
            s = tf.stop_gradient(self._distribution(self.prior(h)).sample(own[t]))
            states.append(State(h, known[t] * s + (1.0 - known[t]) * s_seen[t]))

        def joined(parts_of: list[tf.Tensor]) -> tf.Tensor:
            x = tf.stack(parts_of, axis=1)  # [B * parts, ahead, ...]
            return tf.reshape(x, (-1, parts * ahead, x.shape[-1]))[:, :steps]

        return State(joined([state.h for state in states]), joined([state.s for state in states]))

    def follow(self, batch: Batch, noise: tf.Tensor) -> State:
        """M's states at the batch's frames, [B, T, ...], without gradient; see Memory.follow."""
        steps = self._unroll(batch, noise, None).steps
        return State(tf.stop_gradient(steps.h), tf.stop_gradient(steps.s))

    def loss_terms(self, batch: Batch, noise: tf.Tensor, carried: Carried | None = None) -> tuple[dict[str, tf.Tensor], Carried]:
        """The training loss of a batch: of x, of the reward, of the continuation, and KL between posterior and prior.

        Args:
            batch: sequences [B, T].
            noise: standard normal float32 [B, T, sample_noise].
            carried: what the last batch of a stream gave, blank where the batch is fresh; None where the sequences stand alone.

        Returns:
            "loss", their weighted sum, and its parts as means over all frames, as scalars: "recon", "reward", "cont", "kl" (without the
            floor of free nats); "privileged", summed over its questions, where M learns that and the batch has it; "prior_entropy" and
            "posterior_entropy" in nats; "z": for each dimension of x minus a bound of its log likelihood given all before it, to compare
            with the MDN-RNN's. And what to carry to the next batch.
        """
        means, states = self._terms(batch, noise, carried)
        after = (tf.cast(part, tf.float32)[:, -1] for part in (batch.action, batch.reward, batch.lost))
        return means, Carried(tf.nest.map_structure(lambda part: part[:, -1], states), *after)

    def loss_and_states(self, batch: Batch, noise: tf.Tensor) -> tuple[dict[str, tf.Tensor], State]:
        """See Memory.loss_and_states."""
        return self._terms(batch, noise, None)

    def _terms(self, batch: Batch, noise: tf.Tensor, carried: Carried | None) -> tuple[dict[str, tf.Tensor], State]:
        """The terms of `loss_terms`, and the states of `follow`."""
        settings = self.settings
        unrolled = self._unroll(batch, noise, carried)
        steps, x, known = unrolled.steps, unrolled.x, unrolled.known
        state = State(steps.h, steps.s)
        seen, rows = self.both(state), tf.shape(x)[0]
        start = self.blank(rows) if carried is None else carried
        reward, lost = (
            tf.concat([first[:, None], tf.cast(after, tf.float32)[:, :-1]], axis=1)
            for first, after in ((start.reward, batch.reward), (start.lost, batch.lost))
        )
        posterior, prior = self._distribution(steps.logits), self._distribution(self.prior(steps.h))
        kl = posterior.kl(prior)
        decoded = self.decoder(seen)
        at_end = seen
        if settings.ends == "imagined":  # a death is plain to see in the frame that it leads to: who saw that one need not have foreseen it
            at_end = self.both(self._dreamt(unrolled, noise[..., self.z_size :]))
        terms = {
            "recon": self.recon_loss(decoded, batch, noise),
            "reward": known * self.reward_kind.loss(self.reward(seen), reward),
            "cont": known * tf.nn.sigmoid_cross_entropy_with_logits(1.0 - lost, self.goes_on(at_end)[..., 0]),
            "kl": kl,
        }
        weighted = settings.beta_recon * terms["recon"] + settings.beta_reward * terms["reward"] + settings.beta_cont * terms["cont"]
        weighted += settings.beta_kl * self.kl_loss(posterior, prior)
        terms |= {"prior_entropy": prior.entropy(), "posterior_entropy": posterior.entropy()}
        if self._eyes is None:
            terms["z"] = (self.log_loss(decoded, x, tf.zeros_like(x)) + kl) / self.z_size
        if self.teller and batch.privileged.shape[-1]:
            told = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(batch.privileged, tf.float32), self.teller(seen))
            terms[PRIVILEGED] = tf.reduce_sum(told, axis=-1)
            weighted += settings.beta_privileged * terms[PRIVILEGED]
        for name, term in terms.items():
            assert len(term.shape) == 2, f"{name} is {term.shape}, not [B, T]"
        means = {name: tf.reduce_mean(term) for name, term in {"loss": weighted, **terms}.items()}
        return means, State(*map(tf.stop_gradient, state))

    def recon_loss(self, decoded: tf.Tensor, batch: Batch, noise: tf.Tensor) -> tf.Tensor:
        """Minus the log likelihood of what was observed, [B, T].

        Latents: the mean over all x that V's posterior may give, so that the decoder learns nothing of the noise in the one that the
        encoder saw. Pixels: half the squared error (a deviation of 1, as DreamerV3), of the frames that are decoded, which stand for all.
        """
        if self._eyes is not None:
            return self._pixel_loss(decoded, batch, noise)
        return self.log_loss(decoded, tf.cast(batch.mu, tf.float32), tf.exp(tf.cast(batch.logvar, tf.float32)))

    def log_loss(self, decoded: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """The mean of -log N(x; decoded, scale) over x of this mean and variance, summed over x's dimensions: [B, T]."""
        squared = (tf.square(mean - decoded) + variance) * tf.exp(-2.0 * self.log_scale)
        return tf.reduce_sum(0.5 * squared + self.log_scale + 0.5 * math.log(2 * math.pi), axis=-1)

    def _pixel_loss(self, decoded: tf.Tensor, batch: Batch, noise: tf.Tensor) -> tf.Tensor:
        """Of every n-th frame, beginning at a random one, n by the setting `decoded`; their mean for each of a sequence's frames."""
        assert self._eyes is not None
        steps = batch.mu.shape[1]
        every = max(1, min(steps, round(1.0 / self.settings.decoded)))
        begin = tf.cast(tf.math.floormod(tf.abs(noise[0, 0, 0]) * 1e4, float(every)), tf.int32)
        chosen = tf.minimum(begin + every * tf.range(-(-steps // every)), steps - 1)
        frames = to_float(tf.reshape(tf.gather(batch.mu, chosen, axis=1), (-1, *batch.mu.shape[2:])))
        seen = self._eyes().decode(tf.reshape(tf.gather(decoded, chosen, axis=1), (-1, self.z_size)), training=True)
        error = 0.5 * tf.reduce_sum(tf.square(frames - seen), axis=(1, 2, 3))
        mean = tf.reduce_mean(tf.reshape(error, (-1, chosen.shape[0])), axis=1, keepdims=True)
        return tf.repeat(mean, steps, axis=1)

    def kl_loss(self, posterior: OneHot, prior: OneHot) -> tf.Tensor:
        """KL, whose gradient teaches mostly the prior (kl_balance), each of the two parts floored at free_nats: [B, T]."""
        balance, free = self.settings.kl_balance, self.settings.free_nats
        for_prior = tf.maximum(posterior.stopped().kl(prior), free)
        for_posterior = tf.maximum(posterior.kl(prior.stopped()), free)
        return balance * for_prior + (1.0 - balance) * for_posterior
