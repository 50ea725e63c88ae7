"""The first table: per defense and ball, what was published and what attacks of each kind leave."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmark import gap, published
from benchmark.accuracy import Layout, ball_name
from benchmark.report.grid import Column, Field, Row, Table, heading, share
from benchmark.scores import ACCURACY, AGREEMENT, Score, Scores, split_key
from benchmark.sheet import Footnotes

NOTE = (
    "Published is what the paper printed for the worst of its attacks at this radius, or the "
    "lowest that it printed for one of ours. Oblivious attacks see the classifier inside the "
    "defense; adaptive ones go through the whole defense. Both are per-sample worst cases. Gap: "
    "oblivious minus adaptive, in points, or, where nobody attacked the classifier alone, "
    "published minus adaptive. A number after ≤ misses attacks that others faced, so the defense "
    "may be weaker."
)

_COLUMNS = (
    Column("Defense", numeric=False),
    *(Column(name) for name in ("Clean", "Published", "Oblivious", "Adaptive", "Gap")),
)


@dataclass(frozen=True)
class Board:
    """The tables of one group of records, a ball each, and their footnotes."""

    tables: tuple[Table, ...]
    footnotes: tuple[str, ...]


@dataclass(frozen=True)
class _Printed:
    """The lowest fitting number in the papers."""

    value: float
    source: str
    metric: str


def board(scores: Scores, layout: Layout) -> Board:
    """One table per ball of the layout; a defense that nobody attacked there has no row."""
    notes, tables = Footnotes(), list[Table]()
    for norm, radii in layout.radii.items():
        for epsilon in radii:
            rows = tuple(_rows(scores, layout, norm, epsilon, notes))
            if rows:
                name = f"leaderboard-{len(tables)}"
                caption = ball_name(norm, epsilon)
                tables.append(Table(name, caption, _COLUMNS, rows, scope="leaderboard"))
    return Board(tuple(tables), tuple(notes.texts))


def worst_of_run(
    scores: Scores, defense: str, attacks: tuple[str, ...], norm: str, epsilon: float
) -> tuple[Score, tuple[str, ...]]:
    """The worst case over those of some attacks that were run, and the others' names.

    Over fewer attacks the number is an upper bound; whoever shows it says so.
    """
    run = tuple(a for a in attacks if scores.score(defense, a, norm, epsilon).n)
    missing = tuple(a for a in attacks if a not in run)
    if not run:
        return Score(reason="not run"), missing
    return scores.worst(defense, norm, epsilon, run), missing


def _rows(
    scores: Scores, layout: Layout, norm: str, epsilon: float, notes: Footnotes
) -> Iterator[Row]:
    both = {each.defense: each for each in gap.sides(scores, layout) if _at(each, norm, epsilon)}
    for defense in scores.defenses:
        oblivious, adaptive = gap.protocols(scores, defense, norm)
        seen, unseen = worst_of_run(scores, defense, oblivious, norm, epsilon)
        adapted, missing = worst_of_run(scores, defense, adaptive, norm, epsilon)
        if not (seen.n or adapted.n):
            continue
        side = both.get(defense)
        printed = _printed(scores, layout, defense, norm, epsilon)
        yield Row(
            (
                heading(defense),
                share(scores.clean(defense)),
                _published(printed),
                _oblivious(side, seen, unseen, notes),
                _bound(adapted, missing, notes),
                _gap(side, seen, adapted, printed),
            )
        )


def _at(side: gap.Sides, norm: str, epsilon: float) -> bool:
    return (side.norm, side.epsilon) == (norm, epsilon)


def _bound(score: Score, missing: tuple[str, ...], notes: Footnotes, aside: str = "") -> Field:
    """A worst case that is marked where it misses attacks that others faced."""
    marks = [notes.mark(f"not run: {', '.join(missing)}")] if missing and score.n else []
    return share(score, aside=aside, marks=marks, prefix="≤ " if marks else "")


def _oblivious(
    side: gap.Sides | None, seen: Score, unseen: tuple[str, ...], notes: Footnotes
) -> Field:
    """What the paper counts; where that is agreement, the accuracy beside it, or it alone."""
    if side is None or side.agreement is None:
        return _bound(seen, unseen, notes)
    if not side.agreement.measured:
        return _bound(seen, unseen, notes, aside=ACCURACY if seen.measured else "")
    accuracy = f"accuracy {side.accuracy.accuracy:.1f}" if side.accuracy.measured else ""
    return share(side.agreement, aside=f"agreement; {accuracy}" if accuracy else "agreement")


def _published(printed: _Printed | None) -> Field:
    if printed is None:
        return Field("—")
    metric = f"{printed.metric}; " if printed.metric == AGREEMENT else ""
    return Field(f"{printed.value:g}", aside=f"{metric}{printed.source}", order=printed.value)


def _gap(side: gap.Sides | None, seen: Score, adapted: Score, printed: _Printed | None) -> Field:
    if not adapted.measured:
        return Field("—")
    if side is not None and side.gap is not None:
        return Field(f"{side.gap:.1f}", order=side.gap)
    if seen.measured:
        points = seen.accuracy - adapted.accuracy
        return Field(f"{points:.1f}", order=points)
    if printed is not None:
        points = printed.value - adapted.accuracy
        return Field(f"{points:.1f}", aside="to the paper", order=points)
    return Field("—")


def _printed(
    scores: Scores, layout: Layout, defense: str, norm: str, epsilon: float
) -> _Printed | None:
    """The paper's worst case, or the lowest of the numbers beside our attacks."""
    name = split_key(defense)[0]
    metrics = dict.fromkeys(["accuracy", scores.counts(defense) or "accuracy"])
    attacks = [(published.ALL, ""), *(split_key(key)[:2] for key in scores.attacks[norm])]
    found: list[tuple[bool, _Printed]] = []
    for label, surrogate in attacks:
        for metric in metrics:
            found += [
                (label != published.ALL, _Printed(each.value, each.source, metric))
                for each in published.lookup(
                    dataset=scores.dataset,
                    defense=name,
                    attack=layout.counterpart.attacks.get(label, label),
                    surrogate=surrogate,
                    norm=norm,
                    epsilon=epsilon,
                    metric=metric,
                    preferred=layout.counterpart.table,
                )
            ]
    if not found:
        return None
    return min(found, key=lambda each: (each[0], each[1].value))[1]
