"""Findings -> doubts in an accuracy table's fields."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from benchmark import published
from benchmark.accuracy import Layout, Row, rows
from benchmark.cells import CLEAN
from benchmark.diagnostics.finding import EVERY_RADIUS, Finding, Severity
from benchmark.doubts import Doubt, Doubts, Field
from benchmark.scores import Scores


def doubts(findings: Sequence[Finding], scores: Scores, layout: Layout) -> Doubts:
    """Where the findings that put a number in doubt are marked.

    A finding about an attack marks its field at the finding's radius, or at all radii if the table
    does not show that one; one about a defense marks its clean field and the worst case of every
    norm. The worst case carries besides what concerns it itself, and what concerns each of its
    attacks. A number is withheld where its attack is invalid; that of a worst case where all of
    its attacks are.

    Args:
        findings: of the table of these scores and this layout.
    """
    loud = [finding for finding in findings if finding.counts]
    marks: dict[Field, tuple[Doubt, ...]] = {}
    void: set[Field] = set()
    for row, defense in product(rows(scores, layout), scores.defenses):
        place = Field(defense, row.attack, row.norm, row.epsilon)
        own = [finding for finding in loud if _concerns(finding, place, layout)]
        shared = _shared(loud, place, scores, layout) if row.attack == published.ALL else {}
        found = [Doubt(finding.name, finding.footnote) for finding in own]
        found += [_of_all(same) for same in shared.values()]
        if found:
            marks[place] = tuple(found)
        is_void = any(
            finding.severity is Severity.INVALID
            for finding in (*(f for f in own if f.attack), *(same[0] for same in shared.values()))
        )
        if is_void and _has_number(row, scores, defense):
            void.add(place)
    return Doubts(marks, frozenset(void))


def _concerns(finding: Finding, place: Field, layout: Layout) -> bool:
    if finding.defense not in ("", place.defense):
        return False
    if not finding.attack:
        return place.attack in (CLEAN, published.ALL)
    if (finding.attack, finding.norm) != (place.attack, place.norm):
        return False
    shown = layout.radii[place.norm]
    is_shown = any(_same(finding.epsilon, epsilon) for epsilon in shown)
    if finding.epsilon == EVERY_RADIUS or not is_shown:
        return True
    return _same(finding.epsilon, place.epsilon)


def _shared(
    loud: Sequence[Finding], place: Field, scores: Scores, layout: Layout
) -> Mapping[str, list[Finding]]:
    """By rule, one finding for each attack under a worst case, where every one has some."""
    per_attack = [
        {
            finding.name: finding
            for finding in loud
            if finding.attack and _concerns(finding, place._replace(attack=attack), layout)
        }
        for attack in _measured(scores, place)
    ]
    if not per_attack:
        return {}
    common = [name for name in per_attack[0] if all(name in found for found in per_attack)]
    return {name: [found[name] for found in per_attack] for name in common}


def _measured(scores: Scores, place: Field) -> Iterator[str]:
    for attack in scores.attacks[place.norm]:
        if scores.score(place.defense, attack, place.norm, place.epsilon).measured:
            yield attack


def _of_all(findings: Sequence[Finding]) -> Doubt:
    """One footnote for what was seen under each attack."""
    first = findings[0]
    if len(findings) == 1:
        return Doubt(first.name, first.footnote)
    return Doubt(first.name, f"{first.name}: seen under every attack above; {first.advice}")


def _has_number(row: Row, scores: Scores, defense: str) -> bool:
    return row.score(scores, defense).measured


def _same(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-6)
