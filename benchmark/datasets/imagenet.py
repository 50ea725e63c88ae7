"""ImageNet, the validation images of ILSVRC 2012 (Russakovsky et al. 2015), at 224x224.

Classes are the 1000 WordNet identifiers ("wnids") in alphabetical order, as torchvision and timm
number them. The official ground truth numbers them otherwise: ILSVRC2012_ID is the order of the
development kit's meta.mat.

The robust-manifold paper (Jalal et al. 2017, section 4.1) tests 1000 random validation images,
"resized to 224x224". It does not say how: `Framing` and Pillow's filter are fields of the source.
Its [-1, 1] is the business of its defenses: pixels are bytes here, [0, 1] to all others.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
import torch
from PIL import Image

from benchmark.datasets.archives import members
from benchmark.datasets.base import Dataset, Images, Indices, Source, Split
from benchmark.datasets.decoding import decode
from benchmark.datasets.files import OfficialFile, caveat, data_folder, note, obtain_by_hand
from benchmark.datasets.prepared import restore, store
from benchmark.datasets.synsets import Truth, read_devkit, read_folders
from defenses.base import Task
from defenses.randomness import generator, seed_from

SIDE = 224
"""Width and height of every image."""

SHORTER_SIDE = 256
"""Of what `Framing.CENTRE` cuts the middle from."""

_PARTS = ("train", "validation", "test")
_PICTURE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class Framing(StrEnum):
    """How a photograph of any size becomes a square.

    WHOLE: resized, whatever its proportions, as the robust-manifold paper prints it. CENTRE: its
    shorter side becomes 256 and the central 224x224 are cut out, as classifiers are mostly tested.
    """

    WHOLE = "whole"
    CENTRE = "centre"


def framed(picture: Image.Image, framing: Framing, resampling: Image.Resampling) -> Images:
    """The photograph as uint8 (3, 224, 224)."""
    if framing is Framing.CENTRE:
        shorter = min(picture.size)
        wide, high = (SHORTER_SIDE * side // shorter for side in picture.size)
        left, top = (wide - SIDE) // 2, (high - SIDE) // 2
        square = picture.resize((wide, high), resampling)
        square = square.crop((left, top, left + SIDE, top + SIDE))
    else:
        square = picture.resize((SIDE, SIDE), resampling)
    return np.asarray(square, np.uint8).transpose(2, 0, 1)


@final
@dataclass(frozen=True, kw_only=True)
class ImageNet(Source):
    """A fixed part of the validation images: all that is here, for the training images are not.

    All 50000 would be 7.5 GB. One permutation of their numbers, the same on every machine, gives
    the training images first, then those for validation, then the test images: a larger test split
    contains a smaller one. The official site gives the files to people with an account alone.

    Args:
        page: the official page, which leads to the files.
        digests: of the images' archive and of the development kit, both as they are published.
        count: validation images that exist.
        images: of the test split.
        others: images of the training split, and as many of the validation split.
        framing: how photographs become squares.
        resampling: Pillow's filter; no paper states it.

    Raises:
        ValueError: splits that are empty or larger than what exists.
    """

    page: str
    digests: tuple[str | None, str | None]
    count: int
    images: int = 5000
    others: int = 100
    framing: Framing = Framing.WHOLE
    resampling: Image.Resampling = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        if self.images < 1 or self.others < 1:
            raise ValueError(
                f"images and others must be at least 1, got {self.images} and {self.others}"
            )
        if self.images + 2 * self.others > self.count:
            raise ValueError(
                f"images and twice others must be at most {self.count}, got "
                f"{self.images} and {self.others}; lower one"
            )

    def division(self) -> Mapping[str, Indices]:
        """The numbers, from 1, of each part's images, ascending."""
        rng = generator(seed_from(self.name, "division"))
        order = 1 + torch.randperm(self.count, generator=rng).numpy()
        ends = np.cumsum([self.others, self.others, self.images])
        parts = np.split(order[: ends[-1]], ends[:-1])
        return {part: np.sort(numbers) for part, numbers in zip(_PARTS, parts, strict=True)}

    def load(self, folder: Path | None = None) -> Dataset:
        """Read the prepared file, or prepare it, which decodes every chosen picture once.

        Raises:
            OSError: a file is missing, unreadable or not what its name says.
        """
        place = data_folder(self.name, folder)
        kind = f"{self.framing}-{self.resampling.name.lower()}"
        prepared = place / f"imagenet-{kind}-{self.images}-{self.others}.npz"
        if prepared.is_file():
            return self._read(prepared)
        dataset = self._prepare(place)
        self._keep(dataset, prepared)
        return dataset

    def _read(self, path: Path) -> Dataset:
        of_parts = [f"{kind}_{part}" for kind in ("images", "labels") for part in _PARTS]
        arrays = restore(path, ["classes", "caveat", *of_parts])
        splits = {
            part: Split(arrays[f"images_{part}"], arrays[f"labels_{part}"]) for part in _PARTS
        }
        classes = tuple(str(name) for name in arrays["classes"])
        return self._dataset(classes, splits, str(arrays["caveat"]))

    def _keep(self, dataset: Dataset, path: Path) -> None:
        """Write the prepared file (0.8 GB) for the next time, where that is possible."""
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        store(
            path,
            classes=np.array(dataset.classes),
            caveat=np.array(dataset.caveat),
            **{f"images_{part}": split.images for part, split in splits.items()},
            **{f"labels_{part}": split.labels for part, split in splits.items()},
        )

    def _dataset(
        self, classes: tuple[str, ...], splits: Mapping[str, Split], remarks: str
    ) -> Dataset:
        return Dataset(
            name=self.name,
            classes=classes,
            task=self.task,
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            caveat=remarks,
        )

    def _prepare(self, place: Path) -> Dataset:
        archive, truth, notes = self._truth(place)
        numbers = self.division()
        images = self._images(archive, numbers)
        splits = {part: Split(images[part], truth.of(numbers[part])) for part in _PARTS}
        ours = (
            f"{self.images} test, {self.others} training and {self.others} validation images are "
            f"drawn by this project from the {self.count} official validation images"
        )
        return self._dataset(truth.classes, splits, caveat([ours, *notes]))

    def _truth(self, place: Path) -> tuple[Path, Truth, list[str]]:
        """Where the pictures are, what they show, and notes on the files."""
        pictures, devkit = (
            OfficialFile(name, self.page, digest, extracted)
            for (name, extracted), digest in zip(
                (
                    ("ILSVRC2012_img_val.tar", "val"),
                    ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12"),
                ),
                self.digests,
                strict=True,
            )
        )
        labelled = place / "val"
        if labelled.is_dir() and not any((place / name).exists() for name in devkit.names):
            truth = read_folders(labelled, self.task.num_classes, picture_number)
            return labelled, truth, [note(pictures, labelled), "labels are the folders' names"]
        paths = obtain_by_hand((pictures, devkit), place)
        truth = read_devkit(paths[devkit], self.task.num_classes, self.count)
        return paths[pictures], truth, [note(file, path) for file, path in paths.items()]

    def _images(self, archive: Path, numbers: Mapping[str, Indices]) -> Mapping[str, Images]:
        """Every part's pictures; one is decoded at a time, so memory holds the results alone."""
        images = {part: np.empty((len(numbers[part]), 3, SIDE, SIDE), np.uint8) for part in _PARTS}
        places = {int(n): images[part][k] for part in _PARTS for k, n in enumerate(numbers[part])}
        for number, name, data in _pictures(archive, set(places)):
            picture = decode(data, f"{archive}:{name}")
            places.pop(number)[...] = framed(picture, self.framing, self.resampling)
        if places:
            raise OSError(
                f"{archive} must hold all {self.count} validation images, got no "
                f"ILSVRC2012_val_{min(places):08}.JPEG and {len(places) - 1} others that are "
                "needed; replace it with the official archive"
            )
        return images


