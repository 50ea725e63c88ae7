"""Figures about pairs of latents (Jalal et al. 2017, Figures 6 to 9)."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark import curves, figures, grids, history, statistics
from benchmark.grids import Image
from benchmark.latent_cells import PairFile
from benchmark.latent_numbers import Answered, Values

COLUMNS = 10
"""Pairs of a grid."""

OUTPUT_COLUMNS = 6
"""Pairs whose softmax outputs are drawn: bars need room."""

MOST_CLASSES = 10
_FIRST, _SECOND = "G(z)", "G(z')"
_INCHES = 1.0
_WIDTH = 7.2
_LEAST_WIDTH = 5.0
_CHARACTERS = 12
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair as it is shown.

    Args:
        images: G(z) and G(z'), (C, H, W) in [0, 1] each.
        outputs: per defense, the softmax outputs (K,) for both.
    """

    images: tuple[Image, Image]
    outputs: Mapping[str, tuple[Values, Values]]


def striking(answered: Answered, count: int = COLUMNS) -> list[int]:
    """Valid pairs of different classes whose softmax outputs are farthest apart, farthest first.

    One of each class that G(z) keeps comes before a second of any.
    """
    told = answered.valid & answered.different
    frame = pd.DataFrame(
        {"kept": answered.kept.argmax(axis=1), "distance": answered.distance},
    )[told]
    ordered = frame.sort_values("distance", ascending=False, kind="stable")
    turns = ordered.groupby("kept").cumcount()
    ranked = ordered.assign(turn=turns).sort_values(
        ["turn", "distance"], ascending=[True, False], kind="stable"
    )
    return [int(pair) for pair in ranked.index[:count]]


def first(answered: Answered, count: int = OUTPUT_COLUMNS) -> list[int]:
    """The first valid pairs of different classes: a random choice, as their starts are random."""
    return [int(pair) for pair in np.flatnonzero(answered.valid & answered.different)[:count]]


def draw_pairs(pairs: Sequence[Pair], defense: str, classes: Sequence[str], title: str) -> Figure:
    """G(z) above G(z'), each with its class and the classifier's confidence (Figure 6).

    Raises:
        ValueError: no pair.
    """
    _require(pairs)
    width = max(_LEAST_WIDTH, _INCHES * (len(pairs) + 0.5))
    heading = figures.wrapped(title, width)
    captions = [[_caption(p.outputs[defense][row], classes) for p in pairs] for row in range(2)]
    below = max(caption.count("\n") + 1 for row in captions for caption in row)
    lines = heading.count("\n") + 1
    figure = figures.blank(width, 2 * (_INCHES + 0.16 * below) + 0.22 * lines + 0.1)
    grid = figure.subplots(2, len(pairs), squeeze=False)
    for (row, name), (column, pair) in product(enumerate((_FIRST, _SECOND)), enumerate(pairs)):
        axes = grid[row, column]
        grids.show(axes, pair.images[row])
        axes.set_xlabel(captions[row][column], fontsize="small")
        if column == 0:
            axes.set_ylabel(name, fontsize="small")
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def draw_outputs(pairs: Sequence[Pair], classes: Sequence[str], title: str) -> Figure:
    """Pairs above the softmax outputs of several classifiers, a bar per class (Figure 9).

    Of more than `MOST_CLASSES` classes, those with the largest outputs are drawn.

    Raises:
        ValueError: no pair.
    """
    _require(pairs)
    defenses = list(pairs[0].outputs)
    shown = _shown([both for pair in pairs for both in pair.outputs.values()])
    width = max(_WIDTH, 1.7 * len(pairs))
    heading = figures.wrapped(title, width)
    figure = figures.blank(
        width, 2 * _INCHES + 1.5 * len(defenses) + 0.22 * (heading.count("\n") + 1) + 0.4
    )
    heights = [1.0, 1.0, *[1.4] * len(defenses)]
    grid = figure.subplots(2 + len(defenses), len(pairs), squeeze=False, height_ratios=heights)
    colors = dict(zip((_FIRST, _SECOND), curves.OKABE_ITO[:2], strict=True))
    for column, pair in enumerate(pairs):
        for row, name in enumerate((_FIRST, _SECOND)):
            grids.show(grid[row, column], pair.images[row])
            if column == 0:
                grid[row, column].set_ylabel(name, fontsize="small", color=colors[name])
        for row, defense in enumerate(defenses, start=2):
            axes = grid[row, column]
            _bars(axes, pair.outputs[defense], shown, list(colors.values()))
            axes.set_xticks(range(len(shown)), [_short(classes[k], k) for k in shown])
            if column == 0:
                axes.set_ylabel(textwrap.fill(defense.replace("_", " "), 16), fontsize="x-small")
            else:
                axes.tick_params(labelleft=False)
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def traced(searches: Sequence[PairFile]) -> pd.DataFrame:
    """Mean ||C(G(z)) - C(G(z'))||_2 of the best pairs so far, with its interval, per search."""
    found = []
    for searched in searches:
        values = np.stack(searched.rows["trace"].to_list())
        for steps, column in zip(searched.metadata["marks"], values.T, strict=True):
            low, high = statistics.bootstrapped_mean(column.tolist())
            cell = searched.cell
            mean = round(float(column.mean()), 6)
            ends = round(low, 6), round(high, 6)
            found.append((cell.defense, cell.attack, steps, len(column), mean, *ends))
    columns = ["defense", "attack", "steps", "n", "distance", "low", "high"]
    return pd.DataFrame(found, columns=columns)


