"""Training pairs of purifiers: attacks on the training images, made once and kept on disk.

    <cache>/pairs/<dataset>/<victim>-<attack>-<key>/adversarial.npy   memory-mapped
                                                   /card.json         what it is made of
                                                   /block-000250.npz  while it is being made

One folder for each attack on one trained classifier: another data set, classifier, attack or seed
has another key. A killed run loses the blocks that were being made.

Pixels are kept as bytes, like those of the data sets, a quarter of float32: 42 MB for an attack on
all training images of MNIST. Rounding moves a pixel by at most 1/510; `Card.fooled` counts what
still fools the classifier, against `Card.fooled_unrounded`.
"""

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.base import Attack
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.from_foolbox import GradientSearch
from benchmark.catalog import parse_attack
from benchmark.datasets.base import Dataset, Images, Indices, Split
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.storage import cache_folder, keep
from benchmark.weights import Stored
from benchmark.work import calm
from defenses.base import Perturb
from defenses.pairing import Attacked, Pairing
from defenses.randomness import generator, seed_from

BLOCK = 250
"""Images attacked together: what a kill costs, some seconds of Carlini and Wagner's attack."""

WORTH_A_PROCESS = 2000
"""Images for which it pays to start another process."""

_POINTS = "adversarial.npy"
_CARD = "card.json"
_REMEDY = "delete the folder and run the same command again"


@dataclass(frozen=True)
class Victim:
    """The classifier that is attacked.

    Args:
        name: as registered.
        stored: its trained weights.
    """

    name: str
    stored: Stored


