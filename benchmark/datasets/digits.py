"""Handwritten digits of 8x8 pixels that ship inside scikit-learn: nothing to download."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from benchmark.datasets.base import Dataset, Source, Split, hold_out
from defenses.base import Task

_BRIGHTEST = 16
_TEST_IMAGES = 500


@final
@dataclass(frozen=True, kw_only=True)
class Digits(Source):
    """1797 images of the UCI "optical recognition of handwritten digits" test file.

    Values v of 0..16 become floor(255 v / 16 + 1/2), so 16 is white and v / 16 is kept to within
    1/510. There is no official division: 500 images, stratified by class, are the test split (our
    choice). Scikit-learn does not say who wrote what, so writers are shared between the splits.
    """

    def load(self, folder: Path | None = None) -> Dataset:
        """The images inside the installed scikit-learn; ``folder`` has no effect."""
        bunch = load_digits()
        values = bunch.images.astype(np.int64)[:, None]
        images = ((255 * values + _BRIGHTEST // 2) // _BRIGHTEST).astype(np.uint8)
        whole = Split(images, bunch.target.astype(np.int64))
        rest, test = train_test_split(
            np.arange(len(whole)), test_size=_TEST_IMAGES, stratify=whole.labels, random_state=0
        )
        train, validation = hold_out(self.name, whole.take(np.sort(rest)))
        return Dataset(
            name=self.name,
            classes=tuple("0123456789"),
            task=self.task,
            train=train,
            validation=validation,
            test=whole.take(np.sort(test)),
        )


DIGITS = Digits(
    name="digits",
    summary="8x8 handwritten digits inside scikit-learn, 1797 images, nothing to download",
    task=Task(
        shape=(1, 8, 8),
        num_classes=10,
        architecture="digits",
        noise_std=0.1,
        epsilon_linf=0.1,
        epsilon_l2=0.5,
    ),
)
"""No paper attacks this data set: noise and epsilons are our choice, small enough that a robust
classifier of 64 pixels can keep most of its accuracy and a plain one loses much of it."""
