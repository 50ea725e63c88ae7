"""Risk against coverage, drawn: clean images and the worst case of each norm, side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark import figures, selective
from benchmark.accuracy import Layout, Row
from benchmark.curves import Style, styles
from benchmark.scores import Scores
from benchmark.storage import keep

_PANEL = 3.6
_HEIGHT = 3.9
_LEAST_HIGHEST_RISK = 1.0


def draw(scores: Scores, layout: Layout, title: str) -> Figure:
    """A panel for the clean images and one for each row that is shown, at its norm's last radius.

    The deployed thresholds are a marker on each defense's line.

    Raises:
        ValueError: no defense keeps rejection scores.
    """
    whole = selective.curves(scores, layout)
    if whole.empty:
        raise ValueError("scores must be those of a defense that keeps rejection scores, got none")
    looks = styles(scores.defenses)
    last = {norm: radii[-1] for norm, radii in layout.radii.items()}
    panels = [
        row
        for row in selective.shown(scores, layout)
        if not row.norm or row.epsilon == last[row.norm]
    ]
    width = max(2, len(panels)) * _PANEL
    figure = figures.blank(width, _HEIGHT)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, row in zip(grid, panels, strict=True):
        _panel(axes, scores, row, whole, looks)
    lines, names = grid[0].get_legend_handles_labels()
    figure.legend(
        lines,
        [f"{name} (marker: as deployed)" for name in names],
        loc="outside lower left",
        ncols=3,
        frameon=False,
        fontsize="small",
    )
    heading = figures.wrapped(f"{title}\nrisk against coverage", width - 0.5)
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def _panel(
    axes: Axes, scores: Scores, row: Row, whole: pd.DataFrame, looks: Mapping[str, Style]
) -> None:
    same = (whole["norm"] == row.norm) & (whole["epsilon"] == row.epsilon)
    here = whole[same & (whole["attack"] == row.attack)]
    for defense, line in here.groupby("defense", sort=False):
        look = looks[str(defense)]
        shape: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 7}
        axes.plot(
            line["coverage"],
            line["risk"],
            linestyle=look.dash,
            linewidth=1.6,
            markevery=[],
            label=str(defense),
            **shape,
        )
        point = selective.deployed(row.score(scores, str(defense)))
        if point.accepted:
            axes.plot(100 * point.coverage, 100 * point.risk, linestyle="none", **shape)
    highest = max([_LEAST_HIGHEST_RISK, *here["risk"]])
    axes.set(xlim=(0, 102), ylim=(-0.03 * highest, 1.05 * highest))
    axes.set(xlabel="coverage, %", ylabel="risk, %")
    axes.set_title(selective.where(row), loc="left", fontsize="small")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def write(scores: Scores, layout: Layout, folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>-risk-coverage.csv``, ``-risk-coverage-curves.csv``, ``.png``, ``.svg``.

    Nothing where no defense keeps rejection scores.

    Raises:
        OSError: a file can't be written.
    """
    numbers, whole = selective.tidy(scores, layout), selective.curves(scores, layout)
    if numbers.empty:
        return []
    written = []
    for name, frame in (("risk-coverage", numbers), ("risk-coverage-curves", whole)):
        written.append(folder / f"{stem}-{name}.csv")
        keep(written[-1], frame.to_csv(index=False, lineterminator="\n").encode())
    return written + figures.save(draw(scores, layout, title), folder, f"{stem}-risk-coverage")