@dataclass(frozen=True)
class Card:
    """What the pairs of one attack are made of, and how many of them fool the classifier.

    Args:
        dataset, dataset_digest: whose training images were attacked.
        victim, victim_digest: the classifier, as `Victim` names it, and its weights.
        attack: repr with every field.
        epsilon: radius, where the attack needs one.
        images: how many.
        seed: of their choice and of the attack.
        fooled: share of stored images that get another class than their label.
        fooled_unrounded: the same of the images as the attack returned them.
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


def ensure(
    dataset: Dataset,
    pairing: Pairing,
    victim: Victim,
    *,
    seed: int,
    device: str,
    jobs: int | None = None,
    progress: Progress,
) -> Pairs:
    """The pairs that a recipe wants, made now where they are not there yet.

    Args:
        jobs: processes; None is one per processor where there is enough to do, and one on
            accelerators.

    Raises:
        ValueError: an attack that makes no pairs, or more images than there are.
        OSError: pairs of another data set or classifier, damaged ones, or a full disk.
    """
    channels, available = dataset.task.shape[0], len(dataset.train)
    count = pairing.images or available
    if count > available:
        raise ValueError(
            f"pairs_per_attack must be at most the {available} training images of "
            f"{dataset.name}, got {count}; 0 takes all"
        )
    orders = []
    for wanted in pairing.attacks:
        label, attack = parse_attack(wanted.attack, PRESETS["paper"], channels)
        card = Card(
            dataset=dataset.name,
            dataset_digest=dataset.digest,
            victim=victim.name,
            victim_digest=victim.stored.weights.digest,
            attack=repr(attack),
            epsilon=wanted.epsilon,
            images=count,
            seed=seed,
        )
        name = re.sub(r"[^\w.=]+", "-", f"{victim.name}-{label}").strip("-")
        folder = cache_folder() / "pairs" / dataset.name / f"{name}-{card.key}"
        orders.append(_Order(folder, card, _perturb(attack, wanted), victim.stored))
    _make(dataset, orders, device, jobs, progress)
    return Pairs(dataset.train, tuple(load(order.folder, dataset, order.card) for order in orders))


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
    if points.shape != (card.images, *dataset.task.shape) or _digest(points) != card.digest:
        raise OSError(
            f"{folder / _POINTS} must have digest {card.digest[:12]}..., got another; {_REMEDY}"
        )
    return Store(card, points, chosen(len(dataset.train), card))


def chosen(available: int, card: Card) -> Indices:
    """(n,) places of the training images that are attacked: others for every attack."""
    rng = generator(seed_from("pairs", card.seed, card.dataset, card.attack, card.epsilon))
    order: Indices = torch.randperm(available, generator=rng).numpy()
    return order[: card.images]


def _perturb(attack: Attack, wanted: Attacked) -> Perturb:
    """What the attack itself returns, confirmed by nobody."""
    match attack:
        case FixedEpsilonAttack() if wanted.epsilon is not None:
            return attack.during_training(wanted.epsilon)
        case GradientSearch() if wanted.epsilon is None:
            return attack.nearest
        case _:
            raise ValueError(
                "attack of pairs must have an epsilon and fill its ball, or have none and be one "
                f"of Foolbox's gradient searches, got {wanted}; use fgsm or cw-l2"
            )


@dataclass(frozen=True)
class _Order:
    """The pairs of one attack, wanted in a folder."""

    folder: Path
    card: Card
    perturb: Perturb
    load: Stored

    def block(self, first: int) -> Path:
        """Where the block of this first row is kept until all are there."""
        return self.folder / f"block-{first:06}.npz"

    @property
    def firsts(self) -> range:
        """The first rows of all blocks."""
        return range(0, self.card.images, BLOCK)


def _make(
    dataset: Dataset,
    orders: Sequence[_Order],
    device: str,
    jobs: int | None,
    progress: Progress,
) -> None:
    """Make the missing blocks of all orders, and join the blocks of those that are complete."""
    open_ = [order for order in orders if not (order.folder / _CARD).exists()]
    waiting = [
        (order, first)
        for order in open_
        for first in order.firsts
        if not order.block(first).exists()
    ]
    if waiting:
        images = len(waiting) * min(BLOCK, orders[0].card.images)
        bar = progress.start(f"pairs of {orders[0].card.victim} on {dataset.name}", images)
        for count in _run(dataset, waiting, device, jobs or _processes(images, device)):
            bar.advance(count)
        bar.finish()
    for order in open_:
        _join(order)


def _processes(images: int, device: str) -> int:
    most = joblib.cpu_count() if device == "cpu" else 1
    return max(1, min(most, images // WORTH_A_PROCESS))


def _run(
    dataset: Dataset, waiting: Sequence[tuple[_Order, int]], device: str, jobs: int
) -> Iterator[int]:
    """Attack block after block; each is on disk when its size comes out."""
    places = {id(order): chosen(len(dataset.train), order.card) for order, _ in waiting}
    tasks = (
        joblib.delayed(_attack)(
            order, first, dataset.train.take(places[id(order)][first : first + BLOCK]), device
        )
        for order, first in waiting
    )
    yield from joblib.Parallel(
        n_jobs=jobs, return_as="generator_unordered", batch_size=1, max_nbytes=None
    )(tasks)


def _attack(order: _Order, first: int, images: Split, device: str) -> int:
    """Attack one block and keep what came out, with who was fooled before and after rounding."""
    seed = seed_from("pairs", order.card.key, first)
    with calm():
        defense, batch = order.load(device), images.batch(np.arange(len(images)), device)
        exact = order.perturb(defense, batch.x, batch.y, generator(seed))
        rounded = (exact * 255).round()
        fooled = [
            (defense.decide(x, generator(seed)).classes != batch.y).cpu().numpy()
            for x in (exact, rounded / 255)
        ]
    data = io.BytesIO()
    np.savez(data, points=rounded.to(torch.uint8).cpu().numpy(), fooled=np.stack(fooled, axis=1))
    keep(order.block(first), data.getvalue())
    return len(images)


def _join(order: _Order) -> None:
    """One file of all blocks; its card comes last, and then the blocks go.

    Raises:
        OSError: a damaged block.
    """
    blocks = [_block(order.block(first)) for first in order.firsts]
    points, fooled = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    unrounded, rounded = fooled.mean(axis=0).tolist()
    card = replace(order.card, fooled=rounded, fooled_unrounded=unrounded, digest=_digest(points))
    data = io.BytesIO()
    np.save(data, points)
    keep(order.folder / _POINTS, data.getvalue())
    keep(order.folder / _CARD, (json.dumps(asdict(card), indent=2) + "\n").encode())
    for first in order.firsts:
        order.block(first).unlink()


def _block(path: Path) -> tuple[Images, NDArray[np.bool_]]:
    try:
        with np.load(path) as block:
            return block["points"], block["fooled"]
    except (ValueError, KeyError, BadZipFile) as error:
        raise OSError(
            f"{path} must be a block of pairs, got damage; delete it and go on"
        ) from error


def _digest(points: Images) -> str:
    return hashlib.sha256(np.ascontiguousarray(points).data).hexdigest()
