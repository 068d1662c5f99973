"""Bugs that others who rebuilt this paper have made: each is put into a copy of the project, where its test must then fail."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT
from forked import pytest_in


class Bug(NamedTuple):
    """A bug: which text of which file becomes which, and the test that must find it."""

    what: str
    file: str
    right: str
    wrong: str
    test: str


SAMPLES = "tests/test_rnn.py::test_samples_have_the_theorys_mean_and_variance"
SPREAD = "tf.exp(log_std) * tf.sqrt(tf.cast(temperature, tf.float32))"
DREAMS = "tests/test_dream.py::test_one_dream_and_lanes_dream_the_same"

CLIP, CLIP_NORM = "tf.clip_by_value(gradient, -limit, limit)", "tf.clip_by_norm(gradient, limit)"
CLIPPED = "tests/test_rnn.py::test_gradients_are_clipped_element_by_element"
BIASES = "tests/test_rnn.py::test_biases_start_glorot_uniform_as_tf1_left_them"
SEEDS = "tests/test_train.py"
FAULTS = "tests/test_faults.py::test_"
STATE = "tests/test_es.py::test_a_saved_state_goes_on_as_if_nothing_happened"
RSSM = "tests/test_rssm.py::test_"
ROUNDS = "tests/test_rounds.py::test_"
DIRECTIONS = "tests/test_directions.py::test_"
ACTOR = "tests/test_actor_critic.py::test_"
PAPER = "tests/test_settings.py::test_paper_scale_is_the_papers"
STALE = "tests/test_shipped.py::test_shipped_scores_are_consistent"
OFFICIAL = "tests/test_carracing.py::test_the_official_picture_is_gymnasiums_to_the_bit"

BUGS = [
    Bug(
        "the loss pairs a frame with the action before it",
        "rnn/rnn.py",
        "x = self._input(z, tf.cast(batch.action, tf.float32), first",
        "x = self._input(z, tf.roll(tf.cast(batch.action, tf.float32), 1, axis=1), first",
        "tests/test_rnn.py::test_the_loss_pairs_each_z_and_action_with_the_next_z",
    ),
    Bug(
        "the recorder keeps the frame after the action",
        "env/rollout.py",
        "self.rows.append((self.frame, asked",
        "self.rows.append((frame, asked",
        "tests/test_agent.py::test_recorded_episodes_pair_a_frame_with_the_action_taken_on_it",
    ),
    Bug(
        "a limit of steps is a death",
        "rnn/rnn.py",
        "weight *= 1.0 - target * (1.0 - tf.cast(batch.done, tf.float32)[:, :-1])",
        "weight *= 1.0",
        "tests/test_rnn.py::test_the_loss_of_death_against_numpy",
    ),
    Bug(
        "death weighs no more than life",
        "rnn/rnn.py",
        "weight = 1.0 + (self.restart_weight - 1.0) * target",
        "weight = tf.ones_like(target)",
        "tests/test_rnn.py::test_the_loss_of_death_against_numpy",
    ),
    Bug(
        "the agent sees V's mean",
        "controller/agent.py",
        "z, memory = mu if self._mean else self.vae.sample(mu, logvar, noise), self.memory",
        "z, memory = mu, self.memory",
        "tests/test_agent.py::test_the_agent_samples_z",
    ),
    Bug(
        "M learns V's mean",
        "rnn/rnn.py",
        "z = _sampled(batch, noise)",
        "z = tf.cast(batch.mu, tf.float32)",
        "tests/test_rnn.py::test_the_loss_samples_z_with_the_posteriors_deviation",
    ),
    Bug("tau is left out of the logits", "rnn/mdn.py", "Categorical(logits=logits / temperature)", "Categorical(logits=logits)", SAMPLES),
    Bug("tau is left out of the deviation", "rnn/mdn.py", f"tfd.Normal(mean, {SPREAD})", "tfd.Normal(mean, tf.exp(log_std))", SAMPLES),
    Bug("a dream's logits are not divided by tau", "rnn/mdn.py", "keepdims=True)) / temperature)", "keepdims=True)))", SAMPLES),
    Bug("a dream's deviation lacks tau", "rnn/mdn.py", f"{SPREAD} * noise", "tf.exp(log_std) * noise", SAMPLES),
    Bug("a dream's tau multiplies the deviation", "rnn/mdn.py", f"{SPREAD} * noise", "tf.exp(log_std) * temperature * noise", SAMPLES),
    Bug(
        "all dimensions share one mixture",
        "rnn/mdn.py",
        "tfd.Categorical(logits=logits / temperature)",
        "tfd.Categorical(logits=tf.repeat(logits[..., :1, :], logits.shape[-2], axis=-2) / temperature)",
        "tests/test_rnn.py::test_each_dimension_has_its_own_mixture",
    ),
    Bug(
        "all dimensions of a dream share one choice",
        "rnn/mdn.py",
        "heights = tf.cumsum(weights, axis=-1)",
        "heights = tf.repeat(tf.cumsum(weights, axis=-1)[..., 3:4, :], weights.shape[-2], axis=-2)",
        "tests/test_rnn.py::test_dreams_have_a_mixture_for_each_dimension",
    ),
    Bug(
        "dreams start in mid-episode",
        "vae/encode.py",
        'first.append((latents["mu"][0], latents["logvar"][0]))',
        'first.append((latents["mu"][-1], latents["logvar"][-1]))',
        "tests/test_encode.py::test_latents_keep_their_episodes_and_dreams_start_at_first_frames",
    ),
    Bug(
        "a dream starts without restart",
        "rnn/rnn.py",
        "return State(x, zeros, zeros, tf.ones((lanes, 1)))",
        "return State(x, zeros, zeros, tf.zeros((lanes, 1)))",
        "tests/test_dream.py::test_dreams_start_from_recorded_first_frames",
    ),
    Bug("Doom's C sees [z, h]", "env/tasks.py", 'features="zch"', 'features="zh"', "tests/test_agent.py::test_dooms_loop_is_the_papers"),
    Bug(
        "Doom's C sees [z, h, c]",
        "rnn/rnn.py",
        '"zch": ("z", "c", "h")',
        '"zch": ("z", "h", "c")',
        "tests/test_agent.py::test_dooms_loop_is_the_papers",
    ),
    Bug(
        "the variance is taken for the deviation",
        "vae/vae.py",
        "return mu + tf.exp(logvar / 2) * noise",
        "return mu + tf.exp(logvar) * noise",
        "tests/test_vae.py::test_a_sample_has_the_posteriors_variance",
    ),
    Bug(
        "a dream's start takes the variance for the deviation",
        "rnn/dream.py",
        "np.exp(logvar.astype(np.float32) / 2)",
        "np.exp(logvar.astype(np.float32))",
        "tests/test_dream.py::test_dreams_start_from_recorded_first_frames",
    ),
    Bug(
        "the pixel loss is a mean",
        "vae/vae.py",
        "tf.reduce_sum(squares, axis=(1, 2, 3))",
        "tf.reduce_mean(squares, axis=(1, 2, 3))",
        "tests/test_vae.py::test_loss_equals_numpy",
    ),
    Bug(
        "M remembers what was before a restart",
        "rnn/lstm.py",
        "keep = tf.ones(tf.shape(x)[:2]) if reset is None else 1.0 - tf.transpose(reset)",
        "keep = tf.ones(tf.shape(x)[:2])",
        "tests/test_rnn.py::test_what_was_before_a_restart_is_forgotten",
    ),
    Bug(
        "M forgets its state between windows",
        "rnn/train.py",
        "variable.assign(value), carried",
        "variable.assign(value * 0), carried",
        "tests/test_rnn.py::test_state_is_carried_from_window_to_window_and_not_into_an_epoch",
    ),
    Bug(
        "M carries its state into the next epoch",
        "rnn/train.py",
        "kept = 1.0 - tf.cast(batch.fresh, tf.float32)",
        "kept = 1.0",
        "tests/test_rnn.py::test_state_is_carried_from_window_to_window_and_not_into_an_epoch",
    ),
    Bug("C is trained in dreams without noise", "rnn/dream.py", "tf.constant(self._noise())", "tf.constant(self._noise() * 0)", DREAMS),
    Bug(
        "C is trained on a state that an earlier dream left",
        "rnn/dream.py",
        "lambda now, new: tf.tensor_scatter_nd_update(now, lanes, new)",
        "lambda now, new: now",
        DREAMS,
    ),
    Bug(
        "C is scored with another action than it was trained with",
        "controller/simulate.py",
        "self._act, self._params, self._noise = tf.function(make_act(policy, actions))",
        "self._act, self._params, self._noise = (lambda *given: 0.5 * make_act(policy, actions)(*given))",
        "tests/test_simulate.py::test_the_trainers_dream_is_the_shown_one",
    ),
    # What a review found that tests let pass.
    Bug("large weights are rewarded", "controller/es.py", "fitness - self.l2", "fitness + self.l2", "tests/test_es.py"),
    Bug("Adam's epsilon is Keras'", "env/run/training.py", "epsilon=1e-8", "epsilon=1e-7", "tests/test_training.py"),
    Bug("gradients are clipped by norm", "rnn/train.py", CLIP, CLIP_NORM, CLIPPED),
    Bug("gradients are not clipped", "rnn/train.py", CLIP, "gradient", CLIPPED),
    Bug(
        "z is sampled once and for all",
        "env/run/training.py",
        "tf.constant([seed, number])",
        "tf.constant([seed, 0])",
        "tests/test_training.py",
    ),
    Bug("all generations play the same episodes", "controller/train.py", "Purpose.TRAINING, generation,", "Purpose.TRAINING, 0,", SEEDS),
    Bug("scoring plays what was played for pictures", "env/rollout.py", "PICTURES = 4", "PICTURES = 2", SEEDS),
    Bug("each scoring has other episodes", "controller/train.py", "Purpose.SCORING, e)", "Purpose.SCORING, time.time_ns() % 1000)", SEEDS),
    Bug("the paper's weight decay is another", "env/run/settings.py", 'setting(0.01, "weight decay', 'setting(0.1, "weight decay', PAPER),
    Bug("the paper's scorings are rarer", "env/run/settings.py", 'setting(25, "generations', 'setting(50, "generations', PAPER),
    Bug("Doom's learning rate falls faster", "env/tasks.py", "decay=0.99999", "decay=0.9999", PAPER),
    Bug(
        "our drawing is brighter",
        "env/worlds/drawing.py",
        "_LOSS = 2",
        "_LOSS = 0",
        "tests/test_carracing.py::test_drawing_is_close_and_physics_equal",
    ),
    Bug("shipped scores of other weights pass", "env/run/weights.py", "sha256(path.read_bytes())", "sha256(path.read_bytes()[1:])", STALE),
    Bug(
        "another V is combined with an older M",
        "env/run/stages.py",
        "if name not in past and then.get(name, now) != now:",
        "if False:",
        "tests/test_rundir.py",
    ),
    Bug("M's biases start at zero", "rnn/lstm.py", 'initializer="glorot_uniform", name="bias"', 'initializer="zeros", name="bias"', BIASES),
    Bug(
        "recordings lack what the last action led to",
        "env/rollout.py",
        "np.stack([*obs, self.frame])",
        "np.stack([*obs, obs[-1]])",
        "tests/test_agent.py::test_recorded_episodes_pair_a_frame_with_the_action_taken_on_it",
    ),
    Bug(
        "V learns what came after the last action",
        "env/episodes.py",
        'episode[key][: len(episode["obs"]) - 1]',
        "episode[key][:]",
        "tests/test_episodes.py",
    ),
    Bug(
        "the official picture keeps old colours",
        "env/worlds/drawing.py",
        "self._colours.append(colour)",
        "self._colours.append(tuple(colour))",
        OFFICIAL,
    ),
    Bug(
        "the official picture lacks what touches its edge",
        "env/worlds/drawing.py",
        "self._reach * zoom + 2",
        "self._reach * zoom * 0.5",
        OFFICIAL,
    ),
    Bug(
        "a resumed evolution forgets what was not saved",
        "controller/train.py",
        'if row["generation"] == self.generation + 1:',
        'if row["generation"] == self.generation - 1:',
        SEEDS,
    ),
    Bug(
        "a fitness that is no number is the best",
        "controller/train.py",
        "low - (high - low) - 1.0",
        "high + 1.0",
        f"{FAULTS}a_fitness_that_is_no_number_is_tried_again_and_then_comes_last",
    ),
    Bug(
        "another run's checkpoint is gone on from",
        "env/run/checkpoints.py",
        'meta.get("owner") != self._owner or ',
        "",
        f"{FAULTS}of_a_damaged_checkpoint_the_one_before_is_used",
    ),
    Bug(
        "a stopped training forgets a part of its log's row",
        "env/run/training.py",
        "row = Row(latest.meta if latest else None)",
        "row = Row()",
        f"{FAULTS}a_training_that_is_asked_to_stop_writes_what_it_goes_on_from",
    ),
    Bug("CMA-ES loses its evolution path", "controller/es.py", 'ARRAYS = ("mean", "pc",', 'ARRAYS = ("mean",', STATE),
    Bug("a discrete action is the smallest output", "env/actions.py", "y.argmax(axis=-1)", "y.argmin(axis=-1)", "tests/test_own_game.py"),
    # What others who built an RSSM and an actor-critic have got wrong.
    Bug(
        "M is told the action after its frame",
        "rnn/rssm.py",
        "tf.concat([start.action[:, None], tf.cast(batch.action, tf.float32)[:, :-1]], axis=1) * keep",
        "tf.cast(batch.action, tf.float32) * keep",
        f"{RSSM}a_state_knows_the_action_that_led_to_it_and_no_later_one",
    ),
    Bug(
        "an episode knows the state of the one before",
        "rnn/recurrence.py",
        "State(h * keep, s * keep)",
        "State(h, s)",
        f"{RSSM}nothing_from_before_an_episodes_first_frame_is_known_after_it",
    ),
    Bug(
        "an episode knows the last action of the one before",
        "rnn/rssm.py",
        "[:, :-1]], axis=1) * keep[..., None]",
        "[:, :-1]], axis=1)",
        f"{RSSM}nothing_from_before_an_episodes_first_frame_is_known_after_it",
    ),
    Bug(
        "a reward is learned a frame too early",
        "rnn/rssm.py",
        "tf.concat([first[:, None], tf.cast(after, tf.float32)[:, :-1]], axis=1)",
        "tf.cast(after, tf.float32)",
        f"{RSSM}reward_and_end_belong_to_the_state_that_they_led_to",
    ),
    Bug(
        "an imagined end has seen the frame after it",
        "rnn/rssm.py",
        "self.goes_on(at_end)",
        "self.goes_on(seen)",
        f"{RSSM}an_end_is_learned_from_the_frame_that_shows_it_or_from_what_came_before",
    ),
    Bug(
        "an imagined end is learned from what M saw on the way",
        "rnn/rssm.py",
        "next_h(states[-1], actions[t]",
        "next_h(State(h_seen[t - 1], s_seen[t - 1]), actions[t]",
        f"{RSSM}imagined_ends_are_those_of_a_dream",
    ),
    Bug(
        "the parts of KL are swapped",
        "rnn/rssm.py",
        "balance * for_prior + (1.0 - balance) * for_posterior",
        "balance * for_posterior + (1.0 - balance) * for_prior",
        f"{RSSM}each_part_of_kl_teaches_its_own_side",
    ),
    Bug(
        "KL has no floor",
        "rnn/rssm.py",
        "tf.maximum(posterior.kl(prior.stopped()), free)",
        "posterior.kl(prior.stopped())",
        f"{RSSM}under_the_free_nats_kl_teaches_nobody",
    ),
    Bug(
        "no gradient goes through a sample",
        "rnn/heads.py",
        "tf.stop_gradient(picked - self.probs) + self.probs",
        "tf.stop_gradient(picked) + 0.0 * self.probs",
        "tests/test_heads.py::test_the_gradient_goes_straight_through_a_sample",
    ),
    Bug(
        "a step limit counts as a death",
        "env/rollout.py",
        "(self.frame, asked, reward, terminated)",
        "(self.frame, asked, reward, terminated or truncated)",
        "tests/test_agent.py::test_a_step_limit_is_recorded_as_no_end",
    ),
    Bug(
        "a death is cut off from what is learned from",
        "rnn/replay.py",
        "frames = steps + self._with_last",
        "frames = steps",
        "tests/test_replay.py::test_a_sequence_holds_what_came_after_each_frame",
    ),
    Bug(
        "returns trust the state before the step",
        "controller/actor_critic.py",
        "values[1:], options.gamma",
        "values[:-1], options.gamma",
        f"{ACTOR}a_return_trusts_the_critic_where_the_dream_ends",
    ),
    Bug(
        "returns go on after an end",
        "controller/actor_critic.py",
        "reward[t] + gamma * goes_on[t] * (",
        "reward[t] + gamma * (",
        f"{ACTOR}a_chain_that_ends_is_worth_its_discounted_rewards",
    ),
    Bug(
        "moments count as far as the one after them is reached",
        "controller/actor_critic.py",
        "tf.concat([alive[None], gamma * goes_on[:-1]], axis=0)",
        "gamma * goes_on",
        f"{ACTOR}moments_count_as_far_as_they_are_reached",
    ),
    Bug(
        "the actor does not wait for its critic",
        "controller/actor_critic.py",
        "tf.where(waits, tf.zeros_like(gradient), gradient)",
        "gradient",
        f"{ACTOR}the_actor_waits_for_its_critic",
    ),
    Bug(
        "Adam counts the steps in which the actor waits",
        "controller/actor_critic.py",
        "tf.where(waits, tf.zeros_like(steps), steps)",
        "steps",
        f"{ACTOR}the_actor_waits_for_its_critic",
    ),
    Bug(
        "something comes after a death that cost part of a life",
        "controller/actor_critic.py",
        "tf.maximum(lost, done)",
        "lost",
        f"{ACTOR}what_was_earned_ends_with_the_episode",
    ),
    Bug(
        "what was earned goes on into the next episode",
        "controller/actor_critic.py",
        "ahead = known[:, t] * earned + (1.0 - known[:, t]) * values[:, t]",
        "ahead = earned",
        f"{ACTOR}what_was_earned_ends_with_the_episode",
    ),
    Bug(
        "the actor does the opposite",
        "controller/actor_critic.py",
        "gain = advantage * self",
        "gain = -advantage * self",
        f"{ACTOR}a_bandit_finds_the_arm_that_pays",
    ),
    Bug(
        "the slow critic stands still",
        "controller/actor_critic.py",
        "slow.assign_add(self.options.slow_rate",
        "slow.assign_add(0.0 * self.options.slow_rate",
        f"{ACTOR}the_slow_critic_follows",
    ),
    Bug(
        "the actor that is scored never learns",
        "controller/actor_critic.py",
        "average.assign_add(self.options.average_rate",
        "average.assign_add(0.0 * self.options.average_rate",
        f"{ACTOR}what_is_scored_is_the_actors_running_mean",
    ),
    Bug(
        "a pool is looked for from here alone",
        "env/recordings.py",
        "log = pool_path(run, settings) /",
        "log = Path(settings.extract.pool) /",
        "tests/test_rounds.py::test_a_pool_of_a_pool_is_found_from_another_folder",
    ),
    Bug(
        "later rounds record the games of the first",
        "controller/extract.py",
        "first + index, *attempt",
        "index, *attempt",
        f"{ROUNDS}pooled_episodes_follow_a_runs_own",
    ),
    Bug(
        "a mirrored episode is steered as the one before the mirror",
        "controller/extract.py",
        'episode["action"] * np.array(task.mirror, np.float32)',
        'episode["action"]',
        f"{ROUNDS}mirrored_recordings_are_the_pools_left_for_right",
    ),
    Bug(
        "a C that saw another M is taken without a word",
        "env/run/taken.py",
        "fingerprint(file) for file in known if",
        "then[part] for file in known if",
        f"{ROUNDS}a_c_that_saw_another_v_or_m_is_told_of",
    ),
    Bug(
        "later rounds try the candidates of the first",
        "controller/rounds.py",
        "es_seed=first.controller.es_seed + number",
        "es_seed=first.controller.es_seed",
        f"{ROUNDS}each_round_begins_with_the_one_before",
    ),
    Bug(
        "latents are taken over from another episode",
        "vae/encode.py",
        "index = number - settings.extract.episodes",
        "index = number - 1",
        f"{ROUNDS}latents_of_the_same_v_are_taken_over_and_of_another_are_not",
    ),
    Bug(
        "curiosity shuns what M does not know",
        "controller/simulate.py",
        "c.curiosity * agent.surprise()",
        "-c.curiosity * agent.surprise()",
        "tests/test_simulate.py::test_curiosity_pays_for_what_m_did_not_foresee",
    ),
    Bug(
        "an evolution that goes on begins at zero",
        "controller/es.py",
        "np.zeros(size) if start is None else",
        "np.zeros(size) if size else",
        "tests/test_es.py::test_it_begins_where_it_is_told_to",
    ),
    Bug(
        "a V that goes on learns again what it has learned from",
        "env/episodes.py",
        "skip -= 1\n                continue",
        "skip -= 1",
        "tests/test_episodes.py::test_a_pass_that_begins_in_its_middle_is_the_rest_of_the_whole_one",
    ),
    Bug(
        "an actor-critic makes no room for what is pooled",
        "controller/learning.py",
        "* longest + pooled, options",
        "* longest, options",
        f"{ROUNDS}pooled_episodes_follow_a_runs_own",
    ),
    Bug(
        "a later round's actor learns anew",
        "controller/rounds.py",
        "        c = replace(c, start=path)",
        "        c = replace(c)",
        f"{ROUNDS}rounds_of_an_actor_critic_go_on_with_its_c",
    ),
    Bug(
        "an actor begins with another's means, not with its deviations",
        "controller/actor_critic.py",
        "            self.deviation.kernel.assign(kernel.reshape(self.deviation.kernel.shape))\n",
        "",
        f"{ACTOR}the_c_that_is_kept_draws_as_the_actor_does",
    ),
    Bug(
        "the C that is scored begins at random, though the actor begins with another's",
        "controller/actor_critic.py",
        "for actor in (self.actor, self.average)}",
        "for actor in (self.actor,)}",
        f"{ACTOR}a_learner_begins_with_a_c_and_its_running_mean_does",
    ),
    Bug(
        "an RSSM's dreams end only where death is likelier than not",
        "rnn/rssm.py",
        "quantile(noise[..., -1]) > goes_on",
        "goes_on < 0.5",
        f"{RSSM}a_dream_ends_as_often_as_m_says",
    ),
    Bug(
        "dreams of another temperature stand beside the paper's",
        "controller/results/tables.py",
        "dream = None  # scored in other",
        "pass  # scored in other",
        "tests/test_verify.py::test_dreams_of_another_temperature_are_not_put_beside_the_papers",
    ),
    Bug(
        "what an RSSM learns goes back over an episode's start",
        "rnn/recurrence.py",
        "(d_before + d_joint_h) * keep",
        "(d_before + d_joint_h)",
        f"{RSSM}kernels_get_the_gradient_that_tensorflow_would_give_them",
    ),
    Bug(
        "engines are killed where the whole process was stopped",
        "env/worlds/engine.py",
        "min(now - looked, 2 * pause)",
        "now - looked",
        "tests/test_doom.py::test_an_engine_is_given_its_time_where_the_whole_process_was_stopped",
    ),
    Bug(
        "engines that still start are killed, which takes their process along",
        "env/worlds/engine.py",
        "        if engine.starts:\n",
        "        if not engine:\n",
        "tests/test_doom.py::test_an_engine_that_still_starts_is_not_killed",
    ),
    Bug(
        "where actions are held, the last frame before the limit is not drawn",
        "env/worlds/held.py",
        "number == self._frames or self._steps == self._max_steps",
        "number == self._frames",
        "tests/test_held.py::test_doom_draws_only_what_is_seen_and_shows_the_same[fast]",
    ),
    Bug(
        "a checkpoint that cannot be read is deleted",
        "env/run/checkpoints.py",
        'damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))',
        "damaged.unlink()",
        f"{FAULTS}of_a_damaged_checkpoint_the_one_before_is_used",
    ),
    Bug(
        "a deadly hit costs no more than others",
        "env/episodes.py",
        'np.where(np.append(False, episode["done"]), 0.0, episode[HEALTH])',
        "episode[HEALTH]",
        "tests/test_episodes.py::test_what_a_life_lost_sums_to_one_at_its_end",
    ),
    Bug(
        "an RSSM learns of deaths where it was asked to learn of health",
        "rnn/rssm.py",
        "(start.lost, batch.lost)",
        "(start.lost, batch.done)",
        f"{RSSM}a_step_that_cost_a_part_of_a_life_ends_it_by_that_part",
    ),
    Bug(
        "a direction of C moves the mean of an output, too",
        "controller/directions.py",
        "-(centre @ scaled) * unit",
        "0.0 * unit",
        DIRECTIONS + "a_unit_of_each_direction_adds_a_standard_deviation_to_one_output",
    ),
    Bug(
        "directions begin at zero, not at the C to begin with",
        "controller/directions.py",
        "return self.start + numbers @ self.basis",
        "return numbers @ self.basis",
        DIRECTIONS + "a_unit_of_each_direction_adds_a_standard_deviation_to_one_output",
    ),
    Bug(
        "a fireball that comes by on the right is told of on the left",
        "env/worlds/doom.py",
        "player.position_y - (ball.position_y + time * ball.velocity_y)",
        "(ball.position_y + time * ball.velocity_y) - player.position_y",
        "tests/test_doom.py::test_fireballs_are_told_of_by_when_and_where_they_come_through",
    ),
    Bug(
        "in a mirror fireballs are told of where they were before it",
        "controller/extract.py",
        "for key, array in episode.items() if key != PRIVILEGED}",
        "for key, array in episode.items()}",
        f"{ROUNDS}mirrored_recordings_are_the_pools_left_for_right",
    ),
    Bug(
        "V is not taught what it is told of",
        "vae/train.py",
        'terms["loss"] += beta * terms[PRIVILEGED]',
        'terms["loss"] += 0.0 * terms[PRIVILEGED]',
        "tests/test_vae.py::test_v_learns_what_it_is_told_of_frames",
    ),
    Bug(
        "a file that lacks a part of M's head is taken for one of an M without",
        "env/run/weights.py",
        "left = new if new and not any(new in name for name in arrays) else None",
        "left = new or None",
        f"{RSSM}what_is_privileged_is_learned_from_the_state_at_its_frame",
    ),
    Bug(
        "the MDN-RNN learns to tell what was to be told a frame before",
        "rnn/rnn.py",
        "answers = tf.cast(batch.privileged[:, 1:], tf.float32)",
        "answers = tf.cast(batch.privileged[:, :-1], tf.float32)",
        "tests/test_rnn.py::test_what_is_privileged_is_a_linear_function_of_what_c_sees",
    ),
    Bug(
        "an episode's first frame is told from the h of the episode before it",
        "rnn/rnn.py",
        "tf.cast(every_h, tf.float32) * (1.0 - first[:, 1:, None])",
        "tf.cast(every_h, tf.float32)",
        "tests/test_rnn.py::test_what_is_privileged_is_a_linear_function_of_what_c_sees",
    ),
    Bug(
        "a road that goes to the right is told of on the left",
        "env/worlds/carracing.py",
        "turned = cmath.exp(-1j * hull.angle)",
        "turned = -cmath.exp(-1j * hull.angle)",
        "tests/test_carracing.py::test_what_is_privileged_says_where_the_road_goes_and_how_the_car_moves",
    ),
    Bug(
        "a teacher acts by what was told a step before",
        "env/rollout.py",
        "self._seen[number] = slot.shown(self._told)",
        "self._seen[number] = self._seen[number] if self._told else slot.shown(self._told)",
        "tests/test_told.py::test_a_teachers_episodes_are_recorded_with_their_frames",
    ),
    Bug(
        "what an output beyond the action's bounds is counts as much as any",
        "controller/imitate.py",
        "weights = np.where((action < actions.low) | (action > actions.high), 0.0, weights)",
        "weights = np.where((action < actions.low) & (action > actions.high), 0.0, weights)",
        "tests/test_told.py::test_outputs_count_by_how_much_they_matter_to_the_action",
    ),
    Bug(
        "what is done at random in an episode differs between the candidates that play it",
        "env/random_policy.py",
        "np.random.default_rng((job.seed, 3))",
        "np.random.default_rng((job.seed, 3, job.candidate))",
        "tests/test_told.py::test_what_is_done_at_random_while_c_evolves_is_the_same_for_all_who_play_the_episode",
    ),
    Bug(
        "a V that goes on begins with what knows nothing of what z holds",
        "vae/train.py",
        "        assign_weights(path, arrays, teller)",
        "        assign_weights(path, {v.path: v.numpy() for v in teller.weights}, teller)",
        "tests/test_vae.py::test_a_v_that_goes_on_keeps_what_tells_what_it_holds",
    ),
]


def linked(source: str, target: str) -> None:
    """A file is copied; weights, which are large and which nobody writes into, are only linked to where they are on the same disk."""
    if source.endswith(".npz"):
        try:
            return os.link(source, target)
        except OSError:
            pass
    shutil.copy2(source, target)


def finds(bug: Bug, folder: Path) -> str:
    """Put the bug into a copy of the project and run its test: '' when it fails as it must, else what went wrong."""
    for name in ("env", "vae", "rnn", "controller", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.jsonl"), copy_function=linked)
    shutil.copy(ROOT / "setup.cfg", folder)
    file = folder / bug.file
    text = file.read_text()
    if bug.right not in text:
        return f"{bug.file} no longer has '{bug.right}'"
    file.write_text(text.replace(bug.right, bug.wrong, 1))
    fast = [] if "::" in bug.test else ["-m", "not slow"]  # of a whole file
    code, printed = pytest_in(folder, "-x", "-n", "0", *fast, "-p", "no:cacheprovider", bug.test)
    shutil.rmtree(folder)
    asserted = "AssertionError" in printed or "Failed: DID NOT RAISE" in printed
    return "" if code == 1 and "1 failed" in printed and asserted else f"{bug.what}: {printed[-800:]}"


@pytest.mark.slow
def test_each_known_bug_is_found(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        missed = [answer for answer in pool.map(finds, BUGS, [tmp_path / str(i) for i in range(len(BUGS))]) if answer]
    assert not missed, "\n\n".join(missed)
