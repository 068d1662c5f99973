"""M on episodes that it has not learned from: told of all before, and dreaming on from a moment of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import run_python

from controller.tools.handover import NEVER, dreamt_deaths, moment_states, real_deaths, shares
from env.run.errors import UserError
from env.run.files import save_arrays
from rnn.evaluate import death_chances, deaths_ahead, foreseen, likelihood, open_loop
from rnn.memory import Imagined
from rnn.rnn import MDNRNN


def episode(steps, dies, seed=0, z_size=4):
    rng = np.random.default_rng(seed)
    done = np.zeros(steps, bool)
    done[-1] = dies
    arrays = {"mu": rng.normal(size=(steps + 1, z_size)), "logvar": np.full((steps + 1, z_size), -30.0)}
    return {key: value.astype(np.float16) for key, value in arrays.items()} | {
        "action": rng.uniform(-1, 1, (steps, 1)).astype(np.float32),
        "reward": np.ones(steps, np.float32),
        "done": done,
    }


def test_warnings_are_counted_once_and_by_what_followed():
    done = [np.array([False] * 9 + [True]), np.array([False] * 9 + [True]), np.zeros(10, bool)]
    chances = [np.zeros(10), np.zeros(10), np.zeros(10)]
    chances[0][[2, 3]], chances[0][[8, 9]] = 0.9, 0.8  # a false warning of two steps, then a right one
    chances[1][6] = 0.7  # too early: the fourth step from the end
    found = foreseen(chances, done)
    assert (found["steps"], found["deaths"]) == (30, 2)
    assert (found["recall"], found["recall_last"], found["precision"]) == (0.5, 0.5, pytest.approx(1 / 3))
    assert found["false_warnings"] == pytest.approx(1000 * 2 / 30)
    assert found["expected_deaths"] == pytest.approx(2 * 0.9 + 2 * 0.8 + 0.7)
    happened = np.where(np.concatenate(done), np.concatenate(chances), 1 - np.concatenate(chances))
    assert found["loss_end"] == pytest.approx(-np.log(np.maximum(happened, 1e-6)).mean())
    assert found["loss_end_constant"] == pytest.approx(-(2 * np.log(2 / 30) + 28 * np.log(28 / 30)) / 30)
    nothing = foreseen([np.zeros(5)], [np.zeros(5, bool)])
    assert np.isnan(nothing["recall"]) and np.isnan(nothing["precision"])


def test_chances_are_those_of_the_training_loss():
    """M's logit at each step, told of all before it, as the loss sees them."""
    import tensorflow as tf

    memory = MDNRNN(4, 1, 8, 2, restart=True)
    episodes = [episode(12, True), episode(7, True, 1)]
    chances = death_chances(memory, episodes)
    assert [len(chance) for chance in chances] == [12, 7]
    for number, e in enumerate(episodes):
        first = np.zeros((1, len(e["mu"])), np.float32)
        first[0, 0] = 1
        action = np.concatenate([e["action"], np.zeros((1, 1), np.float32)])[None]
        x = np.concatenate([e["mu"][None].astype(np.float32), action, first[..., None]], axis=2)
        every_h, _ = memory.lstm(tf.constant(x[:, :-1]), tf.zeros((1, 8)), tf.zeros((1, 8)))
        _, logit = memory._output(every_h)
        np.testing.assert_allclose(chances[number], tf.sigmoid(logit)[0], atol=1e-5)


def test_likelihood_is_the_loss_of_what_was_recorded(tmp_path):
    memory = MDNRNN(4, 1, 8, 2, restart=True)
    paths = []
    for number in range(12):
        paths.append(tmp_path / f"{number}.npz")
        save_arrays(paths[-1], episode(130, True, number))
    found = likelihood(memory, paths)
    assert set(found) == {"loss", "z", "restart"} and found["loss"] == pytest.approx(found["z"] + found["restart"])
    memory.output_layer.bias.assign(memory.output_layer.bias + 1.0)
    assert likelihood(memory, paths)["restart"] != found["restart"]


