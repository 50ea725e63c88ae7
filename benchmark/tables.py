"""Records -> tables: ``python -m benchmark.tables --dataset mnist``.

Reads what earlier runs kept, attacks nothing. One table per preset, seed and set of samples:

    results/<dataset>/accuracy-quick.md         table, tests, provenance
    results/<dataset>/accuracy-quick.csv        the same numbers, one per row
    results/<dataset>/accuracy-quick-mcnemar.csv, accuracy-quick-rejection.csv
    results/<dataset>/accuracy-quick.tex        needs the booktabs package
    results/<dataset>/accuracy-quick-curves.csv, accuracy-quick-linf.png, accuracy-quick-linf.svg
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

from benchmark import accuracy, curves, footer, groups, scores, sheet, significance
from benchmark.accuracy import Layout
from benchmark.command import command
from benchmark.scores import Scores
from benchmark.storage import keep

LEGEND = (
    "Accuracy in percent with its 95 % Wilson interval; a sample counts only if it is answered "
    "correctly and not rejected. *All* is the per-sample worst case over the attacks above it. "
    "In parentheses, where a paper printed one: its number, with its own budgets and samples."
)
_KEYS = ["dataset", "defense", "attack", "surrogate", "norm", "epsilon", "n", "accuracy"]
_CSV = [*_KEYS, "low", "high", "published", "note"]
_REJECTION_CSV = [*_KEYS, "error", "rejection"]

Radii = Mapping[str, Sequence[float]]


def write(
    records: Sequence[Path],
    folder: Path,
    stem: str,
    title: str,
    *,
    epsilons: Radii | None = None,
    row_by: str = "",
    published_as: Mapping[str, str] | None = None,
    pictures: Sequence[Path] = (),
) -> list[Path]:
    """Write the tables and figures of one group of records.

    Args:
        records: files of one data set, seed and set of samples; their order is that of the table.
        folder: where the files go.
        stem: their names begin with it.
        title: of the table.
        epsilons: radii shown per norm; those of a norm not named as `accuracy.choose_radii` says.
        row_by: attack field that names the rows, as in `accuracy.Layout`.
        published_as: our attack label -> the label under which its published number is found.
        pictures: files in the folder that the Markdown shows below the table.

    Returns: the files, the Markdown first.

    Raises:
        ValueError: the records do not belong into one table, or lack a wanted epsilon.
        OSError: a record can't be read or a file can't be written.
    """
    found = scores.read(records)
    layout = _layout(found, epsilons, row_by, published_as)
    verdicts = significance.verdicts(found, layout)
    drawn = curves.write(found, folder, stem, title)

    table = accuracy.accuracy_sheet(found, layout, title)
    rejections = _rejections(found, layout, title)
    matrices = [significance.matrix(verdict) for verdict in verdicts]
    numbers = accuracy.tidy(found, layout)
    latex = [table, *rejections, *matrices]
    remark = " ".join(f"{text}." for text in (footer.caveat(found), footer.summary(found)) if text)

    written = {
        f"{stem}.md": _markdown(found, table, rejections, verdicts, [*pictures, *drawn]),
        f"{stem}.csv": _csv(numbers[_CSV]),
        f"{stem}.tex": "\n".join(
            sheet.latex(part, f"{stem}-{i}" if i else stem, "" if i else remark)
            for i, part in enumerate(latex)
        ),
    }
    if rejections:
        written[f"{stem}-rejection.csv"] = _csv(numbers[_REJECTION_CSV])
    if verdicts:
        written[f"{stem}-mcnemar.csv"] = _csv(significance.tidy(verdicts))
    for name, text in written.items():
        keep(folder / name, text.encode())
    return [folder / name for name in written] + drawn


def show(
    records: Sequence[Path],
    title: str,
    *,
    epsilons: Radii | None = None,
    row_by: str = "",
    published_as: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> None:
    """Print the tables of one group of records, compactly; arguments as `write`."""
    found = scores.read(records)
    layout = _layout(found, epsilons, row_by, published_as)
    verdicts = significance.verdicts(found, layout)
    out = console or Console()
    if caveat := footer.caveat(found):
        out.print(caveat, style="bold yellow", markup=False, highlight=False)
    table = accuracy.accuracy_sheet(found, layout, title)
    for part in (table, *_rejections(found, layout, title)):
        out.print(sheet.terminal(part))
    for verdict in verdicts:
        out.print(sheet.terminal(significance.matrix(verdict)))
    if verdicts:
        explanation = significance.explanation(found, verdicts)
        out.print(explanation, style="dim", markup=False, highlight=False)
    out.print(footer.summary(found), style="dim", markup=False, highlight=False)


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


def _layout(
    found: Scores, epsilons: Radii | None, row_by: str, published_as: Mapping[str, str] | None
) -> Layout:
    wanted = {norm: tuple(radii) for norm, radii in (epsilons or {}).items()}
    return Layout(accuracy.choose_radii(found, wanted), row_by, published_as or {})


def _rejections(found: Scores, layout: Layout, title: str) -> list[sheet.Sheet]:
    if not found.rejecting:
        return []
    heading = f"{title}: accuracy / error / rejection"
    return [accuracy.rejection_sheet(found, layout, heading)]


def _markdown(
    found: Scores,
    table: sheet.Sheet,
    rejections: Sequence[sheet.Sheet],
    verdicts: tuple[significance.Verdicts, ...],
    drawn: Sequence[Path],
) -> str:
    caveat = footer.caveat(found)
    parts = [f"# {table.title}", f"**{caveat}**" if caveat else "", sheet.markdown(table), LEGEND]
    for part in rejections:
        parts += ["## Accuracy / error / rejection, percent", sheet.markdown(part)]
    if verdicts:
        parts.append("## Which differences are significant")
        for verdict in verdicts:
            matrix = significance.matrix(verdict)
            parts += [f"{matrix.title}:", sheet.markdown(matrix)]
        parts.append(significance.explanation(found, verdicts))
    images = [path.name for path in drawn if path.suffix == ".svg"]
    if images:
        parts += ["## Figures", *(f"![{name}]({name})" for name in images)]
    parts += ["## How these numbers were made", footer.markdown(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, lineterminator="\n"))


main = command(run)

if __name__ == "__main__":
    sys.exit(main(None))
