"""C as an actor that learns in M's imagination, beside a critic that says what a state is worth (Dreamer, Hafner et al. 2020;
DreamerV3, Hafner et al. 2023). Any memory whose dream has a reward and an end will do (rnn/memory.py).

What belongs to what in a dream of H steps that starts from a state s_0 which M was in while it followed a recording:

    s_0 -- a_0 --> s_1 -- a_1 --> s_2 ... s_{H-1} -- a_{H-1} --> s_H
                   r_1            r_2                            r_H      reward of the step to that state
                   c_1            c_2                            c_H      the probability that the episode goes on after it
    v_0            v_1            v_2                            v_H      what the critic holds a state worth
    R_0            R_1            ...            R_{H-1}                  R_t = r_{t+1} + gamma c_{t+1} ((1 - lam) v_{t+1} + lam R_{t+1})

The actor is a C of controller/policy.py, which draws its actions, in the world too, or takes the likeliest (actor_critic.drawn): it is
evaluated, shown and shipped like any other C.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from controller.policy import Policy, choice, logarithms, normal
from env.actions import Actions, Continuous
from env.run.settings import ActorCritic as Options
from env.run.training import adam
from rnn.heads import Network, TwoHot
from rnn.memory import Batch, Memory, State

BINS = 63  # of the critic's answers
SCALE_RATE, SCALE_LOW, SCALE_HIGH = 0.01, 5.0, 95.0  # of the running range of returns (DreamerV3)


class Actor(keras.Model):
    """Who acts: a distribution over C's outputs y, of which the game makes actions (env/actions.py).

    Continuous actions: normal, its mean C's tanh output, its deviation by a linear map of what C sees. Discrete ones: categorical.

    Args:
        policy: C's shape.
        actions: the game's.
        features: size of what C sees.
    """

    def __init__(self, policy: Policy, actions: Actions) -> None:
        super().__init__(name="actor")
        self.policy, self.actions = policy, actions
        self.continuous = isinstance(actions, Continuous)
        self.params = self.add_weight(shape=(policy.own_size,), initializer=lambda shape, dtype: first_params(policy, dtype), name="params")
        self.deviation = keras.layers.Dense(policy.outputs, kernel_initializer="zeros", name="deviation")
        if self.continuous:
            self.deviation.build((None, policy.inputs))
        self.noise = policy.outputs  # standard normal numbers that an action takes
        self.built = True

    def distribution(self, features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """features [..., F] -> the means and deviations of y [..., A]; or log probabilities of each action, twice, if it is discrete."""
        sums = self.policy.sums(self.params, features)
        if not self.continuous:
            logs = logarithms(sums)
            return logs, logs
        return normal(sums, self.deviation(features))

    def sample(self, features: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """y of features [..., F], drawn by standard normal noise [..., A]: one-hot, where actions are discrete."""
        mean, deviation = self.distribution(features)
        return mean + deviation * noise if self.continuous else choice(mean, noise)

    def candidate(self) -> np.ndarray:
        """C's parameters as they are now, float32 [policy.size]."""
        parts = [np.asarray(self.params)]
        if self.policy.drawn == "normal":
            parts += [np.asarray(self.deviation.bias), np.asarray(self.deviation.kernel).ravel()]
        return np.concatenate(parts).astype(np.float32)

    def begin_with(self, params: np.ndarray) -> None:
        """Act as a C does: the inverse of `candidate`.

        Args:
            params: its parameters, float32 [policy.size].
        """
        own = self.policy.own_size
        self.params.assign(params[:own])
        if self.policy.drawn == "normal":
            bias, kernel = np.split(params[own:], [self.policy.outputs])
            self.deviation.bias.assign(bias)
            self.deviation.kernel.assign(kernel.reshape(self.deviation.kernel.shape))

    def action(self, y: tf.Tensor) -> tf.Tensor:
        """What the world and M are told, of C's outputs y [..., A]."""
        return self.actions.of_outputs(y)

    def log_prob(self, features: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Log probability (density) of y [..., A] given features [..., F]: [...]."""
        mean, deviation = self.distribution(features)
        if not self.continuous:
            return tf.reduce_sum(y * mean, axis=-1)
        standard = (y - mean) / deviation
        return tf.reduce_sum(-0.5 * tf.square(standard) - tf.math.log(deviation) - 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self, features: tf.Tensor) -> tf.Tensor:
        """In nats: [...]."""
        mean, deviation = self.distribution(features)
        if not self.continuous:
            return -tf.reduce_sum(tf.exp(mean) * mean, axis=-1)
        return tf.reduce_sum(tf.math.log(deviation) + 0.5 * math.log(2 * math.pi * math.e), axis=-1)


def first_params(policy: Policy, dtype: str) -> tf.Tensor:
    """Random weights for hidden layers, zeros for the last: at first all means are 0."""
    parts = []
    for number, (inputs, outputs) in enumerate(policy.layers(), start=1):
        parts += [tf.zeros(outputs * policy.bias, dtype)]
        last = number == len(policy.layers())
        weights = tf.zeros((inputs, outputs), dtype) if last else keras.initializers.GlorotUniform()((inputs, outputs), dtype)
        parts += [tf.reshape(weights, (-1,))]
    return tf.concat(parts, axis=0)


class Dreamt(NamedTuple):
    """Dreams of H steps from N starts.

    Attributes:
        features: what C saw of s_0 .. s_H, [H + 1, N, F].
        y: what C drew in s_0 .. s_{H-1}, [H, N, A].
        reward, goes_on: r_1 .. r_H and c_1 .. c_H, [H, N].
    """

    features: tf.Tensor
    y: tf.Tensor
    reward: tf.Tensor
    goes_on: tf.Tensor


def lambda_returns(reward: tf.Tensor, goes_on: tf.Tensor, values: tf.Tensor, gamma: float, lam: float) -> tf.Tensor:
    """R_0 .. R_{H-1} [H, N], see above.

    Args:
        reward, goes_on: r_1 .. r_H and c_1 .. c_H, [H, N].
        values: v_1 .. v_H, [H, N].
        gamma, lam: discount, and lambda.
    """
    ahead, returns = values[-1], []
    for t in reversed(range(reward.shape[0])):
        ahead = reward[t] + gamma * goes_on[t] * ((1.0 - lam) * values[t] + lam * ahead)
        returns.append(ahead)
    return tf.stack(returns[::-1])


def replay_returns(batch: Batch, values: tf.Tensor, gamma: float, lam: float) -> tuple[tf.Tensor, tf.Tensor]:
    """What was earned after each frame of recorded sequences but their last one, and then promised: lambda returns [B, T - 1].

    Args:
        batch: the sequences [B, T].
        values: what the critic holds their frames worth, [B, T].
        gamma, lam: discount, and lambda.

    Returns:
        The returns, and for which frames they are known, as 1 or 0: not for an episode's last one, after which nothing was done.
    """
    reward, done, first, lost = (tf.cast(part, tf.float32) for part in (batch.reward, batch.done, batch.first, batch.lost))
    lost = tf.maximum(lost, done)  # a deadly hit may have cost a part of a life; nothing comes after it all the same
    known = tf.maximum(1.0 - first[:, 1:], done[:, :-1])
    ahead, returns = values[:, -1], []
    for t in reversed(range(values.shape[1] - 1)):
        earned = reward[:, t] + gamma * (1.0 - lost[:, t]) * ((1.0 - lam) * values[:, t + 1] + lam * ahead)
        ahead = known[:, t] * earned + (1.0 - known[:, t]) * values[:, t]
        returns.append(ahead)
    return tf.stack(returns[::-1], axis=1), known


def reach(goes_on: tf.Tensor, alive: tf.Tensor, gamma: float) -> tf.Tensor:
    """How much the moments s_0 .. s_{H-1} count: the probability that the dream still goes on there, discounted: [H, N].

    Args:
        goes_on: c_1 .. c_H, [H, N].
        alive: whether the episode goes on after s_0, [N]: from a death nothing follows.
    """
    steps = tf.concat([alive[None], gamma * goes_on[:-1]], axis=0)
    return tf.stop_gradient(tf.math.cumprod(steps, axis=0))


class ActorCritic(keras.Model):
    """Actor, critic and slow critic, and how they learn from dreams.

    Args:
        policy, actions, options: C's shape, the game's actions, the settings.
        feature_names: what C and the critic see, see Memory.features.
        temperature: tau of the dreams.
    """

    def __init__(self, policy: Policy, actions: Actions, options: Options, feature_names: str, temperature: float) -> None:
        super().__init__(name="actor_critic")
        self.options, self.feature_names, self.temperature = options, feature_names, temperature
        self.actor = Actor(policy, actions)
        # Through M the gradient has far less variance (Dreamer, DreamerV2: for continuous control); no gradient goes through a choice.
        self.through_m = self.actor.continuous if options.gradient == "auto" else options.gradient == "dynamics"
        self.worth = TwoHot(BINS)
        self.critic = Network(policy.inputs, options.hidden, BINS, "critic", layers=2, zero=True)
        self.slow = Network(policy.inputs, options.hidden, BINS, "slow", layers=2, zero=True)
        self.critic_follows()
        self.slow.trainable = False
        # The running mean of the actor. It is scored and kept instead, where it is asked for.
        self.average = self.actor
        if options.average_rate < 1:
            self.average = Actor(policy, actions)
            for average, now in zip(self.average.trainable_variables, self.actor.trainable_variables):
                average.assign(now)
            self.average.trainable = False
        # The running 5th and 95th percentile of returns, by whose distance the actor's advantages are divided if it is above 1.
        self.low = self.add_weight(shape=(), initializer="zeros", trainable=False, name="low")
        self.high = self.add_weight(shape=(), initializer="zeros", trainable=False, name="high")
        self.actor_optimizer, self.critic_optimizer = adam(options.actor_rate), adam(options.critic_rate)
        self.actor_optimizer.build(self.actor.trainable_variables)
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.built = True

    def begin_with(self, params: np.ndarray) -> None:
        """Let the actor, and its running mean, act as a C does, see Actor.begin_with."""
        for actor in {id(actor): actor for actor in (self.actor, self.average)}.values():
            actor.begin_with(params)

    def beside_c(self) -> dict[str, tf.Variable]:
        """What a later training goes on from, beside C: the critic, the range of returns, and how far actions are drawn from their
        means, which a C does not say that takes the likeliest ones."""
        kept = {f"critic/{number}": variable for number, variable in enumerate(self.critic.trainable_variables)}
        deviation = {f"deviation/{number}": variable for number, variable in enumerate(self.average.deviation.variables)}
        return kept | deviation | {"low": self.low, "high": self.high}

    def go_on_from(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `beside_c` of another training was.

        Raises:
            ValueError: it was of another shape.
        """
        for name, variable in self.beside_c().items():
            if name not in arrays or arrays[name].shape != tuple(variable.shape):
                found = arrays[name].shape if name in arrays else "none"
                raise ValueError(f"'{name}' has shape {found}, expected {tuple(variable.shape)}")
            variable.assign(arrays[name])
        for average, now in zip(self.average.deviation.variables, self.actor.deviation.variables):
            now.assign(average)
        self.critic_follows()

    def critic_follows(self) -> None:
        """Let the slow critic be as the critic is."""
        for slow, fast in zip(self.slow.variables, self.critic.trainable_variables):
            slow.assign(fast)

    def optimizer_variables(self) -> list[tf.Variable]:
        """What the two optimisers remember."""
        return [*self.actor_optimizer.variables, *self.critic_optimizer.variables]

    def dream(self, memory: Memory, start: State, noise: tf.Tensor) -> Dreamt:
        """Dreams of H steps from states [N, ...], in which the actor acts.

        Args:
            memory: M, which does not learn from it.
            start: of M, [N, ...].
            noise: standard normal [H, N, imagine_noise + A].
        """
        own, names, temperature = memory.imagine_noise, self.feature_names, tf.constant(self.temperature, tf.float32)
        state, features, moments = start, [memory.features(start, self.feature_names)], []
        for drawn in tf.unstack(noise):  # step by step in the graph: a loop's gradient would hand on all that it needs through lists
            y = self.actor.sample(features[-1], drawn[:, own:])
            state, reward, goes_on, _ = memory.imagine(state, self.actor.action(y), temperature, drawn[:, :own])
            features.append(memory.features(state, names))
            moments.append((y, reward, goes_on))
        return Dreamt(tf.stack(features), *map(tf.stack, zip(*moments)))

    def loss_terms(self, memory: Memory, start: State, alive: tf.Tensor, noise: tf.Tensor) -> dict[str, tf.Tensor]:
        """The losses of a batch of dreams, "actor" and "critic", and what else to log, as scalars; the range of returns moves on.

        Args:
            memory, start, noise: as in `dream`.
            alive: whether the recorded episode goes on after the start, float32 [N].
        """
        options, through_m = self.options, self.through_m
        dreamt = self.dream(memory, start, noise)
        if not through_m:
            dreamt = Dreamt(*map(tf.stop_gradient, dreamt))
        features = tf.stop_gradient(dreamt.features)
        outputs = self.critic(dreamt.features)
        values = self.worth.pred(outputs)
        returns = lambda_returns(dreamt.reward, dreamt.goes_on, values[1:], options.gamma, options.lam)
        weight = reach(dreamt.goes_on, alive, options.gamma)
        low, high = (percentile(tf.stop_gradient(returns), share) for share in (SCALE_LOW, SCALE_HIGH))
        for variable, now in ((self.low, low), (self.high, high)):
            variable.assign_add(SCALE_RATE * (now - variable))
        scale = tf.maximum(1.0, self.high - self.low)
        entropy = self.actor.entropy(features[:-1])
        if through_m:
            gain = returns / scale
        else:
            advantage = tf.stop_gradient((returns - values[:-1]) / scale)
            gain = advantage * self.actor.log_prob(features[:-1], dreamt.y)
        actor = -tf.reduce_mean(weight * (gain + options.entropy * entropy))
        target = tf.stop_gradient(returns)
        critic = self._critic_loss(outputs[:-1], features[:-1], target)
        return {
            "actor": actor,
            "critic": tf.reduce_mean(weight * critic),
            "return": tf.reduce_mean(target),
            "value": tf.reduce_mean(values),
            "entropy": tf.reduce_mean(entropy),
            "scale": scale,
            "dream_reward": tf.reduce_mean(dreamt.reward),
            "dream_goes_on": tf.reduce_mean(dreamt.goes_on),
        }

    def _critic_loss(self, outputs: tf.Tensor, features: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """How far the critic's outputs [..., BINS] for features [..., F] are from the target [...], and from the slow critic: [...]."""
        slow = tf.stop_gradient(self.worth.pred(self.slow(features)))
        return self.worth.loss(outputs, target) + self.options.slow_weight * self.worth.loss(outputs, slow)

    def replay_loss(self, memory: Memory, batch: Batch, states: State) -> tf.Tensor:
        """The critic's loss on what was really earned (DreamerV3): what M promises wrongly is not all that it hears of. A scalar.

        Args:
            memory, batch, states: as in `learn`.
        """
        options = self.options
        features = tf.stop_gradient(memory.features(states, self.feature_names))
        outputs = self.critic(features)
        returns, known = replay_returns(batch, tf.stop_gradient(self.worth.pred(outputs)), options.gamma, options.lam)
        return tf.reduce_mean(known * self._critic_loss(outputs[:, :-1], features[:, :-1], returns))

    def learn(self, memory: Memory, batch: Batch, states: State, noise: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step of actor and critic, from dreams of the last frames of recorded sequences.

        Args:
            memory: M.
            batch: the sequences [B, T].
            states: M's states at their frames, [B, T, ...], see Memory.follow.
            noise: standard normal [horizon, B * starts, imagine_noise + A].

        Returns:
            The terms of `loss_terms`; with a replay_weight, "replay", the critic's loss on what was played, which "critic" then includes.
        """
        last = self.options.starts
        start = tf.nest.map_structure(lambda part: tf.reshape(part[:, -last:], (-1, *part.shape[2:])), states)
        alive = 1.0 - tf.reshape(ended(batch, memory.with_last)[:, -last:], (-1,))
        with tf.GradientTape(persistent=True) as tape:
            terms = self.loss_terms(memory, start, alive, noise)
            if self.options.replay_weight:
                replay = self.replay_loss(memory, batch, states)
                terms |= {"critic": terms["critic"] + self.options.replay_weight * replay, "replay": replay}
        waits = self.critic_optimizer.iterations < self.options.critic_first
        for name, model, optimizer in (
            ("actor", self.actor, self.actor_optimizer),
            ("critic", self.critic, self.critic_optimizer),
        ):
            gradients = tf.clip_by_global_norm(tape.gradient(terms[name], model.trainable_variables), self.options.grad_clip)[0]
            if name == "actor" and self.options.critic_first:  # by Adam, without a gradient so far, nothing moves
                gradients = [tf.where(waits, tf.zeros_like(gradient), gradient) for gradient in gradients]
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        if self.options.critic_first:
            # Nor does Adam count these steps: it would take its averages, still zero, for settled ones, and the actor's first steps would
            # be up to six times as large.
            steps = self.actor_optimizer.iterations
            steps.assign(tf.where(waits, tf.zeros_like(steps), steps))
        for slow, fast in zip(self.slow.variables, self.critic.trainable_variables):
            slow.assign_add(self.options.slow_rate * (fast - slow))
        if self.average is not self.actor:
            for average, now in zip(self.average.variables, self.actor.trainable_variables):
                average.assign_add(self.options.average_rate * (now - average))
        return terms


def ended(batch: Batch, with_last: bool) -> tf.Tensor:
    """Whether the episode is over at each frame of a batch, float32 [B, T]: where last frames are kept, the one that a deadly action
    led to; else no frame is."""
    done = tf.cast(batch.done, tf.float32)
    before = tf.concat([tf.zeros_like(done[:, :1]), done[:, :-1]], axis=1)
    return before * (1.0 - tf.cast(batch.first, tf.float32)) if with_last else tf.zeros_like(done)


def percentile(x: tf.Tensor, share: float) -> tf.Tensor:
    """The value below which `share` percent of all x lie, interpolated."""
    ordered = tf.sort(tf.reshape(x, (-1,)))
    place = share / 100.0 * (int(np.prod(x.shape)) - 1)
    low = int(math.floor(place))
    high = min(low + 1, int(np.prod(x.shape)) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
