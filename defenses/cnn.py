"""The undefended network: E-ABS's encoder and one linear layer (E-ABS, section 4.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from defenses.architectures import ARCHITECTURES, convolutional_encoder
from defenses.base import (
    Decision,
    Defense,
    InnerAttack,
    Learner,
    Recipe,
    Surrogate,
    Task,
    accepts_all,
    never_rejects,
)


@final
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


def network_of(defense: Defense) -> nn.Module:
    """The network of a `FeedForward` defense.

    Raises:
        ValueError: another kind of defense.
    """
    if not isinstance(defense, FeedForward):
        raise ValueError(f"defense must be a FeedForward network, got {type(defense).__name__}")
    return defense.network


@dataclass(frozen=True, kw_only=True)
class PlainNetwork(Recipe):
    """A recipe for E-ABS's encoder with a linear layer, however it is trained."""

    @final
    def build(self, task: Task) -> FeedForward:
        """The encoder of Table 9 and a linear layer."""
        architecture = ARCHITECTURES[task.architecture]
        encoder, features = convolutional_encoder(task.shape, architecture)
        return FeedForward(
            nn.Sequential(encoder, nn.Linear(features, task.num_classes)), task.num_classes
        )


@final
@dataclass(frozen=True, kw_only=True)
class CNN(PlainNetwork):
    """Standard training with Gaussian input noise."""

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Cross-entropy on noisy images."""
        noise = GaussianNoise(task.noise_std)
        return CrossEntropy(network_of(defense), self.learning_rate, noise)


Augment = Callable[[Tensor, Tensor, Generator], Tensor]
"""What becomes of clean images before the update: (x, y, rng) -> x of the same shape."""


@dataclass(frozen=True)
class GaussianNoise:
    """Additive noise, clipped to the box (the paper does not say whether it clips)."""

    std: float

    def __call__(self, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """Noisy images."""
        return (x + self.std * torch.randn(x.shape, generator=rng).to(x.device)).clamp(0, 1)


@final
class CrossEntropy(Learner):
    """Adam on the cross-entropy of changed images.

    Args:
        network: images (N, C, H, W) to logits (N, K).
        learning_rate: Adam's rate.
        augment: noise, or an attack.
    """

    def __init__(self, network: nn.Module, learning_rate: float, augment: Augment) -> None:
        self.network = network
        self.augment = augment
        self.optimizers = (torch.optim.Adam(network.parameters(), lr=learning_rate),)

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One Adam step."""
        x = self.augment(x, y, rng)
        (optimizer,) = self.optimizers
        loss = functional.cross_entropy(self.network(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"cross-entropy": loss.detach()}

    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """The deployed answer: there is no other."""
        with torch.no_grad():
            right: Tensor = self.network(x).argmax(dim=1) == y
        return right
