"""Accuracy against epsilon: a chart per norm, with intervals, for defenses with a sweep."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt

from benchmark import curves
from benchmark.accuracy import NORM_NAMES, radius_text
from benchmark.published import ALL
from benchmark.report import charts
from benchmark.report.charts import Chart, Look
from benchmark.report.grid import Column, Field, Row, Table, heading
from benchmark.scores import Scores


def lines(scores: Scores, series: Mapping[str, Look]) -> tuple[Chart, ...]:
    """The worst case per norm from the clean accuracy on; nothing for norms with one radius.

    A point where an attack is missing has no number, and its line a hole.
    """
    points = curves.points(scores)
    found = []
    for norm, frame in points[points["attack"] == ALL].groupby("norm", sort=False):
        rows: list[dict[str, Any]] = [
            {str(key): _plain(value) for key, value in row.items()}
            for row in frame[["defense", "epsilon", "n", "accuracy", "low", "high"]].to_dict(
                "records"
            )
        ]
        shown = {name: series[name] for name in dict.fromkeys(row["defense"] for row in rows)}
        name = NORM_NAMES[str(norm)]
        caption = (
            f"Accuracy under the worst of the {name} attacks against their radius, "
            f"with 95 % Wilson intervals, n = {scores.n}"
        )
        spec = _spec(rows, shown, curves.AXIS[str(norm)], caption)
        found.append(Chart(f"curve-{norm}", caption, spec, shown, _table(rows, str(norm))))
    return tuple(found)


def _spec(
    rows: list[dict[str, Any]], series: Mapping[str, Look], axis: str, caption: str
) -> dict[str, Any]:
    percent = alt.Scale(domain=[0, 100])
    tip = [
        alt.Tooltip("defense:N"),
        alt.Tooltip("epsilon:Q", format=".4g"),
        alt.Tooltip("accuracy:Q", format=".1f", title="accuracy, %"),
        alt.Tooltip("low:Q", format=".1f"),
        alt.Tooltip("high:Q", format=".1f"),
        alt.Tooltip("n:Q"),
    ]
    empty = charts.base(rows, series).encode(x=alt.X("epsilon:Q", title=axis))
    band = empty.mark_area(strokeWidth=0).encode(
        y=alt.Y("low:Q", scale=percent, title="accuracy, %"),
        y2="high:Q",
        opacity=charts.faded(0.13, 0.02),
    )
    height = alt.Y("accuracy:Q", scale=percent, title="accuracy, %")
    line = empty.mark_line(strokeWidth=2).encode(
        y=height, strokeDash=charts.dashes(series), opacity=charts.faded(1, 0.12)
    )
    dots = empty.mark_point(filled=True, size=55).encode(
        y=height, shape=charts.shapes(series), tooltip=tip, opacity=charts.faded(1, 0.12)
    )
    return charts.finished([band, line, dots], caption)


def _table(rows: list[dict[str, Any]], norm: str) -> Table:
    """The points of the chart."""
    columns = (Column("Defense", numeric=False), Column("Epsilon"), Column("Accuracy, %"))
    fields = [
        Row(
            (
                heading(row["defense"]),
                Field(radius_text(row["epsilon"]), order=row["epsilon"]),
                Field("—")
                if row["accuracy"] is None
                else Field(
                    f"{row['accuracy']:.1f}",
                    f"[{row['low']:.1f}, {row['high']:.1f}]",
                    order=row["accuracy"],
                ),
            )
        )
        for row in rows
    ]
    return Table(f"points-{norm}", f"{NORM_NAMES[norm]} curve in numbers", columns, tuple(fields))


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
