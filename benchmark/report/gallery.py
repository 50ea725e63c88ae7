"""Adversarial images: the image, what was added to it, what came of it, and the verdict.

The points are those that the judge judged, from the cache of `benchmark.examples`; without them a
defense has no pictures here, and the page says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import examples, records
from benchmark.accuracy import Layout, ball_name
from benchmark.cells import Cell
from benchmark.records import Outcome
from benchmark.report import pictures
from benchmark.scores import Scores

QUOTAS = {Outcome.WRONG: 2, Outcome.REJECTED: 1, Outcome.CORRECT: 1}
"""Pictures per defense of each verdict."""

MOST_BYTES = 2_000_000
"""Of all pictures of one group, so that the page stays small."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The test images that records refer to.

    Args:
        images: uint8 (N, C, H, W).
        classes: readable names.
        digest: of the data set.
    """

    images: NDArray[np.uint8]
    classes: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class View:
    """One picture and what to say to who can't see it."""

    title: str
    uri: str
    alt: str


@dataclass(frozen=True)
class Tile:
    """One judged point.

    Args:
        views: image, perturbation, point.
        before, after: classes.
    """

    attack: str
    ball: str
    sample: int
    before: str
    after: str
    verdict: str
    distance: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class Wall:
    """One defense's tiles; why there are none, otherwise."""

    defense: str
    tiles: tuple[Tile, ...]
    reason: str = ""


@dataclass(frozen=True)
class _Source:
    """A record with its cell and the key of its attack."""

    path: Path
    cell: Cell
    key: str


@dataclass(frozen=True)
class _Choice:
    """A judged point that is to be shown."""

    source: _Source
    row: "pd.Series[float]"


def gallery(
    paths: Sequence[Path], scores: Scores, layout: Layout, pool: Pool | None
) -> tuple[Wall, ...]:
    """A wall per defense that was attacked.

    Args:
        paths: record files of the group, in the order of ``scores.metadata``.
        pool: None where the data set is not on this machine.
    """
    walls, left = [], MOST_BYTES
    for defense in scores.defenses:
        cells = [
            _Source(path, records.cell_of(metadata), metadata["attack_key"])
            for path, metadata in zip(paths, scores.metadata, strict=True)
            if metadata["defense_key"] == defense
            and metadata["norm"]
            and not metadata["not_applicable"]
            and not metadata["error"]
        ]
        if not cells:
            continue
        wall = _wall(defense, cells, layout, pool) if left > 0 else Wall(defense, (), _FULL)
        left -= sum(len(view.uri) for tile in wall.tiles for view in tile.views)
        walls.append(wall)
    return tuple(walls)


_FULL = "left out to keep the page small"


def _wall(defense: str, cells: Sequence[_Source], layout: Layout, pool: Pool | None) -> Wall:
    if pool is None:
        return Wall(defense, (), "the data set's files are not on this machine")
    kept = [source for source in cells if any(examples.examples_folder(source.cell).glob("*"))]
    if not kept:
        return Wall(defense, (), "the judged points are not in this machine's cache")
    tiles = []
    for choice in _choose(kept, layout):
        if choice.source.cell.dataset_digest != pool.digest:
            return Wall(defense, (), "the data set on this machine is not the one of the records")
        try:
            tiles.append(_tile(choice, pool))
        except OSError:
            return Wall(defense, tuple(tiles), "some judged points are missing or damaged")
    reason = "" if tiles else "no attack moved an image at these radii"
    return Wall(defense, tuple(tiles), reason)


def _choose(cells: Sequence[_Source], layout: Layout) -> Iterator[_Choice]:
    """Points of each verdict, of different norms and attacks and images where there are any."""
    frames = []
    radii = [radius for found in layout.radii.values() for radius in found]
    for place, source in enumerate(cells):
        frame = records.load(source.path)[0]
        right = (frame["clean_class"] == frame["label"]) & ~frame["clean_rejected"]
        moved = frame["distance_l2"] > 0
        frames.append(frame[right & moved & frame["epsilon"].isin(radii)].assign(place=place))
    everything = pd.concat(frames, ignore_index=True)
    shown: set[int] = set()
    for verdict, quota in QUOTAS.items():
        rows = everything[
            (everything["outcome"] == verdict) & ~everything["sample"].isin(shown)
        ].sort_values(["epsilon", "place", "sample"], kind="stable")
        varied = pd.concat([rows.drop_duplicates("norm"), rows.drop_duplicates("place"), rows])
        varied = varied[~varied.index.duplicated()].drop_duplicates("sample").head(quota)
        for _, row in varied.iterrows():
            shown.add(int(row["sample"]))
            yield _Choice(cells[int(row["place"])], row)


def _tile(choice: _Choice, pool: Pool) -> Tile:
    row, cell, key = choice.row, choice.source.cell, choice.source.key
    sample, epsilon = int(row["sample"]), float(row["epsilon"])
    image, point = _pair(cell, pool, sample, epsilon)
    change, factor = pictures.amplified(point - image)
    before = _name(pool, int(row["clean_class"]))
    after = _name(pool, int(row["adversarial_class"]))
    verdict = str(row["outcome"])
    ball = ball_name(cell.norm, epsilon, before_radius=" ")
    where = f"test image {sample}"
    views = (
        View("image", pictures.uri(image), f"{where}, answered {before}"),
        View(
            f"change × {factor:.3g}",
            pictures.uri(change),
            f"perturbation of {where} by {key}, {ball}, amplified {factor:.3g} times",
        ),
        View("point", pictures.uri(point), f"{where} attacked, answered {after}, {verdict}"),
    )
    distance = f"L2 {row['distance_l2']:.3g}, Linf {row['distance_linf']:.3g}"
    return Tile(key, ball, sample, before, after, verdict, distance, views)


def _pair(
    cell: Cell, pool: Pool, sample: int, epsilon: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The image and its judged point; raises OSError where it is not kept."""
    for block in examples.blocks(cell, pool.images):
        places = np.flatnonzero(block.samples == sample)
        if len(places):
            place = int(places[0])
            return block.images[place], block.points[cell.epsilons.index(epsilon), place]
    raise FileNotFoundError(
        f"sample {sample} of {cell.title} must be among the kept points, got none; "
        "delete the record and run the benchmark again"
    )


def _name(pool: Pool, answer: int) -> str:
    return pool.classes[answer] if 0 <= answer < len(pool.classes) else "no class"
