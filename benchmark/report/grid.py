"""Tables of the page: what a reader sees in each field, and what the column is sorted by."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.scores import Score
from benchmark.sheet import Entry


@dataclass(frozen=True)
class Field:
    """One field of a table.

    Args:
        text: what a reader looks for.
        detail: what goes with it, such as an interval.
        aside: what others say.
        marks: numbers of footnotes.
        order: what the column is sorted by; None is sorted last, in either direction.
        tone: class of the style sheet, for colour that only repeats what the text says.
        command: a command line that is shown with a button that copies it.
    """

    text: str
    detail: str = ""
    aside: str = ""
    marks: tuple[int, ...] = ()
    order: float | str | None = None
    tone: str = ""
    command: str = ""


@dataclass(frozen=True)
class Column:
    """The head of one column.

    Args:
        numeric: set to the right.
    """

    name: str
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """The first field of the row is its heading."""

    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Table:
    """One table with a caption.

    Args:
        name: part of its address within the page; unique within a group of records.
        sortable: whether the heads are buttons.
        scope: groups of tables with one list of footnotes share it.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sortable: bool = True
    scope: str = ""


def heading(text: str) -> Field:
    """The first field of a row."""
    return Field(text, order=text.lower())


def count(number: float, digits: int = 0) -> Field:
    """A number with its thousands apart."""
    return Field(f"{number:,.{digits}f}", order=float(number))


def share(score: Score, *, aside: str = "", marks: Sequence[int] = (), prefix: str = "") -> Field:
    """An accuracy in percent with its interval, or what stands in place of a number."""
    if not score.measured:
        return Field(score.state, aside=aside, marks=tuple(marks))
    low, high = score.interval
    return Field(
        f"{prefix}{score.accuracy:.1f}",
        f"[{low:.1f}, {high:.1f}]",
        aside,
        tuple(marks),
        score.accuracy,
    )


def of_entry(entry: Entry) -> Field:
    """A field of one of the written tables."""
    return Field(entry.text, entry.detail, entry.aside, entry.marks, number(entry.text))


def number(text: str) -> float | None:
    """What a text says as a number; None where it says none."""
    try:
        return float(text)
    except ValueError:
        return None
