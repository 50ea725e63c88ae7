"""What the diagnostics say of the numbers, and how much of the group was probed at all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmark import probes, records
from benchmark.accuracy import Layout, ball_name
from benchmark.cells import CLEAN
from benchmark.report.grid import Column, Field, Row, Table, heading
from benchmark.scores import Scores


class Finding(Protocol):
    """One thing a rule has found; an empty attack or norm speaks of the whole defense."""

    @property
    def name(self) -> str:
        """The rule."""
        ...

    @property
    def defense(self) -> str:
        """Its key."""
        ...

    @property
    def attack(self) -> str:
        """Its key."""
        ...

    @property
    def norm(self) -> str:
        """Of the ball."""
        ...

    @property
    def epsilon(self) -> float:
        """Of the ball."""
        ...

    @property
    def text(self) -> str:
        """What was seen."""
        ...

    @property
    def advice(self) -> str:
        """What to do."""
        ...

    @property
    def severity(self) -> str:
        """How much the number suffers."""
        ...


Diagnose = Callable[[Scores, Layout, Path], Sequence[Finding]]
"""Scores, layout and the folder of the records -> what the rules find."""


@dataclass(frozen=True)
class Diagnosis:
    """The section of one group.

    Args:
        table: the findings; None where nothing was found, or nobody asked.
        asked: whether rules were applied.
        probed, cells: attacked cells with a probe, among all.
        known, defenses: defenses with a probe, among all.
    """

    table: Table | None
    asked: bool
    probed: int
    cells: int
    known: int
    defenses: int


def diagnosis(scores: Scores, layout: Layout, folder: Path, diagnose: Diagnose | None) -> Diagnosis:
    """Apply the rules, and count the probes.

    Args:
        folder: ``results/<dataset>/records``.
        diagnose: the rules; None for none.

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
    found = () if diagnose is None else tuple(diagnose(scores, layout, folder))
    return Diagnosis(
        _table(found) if found else None,
        diagnose is not None,
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
                heading(ball_name(each.norm, each.epsilon) if each.norm else "—"),
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
