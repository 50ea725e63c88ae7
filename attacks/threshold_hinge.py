"""Feasibility in a hard ball: a hinge on each term that decides (adaptive; no paper prints it)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from attacks.threshold_problems import Slope, ThresholdProblems, violations
from attacks.thresholds import why_not
from defenses.base import Defense, Terms, Thresholded


@final
@dataclass(frozen=True, kw_only=True)
class ThresholdHinge(ThresholdProblems):
    """Projected descent on relu(gap + m) + sum_s relu(log score_s + m), for every other class.

    A term that is met by the margin m pulls no longer, so the whole step serves those that are
    not.
    """

    def needs(self, defense: Defense) -> str | None:
        """Differentiable thresholds."""
        return why_not(defense)

    def slope(self, defense: Thresholded, x: Tensor, wanted: Tensor) -> Slope:
        """The gradient of the hinges."""

        def of_hinges(points: Tensor, rows: Tensor) -> tuple[Terms, Tensor]:
            terms = defense.terms(points, wanted[rows])
            loss = hinges(terms, self.margin)
            (gradient,) = torch.autograd.grad(loss.sum(), points)
            return terms, gradient

        return of_hinges


def hinges(terms: Terms, margin: float) -> Tensor:
    """relu(gap + m) + sum_s relu(log score_s + m) (N,): 0 where the problem is solved by m."""
    return violations(terms, margin).relu().sum(dim=1)
