"""Training the classifier against the decoder's pairs (Jalal et al. 2017, Eqs. 4 to 6)."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor
from torch.nn import functional

from defenses.base import Defense, FindsPairs, InnerAttack, Learner, Task
from defenses.projection.inverting import Inverting
from defenses.projection.recipe import InvertingRecipe
from defenses.randomness import child, generator


@final
class PairsLearner(Learner):
    """Adam on (1 - mu) cross-entropy + mu ||C(G(z)) - C(G(z'))||^2; the generator stays as it is.

    Args:
        defense: whose classifier is trained.
        attack: finds the pairs of the second term, anew each time.
        rate: Adam's.
        mixing: mu.
        every: updates between attacks.
        count: pairs of an attack.
    """

    def __init__(
        self,
        defense: Inverting,
        attack: FindsPairs,
        rate: float,
        *,
        mixing: float,
        every: int,
        count: int,
    ) -> None:
        self.defense = defense
        self.attack = attack
        self.mixing = mixing
        self.every = every
        self.count = count
        parameters = list(defense.classifier.parameters())
        defense.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizers = (torch.optim.Adam(parameters, lr=rate),)
        self._updates = 0
        self._apart: Tensor | None = None

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One step on clean images, and on pairs where it is their turn.

        ``pairs`` is the second term when it was last taken, before that step.
        """
        (adam,) = self.optimizers
        self.defense.classifier.train()
        logits, _ = self.defense.classifier.surrogate(None, rng)(x)
        plain = functional.cross_entropy(logits, y)
        loss = (1 - self.mixing) * plain
        if self._updates % self.every == 0:
            apart = self._pairs(child(rng, "pairs", self._updates), x)
            loss = loss + self.mixing * apart
            self._apart = apart.detach()
        self._updates += 1
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        apart_last = plain.new_zeros(()) if self._apart is None else self._apart.to(plain)
        return {"cross-entropy": plain.detach(), "pairs": apart_last}

    def _pairs(self, rng: Generator, like: Tensor) -> Tensor:
        """The mean over pairs of the squared distance of softmax outputs."""
        self.defense.eval()
        self.defense.classifier.requires_grad_(False)
        model = self.defense.generator
        starts = model.prior_std * torch.randn((self.count, model.latent), generator=rng)
        latents = self.attack.pairs(self.defense, starts.to(like), child(rng, "attack"))
        with torch.no_grad():
            images = [self.defense.decode(z) for z in latents]
        self.defense.classifier.requires_grad_(True)
        self.defense.classifier.train()
        first, second = (
            self.defense.classifier.surrogate(None, rng)(image)[0].softmax(dim=1)
            for image in images
        )
        return (first - second).square().sum(dim=1).mean()

    def memory(self) -> dict[str, Tensor]:
        """How many updates there were, and the second term when it was last taken."""
        apart = {} if self._apart is None else {"apart": self._apart}
        return {"updates": torch.tensor(self._updates), **apart}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """See `Learner.recall`."""
        self._updates = int(memory["updates"])
        self._apart = memory.get("apart")

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """The bare classifier's class."""
        return self.defense.classifier.decide(x, generator(0)).classes == y


@final
@dataclass(frozen=True, kw_only=True)
class OverpoweredTraining(InvertingRecipe):
    """Invert-and-Classify whose classifier was trained on against the Overpowered attack.

    Args:
        inner_attack: finds the pairs (section 4.3: 500 steps).
        mixing: mu of Eq. 4, which the paper does not state; its later code adds twice the second
            term to the first.
        every: updates between attacks (the paper attacks at each, its later code at every 20th).
        pairs: found by an attack (its later code: 50).
    """

    epochs: int = 10
    batch_size: int = 50
    learning_rate: float = 1e-4
    halve_every: int = 0
    starts_from: str | None = "inc"
    inner_attack: str | None = "overpowered-pairs[steps=500]"
    mixing: float = 2 / 3
    every: int = 20
    pairs: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.mixing < 1:
            raise ValueError(f"mixing must be in (0, 1), got {self.mixing}; it is a weight")
        for name in ("every", "pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; raise it")

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Adam on the classifier."""
        if not isinstance(attack, FindsPairs):
            raise ValueError(
                f"inner_attack must find pairs of latents, got {self.inner_attack!r}; "
                "use 'overpowered-pairs'"
            )
        if not isinstance(defense, Inverting):
            raise ValueError(f"defense must invert, got {type(defense).__name__}")
        return PairsLearner(
            defense,
            attack,
            self.learning_rate,
            mixing=self.mixing,
            every=self.every,
            count=self.pairs,
        )
