"""Selective classification: what a defense that may refuse gets wrong among what it answers.

As one threshold on the rejection score sweeps from refusing everything to accepting everything,

    coverage = accepted / n        risk = errors among the accepted / accepted

(El-Yaniv & Wiener 2010). The deployed thresholds are one point: scores are divided by them, so it
is at 1. The robust risk at c % clean coverage chooses the threshold that accepts c % of the clean
images and applies it to the attacked ones. **The attacks were aimed at the deployed thresholds**:
images that these refuse when clean were not attacked, and an attack that knows another threshold
may do better. Numbers at other coverages are therefore estimates in the defense's favour; the
honest number is that of a run with ``--coverage``.

The worst case over several attacks is taken per sample at every threshold (`Scores.answers`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from benchmark import statistics
from benchmark.accuracy import Layout, Row, ball_name, rows
from benchmark.cells import CLEAN
from benchmark.published import ALL
from benchmark.scores import Answers, Score, Scores, split_key
from benchmark.sheet import Entry, Line, Sheet

COVERAGES = (0.95, 0.98, 0.99, 0.995)
"""Shares of the clean images that are to be accepted."""

DEPLOYED = "deployed"
DEPLOYED_THRESHOLD = 1.0
"""Scores are divided by their thresholds."""
NOTE = (
    "Risk: errors among the accepted, in percent with its 95 % Wilson interval; in parentheses the "
    "share that is accepted. *Deployed* are the thresholds that were attacked; *at 95 %* is the "
    "threshold on the larger of the scores that accepts at least 95 % of the clean images. The "
    "attacks were aimed at the deployed thresholds, so the other lines favour the defense: run "
    "again with `--coverage` for an honest number at another coverage. AURC is the area under the "
    "risk-coverage curve, in percent; lower is better."
)


@dataclass(frozen=True)
class Point:
    """What one threshold accepts.

    Args:
        n: samples.
        accepted: those at or below the threshold.
        errors: those accepted with the wrong class.
    """

    n: int
    accepted: int
    errors: int

    @property
    def coverage(self) -> float:
        """Share accepted."""
        return self.accepted / self.n

    @property
    def risk(self) -> float:
        """Share of errors among the accepted; NaN where nothing is."""
        return self.errors / self.accepted if self.accepted else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The risk's 95 % Wilson interval; NaN where nothing is accepted."""
        if not self.accepted:
            return math.nan, math.nan
        return statistics.wilson(self.errors, self.accepted)


def at(answers: Answers, threshold: float) -> Point:
    """What a threshold accepts."""
    accepted = answers.score <= threshold
    return Point(len(accepted), int(accepted.sum()), int((accepted & answers.wrong).sum()))


def deployed(score: Score) -> Point:
    """What the deployed thresholds accept, as the judge saw it."""
    return Point(score.n, score.correct + score.wrong, score.wrong)


def threshold_for(clean: Answers, coverage: float) -> float:
    """The lowest threshold that accepts at least this share of the clean images.

    Raises:
        ValueError: no images, or a coverage outside (0, 1].
    """
    if not len(clean.score):
        raise ValueError("clean must hold images, got none; a coverage is a share of them")
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be in (0, 1], got {coverage}; 0.98 accepts 98 %")
    needed = math.ceil(coverage * len(clean.score) - _ROUNDING)
    return float(np.sort(clean.score)[needed - 1])


_ROUNDING = 1e-9


def curve(answers: Answers) -> pd.DataFrame:
    """Threshold, coverage and risk (shares) at every threshold that changes them, ascending.

    Equal scores are accepted together; an infinite score is accepted last.
    """
    thresholds, group = np.unique(answers.score, return_inverse=True)
    accepted = np.cumsum(np.bincount(group))
    errors = np.cumsum(np.bincount(group, weights=answers.wrong))
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "coverage": accepted / max(1, len(answers.score)),
            "risk": errors / accepted,
        }
    )


def area(answers: Answers) -> float:
    """AURC: the mean risk over the coverages 1/n, 2/n, ... 1 (Geifman, Uziel & El-Yaniv 2019).

    Within equal scores the errors are spread evenly, which is the mean over their orders: where all
    scores are equal the area is the error rate.

    Raises:
        ValueError: no samples.
    """
    if not len(answers.score):
        raise ValueError("answers must hold samples, got none; a risk needs some")
    _, group = np.unique(answers.score, return_inverse=True)
    sizes = np.bincount(group)
    share = np.bincount(group, weights=answers.wrong) / sizes
    errors = np.cumsum(np.repeat(share, sizes))
    return float(np.mean(errors / np.arange(1, len(errors) + 1)))


def shown(scores: Scores, layout: Layout) -> Iterator[Row]:
    """The rows that a table of risks has: clean, and each worst case (or named rows)."""
    for row in rows(scores, layout):
        if row.attack in (CLEAN, ALL) or layout.row_by:
            yield row


