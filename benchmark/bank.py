"""The training images that attacks may start toward (`attacks.bank`): a seeded, small choice."""

import math
from collections.abc import Sequence

import torch

from attacks.bank import Bank, InformedByExamples
from attacks.base import Attack
from benchmark.datasets import Dataset
from defenses.randomness import generator, seed_from

PER_CLASS = 100
"""Images of each class, where that many fit."""

MOST_BYTES = 4 * 2**20
"""Largest bank but for one image of each class: it travels to the workers with every block."""


def inform(
    attacks: Sequence[tuple[str, Attack]], dataset: Dataset, seed: int
) -> list[tuple[str, Attack]]:
    """The labelled attacks, with one bank for all that make use of one."""
    if not any(isinstance(attack, InformedByExamples) for _, attack in attacks):
        return list(attacks)
    bank = draw(dataset, seed)
    return [
        (label, attack.informed(bank) if isinstance(attack, InformedByExamples) else attack)
        for label, attack in attacks
    ]


def draw(dataset: Dataset, seed: int) -> Bank:
    """The first training images of each class in one seeded order.

    Args:
        seed: of the run.
    """
    train = dataset.train
    image = math.prod(dataset.task.shape)
    fitting = MOST_BYTES // (image * dataset.task.num_classes)
    per_class = min(PER_CLASS, max(1, fitting))
    rng = generator(seed_from(seed, "bank", dataset.name))
    labels = torch.from_numpy(train.labels)
    order = torch.randperm(len(train), generator=rng)
    chosen = [order[labels[order] == k][:per_class] for k in range(dataset.task.num_classes)]
    index = torch.cat(chosen)
    images = torch.from_numpy(train.images[index.numpy()])
    return Bank(images, labels[index], per_class=per_class, seed=seed)
