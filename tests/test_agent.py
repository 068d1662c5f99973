"""The agent and the rollout loop."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from controller import agent as agents
from controller.agent import Agent, load_controller, make_policy, save_controller
from env.random_policy import LARGEST_SCALE, Exploring, RandomPolicy, random_parameters, random_player
from env.rollout import Job, Purpose, WorldLanes, Worlds, episode_rng, episode_seed, make_world, rollout
from env.run.errors import UserError
from env.run.weights import shipped_controller
from env.tasks import get_task, system
from rnn.memory import make_memory
from rnn.rnn import MDNRNN
from vae.vae import ConvVAE

STEPS = 25


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    return ConvVAE(32), MDNRNN()


@pytest.fixture(scope="module")
def settings(task):
    paper = task.scales["paper"]
    return dataclasses.replace(paper, world=dataclasses.replace(paper.world, max_steps=STEPS))


@pytest.fixture(scope="module")
def candidates(task, settings, models):
    return 0.3 * np.random.default_rng(0).standard_normal((3, make_policy(task, settings, models[1]).size))


def make_agent(task, settings, models, candidates, slots):
    agent = Agent(task.actions, *models, make_policy(task, settings, models[1]), "zh", slots, STEPS)
    agent.set_candidates(candidates)
    return agent


def record(task, settings, player, jobs, **options):
    """Play and keep the frames."""
    worlds = Worlds.of(task, getattr(settings, "world", settings))
    results = list(rollout(WorldLanes(worlds, player, record=True, **options), jobs))
    worlds.close()
    return results


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_loop_is_the_papers(task, settings, models, candidates):
    """Against a plain numpy loop of section 2.4: sample z, act on [z, h], step the world, then move h with z and a."""
    vae, rnn = models
    job = Job(0, 1, 123)
    [result] = record(task, settings, make_agent(task, settings, models, candidates, 1), [job])
    kernel, bias = rnn.lstm.kernel.numpy(), rnn.lstm.bias.numpy()
    params = candidates[1].astype(np.float32)
    noise = episode_rng(123).standard_normal((STEPS, 32), np.float32)
    world = make_world(task, settings.world)
    frame, _ = world.reset(seed=123)
    h = c = np.zeros(256, np.float32)
    score = 0.0
    for t in range(STEPS):
        np.testing.assert_array_equal(result.episode["obs"][t], frame)
        mu, logvar = (x.numpy()[0] for x in vae.encode(frame[None]))
        z = mu + np.exp(logvar / 2) * noise[t]
        y = np.tanh(np.concatenate([z, h]) @ params[3:].reshape(288, 3) + params[:3])
        action = np.array([y[0], (y[1] + 1) / 2, np.clip(y[2], 0, 1)], np.float32)
        np.testing.assert_allclose(result.episode["action"][t], action, atol=2e-4)
        i, j, f, o = np.split(np.concatenate([z, action, h]) @ kernel + bias, 4)
        c = c * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        frame, reward, *_ = world.step(result.episode["action"][t])
        assert result.episode["reward"][t] == np.float32(reward)
        score += reward
    assert result.score == pytest.approx(score)
    assert result.length == STEPS


@pytest.mark.parametrize("slots", [2, 5, 16, 32])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_an_episode_does_not_depend_on_its_slot_or_its_neighbours(task, settings, models, candidates, slots, dtype):
    """To the last bit of every action and frame: what a rank plays beside it, and where, must not matter. (The number of
    slots may: products of other sizes round otherwise. So it is a setting, the same on all ranks.)"""
    vae = ConvVAE(32, dtype=dtype)
    vae.set_weights(models[0].get_weights())
    jobs = [Job(i, i % 3, episode_seed(7, Purpose.PLAY, i)) for i in range(slots + 3)]
    agent = make_agent(task, settings, (vae, models[1]), candidates, slots)

    def play(jobs):
        return {r.job.index: r for r in record(task, settings, agent, jobs)}

    alone, together = play(jobs[:1] + jobs[-1:]), play(jobs[::-1])
    for index, result in alone.items():
        assert (result.score, result.length) == (together[index].score, together[index].length)
        for key, array in result.episode.items():
            np.testing.assert_array_equal(together[index].episode[key], array)
    assert len({r.episode["action"].tobytes() for r in together.values()}) == len(jobs)


@pytest.mark.parametrize(("names", "hidden", "size"), [("z", 0, 99), ("z", 40, 1443), ("zc", 0, 867), ("zch", 0, 1635)])
def test_other_features_and_a_hidden_layer_drive_too(task, settings, models, names, hidden, size):
    c = dataclasses.replace(settings.controller, features=names, hidden=hidden)
    policy = make_policy(task, dataclasses.replace(settings, controller=c), models[1])
    assert policy.size == size
    agent = Agent(task.actions, *models, policy, names, 2, STEPS)
    agent.set_candidates(np.random.default_rng(0).standard_normal((1, size)))
    results = record(task, settings, agent, [Job(i, 0, i) for i in range(2)])
    assert [r.length for r in results] == [STEPS, STEPS]
    assert all(np.ptp(r.episode["action"][:, 0]) > 0 for r in results)


def test_the_agent_samples_z(task, settings, models, candidates):
    """Two episodes of one candidate on one frame differ by their noise, so z is no mean."""
    agent = make_agent(task, settings, models, candidates, 2)
    agent.begin(0, Job(0, 0, 1))
    agent.begin(1, Job(1, 0, 2))
    agent.act(np.full((2, 64, 64, 3), 100, np.uint8))
    mu, logvar = (x.numpy()[0] for x in models[0].encode(np.full((1, 64, 64, 3), 100, np.uint8)))
    for slot, seed in ((0, 1), (1, 2)):
        noise = episode_rng(seed).standard_normal((STEPS, 32), np.float32)[0]
        np.testing.assert_allclose(agent.latents[slot], mu + np.exp(logvar / 2) * noise, atol=1e-5)


def test_an_agent_may_see_vs_mean_and_its_c_says_so(task, settings, models, candidates, tmp_path):
    seeing = dataclasses.replace(settings, controller=dataclasses.replace(settings.controller, latents="mean", slots=2))
    agent = agents.make_agent(task, seeing, *models)
    agent.set_candidates(candidates)
    for slot in (0, 1):
        agent.begin(slot, Job(slot, 0, slot))
    agent.act(np.full((2, 64, 64, 3), 100, np.uint8))
    mu = models[0].encode(np.full((1, 64, 64, 3), 100, np.uint8))[0].numpy()
    np.testing.assert_allclose(agent.latents, np.repeat(mu, 2, axis=0), atol=1e-5)
    for number, own in enumerate((settings, seeing)):  # whatever the settings at hand say
        save_controller(tmp_path / f"{number}.npz", candidates[0], own, {})
        assert load_controller(tmp_path / f"{number}.npz", task, seeing)[1].controller.latents == own.controller.latents
    shipped = shipped_controller(task.name)
    for asked, sees in ((None, "sampled"), ("mean", "mean")):  # of a file that says nothing of it
        assert agents.load_agent(task, seeing, tmp_path, shipped, asked)[1].controller.latents == sees


def test_a_step_limit_is_recorded_as_no_end(task, settings):
    [result] = record(task, settings, RandomPolicy(task, 32), [Job(0, 0, 5)])
    assert result.length == settings.world.max_steps
    assert not result.episode["done"].any()


def test_recorded_episodes_pair_a_frame_with_the_action_taken_on_it(task, settings):
    [result] = record(task, settings, RandomPolicy(task, 32), [Job(0, 0, 5)])
    episode, world = result.episode, make_world(task, settings.world)
    frame, _ = world.reset(seed=5)
    for t in range(result.length):
        np.testing.assert_array_equal(episode["obs"][t], frame)
        frame, reward, done, *_ = world.step(episode["action"][t])
        assert (episode["reward"][t], episode["done"][t]) == (np.float32(reward), done)
    assert len(episode["obs"]) == result.length + 1
    np.testing.assert_array_equal(episode["obs"][-1], frame)


def test_going_past_done_is_the_recorders_choice(task, settings):
    """A car that steers nowhere leaves the playfield: one stops there, the other goes on to the limit."""
    world = dataclasses.replace(settings.world, max_steps=400)

    class StraightOn:
        slots = 1

        def begin(self, slot, job):
            pass

        def act(self, frames):
            return np.array([[0.0, 0.3, 0.0]], np.float32)

    [stopped] = record(task, world, StraightOn(), [Job(0, 0, 1)])
    [went_on] = record(task, world, StraightOn(), [Job(0, 0, 1)], past_done=True)
    assert stopped.length < 400
    assert went_on.length == 400
    assert went_on.score < stopped.score


def test_the_random_policy_is_the_authors_agent_with_cauchy_weights(task, settings, models):
    """The full agent, V and M with Cauchy weights times s / 10,000 as the authors' loaders leave them, acts the same."""
    seed = 9
    job = Job(0, 0, seed)
    [expected] = record(task, settings, RandomPolicy(task, 32), [job])
    rng = np.random.default_rng(0)
    vae, rnn = ConvVAE(32), MDNRNN()
    for variable in (*vae.weights, *rnn.weights):
        variable.assign((rng.standard_cauchy(variable.shape) * LARGEST_SCALE / 10000).astype(np.float32))

    class FullAgent(Agent):
        def begin(self, slot, job):
            own = episode_rng(job.seed)
            params, _ = random_parameters(33 * 3, own)
            extra = (rng.standard_cauchy(256 * 3) * LARGEST_SCALE).astype(np.float32)
            self.set_candidates(np.concatenate([params, extra])[None])
            super().begin(slot, job)
            self._noise[slot] = own.standard_normal((STEPS, 32), np.float32)

    full = FullAgent(task.actions, vae, rnn, make_policy(task, settings, rnn), "zh", 1, STEPS)
    [result] = record(task, settings, full, [job])
    np.testing.assert_allclose(result.episode["action"], expected.episode["action"], atol=5e-3)


