"""The recurrent state-space model: what it is told when, what learns from what, and that it remembers."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import rnn.recurrence
import rnn.rssm
from env.run.errors import UserError
from env.run.files import load_arrays
from env.run.settings import Rssm
from env.run.weights import assign_weights, save_weights
from env.tasks import get_task, system
from rnn.memory import Batch, as_batch, load_memory, make_memory, memory_meta
from rnn.rssm import RSSM, State

SMALL = Rssm(units=12, hidden=10, groups=3, classes=4, bins=15)
ROWS, STEPS, Z, A = 3, 7, 5, 2


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture()
def memory():
    keras.utils.set_random_seed(3)
    return RSSM(Z, A, SMALL)


def a_batch(first=None, rows=ROWS, steps=STEPS):
    parts = (random(rows, steps, size, seed=seed) for seed, size in enumerate((Z, Z, A)))
    mu, logvar, action = parts
    done = np.zeros((rows, steps), np.float32) if first is None else np.roll(first, -1, axis=1)
    return as_batch(*map(tf.constant, (mu, logvar - 2, action)), first, random(rows, steps, seed=8), done)


def noise_for(memory, batch, seed=4):
    return tf.constant(random(*batch.mu.shape[:2], memory.sample_noise, seed=seed))


def firsts(*places):
    first = np.zeros((ROWS, STEPS), np.float32)
    for row, t in places:
        first[row, t] = 1
    return first


def test_a_state_knows_the_action_that_led_to_it_and_no_later_one(memory):
    batch = a_batch()
    action = tf.Variable(batch.action)
    for t in (1, 4):
        with tf.GradientTape() as tape:
            steps = memory._unroll(batch._replace(action=action), noise_for(memory, batch), None).steps
            total = tf.reduce_sum(steps.h[:, t] * random(ROWS, SMALL.units))
        gradient = np.abs(tape.gradient(total, action)).max(axis=(0, 2))
        assert (gradient[:t] > 0).all()
        assert (gradient[t:] == 0).all()


def test_nothing_from_before_an_episodes_first_frame_is_known_after_it(memory):
    first = firsts((0, 3), (1, 3), (2, 3))
    one, other = a_batch(first), a_batch(first)
    changed = {key: tf.concat([getattr(other, key)[:, :3] + 1.0, getattr(other, key)[:, 3:]], axis=1) for key in ("mu", "action")}
    other = other._replace(**changed)
    states = [memory.follow(batch, noise_for(memory, batch)) for batch in (one, other)]
    for a, b in zip(*states):
        assert np.array_equal(a[:, 3:], b[:, 3:])
        assert not np.array_equal(a[:, 2], b[:, 2])


def test_following_a_batch_is_observing_frame_by_frame(memory):
    """So the agent, which observes, is in the states that M learned from."""
    batch = a_batch(firsts((1, 4)))
    noise = noise_for(memory, batch)
    states = memory.follow(batch, noise)
    x = batch.mu + tf.exp(batch.logvar / 2) * noise[..., :Z]
    state = memory.initial(x[:, 0], noise[:, 0, Z:])
    for t in range(STEPS):
        if t:
            went_on = memory.observe(state, batch.action[:, t - 1], x[:, t], noise[:, t, Z:])
            began = memory.initial(x[:, t], noise[:, t, Z:])
            state = State(*(tf.where(batch.first[:, t, None] > 0, a, b) for a, b in zip(began, went_on)))
        for a, b in zip(state, states):
            np.testing.assert_allclose(a, b[:, t], atol=1e-5)


def test_kernels_get_the_gradient_that_tensorflow_would_give_them(memory, monkeypatch):
    batch, variables = a_batch(firsts((0, 2), (2, 5))), memory.trainable_variables

    def gradients():
        with tf.GradientTape() as tape:
            loss = memory.loss_terms(batch, noise_for(memory, batch))[0]["loss"]
        return tape.gradient(loss, variables)

    ours = gradients()

    def plain(kernels, scales, start, inputs, groups, unimix):
        s, trace = rnn.recurrence._loop(kernels, scales, start, inputs, groups, unimix)
        return rnn.recurrence.Steps(trace.h, s, trace.logits)

    monkeypatch.setattr(rnn.rssm, "unroll", plain)
    for variable, a, b in zip(variables, ours, gradients()):
        assert a is not None, variable.path
        # A few units in the last place of the variable's largest gradient, for the order of sums is another.
        np.testing.assert_allclose(a, b, rtol=0, atol=max(2e-5, 1e-6 * np.abs(b).max()), err_msg=variable.path)


def test_reward_and_end_belong_to_the_state_that_they_led_to(memory):
    """Each is learned at the frame after its action, and not at an episode's first one."""
    batch = a_batch(firsts((0, 3)))
    seen = {}
    memory.reward_kind.loss = lambda outputs, target: seen.setdefault("reward", target)
    memory.loss_terms(batch, noise_for(memory, batch))
    np.testing.assert_array_equal(seen["reward"][:, 1:], batch.reward[:, :-1])
    known = memory._unroll(batch, noise_for(memory, batch), None).known
    expected = np.ones((ROWS, STEPS))
    expected[:, 0] = expected[0, 3] = 0
    np.testing.assert_array_equal(known, expected)


