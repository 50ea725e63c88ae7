"""The accuracy table: clean, each attack, the worst attack of each norm; a column per defense."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import pandas as pd

from benchmark import published
from benchmark.cells import CLEAN
from benchmark.doubts import ATTACK_INVALID, NO_DOUBTS, Doubts, Field
from benchmark.scores import Score, Scores, split_key
from benchmark.sheet import Entry, Footnotes, Line, Sheet

MOST_RADII = 3
NORM_NAMES = {
    "linf": "Linf",
    "l2": "L2",
    "l1": "L1",
    "l0": "L0",
    "unrestricted": "unrestricted",
}
"""In the order of the tables."""

_RATES = ("accuracy", "error", "rejection")
_WITHOUT = "accuracy_without_rejection"
"""Published metrics."""


@dataclass(frozen=True)
class Counterpart:
    """What is looked up among the published numbers, where a table has a counterpart.

    Args:
        table: paper and table in `published.results`, preferred where several printed a number.
        attacks: our attack label -> the paper's; others are looked up as they are.
    """

    table: tuple[str, str] = ("", "")
    attacks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """Which rows a table has and what they are called.

    Args:
        radii: epsilons shown, per norm in the order of the table.
        row_by: attack field that names the rows; empty names them by their attack and adds the
            worst case of each norm.
        counterpart: what is looked up among the published numbers.
    """

    radii: Mapping[str, tuple[float, ...]]
    row_by: str = ""
    counterpart: Counterpart = Counterpart()

    def row_name(self, attack: str) -> str:
        """``pgd-linf[steps=10]``, or ``steps = 10`` where rows are named by a field."""
        value = published.specification(split_key(attack)[0])[1].get(self.row_by)
        if value is None:
            return attack
        return f"{self.row_by} = {value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Row:
    """One row of the table: an attack, or the worst of a norm (attack ``all``), at one radius."""

    name: str
    attack: str
    norm: str = ""
    epsilon: float = 0.0

    def score(self, scores: Scores, defense: str) -> Score:
        """What the records say in this row's field of a defense."""
        if self.attack == CLEAN:
            return scores.clean(defense)
        if self.attack == published.ALL:
            return scores.worst(defense, self.norm, self.epsilon)
        return scores.score(defense, self.attack, self.norm, self.epsilon)


