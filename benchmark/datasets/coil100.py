"""COIL-100: 100 objects on a turntable, 128x128 RGB (Nene, Nayar, Murase 1996; CUCS-006-96)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
import torch

from benchmark.datasets.archives import members
from benchmark.datasets.base import Dataset, Images, Indices, Source, Split, hold_out
from benchmark.datasets.decoding import decode
from benchmark.datasets.files import OfficialFile, caveat, data_folder, note, obtain
from defenses.base import Task
from defenses.randomness import generator, seed_from

TEST_SHARE = 0.5
"""Share of each object's views that are the test split; GMVAE states neither split nor share."""

_OBJECTS = 100
_VIEWS = 72
_SIDE = 128
_STEP_DEGREES = 5
_PICTURE = re.compile(r"obj(\d+)__(\d+)\.png")
_OUR_SPLIT = (
    "random split over the views of each object, half of them for testing, is this project's: "
    "not comparable with other splits"
)

View = tuple[int, int]
"""Object, from 1, and angle in degrees."""


def read_views(path: Path) -> Mapping[View, Images]:
    """Every view of the archive, uint8 (3, 128, 128), in the order of objects and angles.

    Args:
        path: the zip, or the folder it was extracted to: ``obj<object>__<angle>.png``, the
            objects from 1 to 100, the angles 0, 5, ... 355.

    Raises:
        OSError: no view, one twice, an impossible name, or a picture of another size.
    """
    views: dict[View, Images] = {}
    for name, data in members(path, lambda name: _numbers(name) is not None):
        view = _numbers(name)
        if view is None or view in views or not _possible(view):
            raise OSError(
                f"{path} must hold obj<1 to {_OBJECTS}>__<multiple of {_STEP_DEGREES} below 360>"
                f".png once each, got {name}; replace it with the official file"
            )
        picture = decode(data, f"{path}:{name}", (_SIDE, _SIDE))
        views[view] = np.asarray(picture, np.uint8).transpose(2, 0, 1)
    if not views:
        raise OSError(
            f"{path} must hold pictures obj<object>__<angle>.png, got none; "
            "replace it with the official file"
        )
    return dict(sorted(views.items()))


def _numbers(name: str) -> View | None:
    found = _PICTURE.fullmatch(PurePosixPath(name).name)
    return (int(found[1]), int(found[2])) if found else None


def _possible(view: View) -> bool:
    number, angle = view
    return 1 <= number <= _OBJECTS and angle < 360 and angle % _STEP_DEGREES == 0


@final
@dataclass(frozen=True, kw_only=True)
class COIL100(Source):
    """The colour images of 100 objects, each turned through 360 degrees in steps of 5.

    There is no official division. Random views of each object are the test split: the choice is
    seeded by names, so it is the same on every machine. Neighbouring views are nearly equal, so
    test views are close to training ones, as in every random split of this data set.

    Args:
        url: the official address of the archive.
        digest: of the archive.
    """

    url: str
    digest: str

    def load(self, folder: Path | None = None) -> Dataset:
        """Read the archive; a tenth of the views that are not tested are for validation."""
        file = OfficialFile("coil-100.zip", self.url, self.digest, extracted="coil-100")
        path = obtain(file, data_folder(self.name, folder))
        views = read_views(path)
        official = _OBJECTS * _VIEWS
        labels = np.array([number - 1 for number, _ in views], np.int64)
        tested = self._tested(labels)
        if not tested.any():
            raise OSError(
                f"{path} must hold 2 views of an object or more, got 1 of each at most; "
                "replace it with the official file"
            )
        whole = Split(np.stack(list(views.values())), labels)
        train, validation = hold_out(self.name, whole.take(np.flatnonzero(~tested)))
        return Dataset(
            name=self.name,
            classes=tuple(f"object {number}" for number in range(1, _OBJECTS + 1)),
            task=self.task,
            train=train,
            validation=validation,
            test=whole.take(np.flatnonzero(tested)),
            caveat=caveat(
                [
                    _OUR_SPLIT,
                    note(file, path)
                    if len(views) == official
                    else f"{path.name} has {len(views)} of the official {official} images",
                ]
            ),
        )

    def _tested(self, labels: Indices) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """(N,) which views are for testing, chosen object by object."""
        tested = np.zeros(len(labels), np.bool_)
        for label in np.unique(labels):
            places = np.flatnonzero(labels == label)
            rng = generator(seed_from(self.name, "test views", label))
            order = torch.randperm(len(places), generator=rng).numpy()
            tested[places[order[: int(TEST_SHARE * len(places))]]] = True
        return tested


COIL_100 = COIL100(
    name="coil100",
    summary="128x128 RGB views of 100 objects on a turntable, 7200 images, random split",
    task=Task(
        shape=(3, _SIDE, _SIDE),
        num_classes=_OBJECTS,
        architecture="coil",
        noise_std=0.01,
        epsilon_linf=8 / 255,
        epsilon_l2=6.0,
    ),
    url="http://www.cs.columbia.edu/CAVE/databases/SLAM_coil-20_coil-100/coil-100/coil-100.zip",
    digest="sha256:fcb4b8b01c0778f416d8d7a09f45082c4f7075cc74743dcddd5c44307bd4afe7",
)
"""Address and digest as recorded by TensorFlow Datasets (url_checksums/coil100.txt). No paper
states noise and epsilons: these are SVHN's, the L2 one times sqrt(128^2 / 32^2) for the pixels."""
