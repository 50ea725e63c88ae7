"""Targets that protect a linear classifier, with answers and projections in closed form."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from defenses.base import Decision, Defense, Perturb, Surrogate, never_rejects
from defenses.randomness import generator
from tests.linear import Linear

SIDE = 8
SIZE = SIDE * SIDE
CLASSES = 10
LATENT = 3


def images(count: int, seed: int = 1) -> Tensor:
    """Images of bytes, as data sets hold them."""
    drawn = torch.randint(256, (count, 1, SIDE, SIDE), generator=generator(seed))
    return drawn.float().div_(255)


def quarters(count: int, seed: int) -> Tensor:
    """Images of four grey squares, hardly noisy: of few degrees of freedom."""
    grey = torch.rand((count, 1, 2, 2), generator=generator(seed))
    grey = grey.repeat_interleave(SIDE // 2, dim=2).repeat_interleave(SIDE // 2, dim=3)
    return (grey + 0.05 * (images(count, seed) - 0.5)).clamp(0, 1)


def balanced(seed: int) -> Linear:
    """A linear classifier whose classes are equal at mid-grey."""
    weight = torch.randn((CLASSES, SIZE), generator=generator(seed))
    return Linear(weight, -weight.sum(dim=1) / 2).eval().requires_grad_(False)


class Protecting(Defense):
    """Answers by one linear function, holds another, and may refuse the images it is told to."""

    surrogate_names = ("exact",)
    num_classes = CLASSES

    def __init__(self, refuses: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.classifier = balanced(1)
        self.answering = balanced(2)
        self.refuses = refuses

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        nobody = torch.zeros(len(x), dtype=torch.bool)
        rejected = nobody if self.refuses is None else self.refuses(x)
        return Decision(self.answering.logits(x), rejected)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.answering.logits(x), never_rejects(x))


class Plane(Defense):
    """G(z) = 1/2 + A z with orthonormal columns A: the projection is 1/2 + A A' (x - 1/2).

    Its explanations are projections, counted, and NaN for images that it is told to lose.
    """

    surrogate_names = ("exact",)
    num_classes = CLASSES
    latent = LATENT

    def __init__(self, loses: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        columns = torch.randn((SIZE, LATENT), generator=generator(3))
        self.columns = nn.Parameter(torch.linalg.qr(columns)[0], requires_grad=False)
        self.classifier = balanced(1)
        self.loses = loses
        self.explained = 0

    def encode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.columns

    def decode(self, z: Tensor) -> Tensor:
        return (0.5 + z @ self.columns.T).reshape(-1, 1, SIDE, SIDE)

    def classify(self, x: Tensor) -> Tensor:
        return self.classifier.logits(x)

    def explain(self, x: Tensor, rng: Generator) -> Tensor:
        self.explained += len(x)
        found = self.decode(self.encode(x))
        return found if self.loses is None else found.masked_fill(self.loses(x), torch.nan)

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        logits = self.classify(self.decode(self.encode(x)))
        return Decision(logits, torch.zeros(len(x), dtype=torch.bool))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.classify(self.decode(self.encode(x))), never_rejects(x))

    def sample(self, count: int, seed: int) -> Tensor:
        """Images near the plane."""
        rng = generator(seed)
        z = 1.2 * (2 * torch.rand((count, LATENT), generator=rng) - 1)
        noise = 0.1 * torch.randn((count, 1, SIDE, SIDE), generator=rng)
        return (self.decode(z) + noise).clamp(0, 1)


class Shift:
    """An attack that makes every pixel brighter by epsilon, or darker where there is no room.

    Attributes:
        seen: (defense, images, labels) of every call.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[Defense, Tensor, Tensor]] = []

    def during_training(self, epsilon: float) -> Perturb:
        def perturb(defense: Defense, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
            self.seen.append((defense, x.clone(), y.clone()))
            return torch.where(x + epsilon <= 1, x + epsilon, x - epsilon)

        return perturb
