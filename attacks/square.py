"""Square (Andriushchenko et al. 2020): random search by squares, on the mean decision's scores."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from torch import Generator, Tensor

from attacks.evasion import evasion_lead
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.mean_decision import MeanDecision
from attacks.shortlist import ask
from attacks.square_moves import MOVES
from attacks.threat import Norm
from defenses.base import Decision, Defense
from defenses.randomness import child, row_generators

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries of 10 000 after which the squares' share of the image halves (section 4)."""

_BLOCK = 256
"""Moves whose random numbers are drawn at a time."""


@final
@dataclass(frozen=True, kw_only=True)
class Square(FixedEpsilonAttack):
    """Square attack (Andriushchenko et al. 2020, Algorithms 1 to 3) on the deployed defense.

    It asks for scores, never for gradients, so masked ones don't stop it. What it raises is the
    lead of another class in the mean decision. While that is a rejection it lowers the largest
    rejection score instead, and where there is none it wanders, because a constant would end the
    search.

    An image leaves as soon as its point evades; where the defense is stochastic, as soon as the
    deployed defense confirms that.

    Args:
        queries: mean decisions per image and run (SPEC 5: 20 000; AutoAttack: 5000).
        initial_share: share of the image that the first squares cover (AutoAttack: 0.8).
        seeds: answers of a stochastic defense that make one mean decision (SPEC 5: 20).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    reach: ClassVar[float] = 10.0

    queries: int = 20_000
    initial_share: float = 0.8
    seeds: int = 20

    def __post_init__(self) -> None:
        FixedEpsilonAttack.__post_init__(self)
        if not 0 < self.initial_share <= 1:
            raise ValueError(
                f"initial_share must be above 0 and at most 1, got {self.initial_share}; "
                "it is a share of the image"
            )

    def share(self, query: int) -> float:
        """Of the image, what the squares of this query cover; halved on a fixed schedule."""
        done = query * 10_000 // self.queries
        return float(self.initial_share * 0.5 ** sum(done > each for each in _HALVINGS))

    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`."""
        moves = MOVES[self.norm]()
        result, rows = x.clone(), (epsilon > 0).nonzero().squeeze(1)
        if len(rows) == 0:
            return result
        generators = row_generators(child(rng, "moves"), x)
        first = moves.start(x[rows], epsilon[rows], [generators[row] for row in rows.tolist()])
        best = self.norm.project(x[rows], x[rows] + first, epsilon[rows])
        reached = self._reached(defense, best, y[rows], child(rng, "query", 0))
        improved = torch.ones_like(rows, dtype=torch.bool)
        block = x.new_empty(0)
        for query in range(1, self.queries + 1):
            result[rows] = best
            claimed, own = improved & reached.evades, child(rng, "confirm", query)
            open_ = ~self._broken(defense, best, y[rows], claimed, own)
            rows, best, reached = rows[open_], best[open_], reached.rows(open_)
            if len(rows) == 0 or query == self.queries:
                break
            turn = (query - 1) % _BLOCK
            block = block[open_] if turn else _numbers(generators, rows, moves.numbers(x.shape[1]))
            here, radius = x[rows], epsilon[rows]
            draws = block[:, turn].to(x)
            moved = moves.move(here, best - here, radius, self.share(query), draws)
            point = self.norm.project(here, here + moved, radius)
            told = self._reached(defense, point, y[rows], child(rng, "query", query))
            improved = told.beats(reached)
            best = torch.where(improved[:, None, None, None], point, best)
            reached = told.where(improved, reached)
        return result

    def _reached(self, defense: Defense, points: Tensor, y: Tensor, rng: Generator) -> "_Reached":
        return _reached(MeanDecision(defense, self.seeds).decide(points, rng), y)

    def _broken(
        self, defense: Defense, points: Tensor, y: Tensor, claimed: Tensor, rng: Generator
    ) -> Tensor:
        """(n,) bool: of the points that are claimed to evade, those that do so as deployed."""
        if not defense.stochastic or not bool(claimed.any()):
            return claimed
        rows = claimed.nonzero().squeeze(1)
        streak = ask(defense, points[rows], y[rows], rng, self.confirmations).streak
        return claimed.index_put((rows,), streak >= self.confirmations)


class _Reached(NamedTuple):
    """How far n images have come.

    Args:
        accepted: (n,) bool.
        value: (n,) the lead where accepted; else the largest rejection score below zero, 0 where
            the defense tells none, -inf where it answered NaN.
    """

    accepted: Tensor
    value: Tensor

    @property
    def evades(self) -> Tensor:
        return self.accepted & (self.value > 0)

    def beats(self, other: "_Reached") -> Tensor:
        """(n,) bool: accepted where the other is not, or further; rejected, at least as far."""
        further = (self.value > other.value) | (~self.accepted & (self.value == other.value))
        same = self.accepted == other.accepted
        return torch.where(same, further, self.accepted)

    def where(self, chosen: Tensor, other: "_Reached") -> "_Reached":
        return _Reached(
            torch.where(chosen, self.accepted, other.accepted),
            torch.where(chosen, self.value, other.value),
        )

    def rows(self, kept: Tensor) -> "_Reached":
        return _Reached(self.accepted[kept], self.value[kept])


def _reached(decision: Decision, y: Tensor) -> _Reached:
    value = evasion_lead(decision, y)
    void = decision.logits.isnan().any(dim=1)
    if decision.scores:
        score = torch.stack(list(decision.scores.values())).amax(dim=0).nan_to_num(nan=torch.inf)
    else:
        score = torch.zeros_like(value)
    refused = decision.rejected & ~void
    return _Reached(~decision.rejected & ~void, torch.where(refused, -score, value))


def _numbers(generators: list[Generator], rows: Tensor, count: int) -> Tensor:
    """Uniform numbers (n, block, count) for these rows (indices), each from its own generator."""
    return torch.stack(
        [torch.rand((_BLOCK, count), generator=generators[row]) for row in rows.tolist()]
    )
