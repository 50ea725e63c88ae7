"""Attacks that fill a given ball: restarts on survivors, and bisection over the budgets."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.base import Attack
from attacks.evasion import Standing, ask, carry, votes_needed
from defenses.base import Defense, Perturb
from defenses.randomness import child


@dataclass(frozen=True, kw_only=True)
class FixedEpsilonAttack(Attack):
    """An attack that searches one ball at a time.

    A sample that survives the whole attack at one epsilon is taken to survive smaller ones, whose
    balls lie inside, and a break is carried to every larger one. So each sample's smallest broken
    epsilon is found by bisection, every probe with the full budget of restarts. Attacks of few
    steps (`bisects` is False) try every epsilon, because they may miss in a large ball what they
    find in a small one.

    Args:
        restarts: independent runs; each attacks the samples that survived those before.
    """

    bisects: ClassVar[bool] = True
    """False for attacks so weak that failing in a ball says nothing about the balls inside it."""

    restarts: int = 1

    @abstractmethod
    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: float, rng: Generator
    ) -> Tensor:
        """One run: the best points (N, C, H, W) found within ``epsilon``, confirmed by nobody."""

    def during_training(self, epsilon: float) -> Perturb:
        """This attack as the inner maximisation of adversarial training: one run, no questions."""

        def perturb(defense: Defense, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
            return self.perturb(defense, x, y, epsilon, rng)

        return perturb

    @final
    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        """Candidates (E, N, C, H, W); see `Attack.__call__`."""
        self.check(x, epsilons)
        candidates = x.repeat(len(epsilons), 1, 1, 1, 1)
        standings = [Standing.unasked(x) for _ in epsilons]
        lowest = torch.zeros(len(x), dtype=torch.long)
        broken_from = torch.full((len(x),), len(epsilons))
        while (unsettled := lowest < broken_from).any():
            probe = (lowest + broken_from) // 2 if self.bisects else lowest
            for index in probe[unsettled].unique().tolist():
                rows = (unsettled & (probe == index)).nonzero().squeeze(1)
                here = rows.to(x.device)
                found, standing = self._within(defense, x[here], y[here], epsilons[index], rng)
                candidates[index, here] = found
                standings[index].streak[here] = standing.streak
                standings[index].lead[here] = standing.lead
                broke = (standing.streak >= votes_needed(defense, self.confirmations)).cpu()
                broken_from[rows[broke]] = index
                lowest[rows[~broke]] = index + 1
        levels = list(zip(candidates, standings, strict=True))
        for index in range(1, len(levels)):
            if defense.stochastic:
                self._stretched(
                    defense,
                    (x, y),
                    *levels[index - 1 : index + 1],
                    epsilon=epsilons[index],
                    rng=rng,
                )
            carry(candidates[index - 1 : index + 1], standings[index - 1 : index + 1])
        return candidates

    def _stretched(
        self,
        defense: Defense,
        labelled: tuple[Tensor, Tensor],
        below: tuple[Tensor, Standing],
        here: tuple[Tensor, Standing],
        *,
        epsilon: float,
        rng: Generator,
    ) -> None:
        """Let what broke a stochastic defense fill the next larger budget, in place.

        Its streak may have been luck: carried along unchanged it would fail at every budget.

        Args:
            labelled: images and labels.
            below: candidates and standings at the budget below.
            here: those at ``epsilon``.
        """
        (x, y), needed = labelled, votes_needed(defense, self.confirmations)
        broke = (below[1].streak >= needed) & (here[1].streak < needed)
        rows = broke.nonzero().squeeze(1)
        if len(rows):
            points = self.norm.stretch(x[rows], below[0][rows], epsilon)
            own = child(rng, "stretched", epsilon)
            asked = ask(defense, points, y[rows], own, self.confirmations)
            here[1].improve(here[0], rows, points, asked)

    def _within(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: float, rng: Generator
    ) -> tuple[Tensor, Standing]:
        """All restarts in one ball: the most convincing candidates and their standing."""
        best, standing = x.clone(), Standing.unasked(x)
        rows = torch.arange(len(x), device=x.device)
        for restart in range(self.restarts):
            own = child(rng, "epsilon", epsilon, "restart", restart)
            found = self.perturb(defense, x[rows], y[rows], epsilon, own)
            found = self.norm.project(x[rows], found, epsilon)
            asked = ask(defense, found, y[rows], child(own, "confirm"), self.confirmations)
            standing.improve(best, rows, found, asked)
            rows = rows[asked.streak < votes_needed(defense, self.confirmations)]
            if len(rows) == 0:
                break
        return best, standing
