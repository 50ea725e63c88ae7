"""Latents of two dimensions, clean and attacked, in one plane (Jalal et al. 2017, Figure 14).

Nothing is embedded: the axes are the latents. A generator draws its images from N(0, I), so the
circle that holds 95 % of that says where images come from.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmark import figures, maps
from benchmark.histograms import BLUE, ORANGE
from benchmark.maps import Embedding, Panel
from benchmark.storage import keep

_RADIUS = math.sqrt(-2 * math.log(1 - 0.95))
"""Of the circle: the squared length of N(0, I) in the plane is exponential with mean 2."""

_ANGLES = np.linspace(0, 2 * np.pi, 181)
_CIRCLE = _RADIUS * np.array([np.cos(_ANGLES), np.sin(_ANGLES)])

_INCHES = 4.4
_LEAST_WIDTH = 6.0


def draw(panels: Sequence[Panel], title: str) -> Figure:
    """A plane per attack, with the clean images in each: those in blue, attacked ones in orange.

    Args:
        panels: of the clean images, then of attacks.

    Raises:
        ValueError: latents of another dimension than two, or no attack.
    """
    if len(panels) < 2:
        raise ValueError(f"panels must hold an attack, got {len(panels)}; attack some samples")
    clean, *attacked = panels
    for panel in panels:
        if panel.points.ndim != 2 or panel.points.shape[1] != 2:
            raise ValueError(
                f"latents must have 2 dimensions to be drawn as they are, got "
                f"{panel.points[0].size}; train with latent=2, or draw a map"
            )
    width = max(_LEAST_WIDTH, _INCHES * len(attacked))
    heading = figures.wrapped(title, width)
    figure = figures.blank(width, _INCHES + 0.3 + 0.2 * (heading.count("\n") + 1))
    grid = figure.subplots(1, len(attacked), squeeze=False, sharex=True, sharey=True)[0]
    for axes, panel in zip(grid, attacked, strict=True):
        size = float(np.clip(6000 / max(1, len(panel.points)), 4, 24))
        for name, points, color, marker in (
            ("clean", clean.points, BLUE, "o"),
            ("attacked", panel.points, ORANGE, "^"),
        ):
            axes.scatter(
                *points.T, s=size, c=color, marker=marker, linewidths=0, alpha=0.7, label=name
            )
        axes.plot(*_CIRCLE, color="black", linestyle="--", linewidth=1, label="95 % of N(0, I)")
        axes.set(aspect="equal", xlabel="first latent")
        axes.set_title(panel.name, loc="left", fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("second latent")
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower left", ncols=3, frameon=False, fontsize="small"
    )
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def write(
    panels: Sequence[Panel], classes: Sequence[str], folder: Path, stem: str, title: str
) -> list[Path]:
    """``<stem>.csv`` with every point, ``<stem>.png`` and ``<stem>.svg``.

    Raises:
        ValueError: as `draw`.
        OSError: a file can't be written.
    """
    figure = draw(panels, title)
    where = Embedding("latents", tuple(panel.points for panel in panels))
    table = folder / f"{stem}.csv"
    keep(table, maps.tidy(panels, where, classes).to_csv(index=False, lineterminator="\n").encode())
    return [table, *figures.save(figure, folder, stem)]
