"""Random points of a ball, drawn per image so that no image's start depends on its batch."""

import math

import torch
from torch import Generator, Tensor

from attacks.threat import Norm
from defenses.randomness import noise_like_rows


def uniform_in_ball(norm: Norm, x: Tensor, epsilon: float, rng: Generator) -> Tensor:
    """One point (N, C, H, W) per image, uniform in its ball and then clipped to the box.

    Linf: independent uniform pixels. L2: the first d coordinates of a uniform direction in d + 2
    dimensions are uniform in the unit ball (Voelker et al. 2017).

    Raises:
        ValueError: another norm.
    """
    shape = tuple(x.shape[1:])
    match norm:
        case Norm.LINF:
            offset = 2 * noise_like_rows(rng, x, shape, torch.rand) - 1
        case Norm.L2:
            size = math.prod(shape)
            direction = unit_directions(noise_like_rows(rng, x, (size + 2,)))
            offset = direction[:, :size].reshape(x.shape)
        case _:
            raise ValueError(f"norm must be l2 or linf, got {norm}; no ball to draw from")
    return norm.project(x, x + epsilon * offset, epsilon)


def unit_directions(noise: Tensor) -> Tensor:
    """Rows (N, ...) scaled to Euclidean length 1."""
    length = noise.flatten(1).square().sum(dim=1).sqrt()
    return noise / length.reshape(-1, *[1] * (noise.dim() - 1))
