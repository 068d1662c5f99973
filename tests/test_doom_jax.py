"""The JAX program that trained the shipped Doom table computes what the project's TensorFlow does."""

from __future__ import annotations

import importlib
import json
import shutil
from math import erf

import numpy as np
import pytest
import tensorflow as tf

from controller.policy import Policy
from controller.tools.doom_jax.layout import lay_out
from controller.tools.doom_jax.plan import Plan
from env.run.errors import UserError
from env.run.files import load_arrays, read_jsonl
from env.run.settings import load_settings
from env.run.training import adam
from env.run.weights import assign_weights, model_paths, shipped
from rnn.memory import as_batch
from rnn.rnn import MDNRNN, State
from vae.vae import ConvVAE, load_vae

Z, UNITS = 64, 512
ROWS, STEPS = 3, 20


def params_of(floor: str) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float32) for name, array in load_arrays(shipped(floor, "doom", "weights.npz"))[0].items()}


@pytest.fixture(scope="module")
def memory() -> MDNRNN:
    model = MDNRNN(Z, 1, UNITS, restart=True, step_reward=1.0)
    assign_weights(shipped("rnn", "doom", "weights.npz"), params_of("rnn"), model)
    return model


# JAX is imported by these tests alone, not by whoever collects them.
@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax", reason="JAX is not installed (tests/requirements.txt)")


@pytest.fixture(scope="module")
def models(jax):
    return importlib.import_module("controller.tools.doom_jax.models")


