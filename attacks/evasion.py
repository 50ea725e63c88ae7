"""What counts as a break: a wrong class that the defense accepts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from defenses.base import Decision, Defense
from defenses.randomness import child

LEAST = 1e-30
"""The smallest lead: of a tie that the argmax gives to another class."""


def evasion_logits(logits: Tensor, margin: Tensor, y: Tensor) -> Tensor:
    """Logits (N, K) whose decision boundary is *wrong and accepted*.

    The true class's logit is raised to max(true logit, best other logit + rejection margin), so
    attacks that know only misclassification must also get the input accepted. A margin of -inf
    (cannot reject) changes nothing.
    """
    true = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1, keepdim=True)
    raised = torch.maximum(true, others + margin[:, None])
    return logits.scatter(1, y[:, None], raised)


def lead(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the true one (N,): positive where another class wins."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - true


def evasion_lead(decision: Decision, y: Tensor) -> Tensor:
    """How far a deployed decision is beyond *wrong and accepted* (N,), in logits.

    Positive exactly where the class is wrong and accepted; -inf where rejected or where the
    defense answered NaN, which is a fault of the defense and not a break.
    """
    wrong = decision.classes != y
    signed = lead(decision.logits, y)
    signed = torch.where(wrong, signed.clamp_min(LEAST), signed.clamp_max(0))
    void = decision.rejected | decision.logits.isnan().any(dim=1)
    return signed.masked_fill(void, -torch.inf)


def evades(defense: Defense, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
    """(N,) bool: the deployed defense, asked once, is wrong and accepts."""
    return evasion_lead(defense.decide(x, rng), y) > 0


@dataclass(frozen=True)
class Standing:
    """How convincingly candidates fool the deployed defense.

    Args:
        streak: (N,) answers in a row, from the first, that were wrong and accepted.
        lead: (N,) `evasion_lead` of the first answer; orders candidates of equal streak.
    """

    streak: Tensor
    lead: Tensor

    @staticmethod
    def unasked(like: Tensor) -> "Standing":
        """The standing of N candidates about which nobody has asked: below every other."""
        count = len(like)
        return Standing(
            torch.full((count,), -1, device=like.device),
            torch.full((count,), -torch.inf, device=like.device, dtype=like.dtype),
        )

    def above(self, other: "Standing") -> Tensor:
        """(N,) bool: strictly more convincing than ``other``."""
        longer = self.streak > other.streak
        return longer | ((self.streak == other.streak) & (self.lead > other.lead))

    def improve(self, candidates: Tensor, rows: Tensor, points: Tensor, asked: "Standing") -> None:
        """Replace, in place, the candidates of these rows where the points asked about are better.

        Args:
            candidates: (N, C, H, W), of this standing.
            rows: n indices.
            points: (n, C, H, W).
            asked: standing of the n points.
        """
        better = asked.above(Standing(self.streak[rows], self.lead[rows]))
        candidates[rows[better]] = points[better]
        self.streak[rows[better]] = asked.streak[better]
        self.lead[rows[better]] = asked.lead[better]


def votes_needed(defense: Defense, confirmations: int) -> int:
    """The streak that convinces an attack: deterministic defenses need one answer."""
    return confirmations if defense.stochastic else 1


def ask(defense: Defense, x: Tensor, y: Tensor, rng: Generator, confirmations: int) -> Standing:
    """Ask the deployed defense until it answers right or ``confirmations`` answers were wrong."""
    standing = Standing.unasked(x)
    streak, first = standing.streak + 1, standing.lead
    rows = torch.arange(len(x), device=x.device)
    for vote in range(votes_needed(defense, confirmations)):
        if len(rows) == 0:
            break
        ahead = evasion_lead(defense.decide(x[rows], child(rng, "vote", vote)), y[rows])
        if vote == 0:
            first = ahead.to(x.dtype)
        rows = rows[ahead > 0]
        streak[rows] += 1
    return Standing(streak, first)


def carry(candidates: Tensor, standings: Sequence[Standing]) -> None:
    """Let each budget inherit, in place, the more convincing candidate of the next smaller one.

    The smaller ball lies in the larger, so a curve of accuracies cannot rise. Equal streaks keep
    their own candidate: at a larger budget it is as convincing and was made for that budget.

    Args:
        candidates: (E, N, C, H, W), budgets ascending.
        standings: E standings of N candidates; updated too.
    """
    for index in range(1, len(standings)):
        below, here = standings[index - 1], standings[index]
        longer = below.streak > here.streak
        candidates[index, longer] = candidates[index - 1, longer]
        here.streak[longer] = below.streak[longer]
        here.lead[longer] = below.lead[longer]