def test_random_weights_are_cauchy_with_a_scale_of_their_own():
    draws = [random_parameters(2000, np.random.default_rng(i)) for i in range(50)]
    scales = np.array([scale for _, scale in draws])
    assert 0 <= scales.min() < 0.002 < 0.008 < scales.max() <= LARGEST_SCALE
    for params, scale in draws:
        # Half of a standard Cauchy's draws lie within one scale of zero.
        assert np.mean(np.abs(params) < scale) == pytest.approx(0.5, abs=0.06)


def test_dooms_loop_is_the_papers():
    """Step by step in numpy: z sampled, C on [z, c, h] without bias, M fed z, the raw tanh and restart = 1 at the first step only."""
    doom = get_task("doom")
    settings = dataclasses.replace(doom.scales["smoke"], world=dataclasses.replace(doom.scales["smoke"].world, max_steps=20))
    keras.utils.set_random_seed(3)
    vae, rnn = ConvVAE(64), make_memory(doom, settings, "float32")
    policy = make_policy(doom, settings, rnn)
    assert policy.size == 1088
    params = np.random.default_rng(0).standard_normal((1, policy.size)) * 0.5
    agent = Agent(doom.actions, vae, rnn, policy, settings.controller.features, 2, 20)
    agent.set_candidates(params)
    [result] = record(doom, settings, agent, [Job(0, 0, 4)])
    kernel, bias = rnn.lstm.kernel.numpy(), rnn.lstm.bias.numpy()
    noise = episode_rng(4).standard_normal((20, 64), np.float32)
    h, c = np.zeros(512), np.zeros(512)
    for t in range(result.length):
        mu, logvar = (x.numpy()[0] for x in vae.encode(result.episode["obs"][t][None]))
        z = mu + np.exp(logvar / 2) * noise[t]
        y = np.tanh(np.concatenate([z, c, h]) @ params[0])
        np.testing.assert_allclose(result.episode["action"][t], [y], atol=2e-4)
        x = np.concatenate([z, result.episode["action"][t], [t == 0], h])
        i, j, f, o = np.split(x @ kernel + bias, 4)
        c = c * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)