@pytest.mark.slow
def test_the_command_on_recordings(tmp_path):
    words = ("--episodes", "6", "--min-frames", "1", "--max-steps", "250", "--seed", "4", "--policy", "controller")
    result = run_python("controller/extract.py", "doom", "--run", tmp_path / "held", *words)
    assert result.returncode == 0, result.stderr
    result = run_python("rnn/evaluate.py", "doom", "--recordings", tmp_path / "held", "--json", tmp_path / "m.json")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["episodes"] == 6 and 600 < found["steps"] <= 1500 and 0.8 < found["loss_z"] < 1.0
    assert "recall" in result.stdout
    result = run_python("controller/tools/handover.py", "doom", "--recordings", tmp_path / "held", "--json", tmp_path / "h.json")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "h.json").read_text())
    assert list(found["dreams"]) == ["1.15"] and found["game"] == sorted(found["game"]) and found["moments"] > 20


@pytest.mark.parametrize(
    ("words", "part"),
    [(("--recordings", "no/such"), "no/such is no run of doom"), (("--recordings", ".", "--run", "no/one"), "no/one is no run of doom")],
)
def test_bad_input_is_one_line(words, part):
    result = run_python("rnn/evaluate.py", "doom", *words)
    assert result.returncode == 2 and part in result.stderr and result.stderr.count("\n") == 1


def test_moments_and_what_was_left_of_the_game_belong_together():
    memory = MDNRNN(4, 1, 8, 2, restart=True)
    episodes = [episode(60, True), episode(120, False, 1), episode(51, True, 2), episode(25, True, 3)]
    assert real_deaths(episodes).tolist() == [35, NEVER, 26, 10, NEVER, 1, NEVER, NEVER]
    with pytest.raises(UserError, match="at most 25 steps"):
        real_deaths(episodes[3:])
    states = moment_states(memory, episodes)
    assert states.z.shape == (8, 4)
    np.testing.assert_allclose(states.z[3], episodes[0]["mu"][50], atol=1e-3)
    np.testing.assert_allclose(states.z[7], episodes[1]["mu"][100], atol=1e-3)
    assert np.allclose(states.restart, 0)


def test_shares_of_dreams_that_end_as_their_games_do():
    found = shares(np.array([NEVER, 10, 11, 200]), np.array([5, 10, NEVER, NEVER]))
    assert found["all"] == [0.25, 0.5, 0.5, 0.5, 0.75]
    assert found["game_ends"] == [0.5] * 5
    assert found["game_goes_on"] == [0.0, 0.5, 0.5, 0.5, 1.0]
    assert np.isnan(shares(np.array([3]), np.array([3]))["game_goes_on"]).all()


@pytest.mark.parametrize("bias", [-30.0, 30.0])
def test_dreams_from_a_moment_end_when_m_says_so(bias):
    memory = MDNRNN(4, 1, 8, 2, restart=True)
    memory.output_layer.kernel.assign(memory.output_layer.kernel * 0)
    memory.output_layer.bias.assign(np.concatenate([[bias], np.zeros(24)]).astype(np.float32))
    states = moment_states(memory, [episode(60, True)])
    ends = dreamt_deaths(memory, lambda params, features, noise: features[:, :1], "z", np.zeros(3), states, 1.0, 1)
    assert ends.tolist() == ([1, 1] if bias > 0 else [NEVER, NEVER])


class Walk:
    """A memory of a world in which z moves by 0.1 times the action: it knows, but for a bias of its own."""

    z_size, initial_noise, observe_noise, imagine_noise, foresees_end, with_last = 2, 0, 0, 1, False, False

    def __init__(self, bias):
        self.bias = bias

    def initial(self, x, noise):
        return (x,)

    def observe(self, state, action, x, noise):
        return (x,)

    def imagine(self, state, action, temperature, noise):
        import tensorflow as tf

        x = state[0] + 0.1 * action + self.bias
        return Imagined((x,), x[:, 0], tf.ones_like(x[:, 0]), x[:, 0] > 1e9)

    def latent(self, state):
        return state[0]


