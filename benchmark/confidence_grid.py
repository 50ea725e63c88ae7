"""Image grids with a number in each corner (Jalal et al. 2017, Figures 4, 10 and 15): images and
what defenses make of them, before and after an attack, and how sure the classifier is of the label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from benchmark import figures, grids
from benchmark.grids import Image

_INCHES = 0.95
_NAME_INCHES = 1.5
_LEAST_WIDTH = 6.0


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a grid.

    Args:
        name: on its left; lines are broken at newlines.
        images: (n, C, H, W) in [0, 1].
        confidences: (n,) the classifier's probability of the label, in [0, 1].
    """

    name: str
    images: Image
    confidences: NDArray[np.floating[Any]]


def percent(confidence: float) -> str:
    """``7 %``; what is not quite 0 or 100 is not called so."""
    rounded = round(100 * confidence)
    if rounded == 100 and confidence < 1 - 1e-6:
        return "> 99 %"
    if rounded == 0 and confidence > 1e-6:
        return "< 1 %"
    return f"{rounded} %"


def draw(rows: Sequence[Row], captions: Sequence[str], title: str) -> Figure:
    """The rows below each other, a caption below each column.

    Raises:
        ValueError: no image.
    """
    if not rows or not captions:
        raise ValueError("rows must hold at least one image, got none; attack some samples first")
    width = max(_LEAST_WIDTH, _INCHES * len(captions) + _NAME_INCHES)
    heading = figures.wrapped(title, width)
    lines = heading.count("\n") + 1
    below = max(caption.count("\n") + 1 for caption in captions)
    figure = figures.blank(width, _INCHES * len(rows) + 0.2 * lines + 0.16 * below)
    grid = figure.subplots(len(rows), len(captions), squeeze=False)
    for axes_of_row, row in zip(grid, rows, strict=True):
        for axes, image, confidence in zip(axes_of_row, row.images, row.confidences, strict=True):
            grids.show(axes, image)
            axes.text(
                0.03,
                0.97,
                percent(float(confidence)),
                transform=axes.transAxes,
                ha="left",
                va="top",
                fontsize="x-small",
                color="#D55E00" if confidence < 0.5 else "#0072B2",
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )
        axes_of_row[0].set_ylabel(row.name, fontsize="small", rotation=0, ha="right", va="center")
    for axes, caption in zip(grid[-1], captions, strict=True):
        axes.set_xlabel(caption, fontsize="small")
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def write(
    rows: Sequence[Row], captions: Sequence[str], folder: Path, stem: str, title: str
) -> list[Path]:
    """``<stem>.png`` and ``<stem>.svg``; raises as `draw` and `figures.save`."""
    return figures.save(draw(rows, captions, title), folder, stem)
