"""The idx format of MNIST and its successors, and data sets of four such files."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.base import Dataset, Source, Split, hold_out
from benchmark.datasets.files import OfficialFile, caveat, content, data_folder, note, obtain

_UNSIGNED_BYTE = 0x08

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"


def parse_idx(data: bytes, name: str) -> NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes (yann.lecun.com/exdb/mnist, "the IDX format").

    Two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the values in C order.

    Args:
        data: the file's decompressed bytes.
        name: what errors call it.

    Raises:
        OSError: another format, or another length than the header promises.
    """
    if len(data) < 4 or data[:2] != b"\x00\x00" or data[2] != _UNSIGNED_BYTE or data[3] == 0:
        raise OSError(
            f"{name} must be an idx file of unsigned bytes, got first bytes {data[:4].hex()!r}; "
            "replace it with the official file"
        )
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise OSError(f"{name} must have a header of {start} bytes, got {len(data)}; it is cut off")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    expected = start + math.prod(shape)
    if len(data) != expected:
        raise OSError(
            f"{name} must be {expected} bytes long, as its header says, got {len(data)}; "
            "replace it with the official file"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


@final
@dataclass(frozen=True, kw_only=True)
class IdxSource(Source):
    """A data set of four idx files, compressed or not.

    Args:
        classes: readable names, in label order.
        base_url: the official address, ending in a slash.
        digests: SHA-256 of each file's decompressed content.
    """

    classes: tuple[str, ...]
    base_url: str
    digests: Mapping[str, str]

    def load(self, folder: Path | None = None) -> Dataset:
        """Read the four files; a tenth of the training images becomes the validation split."""
        place = data_folder(self.name, folder)
        notes: list[str] = []

        def read(name: str) -> NDArray[np.uint8]:
            file = OfficialFile(
                f"{name}.gz", f"{self.base_url}{name}.gz", f"sha256:{self.digests[name]}"
            )
            path = obtain(file, place)
            data = content(path)
            notes.append(note(file, data))
            return parse_idx(data, str(path))

        def pair(images: str, labels: str) -> Split:
            return Split(read(images)[:, None], read(labels).astype(np.int64))

        train, validation = hold_out(self.name, pair(TRAIN_IMAGES, TRAIN_LABELS))
        test = pair(TEST_IMAGES, TEST_LABELS)
        return Dataset(
            name=self.name,
            classes=self.classes,
            task=self.task,
            train=train,
            validation=validation,
            test=test,
            caveat=caveat(notes),
        )
