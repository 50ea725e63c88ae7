"""Substitutes for black-box attacks (Papernot et al. 2017): networks that imitate a target."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from defenses.base import Defense, InnerAttack, Learner, Recipe, Task, Wrapped
from defenses.cnn import FeedForward, network_of
from defenses.memory_format import channels_last
from defenses.randomness import child, generator, seed_from

TARGET = "target"
_AT_ONCE = 500
_LEAST_RATE = 1e-5

Letter = Literal["A", "B", "C", "D", "E"]


@dataclass(frozen=True)
class Layers:
    """One column of MAD-VAE's Table 6 (from Defense-GAN), whose borders and stages are ours.

    Args:
        convolutions: (channels, kernel, stride), each followed by ReLU.
        dense: widths after them, each followed by ReLU.
        dropout: probability before the first convolution, after the last, and after each dense
            layer (without dense layers: before the answer).
    """

    convolutions: tuple[tuple[int, int, int], ...]
    dense: tuple[int, ...]
    dropout: tuple[float, float, float]


TABLE_6: dict[Letter, Layers] = {
    "A": Layers(((64, 5, 1), (64, 5, 2)), (128,), (0.0, 0.25, 0.5)),
    "B": Layers(((64, 8, 2), (128, 6, 2), (128, 5, 1)), (), (0.2, 0.0, 0.5)),
    "C": Layers(((128, 3, 1), (64, 3, 2)), (128,), (0.0, 0.25, 0.5)),
    "D": Layers((), (200, 200), (0.0, 0.0, 0.5)),
    "E": Layers((), (200, 200), (0.0, 0.0, 0.0)),
}


def network(shape: tuple[int, int, int], layers: Layers, classes: int) -> nn.Sequential:
    """Images (N, C, H, W) to logits (N, classes).

    Table 6 states no borders: (kernel - 1) // 2 here, which small images survive too.
    """
    channels, *sides = shape
    first, middle, last = layers.dropout
    body: list[nn.Module] = [nn.Dropout(first)]
    for width, kernel, stride in layers.convolutions:
        border = (kernel - 1) // 2
        body += [nn.Conv2d(channels, width, kernel, stride, border), nn.ReLU()]
        channels, sides = width, [(side + 2 * border - kernel) // stride + 1 for side in sides]
    body += [nn.Dropout(middle), nn.Flatten()]
    features = channels * math.prod(sides)
    for width in layers.dense:
        body += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(last)]
        features = width
    if not layers.dense:
        body.append(nn.Dropout(last))
    body.append(nn.Linear(features, classes))
    return channels_last(nn.Sequential(*body))


@final
@dataclass(frozen=True, kw_only=True)
class Substitute(Recipe):
    """A network of Table 6 that has learned a target's answers, never the true labels.

    By default it asks the target about every training image: MAD-VAE's substitutes agree with the
    labels on 98 to 99 % of the test images (Table 2, "No Attack"), and its public code trains them
    on the whole split, 29 epochs of Adam at 1e-3 x 0.95 per epoch in batches of 256.

    ``[seed_images=150,epochs=6]`` is Papernot et al. (2017) as Defense-GAN uses it: the attacker
    has 150 images, and each of `epochs` rounds asks about as many points again as there are, the
    old ones moved along the sign of the answer's gradient. Neither MAD-VAE nor Defense-VAE states
    how many images and rounds it took; six rounds and ten epochs in each are Papernot's.

    Args:
        letter: of the column.
        target: what is imitated, as deployed; it must answer every image.
        decay: of Adam's rate per epoch or round.
        seed_images: training images that the attacker begins with; 0 is all of them.
        step: lambda of the augmentation, in pixel units.
        epochs_per_round: passes over the points of a round.
    """

    queried_fields = frozenset({TARGET})

    epochs: int = 29
    batch_size: int = 256
    halve_every: int = 0
    letter: Letter
    target: Wrapped
    decay: float = 0.95
    seed_images: int = 0
    step: float = 0.1
    epochs_per_round: int = 10

    def updates(self, images: int) -> int:
        """See `Recipe.updates`: a round is one."""
        return 1 if self.seed_images else super().updates(images)

    def stretch(self, images: int) -> int:
        """See `Recipe.stretch`; every further round would double the points."""
        return 1 if self.seed_images else super().stretch(images)

    def batches(self, labels: Tensor, rng: Generator) -> Iterator[Tensor]:
        """See `Recipe.batches`; with seed images, one batch with always the same of them.

        Raises:
            ValueError: more seed images than there are.
        """
        if not self.seed_images:
            yield from super().batches(labels, rng)
            return
        if self.seed_images > len(labels):
            raise ValueError(
                f"seed_images must be at most the {len(labels)} training images, got "
                f"{self.seed_images}; lower it"
            )
        order = torch.randperm(len(labels), generator=generator(seed_from("seed images")))
        yield order[: self.seed_images]

    def build(self, task: Task) -> FeedForward:
        """The untrained network."""
        layers = TABLE_6[self.letter]
        return FeedForward(network(task.shape, layers, task.num_classes), task.num_classes)

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Adam on the cross-entropy with the target's answers."""
        student, target = network_of(defense), self.target.build(task)
        adam = decaying_adam(student, self.learning_rate, self.decay)
        if self.seed_images:
            return AugmentingImitation(
                student,
                target,
                adam,
                step=self.step,
                epochs=self.epochs_per_round,
                batch_size=self.batch_size,
            )
        return Imitation(student, target, adam)


