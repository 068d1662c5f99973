"""The authors' weight files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from controller.tools.original import load_original_controller, load_original_rnn, load_original_vae
from env.run.errors import UserError
from rnn.rnn import MDNRNN
from vae.vae import ConvVAE

VAE_SHAPES = [
    *((4, 4, 3, 32), (32,), (4, 4, 32, 64), (64,), (4, 4, 64, 128), (128,), (4, 4, 128, 256), (256,)),
    *((1024, 32), (32,), (1024, 32), (32,), (32, 1024), (1024,)),
    *((5, 5, 128, 1024), (128,), (5, 5, 64, 128), (64,), (6, 6, 32, 64), (32,), (6, 6, 3, 32), (3,)),
]
RNN_SHAPES = [(256, 480), (480,), (291, 1024), (1024,)]


def integers(shapes):
    rng = np.random.default_rng(0)
    return [rng.integers(-3000, 3000, shape) for shape in shapes]


def write(path, arrays):
    path.write_text(json.dumps([array.tolist() for array in arrays]))
    return path


def test_rnn_weights_are_integers_over_ten_thousand(tmp_path):
    arrays, model = integers(RNN_SHAPES), MDNRNN()
    load_original_rnn(write(tmp_path / "rnn.json", arrays), model)
    variables = [model.output_layer.kernel, model.output_layer.bias, model.lstm.kernel, model.lstm.bias]
    for variable, array in zip(variables, arrays):
        np.testing.assert_allclose(variable.numpy(), array / 10000, atol=1e-7)


def test_rnn_weights_that_begin_with_the_lstm_are_known_by_their_shape(tmp_path):
    """The order in which the authors' Doom makes its variables."""
    arrays, model = integers(RNN_SHAPES), MDNRNN()
    load_original_rnn(write(tmp_path / "rnn.json", arrays[2:] + arrays[:2]), model)
    variables = [model.output_layer.kernel, model.output_layer.bias, model.lstm.kernel, model.lstm.bias]
    for variable, array in zip(variables, arrays):
        np.testing.assert_allclose(variable.numpy(), array / 10000, atol=1e-7)


def test_vae_weights_go_to_their_layers_in_order(tmp_path):
    arrays, model = integers(VAE_SHAPES), ConvVAE(32)
    load_original_vae(write(tmp_path / "vae.json", arrays), model)
    layers = [*model.encoder_layers[:4], model.mu_layer, model.logvar_layer, model.decoder_layers[0], *model.decoder_layers[2:]]
    assert len(layers) == 11
    for layer, kernel, bias in zip(layers, arrays[::2], arrays[1::2]):
        np.testing.assert_allclose(layer.kernel.numpy(), kernel / 10000, atol=1e-7)
        np.testing.assert_allclose(layer.bias.numpy(), bias / 10000, atol=1e-7)


def test_wrong_shapes_are_named_with_expected_and_found(tmp_path):
    arrays, model = integers(RNN_SHAPES), MDNRNN()
    before = [v.numpy() for v in model.weights]
    arrays[2] = arrays[2][:-1]
    with pytest.raises(UserError, match=r"LSTM kernel has shape \(290, 1024\), expected \(291, 1024\)"):
        load_original_rnn(write(tmp_path / "rnn.json", arrays), model)
    for variable, old in zip(model.weights, before):
        np.testing.assert_array_equal(variable.numpy(), old)
    with pytest.raises(UserError, match="3 arrays, expected 4"):
        load_original_rnn(write(tmp_path / "rnn.json", arrays[:3]), model)
    (tmp_path / "rnn.json").write_text("[[1, 2], [")
    with pytest.raises(UserError, match="not valid JSON"):
        load_original_rnn(tmp_path / "rnn.json", model)
    with pytest.raises(UserError, match="is missing"):
        load_original_vae(tmp_path / "vae.json", ConvVAE(32))


def test_controller_file(tmp_path):
    (tmp_path / "carracing.cma.16.64.best.json").write_text(json.dumps([[0.5] * 867, 900.0]))
    params = load_original_controller(tmp_path, 867)
    assert params.shape == (867,)
    assert params.dtype == np.float32
    assert (params == 0.5).all()
    with pytest.raises(UserError, match=r"shape \(867,\), expected \(288,\)"):
        load_original_controller(tmp_path, 288)
    (tmp_path / "other.best.json").write_text("[]")
    with pytest.raises(UserError, match="2 files"):
        load_original_controller(tmp_path, 867)
