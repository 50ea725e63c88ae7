"""Availability: the smallest perturbation that gets a clean input rejected."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.goals import Goal
from attacks.projected_step import decaying, descend
from attacks.random_directions import random_direction, uniform_in_ball
from attacks.recorder import Recorder
from attacks.threat import Norm
from defenses.base import Defense, Thresholded
from defenses.randomness import child

_Height = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class Refusal(FixedEpsilonAttack):
    """Projected ascent on the view's rejection margin, until the deployed defense rejects.

    The margin is that of the largest score, whose slope may lead to a summit below the threshold
    while another score would cross its own. So where a defense tells its scores apart (and no view
    was asked for), each is climbed by itself as well.

    A defense that refuses more loses to this attack what it wins elsewhere: an input that is
    rejected is not answered.

    Args:
        steps: gradient steps of each ascent, from a uniform random start.
        relative_step: first step length / epsilon; the length falls linearly to 0.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    goal: ClassVar[Goal] = Goal.REFUSAL

    steps: int = 100
    relative_step: float = 0.1

    def needs(self, defense: Defense) -> str | None:
        """A defense that may reject."""
        return None if defense.can_reject else f"{type(defense).__name__} never rejects"

    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`; no row leaves, because a view may know its rows."""
        recorder = Recorder(self.norm, x, epsilon[None])
        escape = random_direction(x, child(rng, "escape"))
        start = uniform_in_ball(self.norm, x, epsilon, child(rng, "start"))
        for height in self._heights(defense, x, y, child(rng, "view")):
            points = start
            for length in decaying(self.steps, self.relative_step):
                with torch.enable_grad():
                    points = points.detach().requires_grad_()
                    reached = height(points)
                    # A view that never rejects has a margin that depends on nothing.
                    gradient = torch.zeros_like(points)
                    if reached.requires_grad:
                        (gradient,) = torch.autograd.grad(-reached.sum(), points)
                points = points.detach()
                recorder.see(points, reached.detach())
                points = descend(
                    self.norm, x, points, gradient, epsilon=epsilon, length=length, escape=escape
                )
            with torch.no_grad():
                recorder.see(points, height(points))
        return recorder.candidates(0)

    def _heights(self, defense: Defense, x: Tensor, y: Tensor, rng: Generator) -> Iterator[_Height]:
        """What to climb, one after the other; each (N,) is positive where the input is rejected."""
        view = self.view.of(defense, rng)
        yield lambda points: view(points)[1]
        if self.view.surrogate is None and isinstance(defense, Thresholded) and len(x):
            with torch.no_grad():
                count = defense.terms(x[:1], y[:1]).scores.shape[1]
            for which in range(count):
                yield partial(_log_score, defense, y, which)


def _log_score(defense: Thresholded, y: Tensor, which: int, points: Tensor) -> Tensor:
    """One score's logarithm (N,), as long as the class stays the label."""
    score: Tensor = defense.terms(points, y).scores[:, which]
    return score.clamp_min(_LEAST_SCORE).log()


_LEAST_SCORE = 1e-12
