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
from defenses.base import Defense
from defenses.randomness import child


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that shrinks its perturbation while it evades.

    What it proposes for a budget is the point of largest lead that it queried within that budget,
    as it is or with its perturbation stretched to fill the budget, whichever the deployed defense
    confirms. Such an attack walks along the decision boundary, where a stochastic defense answers
    by coin toss, so there the stretched point is tried first.
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
        proposals = ("stretched", "seen") if defense.stochastic else ("seen", "stretched")
        broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for index, epsilon in enumerate(epsilons):
            seen = candidates[index].clone()
            if defense.stochastic:  # a streak at a smaller budget may have been luck: ask again
                broken = torch.zeros_like(broken)
            for proposal in proposals:
                rows = ((recorder.leads[index] > 0) & ~broken).nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                points = seen[rows]
                if proposal == "stretched":
                    points = self.norm.stretch(x[rows], points, epsilon)
                own = child(rng, "confirm", epsilon, proposal)
                asked = ask(defense, points, y[rows], own, self.confirmations)
                standings[index].improve(candidates[index], rows, points, asked)
                broken[rows] = asked.streak >= votes_needed(defense, self.confirmations)
        carry(candidates, standings)
        return candidates
