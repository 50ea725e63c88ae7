"""Accuracy, error and rejection against epsilon for one attack (GMVAE, Figures 3 and 5)."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark import curves, figures, published, statistics
from benchmark.scores import Score, Scores, split_key
from benchmark.storage import keep

_LOOKS = {
    "accuracy": ("#009E73", "-", "o"),
    "error": ("#D55E00", (0, (5, 2)), "s"),
    "rejection": ("#0072B2", (0, (1, 1)), "^"),
}
"""Rate -> colour of Okabe & Ito (2008), dash and marker: no two share any."""
_PANEL = 4.2
_HEIGHT = 3.9
_LEAST_WIDTH = 5.6


def points(scores: Scores) -> pd.DataFrame:
    """Percent with its Wilson interval, per norm, attack, defense, epsilon and rate.

    The three rates of an epsilon add up to 100. Curves begin at epsilon 0 with the clean rates;
    epsilons without a number, and attacks at a single one, are left out.
    """
    found = []
    for norm, attacks in scores.attacks.items():
        if norm not in curves.AXIS or len(scores.radii(norm)) < curves.FEWEST_RADII:
            continue
        for attack in attacks:
            for defense in scores.defenses:
                for epsilon, score in curves.swept(scores, defense, attack, norm):
                    if score.measured:
                        found += [
                            (scores.dataset, norm, attack, defense, epsilon, score.n, *rate)
                            for rate in _rates(score)
                        ]
    columns = ["dataset", "norm", "attack", "defense", "epsilon", "n"]
    return pd.DataFrame(found, columns=[*columns, "rate", "percent", "low", "high"])


def _rates(score: Score) -> list[tuple[str, float, float, float]]:
    counts = {"accuracy": score.correct, "error": score.wrong, "rejection": score.rejected}
    found = []
    for rate, count in counts.items():
        low, high = (round(100 * limit, 4) for limit in statistics.wilson(count, score.n))
        found.append((rate, round(100 * count / score.n, 4), low, high))
    return found


def draw(whole: pd.DataFrame, title: str) -> Figure:
    """A panel per defense with its three rates and their bands.

    Args:
        whole: rows of `points` for one norm and one attack.

    Raises:
        ValueError: no points.
    """
    if whole.empty:
        raise ValueError("points must hold an attack at two epsilons or more, got none")
    defenses = list(dict.fromkeys(whole["defense"]))
    width = max(_LEAST_WIDTH, len(defenses) * _PANEL)
    figure = figures.blank(width, _HEIGHT)
    grid = figure.subplots(1, len(defenses), sharey=True, squeeze=False)[0]
    for axes, defense in zip(grid, defenses, strict=True):
        own = whole[whole["defense"] == defense]
        axes.set_title(_heading(own), loc="left", fontsize="small")
        _panel(axes, own)
        axes.set_xlabel(curves.AXIS[str(whole["norm"].iloc[0])])
    grid[0].set_ylabel("share of the images, %")
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False
    )
    heading = figures.wrapped(title, width - 0.5)
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def _heading(own: pd.DataFrame) -> str:
    """The defense, and its largest error beside that which a paper printed for its own sweep."""
    first = own.iloc[0]
    attack, surrogate, _ = split_key(str(first["attack"]))
    printed = published.lookup(
        dataset=str(first["dataset"]),
        defense=split_key(str(first["defense"]))[0],
        attack=attack,
        surrogate=surrogate,
        norm=str(first["norm"]),
        metric=published.LARGEST_ERROR,
    )
    largest = own.loc[own["rate"] == "error", "percent"].max()
    aside = "".join(f" (paper {number.value:g})" for number in printed)
    return f"{first['defense']}: error at most {largest:.1f} %{aside}"


def _panel(axes: Axes, whole: pd.DataFrame) -> None:
    for rate, (color, dash, marker) in _LOOKS.items():
        line = whole[whole["rate"] == rate]
        axes.fill_between(
            line["epsilon"], line["low"], line["high"], color=color, alpha=0.12, linewidth=0
        )
        axes.plot(
            line["epsilon"],
            line["percent"],
            color=color,
            linestyle=dash,
            marker=marker,
            markersize=4.5,
            linewidth=1.6,
            label=rate,
        )
    axes.set(ylim=(-3, 103))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def write(scores: Scores, folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>-rates.csv``; per attack ``<stem>-rates.png``, ``.svg``, numbered from the second on.

    Nothing where no attack was run at two epsilons.

    Raises:
        OSError: a file can't be written.
    """
    whole = points(scores)
    if whole.empty:
        return []
    table = folder / f"{stem}-rates.csv"
    keep(table, whole.to_csv(index=False, lineterminator="\n").encode())
    written = [table]
    for place, ((_, attack), own) in enumerate(whole.groupby(["norm", "attack"], sort=False)):
        number = f"-{place + 1}" if place else ""
        figure = draw(own, f"{title}\n{attack}")
        written += figures.save(figure, folder, f"{stem}-rates{number}")
    return written
