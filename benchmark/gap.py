"""Both protocols side by side: what a defense's paper reports, and what adaptive attacks leave.

    published protocol   attacks on the classifier inside the defense; what the paper counts:
                         of a purifier agreement with its clean prediction, else accuracy
    adaptive             attacks through the whole defense; accuracy against the label

Both are worst cases per sample over the attacks of their kind at one radius. The gap is published
protocol minus adaptive, in points. Attacks that transfer from another defense are of neither kind.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd

from benchmark import published
from benchmark.accuracy import Layout, ball_name
from benchmark.agreement import OBLIVIOUS, agreement
from benchmark.scores import ACCURACY, AGREEMENT, Score, Scores, split_key
from benchmark.sheet import Entry, Footnotes, Line, Sheet

TRANSFERRED = "transfer-"
"""How the names of attacks begin that were aimed at another defense."""

_COUNTED = {
    AGREEMENT: "*Published*: attacks on the bare classifier, agreement with its clean prediction. "
    "*Same attacks*: the same points against the label. ",
    ACCURACY: "*Published*: attacks on the bare classifier, accuracy against the label. ",
}
_BOTH = (
    "*Published*: attacks on the bare classifier, agreement with its clean prediction or accuracy "
    "against the label, as the defense's paper counts. *Same attacks*: the points of the former "
    "against the label. "
)
_READING = (
    "*Adaptive*: attacks through the whole "
    "defense, against the label. Each is the per-sample worst case over its attacks, in percent "
    "with its 95 % Wilson interval; the gap is published minus adaptive, in points. In "
    "parentheses the lowest and highest that the paper printed for a single attack of the kind."
)


@dataclass(frozen=True)
class Sides:
    """One defense at one radius, judged both ways.

    Args:
        oblivious: keys of the attacks on the bare classifier.
        adaptive: keys of those through the defense.
        agreement: under the oblivious ones, with the bare classifier's clean prediction; None where
            the paper counts accuracy.
        accuracy: under the same, against the label.
        adapted: accuracy under the adaptive ones.
    """

    defense: str
    norm: str
    epsilon: float
    oblivious: tuple[str, ...]
    adaptive: tuple[str, ...]
    agreement: Score | None
    accuracy: Score
    adapted: Score

    @property
    def published(self) -> Score:
        """What the paper counts."""
        return self.accuracy if self.agreement is None else self.agreement

    @property
    def gap(self) -> float | None:
        """Points between the two protocols; None where one has no number."""
        if not (self.published.measured and self.adapted.measured):
            return None
        return self.published.accuracy - self.adapted.accuracy


def sides(scores: Scores, layout: Layout) -> tuple[Sides, ...]:
    """Every defense around a classifier at every radius where it faced attacks of both kinds.

    Agreement needs the bare classifier among the defenses.
    """
    balls = [(norm, epsilon) for norm, radii in layout.radii.items() for epsilon in radii]
    return tuple(
        found
        for (norm, epsilon), defense in product(balls, scores.defenses)
        if scores.counts(defense) == ACCURACY or scores.reference(defense)
        if (found := _both(scores, defense, norm, epsilon)) is not None
    )


def gap_sheet(scores: Scores, layout: Layout, title: str) -> Sheet:
    """The sides below each other, a column per defense; without columns where there are none."""
    found = {(each.norm, each.epsilon, each.defense): each for each in sides(scores, layout)}
    columns = tuple(dict.fromkeys(defense for *_, defense in found))
    notes, lines = Footnotes(), []
    for norm, epsilon in dict.fromkeys((norm, epsilon) for norm, epsilon, _ in found):
        row = [found.get((norm, epsilon, defense)) for defense in columns]
        brief = ball_name(norm, epsilon, before_radius=" ")
        lines.append(Line(ball_name(norm, epsilon), brief=brief))
        for label, entries in _lines(scores, layout, row, notes):
            lines.append(Line(label, tuple(entries)))
    return Sheet(title, columns, tuple(lines), tuple(notes.texts))


def note(scores: Scores, layout: Layout) -> str:
    """How to read the sheet."""
    counted = {scores.counts(each.defense) for each in sides(scores, layout)}
    first = _COUNTED[counted.pop()] if len(counted) == 1 else _BOTH
    return first + _READING


def tidy(scores: Scores, layout: Layout) -> pd.DataFrame:
    """One row per defense and radius; percentages, the gap in points."""
    rows = [
        {
            "dataset": scores.dataset,
            "defense": each.defense,
            "classifier": scores.reference(each.defense),
            "norm": each.norm,
            "epsilon": each.epsilon,
            "n": scores.n,
            "oblivious_attacks": " ".join(each.oblivious),
            **_columns("oblivious_agreement", each.agreement),
            **_columns("oblivious_accuracy", each.accuracy),
            "adaptive_attacks": " ".join(each.adaptive),
            **_columns("adaptive_accuracy", each.adapted),
            "gap": None if each.gap is None else round(each.gap, 4),
        }
        for each in sides(scores, layout)
    ]
    return pd.DataFrame(rows)


def protocols(scores: Scores, defense: str, norm: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys of the attacks on the classifier inside a defense, and of those through it.

    Attacks that do not apply to it, and those that transfer, are in neither.
    """
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for attack in scores.attacks[norm]:
        name, surrogate, _ = split_key(attack)
        applies = (defense, attack) not in scores.not_applicable
        if applies and not name.startswith(TRANSFERRED):
            kinds[surrogate == OBLIVIOUS].append(attack)
    return tuple(kinds[True]), tuple(kinds[False])


