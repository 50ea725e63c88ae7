"""Low frequencies: what early stopping, smoothing and blurred reconstructions let through."""

import math

import torch
from torch import Tensor


def cosines(size: int) -> Tensor:
    """The orthonormal DCT-II matrix (size, size), float64: row f holds frequency f."""
    place = torch.arange(size, dtype=torch.float64)
    matrix = (math.pi / size * (place + 0.5) * place[:, None]).cos() * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def low_pass(images: Tensor, band: float) -> Tensor:
    """The nearest images in the span of the lowest DCT-II frequencies of both axes.

    Args:
        images: (N, C, H, W).
        band: share of each axis' frequencies that is kept, in (0, 1]; at least one is.
    """
    rows, columns = (_onto_lowest(size, band).to(images) for size in images.shape[2:])
    return rows @ images @ columns


def _onto_lowest(size: int, band: float) -> Tensor:
    kept = cosines(size)[: math.ceil(band * size)]
    return kept.T @ kept
