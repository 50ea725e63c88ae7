"""An image with the latent of another class's image (feature matching, Sabour et al. 2016).

Where a defense decides by latents, an input whose latent is that of an image which it accepts as
another class passes for it in all but the reconstruction (Tramer et al. 2020 so evade a detector
on latents).
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from attacks.bank import Bank
from attacks.threshold_problems import Slope, ThresholdProblems, violations
from attacks.thresholds import depth, why_not
from defenses.base import Defense, Embeds, Terms, Thresholded


@final
@dataclass(frozen=True, kw_only=True)
class FeatureMatching(ThresholdProblems):
    """Projected descent on |E(x') - E(x_t)|^2 / |E(x) - E(x_t)|^2 + w sum_s relu(log score_s + m).

    x_t is the nearest image of the wanted class in the bank that the defense accepts as such. Where
    there is none, the scores alone pull.

    Args:
        weight: w; 0 matches latents and nothing else (unstated: no paper adds scores).
    """

    weight: float = 1.0

    def needs(self, defense: Defense) -> str | None:
        """Differentiable thresholds and a differentiable encoder."""
        if not isinstance(defense, Embeds):
            return why_not(defense) or f"{type(defense).__name__} has no latents to match"
        return why_not(defense)

    def slope(self, defense: Thresholded, x: Tensor, wanted: Tensor) -> Slope:
        """The gradient of the sum.

        Raises:
            ValueError: the defense has no latents; `needs` says so beforehand.
        """
        if not isinstance(defense, Embeds):
            raise ValueError(
                f"defense must have latents, got {type(defense).__name__}; see needs()"
            )
        embeds = defense
        with torch.no_grad():
            aim, known = self._aims(defense, embeds, x, wanted)
            apart = (embeds.embed(x) - aim).square().sum(dim=1)
        share = torch.where(known & (apart > 0), 1 / apart, 0)

        def of_match(points: Tensor, rows: Tensor) -> tuple[Terms, Tensor]:
            terms = defense.terms(points, wanted[rows])
            distance = (embeds.embed(points) - aim[rows]).square().sum(dim=1)
            scores = violations(terms, self.margin)[:, 1:].relu().sum(dim=1)
            loss = distance * share[rows] + self.weight * scores
            (gradient,) = torch.autograd.grad(loss.sum(), points)
            return terms, gradient

        return of_match

    def _aims(
        self, defense: Thresholded, embeds: Embeds, x: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """E(x_t) (P, d), and whether there is an x_t (P,)."""
        own = embeds.embed(x)
        if self.bank is None:
            return own, torch.zeros_like(wanted, dtype=torch.bool)
        bank = accepted(defense, self.bank, x)
        classes = int(wanted.amax()) + 1 if len(wanted) else 1
        index = bank.nearest(x, classes).gather(1, wanted[:, None]).squeeze(1)
        known = index >= 0
        aim = own.clone()
        aim[known] = embeds.embed(bank.of(index[known], x))
        return aim, known


@torch.no_grad()
def accepted(defense: Thresholded, bank: Bank, like: Tensor) -> Bank:
    """The images of a bank that the defense takes for their class and accepts."""
    images = bank.of(torch.arange(len(bank.labels)), like)
    labels = bank.labels.to(like.device)
    kept = (depth(defense.terms(images, labels)) > 0).to(bank.labels.device)
    return replace(bank, images=bank.images[kept], labels=bank.labels[kept])
