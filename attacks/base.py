"""What an attack is: it proposes candidates and never gives a verdict."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from attacks.eot import View
from attacks.threat import Norm
from defenses.base import Defense


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack configuration; its repr is its provenance.

    Args:
        norm: the distance that budgets limit.
        view: which differentiable view the attack queries, averaged over how many EOT samples.
    """

    norm: Norm
    view: View = field(default_factory=View)

    @abstractmethod
    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        """Candidates (E, N, C, H, W) in the box, candidate e within ``epsilons[e]`` of ``x``.

        Where nothing was found the candidate is the attack's best attempt, or ``x`` itself.

        Args:
            x: clean images (N, C, H, W) in [0, 1] that the defense classifies correctly.
            y: labels (N,).
            epsilons: radii in ascending order.
            rng: the only source of randomness; images keep their result in any batch.
        """

    def needs(self, defense: Defense) -> str | None:
        """Why the attack is not applicable to this defense, or None."""
        return None


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


def evades(defense: Defense, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
    """(N,) bool: the deployed defense, asked once, is wrong and accepts."""
    decision = defense.decide(x, rng)
    return (decision.classes != y) & ~decision.rejected