def where(row: Row) -> str:
    """``Clean``, ``All Linf, epsilon = 0.3``, ``ddn, L2, epsilon = 1.5``."""
    if not row.norm:
        return row.name
    ball = ball_name(row.norm, row.epsilon)
    return f"All {ball}" if row.attack == ALL else f"{row.name}, {ball}"


def answers(scores: Scores, row: Row, defense: str) -> Answers | None:
    """What a defense would answer in a row of the table; None where that was not measured."""
    if not row.score(scores, defense).measured:
        return None
    attacks = scores.attacks[row.norm] if row.attack == ALL else (row.attack,)
    return scores.answers(defense, attacks, row.norm, row.epsilon)


def tidy(scores: Scores, layout: Layout) -> pd.DataFrame:
    """One row per defense, row of the table and threshold; percentages.

    ``clean_coverage`` is what the threshold reaches on the clean images, ``coverage`` on those of
    the row. Defenses without scores are left out.
    """
    found = []
    for row, defense in product(rows(scores, layout), scores.rejecting):
        there, clean = answers(scores, row, defense), answers(scores, _CLEAN_ROW, defense)
        if there is None or clean is None:
            continue
        attack, surrogate, configuration = split_key(row.attack)
        for wanted, threshold in _thresholds(clean):
            is_deployed = wanted == DEPLOYED
            point = deployed(row.score(scores, defense)) if is_deployed else at(there, threshold)
            before = deployed(scores.clean(defense)) if is_deployed else at(clean, threshold)
            low, high = point.interval
            found.append(
                {
                    "dataset": scores.dataset,
                    "defense": defense,
                    "attack": f"{attack} ({configuration})" if configuration else attack,
                    "surrogate": surrogate,
                    "norm": row.norm,
                    "epsilon": row.epsilon,
                    "n": point.n,
                    "aurc": 100 * area(there),
                    "at": wanted,
                    "threshold": threshold,
                    "clean_coverage": 100 * before.coverage,
                    "coverage": 100 * point.coverage,
                    "accepted": point.accepted,
                    "errors": point.errors,
                    "risk": 100 * point.risk,
                    "low": 100 * low,
                    "high": 100 * high,
                }
            )
    frame = pd.DataFrame(found)
    shares = ["aurc", "clean_coverage", "coverage", "risk", "low", "high"]
    return frame.assign(**frame[shares].astype(float).round(4)) if len(frame) else frame


def curves(scores: Scores, layout: Layout) -> pd.DataFrame:
    """The whole curves of the rows that are shown, in percent."""
    found = []
    for row, defense in product(shown(scores, layout), scores.rejecting):
        there = answers(scores, row, defense)
        if there is not None:
            whole = curve(there)
            whole[["coverage", "risk"]] = (100 * whole[["coverage", "risk"]]).round(4)
            found.append(
                whole.assign(
                    dataset=scores.dataset,
                    defense=defense,
                    attack=row.attack,
                    norm=row.norm,
                    epsilon=row.epsilon,
                )
            )
    columns = ["dataset", "defense", "attack", "norm", "epsilon", "threshold", "coverage", "risk"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame()


def risk_sheet(scores: Scores, layout: Layout, title: str) -> Sheet:
    """Robust risk at each clean coverage and the area, a column per defense that keeps scores."""
    names = tuple(d for d in scores.rejecting if answers(scores, _CLEAN_ROW, d) is not None)
    lines = []
    for row in shown(scores, layout):
        lines.append(Line(where(row)))
        found = [answers(scores, row, name) for name in names]
        clean = [answers(scores, _CLEAN_ROW, name) for name in names]
        chosen = [dict(_thresholds(each)) if each else {} for each in clean]
        points = [deployed(row.score(scores, name)) for name in names]
        entries = [_entry(p) if each else Entry("—") for p, each in zip(points, found, strict=True)]
        lines.append(Line(DEPLOYED, tuple(entries)))
        for wanted in map(_percent, COVERAGES):
            entries = [
                _entry(at(each, thresholds[wanted])) if each else Entry("—")
                for each, thresholds in zip(found, chosen, strict=True)
            ]
            lines.append(Line(f"at {wanted}", tuple(entries)))
        areas = tuple(Entry(f"{100 * area(each):.2f}" if each else "—") for each in found)
        lines.append(Line("AURC", areas))
    return Sheet(title, names, tuple(lines))


_CLEAN_ROW = Row("Clean", CLEAN)


def _thresholds(clean: Answers) -> Iterator[tuple[str, float]]:
    yield DEPLOYED, DEPLOYED_THRESHOLD
    for coverage in COVERAGES:
        yield _percent(coverage), threshold_for(clean, coverage)


def _percent(coverage: float) -> str:
    return f"{100 * coverage:g} %"


def _entry(point: Point) -> Entry:
    if not point.accepted:
        return Entry("—", aside="accepts 0.0")
    low, high = (100 * limit for limit in point.interval)
    return Entry(
        f"{100 * point.risk:.1f}",
        f"[{low:.1f}, {high:.1f}]",
        f"{low:.0f}–{high:.0f}",
        f"accepts {100 * point.coverage:.1f}",
    )