@pytest.mark.parametrize("bias", [0.0, 0.02])
def test_forecasts_are_told_the_actions_and_nothing_else(bias):
    rng, episodes = np.random.default_rng(0), []
    for _ in range(3):
        action = rng.choice([-1.0, 1.0], (160, 1)).astype(np.float32)
        mu = 0.1 * np.concatenate([np.zeros((1, 1)), action]).cumsum(axis=0).repeat(2, axis=1)
        # The second dimension says hardly anything: V does not use it.
        arrays = {"mu": mu * [1, 0.01], "logvar": np.full((161, 2), -30.0)}
        episodes.append({key: value.astype(np.float16) for key, value in arrays.items()} | {"action": action, "done": np.zeros(160, bool)})
    found = open_loop(Walk(bias), episodes)
    variance = np.concatenate([e["mu"][:, 0] for e in episodes]).astype(np.float32).var()
    assert (found["moments"], found["used_dimensions"]) == (6, 1)  # at steps 50 and 100 of each
    for k in (1, 5, 15, 50):
        assert found[f"open_{k}"] == pytest.approx((k * bias) ** 2 / variance, abs=2e-4, rel=0.02)
    moved = [e["mu"][t + 15, 0].astype(float) - e["mu"][t, 0] for e in episodes for t in (50, 100)]
    assert found["still_15"] == pytest.approx(np.mean(np.square(moved)) / variance, rel=0.01)
    with pytest.raises(UserError, match="none is long enough"):
        open_loop(Walk(bias), [{key: part[: 90 + (key in ("mu", "logvar"))] for key, part in episodes[0].items()}])


class Cliff(Walk):
    """Walk, in which the agent dies beyond 1.95, and with a probability of its own elsewhere."""

    def __init__(self, bias, elsewhere):
        super().__init__(bias)
        self.elsewhere = elsewhere

    def imagine(self, state, action, temperature, noise):
        import tensorflow as tf

        answer = super().imagine(state, action, temperature, noise)
        beyond = answer.state[0][:, 0] > 1.95
        return answer._replace(goes_on=tf.where(beyond, 0.0, 1.0 - self.elsewhere))


def test_deaths_in_dreams_are_held_against_those_that_came():
    """Two agents walk off the cliff, after 20 steps and after 24; a third stays before it for 22 steps."""
    episodes = []
    for begin, steps in ((0.0, 20), (-0.4, 24), (-0.4, 22)):
        mu = (begin + 0.1 * np.arange(steps + 1))[:, None].repeat(2, axis=1)
        done = np.arange(steps) == steps - 1
        arrays = {"mu": mu.astype(np.float16), "logvar": np.full((steps + 1, 2), -30.0, np.float16)}
        episodes.append(arrays | {"action": np.ones((steps, 1), np.float32), "done": done & (mu[-1, 0] > 1.95)})
    for k in (1, 5, 15):
        assert deaths_ahead(Cliff(0.0, 0.0), episodes)[f"deaths_ahead_{k}"] == 1
        moments = sum(steps - k for steps in (20, 24)) + 22 - k + 1  # from which k steps on nobody has fallen
        assert deaths_ahead(Cliff(0.0, 0.01), episodes)[f"deaths_ahead_{k}"] == pytest.approx(1 + 0.01 * moments / 2, rel=1e-5)
    slow = deaths_ahead(Cliff(-0.02, 0.0), episodes)  # it falls behind, and so dies in no dream that is long enough for that
    assert (slow["deaths_ahead_1"], slow["deaths_ahead_5"], slow["deaths_ahead_15"]) == (1, 0, 0)
    assert np.isnan(deaths_ahead(Cliff(0.0, 0.0), episodes[2:])["deaths_ahead_1"])
