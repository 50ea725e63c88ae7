"""The fewest pixels that change a linear defense's class: a closed form, and all sets tried."""

import torch
from torch import Tensor

from tests.linear import SIZE, Linear


def gaps_and_gains(defense: Linear, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What each other class lacks (N, K), and what each pixel can add to it in the box (N, K, 16).

    The label's own gap is inf.
    """
    with torch.no_grad():
        logits = defense.logits(x)
        gaps = (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], torch.inf)
        slopes = defense.weight - defense.weight[y][:, None]
        room = torch.where(slopes > 0, 1 - x.flatten(1)[:, None], -x.flatten(1)[:, None])
        return gaps, slopes * room


def fewest_pixels(defense: Linear, x: Tensor, y: Tensor) -> Tensor:
    """(N,) Largest gains first: the least m of all classes k with gain_1 + ... + gain_m > gap_k.

    17 where no set of pixels changes the class.
    """
    gaps, gains = gaps_and_gains(defense, x, y)
    sums = gains.sort(dim=2, descending=True).values.cumsum(dim=2)
    short: Tensor = (sums <= gaps[:, :, None]).sum(dim=2)
    return short.amin(dim=1) + 1


def fewest_of_all_sets(defense: Linear, x: Tensor, y: Tensor) -> Tensor:
    """(N,) The size of the smallest of all 2^16 sets of pixels that changes the class, or 17."""
    gaps, gains = gaps_and_gains(defense, x, y)
    sets = (torch.arange(2**SIZE)[:, None] >> torch.arange(SIZE)) & 1
    sizes = sets.sum(dim=1)
    beyond = (gains @ sets.to(gains.dtype).T > gaps[:, :, None]).any(dim=1)
    return torch.where(beyond, sizes, SIZE + 1).amin(dim=1)
