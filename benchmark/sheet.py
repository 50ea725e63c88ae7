"""A sheet: one table of short texts, rendered for Markdown, LaTeX and a terminal."""

import re
from dataclasses import dataclass, field, replace

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "—": "---",
    "·": r"\textperiodcentered{}",
}


@dataclass(frozen=True)
class Entry:
    """One field of a sheet.

    Args:
        text: what a reader looks for.
        detail: what goes with it.
        brief: the detail where room is scarce.
        aside: what others say, in parentheses.
        marks: numbers of footnotes.
    """

    text: str
    detail: str = ""
    brief: str = ""
    aside: str = ""
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """One row; without entries it is a heading for the rows below.

    Args:
        brief: the label where room is scarce.
    """

    label: str
    entries: tuple[Entry, ...] = ()
    brief: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table with footnotes.

    Args:
        columns: headings of the entries' columns.
        footnotes: numbered from 1; entries refer to them.
        widths: per column, its share of a page's text width in LaTeX, where its texts are long; 0
            is as wide as its longest entry. Empty is 0 for all.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    footnotes: tuple[str, ...] = ()
    widths: tuple[float, ...] = ()


@dataclass
class Footnotes:
    """Footnotes being collected; equal texts share a number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> int:
        """The number of this footnote."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def markdown(sheet: Sheet) -> str:
    """The sheet as a pipe table that reads well unrendered too, footnotes below; no title."""
    rows = [
        [
            line.label if line.entries else f"**{line.label}**",
            *(_plain(entry) for entry in line.entries),
            *[""] * (len(sheet.columns) - len(line.entries)),
        ]
        for line in sheet.lines
    ]
    table = tabulate(
        [[value.replace("|", r"\|") for value in row] for row in rows],
        headers=["", *sheet.columns],
        tablefmt="pipe",
        disable_numparse=True,
        colglobalalign="left",
    )
    notes = "  \n".join(_numbered(sheet))
    return f"{table}\n\n{notes}" if notes else table


def latex(sheet: Sheet, label: str, remark: str = "") -> str:
    """The sheet as a LaTeX table for the booktabs package.

    Args:
        label: what ``\\ref`` calls it, after ``tab:``.
        remark: sentences that follow the title in the caption.
    """
    rows = [
        [
            _latex_label(line),
            *(_latex_entry(entry) for entry in line.entries),
            *[""] * (len(sheet.columns) - len(line.entries)),
        ]
        for line in sheet.lines
    ]
    frame = pd.DataFrame(rows, columns=["", *(escape_latex(column) for column in sheet.columns)])
    text = frame.to_latex(
        index=False,
        escape=False,
        column_format="l"
        + "".join(map(_column_format, sheet.widths or (0.0,) * len(sheet.columns))),
        caption=escape_latex(f"{sheet.title}. {remark}".strip()),
        label=f"tab:{label}",
        position="htbp",
    )
    if not sheet.footnotes:
        return text
    notes = [
        rf"\textsuperscript{{{number}}} {escape_latex(note)}\par"
        for number, note in enumerate(sheet.footnotes, start=1)
    ]
    ending = "\n".join([r"\end{tabular}", r"\par\smallskip\footnotesize", *notes])
    return text.replace(r"\end{tabular}", ending)


def terminal(sheet: Sheet) -> Group:
    """The sheet for a terminal: brief details, asides on a line of their own."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in sheet.columns:
        table.add_column(column, overflow="fold")
    for line in sheet.lines:
        if line.entries:
            table.add_row(Text(line.label), *(_styled(entry) for entry in line.entries))
        else:
            table.add_row(Text(line.brief or line.label, style="bold"))
    notes = [Text(note, style="dim") for note in _numbered(sheet)]
    return Group(Text(f"\n{sheet.title}", style="bold"), table, *notes)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def _numbered(sheet: Sheet) -> list[str]:
    return [f"{_superscript(i)} {note}" for i, note in enumerate(sheet.footnotes, start=1)]


def _superscript(*numbers: int) -> str:
    return ",".join(str(number) for number in numbers).translate(_SUPERSCRIPTS)


def _plain(entry: Entry) -> str:
    parts = [entry.text, entry.detail, f"({entry.aside})" if entry.aside else ""]
    return " ".join(part for part in parts if part) + _superscript(*entry.marks)


def _styled(entry: Entry) -> Text:
    text = Text(entry.text)
    if entry.brief or entry.detail:
        text.append(f" {entry.brief or entry.detail}", style="dim")
    if entry.aside:
        text.append(f"\n{entry.aside}", style="cyan")
    if entry.marks:
        text.append(_superscript(*entry.marks), style="cyan")
    return text


def _column_format(width: float) -> str:
    return rf"p{{{width:g}\linewidth}}" if width else "l"


def _latex_label(line: Line) -> str:
    text = escape_latex(line.label)
    text = re.sub(r"\bL(\d)\b", r"$L_{\1}$", text).replace("Linf", r"$L_\infty$")
    text = text.replace("epsilon", r"$\epsilon$")
    return text if line.entries else rf"\textit{{{text}}}"


def _latex_entry(entry: Entry) -> str:
    text = escape_latex(_plain(replace(entry, marks=())))
    marks = ",".join(str(number) for number in entry.marks)
    return rf"{text}\textsuperscript{{{marks}}}" if marks else text
