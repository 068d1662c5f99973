"""The dream: one as a gymnasium world, and many in lanes."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.utils.env_checker import check_env

from controller.policy import Policy
from env.actions import Continuous
from env.rollout import Job, rollout
from env.run.errors import UserError
from env.run.files import save_arrays
from env.tasks import get_task
from rnn.dream import BLOCK, Beginnings, Dream, DreamLanes, dream_rng
from rnn.rnn import MDNRNN
from vae.vae import ConvVAE

Z, UNITS = 16, 32
NONE = tf.zeros((1, 0))  # the noise that this M takes where it invents nothing
ONE = Continuous((1.0,), (0.0,), (-1.0,), (1.0,))
POLICY = Policy(Z + 2 * UNITS, 1, bias=False)


@pytest.fixture(scope="module")
def model():
    """An M with lively dreams, in which the agent dies sooner or later."""
    keras.utils.set_random_seed(1)
    made = MDNRNN(Z, 1, UNITS, 5, restart=True, step_reward=1.0)
    rng = np.random.default_rng(0)
    made.lstm.kernel.assign(rng.standard_normal(made.lstm.kernel.shape) * 0.3)
    kernel = rng.standard_normal(made.output_layer.kernel.shape) * 0.5
    kernel[:, 0] *= 3
    made.output_layer.kernel.assign(kernel)
    bias = np.zeros(1 + Z * 15, np.float32)
    bias[0] = -4.0
    made.output_layer.bias.assign(bias)
    return made


@pytest.fixture(scope="module")
def beginnings():
    rng = np.random.default_rng(1)
    return Beginnings(rng.standard_normal((20, Z)), rng.standard_normal((20, Z)) - 2)


@pytest.fixture(scope="module")
def candidates():
    return np.random.default_rng(2).standard_normal((3, POLICY.size)) * 0.2


def lanes(model, beginnings, temperature=1.1, max_steps=200, count=64):
    return DreamLanes(model, beginnings, lambda params, seen, _: POLICY.act(params, seen), "zch", temperature, max_steps, count)


def play(lanes, candidates, jobs):
    lanes.set_candidates(candidates)
    return rollout(lanes, jobs)


def make_dream(model, beginnings, temperature=1.1, max_steps=200):
    return Dream(ConvVAE(Z), model, beginnings, "zch", temperature, max_steps, ONE)


def jobs(count, candidate=None):
    return [Job(i, i % 3 if candidate is None else candidate, 1000 + i) for i in range(count)]


def by_index(results):
    return [(r.score, r.length) for r in sorted(results, key=lambda r: r.job.index)]


def walk(dream, params, seed, limit=10**9):
    """Dream one episode: its states as seen, its score and its length."""
    seen, _ = dream.reset(seed=seed)
    states, score, over = [seen], 0.0, False
    while not over and len(states) <= limit:
        action = POLICY.act(tf.constant(params[None], tf.float32), tf.constant(seen[None])).numpy()[0]
        seen, reward, terminated, truncated, _ = dream.step(action)
        states.append(seen)
        score, over = score + reward, terminated or truncated
    return states, score, len(states) - 1


def test_the_dream_passes_gymnasiums_checker(model, beginnings):
    dream = make_dream(model, beginnings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*observation space (minimum|maximum) value is .*infinity.*")
        check_env(dream, skip_render_check=True)
    picture = dream.render()
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)


def test_dreams_start_from_recorded_first_frames(model):
    """z is a sample around a first frame's mu with the deviation exp(logvar / 2), h = c = 0, and restart = 1."""
    mu, deviation = np.array([[5.0] * Z, [-5.0] * Z]), 0.1
    starts = Beginnings(mu, np.full((2, Z), 2 * np.log(deviation)))
    z = np.stack([starts.sample(dream_rng(seed)) for seed in range(2000)])
    nearest = np.sign(z[:, 0])
    assert 0.45 < (nearest > 0).mean() < 0.55
    assert (z - 5 * nearest[:, None]).std() == pytest.approx(deviation, rel=0.03)
    dream = make_dream(model, starts)
    seen, _ = dream.reset(seed=4)
    np.testing.assert_array_equal(seen[:Z], starts.sample(dream_rng(4)))
    assert (seen[Z:] == 0).all()
    assert float(dream.state.restart[0, 0]) == 1.0
    dream.step(np.zeros(1))
    assert float(dream.state.restart[0, 0]) == 0.0


def test_one_dream_and_lanes_dream_the_same(model, beginnings, candidates):
    """Episode by episode, from the same seeds: what C is trained in is what is shown, played and scored."""
    dream = make_dream(model, beginnings)
    together = by_index(play(lanes(model, beginnings), candidates, jobs(24)))
    alone = [walk(dream, candidates[job.candidate], job.seed)[1:] for job in jobs(24)]
    assert together == alone
    assert len({length for _, length in alone}) > 8


