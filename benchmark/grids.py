"""Image grids: clean images, adversarial examples, and their difference (E-ABS, Figures 4 and 5) or
the defense's reconstruction (GMVAE, Figure 4); and images that a defense generates (Figure 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark import figures
from benchmark.records import Outcome

COLUMNS = 10
_ROWS = ("clean", "adversarial")
_DIFFERENCE = "difference"
_RECONSTRUCTION = "reconstruction"
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
        reconstruction: what the defense makes of the adversarial image, shown in place of the
            difference; None where it makes nothing.
    """

    clean: Image
    adversarial: Image
    caption: str
    reconstruction: Image | None = None

    @property
    def rows(self) -> dict[str, Image]:
        """What the column shows, from top to bottom, with its names; in [0, 1]."""
        if self.reconstruction is not None:
            return {**self._images, _RECONSTRUCTION: self.reconstruction}
        change = self.adversarial - self.clean
        largest = float(np.abs(change).max()) or 1.0
        return {**self._images, _DIFFERENCE: 0.5 + change / (2 * largest)}

    @property
    def _images(self) -> dict[str, Image]:
        return dict(zip(_ROWS, (self.clean, self.adversarial), strict=True))


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


def farthest(frame: pd.DataFrame, count: int = COLUMNS) -> pd.DataFrame:
    """The successes whose L2 distance is largest, largest first (MAD-VAE, Figure 7).

    Args:
        frame: record rows of one cell at one epsilon.
        count: at most so many.
    """
    right = (frame["clean_class"] == frame["label"]) & ~frame["clean_rejected"]
    broken = frame[right & (frame["outcome"] == Outcome.WRONG)]
    return broken.sort_values(["distance_l2", "sample"], ascending=[False, True]).head(count)


def caption(label: str, predicted: str, outcome: str, distance: float) -> str:
    """``3 → 5`` and the distance; a sample that held says so."""
    held = "" if outcome == Outcome.WRONG else f"\n{outcome}"
    return f"{label} → {predicted}\n{distance:.2f}{held}"


def verdict(
    label: str, predicted: str, outcome: str, distance: float, scores: Mapping[str, float]
) -> str:
    """`caption` with the outcome always named, and each score in units of its threshold."""
    said = {Outcome.WRONG: "wrong, accepted"}.get(Outcome(outcome), outcome)
    lines = [f"{label} → {predicted}", f"moved {distance:.2f}"]
    lines += [f"{name} {score:.2g} τ" for name, score in scores.items()]
    return "\n".join([*lines, said])


def draw(pictures: Sequence[Picture], title: str) -> Figure:
    """Three rows: clean, adversarial, and the reconstruction or, around mid-grey and at full
    contrast, the difference.

    Raises:
        ValueError: no picture.
    """
    if not pictures:
        raise ValueError("pictures must hold at least one, got none; attack some samples first")
    width = max(_LEAST_WIDTH, _INCHES * (len(pictures) + 0.6))
    heading = figures.wrapped(title, width)
    lines = heading.count("\n") + 1
    below = max(picture.caption.count("\n") for picture in pictures)
    figure = figures.blank(width, _INCHES * (3.4 + 0.2 * lines + 0.15 * below))
    grid = figure.subplots(len(pictures[0].rows), len(pictures), squeeze=False)
    for column, picture in enumerate(pictures):
        for row, (name, image) in enumerate(picture.rows.items()):
            show(grid[row, column], image)
            if column == 0:
                grid[row, column].set_ylabel(name, fontsize="small")
        size = "small" if picture.reconstruction is None else "x-small"
        grid[-1, column].set_xlabel(picture.caption, fontsize=size)
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def draw_samples(samples: Mapping[str, Sequence[Image]], title: str) -> Figure:
    """A row of generated images per class, named on the left.

    Raises:
        ValueError: no class, or one without images.
    """
    count = min(map(len, samples.values()), default=0)
    if not count:
        raise ValueError("samples must hold an image per class, got none; generate some first")
    width = max(_LEAST_WIDTH, _INCHES * (count + 1))
    heading = figures.wrapped(title, width)
    lines = heading.count("\n") + 1
    figure = figures.blank(width, _INCHES * (len(samples) + 0.3 * lines))
    grid = figure.subplots(len(samples), 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(grid, samples.items(), strict=True):
        axes.set_ylabel(name, fontsize="small", rotation=0, ha="right", va="center")
        show(axes, _side_by_side(images[:count]))
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def _side_by_side(images: Sequence[Image]) -> Image:
    """One image of several, white between them."""
    gap = max(1, images[0].shape[-1] // 14)
    padded = [np.pad(image, ((0, 0), (0, 0), (0, gap)), constant_values=1) for image in images]
    return np.concatenate(padded, axis=-1)[..., :-gap]


def show(axes: Axes, image: Image) -> None:
    """An image (C, H, W) without ticks and frame."""
    axes.imshow(_for_display(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def write(pictures: Sequence[Picture], folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>.png`` and ``<stem>.svg``; raises as `draw` and `figures.save`."""
    return figures.save(draw(pictures, title), folder, stem)


def _for_display(image: Image) -> Image:
    """(H, W) for grey images, (H, W, 3) for colour."""
    clipped = np.clip(image, 0, 1)
    return clipped[0] if len(clipped) == 1 else np.moveaxis(clipped, 0, -1)
