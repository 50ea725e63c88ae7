"""What an attacker asks a slow target, each image once: training images, and attacks on them.

A target that searches at test time takes as long for one answer as a network for thousands, so the
answers are what an imitation costs. They are asked for little by little and kept.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from defenses.base import Defense, InnerAttack, Perturb, Perturbs, Recipe, Wrapped
from defenses.randomness import child, generator, seed_from

CLASSIFIER = "classifier"
_AT_ONCE = 250
_VERSIONS = 2

Ask = Callable[[Defense, Tensor, Generator], tuple[Tensor, Tensor]]
"""(target, images (n, C, H, W), rng) -> answers (n, ...), and (n,) bool: which images got one."""


@dataclass(frozen=True, kw_only=True)
class Inquiry(Recipe):
    """A network that learns from the answers of a target which protects a classifier.

    The robust manifold paper (Jalal et al. 2017, section 4.2.2) asks about training images, and
    about inputs adversarial to the classifier inside the target. Half of what is asked are
    training images here and half are the same images attacked. The paper does not say what made its
    adversarial inputs: 20 steps of BIM here, the stronger of the two attacks that it evaluates
    (a single step is the other, FGSM), at the paper's four epsilons in turn. Nor does it state how
    many it asked about, the optimiser, its rate or the epochs: all are ours.

    An epoch asks about the next images, if any are left, and passes once over all that were asked;
    a killed training loses one epoch's answers at most.

    Args:
        target: what is asked, as deployed; it contains the classifier that it protects in its field
            ``classifier``. It must answer every image, but for searches that fail, whose images are
            left out: of a target that may refuse, name the one without a threshold; what is found
            on its imitation can be handed to either.
        asked: images that the target is asked about in all.
        asked_per_epoch: at most so many of them in one epoch.
        epsilons: radii of the inner attack, in pixel units.
        decay: of Adam's rate per epoch.

    Raises:
        ValueError: odd numbers of images, epochs too few to ask about them all, or no epsilon.
    """

    epochs: int = 30
    batch_size: int = 128
    halve_every: int = 0
    inner_attack: str | None = "bim[eot=1,relative_step=0.1,steps=20]"
    target: Wrapped
    asked: int = 10_000
    asked_per_epoch: int = 500
    epsilons: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2)
    decay: float = 0.95

    def __post_init__(self) -> None:
        for name in ("asked", "asked_per_epoch"):
            value = getattr(self, name)
            if value < _VERSIONS or value % _VERSIONS:
                raise ValueError(
                    f"{name} must be even and positive, got {value}; every training image is asked "
                    "about as it is and once attacked"
                )
        needed = math.ceil(self.asked / self.asked_per_epoch)
        if self.epochs < needed:
            raise ValueError(
                f"epochs must be at least {needed} to ask about {self.asked} images, "
                f"{self.asked_per_epoch} in each, got {self.epochs}; raise it"
            )
        if not self.epsilons or min(self.epsilons) <= 0:
            raise ValueError(
                f"epsilons must be positive and at least one, got {self.epsilons}; name radii"
            )

    @final
    def updates(self, images: int) -> int:
        """See `Recipe.updates`: a pass over all that was asked is one."""
        return 1

    @final
    def stretch(self, images: int) -> int:
        """See `Recipe.stretch`; `least_updates` counts Adam's steps."""
        steps = self.epochs * math.ceil(self.asked / self.batch_size)
        return max(1, math.ceil(self.least_updates / steps))

    @final
    def batches(self, labels: Tensor, rng: Generator) -> Iterator[Tensor]:
        """See `Recipe.batches`: always the same images in the same order.

        Raises:
            ValueError: more to ask about than there is.
        """
        wanted = self.asked // _VERSIONS
        if wanted > len(labels):
            raise ValueError(
                f"asked must be at most twice the {len(labels)} training images, got {self.asked}; "
                "lower it"
            )
        order = torch.randperm(len(labels), generator=generator(seed_from("asked")))
        yield order[:wanted]

    @abstractmethod
    def ask(self, target: Defense, x: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """See `Ask`."""

    @final
    def transcript(self, attack: InnerAttack | None) -> "Transcript":
        """Nothing asked yet.

        Raises:
            ValueError: no inner attack, or one without an epsilon.
        """
        if not isinstance(attack, Perturbs):
            raise ValueError(
                f"inner_attack must have a fixed epsilon, got {self.inner_attack!r}; "
                "use one such as 'bim'"
            )
        attacks = [attack.during_training(epsilon) for epsilon in self.epsilons]
        return Transcript(self.ask, attacks, self.asked_per_epoch // _VERSIONS)


def inner_classifier(target: Wrapped) -> Wrapped:
    """The classifier that a registered target protects.

    Raises:
        ValueError: it contains none.
    """
    inner = target.recipe.wraps().get(CLASSIFIER)
    if inner is None:
        raise ValueError(
            f"target must contain the classifier that it protects, got {target.name!r}, which "
            "contains none; name one such as 'inc'"
        )
    return inner


def _victim(target: Defense) -> Defense:
    inner = target.get_submodule(CLASSIFIER)
    if not isinstance(inner, Defense):
        raise ValueError(
            f"{CLASSIFIER} of a target must be a defense, got {type(inner).__name__}; wrap it"
        )
    return inner


@final
class Transcript:
    """The images asked about so far, with the answers.

    Images become bytes before the target sees them, as any file would make them; so what is kept
    is exactly what was asked.

    Args:
        ask: see `Ask`; what got no answer is left out.
        attacks: on the classifier inside the target; the training images take turns.
        images_at_once: training images per round.
    """

    def __init__(self, ask: Ask, attacks: Sequence[Perturb], images_at_once: int) -> None:
        self.ask = ask
        self.attacks = attacks
        self.images_at_once = images_at_once
        self.images_asked = 0
        self.points: Tensor | None = None
        self.answers: Tensor | None = None

    def go_on(self, target: Defense, x: Tensor, rng: Generator) -> None:
        """Ask about the next images of ``x`` (N, C, H, W), as they are and attacked.

        Args:
            target: with its trained weights.
            x: all training images to ask about, the same at every call.
        """
        fresh = x[self.images_asked : self.images_asked + self.images_at_once]
        if len(fresh) == 0:
            return
        target.to(x.device).eval()
        attacked = self._attacked(_victim(target), fresh, rng)
        points = to_bytes(torch.cat([fresh, attacked]))
        asked = child(rng, "ask")
        told = [self.ask(target, to_pixels(part), asked) for part in points.split(_AT_ONCE)]
        answers, answered = (torch.cat(parts).cpu() for parts in zip(*told, strict=True))
        self._append(points.cpu()[answered], answers[answered])
        self.images_asked += len(fresh)

    def _attacked(self, victim: Defense, x: Tensor, rng: Generator) -> Tensor:
        """The images, each as its attack changes it, away from the victim's own answer."""
        y = victim.decide(x, child(rng, "classes")).classes
        turns = torch.arange(self.images_asked, self.images_asked + len(x)) % len(self.attacks)
        attacked = x.clone()
        for turn, attack in enumerate(self.attacks):
            rows = (turns == turn).nonzero().squeeze(1).to(x.device)
            if len(rows):
                attacked[rows] = attack(victim, x[rows], y[rows], child(rng, "attack", turn))
        return attacked

    def _append(self, points: Tensor, answers: Tensor) -> None:
        if self.points is not None and self.answers is not None:
            points = torch.cat([self.points, points])
            answers = torch.cat([self.answers, answers])
        self.points, self.answers = points, answers

    def batches(
        self, size: int, device: torch.device, rng: Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Once over everything in a random order: images (n, C, H, W) and answers (n, ...).

        Batches differ by one image at most, so that none is too small to normalise.
        """
        if self.points is None or self.answers is None or len(self.points) == 0:
            return
        order = torch.randperm(len(self.points), generator=rng)
        for rows in order.tensor_split(math.ceil(len(order) / size)):
            yield to_pixels(self.points[rows].to(device)), self.answers[rows].to(device)

    def memory(self) -> dict[str, Tensor]:
        """See `defenses.base.Learner.memory`."""
        if self.points is None or self.answers is None:
            return {}
        asked = torch.tensor(self.images_asked)
        return {"points": self.points, "answers": self.answers, "images_asked": asked}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """See `defenses.base.Learner.recall`."""
        self.points, self.answers = memory["points"].cpu(), memory["answers"].cpu()
        self.images_asked = int(memory["images_asked"])


def to_bytes(x: Tensor) -> Tensor:
    """Pixels in [0, 1] as uint8."""
    return (x * 255).round().to(torch.uint8)


def to_pixels(x: Tensor) -> Tensor:
    """Bytes as float32 pixels in [0, 1]."""
    return x.to(torch.float32).div_(255)
