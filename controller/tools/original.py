"""The authors' released weights: JSON lists of integers, each a weight times 10,000, in their order of variables.

    DIR/vae/vae.json          22 arrays: kernel, bias of enc_conv1..4, enc_fc_mu, enc_fc_log_var, dec_fc, dec_deconv1..4
    DIR/rnn/rnn.json          4 arrays: output kernel, output bias, LSTM kernel (gates i, j, f, o), LSTM bias
    DIR/log/*.best.json       [[weights of C], score]

Transposed convolutions have the same kernel layout, [height, width, out, in], there and in Keras.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from env.run.errors import UserError
from rnn.memory import Memory
from rnn.rnn import MDNRNN
from vae.vae import ConvVAE

SCALE = 10000.0

VAE_LAYERS = (
    *(f"enc_conv{i}" for i in (1, 2, 3, 4)),
    "enc_fc_mu",
    "enc_fc_log_var",
    "dec_fc",
    *(f"dec_deconv{i}" for i in (1, 2, 3, 4)),
)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: --original needs the authors' vae/vae.json, rnn/rnn.json and log/*.best.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): fetch it again") from None


def _assign(path: Path, named: list[tuple[str, Any]]) -> None:
    """Set variables from the file's arrays, in order.

    Raises:
        UserError: another number of arrays, or a wrong shape; the message names it with expected and found.
    """
    data = _read_json(path)
    if not isinstance(data, list) or len(data) != len(named):
        found = f"{len(data)} arrays" if isinstance(data, list) else "no list"
        raise UserError(f"{path} holds {found}, expected {len(named)} arrays")
    arrays = []
    for (name, variable), values in zip(named, data):
        try:
            array = np.array(values, np.float64) / SCALE
        except (ValueError, TypeError):
            raise UserError(f"{path}: {name} is no array of numbers, expected shape {tuple(variable.shape)}") from None
        if array.shape != tuple(variable.shape):
            raise UserError(f"{path}: {name} has shape {array.shape}, expected {tuple(variable.shape)}")
        arrays.append(array)
    for (_, variable), array in zip(named, arrays):
        variable.assign(array.astype(np.float32))


def load_original_vae(path: Path, model: ConvVAE) -> None:
    """Set V's weights from the authors' vae.json. Raises UserError, see `_assign`."""
    layers = {layer.name: layer for layer in (*model.encoder_layers, model.mu_layer, model.logvar_layer, *model.decoder_layers)}
    _assign(path, [(f"{name} {part}", getattr(layers[name], part)) for name in VAE_LAYERS for part in ("kernel", "bias")])


class OriginalPaths(NamedTuple):
    """The files of V and M in a folder of theirs."""

    vae: Path
    rnn: Path


def original_paths(folder: Path) -> OriginalPaths:
    """Their carracing keeps vae/vae.json and rnn/rnn.json, their doomrnn both in tf_models/."""
    together = folder / "tf_models"
    if together.is_dir():
        return OriginalPaths(together / "vae.json", together / "rnn.json")
    return OriginalPaths(folder / "vae" / "vae.json", folder / "rnn" / "rnn.json")


def load_original_rnn(path: Path, model: Memory) -> None:
    """Set M's weights from the authors' rnn.json. Raises UserError, see `_assign`.

    Their CarRacing makes the output layer's variables first, their Doom the LSTM's; the first array's rows tell.
    """
    assert isinstance(model, MDNRNN)
    output, lstm = model.output_layer, model.lstm
    named = [("output kernel", output.kernel), ("output bias", output.bias), ("LSTM kernel", lstm.kernel), ("LSTM bias", lstm.bias)]
    data = _read_json(path)
    rows = len(data[0]) if isinstance(data, list) and data and isinstance(data[0], list) else 0
    lstm_first = rows == lstm.kernel.shape[0]
    _assign(path, named[2:] + named[:2] if lstm_first else named)


def load_original_controller(folder: Path, size: int) -> np.ndarray:
    """C's parameters from the authors' *.best.json in `folder`: float32 [size].

    Raises:
        UserError: no such file or several, or another number of parameters.
    """
    files = sorted(folder.glob("*.best.json"))
    if len(files) != 1:
        raise UserError(f"{folder} has {len(files)} files *.best.json, expected one")
    data = _read_json(files[0])
    try:
        params = np.array(data[0], np.float32)
    except (ValueError, TypeError, KeyError, IndexError):
        raise UserError(f"{files[0]} is not [[weights], score]") from None
    if params.shape != (size,):
        raise UserError(f"{files[0]}: the controller has shape {params.shape}, expected ({size},)")
    return params