def _both(scores: Scores, defense: str, norm: str, epsilon: float) -> Sides | None:
    oblivious, adaptive = protocols(scores, defense, norm)
    if not (oblivious and adaptive):
        return None
    agrees = scores.counts(defense) == AGREEMENT
    return Sides(
        defense,
        norm,
        epsilon,
        oblivious,
        adaptive,
        agreement(scores, defense, oblivious, norm, epsilon) if agrees else None,
        scores.worst(defense, norm, epsilon, oblivious),
        scores.worst(defense, norm, epsilon, adaptive),
    )


def _lines(
    scores: Scores, layout: Layout, row: Sequence[Sides | None], notes: Footnotes
) -> Iterator[tuple[str, list[Entry]]]:
    """The lines of one ball; those of a way of counting only where some defense counts so."""
    agreeing = [each if each and each.agreement is not None else None for each in row]
    counting = [each if each and each.agreement is None else None for each in row]
    for counted, found in ((AGREEMENT, agreeing), (ACCURACY, counting)):
        if any(found):
            yield (
                f"Published: {counted}",
                [_reported(scores, layout, side, notes) for side in found],
            )
    if any(agreeing):
        same = [each.accuracy if each else None for each in agreeing]
        yield "Same attacks: accuracy", [_entry(score, "", notes) for score in same]
    adapted = [each.adapted if each else None for each in row]
    yield "Adaptive: accuracy", [_entry(score, "", notes) for score in adapted]
    gaps = [each.gap if each else None for each in row]
    yield "Gap, points", [Entry("—" if gap is None else f"{gap:.1f}") for gap in gaps]


def _reported(scores: Scores, layout: Layout, side: Sides | None, notes: Footnotes) -> Entry:
    aside = _printed(scores, layout, side) if side else ""
    return _entry(side.published if side else None, aside, notes)


def _entry(score: Score | None, aside: str, notes: Footnotes) -> Entry:
    if score is None:
        return Entry("—")
    if not score.measured:
        marks = (notes.mark(f"no number: {score.reason}"),) if score.reason else ()
        return Entry(score.state, aside=aside, marks=marks)
    low, high = score.interval
    wide, brief = f"[{low:.1f}, {high:.1f}]", f"{low:.0f}–{high:.0f}"
    return Entry(f"{score.accuracy:.1f}", wide, brief, aside)


def _printed(scores: Scores, layout: Layout, found: Sides) -> str:
    """The range of what the paper printed for the oblivious attacks, one by one."""
    values = []
    for attack in found.oblivious:
        label, surrogate, _ = split_key(attack)
        values += [
            number.value
            for number in published.lookup(
                dataset=scores.dataset,
                defense=split_key(found.defense)[0],
                attack=layout.counterpart.attacks.get(label, label),
                surrogate=surrogate,
                norm=found.norm,
                epsilon=found.epsilon,
                metric=scores.counts(found.defense),
                preferred=layout.counterpart.table,
            )
        ]
    ends = dict.fromkeys((min(values), max(values))) if values else ()
    return f"paper {' to '.join(f'{value:g}' for value in ends)}" if values else ""


def _columns(name: str, score: Score | None) -> dict[str, float | None]:
    measured = score is not None and score.measured
    values = (score.accuracy, *score.interval) if score and measured else (None, None, None)
    shares = [None if value is None else round(value, 4) for value in values]
    return dict(zip((name, f"{name}_low", f"{name}_high"), shares, strict=True))
