"""The undefended network: E-ABS's encoder and one linear layer (E-ABS, section 4.3)."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from defenses.architectures import ARCHITECTURES, convolutional_encoder
from defenses.base import (
    Decision,
    Defense,
    Learner,
    Perturb,
    Recipe,
    Surrogate,
    Task,
    accepts_all,
    never_rejects,
)


class FeedForward(Defense):
    """A plain network: deterministic, differentiable, never rejects."""

    surrogate_names = ("exact",)

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        logits: Tensor = self.network(x)
        return accepts_all(logits)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return self._exact

    def _exact(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(x), never_rejects(x)


@dataclass(frozen=True, kw_only=True)
class CNN(Recipe):
    """Standard training with Gaussian input noise."""

    def build(self, task: Task) -> FeedForward:
        """The encoder of Table 9 and a linear layer."""
        architecture = ARCHITECTURES[task.architecture]
        encoder, features = convolutional_encoder(task.shape, architecture)
        return FeedForward(
            nn.Sequential(encoder, nn.Linear(features, task.num_classes)), task.num_classes
        )

    def learner(self, defense: Defense, task: Task, perturb: Perturb | None) -> Learner:
        """Cross-entropy on noisy images, or on adversarial ones where ``perturb`` is given."""
        return CrossEntropy(defense, self.learning_rate, task.noise_std, perturb)


class CrossEntropy(Learner):
    """Adam on the cross-entropy of noisy or adversarial images.

    Args:
        defense: a `FeedForward`.
        learning_rate: Adam's rate.
        noise_std: standard deviation of the input noise, clipped to the box; unused with an attack
            (E-ABS, section 4.1: noise "except for adversarially trained models").
        perturb: the attack of adversarial training.
    """

    def __init__(
        self, defense: Defense, learning_rate: float, noise_std: float, perturb: Perturb | None
    ) -> None:
        if not isinstance(defense, FeedForward):
            raise ValueError(f"defense must be a FeedForward network, got {type(defense).__name__}")
        self.defense = defense
        self.noise_std = noise_std
        self.perturb = perturb
        self.optimizers = (torch.optim.Adam(defense.parameters(), lr=learning_rate),)

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One Adam step."""
        if self.perturb is None:
            noise = torch.randn(x.shape, generator=rng).to(x.device)
            x = (x + self.noise_std * noise).clamp(0, 1)
        else:
            self.defense.eval()
            x = self.perturb(self.defense, x, y, rng)
            self.defense.train()
        (optimizer,) = self.optimizers
        loss = functional.cross_entropy(self.defense.network(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"cross-entropy": loss.detach()}
