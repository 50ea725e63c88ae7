"""Attacks that look for the nearest evading point: one run serves every budget."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Generator, Tensor

from attacks.base import Attack
from attacks.recorder import Recorder
from attacks.shortlist import Shortlist
from defenses.base import Defense
from defenses.randomness import child


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that shrinks its perturbation while it evades.

    What it proposes for a budget is the point of largest lead that it queried within that budget,
    as it is or with its perturbation stretched to fill the budget, whichever the deployed defense
    confirms. Such an attack walks along the decision boundary, where a stochastic defense answers
    by coin toss, so there the stretched point is tried first, at every budget again.
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
        shortlist = Shortlist(
            defense,
            self.norm,
            x,
            y,
            epsilons,
            confirmations=self.confirmations,
            goal=self.goal,
        )
        if len(x) == 0:
            return shortlist.candidates
        recorder = Recorder(self.norm, x, epsilons)
        self.search(defense, y, recorder, child(rng, "search"))
        proposals = ("stretched", "seen") if defense.stochastic else ("seen", "stretched")
        for budget, epsilon in enumerate(epsilons):
            seen = recorder.candidates(budget)
            shortlist.candidates[budget] = seen
            if not defense.stochastic:  # a streak at a smaller budget was no luck
                shortlist.inherit(budget)
            for proposal in proposals:
                open_ = (recorder.leads[budget] > 0) & ~shortlist.convinces[budget]
                rows = open_.nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                points = seen[rows]
                if proposal == "stretched":
                    points = shortlist.stretched(budget, rows, points)
                shortlist.propose(budget, rows, points, child(rng, "confirm", epsilon, proposal))
            shortlist.inherit(budget)
        return shortlist.candidates
