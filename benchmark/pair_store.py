"""Training pairs of purifiers on disk: what attacks on the training images returned.

    <cache>/pairs/<dataset>/<victim>-<attack>-<key>/adversarial.npy   memory-mapped
                                                   /card.json         what it is made of

Pixels are kept as bytes, like those of the data sets, a quarter of float32: 42 MB for an attack on
all training images of MNIST. Rounding moves a pixel by at most 1/510. Of 3750 adversarial examples
of `digits` and 1500 of MNIST (FGSM, R-FGSM, CW) it changed the class of none; `Card.fooled` and
`Card.fooled_unrounded` tell for each attack.
"""

import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.base import Dataset, Images, Indices, Split
from benchmark.storage import keep
from defenses.randomness import generator, seed_from

_POINTS = "adversarial.npy"
_CARD = "card.json"
_REMEDY = "delete the folder and run the same command again"


@dataclass(frozen=True)
class Card:
    """What the pairs of one attack are made of, and how many of them fool the classifier.

    Args:
        dataset, dataset_digest: whose training images were attacked.
        victim, victim_digest: the classifier attacked, with every field, and its weights.
        attack: repr with every field.
        epsilon: radius, where the attack needs one.
        images: how many.
        seed: of their choice and of the attack.
        fooled: share of a tenth of the stored images that get another class than their label.
        fooled_unrounded: the same of those images as the attack returned them.
        digest: SHA-256 of the stored pixels.
    """

    dataset: str
    dataset_digest: str
    victim: str
    victim_digest: str
    attack: str
    epsilon: float | None
    images: int
    seed: int
    fooled: float = math.nan
    fooled_unrounded: float = math.nan
    digest: str = ""

    @property
    def origin(self) -> dict[str, Any]:
        """What the pairs depend on."""
        measured = {"fooled", "fooled_unrounded", "digest"}
        return {name: value for name, value in asdict(self).items() if name not in measured}

    @property
    def key(self) -> str:
        """A hash of the origin."""
        text = json.dumps(self.origin, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, eq=False)
class Store:
    """The pairs of one attack.

    Args:
        card: see `Card`.
        points: uint8 (n, C, H, W), what the attack returned.
        index: (n,) the images' places in the training split.
    """

    card: Card
    points: Images
    index: Indices


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of several attacks, those of the first attack first.

    Args:
        clean: the training images.
        stores: one per attack, all of the same length.
    """

    clean: Split
    stores: tuple[Store, ...]

    def __len__(self) -> int:
        return sum(len(store.index) for store in self.stores)

    @cached_property
    def index(self) -> Indices:
        """(N,) place of each pair's clean image in the training split."""
        return np.concatenate([store.index for store in self.stores])

    @property
    def labels(self) -> Indices:
        """(N,) of the clean images."""
        return self.clean.labels[self.index]

    @property
    def digest(self) -> str:
        """Hash of all stored pixels and their order."""
        text = "\n".join(store.card.digest for store in self.stores)
        return hashlib.sha256(text.encode()).hexdigest()

    def batch(self, places: Indices, device: str) -> tuple[Tensor, Tensor]:
        """Adversarial and clean images (n, C, H, W) at these places, as `Split.batch` has them."""
        which, rows = np.divmod(places, len(self.stores[0].index))
        adversarial = np.empty((len(places), *self.clean.images.shape[1:]), dtype=np.uint8)
        for number in np.unique(which):
            own = which == number
            adversarial[own] = self.stores[number].points[rows[own]]
        x = torch.from_numpy(adversarial).to(device).to(torch.float32).div_(255)
        return x, self.clean.batch(self.index[places], device).x


def finished(folder: Path) -> bool:
    """All of an attack's pairs are there: their card comes last."""
    return (folder / _CARD).exists()


def write(folder: Path, points: Images, card: Card) -> None:
    """Keep the pairs of one attack and what was measured on them."""
    data = io.BytesIO()
    np.save(data, points)
    keep(folder / _POINTS, data.getvalue())
    keep(folder / _CARD, (json.dumps(asdict(card), indent=2) + "\n").encode())


def load(folder: Path, dataset: Dataset, expected: Card) -> Store:
    """The pairs in a folder.

    Raises:
        OSError: not those expected, or damaged.
    """
    try:
        found = json.loads((folder / _CARD).read_text())
        card = Card(**{field.name: found[field.name] for field in fields(Card)})
        points: Images = np.load(folder / _POINTS, mmap_mode="r")
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"{folder} must hold pairs and their card, got damage; {_REMEDY}") from error
    for name, value in expected.origin.items():
        if card.origin[name] != value:
            raise OSError(
                f"{folder} must hold pairs of {name} {value}, got those of {card.origin[name]}; "
                f"{_REMEDY}"
            )
    if points.shape != (card.images, *dataset.task.shape) or digest_of(points) != card.digest:
        raise OSError(
            f"{folder / _POINTS} must have digest {card.digest[:12]}..., got another; {_REMEDY}"
        )
    return Store(card, points, chosen(len(dataset.train), card))


def chosen(available: int, card: Card) -> Indices:
    """(n,) places of the training images that are attacked: others for every attack."""
    rng = generator(seed_from("pairs", card.seed, card.dataset, card.attack, card.epsilon))
    order: Indices = torch.randperm(available, generator=rng).numpy()
    return order[: card.images]


def digest_of(points: Images) -> str:
    """SHA-256 of the pixels."""
    return hashlib.sha256(np.ascontiguousarray(points).data).hexdigest()