def test_windows_of_a_stream_give_what_the_whole_gives(memory):
    batch = a_batch(firsts((0, 0), (1, 0), (2, 0), (1, 5)), steps=STEPS)
    noise = noise_for(memory, batch)
    whole = memory.loss_terms(batch, noise, memory.blank(ROWS))[0]
    carried, parts = memory.blank(ROWS), []
    for begin, end in ((0, 4), (4, STEPS)):
        window = Batch(*(part[:, begin:end] for part in batch[:-1]), fresh=batch.fresh)
        terms, carried = memory.loss_terms(window, noise[:, begin:end], carried)
        parts.append((end - begin, terms))
    for name in whole:
        assert sum(n * float(terms[name]) for n, terms in parts) / STEPS == pytest.approx(float(whole[name]), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("balance, moved, still", [(1.0, "prior", "logits_kernel"), (0.0, "logits_kernel", "prior")])
def test_each_part_of_kl_teaches_its_own_side(memory, balance, moved, still):
    memory.settings = dataclasses.replace(SMALL, kl_balance=balance, free_nats=0.0)
    posterior_logits, prior_logits = tf.Variable(random(4, 12)), tf.Variable(random(4, 12, seed=1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(memory.kl_loss(memory._distribution(posterior_logits), memory._distribution(prior_logits)))
    to_posterior, to_prior = tape.gradient(loss, [posterior_logits, prior_logits], unconnected_gradients="zero")
    found = {"logits_kernel": np.abs(to_posterior).max(), "prior": np.abs(to_prior).max()}
    assert found[moved] > 1e-3
    assert found[still] == 0


def test_under_the_free_nats_kl_teaches_nobody(memory):
    memory.settings = dataclasses.replace(SMALL, free_nats=50.0)
    logits = [tf.Variable(random(4, 12, seed=seed)) for seed in (0, 1)]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(memory.kl_loss(*map(memory._distribution, logits)))
    assert all(np.abs(gradient).max() == 0 for gradient in tape.gradient(loss, logits, unconnected_gradients="zero"))
    assert float(loss) == pytest.approx(4 * 50.0)


@pytest.mark.parametrize(
    "beta, touched",
    [("beta_recon", "decoder"), ("beta_reward", "reward"), ("beta_cont", "continue"), ("beta_kl", "prior")],
)
def test_each_loss_has_its_weight(memory, beta, touched):
    """With all others at 0, its own head learns, and no other one; the recurrence always does."""
    off = dict.fromkeys(("beta_recon", "beta_reward", "beta_cont", "beta_kl"), 0.0)
    memory.settings = dataclasses.replace(SMALL, free_nats=0.0, **(off | {beta: 1.0}))
    batch = a_batch()
    for layer in (memory.reward.last, memory.goes_on.last):
        layer.kernel.assign(random(*layer.kernel.shape))
    with tf.GradientTape() as tape:
        loss = memory.loss_terms(batch, noise_for(memory, batch))[0]["loss"]
    gradients = tape.gradient(loss, memory.trainable_variables, unconnected_gradients="zero")
    moved = {variable.path.split("/")[0].split("_")[0] for variable, g in zip(memory.trainable_variables, gradients) if np.abs(g).max() > 0}
    assert {"decoder", "reward", "continue", "prior"} & moved == {touched}
    assert {"rssm", "encoder", "action"} <= moved


def deadly_batch():
    """The last action but one ends each episode; the last frame shows it."""
    done = np.zeros((ROWS, STEPS), np.float32)
    done[:, -2] = 1
    return a_batch()._replace(done=tf.constant(done), lost=tf.constant(done))


@pytest.mark.parametrize("ends", ["seen", "imagined"])
def test_an_end_is_learned_from_the_frame_that_shows_it_or_from_what_came_before(memory, ends):
    memory.settings = dataclasses.replace(SMALL, ends=ends)
    batch = deadly_batch()
    mu = tf.Variable(batch.mu)
    with tf.GradientTape() as tape:
        cont = memory.loss_terms(batch._replace(mu=mu), noise_for(memory, batch))[0]["cont"]
    gradient = np.abs(tape.gradient(cont, mu)).max(axis=(0, 2))
    assert (gradient[-1] > 0) == (ends == "seen")
    assert (gradient[:-1] > 0).all()


@pytest.mark.parametrize("ahead", [1, 3, STEPS + 1])
def test_imagined_ends_are_those_of_a_dream(memory, ahead):
    memory.settings = dataclasses.replace(SMALL, ends="imagined", ends_ahead=ahead)
    batch = a_batch(firsts((0, 0), (1, 0), (2, 0), (1, 2), (2, 5)))
    noise = noise_for(memory, batch)
    seen = memory.follow(batch, noise)
    expected = 0.0
    for row in range(ROWS):
        state = None
        for t in range(STEPS):
            if batch.first[row, t]:
                state = State(seen.h[row : row + 1, t], seen.s[row : row + 1, t])
                continue
            if t % ahead == 0:
                state = State(seen.h[row : row + 1, t - 1], seen.s[row : row + 1, t - 1])
            own = tf.concat([noise[row : row + 1, t, Z:], noise[row : row + 1, t, :1]], axis=1)
            answer = memory.imagine(state, batch.action[row : row + 1, t - 1], 1.0, own)
            state, goes_on = answer.state, float(answer.goes_on[0])
            expected -= np.log(1 - goes_on if batch.done[row, t - 1] else goes_on)
    assert float(memory.loss_terms(batch, noise)[0]["cont"]) == pytest.approx(expected / (ROWS * STEPS), rel=1e-4)


def test_what_an_end_takes_to_foresee_is_learned_however_long_ago_it_was_seen(memory):
    memory.settings = dataclasses.replace(SMALL, ends="imagined", ends_ahead=STEPS)
    batch = deadly_batch()
    mu = tf.Variable(batch.mu)
    with tf.GradientTape() as tape:
        cont = memory.loss_terms(batch._replace(mu=mu), noise_for(memory, batch))[0]["cont"]
    gradient = np.abs(tape.gradient(cont, mu)).max(axis=(0, 2))
    assert gradient[0] > 0 and (gradient[1:] == 0).all()


@pytest.mark.parametrize("ends", ["seen", "imagined"])
def test_a_step_that_cost_a_part_of_a_life_ends_it_by_that_part(memory, ends):
    """The loss of 0.3 of a life is that of three deaths in ten of the same step."""
    memory.settings = dataclasses.replace(SMALL, ends=ends)
    batch = deadly_batch()
    noise = noise_for(memory, batch)
    part, all_of_it, nothing = (
        float(memory.loss_terms(batch._replace(lost=share * batch.lost), noise)[0]["cont"]) for share in (0.3, 1.0, 0.0)
    )
    assert all_of_it != pytest.approx(nothing, rel=0.01)
    assert part == pytest.approx(0.3 * all_of_it + 0.7 * nothing, rel=1e-5)


def test_what_is_privileged_is_learned_from_the_state_at_its_frame(tmp_path):
    told = tf.constant(np.random.default_rng(5).integers(0, 2, (ROWS, STEPS, 4)), tf.uint8)
    plain, keen = RSSM(Z, A, SMALL, privileged=4), RSSM(Z, A, dataclasses.replace(SMALL, beta_privileged=2.0), privileged=4)
    assert len(keen.weights) == len(plain.weights) + 4  # without a weight for it M has no head for it
    batch = a_batch(firsts((0, 3)))
    noise = noise_for(keen, batch)
    without, _ = keen.loss_terms(batch, noise)  # as scored: nobody tells
    terms, _ = keen.loss_terms(batch._replace(privileged=told), noise)
    assert "privileged" not in without
    steps = keen._unroll(batch, noise, None).steps
    logits = keen.teller(keen.both(State(steps.h, steps.s))).numpy()
    expected = np.where(told.numpy() == 1, np.logaddexp(0, -logits), np.logaddexp(0, logits)).sum(-1).mean()
    assert float(terms["privileged"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms["loss"]) == pytest.approx(float(without["loss"]) + 2 * expected, rel=1e-5)
    with tf.GradientTape() as tape:
        loss = keen.loss_terms(batch._replace(privileged=told), noise)[0]["privileged"]
    assert np.abs(tape.gradient(loss, keen.kernels.gru)).max() > 0

    save_weights(tmp_path / "plain.npz", plain, {})
    arrays = load_arrays(tmp_path / "plain.npz")[0]
    with pytest.raises(UserError, match="no array '.*privileged"):
        assign_weights(tmp_path / "plain.npz", arrays, keen)
    before = keen.teller.last.kernel.numpy()
    assign_weights(tmp_path / "plain.npz", arrays, keen, new="privileged")
    np.testing.assert_array_equal(keen.teller.last.kernel, before)
    np.testing.assert_array_equal(keen.kernels.gru, plain.kernels.gru)
    arrays = {v.path: v.numpy() for v in keen.weights}
    arrays.pop(next(name for name in arrays if "privileged" in name))
    with pytest.raises(UserError, match="no array '.*privileged"):  # a part of it is missing
        assign_weights(tmp_path / "part.npz", arrays, keen, new="privileged")


def test_a_squared_reward_is_one_number():
    memory = RSSM(Z, A, dataclasses.replace(SMALL, reward_loss="squared"))
    memory.reward.last.bias.assign([2.5])
    batch = a_batch()
    target = np.concatenate([np.zeros((ROWS, 1)), batch.reward[:, :-1]], axis=1)
    expected = ((2.5 - target)[:, 1:] ** 2).sum() / target.size
    assert float(memory.loss_terms(batch, noise_for(memory, batch))[0]["reward"]) == pytest.approx(expected, rel=1e-5)


def test_imagining_starts_at_a_reward_of_nothing_and_goes_on(memory):
    state = memory.initial(tf.constant(random(4, Z)), tf.constant(random(4, memory.initial_noise)))
    answer = memory.imagine(state, tf.constant(random(4, A)), 1.0, tf.constant(random(4, memory.imagine_noise)))
    assert (answer.reward.numpy() == 0).all()
    assert ((answer.goes_on.numpy() > 0) & (answer.goes_on.numpy() < 1)).all()
    assert memory.latent(answer.state).shape == (4, Z)
    np.testing.assert_array_equal(tf.reduce_sum(tf.reshape(answer.state.s, (4, 3, 4)), axis=-1).numpy().round(5), np.ones((4, 3)))


def test_a_dream_ends_as_often_as_m_says(memory):
    """Also where each single death is unlikely: with the rule of the paper's M, likelier than not, none would ever come."""
    memory.goes_on.last.kernel.assign(tf.zeros_like(memory.goes_on.last.kernel))
    memory.goes_on.last.bias.assign([np.log(0.95 / 0.05)])
    state, noise = memory.zero_state(4000), random(4000, memory.imagine_noise)
    answer = memory.imagine(state, tf.zeros((4000, A)), 1.0, tf.constant(noise))
    np.testing.assert_allclose(answer.goes_on, 0.95, atol=1e-5)
    assert answer.over.numpy().mean() == pytest.approx(0.05, abs=0.015)
    noise[:, :-1] = random(4000, memory.imagine_noise - 1, seed=9)  # what else happens has no part in it
    np.testing.assert_array_equal(memory.imagine(state, tf.zeros((4000, A)), 1.0, tf.constant(noise)).over, answer.over)


def test_temperature_decides_how_much_is_left_to_chance(memory):
    state = memory.initial(tf.constant(random(1, Z)), tf.zeros((1, 3)))
    many = tf.nest.map_structure(lambda part: tf.repeat(part, 500, axis=0), state)

    def kinds(temperature):
        s = memory.imagine(many, tf.zeros((500, A)), temperature, tf.constant(random(500, memory.imagine_noise))).state.s
        return len(np.unique(s.numpy().round(3), axis=0))

    assert kinds(1e-3) == 1 < kinds(0.3) <= kinds(1.0) <= kinds(3.0) + 5


def test_features_are_s_and_h(memory):
    state = State(tf.ones((2, 12)), tf.zeros((2, 12)))
    assert memory.feature_size("z") == 12
    assert memory.feature_size("zh") == 24
    np.testing.assert_array_equal(memory.features(state, "zh"), np.repeat([[0.0] * 12 + [1.0] * 12], 2, axis=0))


def test_weights_are_saved_and_loaded_and_refused(tmp_path):
    from env.run.errors import UserError
    from env.run.weights import save_weights

    task = get_task("doom")
    settings = system(task.scales["smoke"], "rssm", "cmaes")
    memory = make_memory(task, settings, "float32")
    path = tmp_path / "m.npz"
    save_weights(path, memory, memory_meta(task, settings))
    loaded = load_memory(path, task, settings)
    for a, b in zip(memory.weights, loaded.weights):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="this run needs rnn"):
        load_memory(path, task, task.scales["smoke"])
    larger = dataclasses.replace(settings, rssm=dataclasses.replace(settings.rssm, units=64))
    with pytest.raises(UserError, match="units 32, this run needs 64"):
        load_memory(path, task, larger)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_hidden_bit_is_remembered_and_foretold(dtype):
    """The world shows a random bit at frame 1, nothing for three frames, and the bit again. s must carry it away from what the prior
    could know (KL), h must keep it, and the dream must show at frame 5 what it showed at frame 1."""
    keras.utils.set_random_seed(0)
    settings = dataclasses.replace(SMALL, units=32, hidden=32, free_nats=0.1)
    memory = RSSM(1, 1, settings, dtype)
    optimizer, rng = keras.optimizers.Adam(3e-3), np.random.default_rng(0)
    rows, steps = 32, 6

    def draw():
        bits = rng.choice([-1.0, 1.0], rows).astype(np.float32)
        mu = np.zeros((rows, steps, 1), np.float32)
        mu[:, 1, 0] = mu[:, 5, 0] = bits
        first = np.zeros((rows, steps), np.float32)
        first[:, 0] = 1
        batch = as_batch(mu, np.full_like(mu, -4), np.zeros((rows, steps, 1), np.float32), first)
        return bits, Batch(*map(tf.constant, batch)), tf.constant(rng.standard_normal((rows, steps, memory.sample_noise), np.float32))

    @tf.function
    def step(noise, *parts):
        with tf.GradientTape() as tape:
            terms = memory.loss_terms(Batch(*parts), noise)[0]
        optimizer.apply_gradients(zip(tape.gradient(terms["loss"], memory.trainable_variables), memory.trainable_variables))
        return terms

    for _ in range(500):
        _, batch, noise = draw()
        terms = step(noise, *batch)
    # One bit, ln 2 = 0.69 nats, in six frames.
    bits, batch, noise = draw()
    steps_ = memory._unroll(batch, noise, None).steps
    kl = memory._distribution(steps_.logits).kl(memory._distribution(memory.prior(steps_.h))).numpy().mean(axis=0)
    assert kl[1] > 0.5
    assert kl[5] < 0.3
    states = memory.follow(batch, noise)
    state = tf.nest.map_structure(lambda part: part[:, 1], states)
    for _ in range(4):
        noise = tf.constant(rng.standard_normal((rows, memory.imagine_noise), np.float32))
        state = memory.imagine(state, tf.zeros((rows, 1)), 1.0, noise).state
    assert np.mean(np.sign(memory.latent(state)[:, 0]) == bits) > 0.95
    assert np.isfinite(float(terms["z"]))


# From pixels.


@pytest.fixture()
def seeing():
    """A memory that learns from frames, its V, and a batch of frames."""
    from vae.vae import ConvVAE

    keras.utils.set_random_seed(3)
    memory, vae = RSSM(Z, A, dataclasses.replace(SMALL, decoded=1.0)), ConvVAE(Z)
    memory.see_with(vae)
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 64, 64, 3), np.uint8)
    rest = as_batch(np.zeros((2, 6, 0), np.float16), np.zeros((2, 6, 0), np.float16), random(2, 6, A))
    return memory, vae, Batch(*map(tf.constant, rest._replace(mu=frames)))


def test_v_learns_with_m_from_pixels(seeing):
    memory, vae, batch = seeing
    assert len(memory.learning) == len(memory.trainable_variables) + len(vae.trainable_variables)
    assert not any("conv" in variable.path for variable in memory.weights)
    with tf.GradientTape() as tape:
        terms, states = memory.loss_and_states(batch, tf.constant(random(2, 6, memory.sample_noise)))
    gradients = tape.gradient(terms["loss"], memory.learning)
    silent = [v.path for v, g in zip(memory.learning, gradients) if g is None or not np.abs(g).max()]
    assert set(silent) <= {"rssm/log_scale", "reward_dense1/kernel", "reward_norm1/scale"}  # pixels have no scale; rewards start at 0
    assert states.h.shape == (2, 6, SMALL.units)
    assert 0.3 * 64 * 64 * 3 / 12 < float(terms["recon"]) < 64 * 64 * 3 / 6  # half the variance of noise in 0..1, and some more


def test_a_part_of_the_frames_stands_for_all(seeing):
    memory, _, batch = seeing
    decoded = tf.constant(random(2, 6, Z))
    every = memory.recon_loss(decoded, batch, tf.constant(random(2, 6, memory.sample_noise)))
    memory.settings = dataclasses.replace(SMALL, decoded=0.34)  # every third
    parts = [memory.recon_loss(decoded, batch, tf.constant(random(2, 6, memory.sample_noise, seed=seed))) for seed in range(30)]
    assert {part.shape for part in parts} == {every.shape}
    kinds = {float(part[0, 0].numpy().round(2)): part for part in parts}
    assert len(kinds) == 3
    np.testing.assert_allclose(np.mean(list(kinds.values()), axis=0), every, rtol=1e-4)
