"""Records -> tables: ``python -m benchmark.tables --dataset mnist``.

Reads what earlier runs kept, attacks nothing. One table per preset, seed and set of samples:

    results/<dataset>/accuracy-quick.md         table, tests, provenance
    results/<dataset>/accuracy-quick.csv        the same numbers, one per row
    results/<dataset>/accuracy-quick-mcnemar.csv, accuracy-quick-rejection.csv
    results/<dataset>/accuracy-quick-mcnemar-accepted-errors.csv, accuracy-quick-risk-coverage.csv,
                      -risk-coverage-curves.csv, .png, .svg      where some defense can reject
    results/<dataset>/accuracy-quick-agreement.csv, accuracy-quick-gap.csv
                                                where some defense contains another: a purifier
    results/<dataset>/accuracy-quick-overpowered.csv    where the Overpowered attack was run
    results/<dataset>/accuracy-quick-seeds.csv          where some defense is stochastic
    results/<dataset>/accuracy-quick.tex        needs the booktabs package
    results/<dataset>/accuracy-quick-curves.csv, accuracy-quick-linf.png, accuracy-quick-linf.svg
    results/<dataset>/accuracy-quick-calls.csv, accuracy-quick-calls-linf.png, .svg
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

from benchmark import (
    accounting,
    accuracy,
    agreement,
    curves,
    footer,
    gap,
    groups,
    luck,
    overpowered,
    risk_figure,
    scores,
    selective,
    sheet,
    significance,
)
from benchmark.accuracy import Counterpart, Layout
from benchmark.command import command
from benchmark.overpowered import Flags
from benchmark.scores import Scores
from benchmark.sheet import Sheet
from benchmark.storage import keep

LEGEND = (
    "Accuracy in percent with its 95 % Wilson interval; a sample counts only if it is answered "
    "correctly and not rejected. *All* is the per-sample worst case over the attacks above it. "
    "In parentheses, where a paper printed one: its number, with its own budgets and samples."
)
_KEYS = ["dataset", "defense", "attack", "surrogate", "norm", "epsilon", "n", "accuracy"]
_CSV = [*_KEYS, "low", "high", "published", "note"]
_COVERAGE = "clean_coverage"
_REJECTION_CSV = [
    *[*_KEYS, "error", "rejection", _COVERAGE, "accuracy_without_rejection", "published"],
    *["published_error", "published_rejection", "published_accuracy_without_rejection"],
]
_REFUSALS = (
    "*Clean coverage* is the share of clean images that is accepted: a defense may be robust by "
    "refusing, and this is what it costs. *Without thresholds* is the accuracy on clean images had "
    "nothing been refused."
)

_TESTS = {
    significance.CORRECT_ANSWERS: "mcnemar",
    significance.ACCEPTED_ERRORS: "mcnemar-accepted-errors",
}

NO_COUNTERPART = Counterpart()

Radii = Mapping[str, Sequence[float]]


def write(
    records: Sequence[Path],
    folder: Path,
    stem: str,
    title: str,
    *,
    epsilons: Radii | None = None,
    row_by: str = "",
    counterpart: Counterpart = NO_COUNTERPART,
    pictures: Sequence[Path] = (),
    flags: Flags | None = None,
) -> list[Path]:
    """Write the tables and figures of one group of records.

    Args:
        records: files of one data set, seed and set of samples; their order is that of the table.
        folder: where the files go.
        stem: their names begin with it.
        title: of the table.
        epsilons: radii shown per norm; those of a norm not named as `accuracy.choose_radii` says.
        row_by: attack field that names the rows, as in `accuracy.Layout`.
        counterpart: what is looked up among the published numbers.
        pictures: files in the folder that the Markdown shows below the table.
        flags: pairs of the Overpowered attack that show another class.

    Returns: the files, the Markdown first.

    Raises:
        ValueError: the records do not belong into one table, or lack a wanted epsilon.
        OSError: a record can't be read or a file can't be written.
    """
    read = _read(
        records, title, epsilons=epsilons, row_by=row_by, counterpart=counterpart, flags=flags
    )
    drawn = curves.write(read.scores, folder, stem, title)
    drawn += risk_figure.write(read.scores, read.layout, folder, stem, title)
    drawn += accounting.write(read.scores, read.layout, folder, stem, title)
    numbers = accuracy.tidy(read.scores, read.layout)
    written = {
        f"{stem}.md": _markdown(read, [*pictures, *drawn]),
        f"{stem}.csv": _csv(numbers[[*_CSV, _COVERAGE] if read.scores.rejecting else _CSV]),
        f"{stem}.tex": _latex(read, stem),
    }
    if read.scores.rejecting:
        written[f"{stem}-rejection.csv"] = _csv(numbers[_REJECTION_CSV])
    some = {
        "agreement": agreement.tidy(read.everything, read.layout),
        "gap": gap.tidy(read.scores, read.layout),
        "overpowered": overpowered.tidy(read.scores, read.layout, flags),
        "seeds": luck.tidy(read.scores, read.layout, luck.read(records)),
    }
    written |= {f"{stem}-{name}.csv": _csv(frame) for name, frame in some.items() if len(frame)}
    for compared, name in _TESTS.items():
        if found := tuple(v for v in read.verdicts if v.compared == compared):
            written[f"{stem}-{name}.csv"] = _csv(significance.tidy(found))
    for name, text in written.items():
        keep(folder / name, text.encode())
    return [folder / name for name in written] + drawn


def show(
    records: Sequence[Path],
    title: str,
    *,
    epsilons: Radii | None = None,
    row_by: str = "",
    counterpart: Counterpart = NO_COUNTERPART,
    flags: Flags | None = None,
    console: Console | None = None,
) -> None:
    """Print the tables of one group of records, compactly; arguments as `write`."""
    read = _read(
        records, title, epsilons=epsilons, row_by=row_by, counterpart=counterpart, flags=flags
    )
    out = console or Console()
    if caveat := footer.caveat(read.scores):
        out.print(caveat, style="bold yellow", markup=False, highlight=False)
    for part in (*read.sheets, *read.matrices):
        out.print(sheet.terminal(part))
    for text in (read.explanation, footer.summary(read.scores)):
        if text:
            out.print(text, style="dim", markup=False, highlight=False)


def run(
    dataset: Annotated[str, typer.Option(help="data set whose records are read")],
    preset: Annotated[str, typer.Option(help="only records of this preset")] = "",
    defense: Annotated[str, typer.Option(help="only these, separated by commas")] = "",
    attack: Annotated[
        str,
        typer.Option(help="only these; without it, attacks with fields of their own are left out"),
    ] = "",
    results: Annotated[Path, typer.Option(help="folder of the results")] = Path("results"),
) -> None:
    """Make tables, curves and tests again from the records of earlier runs."""
    console = Console()
    chosen = groups.find(
        results / dataset / "records",
        preset=preset,
        defenses=groups.names(defense),
        attacks=groups.names(attack),
    )
    for group in chosen.groups:
        title = f"Robust accuracy on {dataset}, preset {group.preset}"
        files = write(group.records, results / dataset, f"accuracy-{group.stem}", title)
        show(group.records, title, console=console)
        for path in files:
            console.print(f"wrote {path}", markup=False, highlight=False)
    if chosen.left_out:
        labels = ", ".join(chosen.left_out)
        console.print(f"left out (name them with --attack): {labels}", markup=False)


@dataclass(frozen=True)
class _Section:
    """A further table, and how to read it."""

    heading: str
    table: Sheet
    note: str


@dataclass(frozen=True)
class _Read:
    """Everything that is said about one group of records.

    Args:
        everything: all columns of the records.
        scores: those of deployed defenses; a substitute's answers to purified images are in the
            agreement table alone.
    """

    everything: Scores
    scores: Scores
    layout: Layout
    table: Sheet
    sections: tuple[_Section, ...]
    verdicts: tuple[significance.Verdicts, ...]

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


def _read(
    records: Sequence[Path],
    title: str,
    *,
    epsilons: Radii | None,
    row_by: str,
    counterpart: Counterpart,
    flags: Flags | None,
) -> _Read:
    everything = scores.read(records)
    wanted = {norm: tuple(radii) for norm, radii in (epsilons or {}).items()}
    layout = Layout(accuracy.choose_radii(everything, wanted), row_by, counterpart)
    found = agreement.deployed(everything)
    sections = (
        _Section(
            "Published protocol and adaptive attacks, side by side",
            gap.gap_sheet(found, layout, f"{title}: published protocol / adaptive / gap"),
            gap.note(found, layout),
        ),
        _Section(
            "Agreement with the bare classifier's clean prediction",
            agreement.agreement_sheet(everything, layout, f"{title}: agreement, percent"),
            agreement.NOTE,
        ),
        _Section(
            "Overpowered attack",
            overpowered.overpowered_sheet(found, layout, f"{title}: Overpowered attack", flags),
            overpowered.NOTE,
        ),
        _Section(
            "Accuracy / error / rejection, percent",
            accuracy.rejection_sheet(
                found, layout, f"{title}: accuracy / error / rejection, percent"
            ),
            _REFUSALS,
        ),
        _Section(
            "Risk at a clean coverage",
            selective.risk_sheet(found, layout, f"{title}: risk at a clean coverage, percent"),
            selective.NOTE,
        ),
        _Section(
            "Stochastic defenses: worst and mean case",
            luck.luck_sheet(found, layout, f"{title}: worst and mean case", luck.read(records)),
            luck.NOTE,
        ),
        _Section(
            "What the numbers cost",
            accounting.calls_sheet(found, layout, f"{title}: calls per image"),
            accounting.NOTE,
        ),
    )
    return _Read(
        everything,
        found,
        layout,
        accuracy.accuracy_sheet(found, layout, title),
        tuple(section for section in sections if section.table.columns),
        significance.verdicts(found, layout),
    )


def _markdown(read: _Read, pictures: Sequence[Path]) -> str:
    caveat = footer.caveat(read.scores)
    parts = [f"# {read.table.title}", f"**{caveat}**" if caveat else ""]
    parts += [sheet.markdown(read.table), LEGEND]
    for section in read.sections:
        parts += [f"## {section.heading}", sheet.markdown(section.table), section.note]
    if read.matrices:
        parts.append("## Which differences are significant")
    for part in read.matrices:
        parts += [f"{part.title}:", sheet.markdown(part)]
    parts.append(read.explanation)
    images = [path.name for path in pictures if path.suffix == ".svg"]
    if images:
        parts += ["## Figures", *(f"![{name}]({name})" for name in images)]
    parts += ["## How these numbers were made", footer.markdown(read.scores)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _latex(read: _Read, stem: str) -> str:
    facts = (footer.caveat(read.scores), footer.summary(read.scores))
    remark = " ".join(f"{fact}." for fact in facts if fact)
    first = sheet.latex(read.table, stem, remark)
    others = (*read.sheets[1:], *read.matrices)
    return "\n".join(
        [first, *(sheet.latex(part, f"{stem}-{i}") for i, part in enumerate(others, start=1))]
    )


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, lineterminator="\n"))


main = command(run)

if __name__ == "__main__":
    sys.exit(main(None))
