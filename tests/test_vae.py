"""V: its size, its loss, its files."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from env.run.errors import UserError
from env.run.files import save_arrays
from env.run.weights import fingerprint, save_weights
from vae.train import begin_teller, make_step, make_teller
from vae.vae import ConvVAE, load_vae


@pytest.fixture(scope="module")
def vae():
    return ConvVAE(32)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


def test_parameters_by_keras_own_count(vae):
    assert vae.count_params() == 4_348_547
    assert ConvVAE(64).count_params() == 4_446_915


def test_shapes_and_types(vae, frames):
    mu, logvar = vae.encode(frames)
    picture = vae.decode(mu)
    assert mu.shape == logvar.shape == (3, 32)
    assert picture.shape == (3, 64, 64, 3)
    assert {t.dtype for t in (mu, logvar, picture)} == {tf.float32}
    assert 0 <= picture.numpy().min() <= picture.numpy().max() <= 1


def test_bytes_and_fractions_are_the_same_frames(vae, frames):
    np.testing.assert_allclose(vae.encode(frames)[0], vae.encode(frames.astype(np.float32) / 255)[0], atol=1e-6)


def numpy_loss(vae, frames, noise):
    """The loss in float64 from V's own mu, logvar and pictures."""
    mu, logvar = (t.numpy().astype(np.float64) for t in vae.encode(frames))
    z = mu + np.sqrt(np.exp(logvar)) * noise
    y = vae.decode(z.astype(np.float32)).numpy().astype(np.float64)
    reconstruction = np.mean([np.sum((x - p) ** 2) for x, p in zip(frames / 255.0, y)])
    kl = [max(sum(0.5 * (np.exp(v) + m * m - 1 - v) for m, v in zip(ms, vs)), 0.5 * 32) for ms, vs in zip(mu, logvar)]
    return reconstruction, np.mean(kl)


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_loss_equals_numpy(frames, spread):
    """At the start KL lies on its floor; with a spread-out mu it is above it."""
    vae = ConvVAE(32)
    vae.mu_layer.bias.assign(np.full(32, spread, np.float32))
    noise = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    terms = {key: float(value) for key, value in vae.loss_terms(frames, noise).items()}
    reconstruction, kl = numpy_loss(vae, frames, noise)
    assert terms["reconstruction"] == pytest.approx(reconstruction, rel=1e-5)
    assert terms["kl"] == pytest.approx(kl, rel=1e-5)
    assert terms["loss"] == pytest.approx(reconstruction + kl, rel=1e-5)
    assert (terms["kl"] == 16.0) == (spread == 0.0)


def test_outliers_weigh_more_than_their_squares(frames):
    plain, keen = ConvVAE(32), ConvVAE(32, beta_outliers=30.0)
    for own, other in zip(keen.weights, plain.weights):
        own.assign(other)
    noise = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    mu, logvar = (part.numpy() for part in plain.encode(frames))
    errors = frames / 255.0 - plain.decode(mu + np.exp(logvar / 2) * noise).numpy()
    terms, before = keen.loss_terms(frames, noise), plain.loss_terms(frames, noise)
    assert float(terms["outliers"]) == pytest.approx((errors**4).sum(axis=(1, 2, 3)).mean(), rel=1e-4)
    assert float(terms["loss"]) == pytest.approx(float(before["loss"]) + 30 * float(terms["outliers"]), rel=1e-5)
    assert "outliers" not in before


@pytest.mark.parametrize("hidden", [0, 512])
def test_v_learns_what_it_is_told_of_frames(frames, hidden):
    keras.utils.set_random_seed(1)
    vae, teller = ConvVAE(4), make_teller(4, 2, hidden)
    assert len(teller.layers) == 1 + bool(hidden)
    told = np.array([[0, 1], [1, 1], [1, 0]], np.uint8)
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(vae.trainable_variables + teller.trainable_variables)
    step = make_step(vae, optimizer, teller, beta=10.0)
    before = vae.mu_layer.kernel.numpy()
    rows = [step(frames, told, tf.constant([1, number])) for number in range(60)]
    assert float(rows[-1]["privileged"]) < 0.3 * float(rows[0]["privileged"])
    for row in rows[:2]:
        expected = row["reconstruction"] + row["kl"] + 10 * row["privileged"]
        assert float(row["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert not np.array_equal(vae.mu_layer.kernel, before)


def test_a_v_that_goes_on_keeps_what_tells_what_it_holds(tmp_path, capsys):
    learned, weights = make_teller(4, 2, 0), tmp_path / "weights.npz"
    same, other, late = (make_teller(4, 2, hidden) for hidden in (0, 8, 0))
    before = [weight.numpy() for weight in (*other.weights, *late.weights)]
    save_arrays(weights, {"a": np.zeros(2)}, {})
    begin_teller(weights, late)  # there is none
    save_weights(tmp_path / "teller.npz", learned, {"vae": fingerprint(weights)})
    begin_teller(weights, same)
    begin_teller(weights, other)  # of another shape
    save_arrays(weights, {"a": np.ones(2)}, {})
    begin_teller(weights, late)  # it learned with another V
    for own, expected in zip(same.weights + other.weights + late.weights, [*learned.weights, *before]):
        np.testing.assert_array_equal(own, expected)
    assert capsys.readouterr().out.count("begins with") == 1


def test_free_bits_floor_each_frame_not_the_mean(vae):
    """One frame above the floor and one below must not average out."""
    black, noise = np.zeros((2, 64, 64, 3), np.float32), np.zeros((2, 32), np.float32)
    model = ConvVAE(32)
    model.encode = lambda x, training: (tf.constant([[0.0] * 32, [2.0] * 32]), tf.zeros((2, 32)))
    assert float(model.loss_terms(black, noise)["kl"]) == pytest.approx((16 + 64) / 2)


def test_a_sample_has_the_posteriors_variance():
    noise = tf.random.stateless_normal((20000, 1), seed=[1, 2])
    z = ConvVAE.sample(tf.fill((20000, 1), 3.0), tf.fill((20000, 1), np.float32(np.log(4.0))), noise).numpy()
    assert z.mean() == pytest.approx(3.0, abs=0.05)
    assert z.std() == pytest.approx(2.0, abs=0.05)


def test_bfloat16_keeps_float32_weights_and_results(vae, frames, tmp_path):
    save_weights(tmp_path / "v.npz", vae, {"z_size": 32})
    half = load_vae(tmp_path / "v.npz", 32, dtype="mixed_bfloat16")
    assert {v.dtype for v in half.weights} == {"float32"}
    assert half.encode(frames)[0].dtype == half.decode(np.zeros((1, 32), np.float32)).dtype == tf.float32
    np.testing.assert_allclose(half.encode(frames)[0], vae.encode(frames)[0], atol=0.05)


def test_weights_come_back(vae, frames, tmp_path):
    save_weights(tmp_path / "v.npz", vae, {"z_size": 32})
    back = load_vae(tmp_path / "v.npz", 32)
    np.testing.assert_array_equal(back(frames), vae(frames))


def test_weights_that_do_not_fit_are_named(vae, tmp_path):
    save_weights(tmp_path / "v.npz", vae, {"z_size": 32})
    with pytest.raises(UserError, match="z_size 32, this run has vae.z_size 16"):
        load_vae(tmp_path / "v.npz", 16)
    save_weights(tmp_path / "v.npz", vae, {})
    with pytest.raises(UserError, match=r"'conv_vae/enc_fc_mu/kernel' has shape \(1024, 32\), expected \(1024, 16\)"):
        load_vae(tmp_path / "v.npz", 16)