def test_an_agent_told_of_another_action_goes_on_from_there(task, settings, models, candidates):
    """Whoever takes over with the keyboard is in M's memory, too."""
    frames = np.full((1, 64, 64, 3), 100, np.uint8)
    actions = []
    for told in (None, [[0.9, 1.0, 0.0]]):
        agent = make_agent(task, settings, models, candidates, 1)
        agent.begin(0, Job(0, 0, 1))
        agent.act(frames)
        if told:
            agent.acted(np.array(told, np.float32))
        actions.append(agent.act(frames))
    assert np.abs(actions[0] - actions[1]).max() > 1e-6


def test_varied_holds_are_short_in_some_episodes_and_long_in_others():
    doom, shares = get_task("doom"), []
    player = random_player("varied", doom, 64)
    for seed in range(60):
        player.begin(0, Job(0, 0, seed))
        actions = [float(player.act(np.zeros((1, 64, 64, 3), np.uint8))[0, 0]) for _ in range(300)]
        shares.append((np.diff(actions) != 0).mean())
    assert np.mean(np.array(shares) > 0.5) > 0.1
    assert np.mean(np.array(shares) < 0.05) > 0.2


@pytest.mark.parametrize("name", ["hold", "uniform"])
def test_random_policies_hold_their_actions_as_named(name):
    doom = get_task("doom")
    player, actions = random_player(name, doom, 64), []
    for seed in range(40):
        player.begin(0, Job(0, 0, seed))
        actions.append([float(player.act(np.zeros((1, 64, 64, 3), np.uint8))[0, 0]) for _ in range(200)])
    actions = np.array(actions)
    assert actions.min() < -0.98 and actions.max() > 0.98
    assert abs(actions.mean()) < 0.1
    changes = np.diff(actions, axis=1) != 0
    if name == "uniform":
        assert changes.all()
        return
    runs = np.diff(np.flatnonzero(changes[0]))
    assert 1 <= runs.min() and runs.max() <= 10
    assert 0.2 < changes.mean() < 0.4
    assert (actions[0] != actions[1]).any()


