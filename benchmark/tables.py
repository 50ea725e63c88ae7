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
    results/<dataset>/accuracy-quick-diagnostics.csv    what puts which number in doubt
    results/<dataset>/accuracy-quick.tex        needs the booktabs package
    results/<dataset>/accuracy-quick-curves.csv, accuracy-quick-linf.png, accuracy-quick-linf.svg
    results/<dataset>/accuracy-quick-calls.csv, accuracy-quick-calls-linf.png, .svg
"""

import sys
from collections.abc import Sequence
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
    sheet,
    significance,
)
from benchmark.accuracy import Counterpart
from benchmark.command import command
from benchmark.overpowered import Flags
from benchmark.sections import NO_COUNTERPART, Account, Radii, account
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

_TESTS = {
    significance.CORRECT_ANSWERS: "mcnemar",
    significance.ACCEPTED_ERRORS: "mcnemar-accepted-errors",
}


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
    read = account(
        records, title, epsilons=epsilons, row_by=row_by, counterpart=counterpart, flags=flags
    )
    drawn = curves.write(read.scores, folder, stem, title)
    drawn += risk_figure.write(read.scores, read.layout, folder, stem, title)
    drawn += accounting.write(read.scores, read.layout, folder, stem, title)
    numbers = accuracy.tidy(read.scores, read.layout, read.doubts)
    written = {
        f"{stem}.md": _markdown(read, [*pictures, *drawn]),
        f"{stem}.csv": _csv(numbers[[*_CSV, _COVERAGE] if read.scores.rejecting else _CSV]),
        f"{stem}.tex": _latex(read, stem),
        f"{stem}-diagnostics.csv": _csv(read.diagnosis.tidy()),
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
    read = account(
        records, title, epsilons=epsilons, row_by=row_by, counterpart=counterpart, flags=flags
    )
    out = console or Console()
    if caveat := footer.caveat(read.scores):
        out.print(caveat, style="bold yellow", markup=False, highlight=False)
    for part in (*read.sheets, *read.matrices):
        out.print(sheet.terminal(part))
    if read.diagnosis.findings:
        out.print(sheet.terminal(read.diagnosis.sheet("Diagnostics")))
    for text in (read.explanation, read.diagnosis.note, footer.summary(read.scores)):
        if text:
            out.print(text, style="dim", markup=False, highlight=False)


def run(
    *,
    dataset: Annotated[str, typer.Option(help="data set whose records are read")],
    preset: Annotated[str, typer.Option(help="only records of this preset")] = "",
    defense: Annotated[str, typer.Option(help="only these, separated by commas")] = "",
    attack: Annotated[
        str,
        typer.Option(help="only these; without it, attacks with fields of their own are left out"),
    ] = "",
    name: Annotated[str, typer.Option(help="first part of the files' names")] = "accuracy",
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
        files = write(group.records, results / dataset, f"{name}-{group.stem}", title)
        show(group.records, title, console=console)
        for path in files:
            console.print(f"wrote {path}", markup=False, highlight=False)
    if chosen.left_out:
        labels = ", ".join(chosen.left_out)
        console.print(f"left out (name them with --attack): {labels}", markup=False)


def _markdown(read: Account, pictures: Sequence[Path]) -> str:
    caveat = footer.caveat(read.scores)
    parts = [f"# {read.table.title}", f"**{caveat}**" if caveat else ""]
    parts += [sheet.markdown(read.table), LEGEND]
    for section in read.sections:
        parts += [f"## {section.heading}", sheet.markdown(section.table), section.note]
    if read.matrices:
        parts.append("## Which differences are significant")
    for part in read.matrices:
        parts += [f"{part.title}:", sheet.markdown(part)]
    parts += [read.explanation, "## Diagnostics"]
    if read.diagnosis.findings:
        parts.append(sheet.markdown(read.diagnosis.sheet("Diagnostics")))
    parts.append(read.diagnosis.note)
    images = [path.name for path in pictures if path.suffix == ".svg"]
    if images:
        parts += ["## Figures", *(f"![{name}]({name})" for name in images)]
    parts += ["## How these numbers were made", footer.markdown(read.scores)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _latex(read: Account, stem: str) -> str:
    facts = (footer.caveat(read.scores), footer.summary(read.scores))
    remark = " ".join(f"{fact}." for fact in facts if fact)
    first = sheet.latex(read.table, stem, remark)
    others = [*read.sheets[1:], *read.matrices]
    if read.diagnosis.findings:
        others.append(read.diagnosis.sheet(f"{read.table.title}: diagnostics"))
    return "\n".join(
        [first, *(sheet.latex(part, f"{stem}-{i}") for i, part in enumerate(others, start=1))]
    )


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, lineterminator="\n"))


main = command(run)

if __name__ == "__main__":
    sys.exit(main(None))
