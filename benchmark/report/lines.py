"""Accuracy against epsilon: a chart per norm, with intervals, for defenses with a sweep."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from benchmark import curves
from benchmark.accuracy import NORM_NAMES, radius_text
from benchmark.report import charts
from benchmark.report.charts import Chart, Look
from benchmark.report.grid import Column, Field, Row, Table, heading
from benchmark.scores import Scores


def lines(scores: Scores, series: Mapping[str, Look]) -> tuple[Chart, ...]:
    """The worst case per norm from the clean accuracy on; nothing for norms with one radius.

    A defense's line is over the attacks that were run on it at most radii, the same at each, so
    that no line rises because an attack is missing.
    """
    found = []
    for norm in scores.attacks:
        rows = [row for defense in scores.defenses for row in _swept(scores, defense, norm)]
        if norm not in curves.AXIS or not rows:
            continue
        shown = {name: series[name] for name in dict.fromkeys(row["defense"] for row in rows)}
        name = NORM_NAMES[norm]
        caption = (
            f"Accuracy under the worst of the {name} attacks swept on each defense against their "
            f"radius, with 95 % Wilson intervals, n = {scores.n}"
        )
        spec = _spec(rows, shown, curves.AXIS[norm], caption)
        found.append(Chart(f"curve-{norm}", caption, spec, shown, _table(rows, norm)))
    return tuple(found)


def _swept(scores: Scores, defense: str, norm: str) -> list[dict[str, Any]]:
    """The points of one line; none where no attack was swept."""
    run: dict[tuple[float, ...], list[str]] = {}
    for attack in scores.attacks[norm]:
        radii = tuple(
            radius
            for radius in scores.radii(norm)
            if scores.score(defense, attack, norm, radius).measured
        )
        run.setdefault(radii, []).append(attack)
    radii = max(run, key=lambda each: (len(each), len(run[each])))
    if len(radii) < curves.FEWEST_RADII:
        return []
    attacks = [attack for each, names in run.items() if set(radii) <= set(each) for attack in names]
    points = [(radius, scores.worst(defense, norm, radius, attacks)) for radius in radii]
    return [
        {
            "defense": defense,
            "epsilon": radius,
            "n": score.n,
            "accuracy": round(score.accuracy, 4),
            "low": round(score.interval[0], 4),
            "high": round(score.interval[1], 4),
            "attacks": ", ".join(attacks) if radius else "none",
        }
        for radius, score in [(0.0, scores.clean(defense)), *points]
        if score.measured
    ]


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
        alt.Tooltip("attacks:N"),
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
    heads = {"Defense": False, "Epsilon": True, "Accuracy, %": True, "Attacks": False}
    columns = tuple(Column(name, numeric) for name, numeric in heads.items())
    fields = [
        Row(
            (
                heading(row["defense"]),
                Field(radius_text(row["epsilon"]), order=row["epsilon"]),
                Field(
                    f"{row['accuracy']:.1f}",
                    f"[{row['low']:.1f}, {row['high']:.1f}]",
                    order=row["accuracy"],
                ),
                heading(row["attacks"]),
            )
        )
        for row in rows
    ]
    return Table(f"points-{norm}", f"{NORM_NAMES[norm]} curve in numbers", columns, tuple(fields))
