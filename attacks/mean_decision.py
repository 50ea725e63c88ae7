"""What gradient-free attacks ask of a stochastic defense: its mean decision over several seeds.

One answer of a stochastic defense is a toss; an attack that climbs or bisects on single answers
follows the noise. SPEC 5 asks for Square and HopSkipJump on the mean logit over 20 seeds.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from defenses.base import Decision, Defense
from defenses.randomness import child


class Decides(Protocol):
    """Whatever answers like a deployed defense."""

    def decide(self, x: Tensor, rng: Generator) -> Decision:
        """The answer for images (N, C, H, W); a function of the image and the generator."""
        ...


@dataclass(frozen=True)
class MeanDecision:
    """The deployed defense, asked with several seeds at once.

    Logits and scores are means over the seeds, so the class is that of the mean logits; one answer
    of NaN makes the mean NaN. An image is rejected where at least half of the seeds reject it. A
    tie counts as rejected because the attack reads this answer: a point that is let through by a
    toss would pass for a break, end its search, and then fail when it is asked about again.

    Args:
        defense: as deployed; a deterministic one is asked once.
        seeds: answers per image.
    """

    defense: Defense
    seeds: int

    def decide(self, x: Tensor, rng: Generator) -> Decision:
        """See `Decides.decide`; one seed is `Defense.decide` itself."""
        if self.seeds == 1 or not self.defense.stochastic:
            return self.defense.decide(x, rng)
        answers = [self.defense.decide(x, child(rng, "seed", seed)) for seed in range(self.seeds)]
        refusals = torch.stack([answer.rejected for answer in answers]).sum(dim=0)
        return Decision(
            torch.stack([answer.logits for answer in answers]).mean(dim=0),
            2 * refusals >= self.seeds,
            {
                name: torch.stack([answer.scores[name] for answer in answers]).mean(dim=0)
                for name in answers[0].scores
            },
        )


@dataclass(frozen=True)
class Steady:
    """Decisions under one fixed generator: asked again about a point, it answers as before.

    Algorithms that are written for deterministic models rely on that: they take it for granted
    that a point found adversarial stays so. Every other image still has noise of its own.

    Args:
        inner: what answers.
        rng: the generator of every answer.
    """

    inner: Decides
    rng: Generator

    def decide(self, x: Tensor, rng: Generator) -> Decision:
        """See `Decides.decide`; ``rng`` has no part."""
        return self.inner.decide(x, child(self.rng, "steady"))
