"""What puts numbers in doubt: ``python -m benchmark.diagnose --dataset mnist``.

Reads records and the probes beside them, as `benchmark.tables` does, and prints what the rules of
`benchmark.diagnostics` found, defense by defense. With ``--strict`` the exit status is 1 where any
number is in doubt, for continuous integration.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmark import accuracy, agreement, diagnostics, groups, scores
from benchmark.accuracy import Layout
from benchmark.command import command
from benchmark.diagnostics import Diagnosis
from benchmark.diagnostics.diagnosis import where

DOUBTFUL = 1
"""Exit status of ``--strict`` where a number is in doubt."""


def diagnosed(group: groups.Group) -> Diagnosis:
    """The diagnosis of one group's table.

    Raises:
        ValueError: the records do not belong together, or a probe is damaged.
        OSError: a record can't be read.
    """
    everything = scores.read(group.records)
    layout = Layout(accuracy.choose_radii(everything))
    found = agreement.deployed(everything)
    return diagnostics.examine(found, layout, diagnostics.gather(found, group.records[0].parent))


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The findings under their defenses, then what was silent and what was not probed."""
    defenses = dict.fromkeys(finding.defense for finding in diagnosis.findings)
    for defense in defenses:
        yield defense or "every defense"
        for finding in diagnosis.findings:
            if finding.defense == defense:
                yield f"  {finding.severity}: {finding.name} ({where(finding)})"
                yield f"    {finding.text}; {finding.advice}"
    if not defenses:
        yield "no findings"
    if diagnosis.note:
        yield diagnosis.note


def run(
    *,
    dataset: Annotated[str, typer.Option(help="data set whose records are read")],
    preset: Annotated[str, typer.Option(help="only records of this preset")] = "",
    defense: Annotated[str, typer.Option(help="only these, separated by commas")] = "",
    attack: Annotated[
        str,
        typer.Option(help="only these; without it, attacks with fields of their own are left out"),
    ] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="exit with 1 where a number is in doubt")
    ] = False,
    results: Annotated[Path, typer.Option(help="folder of the results")] = Path("results"),
) -> int:
    """Say what puts the numbers of earlier runs in doubt."""
    console = Console()
    chosen = groups.find(
        results / dataset / "records",
        preset=preset,
        defenses=groups.names(defense),
        attacks=groups.names(attack),
    )
    is_doubtful = False
    for group in chosen.groups:
        diagnosis = diagnosed(group)
        is_doubtful |= diagnosis.doubtful
        for line in (f"Diagnostics on {dataset}, {group.stem}", *lines(diagnosis)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return DOUBTFUL if strict and is_doubtful else 0


main = command(run)

if __name__ == "__main__":
    sys.exit(main(None))
