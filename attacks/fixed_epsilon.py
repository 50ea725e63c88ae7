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
from defenses.randomness import child, generator

SURE = 3
"""So many times the usual confirmations spare a stochastic defense the attack in a larger ball."""


@dataclass(frozen=True, kw_only=True)
class FixedEpsilonAttack(Attack):
    """An attack that searches one ball at a time.

    What breaks a deterministic defense breaks it in every larger ball, and a sample that survives
    the whole attack at one epsilon is taken to survive in smaller balls, which lie inside. So its
    smallest broken epsilon is searched for: by bisection until something breaks, then downward
    from the smallest budget to which the breaking perturbation can be scaled. Every budget that
    counts as survived had all the restarts, itself or around it.

    Neither holds where luck plays a part. A stochastic defense is attacked at every epsilon,
    except where what broke it in a smaller ball, stretched to fill this one, breaks it surely.
    Attacks that may miss in a large ball what they find in a small one try every epsilon too, up
    to the first break: those of few steps (`skips` is False), and all that query a named view,
    which may not know what the defense refuses or repairs.

    The images of a batch share every run, each in the ball that is its turn.

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
        search = self.skips and self.view.surrogate is None and not defense.stochastic
        untried = torch.zeros(len(x), dtype=torch.long, device=x.device)
        settled = torch.full_like(untried, len(epsilons))
        survived = torch.zeros_like(untried)
        run = 0
        while len(rows := (untried < settled).nonzero().squeeze(1)):
            low, high = untried[rows], settled[rows]
            probe = _probe(low, high, len(epsilons)) if search else low
            own = child(rng, "run", run)
            points = self.perturb(defense, x[rows], y[rows], shortlist.radii[probe], own)
            broke = shortlist.propose(probe, rows, points, child(own, "confirm"))
            survived[rows] += 1
            held = (survived[rows] == self.restarts) & ~broke
            untried[rows[held]] = probe[held] + 1
            survived[rows[held | broke]] = 0
            beaten, at = rows[broke], probe[broke]
            if defense.stochastic:
                untried[beaten] = _outward(shortlist, beaten, at, child(own, "outward"))
            else:
                settled[beaten] = _inward(shortlist, points[broke], beaten, low[broke], at)
            run += 1
        for budget in range(len(epsilons)):
            shortlist.inherit(budget)
        return shortlist.candidates


def _probe(untried: Tensor, broken: Tensor, budgets: int) -> Tensor:
    """The budget whose turn it is, per sample."""
    return torch.where(broken < budgets, broken - 1, (untried + broken) // 2)


def _inward(
    shortlist: Shortlist, points: Tensor, rows: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Scale what broke down to the smallest budget at which it still breaks, by bisection.

    Args:
        points: (n, C, H, W) that broke a deterministic defense.
        rows: their n images.
        low: (n,) the smallest budgets in question.
        high: (n,) those at which the points broke.

    Returns:
        (n,) the smallest budgets that broke.
    """
    nothing = generator(0)
    while len(open_ := (low < high).nonzero().squeeze(1)):
        middle = (low[open_] + high[open_]) // 2
        scaled = shortlist.stretched(middle, rows[open_], points[open_])
        broke = shortlist.propose(middle, rows[open_], scaled, nothing)
        low = low.index_copy(0, open_, torch.where(broke, low[open_], middle + 1))
        high = high.index_copy(0, open_, torch.where(broke, middle, high[open_]))
    return high


def _outward(shortlist: Shortlist, rows: Tensor, at: Tensor, rng: Generator) -> Tensor:
    """Let what broke a stochastic defense fill larger budgets, as long as it breaks it surely.

    A streak may have been luck: carried along unchanged it would fail at every budget.

    Args:
        rows: n images.
        at: (n,) the budgets at which they broke.

    Returns:
        (n,) the budgets that come next.
    """
    following, step = at + 1, 0
    sure = torch.ones_like(rows, dtype=torch.bool)
    while len(open_ := (sure & (following < len(shortlist.radii))).nonzero().squeeze(1)):
        budget, own = following[open_], rows[open_]
        points = shortlist.stretched(budget, own, shortlist.candidates[budget - 1, own])
        sure[open_] = shortlist.propose(budget, own, points, child(rng, step), times=SURE)
        following[open_] += sure[open_].long()
        step += 1
    return following
