"""Two-dimensional maps of images and latents (MAD-VAE, Figures 1 to 6 and 8 to 13).

A column per panel (clean images, each attack), one row coloured by label, one by prediction. All
panels of a figure share one embedding, so that a point means the same everywhere. It is UMAP
(McInnes, Healy & Melville 2018), which the paper uses, where the extra ``[umap]`` is installed, and
PCA otherwise; the title says which. Both are deterministic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from benchmark import figures
from benchmark.storage import keep

NEIGHBOURS = 15
"""Of UMAP (its default; MAD-VAE states none)."""

FEWEST = 3
"""Points that span a plane."""

_TOL_MUTED = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499", "#000000"),
)
"""Tol's muted scheme, which colour-blind readers tell apart, and black in place of its grey."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_ROWS = ("label", "prediction")
_INCHES = 3.1
_LEAST_WIDTH = 6.2
_SEED = 0

Points = NDArray[np.floating[Any]]
Classes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Panel:
    """What one column of a map shows.

    Args:
        name: heading of the column.
        points: (n, ...) flattened for the embedding.
        samples: (n,) indices into the test split.
        labels: (n,) classes.
        predictions: (n,) the defense's; -1 for none.
    """

    name: str
    points: Points
    samples: Classes
    labels: Classes
    predictions: Classes


@dataclass(frozen=True, eq=False)
class Embedding:
    """Where the points of all panels are.

    Args:
        method: in words.
        coordinates: (n, 2) per panel.
    """

    method: str
    coordinates: tuple[Points, ...]


def embed(panels: Sequence[Panel]) -> Embedding:
    """All panels in one plane: UMAP where it is installed, else PCA.

    Raises:
        ValueError: fewer than three points.
    """
    whole = np.concatenate([panel.points for panel in panels])
    if len(whole) < FEWEST or whole[0].size < 2:
        raise ValueError(
            f"points must be {FEWEST} or more of 2 dimensions or more, got shape {whole.shape}; "
            "take more samples"
        )
    method, plane = _plane(whole.reshape(len(whole), -1).astype(np.float64))
    places = np.cumsum([len(panel.points) for panel in panels])[:-1]
    return Embedding(method, tuple(np.split(plane, places)))


def _plane(whole: Points) -> tuple[str, Points]:
    if find_spec("umap") is None:
        reducer = PCA(2, svd_solver="full")
        plane = reducer.fit_transform(whole)
        explained = 100 * float(reducer.explained_variance_ratio_.sum())
        return f"PCA ({explained:.0f} % of the variance; UMAP is not installed)", plane
    neighbours = min(NEIGHBOURS, len(whole) - 1)
    reducer = import_module("umap").UMAP(n_neighbors=neighbours, random_state=_SEED, n_jobs=1)
    return f"UMAP ({neighbours} neighbours)", reducer.fit_transform(whole)


def tidy(panels: Sequence[Panel], found: Embedding, classes: Sequence[str]) -> pd.DataFrame:
    """One row per point."""
    names = {-1: "", **dict(enumerate(classes))}
    frames = [
        pd.DataFrame(
            {
                "panel": panel.name,
                "sample": panel.samples,
                "label": [names[int(k)] for k in panel.labels],
                "prediction": [names[int(k)] for k in panel.predictions],
                "x": plane[:, 0].round(5),
                "y": plane[:, 1].round(5),
            }
        )
        for panel, plane in zip(panels, found.coordinates, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def draw(panels: Sequence[Panel], found: Embedding, classes: Sequence[str], title: str) -> Figure:
    """Labels above predictions, a column per panel; each class is named at its median."""
    width = max(_LEAST_WIDTH, _INCHES * len(panels))
    heading = figures.wrapped(f"{title}\n{found.method}", width - 0.3)
    lines = heading.count("\n") + 1
    figure = figures.blank(width, _INCHES * len(_ROWS) + 0.2 * lines + 0.6)
    grid = figure.subplots(len(_ROWS), len(panels), squeeze=False, sharex=True, sharey=True)
    for column, (panel, plane) in enumerate(zip(panels, found.coordinates, strict=True)):
        coloured: Mapping[str, Classes] = {"label": panel.labels, "prediction": panel.predictions}
        for row, name in enumerate(_ROWS):
            axes = grid[row, column]
            _scatter(axes, plane, coloured[name], classes)
            if column == 0:
                axes.set_ylabel(f"by {name}")
        grid[0, column].set_title(panel.name, loc="left", fontsize="small")
    handles = {
        text: handle
        for axes in grid.flat
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [name for name in classes if name in handles]
    figure.legend(
        [handles[name] for name in order],
        order,
        loc="outside lower left",
        ncols=10,
        frameon=False,
        fontsize="small",
        handletextpad=0.2,
        columnspacing=1.0,
        markerscale=1.6,
    )
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def _scatter(axes: Axes, plane: Points, shown: Classes, classes: Sequence[str]) -> None:
    size = float(np.clip(6000 / max(1, len(plane)), 3, 22))
    for k in np.unique(shown[shown >= 0]):
        own = plane[shown == k]
        color = _TOL_MUTED[k % len(_TOL_MUTED)]
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=size,
            color=color,
            marker=_MARKERS[k % len(_MARKERS)],
            linewidths=0,
            alpha=0.75,
            label=classes[k],
            rasterized=True,
        )
        axes.annotate(
            classes[k],
            np.median(own, axis=0),
            color=color,
            weight="bold",
            ha="center",
            va="center",
            zorder=5,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    axes.set(xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)


def write(
    panels: Sequence[Panel], classes: Sequence[str], folder: Path, stem: str, title: str
) -> list[Path]:
    """``<stem>.csv`` with every point, ``<stem>.png`` and ``<stem>.svg``.

    Raises:
        ValueError: as `embed`.
        OSError: a file can't be written.
    """
    found = embed(panels)
    table = folder / f"{stem}.csv"
    keep(table, tidy(panels, found, classes).to_csv(index=False, lineterminator="\n").encode())
    return [table, *figures.save(draw(panels, found, classes, title), folder, stem)]
