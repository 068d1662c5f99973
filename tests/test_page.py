"""What the web page computes, against Python: models.js in V8, fed the same noise, with the weights that the page holds."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from py_mini_racer import MiniRacer

from controller.agent import make_agent
from controller.page.pack import Blob, decoder_kernel, sprite
from controller.results.evidence import Agent as Scored
from controller.web import Player, curves, fill, load_player, models_data, page_data
from env.actions import Discrete
from env.rollout import make_world
from env.run.errors import UserError
from env.tasks import get_task, system
from rnn.memory import make_memory
from vae.vae import ConvVAE

LANDER = ROOT / "tests" / "games" / "lunar_lander.py"  # a game with discrete actions
MODELS = ROOT / "controller" / "page" / "models.js"
# What the tests ask of models.js; states and arrays travel as plain lists.
ASK = """
const listed = (value) => {
  if (ArrayBuffer.isView(value)) return Array.from(value);
  if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, listed(v)]));
};
const typed = (state) => Object.fromEntries(Object.entries(state).map(([k, v]) => [k, Array.isArray(v) ? Float32Array.from(v) : v]));
const ask = (text) => {
  const { what, state, action, tau, noise, x, names } = JSON.parse(text);
  const { memory, decoder, policy, actions } = models;
  const answers = {
    arrays: () => Object.fromEntries(Object.entries(models.arrays).map(([k, v]) => [k, Array.from(v.values)])),
    initial: () => memory.initial(Float32Array.from(x), noise),
    observe: () => memory.observe(typed(state), action, Float32Array.from(x), noise),
    imagine: () => memory.imagine(typed(state), action, tau, noise),
    latent: () => memory.latent(typed(state)),
    sums: () => decoder.sums(Float32Array.from(x)).subarray(0, 64 * 64 * 3),
    act: () => {
      const y = policy.act(memory.features(typed(state), names), noise);
      return { y: Array.from(y), action: actions.ofOutputs(y) };
    },
  };
  return JSON.stringify(listed(answers[what]()));
};
"""


class Page:
    """models.js with an agent's data in it."""

    def __init__(self, data: dict, blob: Blob, simd: bool = True, source: str | None = None) -> None:
        self._js = MiniRacer()
        self._js.eval((source or MODELS.read_text()) + ASK)
        content = blob.bytes()
        self._js.eval(f"globalThis.buffer = new ArrayBuffer({len(content)}); buffer")[:] = content
        self._js.eval(f"globalThis.models = makeModels({json.dumps(data)}, buffer, {json.dumps(simd)})")
        self.simd = self._js.eval("models.arena.simd")

    def ask(self, what: str, **given):
        plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in given.items()}
        return json.loads(self._js.eval(f"ask({json.dumps(json.dumps(plain | {'what': what}))})"))

    def close(self) -> None:
        self._js.close()


def which(name: str):
    """The task and the memory of 'lander-rssm'."""
    game, kind = name.split("-")
    return get_task(str(LANDER) if game == "lander" else game), kind


def some_player(task, kind: str) -> Player:
    """A small agent with random weights; on an RSSM an actor's, which draws its actions."""
    keras.utils.set_random_seed(3)
    settings = system(task.scales["smoke"], kind, "actor_critic" if kind == "rssm" else "cmaes")
    if kind == "mdnrnn":
        settings = dataclasses.replace(settings, rnn=dataclasses.replace(settings.rnn, units=24))
    c = dataclasses.replace(settings.controller, slots=1, hidden=5 if kind == "rssm" else 0)
    settings = dataclasses.replace(settings, controller=c)
    vae, memory = ConvVAE(settings.vae.z_size), make_memory(task, settings, "float32")
    rng = np.random.default_rng(0)
    for v in [*vae.weights, *memory.weights]:
        # Biases and scales start as constants, behind which mistakes could hide.
        v.assign(np.asarray(v) + 0.1 * rng.standard_normal(v.shape))
    agent = make_agent(task, settings, vae, memory)
    params = rng.standard_normal(agent.policy.size).astype(np.float32)
    agent.set_candidates(params[None])
    return Player(settings, vae, memory, params, None, agent, None)


def as_on_the_page(player: Player, blob: Blob) -> None:
    """Give V and M the rounded weights that the page holds."""
    for prefix, model in (("vae", player.vae), ("rnn", player.memory)):
        for v in model.weights:
            packed = blob.arrays.get(f"{prefix}:{v.path}")
            if packed is not None:
                v.assign(packed if packed.shape == v.shape else decoder_kernel(packed, v.shape[2]))