def apart(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def agree(gradients, variables, theirs) -> None:
    for variable, its in zip(variables, theirs):
        assert apart(gradients[variable.path], its) < 1e-5, variable.path


def test_vs_loss_and_gradients(jax, models):
    rng = np.random.default_rng(0)
    frames, noise = rng.integers(0, 255, (4, 64, 64, 3), np.uint8), rng.standard_normal((4, Z), np.float32)
    model = load_vae(shipped("vae", "doom", "weights.npz"), Z)
    with tf.GradientTape() as tape:
        terms = model.loss_terms(tf.constant(frames), tf.constant(noise))
    theirs = tape.gradient(terms["loss"], model.trainable_variables)
    gradients, ours = jax.grad(models.vae_loss, has_aux=True)(params_of("vae"), frames, noise)
    assert {name: float(value) for name, value in ours.items()} == pytest.approx({name: float(v) for name, v in terms.items()}, rel=1e-5)
    agree(gradients, model.trainable_variables, theirs)


def test_ms_loss_state_and_gradients_with_deaths_and_cuts_in_mid_sequence(jax, models, memory):
    rng = np.random.default_rng(1)
    mu, logvar, noise = (rng.standard_normal((ROWS, STEPS, Z), np.float32) for _ in range(3))
    action = rng.uniform(-1, 1, (ROWS, STEPS)).astype(np.float32)
    first, died = np.zeros((ROWS, STEPS), np.float32), np.zeros((ROWS, STEPS), np.float32)
    first[0, [0, 7]], died[0, 6] = 1, 1
    first[1, 12] = 1  # after an episode that the limit of steps cut
    first[2, 19], died[2, 18] = 1, 1
    h, c = (0.3 * rng.standard_normal((ROWS, UNITS), np.float32) for _ in range(2))
    batch = as_batch(mu, logvar, action[..., None], first, np.ones_like(action), died)._replace(fresh=np.array(False))
    with tf.GradientTape() as tape:
        terms, carried = memory.loss_terms(batch, tf.constant(noise), (tf.constant(h), tf.constant(c)))
    theirs = tape.gradient(terms["loss"], memory.trainable_variables)
    z = mu + np.exp(logvar / 2) * noise
    gradients, (ours, state) = jax.grad(models.rnn_loss, has_aux=True)(params_of("rnn"), z, action, first, died, h, c)
    assert {name: float(value) for name, value in ours.items()} == pytest.approx({name: float(v) for name, v in terms.items()}, rel=1e-5)
    assert max(map(apart, state, carried)) < 1e-5
    agree(gradients, memory.trainable_variables, theirs)


@pytest.mark.parametrize("tau", [0.1, 1.3])
def test_an_imagined_step(models, memory, tau):
    rng = np.random.default_rng(2)
    z, choice, noise = (rng.standard_normal((ROWS, Z), np.float32) for _ in range(3))
    h, c = (0.3 * rng.standard_normal((ROWS, UNITS), np.float32) for _ in range(2))
    action, restart = rng.uniform(-1, 1, (ROWS, 1)).astype(np.float32), np.array([[1], [0], [0]], np.float32)
    theirs = memory.imagine(State(*map(tf.constant, (z, h, c, restart))), tf.constant(action), tau, tf.concat([choice, noise], axis=1))
    quantile = np.vectorize(lambda x: 0.5 + 0.5 * erf(x * 0.5**0.5))(choice).astype(np.float32)
    taus = np.full(ROWS, tau, np.float32)
    ours = models.dream_step(params_of("rnn"), z, h, c, restart, action, taus, quantile, noise)
    assert max(map(apart, ours[:3], theirs.state[:3])) < 1e-5
    np.testing.assert_allclose(1 / (1 + np.exp(ours[3])), theirs[2], atol=1e-5)


def test_adams_steps(models):
    rng = np.random.default_rng(3)
    weights, gradients = rng.standard_normal((5, 4), np.float32), rng.standard_normal((3, 5, 4), np.float32) * 1e-6
    variable, optimizer = tf.Variable(weights), adam(1e-2)
    params, state = {"w": weights}, ({"w": np.zeros_like(weights)}, {"w": np.zeros_like(weights)})
    for step, gradient in enumerate(gradients, start=1):
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        params, state = models.adam(params, {"w": gradient}, state, step, 1e-2)
    np.testing.assert_allclose(params["w"], variable.numpy(), rtol=1e-5)
    assert np.abs(params["w"] - weights).mean() > 5e-3


def test_weights_begin_as_ours_do(models):
    """The same names and shapes, and bounds of the same size."""
    rng = np.random.default_rng(4)
    pairs = (models.vae_init(rng, Z), ConvVAE(Z)), (models.rnn_init(rng, Z, UNITS), MDNRNN(Z, 1, UNITS, restart=True))
    for ours, model in pairs:
        assert {name: array.shape for name, array in ours.items()} == {v.path: tuple(v.shape) for v in model.weights}
        for variable in model.weights:
            if np.prod(variable.shape) > 900:  # enough for the largest to be near the bound
                assert np.abs(ours[variable.path]).max() == pytest.approx(np.abs(variable.numpy()).max(), rel=0.02), variable.path


def test_c_acts_on_the_features_in_the_projects_order(models, memory):
    """Two lanes of the compiled dream, each with a C of its own, told apart from the project's by what the first steps do to h."""
    rng = np.random.default_rng(6)
    z, own = rng.standard_normal((2, Z), np.float32), 0.1 * rng.standard_normal((2, Z + 2 * UNITS), np.float32)
    h, c = (0.3 * rng.standard_normal((2, UNITS), np.float32) for _ in range(2))
    state = State(*map(tf.constant, (z, h, c, np.zeros((2, 1), np.float32))))
    action = Policy(Z + 2 * UNITS, 1, bias=False).act(tf.constant(own), memory.features(state, "zch"))
    assert np.abs(action).max() > 0.3
    theirs = memory.advance(state, action)
    ours = models.act(own, z, h, c)
    np.testing.assert_allclose(ours, action, atol=1e-5)
    alone = models.dream_step(params_of("rnn"), z, h, c, state.restart.numpy(), ours, np.ones(2, np.float32), z * 0 + 0.5, z * 0)
    assert max(map(apart, alone[1:3], theirs)) < 1e-5


def test_what_it_writes_is_laid_out_as_a_run(tmp_path):
    """From what comes with the project back to what the program wrote, and forth again."""
    out, rows, run = tmp_path / "out", shipped("controller", "doom", "rows"), tmp_path / "run"
    for floor in ("vae", "rnn"):
        (out / floor).mkdir(parents=True)
        shutil.copyfile(shipped(floor, "doom", "weights.npz"), out / floor / "weights.npz")
        (out / floor / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in read_jsonl(shipped(floor, "doom", "log.jsonl"))))
    shutil.copyfile(shipped("vae", "doom", "initial.npz"), out / "initial.npz")
    shutil.copyfile(shipped("controller", "doom", "facts.json"), out / "facts.json")
    count = len(list(rows.iterdir()))
    for row in rows.iterdir():
        (out / row.name).mkdir()
        log = [generation | {"seconds": generation["seconds"] * count} for generation in read_jsonl(row / "log.jsonl")]
        (out / row.name / "log.jsonl").write_text("".join(json.dumps(generation) + "\n" for generation in log))
        arrays, meta = load_arrays(row / "best.npz")
        np.savez(out / row.name / "means.npz", **{f"generation-{meta['generation']}": arrays["params"]})
    lay_out(out, run)
    kept = {run / floor / "weights.npz": shipped(floor, "doom", "weights.npz") for floor in ("vae", "rnn")}
    for row in rows.iterdir():
        study = run / "studies" / row.name
        assert model_paths("doom", study).rnn.resolve() == run / "rnn" / "weights.npz"
        kept[study / "controller" / "best.npz"] = row / "best.npz"
        # not the bytes: a setting that came later is written out in new files
        assert load_settings(study / "settings.json") == load_settings(row / "settings.json"), row
    for written, shipped_file in kept.items():
        assert written.read_bytes() == shipped_file.read_bytes(), written
    assert {row.name for row in rows.iterdir()} == {study.name for study in (run / "studies").iterdir()}
    with pytest.raises(UserError, match="exists"):
        lay_out(out, run)


def test_dreams_without_skill_last_as_long_as_the_projects(jax):
    """Standing still: a C of zeros, beside what controller/evaluate.py found in the same M's dreams."""
    dreams, plan = importlib.import_module("controller.tools.doom_jax.dreams"), Plan()
    theirs = json.loads(shipped("controller", "doom", "always_still.json").read_text())["dream"]
    beginnings, _ = load_arrays(shipped("vae", "doom", "initial.npz"))
    initial = tuple(beginnings[name].astype(np.float32) for name in ("mu", "logvar"))
    lanes = dreams.Dreams(params_of("rnn"), initial, [16, 48, 64], plan, dreams.dream_block(plan.steps))
    lengths = lanes.play(np.zeros((60, Z + 2 * UNITS), np.float32), np.full(60, 1.15), seed=5)
    error = (lengths.var() / 60 + theirs["std"] ** 2 / theirs["episodes"]) ** 0.5
    assert abs(lengths.mean() - theirs["mean"]) < 4 * error and lengths.min() > 30 and lengths.max() < plan.steps
    assert (lengths == lanes.play(np.zeros((60, Z + 2 * UNITS), np.float32), np.full(60, 1.15), seed=5)).all()
