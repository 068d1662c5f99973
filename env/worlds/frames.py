"""From a world's picture to the 64x64 frame that V sees."""

from __future__ import annotations

import numpy as np
from PIL import Image

SIZE = 64


def process_as_original(picture: np.ndarray) -> np.ndarray:
    """Resize just as the authors' code did, for V's of theirs (original carracing/env.py and doomrnn/doomreal.py,
    _process_frame).

    Its scipy imresize stretched a float image's darkest..brightest to 0..255 before Pillow's bilinear resize, and its
    round((1 - x) * 255) was meant for x in 0..1: on 0..255, cast to uint8, it is (x - 1) mod 256.

    Args:
        picture: uint8 [H, W, 3], cropped already.

    Returns:
        uint8 [64, 64, 3].
    """
    x = picture.astype(np.float64)
    low, high = x.min(), x.max()
    stretched = (x - low) * (255.0 / (high - low or 1.0)) + 0.5
    return shrink(np.clip(stretched, 0, 255).astype(np.uint8)) - np.uint8(1)


def shrink(picture: np.ndarray, reducing_gap: float | None = None) -> np.ndarray:
    """Pillow's bilinear resize, uint8 [H, W, 3] -> uint8 [64, 64, 3]. It averages over all pixels that a new one covers.

    Args:
        reducing_gap: Pillow's: average whole blocks of pixels first, which is faster and nearly the same.
    """
    image = Image.fromarray(picture)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=reducing_gap))
