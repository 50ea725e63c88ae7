"""Bounds in one picture: per defense the certified and the attacked accuracy, and every sample."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark import bounds, figures
from benchmark.curves import AXIS, OKABE_ITO
from benchmark.storage import keep

CERTIFIED, ATTACKED = OKABE_ITO[5], OKABE_ITO[4]
_UNKNOWN = "0.88"
_LABELS = {
    "certified": "certified accuracy: at least this, if the estimate holds",
    "attacked": "accuracy under the best attack: at most this",
}
_COLORS = {"certified": CERTIFIED, "attacked": ATTACKED}
_BANDS = "accuracies with 95 % Wilson intervals; below, every sample"
_MOST_COLUMNS = 3
_PANEL = 4.2
_HEIGHTS = (3.1, 2.3)
_LEAST_HEIGHT_TO_NAME = 12.0
"""Points of accuracy that the unknown region must measure to hold its name."""


def draw(radii: pd.DataFrame, title: str) -> Figure:
    """A panel per defense: accuracies above, certificate against attack below.

    Args:
        radii: with `bounds.COLUMNS`.
        title: above the panels.

    Raises:
        ValueError: no sample's clean answer is on record.
    """
    samples, curves = bounds.known(radii), bounds.bands(radii)
    if samples.empty:
        raise ValueError(
            "radii must be of samples whose clean answers are on record, got none; run the "
            "benchmark on these defenses first"
        )
    names = list(dict.fromkeys(samples["defense"]))
    columns = min(len(names), _MOST_COLUMNS)
    blocks = -(-len(names) // columns)
    width = max(1.6, columns) * _PANEL
    figure = figures.blank(width, blocks * sum(_HEIGHTS) + 1.2)
    grid = figure.add_gridspec(2 * blocks, columns, height_ratios=_HEIGHTS * blocks)
    finite = samples["attack"][np.isfinite(samples["attack"])]
    last = 1.04 * max([*finite, *samples["certificate"], 1e-3])
    named: dict[str, Any] = {}
    for i, name in enumerate(names):
        block, column = divmod(i, columns)
        above = figure.add_subplot(grid[2 * block, column])
        below = figure.add_subplot(grid[2 * block + 1, column])
        own = samples[samples["defense"] == name]
        _accuracies(above, curves[curves["defense"] == name], last)
        above.set_title(f"{name}, n = {len(own)}", loc="left", fontsize="medium")
        _samples(below, own, last, float(samples["certificate"].max()))
        if column == 0:
            above.set_ylabel("accuracy, %")
            below.set_ylabel("attack's L2 distance")
        for axes in (above, below):
            handles, labels = axes.get_legend_handles_labels()
            named |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower left",
        ncols=min(2, columns),
        frameon=False,
        fontsize="small",
    )
    heading = figures.wrapped(f"{title}\n{_BANDS}", width - 0.5)
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def _accuracies(axes: Axes, curve: pd.DataFrame, last: float) -> None:
    """Both curves as steps with their intervals, and what lies between them."""
    epsilon = np.append(curve["epsilon"], last)
    held = {
        name: np.append(curve[name], curve[name].iloc[-1])
        for name in curve.columns
        if name not in ("defense", "epsilon", "n")
    }
    step: dict[str, Any] = {"step": "post", "linewidth": 0}
    lower, upper = held["certified"], held["attacked"]
    axes.fill_between(
        epsilon, lower, upper, where=upper >= lower, color=_UNKNOWN, label="unknown", **step
    )
    for name, label in _LABELS.items():
        color = _COLORS[name]
        axes.fill_between(
            epsilon, held[f"{name}_low"], held[f"{name}_high"], color=color, alpha=0.16, **step
        )
        axes.step(epsilon, held[name], where="post", color=color, linewidth=1.6, label=label)
    _name_unknown(axes, epsilon, held)
    axes.set(xlim=(0, last), ylim=(-3, 103), xlabel=AXIS["l2"])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _name_unknown(axes: Axes, epsilon: Any, held: Mapping[str, Any]) -> None:
    """``unknown``, in the middle of the region, where it is high enough anywhere."""
    if held["unknown"].max() < _LEAST_HEIGHT_TO_NAME:
        return
    area = np.diff(epsilon) * held["unknown"][:-1]
    middle = np.searchsorted(np.cumsum(area), area.sum() / 2)
    height = (held["certified"][middle] + held["attacked"][middle]) / 2
    from_, to = (
        epsilon[held[name] <= height].min(initial=epsilon[-1]) for name in ("certified", "attacked")
    )
    axes.text((from_ + to) / 2, height, "unknown", ha="center", va="center", style="italic")


def _samples(axes: Axes, own: pd.DataFrame, last: float, largest: float) -> None:
    """One point per correctly answered sample; below the diagonal is a defect."""
    right = own[own["right"]]
    broken = np.isfinite(right["attack"])
    across = max(1.06 * largest, 0.05 * last)
    axes.fill_between([0, across], 0, [0, across], color=ATTACKED, alpha=0.12, linewidth=0)
    axes.plot([0, across], [0, across], color="black", linewidth=1, linestyle="--")
    axes.scatter(
        right["certificate"][broken],
        right["attack"][broken],
        s=12,
        color="black",
        alpha=0.55,
        linewidths=0,
        label="a sample, broken at this distance; in the shaded corner: a defect",
    )
    standing = right["certificate"][~broken]
    if len(standing):
        axes.scatter(
            standing,
            np.full(len(standing), 0.97 * last),
            s=16,
            marker="^",
            facecolors="none",
            edgecolors="black",
            linewidths=0.8,
            label="a sample that no attack broke",
        )
    count = bounds.defects(right)
    text = f"{len(right)} right without an attack, {len(standing)} never broken, {count} defects"
    axes.set_title(text.replace("1 defects", "1 defect"), loc="left", fontsize="small")
    axes.set(xlim=(0, across), ylim=(0, last), xlabel="certified L2 radius")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def write(radii: pd.DataFrame, folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>-bounds.csv``, ``.png`` and ``.svg``; nothing where no clean answer is on record.

    Raises:
        OSError: a file can't be written.
    """
    curves = bounds.bands(radii)
    if curves.empty:
        return []
    table = folder / f"{stem}-bounds.csv"
    keep(table, curves.to_csv(index=False, lineterminator="\n").encode())
    return [table, *figures.save(draw(radii, title), folder, f"{stem}-bounds")]
