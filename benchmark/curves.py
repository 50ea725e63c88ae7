"""Accuracy against epsilon: a figure per norm, a line per defense, Wilson bands (E-ABS, Figure 3).

The line is the per-sample worst case over the norm's attacks, from the clean accuracy at epsilon 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark import figures
from benchmark.published import ALL
from benchmark.scores import Score, Scores, split_key
from benchmark.storage import keep

FEWEST_RADII = 2
OKABE_ITO = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1)), (0, (4, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
AXIS = {
    "linf": "Linf perturbation size, pixels in [0, 1]",
    "l2": "L2 perturbation size, pixels in [0, 1]",
    "l1": "L1 perturbation size, pixels in [0, 1]",
    "l0": "L0 perturbation size, changed pixels",
}
_WIDTH = 7.2
_LEAST_LABEL_GAP = 5.5
_HIGHEST_LABEL = 101.0


@dataclass(frozen=True)
class Style:
    """How a defense looks in every figure of one table: colour, dash and marker all differ."""

    color: str
    dash: str | tuple[int, tuple[int, ...]]
    marker: str


def styles(defenses: Sequence[str]) -> dict[str, Style]:
    """Colours of Okabe & Ito (2008), which colour-blind readers tell apart, in order."""
    return {
        defense: Style(
            OKABE_ITO[i % len(OKABE_ITO)],
            _DASHES[i // len(OKABE_ITO) % len(_DASHES)],
            _MARKERS[i % len(_MARKERS)],
        )
        for i, defense in enumerate(defenses)
    }


def points(scores: Scores, *, per_attack: bool = False) -> pd.DataFrame:
    """Accuracy in percent with its interval, per norm, attack, defense and epsilon.

    The attack ``all`` is the worst case; its curve and that of each attack begin at epsilon 0 with
    the clean accuracy. Norms with one radius are left out; points without a number are empty.

    Args:
        per_attack: also the curve of each attack.
    """
    found = []
    for norm, attacks in scores.attacks.items():
        if norm not in AXIS or len(scores.radii(norm)) < FEWEST_RADII:
            continue
        for attack in (ALL, *attacks) if per_attack else (ALL,):
            for defense in scores.defenses:
                for epsilon, score in swept(scores, defense, attack, norm):
                    accuracy, (low, high) = (
                        (score.accuracy, score.interval)
                        if score.measured
                        else (np.nan, (np.nan, np.nan))
                    )
                    found.append((norm, attack, defense, epsilon, score.n, accuracy, low, high))
    columns = ["norm", "attack", "defense", "epsilon", "n", "accuracy", "low", "high"]
    frame = pd.DataFrame(found, columns=columns)
    frame.insert(0, "dataset", scores.dataset)
    shares = ["accuracy", "low", "high"]
    return frame.assign(**frame[shares].astype(float).round(4))


def draw(curves: pd.DataFrame, norm: str, title: str, looks: Mapping[str, Style]) -> Figure:
    """One figure: a line with its band per defense, named at its right end.

    Args:
        curves: rows of `points` for one norm and one attack.
        title: above the axes.
        looks: of `styles`.
    """
    figure = figures.blank(_WIDTH, 4.4)
    axes = figure.add_subplot()
    ends = []
    for defense, curve in curves.groupby("defense", sort=False):
        look = looks[str(defense)]
        epsilon, accuracy = curve["epsilon"].to_numpy(), curve["accuracy"].to_numpy()
        axes.fill_between(
            epsilon, curve["low"], curve["high"], color=look.color, alpha=0.12, linewidth=0
        )
        axes.plot(
            epsilon,
            accuracy,
            color=look.color,
            linestyle=look.dash,
            marker=look.marker,
            markersize=4.5,
            linewidth=1.6,
        )
        last = int(np.flatnonzero(np.isfinite(accuracy))[-1])
        ends.append((str(defense), float(epsilon[last]), float(accuracy[last])))
    _name_lines(axes, ends, looks)
    axes.set(xlabel=AXIS[norm], ylabel="accuracy, %", ylim=(-3, 103))
    axes.set_xlim(left=0, right=float(curves["epsilon"].max()) * 1.02)
    axes.set_title(figures.wrapped(title, _WIDTH - 1), loc="left", fontsize="medium")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _name_lines(
    axes: Axes, ends: Sequence[tuple[str, float, float]], looks: Mapping[str, Style]
) -> None:
    """Each line's name beside its right end, moved apart where lines end together."""
    order = sorted(range(len(ends)), key=lambda i: ends[i][2])
    heights = spread([ends[i][2] for i in order], _LEAST_LABEL_GAP, _HIGHEST_LABEL)
    for i, height in zip(order, heights, strict=True):
        name, epsilon, accuracy = ends[i]
        axes.annotate(
            name,
            xy=(epsilon, accuracy),
            xytext=(1.03, (height + 3) / 106),
            textcoords="axes fraction",
            va="center",
            color=looks[name].color,
            arrowprops={
                "arrowstyle": "-",
                "color": looks[name].color,
                "alpha": 0.4,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Ascending heights, neighbours moved at least ``gap`` apart and the highest below ``top``.

    Heights that are far enough apart already, and below ``top``, stay.
    """
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    highest = [top - gap * above for above in reversed(range(len(moved)))]
    return [min(pair) for pair in zip(moved, highest, strict=True)]


def write(scores: Scores, folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>-curves.csv`` and per norm ``<stem>-<norm>.png``, ``.svg``; nothing for one radius.

    Raises:
        OSError: a file can't be written.
    """
    curves = points(scores, per_attack=True)
    if curves.empty:
        return []
    table = folder / f"{stem}-curves.csv"
    keep(table, curves.to_csv(index=False, lineterminator="\n").encode())
    written = [table]
    looks = styles(scores.defenses)
    worst = curves[curves["attack"] == ALL]
    for norm, rows in worst.groupby("norm", sort=False):
        names = ", ".join(dict.fromkeys(split_key(a)[0] for a in scores.attacks[str(norm)]))
        figure = draw(rows, str(norm), f"{title}\nworst case of {names}", looks)
        written += figures.save(figure, folder, f"{stem}-{norm}")
    return written


def swept(scores: Scores, defense: str, attack: str, norm: str) -> list[tuple[float, Score]]:
    """(epsilon, score) from the clean accuracy on; empty where the attack never ran."""
    radii = scores.radii(norm)
    attacked = [
        (
            epsilon,
            scores.worst(defense, norm, epsilon)
            if attack == ALL
            else scores.score(defense, attack, norm, epsilon),
        )
        for epsilon in radii
    ]
    if not any(score.measured for _, score in attacked):
        return []
    start = [] if np.isclose(radii[0], 0) else [(0.0, scores.clean(defense))]
    return start + attacked
