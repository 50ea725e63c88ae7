"""The page: one section per group of records, the largest first, and everything inlined."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmark import accuracy, agreement, footer, scores, selective
from benchmark.accuracy import Layout
from benchmark.groups import Found, Group
from benchmark.report import accounting, charts, lines, refusals
from benchmark.report.accuracies import Tables, accuracies, rejections, turned
from benchmark.report.bounds import Bounds, bounds
from benchmark.report.charts import Chart
from benchmark.report.differences import Differences, differences
from benchmark.report.findings import Warnings, warnings
from benchmark.report.gallery import Pool, Wall, gallery
from benchmark.report.grid import Table
from benchmark.report.leaderboard import NOTE, Board, board
from benchmark.report.origin import Origin, origin
from benchmark.report.pictures import LARGEST_SIDE

LARGEST = 5_000_000
"""Bytes that a page should stay below."""

_MODULE = "benchmark.report"


@dataclass(frozen=True, eq=False)
class Sources:
    """What the page is made from, beside the records.

    Args:
        folder: ``results/<dataset>``.
        pool: the test images; None where they are not on this machine.
        draw: (count, seed) -> the test images that ``--samples`` draws; None without the data.
    """

    folder: Path
    pool: Pool | None = None
    draw: Callable[[int, int], Sequence[int]] | None = None


@dataclass(frozen=True, eq=False)
class Section:
    """Everything about one group of records.

    Args:
        name: prefix of the addresses within the page.
        drawn: whether the commands draw the same samples; None where nobody knows.
        substitutes: defenses that are in the written agreement tables only.
    """

    name: str
    title: str
    stem: str
    cells: int
    defenses: int
    votes: int
    board: Board
    accuracies: Tables
    rejections: Tables
    curves: tuple[Chart, ...]
    differences: Differences
    risks: tuple[Chart, ...]
    risk_tables: Tables
    gallery: tuple[Wall, ...]
    warnings: Warnings
    costs: Table
    reproduction: Table
    origin: Origin
    drawn: bool | None
    substitutes: tuple[str, ...]


def render(found: Found, dataset: str, sources: Sources, preset: str = "") -> str:
    """The whole page.

    Args:
        found: of `benchmark.groups.find`.
        dataset: its name.
        preset: which certificates are shown; empty for all.

    Raises:
        ValueError: records that do not belong into one table, or damaged probes.
        OSError: a file can't be read.
    """
    ordered = sorted(found.groups, key=lambda group: -len(group.records))
    sections = [section(group, f"g{i}", sources) for i, group in enumerate(ordered, start=1)]
    caveats = dict.fromkeys(
        text for group in ordered if (text := footer.caveat(scores.read(group.records[:1])))
    )
    pictures: tuple[Bounds, ...] = bounds(sources.folder, preset)
    program, behaviour = charts.program(), _text("report.js")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        "style-src 'unsafe-inline'; script-src 'unsafe-eval' "
        f"{_hash(program)} {_hash(behaviour)}"
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            dataset=dataset,
            sections=sections,
            caveats=list(caveats),
            bounds=pictures,
            left_out=found.left_out,
            leaderboard_note=NOTE,
            risk_note=refusals.NOTE,
            table_note=selective.NOTE.replace("*", "").replace("`", ""),
            largest_side=LARGEST_SIDE,
            policy=policy,
            style=_text("report.css"),
            program=program,
            behaviour=behaviour,
            still=charts.still,
        )
    )


def section(group: Group, name: str, sources: Sources) -> Section:
    """Everything about one group; raises as `render`."""
    everything = scores.read(group.records)
    deployed = agreement.deployed(everything)
    layout = Layout(accuracy.choose_radii(everything))
    series = charts.looks(deployed.defenses)
    sheet = selective.risk_sheet(deployed, layout, "")
    first = everything.metadata[0]
    drawn = None
    if sources.draw is not None:
        asked = sources.draw(everything.n, int(first["seed"]))
        drawn = sorted(asked) == sorted(first["samples"])
    return Section(
        name=name,
        title=f"Preset {group.preset}, {everything.n} samples, seed {first['seed']}",
        stem=group.stem,
        cells=len(group.records),
        defenses=len(everything.defenses),
        votes=int(first["votes"]),
        board=board(deployed, layout),
        accuracies=accuracies(deployed, layout),
        rejections=rejections(deployed, layout),
        curves=lines.lines(deployed, series),
        differences=differences(deployed, layout),
        risks=refusals.risks(deployed, layout, series),
        risk_tables=turned(sheet, "risk-numbers"),
        gallery=gallery(group.records, deployed, layout, sources.pool),
        warnings=warnings(everything, layout, sources.folder / "records"),
        costs=accounting.costs(everything),
        reproduction=accounting.reproduction(everything),
        origin=origin(everything),
        drawn=drawn,
        substitutes=tuple(d for d in everything.defenses if d not in deployed.defenses),
    )


@cache
def _environment() -> Environment:
    """Everything that is put into the page is escaped, and nothing missing is passed over."""
    return Environment(
        loader=PackageLoader(_MODULE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    return files(_MODULE).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """A script's name in the page's content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
