"""What a purifier is trained on: (adversarial, clean) pairs of a classifier that it protects."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor


@dataclass(frozen=True)
class Attacked:
    """One attack on the training images.

    Args:
        attack: specification, such as ``cw-l2[confidence=5]``.
        epsilon: radius, for attacks that fill a ball; None for those that look for the nearest
            evading point.
    """

    attack: str
    epsilon: float | None = None


@dataclass(frozen=True)
class Pairing:
    """The pairs that a recipe wants.

    Args:
        victim: name of the contained defense that is attacked.
        attacks: as many pairs come from each.
        images: training images per attack, drawn for each attack anew, where there are so many; 0
            takes all.
    """

    victim: str
    attacks: tuple[Attacked, ...]
    images: int = 0


@runtime_checkable
class Restores(Protocol):
    """A learner that is shown what an attack made of an image, and the image."""

    def restore(
        self, adversarial: Tensor, clean: Tensor, y: Tensor, rng: Generator
    ) -> dict[str, Tensor]:
        """One step on pairs (n, C, H, W) with the labels (n,) of the clean images.

        Returns: see `Learner.update`.
        """
        ...
