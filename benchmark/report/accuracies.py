"""The accuracy tables, a ball each: a row per defense, a column per attack."""

from dataclasses import dataclass

from benchmark import accuracy
from benchmark.accuracy import Layout
from benchmark.report.grid import Column, Field, Row, Table, heading, of_entry
from benchmark.scores import Scores
from benchmark.sheet import Line, Sheet

_ABSENT = ("—", "n/a")


@dataclass(frozen=True)
class Tables:
    """The tables of one sheet and its footnotes, numbered as in the sheet."""

    tables: tuple[Table, ...]
    footnotes: tuple[str, ...]


def accuracies(scores: Scores, layout: Layout) -> Tables:
    """The written accuracy table with rows and columns exchanged, so that attacks can be sorted."""
    return turned(accuracy.accuracy_sheet(scores, layout, ""), "accuracy")


def rejections(scores: Scores, layout: Layout) -> Tables:
    """Accuracy / error / rejection, likewise; empty where nothing rejects."""
    if not scores.rejecting:
        return Tables((), ())
    return turned(accuracy.rejection_sheet(scores, layout, ""), "rejection")


def turned(sheet: Sheet, name: str) -> Tables:
    """A table per block of lines, with the first block's lines (clean) before each.

    Defenses of which a block says nothing have no row in it.
    """
    if not sheet.columns:
        return Tables((), ())
    first, blocks = _blocks(sheet)
    found: list[Table] = []
    for title, lines in blocks or [("Clean images", [])]:
        columns = [Column("Defense", numeric=False), *(Column(x.label) for x in (*first, *lines))]
        rows = []
        for place, defense in enumerate(sheet.columns):
            measured = any(line.entries[place].text not in _ABSENT for line in lines or first)
            if measured:
                fields: list[Field] = [of_entry(line.entries[place]) for line in (*first, *lines)]
                rows.append(Row((heading(defense), *fields)))
        if rows:
            table_name = f"{name}-{len(found)}"
            found.append(Table(table_name, title, tuple(columns), tuple(rows), scope=name))
    return Tables(tuple(found), sheet.footnotes)


def _blocks(sheet: Sheet) -> tuple[list[Line], list[tuple[str, list[Line]]]]:
    """The lines before the first ball, and each ball's own."""
    first: list[Line] = []
    blocks: list[tuple[str, list[Line]]] = []
    for line in sheet.lines:
        if not line.entries:
            blocks.append((line.label, []))
        elif blocks:
            blocks[-1][1].append(line)
        else:
            first.append(line)
    if blocks and blocks[0][0] == "":
        first += blocks.pop(0)[1]
    return first, blocks