@pytest.fixture(scope="module", params=["doom-mdnrnn", "carracing-mdnrnn", "carracing-rssm", "lander-mdnrnn", "lander-rssm"])
def both(request):
    """A player, its task, and the page that holds it."""
    task, kind = which(request.param)
    player, blob = some_player(task, kind), Blob()
    data = models_data(task, player, blob)
    as_on_the_page(player, blob)
    page = Page(data, blob)
    assert page.simd
    yield task, player, page, data, blob
    page.close()


def draws(rng, memory, what: str):
    """Standard normal noise for Python [1, n], and the same for the page: its quantiles first, then as it is."""
    count = {"initial": memory.initial_noise, "observe": memory.observe_noise, "imagine": memory.imagine_noise}[what]
    noise = rng.standard_normal((1, count)).astype(np.float32)
    uniforms = count if hasattr(memory, "groups") else count // 2
    return noise, {"u": quantiles(noise[0, :uniforms]), "eps": noise[0, uniforms:].tolist()}


def quantiles(noise) -> list[float]:
    """Uniform numbers, of standard normal ones."""
    return [0.5 + 0.5 * math.erf(float(value) * 0.5**0.5) for value in noise]


def listed(state) -> dict:
    """One lane of a state, as the page has it."""
    found = {name: np.asarray(part)[0].tolist() for name, part in state._asdict().items()}
    if "restart" in found:
        found["restart"] = found["restart"][0]
    return found


def test_arrays_are_read_back_to_the_bit(both):
    _, _, page, _, blob = both
    read = page.ask("arrays")
    assert read.keys() == blob.arrays.keys()
    for name, values in read.items():
        np.testing.assert_array_equal(np.array(values, np.float32), blob.arrays[name].ravel(), err_msg=name)


def test_pictures_are_pythons(both):
    _, player, page, _, _ = both
    z = np.random.default_rng(1).standard_normal((3, player.settings.vae.z_size)).astype(np.float32)
    ours = player.vae.decode(z).numpy()
    for row in range(3):
        sums = np.array(page.ask("sums", x=z[row])).reshape(64, 64, 3)
        np.testing.assert_allclose(1 / (1 + np.exp(-sums)), ours[row], atol=1e-5)


def test_a_hundred_steps_of_m_and_c_are_pythons(both):
    """Each from Python's state: the next state, reward, end, and C's action; by imagining and by observing in turns."""
    task, player, page, data, _ = both
    memory, rng = player.memory, np.random.default_rng(2)
    x = rng.standard_normal((1, player.settings.vae.z_size)).astype(np.float32)
    noise, given = draws(rng, memory, "initial")
    state = memory.initial(tf.constant(x), tf.constant(noise))
    compare(state, page.ask("initial", x=x[0], noise=given))
    names, close = data["policy"]["features"], 0
    for step in range(100):
        before = listed(state)
        eps = rng.standard_normal((1, player.agent.policy.noise)).astype(np.float32)
        y = player.agent.policy.act(tf.constant(player.params), memory.features(state, names), tf.constant(eps))
        action = np.asarray(task.actions.of_outputs(y))
        answer = page.ask("act", state=before, names=names, noise={"u": quantiles(eps[0]), "eps": eps[0].tolist()})
        np.testing.assert_allclose(answer["y"], y[0], atol=1e-5)
        np.testing.assert_allclose(answer["action"], action[0], atol=1e-5)
        what = "observe" if step % 5 == 4 else "imagine"
        noise, given = draws(rng, memory, what)
        if what == "observe":
            x = rng.standard_normal(x.shape).astype(np.float32)
            state = memory.observe(state, tf.constant(action), tf.constant(x), tf.constant(noise))
            close += compare(state, page.ask("observe", state=before, action=action[0], x=x[0], noise=given))
            continue
        tau = (0.1, 0.7, 1.0, 1.3)[step % 4]
        imagined = memory.imagine(state, tf.constant(action), tau, tf.constant(noise))
        answer = page.ask("imagine", state=before, action=action[0], tau=tau, noise=given)
        other = compare(imagined.state, answer["state"])
        close += other
        if not other:
            assert answer["goesOn"] == pytest.approx(float(imagined.goes_on[0]), abs=1e-5)
            assert answer["over"] == bool(imagined.over[0])
            assert answer["reward"] == pytest.approx(float(imagined.reward[0]), rel=1e-4, abs=1e-4)
        state = imagined.state
        np.testing.assert_allclose(page.ask("latent", state=listed(state)), memory.latent(state)[0], atol=1e-4)
    assert close <= 2  # draws so near to a boundary that rounding decides


