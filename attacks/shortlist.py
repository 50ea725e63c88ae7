"""What an attack hands over: the points that fool the deployed defense most convincingly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attacks import trace
from attacks.goals import Goal
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child


@dataclass(frozen=True)
class Standing:
    """How convincingly candidates fool the deployed defense.

    Args:
        streak: answers in a row, from the first, that reached the goal (for evasion: wrong and
            accepted); -1 if never asked.
        lead: `Goal.lead` of the first answer; orders candidates of equal streak.
    """

    streak: Tensor
    lead: Tensor

    @staticmethod
    def unasked(shape: tuple[int, ...], like: Tensor) -> "Standing":
        """The standing of candidates about which nobody has asked: below every other."""
        return Standing(
            torch.full(shape, -1, device=like.device),
            torch.full(shape, -torch.inf, device=like.device, dtype=like.dtype),
        )


def ask(
    defense: Defense,
    x: Tensor,
    y: Tensor,
    rng: Generator,
    votes: int,
    *,
    goal: Goal = Goal.EVASION,
) -> Standing:
    """Ask the deployed defense until the goal is missed or was reached ``votes`` times."""
    standing = Standing.unasked((len(x),), x)
    streak, first = standing.streak + 1, standing.lead
    rows = torch.arange(len(x), device=x.device)
    for vote in range(votes):
        if len(rows) == 0:
            break
        ahead = goal.lead(defense.decide(x[rows], child(rng, "vote", vote)), y[rows])
        if vote == 0:
            first = ahead.to(x.dtype)
        rows = rows[ahead > 0]
        streak[rows] += 1
    return Standing(streak, first)


class Shortlist:
    """Per budget and image, the candidate of the longest streak and, of these, the largest lead.

    Args:
        defense: as deployed.
        norm: whose balls limit the candidates.
        x: clean images (N, C, H, W), the first candidates, about which nobody has asked.
        y: labels (N,).
        epsilons: E radii, ascending.
        confirmations: the streak that convinces where the defense is stochastic; a deterministic
            one is asked once.
        goal: what the candidates are to bring about.

    Attributes:
        candidates: (E, N, C, H, W).
        radii: (E,).
    """

    def __init__(
        self,
        defense: Defense,
        norm: Norm,
        x: Tensor,
        y: Tensor,
        epsilons: Sequence[float],
        *,
        confirmations: int,
        goal: Goal = Goal.EVASION,
    ) -> None:
        self.candidates = x.repeat(len(epsilons), 1, 1, 1, 1)
        self.radii = x.new_tensor(epsilons)
        self._defense = defense
        self._norm = norm
        self._x = x
        self._y = y
        self._votes = confirmations if defense.stochastic else 1
        self._goal = goal
        self._standing = Standing.unasked((len(epsilons), len(x)), x)

    @property
    def convinces(self) -> Tensor:
        """(E, N) bool: the goal was reached every time the defense was asked."""
        return self._standing.streak >= self._votes

    def propose(
        self,
        budget: Tensor | int,
        rows: Tensor,
        points: Tensor,
        rng: Generator,
        *,
        times: int = 1,
    ) -> Tensor:
        """Ask the defense about points and keep those that are better than their predecessors.

        Args:
            budget: index into the radii, one or (n,).
            rows: n indices of images.
            points: (n, C, H, W); brought into their ball and the box first.
            times: so many times the confirmations are asked for and needed.

        Returns:
            (n,) bool: which points convince.
        """
        points = self._norm.project(self._x[rows], points, self.radii[budget].expand(len(rows)))
        votes = times * self._votes
        asked = ask(self._defense, points, self._y[rows], rng, votes, goal=self._goal)
        known = Standing(self._standing.streak[budget, rows], self._standing.lead[budget, rows])
        longer, equal = asked.streak > known.streak, asked.streak == known.streak
        better = longer | (equal & (asked.lead > known.lead))
        self._set(budget, rows, better, points, asked)
        convinced = asked.streak >= votes
        if traced := trace.current():
            radii = self.radii[budget].expand(len(rows))
            traced.note(self._x[rows[convinced]], radii[convinced])
        return convinced

    def stretched(self, budget: Tensor | int, rows: Tensor, points: Tensor) -> Tensor:
        """The points (n, C, H, W) of these images moved along their directions to fill a budget."""
        return self._norm.stretch(self._x[rows], points, self.radii[budget].expand(len(rows)))

    def inherit(self, budget: int) -> None:
        """Take over the candidates of the next smaller budget that convince where none does here.

        The smaller ball lies in the larger, so a curve of accuracies cannot rise. Short streaks
        stay behind: between them luck decides, and this budget's own was made for it.
        """
        if budget == 0:
            return
        below, here = self.convinces[budget - 1], self.convinces[budget]
        rows = torch.arange(len(here), device=here.device)
        standing = Standing(self._standing.streak[budget - 1], self._standing.lead[budget - 1])
        self._set(budget, rows, below & ~here, self.candidates[budget - 1], standing)

    def _set(
        self, budget: Tensor | int, rows: Tensor, chosen: Tensor, points: Tensor, asked: Standing
    ) -> None:
        where = (budget if isinstance(budget, int) else budget[chosen], rows[chosen])
        self.candidates[where] = points[chosen]
        self._standing.streak[where] = asked.streak[chosen]
        self._standing.lead[where] = asked.lead[chosen]
