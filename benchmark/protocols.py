"""Accuracy against epsilon by what the attacks saw (Jalal et al. 2017, Figures 3, 5 and 12).

A defense has a line under the attacks on the classifier inside it, which is what its paper reports,
one under those through the whole of it, each the per-sample worst case, and one under every attack
that transfers from another defense. All begin at epsilon 0 with the clean accuracy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import curves, figures, gap, published
from benchmark.curves import Style
from benchmark.scores import Score, Scores, split_key
from benchmark.storage import keep


class Seen(StrEnum):
    """What an attack differentiated."""

    WHOLE = "the whole defense"
    INSIDE = "the classifier inside"
    ANOTHER = "another defense"


_DASHES: dict[Seen, str | tuple[int, tuple[int, ...]]] = {
    Seen.WHOLE: "-",
    Seen.INSIDE: (0, (5, 2)),
    Seen.ANOTHER: (0, (1, 1)),
}


@dataclass(frozen=True)
class Series:
    """One line of the figure.

    Args:
        defense: key.
        attacks: keys; the line is their worst case.
        seen: by all of them.
        name: at the line's end.
    """

    defense: str
    attacks: tuple[str, ...]
    seen: Seen
    name: str


def series(scores: Scores, norm: str) -> Iterator[Series]:
    """The lines of one norm, defense by defense; kinds of attacks that nobody ran have none."""
    transfers = [a for a in scores.attacks[norm] if a.startswith(gap.TRANSFERRED)]
    for defense in scores.defenses:
        inside, whole = gap.protocols(scores, defense, norm)
        if whole:
            ending = ": adaptive" if scores.counts(defense) else ""
            yield Series(defense, whole, Seen.WHOLE, f"{defense}{ending}")
        if inside:
            yield Series(defense, inside, Seen.INSIDE, f"{defense}: on its classifier")
        for attack, brief in zip(transfers, _brief(transfers), strict=True):
            if (defense, attack) not in scores.not_applicable:
                yield Series(defense, (attack,), Seen.ANOTHER, f"{defense}: {brief}")


def _brief(attacks: Sequence[str]) -> list[str]:
    """Names without their fields, where those tell nothing apart."""
    bare = [published.specification(split_key(attack)[0])[0] for attack in attacks]
    return [
        name if bare.count(name) == 1 else attack
        for name, attack in zip(bare, attacks, strict=True)
    ]


def points(scores: Scores) -> pd.DataFrame:
    """Accuracy in percent with its interval, per norm, series and epsilon.

    Norms with one radius are left out, and series without any number; single points without one are
    empty.
    """
    rows = []
    for norm in scores.attacks:
        if norm not in curves.AXIS or len(scores.radii(norm)) < curves.FEWEST_RADII:
            continue
        for each in series(scores, norm):
            swept = [
                (epsilon, scores.worst(each.defense, norm, epsilon, each.attacks))
                for epsilon in scores.radii(norm)
            ]
            if any(score.measured for _, score in swept):
                start = (0.0, scores.clean(each.defense))
                rows += [_row(norm, each, *point) for point in (start, *swept)]
    frame = pd.DataFrame(rows)
    frame.insert(0, "dataset", scores.dataset)
    return frame


def _row(norm: str, each: Series, epsilon: float, score: Score) -> dict[str, object]:
    low, high = score.interval if score.measured else (np.nan, np.nan)
    return {
        "norm": norm,
        "defense": each.defense,
        "seen": str(each.seen),
        "attacks": " ".join(each.attacks),
        "series": each.name,
        "epsilon": epsilon,
        "n": score.n,
        "accuracy": round(score.accuracy, 4) if score.measured else np.nan,
        "low": round(low, 4),
        "high": round(high, 4),
    }


def styles(frame: pd.DataFrame) -> dict[str, Style]:
    """Colour and marker say the defense, the dash what was seen."""
    of_defense = curves.styles(list(dict.fromkeys(frame["defense"])))
    return {
        str(name): Style(of_defense[defense].color, _DASHES[Seen(seen)], of_defense[defense].marker)
        for name, defense, seen in zip(
            frame["series"], frame["defense"], frame["seen"], strict=True
        )
    }


def write(scores: Scores, folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>-protocols.csv``, and per norm ``<stem>-protocols-<norm>.png`` and ``.svg``.

    Nothing where no norm has two radii.

    Raises:
        OSError: a file can't be written.
    """
    frame = points(scores)
    if frame.empty:
        return []
    table = folder / f"{stem}-protocols.csv"
    keep(table, frame.to_csv(index=False, lineterminator="\n").encode())
    written, looks = [table], styles(frame)
    for norm, rows in frame.groupby("norm", sort=False):
        lines = rows.drop(columns="defense").rename(columns={"series": "defense"})
        heading = f"{title}\nby what the attacks saw; worst case of each kind"
        figure = curves.draw(lines, str(norm), heading, looks)
        written += figures.save(figure, folder, f"{stem}-protocols-{norm}")
    return written
