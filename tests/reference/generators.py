"""Losses of generative models, written as the papers' sums, pixel by pixel."""

from collections.abc import Callable

import torch
from torch import Tensor

_STEP = 1e-4

Network = Callable[[Tensor], Tensor]


def penalty(critic: Network, x: Tensor) -> float:
    """Mean of (||gradient|| - 1)^2, each slope by central differences of one pixel."""
    total = 0.0
    for image in x:
        square = 0.0
        for place in range(image.numel()):
            step = torch.zeros(image.numel(), dtype=x.dtype)
            step[place] = _STEP
            step = step.view_as(image)
            rise = float((critic((image + step)[None]) - critic((image - step)[None])).detach())
            square += (rise / (2 * _STEP)) ** 2
        total += (square**0.5 - 1) ** 2
    return total / len(x)


def restoring(discriminator: Network, images: Tensor) -> float:
    """BEGAN's L: mean over images and pixels of |v - D(v)|, v around [-1, 1]."""
    pairs = zip(images.flatten().tolist(), discriminator(images).flatten().tolist(), strict=True)
    return sum(abs(v - restored) for v, restored in pairs) / images.numel()


def least_gaussian(drawn: Tensor, x: Tensor) -> float:
    """-log N(x; drawn, s^2) per image at the best s of a fine grid."""
    found = []
    for log_std in torch.linspace(-4, 1, 1001, dtype=torch.float64):
        normal = torch.distributions.Normal(drawn.double(), log_std.exp())
        found.append(-float(normal.log_prob(x.double()).sum()) / len(x))
    return min(found)


def response_normalised(x: Tensor) -> Tensor:
    """x / (1 + alpha sum of the squares of channels up to 4 away)^0.75, alpha 0.001 / 9."""
    out = torch.empty_like(x)
    for channel in range(x.shape[1]):
        near = x[:, max(0, channel - 4) : channel + 5]
        out[:, channel] = x[:, channel] / (1 + 0.001 / 9 * near.square().sum(dim=1)) ** 0.75
    return out
