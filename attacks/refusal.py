"""Availability: the smallest perturbation that gets a clean input rejected."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.goals import Goal
from attacks.projected_step import decaying, descend
from attacks.random_directions import random_direction, uniform_in_ball
from attacks.recorder import Recorder
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child


@final
@dataclass(frozen=True, kw_only=True)
class Refusal(FixedEpsilonAttack):
    """Projected ascent on the view's rejection margin, until the deployed defense rejects.

    A defense that refuses more loses to this attack what it wins elsewhere: an input that is
    rejected is not answered.

    Args:
        steps: gradient steps, from a uniform random start.
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
        view = self.view.of(defense, child(rng, "view"))
        escape = random_direction(x, child(rng, "escape"))
        points = uniform_in_ball(self.norm, x, epsilon, child(rng, "start"))
        for length in decaying(self.steps, self.relative_step):
            with torch.enable_grad():
                points = points.detach().requires_grad_()
                _, margin = view(points)
                # A view that never rejects has a margin that depends on nothing.
                gradient = torch.zeros_like(points)
                if margin.requires_grad:
                    (gradient,) = torch.autograd.grad(-margin.sum(), points)
            points = points.detach()
            recorder.see(points, margin.detach())
            points = descend(
                self.norm, x, points, gradient, epsilon=epsilon, length=length, escape=escape
            )
        with torch.no_grad():
            recorder.see(points, view(points)[1])
        return recorder.candidates(0)
