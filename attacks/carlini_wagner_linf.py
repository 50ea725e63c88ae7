"""Carlini & Wagner's Linf attack (2017, section VI-C)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.tanh_rounds import SHORT, Penalty, TanhRounds
from attacks.threat import Norm


@final
@dataclass(frozen=True, kw_only=True)
class CarliniWagnerLinf(TanhRounds):
    """Only what exceeds tau costs, and tau shrinks as long as the attack succeeds.

        c * relu(confidence - lead) + sum_i relu(|delta_i| - tau)

    A round is won by a point that evades and stays within tau, but for a loss below 1e-4 c. The
    next tau is ``decrease`` times the largest change of that point, or times tau where that is
    less; so the last round that is won may be won 10 % too far, but a budget keeps what evaded in
    lost rounds too.

    Args:
        decrease: factor of tau (paper: 0.9; nearer to 1 is more accurate and slower).
        smallest: tau at which the attack stops (nn_robust_attacks: 1 / 256, a grey level).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)

    norm: Norm = Norm.LINF
    rate: float = 5e-3
    initial_const: float = 1e-5
    largest_const: float = 20.0
    confidence: float = 0.0
    decrease: float = 0.9
    smallest: float = 1 / 256

    def __post_init__(self) -> None:
        TanhRounds.__post_init__(self)
        if not 0 < self.decrease < 1:
            raise ValueError(
                f"decrease must be between 0 and 1, got {self.decrease}; tau has to shrink"
            )

    def loosest(self, x: Tensor) -> Tensor:
        """A tau of 1 (N, 1, 1, 1): the whole box."""
        return torch.ones_like(x[:, :1, :1, :1])

    def within(self, x: Tensor, points: Tensor, limits: Tensor) -> Tensor:
        """The points as they are: tau is no wall."""
        return points

    def penalty(self, x: Tensor, points: Tensor, limits: Tensor) -> Penalty:
        """The excess over tau, summed over all values."""
        change = points - x
        excess = (change.abs() - limits).clamp_min(0)
        return Penalty(excess.flatten(1).sum(dim=1), change.sign() * (excess > 0))

    def won(self, missing: Tensor, charge: Tensor) -> Tensor:
        """The whole loss has vanished."""
        return missing + charge < SHORT

    def tighter(self, x: Tensor, points: Tensor, slopes: Tensor, limits: Tensor) -> Tensor:
        """The smaller of tau and the largest change, decreased."""
        largest = (points - x).abs().amax(dim=(1, 2, 3), keepdim=True)
        return self.decrease * torch.minimum(limits, largest)

    def exhausted(self, limits: Tensor) -> Tensor:
        """Whether tau is at most the smallest."""
        return limits.flatten() <= self.smallest
