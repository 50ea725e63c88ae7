"""What counts as an evasion: a wrong class that the defense accepts."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from attacks.mean_decision import Decides
from defenses.base import Decision

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


def likeliest_others(logits: Tensor, y: Tensor, count: int) -> Iterator[Tensor]:
    """The classes (N,) that a targeted attack aims at one after another, ``count`` at most."""
    others = logits.nan_to_num().scatter(1, y[:, None], -torch.inf)
    ranked = others.argsort(dim=1, descending=True, stable=True)
    yield from ranked[:, : min(count, logits.shape[1] - 1)].unbind(dim=1)


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


def evades(defense: Decides, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
    """(N,) bool: the deployed defense, asked once, is wrong and accepts."""
    return evasion_lead(defense.decide(x, rng), y) > 0
