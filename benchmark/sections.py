"""What is said about one group of records: the accuracy table, and further tables where they apply.

`benchmark.tables` writes it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import (
    accounting,
    accuracy,
    agreement,
    diagnostics,
    gap,
    luck,
    overpowered,
    scores,
    selective,
    significance,
)
from benchmark.accuracy import Counterpart, Layout
from benchmark.diagnostics import Diagnosis
from benchmark.doubts import Doubts
from benchmark.overpowered import Flags
from benchmark.scores import Scores
from benchmark.sheet import Sheet

_REFUSALS = (
    "*Clean coverage* is the share of clean images that is accepted: a defense may be robust by "
    "refusing, and this is what it costs. *Without thresholds* is the accuracy on clean images had "
    "nothing been refused."
)

NO_COUNTERPART = Counterpart()

Radii = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Section:
    """A further table, and how to read it."""

    heading: str
    table: Sheet
    note: str


@dataclass(frozen=True)
class Account:
    """Everything that is said about one group of records.

    Args:
        everything: all columns of the records.
        scores: those of deployed defenses; a substitute's answers to purified images are in the
            agreement table alone.
        doubts: the diagnosis, by field of the table.
    """

    everything: Scores
    scores: Scores
    layout: Layout
    table: Sheet
    sections: tuple[Section, ...]
    verdicts: tuple[significance.Verdicts, ...]
    diagnosis: Diagnosis
    doubts: Doubts

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """Accuracy, then what else there is to say about some of the defenses."""
        return (self.table, *(section.table for section in self.sections))

    @property
    def matrices(self) -> tuple[Sheet, ...]:
        """McNemar's p-values."""
        return tuple(significance.matrix(verdict) for verdict in self.verdicts)

    @property
    def explanation(self) -> str:
        """What belongs below the matrices; empty where there are none."""
        if not self.verdicts:
            return ""
        return significance.explanation(self.scores, self.layout, self.verdicts)


def account(
    records: Sequence[Path],
    title: str,
    *,
    epsilons: Radii | None = None,
    row_by: str = "",
    counterpart: Counterpart = NO_COUNTERPART,
    flags: Flags | None = None,
) -> Account:
    """Read one group of records, and the probes beside them; arguments as `benchmark.tables.write`.

    Raises:
        ValueError: no records, records that do not belong together, or a damaged probe.
        OSError: a record can't be read.
    """
    everything = scores.read(records)
    wanted = {norm: tuple(radii) for norm, radii in (epsilons or {}).items()}
    layout = Layout(accuracy.choose_radii(everything, wanted), row_by, counterpart)
    found = agreement.deployed(everything)
    probes = diagnostics.gather(found, records[0].parent)
    diagnosis = diagnostics.examine(found, layout, probes)
    doubts = diagnostics.doubts(diagnosis.findings, found, layout)
    sections = (
        Section(
            "Published protocol and adaptive attacks, side by side",
            gap.gap_sheet(found, layout, f"{title}: published protocol / adaptive / gap"),
            gap.note(found, layout),
        ),
        Section(
            "Agreement with the bare classifier's clean prediction",
            agreement.agreement_sheet(everything, layout, f"{title}: agreement, percent"),
            agreement.NOTE,
        ),
        Section(
            "Overpowered attack",
            overpowered.overpowered_sheet(found, layout, f"{title}: Overpowered attack", flags),
            overpowered.NOTE,
        ),
        Section(
            "Accuracy / error / rejection, percent",
            accuracy.rejection_sheet(
                found, layout, f"{title}: accuracy / error / rejection, percent", doubts
            ),
            _REFUSALS,
        ),
        Section(
            "Risk at a clean coverage",
            selective.risk_sheet(found, layout, f"{title}: risk at a clean coverage, percent"),
            selective.NOTE,
        ),
        Section(
            "Stochastic defenses: worst and mean case",
            luck.luck_sheet(found, layout, f"{title}: worst and mean case", luck.read(records)),
            luck.NOTE,
        ),
        Section(
            "What the numbers cost",
            accounting.calls_sheet(found, layout, f"{title}: calls per image"),
            accounting.NOTE,
        ),
    )
    return Account(
        everything,
        found,
        layout,
        accuracy.accuracy_sheet(found, layout, title, doubts),
        tuple(section for section in sections if section.table.columns),
        significance.verdicts(found, layout),
        diagnosis,
        doubts,
    )
