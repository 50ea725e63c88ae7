"""How far defenses move images, clean and attacked (Jalal et al. 2017, Figure 13).

The paper notes that a large distance ||x - G(z)|| tells that an image is adversarial. How well it
does is the area under the ROC curve: the chance that of a clean and an attacked image the attacked
one was moved farther. One half is a coin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmark import figures
from benchmark.storage import keep

BLUE, ORANGE = "#0072B2", "#E69F00"
"""Clean and attacked; colour-blind readers tell them apart (Okabe & Ito 2008)."""

_BINS = 30
_INCHES = 3.7
_LEAST_WIDTH = 6.0

Distances = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Moved:
    """What one defense did to the images of one attack.

    Args:
        defense, attack: their names; the latter with its ball, on a line of its own.
        samples: (n,) indices into the test split.
        clean: (n,) ||x - G(z)||_2 of the images, in pixel units.
        adversarial: (n,) the same of what the attack made of them.
    """

    defense: str
    attack: str
    samples: NDArray[np.int64]
    clean: Distances
    adversarial: Distances

    @property
    def detection(self) -> float:
        """The area under the ROC curve of telling attacked images by their distance."""
        attacked = np.repeat([0, 1], len(self.samples))
        return float(roc_auc_score(attacked, np.concatenate([self.clean, self.adversarial])))


def tidy(found: Sequence[Moved]) -> pd.DataFrame:
    """One row per defense, attack and sample."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "defense": each.defense,
                    "attack": ", ".join(each.attack.splitlines()),
                    "sample": each.samples,
                    "clean": each.clean.round(5),
                    "adversarial": each.adversarial.round(5),
                }
            )
            for each in found
        ],
        ignore_index=True,
    )


def draw(found: Sequence[Moved], title: str) -> Figure:
    """A panel for each, all on one scale; clean in blue, attacked in orange.

    Raises:
        ValueError: nothing, or a defense under which no image was attacked.
    """
    if not found or not all(len(each.samples) for each in found):
        raise ValueError(
            "distances must be of at least one image each, got none; attack some samples first"
        )
    width = max(_LEAST_WIDTH, _INCHES * len(found))
    heading = figures.wrapped(title, width)
    figure = figures.blank(width, _INCHES + 0.2 * (heading.count("\n") + 1))
    grid = figure.subplots(1, len(found), squeeze=False, sharex=True, sharey=True)[0]
    farthest = max(float(each.adversarial.max()) for each in found)
    farthest = max(farthest, *(float(each.clean.max()) for each in found))
    bins = np.linspace(0, farthest * 1.001 or 1.0, _BINS + 1)
    for axes, each in zip(grid, found, strict=True):
        for name, values, color in (
            ("clean", each.clean, BLUE),
            ("attacked", each.adversarial, ORANGE),
        ):
            axes.hist(values, bins=bins, color=color, alpha=0.3, label=name)
            axes.hist(values, bins=bins, color=color, histtype="step", linewidth=1.4)
        axes.set_title(
            f"{each.defense}\n{each.attack}\narea under ROC {each.detection:.2f}",
            loc="left",
            fontsize="small",
        )
        axes.set_xlabel("L2 between image and reconstruction")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("images")
    grid[0].legend(frameon=False, fontsize="small")
    figure.suptitle(heading, fontsize="medium", x=0.01, ha="left")
    return figure


def write(found: Sequence[Moved], folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>-distances.csv``, ``.png`` and ``.svg``.

    Raises:
        ValueError: as `draw`.
        OSError: a file can't be written.
    """
    figure = draw(found, title)
    table = folder / f"{stem}-distances.csv"
    keep(table, tidy(found).to_csv(index=False, lineterminator="\n").encode())
    return [table, *figures.save(figure, folder, f"{stem}-distances")]
