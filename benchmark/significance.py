"""Which differences between defenses are real: McNemar's test on the worst case of each norm.

`indistinguishable` is the reverse: which are not, and how many samples would show them.

A defense that may refuse is compared twice: by its correct answers, where refusing counts against
it, and by its accepted errors, where it does not.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import pandas as pd

from benchmark import statistics
from benchmark.accuracy import Layout, ball_name
from benchmark.records import Outcome
from benchmark.scores import Scores
from benchmark.sheet import Entry, Line, Sheet
from benchmark.statistics import ALPHA, Comparison

MARK = " *"

CORRECT_ANSWERS = "correct answers"
ACCEPTED_ERRORS = "accepted errors"
GOOD = {
    CORRECT_ANSWERS: (Outcome.CORRECT,),
    ACCEPTED_ERRORS: (Outcome.CORRECT, Outcome.REJECTED),
}
"""What is compared -> the outcomes that count for the defense: an accepted error is any other."""


@dataclass(frozen=True)
class Verdicts:
    """All pairs of defenses at one norm and epsilon.

    Args:
        compared: `CORRECT_ANSWERS` or `ACCEPTED_ERRORS`.
        defenses: those whose worst case is measured.
        comparisons: one per pair of them.
        adjusted: Holm's p-values of the comparisons, over all pairs of the whole table.
        cochran: statistic and p-value of Cochran's Q over the defenses.
        n: samples.
    """

    compared: str
    norm: str
    epsilon: float
    defenses: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    adjusted: tuple[float, ...]
    cochran: tuple[float, float]
    n: int

    @property
    def place(self) -> str:
        """``All L2, epsilon = 1.5``, with what is compared where that is not `CORRECT_ANSWERS`."""
        ball = f"All {ball_name(self.norm, self.epsilon)}"
        return ball if self.compared == CORRECT_ANSWERS else f"{ball}, {self.compared}"


@dataclass(frozen=True)
class Group:
    """Defenses of which no two can be told apart.

    Args:
        defenses: two or more, in the table's order.
        fewest, most: samples that would show the largest and the smallest of the differences seen
            between them; None where no two of them differ at all.
        equal: some two of them have the same number of good samples, which no number would show.
    """

    defenses: tuple[str, ...]
    fewest: int | None
    most: int | None
    equal: bool


@dataclass(frozen=True)
class Unresolved:
    """What the samples cannot tell apart at one norm and epsilon.

    Args:
        compared, norm, epsilon, place: as in `Verdicts`.
        n: samples.
        defenses: all that were compared.
        groups: the largest possible; a defense may be in several. Empty where every pair differs.
    """

    compared: str
    norm: str
    epsilon: float
    place: str
    n: int
    defenses: tuple[str, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Limit:
    """What this many samples can show at best.

    Args:
        n: samples.
        smallest: difference of two accuracies, in points, below which no pair can be significant;
            None where none can be.
        discordant: samples that one defense alone must get right for that.
        alpha: level of the test, before Holm's correction.
    """

    n: int
    smallest: float | None
    discordant: int
    alpha: float


def verdicts(scores: Scores, layout: Layout) -> tuple[Verdicts, ...]:
    """One per norm and epsilon of the table at which two defenses or more are measured.

    Accepted errors are compared only where some defense can reject.
    """
    measured = []
    for compared in GOOD if scores.rejecting else (CORRECT_ANSWERS,):
        for norm, epsilon in ((norm, e) for norm, radii in layout.radii.items() for e in radii):
            good = scores.under_all(norm, epsilon, GOOD[compared])
            cochran = statistics.cochrans_q(good)
            if cochran is not None:
                found = tuple(statistics.compare(good))
                measured.append((compared, norm, epsilon, tuple(good), found, cochran))
    pairs = [comparison for *_, found, _ in measured for comparison in found]
    adjusted = iter(statistics.holm([comparison.p_value for comparison in pairs]))
    return tuple(
        Verdicts(
            compared,
            norm,
            epsilon,
            names,
            found,
            tuple(islice(adjusted, len(found))),
            cochran,
            scores.n,
        )
        for compared, norm, epsilon, names, found, cochran in measured
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
    ball = ball_name(verdict.norm, verdict.epsilon)
    title = f"McNemar p-values of {verdict.compared}, All {ball}"
    return Sheet(title, columns, lines)


def limit(n: int) -> Limit:
    """The smallest difference that n samples can show."""
    smallest = statistics.smallest_difference(n)
    return Limit(n, smallest, statistics.fewest_discordant(), ALPHA)


def indistinguishable(found: Sequence[Verdicts]) -> tuple[Unresolved, ...]:
    """Per norm and epsilon, the defenses that the test cannot separate after Holm's correction.

    Sample numbers are `statistics.samples_needed` at the strictest of Holm's levels, alpha over
    all pairs of the table, from the shares seen here: an estimate, as unsure as these are.

    Args:
        found: all of a table, as `verdicts` returns them.
    """
    pairs = sum(len(verdict.comparisons) for verdict in found)
    results = []
    for verdict in found:
        needed = {
            frozenset((comparison.first, comparison.second)): _needed(comparison, verdict.n, pairs)
            for comparison, adjusted in zip(verdict.comparisons, verdict.adjusted, strict=True)
            if adjusted > ALPHA
        }
        results.append(
            Unresolved(
                verdict.compared,
                verdict.norm,
                verdict.epsilon,
                verdict.place,
                verdict.n,
                verdict.defenses,
                tuple(_group(names, needed) for names in _cliques(verdict.defenses, needed)),
            )
        )
    return tuple(results)


def in_words(unresolved: Unresolved) -> str:
    """``Cannot tell these apart at n = 100, All L2, epsilon = 1.5: abs and eabs (about ...).``"""
    where = f"at n = {unresolved.n}, {unresolved.place}"
    if not unresolved.groups:
        several = "Every two of these differ" if len(unresolved.defenses) > 2 else "These differ"
        return f"{several} {where}: {_listed(unresolved.defenses)}."
    groups = "; ".join(
        f"{_listed(group.defenses)} ({_samples(group)})" for group in unresolved.groups
    )
    return f"Cannot tell these apart {where}: {groups}."


def _needed(comparison: Comparison, n: int, pairs: int) -> int | None:
    """More than n for a difference that n samples do not show, as the tests say."""
    shares = comparison.first_only / n, comparison.second_only / n
    return statistics.samples_needed(*shares, alpha=ALPHA / pairs)


def _group(names: tuple[str, ...], needed: Mapping[frozenset[str], int | None]) -> Group:
    counts = [needed[frozenset(pair)] for pair in combinations(names, 2)]
    known = [count for count in counts if count is not None]
    return Group(
        names, min(known, default=None), max(known, default=None), equal=len(known) < len(counts)
    )


def _cliques(
    names: Sequence[str], edges: Collection[frozenset[str]]
) -> tuple[tuple[str, ...], ...]:
    """The largest groups in which every pair is an edge (Bron & Kerbosch 1973), in names' order."""
    neighbours = {a: {b for b in names if frozenset((a, b)) in edges and a != b} for a in names}
    found = []

    def extend(group: frozenset[str], candidates: set[str], done: set[str]) -> None:
        if not candidates and not done and len(group) > 1:
            found.append(tuple(name for name in names if name in group))
        for name in [name for name in names if name in candidates]:
            extend(group | {name}, candidates & neighbours[name], done & neighbours[name])
            candidates, done = candidates - {name}, done | {name}

    extend(frozenset(), set(names), set())
    return tuple(sorted(found, key=lambda group: [names.index(name) for name in group]))


