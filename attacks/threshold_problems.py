"""Projected descent in a hard ball toward *taken for a wanted class and accepted*."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, final

import torch
from torch import Generator, Tensor

from attacks.bank import Bank
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.problems import Problems, every_other_class, in_chunks
from attacks.projected_step import decaying, descend
from attacks.random_directions import random_direction
from attacks.recorder import Recorder
from attacks.threat import Norm
from attacks.thresholds import depth, thresholded
from defenses.base import Defense, Terms, Thresholded
from defenses.randomness import child

Slope = Callable[[Tensor, Tensor], tuple[Terms, Tensor]]
"""(points (n, C, H, W), which problems they are) -> the terms there, what to step against.

The points require gradients, which are enabled.
"""


@dataclass(frozen=True, kw_only=True)
class ThresholdProblems(FixedEpsilonAttack):
    """Every other class as the one wanted; subclasses say along which slope.

    All problems run side by side: image x wanted class x start. The starts are the image and,
    where there is a bank, the ball's point nearest to the bank's nearest image of the wanted class.
    All problems of an image leave once one of them evades by the margin.

    The search draws no numbers, so restarts are of use against stochastic defenses only.

    Args:
        steps: gradient steps.
        relative_step: first step length / epsilon; the length falls linearly to 0.
        margin: m, in squared latent distance for the gap and in nats for the scores.
        chunk: problems held in memory at once; changes no result.
        bank: training images to start toward; the runner provides them.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)

    steps: int = 200
    relative_step: float = 0.1
    margin: float = 0.02
    chunk: int = 1000
    bank: Bank | None = field(default=None, compare=False)

    @abstractmethod
    def slope(self, defense: Thresholded, x: Tensor, wanted: Tensor) -> Slope:
        """What the problems' points step against.

        Args:
            x: the problems' images (P, C, H, W).
            wanted: (P,) classes.
        """

    @final
    def informed(self, bank: Bank) -> Self:
        """See `InformedByExamples`."""
        return replace(self, bank=bank)

    @final
    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`.

        Raises:
            ValueError: the defense has no thresholds; `needs` says so beforehand.
        """
        able, classes = thresholded(defense), defense.num_classes
        recorder = Recorder(self.norm, x, epsilon[None])
        escape = random_direction(x, child(rng, "escape"))
        starts = 1 if self.bank is None else 2
        copies = starts * (classes - 1)
        for images in in_chunks(len(x), copies, self.chunk, x.device):
            problems = every_other_class(y[images], classes)
            points = x[images[problems.rows]]
            if self.bank is not None:
                index = self.bank.nearest(x[images], classes)[problems.rows, problems.wanted]
                toward = torch.where(
                    (index < 0).reshape(-1, 1, 1, 1), points, self.bank.of(index, x)
                )
                near = self.norm.project(points, toward, epsilon[images[problems.rows]])
                points = torch.cat([points, near])
            problems = problems.repeat(starts)
            own = images[problems.rows]
            part = recorder.part(own)
            self._descend(able, points, problems, epsilon[own], part, escape=escape)
            recorder.adopt(images, part.merged(copies))
        return recorder.candidates(0)

    def _descend(
        self,
        defense: Thresholded,
        points: Tensor,
        problems: Problems,
        epsilon: Tensor,
        record: Recorder,
        *,
        escape: Tensor,
    ) -> None:
        """One chunk of problems, from their starts until they have all left."""
        x, rows = record.x, problems.rows
        slope = self.slope(defense, x, problems.wanted)
        running = torch.arange(len(rows), device=rows.device)
        for length in decaying(self.steps, self.relative_step):
            with torch.enable_grad():
                terms, gradient = slope(points.detach().requires_grad_(), running)
            found = depth(terms)
            met = (violations(terms, self.margin).detach() <= 0).all(dim=1)
            done = torch.zeros(len(record.x), dtype=torch.bool, device=rows.device)
            done[rows[met & (found > 0)]] = True
            leaves = done[rows]
            shown = (found > 0) | leaves
            record.see_rows(running[shown], points[shown], found[shown])
            if bool(leaves.any()):
                stay = ~leaves
                x, rows, running = x[stay], rows[stay], running[stay]
                points, gradient, epsilon = points[stay], gradient[stay], epsilon[stay]
            if len(running) == 0:
                return
            points = descend(
                self.norm, x, points, gradient, epsilon=epsilon, length=length, escape=escape
            )
        with torch.no_grad():
            terms = defense.terms(points, problems.wanted[running])
            record.see_rows(running, points, depth(terms))


def violations(terms: Terms, margin: float) -> Tensor:
    """By how much each term fails to be met by the margin (N, 1 + S): gap + m, log score_s + m."""
    scores = terms.scores.clamp_min(_LEAST_SCORE).log()
    return torch.cat([terms.gap[:, None], scores], dim=1) + margin


_LEAST_SCORE = 1e-12
