"""Adversarial examples: the points the judge judged, kept so that they can be judged again.

    <cache>/examples/<cell id>/<first>.safetensors

is one block of a cell, named after the place of its first sample among the cell's samples. It
holds ``samples`` (n,) int64, ``index`` (E, n) int32 and ``points`` (P, C, H, W) float32: the point
of epsilon e and sample i is ``points[index[e, i]]``, or the image itself where the index is -1.
Deleting the cache loses no record.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from benchmark.cells import Cell
from benchmark.storage import cache_folder, keep

_THE_IMAGE = -1


@dataclass(frozen=True, eq=False)
class Examples:
    """One block of judged points.

    Args:
        samples: (n,) indices into the test split.
        images: (n, C, H, W) float32, the images.
        points: (E, n, C, H, W) float32, one per epsilon of the cell.
    """

    samples: NDArray[np.int64]
    images: NDArray[np.float32]
    points: NDArray[np.float32]


def examples_folder(cell: Cell) -> Path:
    """Where a cell's points are kept."""
    return cache_folder() / "examples" / cell.id


def store(folder: Path, first: int, block: Examples) -> None:
    """Keep one block; points that repeat, or that are the image, take no room.

    Args:
        folder: `examples_folder` of the cell, as the process that started the run sees it.
        first: place of the block's first sample among the cell's samples.

    Raises:
        OSError: the cache can't be written.
    """
    index = np.full(block.points.shape[:2], _THE_IMAGE, dtype=np.int32)
    distinct: list[NDArray[np.float32]] = []
    for i, image in enumerate(block.images):
        places = {image.tobytes(): _THE_IMAGE}
        for e, point in enumerate(block.points[:, i]):
            place = places.setdefault(point.tobytes(), len(distinct))
            if place == len(distinct):
                distinct.append(point)
            index[e, i] = place
    shape = (len(distinct), *block.images.shape[1:])
    points = np.array(distinct, dtype=np.float32).reshape(shape)
    data = serialise({"samples": block.samples, "index": index, "points": points})
    keep(folder / f"{first:06}.safetensors", data)


def blocks(cell: Cell, images: NDArray[np.uint8]) -> Iterator[Examples]:
    """The kept points of a cell, block by block, in the order of its samples.

    Args:
        images: the whole test split, uint8 (N, C, H, W).

    Raises:
        FileNotFoundError: nothing, or not everything, is kept.
        OSError: a file is damaged.
    """
    folder = examples_folder(cell)
    kept = sorted(folder.glob("*.safetensors"))
    files = [read_file(path) for path in kept]
    covered = sorted(int(sample) for file in files for sample in file["samples"])
    if covered != sorted(cell.samples):
        raise FileNotFoundError(
            f"adversarial examples of {cell.title} are missing in {folder}; "
            "delete the record and run the benchmark again"
        )
    for file in files:
        clean = images[file["samples"]].astype(np.float32) / np.float32(255)
        index = file["index"]
        points = np.broadcast_to(clean, (len(index), *clean.shape)).copy()
        moved = index != _THE_IMAGE
        points[moved] = file["points"][index[moved]]
        yield Examples(file["samples"], clean, points)


def read_file(path: Path) -> dict[str, NDArray[Any]]:
    """One block as it is stored; raises as `blocks`."""
    data = path.read_bytes()
    try:
        return parse(data)
    except SafetensorError as error:
        raise OSError(
            f"adversarial examples {path} are damaged; delete the file and its record, "
            "and run the benchmark again"
        ) from error