class Straight:
    """A player that always does the same, and remembers what it is told."""

    slots = 2

    def begin(self, slot, job):
        pass

    def act(self, observations):
        return np.full((2, 1), 0.5, np.float32)

    def acted(self, actions):
        self.told = actions


def test_exploring_mixes_held_random_actions_in():
    """Of each episode a share of its own, at most the one that was asked for; what it does is its seed's, whatever the slot; and the
    agent is told what was done."""
    doom = get_task("doom")
    player = Straight()
    exploring = Exploring(player, doom, 0.6)
    shares, runs, last = [], [], {}
    for seed in range(40):
        for slot in (0, 1):
            exploring.begin(slot, Job(0, 0, seed + slot))
        done = []
        for _ in range(400):
            actions = exploring.act(np.zeros((2, 1)))
            np.testing.assert_array_equal(player.told, actions)
            done.append(actions[:, 0])
        first, second = np.array(done).T
        if seed:
            np.testing.assert_array_equal(first, last["second"])
        last["second"] = second
        changed = first != 0.5
        shares.append(changed.mean())
        held = np.split(first[changed], np.flatnonzero(np.diff(first[changed])) + 1)
        runs += [len(part) for part in held if len(part)]
    assert 0.2 < np.mean(shares) < 0.4 and np.max(shares) < 0.75 and np.min(shares) < 0.1 < np.std(shares)
    assert 1 <= min(runs) and max(runs) <= 10 and 4 < np.mean(runs) < 7


@pytest.mark.parametrize("drawn", [True, False])
def test_whether_a_c_draws_its_actions_is_said_by_its_file_and_no_evolved_one_does(task, tmp_path, drawn):
    paper = task.scales["paper"]
    learned = system(paper, "rssm", "actor_critic")
    own = dataclasses.replace(learned, actor_critic=dataclasses.replace(learned.actor_critic, drawn=drawn))
    save_controller(tmp_path / "c.npz", np.zeros(5), own, {})
    assert load_controller(tmp_path / "c.npz", task, learned)[1].actor_critic.drawn is drawn
    evolved = system(paper, "rssm", "cmaes")
    if drawn:
        with pytest.raises(UserError, match="draws its actions.*give the --run"):
            load_controller(tmp_path / "c.npz", task, evolved)
    else:
        load_controller(tmp_path / "c.npz", task, evolved)
