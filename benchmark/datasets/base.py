"""What a data set is: uint8 splits, the task they pose, and where the test samples come from."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.threat import Norm
from defenses.base import Task
from defenses.randomness import generator, seed_from

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]

VALIDATION_SHARE = 0.1
"""Share of the official training images held out for validation (E-ABS, section 4.3)."""

_CURVE = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
_FACTORS = {Norm.L0: (1.0,), Norm.UNRESTRICTED: (1.0,)}
"""A single pixel, and no distance at all, are budgets by themselves."""
_DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class Batch:
    """Images as defenses see them.

    Args:
        x: float32 (n, C, H, W) in [0, 1].
        y: int64 (n,), the labels.
        index: int64 (n,), the images' places in their split.
    """

    x: Tensor
    y: Tensor
    index: Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels as they are stored.

    Args:
        images: uint8 (N, C, H, W), N > 0; 255 is the brightest.
        labels: int64 (N,).

    Raises:
        ValueError: wrong types or shapes, or no image at all.
    """

    images: Images
    labels: Indices

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or not len(self.images):
            raise ValueError(
                "images must be uint8 of shape (N, C, H, W) with N > 0, "
                f"got {self.images.dtype} of shape {self.images.shape}"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), one for each image, "
                f"got {self.labels.dtype} of shape {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Indices) -> "Split":
        """The images at these places, in this order (a copy)."""
        return Split(self.images[indices], self.labels[indices])

    def batch(self, indices: Indices, device: str | torch.device = "cpu") -> Batch:
        """The images at these places as float32 in [0, 1] on the device."""
        x = torch.from_numpy(self.images[indices]).to(device).to(torch.float32).div_(255)
        y = torch.from_numpy(self.labels[indices]).to(device)
        return Batch(x, y, torch.as_tensor(indices, dtype=torch.int64, device=device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Disjoint splits of one data set.

    Args:
        name: as registered.
        classes: readable names, in label order.
        task: shape, number of classes and budgets.
        train, validation, test: the splits.
        caveat: what is unofficial or incomplete; "" when nothing is.

    Raises:
        ValueError: a split whose images or labels do not fit the task.
    """

    name: str
    classes: tuple[str, ...]
    task: Task
    train: Split
    validation: Split
    test: Split
    caveat: str = ""

    def __post_init__(self) -> None:
        if len(self.classes) != self.task.num_classes:
            raise ValueError(
                f"classes of {self.name} must be {self.task.num_classes} names, "
                f"got {len(self.classes)}"
            )
        for part, split in self._parts():
            if split.images.shape[1:] != self.task.shape:
                raise ValueError(
                    f"{part} images of {self.name} must have shape {self.task.shape}, "
                    f"got {split.images.shape[1:]}"
                )
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= self.task.num_classes:
                raise ValueError(
                    f"{part} labels of {self.name} must lie in [0, {self.task.num_classes}), "
                    f"got {low if low < 0 else high}"
                )

    def _parts(self) -> tuple[tuple[str, Split], ...]:
        return (("train", self.train), ("validation", self.validation), ("test", self.test))

    @cached_property
    def digest(self) -> str:
        """Hash of the splits' arrays: names exactly which pixels and labels a number stands on."""
        state = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for part, split in self._parts():
            for array in (split.images, split.labels):
                state.update(f"{part} {array.dtype} {array.shape}".encode())
                state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "digest": self.digest}


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A registered data set: what it is and how its official files become arrays.

    Args:
        name: the registered name, also the folder's name.
        summary: one line.
        task: what a defense of this data set is built for.
    """

    name: str
    summary: str
    task: Task

    @abstractmethod
    def load(self, folder: Path | None = None) -> Dataset:
        """Read the files, downloading what is missing.

        Args:
            folder: holds a folder of this data set's name; by default $BENCH_DATA, else the
                user's cache.

        Raises:
            OSError: a file is missing, unreadable or not what its name says.
        """

    @final
    @property
    def epsilons(self) -> Mapping[Norm, tuple[float, ...]]:
        """The budgets of the tables, by norm."""
        return {
            Norm.LINF: (self.task.epsilon_linf,),
            Norm.L2: (self.task.epsilon_l2,),
            Norm.L0: (1.0,),
            Norm.UNRESTRICTED: (math.inf,),
        }

    @final
    @property
    def curve(self) -> Mapping[Norm, tuple[float, ...]]:
        """The increasing budgets of the accuracy curves, by norm; they contain the tables' ones."""
        return {
            norm: tuple(
                main if factor == 1 else round(factor * main, 12)
                for factor in _FACTORS.get(norm, _CURVE)
                if factor * main <= norm.largest(self.task.shape)
            )
            for norm, (main,) in self.epsilons.items()
        }


def hold_out(name: str, split: Split, groups: NDArray[Any] | None = None) -> tuple[Split, Split]:
    """Train and validation parts of the official training images, in their original order.

    Args:
        name: the data set; seeds the choice, which is the same on every machine.
        split: the official training images.
        groups: (N,) what must stay together, such as the frames of one video; by default every
            image is a group of its own. Whole groups are held out until the share is reached.

    Raises:
        ValueError: fewer than two groups, or not one for each image.
    """
    ids = np.arange(len(split)) if groups is None else groups
    if len(ids) != len(split):
        raise ValueError(
            f"groups of {name} must be one for each of {len(split)} images, got {len(ids)}; "
            "the prepared file is damaged"
        )
    _, member = np.unique(ids, return_inverse=True)
    sizes = np.bincount(member)
    if len(sizes) < 2:
        raise ValueError(
            f"training images of {name} must form at least 2 groups, got {len(sizes)}; "
            "train and validation cannot be disjoint"
        )
    order = _permutation(len(sizes), name, "validation")
    before = np.cumsum(sizes[order]) - sizes[order]
    wanted = round(VALIDATION_SHARE * len(split))
    chosen = order[before < max(1, wanted)][: len(sizes) - 1]
    held = np.isin(member, chosen)
    return split.take(np.flatnonzero(~held)), split.take(np.flatnonzero(held))


def test_sample(dataset: Dataset, count: int, seed: int) -> Indices:
    """Random test images: the first ``count`` of one seeded permutation.

    A smaller count is a prefix of a larger one, so a longer run contains a shorter one.

    Returns: (count,) places in the test split.

    Raises:
        ValueError: fewer than one or more than there are.
    """
    available = len(dataset.test)
    if count < 1:
        raise ValueError(f"samples must be at least 1, got {count}; ask for 1 to {available}")
    if count > available:
        raise ValueError(
            f"samples must be at most {available} for {dataset.name}, got {count}; "
            f"its test split has no more images"
        )
    return _permutation(available, dataset.name, "test", seed)[:count]


def _permutation(count: int, *names: object) -> Indices:
    order: Indices = torch.randperm(count, generator=generator(seed_from(*names))).numpy()
    return order
