"""One term at a time (Bryniarski et al. 2021: orthogonal projected gradient descent).

A sum of losses lets a term that is met long ago keep pulling, or two terms stand still against each
other. Selective steps take the gradient of one violated term alone; orthogonal ones besides take
out of it what would move the terms that are met.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import final

import torch
from torch import Tensor

from attacks.threshold_problems import Slope, ThresholdProblems, violations
from attacks.thresholds import why_not
from defenses.base import Defense, Terms, Thresholded


class Rule(StrEnum):
    """What a step goes against: the gradient of the violated term, whole or in part."""

    SELECTIVE = "selective"
    ORTHOGONAL = "orthogonal"

    def gradient(self, points: Tensor, violated: Tensor) -> Tensor:
        """(n, ...) for points of that shape and `violations` (n, T) there.

        The gradient of ORTHOGONAL has length 1, and 0 where the violated term has no slope.
        """
        chosen = _chosen(violated.detach())
        match self:
            case Rule.SELECTIVE:
                own = violated.gather(1, chosen[:, None])
                return torch.autograd.grad(own.sum(), points)[0]
            case Rule.ORTHOGONAL:
                gradients = [
                    torch.autograd.grad(each.sum(), points, retain_graph=True)[0].flatten(1)
                    for each in violated.unbind(dim=1)
                ]
                met = violated.detach() <= 0
                return _orthogonal(torch.stack(gradients, dim=1), met, chosen).reshape(points.shape)


@final
@dataclass(frozen=True, kw_only=True)
class SelectiveDescent(ThresholdProblems):
    """Projected descent on the gap while the wanted class is not predicted, else the worst score.

    A term counts as met beyond the margin. In Linf the step goes along the signs of the gradient,
    as in all attacks here, which keeps of its orthogonality what the signs keep. An orthogonal step
    spares terms that are met however far from their thresholds they are: where those are far, a
    selective one finds nearer points. So both are worth a run.

    Args:
        rule: see `Rule`. The paper's orthogonal step projects out the other of two losses whether
            it is met or not; here there are more than two, and those that are violated wait.
    """

    rule: Rule = Rule.SELECTIVE

    def needs(self, defense: Defense) -> str | None:
        """Differentiable thresholds."""
        return why_not(defense)

    def slope(self, defense: Thresholded, x: Tensor, wanted: Tensor) -> Slope:
        """The gradient by the rule."""

        def of_one(points: Tensor, rows: Tensor) -> tuple[Terms, Tensor]:
            terms = defense.terms(points, wanted[rows])
            return terms, self.rule.gradient(points, violations(terms, self.margin))

        return of_one


def _chosen(violated: Tensor) -> Tensor:
    """The first term (n,) while it is violated, else the worst of the others."""
    worst = violated[:, 1:].argmax(dim=1) + 1
    return torch.where(violated[:, 0] > 0, 0, worst)


def _orthogonal(gradients: Tensor, met: Tensor, chosen: Tensor) -> Tensor:
    """The chosen term's gradient (n, D) without its part in the span of those of the met terms.

    Where the span holds all of it, it stays whole: there is no step that harms nobody.

    Args:
        gradients: (n, T, D).
        met: (n, T) bool.
        chosen: (n,).
    """
    units = _unit(gradients)
    whole = units[torch.arange(len(units), device=units.device), chosen]
    basis: list[Tensor] = []
    for term in range(units.shape[1]):
        left = _without(units[:, term], basis)
        new = met[:, term] & (left.norm(dim=1) > _PARALLEL)
        basis.append(torch.where(new[:, None], _unit(left), 0))
    left = _without(whole, basis)
    return torch.where((left.norm(dim=1) > _PARALLEL)[:, None], _unit(left), whole)


def _without(vectors: Tensor, basis: list[Tensor]) -> Tensor:
    for each in basis:
        vectors = vectors - (vectors * each).sum(dim=1, keepdim=True) * each
    return vectors


def _unit(vectors: Tensor) -> Tensor:
    """Scaled to length 1 along the last dimension; zeros stay zero."""
    largest = vectors.abs().amax(dim=-1, keepdim=True)
    scaled = vectors / torch.where(largest > 0, largest, 1)  # so that no square underflows
    length = scaled.norm(dim=-1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1)


_PARALLEL = 1e-3
"""Of a unit vector, the length below which what a projection leaves is rounding."""
