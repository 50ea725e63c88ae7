"""Attacks that fill a given ball: restarts on survivors, and bisection over the budgets."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.base import Attack
from attacks.shortlist import Shortlist
from defenses.base import Defense, Perturb
from defenses.randomness import child


@dataclass(frozen=True, kw_only=True)
class FixedEpsilonAttack(Attack):
    """An attack that searches one ball at a time.

    A sample that survives the whole attack at one epsilon is taken to survive smaller ones, whose
    balls lie inside, and a break is carried to every larger one. So each sample's smallest broken
    epsilon is searched for: by bisection until something breaks, then downward from the smallest
    budget to which the breaking perturbation can be scaled. Every budget that counts as survived
    had all the restarts. The images of a batch share every run, each in the ball that is its turn.

    Attacks of few steps (`skips` is False) try every epsilon, because they may miss in a large
    ball what they find in a small one.

    Args:
        restarts: independent runs in a ball before its sample counts as surviving there.
    """

    skips: ClassVar[bool] = True
    """False for attacks so weak that failing in a ball says nothing about the balls inside it."""

    restarts: int = 1

    @abstractmethod
    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """One run: the best points (N, C, H, W) within ``epsilon`` (N,), confirmed by nobody."""

    def during_training(self, epsilon: float) -> Perturb:
        """This attack as the inner maximisation of adversarial training: one run, no questions."""

        def perturb(defense: Defense, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
            return self.perturb(defense, x, y, x.new_full((len(x),), epsilon), rng)

        return perturb

    @final
    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        """Candidates (E, N, C, H, W); see `Attack.__call__`."""
        self.check(x, epsilons)
        shortlist = Shortlist(
            defense,
            self.norm,
            x,
            y,
            epsilons,
            confirmations=self.confirmations,
            goal=self.goal,
        )
        untried = torch.zeros(len(x), dtype=torch.long, device=x.device)
        broken = torch.full_like(untried, len(epsilons))
        survived = torch.zeros_like(untried)
        run = 0
        while len(rows := (untried < broken).nonzero().squeeze(1)):
            probe = self._probe(untried[rows], broken[rows], len(epsilons))
            own = child(rng, "run", run)
            points = self.perturb(defense, x[rows], y[rows], shortlist.radii[probe], own)
            convinces = shortlist.propose(probe, rows, points, child(own, "confirm"))
            survived[rows] += 1
            beaten, held = rows[convinces], survived[rows] == self.restarts
            broken[beaten] = probe[convinces]
            untried[rows[held & ~convinces]] = probe[held & ~convinces] + 1
            survived[rows[held | convinces]] = 0
            broken[beaten] = _inward(
                shortlist,
                points[convinces],
                beaten,
                low=untried[beaten],
                high=broken[beaten],
                rng=child(own, "inward"),
            )
            run += 1
        for budget in range(len(epsilons)):
            if budget and defense.stochastic:
                _outward(shortlist, budget, child(rng, "outward", budget))
            shortlist.inherit(budget)
        return shortlist.candidates

    def _probe(self, untried: Tensor, broken: Tensor, budgets: int) -> Tensor:
        """The budget whose turn it is, per sample."""
        if not self.skips:
            return untried
        return torch.where(broken < budgets, broken - 1, (untried + broken) // 2)


def _inward(
    shortlist: Shortlist, points: Tensor, rows: Tensor, *, low: Tensor, high: Tensor, rng: Generator
) -> Tensor:
    """Scale what broke down to the smallest budget at which it still breaks, by bisection.

    Args:
        points: (n, C, H, W) that broke.
        rows: their n images.
        low: (n,) the smallest budgets in question.
        high: (n,) those at which the points broke.

    Returns:
        (n,) the smallest budgets that broke.
    """
    step = 0
    while len(open_ := (low < high).nonzero().squeeze(1)):
        middle = (low[open_] + high[open_]) // 2
        scaled = shortlist.stretched(middle, rows[open_], points[open_])
        broke = shortlist.propose(middle, rows[open_], scaled, child(rng, step))
        low = low.index_copy(0, open_, torch.where(broke, low[open_], middle + 1))
        high = high.index_copy(0, open_, torch.where(broke, middle, high[open_]))
        step += 1
    return high


def _outward(shortlist: Shortlist, budget: int, rng: Generator) -> None:
    """Let what broke a stochastic defense fill the next larger budget.

    Its streak may have been luck: carried along unchanged it would fail at every budget.
    """
    below, here = shortlist.convinces[budget - 1 : budget + 1]
    rows = (below & ~here).nonzero().squeeze(1)
    if len(rows):
        points = shortlist.candidates[budget - 1, rows]
        shortlist.propose(budget, rows, shortlist.stretched(budget, rows, points), rng)