def compare(ours, theirs) -> int:
    """Whether a draw fell to the other side of a boundary; all else must be equal."""
    other = 0
    for name, part in listed(ours).items():
        near = np.isclose(np.array(theirs[name]), np.array(part), atol=1e-4)
        if name in "zs" and not near.all():
            other = int((~near).sum())
            continue
        assert near.all(), name
    assert other <= 2
    return int(other > 0)


def test_plain_javascript_computes_the_same(both):
    """Where there is no WebAssembly."""
    _, player, page, data, blob = both
    plain = Page(data, blob, simd=False)
    try:
        assert not plain.simd
        z = np.random.default_rng(1).standard_normal(player.settings.vae.z_size)
        sums = np.array([found.ask("sums", x=z) for found in (page, plain)])
        np.testing.assert_allclose(sums[0], sums[1], atol=1e-5 * np.abs(sums).max())
    finally:
        plain.close()


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("doom-mdnrnn", "sigmoid(gates[2 * units + n] + 1)", "sigmoid(gates[2 * units + n])"),
        ("doom-mdnrnn", "* Math.sqrt(tau) * noise.eps[d]", "* tau * noise.eps[d]"),
        ("doom-mdnrnn", "Math.tanh(gates[units + n])", "Math.tanh(gates[2 * units + n])"),
        ("doom-mdnrnn", "zch: [state.z, state.c, state.h]", "zch: [state.z, state.h, state.c]"),
        ("doom-mdnrnn", "restart ? all.subarray(1) : all", "all"),
        ("doom-mdnrnn", "[[state.restart]] : []), state.h]", "[[0]] : []), state.h]"),
        ("doom-mdnrnn", "((2 * i + k) * side + 2 * j)", "((2 * j + k) * side + 2 * i)"),
        ("carracing-rssm", "this.gruBias[2 * units + n] - 1)", "this.gruBias[2 * units + n])"),
        ("carracing-rssm", "u[g] * total", "u[0] * total"),
        ("carracing-rssm", "1e-20, 1 / tau)", "1e-20, tau)"),
        ("carracing-rssm", "weight * this.bins[k]", "weight * k"),
        ("carracing-rssm", "const factor = 1 / Math.sqrt(sum / x.length + 1e-4)", "const factor = 1 / Math.sqrt(sum + 1e-4)"),
        ("carracing-rssm", "(1 - update) * state.h[n]", "update * state.h[n]"),
        ("carracing-rssm", "sigmoid(spread[n] + 2)", "sigmoid(spread[n])"),
        ("lander-rssm", "Math.exp(SURE * v)", "Math.exp(v)"),
    ],
)
def test_planted_bugs_are_found(name, right, wrong):
    source = MODELS.read_text()
    assert source.count(right) == 1
    task, kind = which(name)
    player, blob = some_player(task, kind), Blob()
    data = models_data(task, player, blob)
    as_on_the_page(player, blob)
    page = Page(data, blob, source=source.replace(right, wrong))
    try:
        with pytest.raises(AssertionError):
            test_pictures_are_pythons((task, player, page, data, blob))
            test_a_hundred_steps_of_m_and_c_are_pythons((task, player, page, data, blob))
    finally:
        page.close()


def test_among_equal_outputs_the_first_action_is_taken():
    """tanh is 1 for many sums in float32: Python then takes the first, and so does the page."""
    js = MiniRacer()
    try:
        js.eval(MODELS.read_text())
        shape = json.dumps({"kind": "discrete", "low": [0] * 4, "high": [1] * 4, "rest": [1, 0, 0, 0]})
        y = [math.tanh(value) for value in (9.5, 12.0, 3.0, 1.0)]
        taken = json.loads(js.eval(f"JSON.stringify(Array.from(new Actions({shape}).ofOutputs({y})))"))
    finally:
        js.close()
    assert taken == Discrete(4).of_outputs(np.array(y, np.float32)).tolist() == [1, 0, 0, 0]


def test_keys_are_the_actions_of_play():
    """A key held down is its action; several add up; nothing is the action of rest (env/actions.py)."""
    shapes = {
        "continuous": (get_task("carracing").actions, [key[1] for key in get_task("carracing").keys]),
        "discrete": (Discrete(3), [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]),
    }
    js = MiniRacer()
    try:
        js.eval(MODELS.read_text())
        for kind, (actions, keys) in shapes.items():
            shape = {"kind": kind, "low": actions.low, "high": actions.high, "rest": actions.rest.tolist()}
            told = json.dumps([{"key": str(n), "action": action} for n, action in enumerate(keys)])
            for held in ([], [0], [1], [0, 1]):
                pressed = [float(n in held) for n in range(len(keys))]
                answer = js.eval(f"JSON.stringify(Array.from(new Actions({json.dumps(shape)}).ofKeys({told}, {pressed})))")
                wanted = actions.of_keys([keys[n] for n in held]) if held else actions.rest
                np.testing.assert_allclose(json.loads(answer), wanted, atol=1e-6)
    finally:
        js.close()


