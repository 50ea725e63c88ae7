"""Random points of a ball, drawn per image so that no image's start depends on its batch."""

import math

import torch
from torch import Generator, Tensor

from attacks.threat import Norm
from defenses.randomness import noise_like_rows


def uniform_in_ball(norm: Norm, x: Tensor, epsilon: Tensor, rng: Generator) -> Tensor:
    """One point (N, C, H, W) per image, uniform in its ball and then clipped to the box.

    Linf: independent uniform pixels. L2: the first d coordinates of a uniform direction in d + 2
    dimensions are uniform in the unit ball (Voelker et al. 2017). L1: so are the first d
    of d + 1 exponential numbers divided by their sum, with random signs (Barthe et al. 2005).

    Args:
        epsilon: radii (N,).

    Raises:
        ValueError: another norm.
    """
    shape = tuple(x.shape[1:])
    match norm:
        case Norm.LINF:
            offset = 2 * noise_like_rows(rng, x, shape, torch.rand) - 1
        case Norm.L2:
            size = math.prod(shape)
            noise = noise_like_rows(rng, x, (size + 2,))
            direction = noise / noise.square().sum(dim=1, keepdim=True).sqrt()
            offset = direction[:, :size].reshape(x.shape)
        case Norm.L1:
            size = math.prod(shape)
            chance, side = noise_like_rows(rng, x, (2, size + 1), torch.rand).unbind(dim=1)
            waits = -torch.log1p(-chance)
            shares = waits / waits.sum(dim=1, keepdim=True)
            signed = torch.where(side < 0.5, -shares, shares)
            offset = signed[:, :size].reshape(x.shape)
        case _:
            raise ValueError(f"norm must be l1, l2 or linf, got {norm}; no ball to draw from")
    return norm.project(x, x + epsilon.reshape(-1, 1, 1, 1) * offset, epsilon)


def random_direction(x: Tensor, rng: Generator) -> Tensor:
    """One direction (C, H, W) of length 1, the same for every image of any batch."""
    noise = torch.randn(tuple(x.shape[1:]), generator=rng)
    return (noise / noise.square().sum().sqrt()).to(x.device, x.dtype)
