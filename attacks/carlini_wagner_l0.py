"""Carlini & Wagner's L0 attack (2017, section VI-B)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.tanh_rounds import SHORT, Penalty, TanhRounds
from attacks.threat import Norm

_CHANGED = 1e-4
"""Change from which on a pixel counts as changed (nn_robust_attacks: 0.0001)."""


@final
@dataclass(frozen=True, kw_only=True)
class CarliniWagnerL0(TanhRounds):
    """The L2 attack on fewer and fewer free pixels; the others are those of the image.

        c * relu(confidence - lead) + ||delta||_2^2,      delta = 0 in frozen pixels

    After every success the free pixels that contribute least to the lead, by gradient * change
    summed over a pixel's channels, are frozen. The paper takes the gradient of its hinge, which is
    zero once the attack has succeeded, and nn_robust_attacks that of the whole loss, of which only
    the distance is left then; here it is the gradient of the lead itself.

    Pixels at the ends of the box hardly move (`TanhRounds`), so they contribute little and are
    frozen first, although a flip of some of them might be worth most.

    Args:
        frozen_share: at most this times the square root of the number of changed pixels, rounded
            up, is frozen after one success (nn_robust_attacks: 0.3; the paper freezes one pixel).
        small: share of all contributions up to which a pixel contributes little: of the others only
            one is frozen at a time (nn_robust_attacks: 0.01 in units of its own).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L0,)

    norm: Norm = Norm.L0
    rate: float = 1e-2
    initial_const: float = 1e-3
    largest_const: float = 2e6
    confidence: float = 0.01
    frozen_share: float = 0.3
    small: float = 0.01

    def loosest(self, x: Tensor) -> Tensor:
        """All pixels are free (N, 1, H, W)."""
        return torch.ones_like(x[:, :1], dtype=torch.bool)

    def within(self, x: Tensor, points: Tensor, limits: Tensor) -> Tensor:
        """The points with the image's own pixels where they are frozen."""
        return torch.where(limits, points, x)

    def penalty(self, x: Tensor, points: Tensor, limits: Tensor) -> Penalty:
        """The squared distance."""
        change = points - x
        return Penalty(change.square().flatten(1).sum(dim=1), 2 * change)

    def won(self, missing: Tensor, charge: Tensor) -> Tensor:
        """The lead is reached, whatever the distance."""
        return missing < SHORT

    def tighter(self, x: Tensor, points: Tensor, slopes: Tensor, limits: Tensor) -> Tensor:
        """Without the free pixels that contribute least."""
        change, free = (points - x).flatten(2), limits.flatten(1)
        contribution = (slopes.flatten(2) * change).sum(dim=1).nan_to_num()
        whole = contribution.clamp_min(0).sum(dim=1, keepdim=True)
        little = (free & (contribution <= self.small * whole)).sum(dim=1)
        changed = (change.abs() > _CHANGED).any(dim=1).sum(dim=1)
        most = (self.frozen_share * changed.sqrt()).ceil().clamp_min(1)
        count = torch.minimum(most, little + 1)
        order = contribution.masked_fill(~free, torch.inf)
        rank = order.argsort(dim=1, stable=True).argsort(dim=1)
        return (free & (rank >= count[:, None])).reshape(limits.shape)

    def exhausted(self, limits: Tensor) -> Tensor:
        """Whether no pixel is free."""
        return ~limits.flatten(1).any(dim=1)
