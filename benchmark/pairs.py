"""Attacks on training images: (adversarial, clean) pairs made once, by several processes.

One folder for each attack on one trained classifier: another data set, classifier, attack or seed
has another (`benchmark.pair_store`). While it is being made it holds ``block-000250.npz`` and so
on, each whole or absent: a killed run loses the blocks that were being made.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from attacks.base import Attack
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.from_foolbox import GradientSearch
from benchmark.catalog import parse_attack
from benchmark.datasets.base import Dataset, Images, Split
from benchmark.pair_store import Card, Pairs, chosen, digest_of, finished, load, write
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.storage import cache_folder, keep
from benchmark.weights import Stored
from benchmark.work import calm
from defenses.base import Perturb, Wrapped
from defenses.pairing import Attacked, Pairing
from defenses.randomness import generator, seed_from

BLOCK = 250
"""Images attacked together: what a kill costs, some seconds of Carlini and Wagner's attack."""

MEASURED = 25
"""Images of a block whose classes are asked for: asking about all would slow FGSM by half."""

WORTH_A_PROCESS = 2000
"""Images for which it pays to start another process."""


@dataclass(frozen=True)
class Victim:
    """The classifier that is attacked.

    Args:
        wrapped: its name and recipe.
        stored: what it was trained to.
    """

    wrapped: Wrapped
    stored: Stored


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
        ValueError: an attack that makes no pairs.
        OSError: pairs of another data set or classifier, damaged ones, or a full disk.
    """
    channels, available = dataset.task.shape[0], len(dataset.train)
    count = min(pairing.images or available, available)
    orders = []
    for wanted in pairing.attacks:
        label, attack = parse_attack(wanted.attack, PRESETS["paper"], channels)
        card = Card(
            dataset=dataset.name,
            dataset_digest=dataset.digest,
            victim=repr(victim.wrapped),
            victim_digest=victim.stored.weights.digest,
            attack=repr(attack),
            epsilon=wanted.epsilon,
            images=count,
            seed=seed,
        )
        name = re.sub(r"[^\w.=]+", "-", f"{victim.wrapped.name}-{label}").strip("-")
        folder = cache_folder() / "pairs" / dataset.name / f"{name}-{card.key}"
        orders.append(_Order(folder, card, _perturb(attack, wanted), victim.stored))
    _make(dataset, orders, device, jobs, progress)
    return Pairs(dataset.train, tuple(load(order.folder, dataset, order.card) for order in orders))


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
    open_ = [order for order in orders if not finished(order.folder)]
    waiting = [
        (order, first)
        for order in open_
        for first in order.firsts
        if not order.block(first).exists()
    ]
    if waiting:
        images = len(waiting) * min(BLOCK, orders[0].card.images)
        bar = progress.start(f"pairs on {dataset.name}", images)
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
            (defense.decide(x[:MEASURED], generator(seed)).classes != batch.y[:MEASURED])
            for x in (exact, rounded / 255)
        ]
    data = io.BytesIO()
    np.savez(
        data,
        points=rounded.to(torch.uint8).cpu().numpy(),
        fooled=torch.stack(fooled, dim=1).cpu().numpy(),
    )
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
    card = replace(order.card, fooled=rounded, fooled_unrounded=unrounded, digest=digest_of(points))
    write(order.folder, points, card)
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
