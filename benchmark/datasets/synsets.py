"""What ImageNet's validation images show: the official development kit, or folders by wnid."""

import io
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from benchmark.datasets.archives import members
from benchmark.datasets.base import Indices

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
_FILES = (META, GROUND_TRUTH)

_WNID = re.compile(r"n\d{8}")
_UNREADABLE = (
    *(MatReadError, ValueError, TypeError, NotImplementedError, KeyError, IndexError),
    *(OSError, zlib.error),
)
"""What SciPy and NumPy raise on files that are broken or other than expected."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What the pictures show.

    Args:
        classes: names in label order, which is the alphabetical order of the wnids.
        labels: of each picture, by its number.
    """

    classes: tuple[str, ...]
    labels: Mapping[int, int]

    def of(self, numbers: Indices) -> Indices:
        """(N,) the labels of the pictures with these numbers (N,)."""
        return np.array([self.labels[int(number)] for number in numbers], np.int64)


@dataclass(frozen=True)
class Synset:
    """A class as meta.mat describes it: its number there, its wnid, its first name."""

    number: int
    wnid: str
    word: str


def read_devkit(path: Path, classes: int, count: int) -> Truth:
    """The development kit: ``data/meta.mat`` and ``data/ILSVRC2012_validation_ground_truth.txt``.

    Line k of the ground truth is the ILSVRC2012_ID of picture k; meta.mat says which wnid that is.

    Args:
        path: the archive, or the folder it was extracted to.
        classes: how many there must be.
        count: how many pictures.

    Raises:
        OSError: no such files, or another content.
    """
    found = {
        PurePosixPath(name).name: data
        for name, data in members(path, lambda name: PurePosixPath(name).name in _FILES)
    }
    for name in _FILES:
        if name not in found:
            raise OSError(
                f"{path} must hold data/{name}, got no such file; replace it with the official one"
            )
    synsets = leaves(found[META], f"{path}:{META}")
    numbers = {synset.number for synset in synsets}
    wnids = {synset.wnid for synset in synsets}
    if not len(synsets) == len(wnids) == classes or numbers != set(range(1, classes + 1)):
        raise OSError(
            f"{path}:{META} must describe {classes} classes without children, numbered from 1, "
            f"got {len(synsets)}; replace it with the official file"
        )
    ordered = sorted(synsets, key=lambda synset: synset.wnid)
    label = {synset.number: place for place, synset in enumerate(ordered)}
    shown = found[GROUND_TRUTH].decode("ascii", errors="replace").split()
    wrong = [text for text in shown if not text.isdecimal() or int(text) not in label]
    if wrong or len(shown) != count:
        raise OSError(
            f"{path}:{GROUND_TRUTH} must give {count} numbers from 1 to {classes}, got "
            f"{len(shown)} {f'with {wrong[0]!r}' if wrong else 'numbers'}; "
            "replace it with the official file"
        )
    return Truth(
        tuple(f"{synset.word} ({synset.wnid})" for synset in ordered),
        {place: label[int(text)] for place, text in enumerate(shown, start=1)},
    )


def leaves(data: bytes, name: str) -> list[Synset]:
    """The classes without children: meta.mat also describes what they are kinds of.

    Args:
        data: of meta.mat: a struct array ``synsets`` with ILSVRC2012_ID, WNID, words ("tench,
            Tinca tinca") and num_children.
        name: of the file, for messages.

    Raises:
        OSError: another content.
    """
    try:
        found: NDArray[Any] = np.atleast_1d(
            loadmat(io.BytesIO(data), squeeze_me=True, variable_names=("synsets",))["synsets"]
        )
        return [
            Synset(
                int(entry["ILSVRC2012_ID"]),
                str(entry["WNID"]),
                str(entry["words"]).partition(",")[0],
            )
            for entry in found
            if int(entry["num_children"]) == 0
        ]
    except _UNREADABLE as error:
        raise OSError(
            f"{name} must be a MATLAB file with synsets, got an unreadable one ({error}); "
            "replace it with the official file"
        ) from error


def read_folders(path: Path, classes: int, number: Callable[[str], int | None]) -> Truth:
    """The usual layout of extracted images, ``<wnid>/ILSVRC2012_val_00000001.JPEG``.

    Args:
        path: the folder that holds a folder for each wnid.
        classes: how many there must be: with fewer, all labels behind the gap would be others.
        number: of a picture by its path; None for what is no picture.

    Raises:
        OSError: more or fewer folders.
    """
    wnids = sorted(
        each.name for each in path.iterdir() if _WNID.fullmatch(each.name) and each.is_dir()
    )
    if len(wnids) != classes:
        raise OSError(
            f"{path} must hold {classes} folders named by wnids, got {len(wnids)}; add the "
            "missing ones, or the official development kit"
        )
    labels = {
        found: label
        for label, wnid in enumerate(wnids)
        for picture in (path / wnid).iterdir()
        if (found := number(picture.name)) is not None
    }
    return Truth(tuple(wnids), labels)
