"""What a threshold-aware attack knows of a defense: the terms that decide, and how they are read.

Ghosh et al. (2019) print Eqs. 10 and 11 with the covariance where their threshold is on a distance
with its inverse. So printed, the encoder's term is smaller by the square of the variance, and the
attacker does not see the threshold.
"""

from enum import StrEnum

import torch
from torch import Tensor

from attacks.evasion import LEAST
from defenses.base import Defense, Terms, Thresholded


class Metric(StrEnum):
    """Which matrix stands in the encoder's term of an attack's loss."""

    INVERSE = "inverse"
    PRINTED = "printed"

    def terms(self, defense: Thresholded, x: Tensor, wanted: Tensor) -> tuple[Tensor, Terms]:
        """The scores (N, S) for the loss, and the terms that decide; both at points (N, ...)."""
        match self:
            case Metric.INVERSE:
                terms = defense.terms(x, wanted)
                return terms.scores, terms
            case Metric.PRINTED:
                with torch.no_grad():
                    terms = defense.terms(x, wanted)
                return defense.terms(x, wanted, printed=True).scores, terms


def depth(terms: Terms) -> Tensor:
    """How far inside the region of *taken for the wanted class and accepted* (N,).

    The least of the lead over the nearest other class and of the scores' distances to 1: positive
    exactly where the gap is negative and no score is above 1.
    """
    inside = torch.cat([-terms.gap[:, None], 1 - terms.scores], dim=1).detach().amin(dim=1)
    evading = (terms.gap < 0) & (terms.scores <= 1).all(dim=1)
    return torch.where(evading, inside.clamp_min(LEAST), inside.clamp_max(0))


def why_not(defense: Defense) -> str | None:
    """Why no threshold-aware attack applies to a defense, or None."""
    if isinstance(defense, Thresholded):
        return None
    return f"{type(defense).__name__} has no differentiable thresholds to stay within"


def thresholded(defense: Defense) -> Thresholded:
    """The defense, which has terms.

    Raises:
        ValueError: it has none; `why_not` says so beforehand.
    """
    if not isinstance(defense, Thresholded):
        raise ValueError(f"defense must have thresholds, got {type(defense).__name__}; see needs()")
    return defense