def draw_trace(trace: pd.DataFrame, names: Mapping[str, str], title: str) -> Figure:
    """A line with its band per defense and attack: colours are defenses, dashes attacks (Figure 8).

    Args:
        trace: of `traced`.
        names: of the attacks, for the legend.
    """
    looks = curves.styles(list(dict.fromkeys(trace["defense"])))
    dashes = dict(zip(dict.fromkeys(trace["attack"]), _DASHES, strict=False))
    figure = figures.blank(_WIDTH, 4.2)
    axes = figure.add_subplot()
    for (defense, attack), line in trace.groupby(["defense", "attack"], sort=False):
        color = looks[str(defense)].color
        axes.fill_between(line["steps"], line["low"], line["high"], color=color, alpha=0.1, lw=0)
        axes.plot(
            line["steps"],
            line["distance"],
            color=color,
            linestyle=dashes.get(attack, "-"),
            label=f"{defense}, {names[str(attack)]}",
        )
    axes.set_xscale("symlog", linthresh=1)
    axes.set(xlabel="steps of the search", ylabel="mean ||C(G(z)) − C(G(z'))||₂", xlim=(0, None))
    axes.set_ylim(0, 1.25 * float(trace["high"].max()) or 1.0)
    axes.set_title(figures.wrapped(title, _WIDTH - 0.5), loc="left", fontsize="medium")
    axes.legend(frameon=False, fontsize="small", loc="upper left")
    _plain(axes)
    return figure


def draw_losses(losses: pd.DataFrame, title: str) -> Figure:
    """A panel per loss, which have scales of their own, against the updates (Figure 7).

    Args:
        losses: as `history.read` returns them.
    """
    names = [str(name) for name in losses if name != history.UPDATE]
    figure = figures.blank(_WIDTH, 0.8 + 1.7 * len(names))
    grid = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, look) in zip(grid, curves.styles(names).items(), strict=True):
        axes.plot(losses[history.UPDATE], losses[name], color=look.color, lw=1.3)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=min(0, losses[name].min()))
        _plain(axes)
    grid[-1].set(xlabel="updates", xlim=(0, None))
    figure.suptitle(figures.wrapped(title, _WIDTH - 0.5), fontsize="medium", x=0.01, ha="left")
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _require(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise ValueError(
            "pairs must hold at least one of two classes, got none; search more pairs or take more "
            "steps"
        )


def _caption(output: Values, classes: Sequence[str]) -> str:
    """The class and its probability."""
    k = int(output.argmax())
    return f"{textwrap.fill(classes[k], _CHARACTERS)}\n{100 * output[k]:.1f} %"


def _short(name: str, k: int) -> str:
    return name if len(name) <= 2 else str(k)


def _shown(outputs: Sequence[tuple[Values, Values]]) -> list[int]:
    largest = np.stack([each for both in outputs for each in both]).max(axis=0)
    return sorted(int(k) for k in np.argsort(-largest, kind="stable")[:MOST_CLASSES])


def _bars(
    axes: Axes, both: tuple[Values, Values], shown: Sequence[int], colors: Sequence[str]
) -> None:
    places = np.arange(len(shown))
    for shift, output, color in zip((-0.2, 0.2), both, colors, strict=True):
        axes.bar(places + shift, output[list(shown)], 0.4, color=color)
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1])
    axes.tick_params(labelsize="x-small", length=2)
    axes.spines[["top", "right"]].set_visible(False)
