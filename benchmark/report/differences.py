"""McNemar's p-values as a heat map, and in words what this many samples can't tell apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from benchmark import significance
from benchmark.accuracy import Layout, ball_name
from benchmark.report.grid import Column, Field, Row, Table, heading
from benchmark.scores import Scores
from benchmark.significance import Verdicts
from benchmark.statistics import ALPHA

MOST_PAIRS = 8
"""Pairs that a sentence names before it only counts."""

_LEFT_OUT = "Without a number, so not compared:"
"""How the part of the explanation begins that grows with the table."""

_SHADES = ((0.01, "p-strong"), (0.05, "p-some"), (0.2, "p-weak"))
"""Holm's p-value up to which a field has which shade."""


@dataclass(frozen=True)
class Map:
    """One heat map and its sentence."""

    table: Table
    sentence: str


@dataclass(frozen=True)
class Differences:
    """All maps of a group, and how to read them; empty where there is nothing to compare.

    Args:
        left_out: what has no worst case over all attacks.
    """

    maps: tuple[Map, ...]
    explanation: str
    left_out: str


def differences(scores: Scores, layout: Layout) -> Differences:
    """One map per ball, and per way of counting where some defense can reject."""
    found = significance.verdicts(scores, layout)
    maps = tuple(
        Map(_table(verdict, f"mcnemar-{i}"), sentence(verdict, scores.n))
        for i, verdict in enumerate(found)
    )
    text = significance.explanation(scores, layout, found) if found else ""
    explanation, said, left_out = text.partition(_LEFT_OUT)
    return Differences(maps, explanation.strip(), said + left_out)


def sentence(verdict: Verdicts, n: int) -> str:
    """``cannot tell apart at n = 100: cnn and eabs (p = 0.21); ...``."""
    alike = [
        f"{comparison.first} and {comparison.second}"
        for comparison, adjusted in zip(verdict.comparisons, verdict.adjusted, strict=True)
        if adjusted > ALPHA
    ]
    ball = ball_name(verdict.norm, verdict.epsilon)
    if not alike:
        return f"{ball}: at n = {n} every pair can be told apart by {verdict.compared}."
    named = list(islice(alike, MOST_PAIRS))
    more = f"; and {len(alike) - len(named)} more" if len(alike) > len(named) else ""
    return (
        f"{ball}: cannot tell apart at n = {n} by {verdict.compared} "
        f"({len(alike)} of {len(verdict.comparisons)} pairs): {'; '.join(named)}{more}."
    )


def shade(adjusted: float) -> str:
    """The style sheet's class of a p-value."""
    return next((name for limit, name in _SHADES if adjusted <= limit), "p-none")


def _table(verdict: Verdicts, name: str) -> Table:
    columns: Sequence[str] = verdict.defenses[:-1]
    fields = {
        (comparison.second, comparison.first): Field(
            significance.p_text(adjusted) + (significance.MARK if adjusted <= ALPHA else ""),
            aside=f"{comparison.first_only} : {comparison.second_only}",
            tone=shade(adjusted),
        )
        for comparison, adjusted in zip(verdict.comparisons, verdict.adjusted, strict=True)
    }
    rows = tuple(
        Row((heading(row), *(fields.get((row, column), Field("")) for column in columns)))
        for row in verdict.defenses[1:]
    )
    ball = ball_name(verdict.norm, verdict.epsilon)
    caption = (
        f"{ball}: p-values of {verdict.compared} after Holm; below each, how many samples only the "
        "column's and only the row's defense got right"
    )
    heads = (Column("", numeric=False), *(Column(name) for name in columns))
    return Table(name, caption, heads, rows, sortable=False)
