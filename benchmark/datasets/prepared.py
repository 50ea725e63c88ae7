"""Data sets as arrays, kept in one npz file so that archives are decoded once."""

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.base import Dataset, Indices, Split, hold_out
from benchmark.datasets.signs import (
    SIGN_TASK,
    Sign,
    choose,
    groups_of,
    kind_of,
    labels_of,
    pictures,
)


@dataclass(frozen=True, eq=False)
class SignArrays:
    """The prepared data set, as it is kept in one npz file.

    Args:
        classes: names, in label order.
        train, test: the images.
        groups: (N,) of the training images: equal numbers stay in one split.
        caveat: what is unofficial about the files it was made from.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    groups: Indices
    caveat: str

    def dataset(self, name: str) -> Dataset:
        """Train and validation parted by group."""
        train, validation = hold_out(name, self.train, self.groups)
        return Dataset(
            name=name,
            classes=self.classes,
            task=SIGN_TASK,
            train=train,
            validation=validation,
            test=self.test,
            caveat=self.caveat,
        )


def read_prepared(path: Path, kinds: Sequence[str] = ()) -> SignArrays:
    """The arrays of a prepared npz file.

    images_train, images_test (N, 32, 32, 3) uint8; labels_train, labels_test and track_train
    (N,); class_ids in label order, names or numbers; caveat, where the file was made by `keep`.

    Args:
        path: the file.
        kinds: the class names that numbers stand for.

    Raises:
        OSError: another content.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            ids = arrays["class_ids"]
            named = ids.dtype.kind == "U"
            return SignArrays(
                classes=tuple(str(i) if named else kind_of(kinds, int(i), str(path)) for i in ids),
                train=_channels_first(arrays["images_train"], arrays["labels_train"]),
                test=_channels_first(arrays["images_test"], arrays["labels_test"]),
                groups=arrays["track_train"].astype(np.int64),
                caveat=(
                    str(arrays["caveat"])
                    if "caveat" in arrays
                    else f"read from a prepared {path.name}, unverified"
                ),
            )
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise OSError(
            f"{path} must be a prepared npz file, got an unreadable one ({error}); "
            "remove it to prepare it again from the official archives"
        ) from error


def keep(arrays: SignArrays, path: Path) -> None:
    """Write the prepared file for the next time; where that is impossible, there is none."""
    store(
        path,
        images_train=arrays.train.images.transpose(0, 2, 3, 1),
        labels_train=arrays.train.labels,
        track_train=arrays.groups,
        images_test=arrays.test.images.transpose(0, 2, 3, 1),
        labels_test=arrays.test.labels,
        class_ids=np.array(arrays.classes),
        caveat=np.array(arrays.caveat),
    )


def restore(path: Path, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """The arrays that `store` wrote under these names.

    Raises:
        OSError: another content.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise OSError(
            f"{path} must be a prepared npz file, got an unreadable one ({error}); "
            "remove it to prepare it again from the official files"
        ) from error


def store(path: Path, **arrays: Any) -> None:
    """Write arrays to an npz file in one piece or, where that is impossible, not at all."""
    with suppress(OSError):
        handle, draft = tempfile.mkstemp(prefix=".prepared-", suffix=".npz", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, **arrays)
            Path(draft).replace(path)
        finally:
            Path(draft).unlink(missing_ok=True)


def prepare(train: Sequence[Sign], test: Sequence[Sign], caveat: str) -> SignArrays:
    """The prepared data set of annotated signs, by E-ABS's recipe (section 4.1)."""
    classes, train, test = choose(train, test)
    images = pictures([*train, *test])
    return SignArrays(
        classes=classes,
        train=Split(images[: len(train)], labels_of(train, classes)),
        test=Split(images[len(train) :], labels_of(test, classes)),
        groups=groups_of(train),
        caveat=caveat,
    )


def _channels_first(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> Split:
    return Split(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64))
