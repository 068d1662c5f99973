"""What C is trained in is what it is scored, shown and played in."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from controller.simulate import Dreamer, dream_simulator, make_dream, make_simulator, real_simulator
from env.rollout import Job, WorldLanes, Worlds, rollout
from env.run.errors import UserError
from env.run.files import save_arrays
from env.run.settings import MEMORIES
from env.run.weights import save_weights
from env.tasks import get_task, system
from rnn.memory import make_memory, memory_meta
from vae.vae import ConvVAE

DOOM = get_task("doom")


@pytest.fixture(scope="module")
def settings():
    smoke = DOOM.scales["smoke"]
    controller = dataclasses.replace(smoke.controller, dream_steps=40)
    return dataclasses.replace(smoke, world=dataclasses.replace(smoke.world, max_steps=30), controller=controller)


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A run with an untrained V and M, in whose dreams death depends on the actions."""
    path, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    rnn = make_memory(DOOM, settings, "float32")
    kernel = rnn.output_layer.kernel.numpy()
    kernel[:, 0] = rng.standard_normal(512) * 2
    rnn.output_layer.kernel.assign(kernel)
    lstm = rnn.lstm.kernel.numpy()
    lstm[64] *= 30  # the action's row
    rnn.lstm.kernel.assign(lstm)
    save_weights(path / "vae" / "weights.npz", ConvVAE(64), {"model": "vae", "z_size": 64})
    save_weights(path / "rnn" / "weights.npz", rnn, memory_meta(DOOM, settings))
    save_arrays(path / "encode" / "initial.npz", {"mu": rng.standard_normal((5, 64)), "logvar": np.full((5, 64), -2.0)})
    return path


@pytest.mark.parametrize("trainer", ["cmaes", "actor_critic"])
def test_the_trainers_dream_is_the_shown_one(settings, run, trainer):
    """Episode by episode: the lanes that C is trained or scored in, and the gymnasium world that report and play show; of an actor, too,
    which draws its actions."""
    settings = dataclasses.replace(settings, trainer=trainer)
    (dream, policy), simulator = make_dream(DOOM, settings, run), dream_simulator(DOOM, settings, run)
    params = np.random.default_rng(1).standard_normal((2, simulator.size)).astype(np.float32)
    jobs = [Job(i, i % 2, 100 + i) for i in range(10)]
    trained = {r.job.index: r.length for r in simulator.play(params, jobs)}
    for job in jobs:
        lanes = WorldLanes(Worlds(lambda: dream), Dreamer(policy, DOOM.actions, params[job.candidate]))
        assert [result.length for result in rollout(lanes, [job])] == [trained[job.index]]
    assert len(set(trained.values())) > 2
    other = {r.job.index: r.length for r in simulator.play(params[::-1], jobs)}
    assert other != trained, "actions decide how long a dream lasts"


def test_the_settings_choose_the_world(settings, run):
    candidates = np.zeros((1, dream_simulator(DOOM, settings, run).size))
    jobs = [Job(i, 0, i) for i in range(2)]
    for world, limit in (("real", 30), ("dream", 40)):
        chosen = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, world=world))
        lengths = [r.length for r in make_simulator(DOOM, chosen, run).play(candidates, jobs)]
        assert len(lengths) == 2
        assert max(lengths) <= limit
    real = [r.length for r in real_simulator(DOOM, settings, run).play(candidates, jobs)]
    assert real == [30, 30]  # nobody dies within 30 steps of the real game


@pytest.mark.parametrize("memory", MEMORIES)
def test_surprise_is_small_where_m_foresees_what_comes(memory):
    """Of what M itself dreams of near temperature 0, and of something far from it; and at an episode's first frame there is none."""
    settings = system(DOOM.scales["smoke"], memory, "cmaes")
    model = make_memory(DOOM, settings, "float32")
    rng = np.random.default_rng(0)

    def noise(size):
        return tf.constant(rng.standard_normal((8, size), np.float32))

    z, action = noise(64), tf.zeros((8, 1))
    start = model.initial(z, noise(model.initial_noise))
    likely = model.imagine(start, action, 1e-4, noise(model.imagine_noise)).state
    if memory == "mdnrnn":
        unlikely = likely._replace(z=likely.z + 5.0)
    else:
        worst = tf.reduce_min(model._distribution(model.prior(likely.h)).probs, axis=-1, keepdims=True)
        probs = model._distribution(model.prior(likely.h)).probs
        unlikely = likely._replace(s=tf.reshape(tf.cast(probs <= worst, tf.float32), likely.s.shape))
    small, large = model.surprise(likely).numpy(), model.surprise(unlikely).numpy()
    assert small.shape == (8,) and (large > small).all()


def test_curiosity_pays_for_what_m_did_not_foresee(settings, run):
    """An episode's score is the world's, and for each step but the last, whose frame C does not see, curiosity times M's surprise."""
    c = dataclasses.replace(settings.controller, world="real")
    jobs, scores = [Job(i, 0, i) for i in range(3)], {}
    for weight in (0.0, 1.0, -2.0):
        its = dataclasses.replace(settings, controller=dataclasses.replace(c, curiosity=weight))
        simulator = real_simulator(DOOM, its, run)
        results = simulator.play(np.zeros((1, simulator.size)), jobs)
        scores[weight] = np.array([r.score for r in sorted(results, key=lambda r: r.job.index)])
    gained = scores[1.0] - scores[0.0]
    assert (gained > 1).all(), "29 steps of about 1.4 nats"
    np.testing.assert_allclose(scores[-2.0] - scores[0.0], -2 * gained, rtol=1e-4)
    with pytest.raises(UserError, match="in its own dream nothing surprises M"):
        dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, curiosity=1.0)).check()