@pytest.mark.slow
def test_one_dream_and_lanes_have_the_same_distribution(model, beginnings, candidates):
    """From different seeds, so that only the distributions are compared: mean length within 4 standard errors."""
    dream = make_dream(model, beginnings)
    alone = np.array([walk(dream, candidates[0], 50_000 + i)[2] for i in range(150)])
    together = np.array([r.length for r in play(lanes(model, beginnings), candidates, jobs(1500, candidate=0))])
    error = np.sqrt(alone.var() / len(alone) + together.var() / len(together))
    assert abs(alone.mean() - together.mean()) < 4 * error
    assert 0.7 < alone.std() / together.std() < 1.4


@pytest.mark.parametrize("count", [16, 32, 48, 128, 400])
def test_a_dream_does_not_depend_on_lanes_or_neighbours(model, beginnings, candidates, count):
    expected = by_index(play(lanes(model, beginnings, count=64), candidates, jobs(100)))
    assert by_index(play(lanes(model, beginnings, count=count), candidates, jobs(100))) == expected
    assert by_index(play(lanes(model, beginnings, count=count), candidates, jobs(100)[90:])) == expected[90:]


def test_every_job_is_dreamt_once_and_ends_at_the_limit_at_last(model, beginnings, candidates):
    results = list(play(lanes(model, beginnings, max_steps=60), candidates, jobs(200)))
    assert sorted(r.job.index for r in results) == list(range(200))
    lengths = np.array([r.length for r in results])
    assert lengths.min() >= 1
    assert lengths.max() == 60 != BLOCK
    assert (lengths < 60).any()
    assert all(r.score == r.length for r in results)  # +1 a step
    assert list(play(lanes(model, beginnings), candidates, [])) == []


def test_death_comes_when_it_is_likelier_than_not_and_is_not_sampled(model):
    """It is the logit above zero, at any temperature and for any noise."""
    rng = np.random.default_rng(0)
    state = model.initial(tf.constant(rng.standard_normal((200, Z)), tf.float32), NONE)
    action = tf.constant(rng.uniform(-1, 1, (200, 1)), tf.float32)
    for _ in range(5):
        state = model.observe(state, action, tf.constant(rng.standard_normal((200, Z)) * 3, tf.float32), NONE)
    h, _ = model.advance(state, action)
    logit = model.output_layer(h).numpy()[:, 0]
    assert (logit > 0).any() and (logit < 0).any()
    for temperature in (0.1, 3.0):
        noise = tf.constant(rng.standard_normal((200, model.imagine_noise)), tf.float32)
        after, reward, goes_on, over = model.imagine(state, action, temperature, noise)
        np.testing.assert_array_equal(over, logit > 0)
        np.testing.assert_allclose(goes_on, 1 / (1 + np.exp(logit)), atol=1e-6)
        np.testing.assert_array_equal(after.restart[:, 0], logit > 0)
        assert (reward.numpy() == 1.0).all()


def test_temperature_spreads_dreams(model, beginnings):
    spreads = []
    for temperature in (0.1, 1.0, 2.0):
        dream = make_dream(model, beginnings, temperature)
        dream.reset(seed=3)
        state = dream.state
        noise = tf.constant(np.random.default_rng(1).standard_normal((500, model.imagine_noise)), tf.float32)
        many = type(state)(*(tf.repeat(part, 500, axis=0) for part in state))
        after = model.imagine(many, tf.zeros((500, 1)), temperature, noise).state
        spreads.append(after.z.numpy().std(axis=0).mean())
    assert spreads[0] < spreads[1] < spreads[2]


def test_a_dream_without_restart_has_no_end_and_no_reward_of_its_own():
    """CarRacing's."""
    keras.utils.set_random_seed(0)
    quiet = MDNRNN(Z, 3, UNITS)
    starts = Beginnings(np.zeros((1, Z)), np.zeros((1, Z)))
    dream = Dream(ConvVAE(Z), quiet, starts, "zh", 0.7, 30, get_task("carracing").actions)
    seen, _ = dream.reset(seed=1)
    assert seen.shape == (Z + UNITS,)
    for step in range(1, 31):
        _, reward, terminated, truncated, _ = dream.step(np.array([0.1, 0.5, 0.0]))
        assert reward == 0 and not terminated
        assert truncated == (step == 30)


def test_the_same_seed_gives_the_same_dream(model, beginnings, candidates):
    dream = make_dream(model, beginnings)
    one, again, other = (walk(dream, candidates[0], seed, limit=20)[0] for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("action", [[np.nan], [0.0, 1.0], 0.5])
def test_bad_actions_are_refused(model, beginnings, action):
    dream = make_dream(model, beginnings)
    dream.reset(seed=1)
    with pytest.raises(ValueError, match="needs finite numbers"):
        dream.step(action)


def test_what_is_observed_is_what_c_sees(model, beginnings):
    dream = make_dream(model, beginnings)
    dream.reset(seed=1)
    seen = dream.step(np.ones(1))[0]
    np.testing.assert_array_equal(seen, model.features(dream.state, "zch").numpy()[0])


def test_a_damaged_file_of_first_frames_is_named(tmp_path):
    path = tmp_path / "initial.npz"
    with pytest.raises(UserError, match="initial.npz"):
        Beginnings.load(path, Z)
    save_arrays(path, {"mu": np.zeros((3, Z)), "logvar": np.zeros((3, Z))})
    Beginnings.load(path, Z)
    with pytest.raises(UserError, match="z size 64"):
        Beginnings.load(path, 64)
