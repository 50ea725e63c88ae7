"""Small generative models, and images for them."""

from typing import Any

import torch
from torch import Tensor, nn

from defenses.projection.generator import GenerativeModel
from defenses.randomness import generator

SHAPE = (1, 8, 8)
RATE = 1e-3


def built(family: Any, shape: tuple[int, int, int] = SHAPE) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return family.build(shape)


def begun(family: Any, model: GenerativeModel, seed: int = 1, rate: float = RATE) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return family.fitting(model, rate)


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand((count, *shape), generator=generator(7))


def halves(count: int) -> Tensor:
    """Images that are white in the upper or in the lower half, as two kinds of data."""
    x = torch.zeros((count, *SHAPE))
    x[0::2, :, :4] = 0.9
    x[1::2, :, 4:] = 0.9
    return x


def tones(count: int) -> Tensor:
    """Images of two grey halves, as many as there are pairs of greys."""
    x = torch.ones((count, *SHAPE))
    upper, lower = torch.rand((2, count, 1, 1, 1), generator=generator(9))
    x[:, :, :4] = upper
    x[:, :, 4:] = lower
    return x


def parameters(*networks: nn.Module) -> int:
    return sum(each.numel() for network in networks for each in network.parameters())