def _samples(group: Group) -> str:
    if group.fewest is None or group.most is None:
        return "no difference seen"
    fewest, most = _about(group.fewest), _about(group.most)
    if group.equal:
        return f"about {fewest} samples or more"
    return f"about {fewest} samples" if fewest == most else f"about {fewest} to {most} samples"


def _about(count: int) -> str:
    """Two significant digits, rounded up: more would claim what an estimate does not know."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return f"{math.ceil(count / unit) * unit:,}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])


def explanation(scores: Scores, layout: Layout, found: tuple[Verdicts, ...]) -> str:
    """How to read the matrices, Cochran's Q, and what this many samples can't show, as a list."""
    pairs = sum(len(verdict.comparisons) for verdict in found)
    best = limit(scores.n)
    reach = (
        f"n = {scores.n} cannot tell apart differences below {best.smallest:.1f} points"
        if best.smallest is not None
        else f"n = {scores.n} cannot tell any two defenses apart"
    )
    cochran = "; ".join(
        f"All {ball_name(verdict.norm, verdict.epsilon, before_radius=' at ')}"
        f"{f', {verdict.compared}' if scores.rejecting else ''}: "
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
        f"Cochran's Q over all defenses: {cochran}. {reach}: "
        f"p <= {ALPHA:g} needs {best.discordant} samples that one defense alone "
        f"gets right."
        + (_BOTH if scores.rejecting else "")
        + (f" Without a number, so not compared: {'; '.join(left_out)}." if left_out else "")
        + f"\n\n{_NEEDED}\n\n"
        + "\n".join(f"- {in_words(unresolved)}" for unresolved in indistinguishable(found))
    )


_NEEDED = (
    "What this comes to, with the samples that would show differences of the size seen here "
    f"(Connor 1987, with the test's continuity correction; chance {statistics.POWER:g}, level "
    f"{ALPHA:g} divided by the number of pairs; as unsure as the differences are):"
)
_BOTH = (
    " An accepted error is a wrong answer that is not rejected: a defense that rejects everything "
    "makes none, and gives no correct answer either; read both tests together."
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