def test_chance_is_what_it_should_be():
    js = MiniRacer()
    try:
        js.eval(MODELS.read_text())
        js.eval("const noise = new Chance(5).noise([20000, 20000])")
        noise = json.loads(js.eval("JSON.stringify([Array.from(noise.u), Array.from(noise.eps)])"))
    finally:
        js.close()
    u, eps = map(np.array, noise)
    assert 0 < u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01 and abs(np.quantile(u, 0.1) - 0.1) < 0.01
    assert abs(eps.mean()) < 0.02 and abs(eps.std() - 1) < 0.02 and abs(np.corrcoef(eps[:-1], eps[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("name", ["carracing", "doom"])
def test_rounding_the_shipped_decoder_is_not_seen(name):
    """Its int8 weights change pictures of real frames by at most 3 of 255."""
    task = get_task(name)
    player = load_player(task, task.scales["paper"], Path("nowhere"), False)
    world = make_world(task, player.settings.world)
    world.reset(seed=1)
    moves = [task.actions.rest, np.array(task.keys[0][1], np.float32)]
    frames = np.stack([world.step(moves[step // 10 % 2])[0] for step in range(100)])
    world.close()
    z, _ = player.vae.encode(tf.constant(frames))
    exact, blob = player.vae.decode(z).numpy(), Blob()
    models_data(task, player, blob)
    as_on_the_page(player, blob)
    assert 0 < np.abs(player.vae.decode(z).numpy() - exact).max() * 255 <= 3


def test_the_page_is_whole(tmp_path):
    """One file, which asks for nothing: no address, no import; its data is what was put in."""
    task = get_task("carracing")
    player = some_player(task, "mdnrnn")
    rng = np.random.default_rng(0)
    game = {
        "obs": rng.integers(0, 256, (8, 64, 64, 3), np.uint8),
        "action": np.zeros((7, 3), np.float32),
        "reward": np.ones(7, np.float32),
        "done": np.zeros(7, bool),
    }
    data, blob = page_data(task, player, [game, game])
    page = fill(data | {"title": "<!--<script></script>"}, blob)
    head = page.split('id="data">')[0].replace('<link rel="icon" href="data:,">', "")
    code = page.split("</script>")[-3] + page.split("</script>")[-2]
    assert not re.search(r"https?://|@import|<link|<script src|url\(", head)
    assert not re.search(r"https?://|\bimport\s*[({]|\bfetch\(|XMLHttpRequest|\beval\(", code)
    assert page.count("<script") == page.count("</script>") == 4 and "<!--" not in page
    told = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert told["title"] == "<!--<script></script>"
    assert [episode["from"] for episode in told["episodes"]] == [0, 8]
    assert told["episodes"][0]["steps"] == 7 and "score 7" in told["episodes"][0]["note"]


def test_curves_begin_with_the_c_that_the_training_began_with():
    task = get_task("doom")
    settings = dataclasses.replace(task.scales["paper"], memory="rssm", trainer="actor_critic")
    rows = [
        {"update": 10, "played": 3.0, "start": 5.0, "start_std": 1.0},
        {"update": 20, "played": 4.0, "eval": 7.0},
        {"update": 30, "played": 6.0},
    ]
    chart = curves(task, settings, Scored("c", settings, rows, Path("best.npz")), {})[0]
    points = {line["name"]: line["points"] for line in chart["lines"]}
    assert points == {"played": [[10, 3], [20, 4], [30, 6]], "scored": [[0, 5], [20, 7]]}


def test_weights_that_are_no_numbers_are_refused():
    task = get_task("carracing")
    player, blob = some_player(task, "mdnrnn"), Blob()
    player.memory.weights[0].assign(np.full(player.memory.weights[0].shape, np.nan, np.float32))
    models_data(task, player, blob)
    with pytest.raises(UserError, match="rnn:lstm/kernel holds numbers that are not finite"):
        fill({"title": "x"}, blob)


def test_a_sprite_holds_the_frames():
    import base64
    import io

    from PIL import Image

    frames = np.repeat(np.arange(40, dtype=np.uint8)[:, None, None, None] * 6, 64, axis=1).repeat(64, axis=2).repeat(3, axis=3)
    made = sprite(frames)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["source"].split(",")[1]))))
    for number in (0, 31, 32, 39):
        row, column = divmod(number, made["columns"])
        assert abs(int(picture[64 * row + 32, 64 * column + 32, 0]) - 6 * number) <= 4
