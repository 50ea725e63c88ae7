"""Image grids: clean images, adversarial examples, their difference (E-ABS, Figures 4 and 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark import figures
from benchmark.records import Outcome

COLUMNS = 10
_ROWS = ("clean", "adversarial", "difference")
_INCHES = 0.95
_LEAST_WIDTH = 5.0

Image = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Picture:
    """One column of a grid.

    Args:
        clean: (C, H, W) in [0, 1].
        adversarial: of the same shape.
        caption: below the column.
    """

    clean: Image
    adversarial: Image
    caption: str


def choose(frame: pd.DataFrame, count: int = COLUMNS) -> pd.DataFrame:
    """Which samples are shown: broken ones first, one of each class before a second of any.

    Samples without a verdict, and those that were not classified correctly when clean, have no
    adversarial example and are never shown.

    Args:
        frame: record rows of one cell at one epsilon.
        count: at most so many.

    Returns: the chosen rows, ordered by label, then by sample.
    """
    right = (frame["clean_class"] == frame["label"]) & ~frame["clean_rejected"]
    judged = frame[right & ~frame["outcome"].isin([Outcome.INVALID, Outcome.ERROR])]
    ordered = judged.assign(broken=judged["outcome"] == Outcome.WRONG).sort_values("sample")
    turn = ordered.groupby(["label", "broken"]).cumcount()
    ranked = ordered.assign(turn=turn).sort_values(
        ["broken", "turn", "label"], ascending=[False, True, True]
    )
    return ranked.head(count).sort_values(["label", "sample"]).drop(columns=["broken", "turn"])


def caption(label: str, predicted: str, outcome: str, distance: float) -> str:
    """``3 → 5`` and the distance; a sample that held says so."""
    held = "" if outcome == Outcome.WRONG else f"\n{outcome}"
    return f"{label} → {predicted}\n{distance:.2f}{held}"


def draw(pictures: Sequence[Picture], title: str) -> Figure:
    """Three rows: clean, adversarial, and their difference around mid-grey, at full contrast.

    Raises:
        ValueError: no picture.
    """
    if not pictures:
        raise ValueError("pictures must hold at least one, got none; attack some samples first")
    width = max(_LEAST_WIDTH, _INCHES * (len(pictures) + 0.6))
    heading = figures.wrapped(title, width)
    lines = heading.count("\n") + 1
    figure = figures.blank(width, _INCHES * (3.6 + 0.2 * lines))
    grid = figure.subplots(len(_ROWS), len(pictures), squeeze=False)
    for column, picture in enumerate(pictures):
        change = picture.adversarial - picture.clean
        largest = float(np.abs(change).max()) or 1.0
        shown = (picture.clean, picture.adversarial, 0.5 + change / (2 * largest))
        for row, image in enumerate(shown):
            axes = grid[row, column]
            axes.imshow(_for_display(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(_ROWS[row], fontsize="small")
        grid[-1, column].set_xlabel(picture.caption, fontsize="small")
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def write(pictures: Sequence[Picture], folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>.png`` and ``<stem>.svg``; raises as `draw` and `figures.save`."""
    return figures.save(draw(pictures, title), folder, stem)


def _for_display(image: Image) -> Image:
    """(H, W) for grey images, (H, W, 3) for colour."""
    clipped = np.clip(image, 0, 1)
    return clipped[0] if len(clipped) == 1 else np.moveaxis(clipped, 0, -1)
