"""Charts: Vega-Lite specifications, the program that draws them, and a still of each.

Colours are the style sheet's (``var(--series-0)``, ``currentColor``), so that a chart follows the
reader's light or dark theme; SVG attributes may hold them, a canvas may not.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from benchmark.report.grid import Table

COLORS = tuple(f"var(--series-{i})" for i in range(7))
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
_STILL_WIDTH = 640
_HEIGHT = 320


@dataclass(frozen=True)
class Look:
    """How a defense looks in every chart of a group: no two have colour, dash and shape alike."""

    color: str
    dash: tuple[int, ...]
    shape: str


@dataclass(frozen=True)
class Chart:
    """One figure.

    Args:
        name: part of its address within the page.
        caption: below it.
        spec: Vega-Lite, with the data.
        series: name -> look, for the legend beside it.
        data: the numbers, for a reader without the picture.
    """

    name: str
    caption: str
    spec: Mapping[str, Any]
    series: Mapping[str, Look]
    data: Table | None = None


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look per name, in order."""
    return {
        name: Look(
            COLORS[i % len(COLORS)],
            tuple(_DASHES[i // len(COLORS) % len(_DASHES)]),
            _SHAPES[i % len(_SHAPES)],
        )
        for i, name in enumerate(names)
    }


def base(rows: Sequence[Mapping[str, Any]], series: Mapping[str, Look]) -> alt.Chart:
    """An empty chart of rows with the field ``defense``, coloured and faded by it."""
    names = list(series)
    return alt.Chart(alt.Data(values=list(rows))).encode(
        color=alt.Color(
            "defense:N",
            legend=None,
            scale=alt.Scale(domain=names, range=[series[name].color for name in names]),
        ),
        detail="defense:N",
    )


def faded(strong: float, weak: float) -> Any:
    """An opacity that is weak for all but the picked series, where one is picked."""
    return alt.condition(_PICKED, alt.value(strong), alt.value(weak))


_PICKED = "picked == '' || picked == datum.defense"


def dashes(series: Mapping[str, Look]) -> alt.StrokeDash:
    """The series' dashes."""
    names = list(series)
    scale = alt.Scale(domain=names, range=[list(series[name].dash) for name in names])
    return alt.StrokeDash("defense:N", legend=None, scale=scale)


def shapes(series: Mapping[str, Look]) -> alt.Shape:
    """The series' markers."""
    names = list(series)
    scale = alt.Scale(domain=names, range=[series[name].shape for name in names])
    return alt.Shape("defense:N", legend=None, scale=scale)


def finished(layers: Sequence[alt.Chart], description: str) -> dict[str, Any]:
    """The specification of some layers, as wide as the page lets it be."""
    whole = (
        alt.layer(*layers)
        .add_params(alt.param(name="picked", value=""))
        .properties(width="container", height=_HEIGHT, description=description)
        .configure(
            background="transparent",
            font="system-ui, sans-serif",
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        )
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="currentColor",
            titleColor="currentColor",
            domainColor="currentColor",
            tickColor="currentColor",
            gridColor="var(--line)",
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
        )
    )
    spec: dict[str, Any] = whole.to_dict()
    return spec


def still(spec: Mapping[str, Any], name: str) -> str:
    """The chart as SVG: what a reader without scripts sees.

    Args:
        name: keeps the parts' ids apart from those of other stills.
    """
    fixed = {**spec, "width": _STILL_WIDTH, "autosize": {"type": "pad"}}
    svg = str(vl_convert.vegalite_to_svg(fixed, vl_version=VERSION))
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r"url\(#", f"url(#{name}-", svg)


_OPENED = "window.vegaEmbed = vegaEmbed;"


@cache
def program() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; it loads nothing."""
    return str(vl_convert.javascript_bundle(_OPENED, vl_version=VERSION))
