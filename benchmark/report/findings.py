"""What the diagnostics say of the numbers, and how much of the group was probed at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import diagnostics, probes, records
from benchmark.accuracy import NORM_NAMES, Layout, ball_name
from benchmark.cells import CLEAN
from benchmark.diagnostics import EVERY_RADIUS, Finding
from benchmark.report.grid import Column, Field, Row, Table, heading
from benchmark.scores import Scores


@dataclass(frozen=True)
class Warnings:
    """The section of one group.

    Args:
        table: the findings; None where nothing was found.
        probed, cells: attacked cells with a probe, among all.
        known, defenses: defenses with a probe, among all.
    """

    table: Table | None
    probed: int
    cells: int
    known: int
    defenses: int


def warnings(scores: Scores, layout: Layout, folder: Path) -> Warnings:
    """Apply the rules, and count the probes.

    Args:
        folder: ``results/<dataset>/records``.

    Raises:
        ValueError: a probe is damaged.
    """
    attacked = [
        records.cell_of(m).id
        for m in scores.metadata
        if m["attack"] != CLEAN and not m["not_applicable"] and not m["error"]
    ]
    names = ("defense", "defense_repr", "weights_digest", "dataset_digest", "seed")
    asked = {probes.defense_id(*(m[name] for name in names)) for m in scores.metadata}
    found = diagnostics.diagnose(scores, layout, diagnostics.gather(scores, folder))
    return Warnings(
        _table(found) if found else None,
        sum(probes.of_cell(folder, cell) is not None for cell in attacked),
        len(attacked),
        sum(probes.of_defense(folder, id_) is not None for id_ in asked),
        len(asked),
    )


def _table(found: Sequence[Finding]) -> Table:
    heads = ("Defense", "Attack", "Ball", "Severity", "Warning", "What was seen", "What to do")
    rows = tuple(
        Row(
            (
                heading(each.defense),
                heading(each.attack or "all"),
                heading(_ball(each)),
                Field(str(each.severity), order=str(each.severity), tone="severity"),
                heading(each.name),
                heading(each.text),
                heading(each.advice),
            )
        )
        for each in found
    )
    columns = tuple(Column(name, numeric=False) for name in heads)
    return Table("findings", f"{len(found)} warnings", columns, rows)


def _ball(finding: Finding) -> str:
    if not finding.norm:
        return "—"
    if finding.epsilon == EVERY_RADIUS:
        return NORM_NAMES[finding.norm]
    return ball_name(finding.norm, finding.epsilon)