def decaying_adam(network: nn.Module, rate: float, decay: float) -> torch.optim.Adam:
    """Adam whose rate is multiplied by ``decay`` after every epoch, down to 1e-5."""
    group = {"params": list(network.parameters()), "decay": decay, "least": _LEAST_RATE}
    return torch.optim.Adam([group], lr=rate)


@torch.no_grad()
def answers(target: Defense, x: Tensor, rng: Generator) -> Tensor:
    """The classes (N,) that the target, as deployed, gives images (N, C, H, W)."""
    target.to(x.device).eval()
    return torch.cat([target.decide(part, rng).classes for part in x.split(_AT_ONCE)])


def fit(student: nn.Module, adam: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """One step; the loss."""
    loss = functional.cross_entropy(student(x), y)
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()
    return loss.detach()


def agrees(student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N,) bool: right, by the true labels."""
    with torch.no_grad():
        right: Tensor = student(x).argmax(dim=1) == y
    return right


@final
class Imitation(Learner):
    """The target is asked about every batch.

    Args:
        student: images to logits.
        target: untrained; see `Learner.queried`.
        adam: of the student.
    """

    def __init__(self, student: nn.Module, target: Defense, adam: torch.optim.Adam) -> None:
        self.student = student
        self.queried = {TARGET: target}
        self.optimizers = (adam,)

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One Adam step; ``y`` plays no part."""
        asked = answers(self.queried[TARGET], x, rng)
        return {"cross-entropy": fit(self.student, self.optimizers[0], x, asked)}

    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """Right by the true labels, which the student never saw."""
        return agrees(self.student, x, y)


@final
class AugmentingImitation(Learner):
    """Jacobian-based augmentation (Papernot et al. 2017, Algorithm 1): an update is a round.

    Args:
        student, target, adam: see `Imitation`.
        step: lambda.
        epochs: passes over a round's points.
        batch_size: points per step.
    """

    def __init__(
        self,
        student: nn.Module,
        target: Defense,
        adam: torch.optim.Adam,
        *,
        step: float,
        epochs: int,
        batch_size: int,
    ) -> None:
        self.student = student
        self.queried = {TARGET: target}
        self.optimizers = (adam,)
        self.step = step
        self.epochs = epochs
        self.batch_size = batch_size
        self.points: Tensor | None = None
        self.asked: Tensor | None = None

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One round: the seed images ``x`` at first, then twice as many points as before."""
        if self.points is None or self.asked is None:
            points, asked = x, answers(self.queried[TARGET], x, child(rng, "seeds"))
        else:
            fresh = self.outward(self.points, self.asked)
            points = torch.cat([self.points, fresh])
            found = answers(self.queried[TARGET], fresh, child(rng, "fresh"))
            asked = torch.cat([self.asked, found])
        self.points, self.asked = points, asked
        loss = x.new_zeros(())
        for _ in range(self.epochs):
            for index in torch.randperm(len(points), generator=rng).split(self.batch_size):
                own = index.to(x.device)
                loss = fit(self.student, self.optimizers[0], points[own], asked[own])
        return {"cross-entropy": loss}

    def outward(self, points: Tensor, classes: Tensor) -> Tensor:
        """x + lambda sign(dF_y / dx), y the target's answer, in the box."""
        self.student.eval()
        moved = []
        for x, y in zip(points.split(_AT_ONCE), classes.split(_AT_ONCE), strict=True):
            leaf = x.clone().requires_grad_()
            # Its logarithm: of the same sign, but not flat where the student is sure.
            own = self.student(leaf).log_softmax(dim=1).gather(1, y[:, None])
            (gradient,) = torch.autograd.grad(own.sum(), leaf)
            moved.append((x + self.step * gradient.sign()).clamp(0, 1))
        self.student.train()
        return torch.cat(moved)

    def memory(self) -> dict[str, Tensor]:
        """The points asked about so far, and the answers."""
        if self.points is None or self.asked is None:
            return {}
        return {"points": self.points, "asked": self.asked}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """See `Learner.recall`."""
        device = next(self.student.parameters()).device
        self.points, self.asked = (memory[key].to(device) for key in ("points", "asked"))

    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Imitation.validate`."""
        return agrees(self.student, x, y)
