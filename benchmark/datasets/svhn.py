"""SVHN, format 2: 32x32 street view house numbers (Netzer et al. 2011)."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from benchmark.datasets.base import Dataset, Source, Split, hold_out
from benchmark.datasets.files import OfficialFile, caveat, data_folder, note, obtain
from defenses.base import Task

_ZERO = 10
"""The label that the authors give to the digit 0."""


_UNREADABLE = (
    MatReadError,
    ValueError,
    TypeError,
    NotImplementedError,
    KeyError,
    OSError,
    zlib.error,
)
"""What SciPy raises on broken files, beside its own error."""


def read_mat(path: Path) -> Split:
    """Images and labels of one MATLAB file: X (32, 32, 3, N) uint8, y (N, 1) in 1..10.

    Raises:
        OSError: another content.
    """
    try:
        arrays: dict[str, Any] = loadmat(path, variable_names=("X", "y"))
        images, labels = arrays["X"], arrays["y"].ravel()
    except _UNREADABLE as error:
        raise OSError(
            f"{path} must be a MATLAB file with X and y, got an unreadable one ({error}); "
            "replace it with the official file"
        ) from error
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != len(labels):
        raise OSError(
            f"{path} must hold X (32, 32, 3, N) uint8 and y (N, 1), got {images.dtype} "
            f"{images.shape} and {len(labels)} labels; replace it with the official file"
        )
    if len(labels) and not 1 <= labels.min() <= labels.max() <= _ZERO:
        raise OSError(
            f"labels in {path} must lie in 1..10, got {labels.min()}..{labels.max()}; "
            "replace it with the official file"
        )
    return Split(
        np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % _ZERO
    )


@final
@dataclass(frozen=True, kw_only=True)
class SVHN(Source):
    """The cropped digits, training and test files (the 531131 easier "extra" images are not used).

    Args:
        base_url: the official address, ending in a slash.
        digests: of the official files.
        counts: images in the official files; fewer are usable and named in the caveat.
    """

    base_url: str
    digests: tuple[str, str]
    counts: tuple[int, int]

    def load(self, folder: Path | None = None) -> Dataset:
        """Read both files; a tenth of the training images becomes the validation split."""
        place = data_folder(self.name, folder)
        notes: list[str] = []

        def read(name: str, digest: str, official: int) -> Split:
            file = OfficialFile(name, f"{self.base_url}{name}", digest)
            path = obtain(file, place)
            split = read_mat(path)
            complete = len(split) == official
            notes.append(
                note(file, path)
                if complete
                else f"{name} has {len(split)} of the official {official} images"
            )
            return split

        train_file, test_file = zip(
            ("train_32x32.mat", "test_32x32.mat"), self.digests, self.counts, strict=True
        )
        train, validation = hold_out(self.name, read(*train_file))
        test = read(*test_file)
        return Dataset(
            name=self.name,
            classes=tuple("0123456789"),
            task=self.task,
            train=train,
            validation=validation,
            test=test,
            caveat=caveat(notes),
        )


SVHN_CROPPED = SVHN(
    name="svhn",
    summary="32x32 RGB house numbers, 73257 + 26032 images",
    task=Task(
        shape=(3, 32, 32),
        num_classes=10,
        architecture="svhn",
        noise_std=0.01,
        epsilon_linf=8 / 255,
        epsilon_l2=1.5,
    ),
    base_url="http://ufldl.stanford.edu/housenumbers/",
    digests=(
        "sha256:435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "sha256:cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
    counts=(73257, 26032),
)
"""Digests as recorded by TensorFlow Datasets (url_checksums/svhn_cropped.txt)."""
