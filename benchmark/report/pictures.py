"""Images as PNG data URIs: small ones pixel by pixel, large ones reduced."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST_SIDE = 96
"""Pixels; larger images are reduced to it, which the page says."""

Picture = NDArray[np.float32]


def uri(picture: Picture) -> str:
    """A data URI.

    Args:
        picture: (C, H, W) in [0, 1], C 1 or 3.
    """
    levels = np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)
    pixels = levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def amplified(change: Picture) -> tuple[Picture, float]:
    """A perturbation around grey, and the factor that makes its largest pixel black or white.

    Args:
        change: (C, H, W) point minus image.
    """
    largest = float(np.abs(change).max())
    factor = 0.5 / largest if largest > 0 else 1.0
    return (0.5 + factor * change).astype(np.float32), factor
