"""Figures as files: no window, no global state, the same bytes for the same figure."""

import io
import textwrap
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmark.storage import keep

_DOTS_PER_INCH = 160
_CHARACTERS_PER_INCH = 12


def blank(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def wrapped(title: str, width: float) -> str:
    """A title of medium size broken into lines that fit ``width`` inches."""
    lines = title.splitlines()
    return "\n".join(textwrap.fill(line, int(width * _CHARACTERS_PER_INCH)) for line in lines)


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write ``<stem>.png`` and ``<stem>.svg``.

    Raises:
        OSError: a file can't be written.
    """
    paths = [folder / f"{stem}.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        keep(path, rendered(figure, path.suffix[1:]))
    return paths


def rendered(figure: Figure, suffix: str) -> bytes:
    """The figure as a file's bytes, without dates and random identifiers.

    Args:
        suffix: ``png`` or ``svg``.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "benchmark", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=suffix, dpi=_DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()
