"""Attacks that look for the nearest evading point: one run serves every budget."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from attacks.base import Attack
from attacks.evasion import Standing, ask, carry, votes_needed
from attacks.recorder import Recorder
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that shrinks its perturbation while it evades.

    What it proposes for a budget is the point of largest lead that it queried within that budget.
    Such an attack walks along the decision boundary, where a stochastic defense answers by coin
    toss; a point that the deployed defense does not confirm is therefore also tried with its
    perturbation stretched to fill the budget.
    """

    @abstractmethod
    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """One run from ``recorder.x``; every point it queries is shown to the recorder."""

    @final
    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        """Candidates (E, N, C, H, W); see `Attack.__call__`."""
        self.check(x, epsilons)
        if len(x) == 0:
            return x.repeat(len(epsilons), 1, 1, 1, 1)
        recorder = Recorder(self.norm, x, epsilons)
        self.search(defense, y, recorder, child(rng, "search"))
        candidates = torch.stack([recorder.candidates(index) for index in range(len(epsilons))])
        standings = [Standing.unasked(x) for _ in epsilons]
        broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for index, epsilon in enumerate(epsilons):
            for proposal in ("seen", "stretched"):
                rows = ((recorder.leads[index] > 0) & ~broken).nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                point = candidates[index, rows]
                if proposal == "stretched":
                    point = stretch(self.norm, x[rows], point, epsilon)
                own = child(rng, "confirm", epsilon, proposal)
                asked = ask(defense, point, y[rows], own, self.confirmations)
                better = asked.above(standings[index].of(rows))
                candidates[index, rows[better]] = point[better]
                standings[index].streak[rows[better]] = asked.streak[better]
                standings[index].lead[rows[better]] = asked.lead[better]
                broken[rows] = asked.streak >= votes_needed(defense, self.confirmations)
        carry(candidates, standings)
        return candidates


def stretch(norm: Norm, x: Tensor, point: Tensor, epsilon: float) -> Tensor:
    """The point (N, C, H, W) moved away from ``x`` along its own direction to fill ``epsilon``.

    Clipping to the box may leave it nearer.
    """
    distance = norm.distance(x, point).clamp_min(_TINY).reshape(-1, 1, 1, 1)
    return norm.project(x, x + (point - x) * (epsilon / distance), epsilon)
