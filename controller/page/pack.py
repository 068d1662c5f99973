"""What the page holds (controller/web.py): weights, recorded games and pictures, as small as they can be without being seen to be.

The page's own code, models.js, reads the arrays back; here is what it must read, so that both can be compared.
"""

from __future__ import annotations

import base64
import io
import zlib
from typing import Any

import numpy as np

TILES = 32  # frames in a row of the sprite
QUALITY = 82  # of the recorded frames, as WebP


class Blob:
    """Named arrays, one after the other in one run of bytes, with a manifest that says where each is and how it is kept."""

    def __init__(self) -> None:
        self.manifest: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, np.ndarray] = {}  # as they are read back: float32
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, array: np.ndarray, dtype: str) -> None:
        """Keep an array as float32 or float16."""
        self._append(name, array.astype(dtype), {"dtype": dtype})
        self.arrays[name] = array.astype(dtype).astype(np.float32)

    def add_int8(self, name: str, array: np.ndarray, columns: int) -> None:
        """Keep an array as int8, with a scale for each of `columns` columns, of which the last axis is a whole number of times."""
        flat = array.astype(np.float32).reshape(-1, columns)
        scale = np.maximum(np.abs(flat).max(axis=0) / 127, 1e-12).astype(np.float32)
        rounded = np.clip(np.rint(flat / scale), -127, 127).astype(np.int8)
        self._append(name, rounded.reshape(array.shape), {"dtype": "int8", "scale": [float(value) for value in scale]})
        self.arrays[name] = (rounded.astype(np.float32) * scale).reshape(array.shape)

    def _append(self, name: str, array: np.ndarray, how: dict[str, Any]) -> None:
        self.manifest[name] = how | {"shape": list(array.shape), "at": self._size}
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        data += bytes(-len(data) % 4)
        self._parts.append(data)
        self._size += len(data)

    def bytes(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)

    def text(self) -> str:
        """Deflated, in base64."""
        squeeze = zlib.compressobj(9, wbits=-15)
        return base64.b64encode(squeeze.compress(self.bytes()) + squeeze.flush()).decode()


def add_decoder(blob: Blob, weights: dict[str, np.ndarray]) -> None:
    """V's decoder: transposed convolutions [height, width, outputs, inputs] as [height, inputs, width * outputs] in int8 (its pictures
    then differ by a seventh of 1 of 255 on average), all else in float16."""
    for name, array in weights.items():
        if not name.startswith("conv_vae/dec_"):
            continue
        if array.ndim == 4:
            high, _, outputs, inputs = array.shape
            blob.add_int8(f"vae:{name}", array.transpose(0, 3, 1, 2).reshape(high, inputs, -1), outputs)
        else:
            blob.add(f"vae:{name}", array, "float16")


def decoder_kernel(packed: np.ndarray, outputs: int) -> np.ndarray:
    """The inverse of `add_decoder`'s order: [height, inputs, width * outputs] -> [height, width, outputs, inputs]."""
    high, inputs, _ = packed.shape
    return packed.reshape(high, inputs, -1, outputs).transpose(0, 2, 3, 1)


def sprite(frames: np.ndarray) -> dict[str, Any]:
    """Frames uint8 [n, 64, 64, 3] as one picture, TILES in a row, as a data: address."""
    from PIL import Image

    rows = -(-len(frames) // TILES)
    sheet = np.zeros((rows * TILES, 64, 64, 3), np.uint8)
    sheet[: len(frames)] = frames
    picture = sheet.reshape(rows, TILES, 64, 64, 3).transpose(0, 2, 1, 3, 4).reshape(rows * 64, TILES * 64, 3)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=QUALITY, method=4)
    return {"source": "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode(), "columns": TILES}