def choose_radii(
    scores: Scores, wanted: Mapping[str, tuple[float, ...]] | None = None
) -> dict[str, tuple[float, ...]]:
    """Which epsilons of the records the table shows, per norm in the order of the table.

    Args:
        wanted: per norm; norms not named, and None, show all radii, but of a sweep over more than
            three only those that a paper printed for the data set, else the middle one.

    Raises:
        ValueError: a wanted epsilon is not in the records.
    """
    chosen = {}
    for norm in sorted(scores.attacks, key=list(NORM_NAMES).index):
        present = scores.radii(norm)
        if wanted is not None and norm in wanted:
            chosen[norm] = tuple(_nearest(present, epsilon, norm) for epsilon in wanted[norm])
        elif len(present) <= MOST_RADII:
            chosen[norm] = present
        else:
            printed = published.radii(scores.dataset, norm)
            matching = [p for p in present if any(abs(p - q) <= 1e-4 * q for q in printed)]
            chosen[norm] = tuple(matching or [present[len(present) // 2]])
    return chosen


def rows(scores: Scores, layout: Layout) -> Iterator[Row]:
    """The table's rows from top to bottom."""
    yield Row("Clean", CLEAN)
    for norm, radii in layout.radii.items():
        for epsilon in radii:
            for attack in scores.attacks[norm]:
                yield Row(layout.row_name(attack), attack, norm, epsilon)
            if not layout.row_by:
                yield Row(f"All {NORM_NAMES[norm]}", published.ALL, norm, epsilon)


def accuracy_sheet(scores: Scores, layout: Layout, title: str, doubts: Doubts = NO_DOUBTS) -> Sheet:
    """Accuracies with their Wilson intervals, the published number beside each.

    Args:
        doubts: become footnotes; a number that they withhold does not appear.
    """
    notes = Footnotes()

    def entry(row: Row, defense: str) -> Entry:
        score = row.score(scores, defense)
        printed = _printed(scores, layout, row, defense)
        place = Field(defense, row.attack, row.norm, row.epsilon)
        remarks = [_remark(scores, row, defense, score), *_caveats(scores, layout, row, defense)]
        remarks += [doubt.footnote for doubt in doubts.marks.get(place, ())]
        marks = tuple(notes.mark(remark) for remark in remarks if remark)
        aside = f"paper {', '.join(f'{number.value:g}' for number in printed)}" if printed else ""
        if not score.measured:
            return Entry(score.state, aside=aside, marks=marks)
        if place in doubts.void:
            return Entry(ATTACK_INVALID, aside=aside, marks=marks)
        low, high = score.interval
        wide, brief = f"[{low:.1f}, {high:.1f}]", f"{low:.0f}–{high:.0f}"
        return Entry(f"{score.accuracy:.1f}", wide, brief, aside, marks)

    lines = _lines(scores, layout, entry)
    return Sheet(title, scores.defenses, lines, tuple(notes.texts))


def rejection_sheet(
    scores: Scores, layout: Layout, title: str, doubts: Doubts = NO_DOUBTS
) -> Sheet:
    """Accuracy, error and rejection rate in percent; they add up to 100.

    Without columns where no defense can reject. Of the doubts those that withhold a number count.
    """
    notes = Footnotes()

    def entry(row: Row, defense: str) -> Entry:
        score = row.score(scores, defense)
        printed = [_printed(scores, layout, row, defense, metric) for metric in _RATES]
        values = ["/".join(f"{number.value:g}" for number in found) or "–" for found in printed]
        told = any(printed[1:])
        aside = f"paper {' / '.join(values)}" if told else ""
        caveats = _caveats(scores, layout, row, defense, _RATES) if told else []
        marks = tuple(notes.mark(text) for text in caveats)
        if not score.measured:
            return Entry(score.state, aside=aside, marks=marks)
        if Field(defense, row.attack, row.norm, row.epsilon) in doubts.void:
            return Entry(ATTACK_INVALID, aside=aside, marks=marks)
        counts = (score.correct, score.wrong, score.rejected)
        text = " / ".join(f"{100 * count / score.n:.1f}" for count in counts)
        return Entry(text, aside=aside, marks=marks)

    lines = _lines(scores, layout, entry)
    columns = scores.defenses if scores.rejecting else ()
    return Sheet(title, columns, lines, tuple(notes.texts))


def tidy(scores: Scores, layout: Layout, doubts: Doubts = NO_DOUBTS) -> pd.DataFrame:
    """One row per field of the table: percentages, published numbers, and what to know of them."""
    found = []
    coverage = {defense: _coverage(scores.clean(defense)) for defense in scores.defenses}
    bare = {defense: scores.without_thresholds(defense) for defense in scores.defenses}
    for row, defense in product(rows(scores, layout), scores.defenses):
        score = row.score(scores, defense)
        printed = _printed(scores, layout, row, defense)
        place = Field(defense, row.attack, row.norm, row.epsilon)
        is_shown = score.measured and place not in doubts.void
        low, high = score.interval if is_shown else (None, None)
        attack, surrogate, configuration = split_key(row.attack)
        remarks = [
            score.state if score.n else "",
            _remark(scores, row, defense, score),
            *_caveats(scores, layout, row, defense, _RATES),
            ATTACK_INVALID if place in doubts.void else "",
            *(doubt.name for doubt in doubts.marks.get(place, ())),
        ]
        share = 100 / score.n if is_shown else None
        is_clean = row.attack == CLEAN and bare[defense].measured
        accepted = coverage[defense]
        theirs = {
            f"published_{metric}": " ".join(
                f"{number.value:g}" for number in _printed(scores, layout, row, defense, metric)
            )
            for metric in (*_RATES[1:], _WITHOUT)
        }
        found.append(
            {
                "dataset": scores.dataset,
                "defense": defense,
                "attack": f"{attack} ({configuration})" if configuration else attack,
                "surrogate": surrogate,
                "norm": row.norm,
                "epsilon": row.epsilon,
                "n": score.n,
                "accuracy": share and share * score.correct,
                "low": low,
                "high": high,
                "error": share and share * score.wrong,
                "rejection": share and share * score.rejected,
                "clean_coverage": accepted.accuracy if accepted else None,
                _WITHOUT: bare[defense].accuracy if is_clean else None,
                "published": " ".join(f"{number.value:g}" for number in printed),
                **theirs,
                "note": "; ".join(remark for remark in remarks if remark),
            }
        )
    shares = ["accuracy", "low", "high", "error", "rejection", "clean_coverage", _WITHOUT]
    frame = pd.DataFrame(found)
    return frame.assign(**frame[shares].astype(float).round(4))


def _lines(scores: Scores, layout: Layout, entry: Callable[[Row, str], Entry]) -> tuple[Line, ...]:
    lines, ball = [], ("", 0.0)
    for row in rows(scores, layout):
        if ball != (row.norm, row.epsilon):
            ball = (row.norm, row.epsilon)
            brief = ball_name(*ball, before_radius=" ")
            lines.append(Line(ball_name(*ball), brief=brief))
        lines.append(Line(row.name, tuple(entry(row, defense) for defense in scores.defenses)))
        if row.attack == CLEAN and scores.rejecting:
            lines += _refusal_lines(scores, layout)
    return tuple(lines)


def _refusal_lines(scores: Scores, layout: Layout) -> Iterator[Line]:
    """How much of the clean images is answered at all, and how well without refusing."""
    clean = Row("Clean", CLEAN)
    found: dict[str, list[Entry]] = {"Clean coverage": [], "Clean, without thresholds": []}
    for defense in scores.defenses:
        refused = _printed(scores, layout, clean, defense, "rejection")
        accepted = [f"{100 - number.value:g}" for number in refused]
        bare = _printed(scores, layout, clean, defense, _WITHOUT)
        found["Clean coverage"].append(_share(_coverage(scores.clean(defense)), accepted))
        found["Clean, without thresholds"].append(
            _share(scores.without_thresholds(defense), [f"{number.value:g}" for number in bare])
        )
    for label, entries in found.items():
        yield Line(label, tuple(entries))


def _coverage(clean: Score) -> Score | None:
    """The score whose accuracy is the share that is accepted; None without a number."""
    if not clean.measured:
        return None
    return Score(correct=clean.n - clean.rejected, rejected=clean.rejected)


def _share(score: Score | None, printed: list[str]) -> Entry:
    aside = f"paper {', '.join(printed)}" if printed else ""
    if score is None or not score.measured:
        return Entry(score.state if score else "—", aside=aside)
    low, high = score.interval
    wide, brief = f"[{low:.1f}, {high:.1f}]", f"{low:.0f}–{high:.0f}"
    return Entry(f"{score.accuracy:.1f}", wide, brief, aside)


def ball_name(norm: str, epsilon: float, *, before_radius: str = ", epsilon = ") -> str:
    """``Linf, epsilon = 8/255``; the norm alone where the radius is infinite."""
    name = NORM_NAMES[norm]
    return f"{name}{before_radius}{radius_text(epsilon)}" if math.isfinite(epsilon) else name


def radius_text(epsilon: float) -> str:
    """A radius as papers print it: 0.3, 1.5, 8/255."""
    levels = epsilon * 255
    is_short = math.isclose(epsilon, round(epsilon, 3), rel_tol=1e-9)
    if not is_short and math.isclose(levels, round(levels), rel_tol=1e-6):
        return f"{round(levels)}/255"
    return f"{epsilon:.4g}"


def _printed(
    scores: Scores, layout: Layout, row: Row, defense: str, metric: str = "accuracy"
) -> tuple[published.Published, ...]:
    label, surrogate, _ = split_key(row.attack)
    return published.lookup(
        dataset=scores.dataset,
        defense=split_key(defense)[0],
        attack=layout.counterpart.attacks.get(label, label),
        surrogate=surrogate,
        norm=row.norm,
        epsilon=row.epsilon,
        metric=metric,
        preferred=layout.counterpart.table,
    )


def _remark(scores: Scores, row: Row, defense: str, score: Score) -> str:
    """What a reader must know about our number, or about its absence."""
    if score.reason:
        return f"{'no number' if score.applicable else 'not applicable'}: {score.reason}"
    if row.attack != published.ALL:
        return ""
    left_out = [a for a in scores.attacks[row.norm] if (defense, a) in scores.not_applicable]
    return f"without {', '.join(left_out)}: not applicable" if left_out else ""


def _caveats(
    scores: Scores,
    layout: Layout,
    row: Row,
    defense: str,
    metrics: tuple[str, ...] = ("accuracy",),
) -> list[str]:
    """What a reader must know about the published numbers."""
    printed = tuple(
        number for metric in metrics for number in _printed(scores, layout, row, defense, metric)
    )
    found = [f"{number.source}: {number.caveat}" for number in printed if number.caveat]
    conditions = {
        name: value
        for number in printed
        for name, value in number.parameters.items()
        if name not in published.specification(split_key(row.attack)[0])[1]
    }
    if conditions:
        stated = ", ".join(f"{name} = {value:g}" for name, value in conditions.items())
        found.append(f"published with {stated}")
    found = list(dict.fromkeys(found))
    if printed and row.attack == published.ALL:
        theirs = published.attacks_under_all(scores.dataset, row.norm, split_key(defense)[0])
        ours = [split_key(attack)[:2] for attack in scores.attacks[row.norm]]
        same = len(ours) == len(theirs) and all(
            any(not view and published.covers(attack, name) for attack, view in ours)
            for name in theirs
        )
        if not same:
            norm = NORM_NAMES[row.norm]
            found.append(f"the paper's All {norm} is over {', '.join(sorted(theirs))}")
    return found


def _nearest(present: tuple[float, ...], wanted: float, norm: str) -> float:
    for epsilon in present:
        if math.isclose(epsilon, wanted, rel_tol=1e-6):
            return epsilon
    raise ValueError(
        f"epsilon of {norm} must be one of {', '.join(map(radius_text, present)) or 'none'} "
        f"in these records, got {radius_text(wanted)}; run the benchmark with it first"
    )
