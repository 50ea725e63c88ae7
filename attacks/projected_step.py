"""One step of projected descent in a ball whose radius is the image's own."""

import torch
from torch import Tensor

from attacks.threat import Norm


def descend(
    norm: Norm,
    x: Tensor,
    points: Tensor,
    gradient: Tensor,
    *,
    epsilon: Tensor,
    length: float,
    escape: Tensor,
) -> Tensor:
    """The points moved against their gradients and back into ball and box.

    Args:
        norm: Linf steps along the signs, L2 along the normalised gradient.
        x: centres (N, C, H, W).
        points: (N, C, H, W).
        gradient: (N, C, H, W).
        epsilon: radii (N,).
        length: of the step, as a share of the radius.
        escape: gradient (C, H, W) of rows whose own is zero or not finite.

    Raises:
        ValueError: another norm.
    """
    direction = steepest(norm, usable(gradient, escape))
    reach = length * epsilon.reshape(-1, *[1] * (points.dim() - 1))
    return norm.project(x, points - reach * direction, epsilon)


def usable(gradient: Tensor, escape: Tensor) -> Tensor:
    """The gradients (N, C, H, W), ``escape`` (C, H, W) in rows that are zero or not finite."""
    size = gradient.flatten(1).abs().sum(dim=1)
    good = (size > 0) & (size < torch.inf)
    return torch.where(good.reshape(-1, *[1] * (gradient.dim() - 1)), gradient, escape)


def steepest(norm: Norm, gradient: Tensor) -> Tensor:
    """Directions of steepest ascent of length 1 in the norm, for gradients that are not zero.

    Raises:
        ValueError: another norm than L2 and Linf.
    """
    shape = (-1, *[1] * (gradient.dim() - 1))
    match norm:
        case Norm.LINF:
            return gradient.sign()
        case Norm.L2:
            largest = gradient.flatten(1).abs().amax(dim=1).reshape(shape)
            gradient = gradient / largest  # so that no square underflows
            length: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
            return gradient / length.reshape(shape)
        case _:
            raise ValueError(f"norm must be l2 or linf, got {norm}; no ball to descend in")


def decaying(steps: int, first: float) -> list[float]:
    """Step lengths that fall linearly from ``first`` toward 0."""
    return [first * (1 - step / steps) for step in range(steps)]
