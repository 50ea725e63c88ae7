"""Which differences between defenses are real: McNemar's test on the worst case of each norm."""

from dataclasses import dataclass

import pandas as pd

from benchmark import statistics
from benchmark.accuracy import Layout, ball_name
from benchmark.scores import Scores
from benchmark.sheet import Entry, Line, Sheet
from benchmark.statistics import ALPHA, Comparison

MARK = " *"


@dataclass(frozen=True)
class Verdicts:
    """All pairs of defenses at one norm and epsilon.

    Args:
        defenses: those whose worst case is measured.
        comparisons: one per pair of them.
        adjusted: Holm's p-values of the comparisons, over all pairs of the whole table.
        cochran: statistic and p-value of Cochran's Q over the defenses.
    """

    norm: str
    epsilon: float
    defenses: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    adjusted: tuple[float, ...]
    cochran: tuple[float, float]


def verdicts(scores: Scores, layout: Layout) -> tuple[Verdicts, ...]:
    """One per norm and epsilon of the table at which two defenses or more are measured."""
    measured = []
    for norm, radii in layout.radii.items():
        for epsilon in radii:
            correct = scores.correct_under_all(norm, epsilon)
            cochran = statistics.cochrans_q(correct)
            if cochran is not None:
                found = tuple(statistics.compare(correct))
                measured.append((norm, epsilon, tuple(correct), found, cochran))
    pairs = [comparison for *_, found, _ in measured for comparison in found]
    adjusted = iter(statistics.holm([comparison.p_value for comparison in pairs]))
    return tuple(
        Verdicts(norm, epsilon, names, found, tuple(next(adjusted) for _ in found), cochran)
        for norm, epsilon, names, found, cochran in measured
    )


def matrix(verdict: Verdicts) -> Sheet:
    """The p-values, uncorrected, those significant after Holm marked; lower triangle."""
    rows, columns = verdict.defenses[1:], verdict.defenses[:-1]
    entries = {
        (comparison.second, comparison.first): Entry(
            p_text(comparison.p_value) + (MARK if adjusted <= ALPHA else "")
        )
        for comparison, adjusted in zip(verdict.comparisons, verdict.adjusted, strict=True)
    }
    lines = tuple(
        Line(row, tuple(entries.get((row, column), Entry("")) for column in columns))
        for row in rows
    )
    title = f"McNemar p-values, All {ball_name(verdict.norm, verdict.epsilon)}"
    return Sheet(title, columns, lines)


def explanation(scores: Scores, layout: Layout, found: tuple[Verdicts, ...]) -> str:
    """How to read the matrices, Cochran's Q, and what this many samples can't show."""
    pairs = sum(len(verdict.comparisons) for verdict in found)
    smallest = statistics.smallest_difference(scores.n)
    limit = (
        f"n = {scores.n} cannot tell apart differences below {smallest:.1f} points"
        if smallest is not None
        else f"n = {scores.n} cannot tell any two defenses apart"
    )
    cochran = "; ".join(
        f"All {ball_name(verdict.norm, verdict.epsilon, before_radius=' at ')}: "
        f"Q = {verdict.cochran[0]:.1f}, p {_relation(verdict.cochran[1])}"
        for verdict in found
    )
    left_out = [
        f"{defense} under All {ball_name(norm, epsilon)}"
        for norm, radii in layout.radii.items()
        for epsilon in radii
        for defense in scores.defenses
        if not scores.worst(defense, norm, epsilon).measured
    ]
    return (
        f"McNemar's test on the same samples, two-sided: exact below "
        f"{statistics.FEWEST_FOR_CHI_SQUARE} discordant samples, chi-square with continuity "
        f"correction from there on. An asterisk marks differences that are significant at "
        f"{ALPHA:g} after Holm's correction over {pairs} {'pair' if pairs == 1 else 'pairs'}. "
        f"Cochran's Q over all defenses: {cochran}. {limit}: "
        f"p <= {ALPHA:g} needs {statistics.fewest_discordant()} samples that one defense alone "
        f"gets right."
        + (f" Without a number, so not compared: {'; '.join(left_out)}." if left_out else "")
    )


def tidy(found: tuple[Verdicts, ...]) -> pd.DataFrame:
    """One row per pair, norm and epsilon."""
    return pd.DataFrame(
        [
            {
                "norm": verdict.norm,
                "epsilon": verdict.epsilon,
                "first": comparison.first,
                "second": comparison.second,
                "first_only": comparison.first_only,
                "second_only": comparison.second_only,
                "p_value": comparison.p_value,
                "p_holm": adjusted,
                "significant": adjusted <= ALPHA,
            }
            for verdict in found
            for comparison, adjusted in zip(verdict.comparisons, verdict.adjusted, strict=True)
        ]
    )


def p_text(p_value: float) -> str:
    """Three decimals; smaller ones as a bound."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _relation(p_value: float) -> str:
    return p_text(p_value) if p_value < 0.001 else f"= {p_text(p_value)}"
