"""Risk against coverage, where some defense may refuse."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from benchmark import selective
from benchmark.accuracy import Layout
from benchmark.report import charts
from benchmark.report.charts import Chart, Look
from benchmark.scores import Scores

MOST_POINTS = 200
"""Of each drawn curve; thousands would only make the page large."""

NOTE = (
    "Risk is the share of errors among the accepted images. Large markers are the deployed "
    "thresholds, which the attacks were aimed at; elsewhere the line favours the defense."
)


def risks(scores: Scores, layout: Layout, series: Mapping[str, Look]) -> tuple[Chart, ...]:
    """A chart for the clean images and one per norm, at its largest radius in the tables."""
    whole = selective.curves(scores, layout)
    if whole.empty:
        return ()
    last = {norm: radii[-1] for norm, radii in layout.radii.items()}
    found: list[Chart] = []
    for row in selective.shown(scores, layout):
        same = (whole["norm"] == row.norm) & (whole["epsilon"] == row.epsilon)
        here = whole[same & (whole["attack"] == row.attack)]
        if here.empty or (row.norm and row.epsilon != last[row.norm]):
            continue
        names = [str(name) for name in dict.fromkeys(here["defense"])]
        shown = {name: series[name] for name in names}
        values = [
            {"defense": name, **point}
            for name in names
            for point in _thinned(here.loc[here["defense"] == name, ["coverage", "risk"]])
        ]
        deployed = []
        for name in names:
            point = selective.deployed(row.score(scores, name))
            if point.accepted:
                place = {"coverage": 100 * point.coverage, "risk": 100 * point.risk}
                deployed.append({"defense": name, **place})
        caption = f"Risk against coverage: {selective.where(row)}"
        spec = _spec(values, deployed, shown, caption)
        found.append(Chart(f"risk-{len(found)}", caption, spec, shown))
    return tuple(found)


def _thinned(curve: pd.DataFrame) -> list[dict[str, float]]:
    """At most `MOST_POINTS` points of a curve, both ends among them."""
    places = np.unique(np.linspace(0, len(curve) - 1, MOST_POINTS).round().astype(int))
    chosen = curve.iloc[places]
    return [
        {"coverage": float(coverage), "risk": float(risk)}
        for coverage, risk in zip(chosen["coverage"], chosen["risk"], strict=True)
    ]


def _spec(
    values: list[dict[str, Any]],
    deployed: list[dict[str, Any]],
    series: Mapping[str, Look],
    caption: str,
) -> dict[str, Any]:
    x = alt.X("coverage:Q", title="coverage, %", scale=alt.Scale(domain=[0, 100]))
    y = alt.Y("risk:Q", title="risk, %")
    tip = [
        alt.Tooltip("defense:N"),
        alt.Tooltip("coverage:Q", format=".1f", title="coverage, %"),
        alt.Tooltip("risk:Q", format=".1f", title="risk, %"),
    ]
    line = (
        charts.base(values, series)
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, strokeDash=charts.dashes(series), opacity=charts.faded(1, 0.12))
    )
    dots = (
        charts.base(deployed, series)
        .mark_point(filled=True, size=130)
        .encode(x=x, y=y, shape=charts.shapes(series), tooltip=tip, opacity=charts.faded(1, 0.12))
    )
    hover = (
        charts.base(values, series)
        .mark_point(filled=True, size=25)
        .encode(x=x, y=y, tooltip=tip, opacity=charts.faded(0.35, 0.05))
    )
    return charts.finished([line, hover, dots], caption)
