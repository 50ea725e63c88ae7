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
    shape = (-1, *[1] * (points.dim() - 1))
    size = gradient.flatten(1).abs().sum(dim=1)
    usable = ((size > 0) & (size < torch.inf)).reshape(shape)
    gradient = torch.where(usable, gradient, escape)
    match norm:
        case Norm.LINF:
            direction = gradient.sign()
        case Norm.L2:
            largest = gradient.flatten(1).abs().amax(dim=1).reshape(shape)
            gradient = gradient / largest  # so that no square underflows
            direction = gradient / gradient.flatten(1).norm(dim=1).reshape(shape)
        case _:
            raise ValueError(f"norm must be l2 or linf, got {norm}; no ball to descend in")
    return norm.project(x, points - length * epsilon.reshape(shape) * direction, epsilon)


def decaying(steps: int, first: float) -> list[float]:
    """Step lengths that fall linearly from ``first`` toward 0."""
    return [first * (1 - step / steps) for step in range(steps)]