def picture_number(path: str) -> int | None:
    """The number of a validation image, from 1; None for other files."""
    found = _PICTURE.fullmatch(PurePosixPath(path).name)
    return int(found[1]) if found else None


def _pictures(archive: Path, wanted: set[int]) -> Iterator[tuple[int, str, bytes]]:
    """Number, path and content of the wanted pictures, each once."""
    left = set(wanted)
    for name, data in members(archive, lambda name: picture_number(name) in left):
        number = picture_number(name)
        if number is not None:
            left.discard(number)
            yield number, name, data


IMAGENET = ImageNet(
    name="imagenet",
    summary="224x224 RGB photographs, 1000 classes, 5000 validation images, to be fetched by hand",
    task=Task(
        shape=(3, SIDE, SIDE),
        num_classes=1000,
        architecture="imagenet",
        noise_std=0.01,
        epsilon_linf=0.025,
        epsilon_l2=10.5,
    ),
    page="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
    digests=("md5:29b22e2961454d5413ddabcf34fc5622", "md5:fa75699e90414af021442c21a62c3abf"),
    count=50000,
)
"""Digests as the official page prints them and torchvision checks them. The Linf epsilon is the
robust-manifold paper's 0.05 of [-1, 1] (Table 2; the others are 0.01 and 0.1). No paper states
noise and an L2 epsilon: these are SVHN's, the latter times sqrt(224^2 / 32^2) for the pixels."""
