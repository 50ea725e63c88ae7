"""The papers' own numbers (`published/results.csv`), found by what they were measured on.

A number is shown only beside a measurement of the same thing: same data set, defense, attack, norm,
radius, view of the defense and attack parameters, as far as the paper's row names them. What is
known against a number (a misprint, another subset) travels with it as a caveat.
"""

import csv
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).parent / "published" / "results.csv"
CLEAN = "clean"
ALL = "all"
_RELATIVE_TOLERANCE = 1e-4

_PAPER_NAMES: Mapping[str, tuple[str, ...]] = {
    "cw-l2": ("cw", "cw_l2"),
    "pgd-estimated-linf": ("pgd_gradient_estimator",),
    "threshold-aware-l2": ("gmvae_white_box",),
}
"""Attacks whose printed name is not ours without its norm."""

_PARAMETER_NAMES: Mapping[str, str] = {"eot_samples": "eot"}
"""Attack fields whose name in the file differs from ours."""

_ATTACKED_VIEWS: Mapping[str, str] = {
    "attack on the bare classifier": "classifier",
    "gradients of the encoder only": "encoder",
}
"""Notes that say which view of the defense the paper attacked."""

_UNBOUNDED: Mapping[str, str] = {
    "gmvae_white_box": "the paper penalises the perturbation instead of bounding it"
}
"""Attacks that were printed without a ball: shown beside any, with this caveat."""

_RECLASSIFYING = "_reclassify"
_RECLASSIFIED: Mapping[str, str] = {
    "reclassification_accuracy": "reclassified samples of the attack on the encoder alone",
    "accuracy_after_reclassification": "",
}
"""Metrics of a paper's defense that are the accuracy of ours with this ending, and a caveat."""

LARGEST_ERROR = "error_maximum"
"""The metric of a whole sweep: it has no radius."""

_SIGNED_PIXELS = "pixels in [-1, 1]"
"""A note: radii are in a box twice as wide as ours."""


@dataclass(frozen=True)
class Published:
    """One printed number.

    Args:
        epsilon: radius for pixels in [0, 1]; None where the paper gives none.
        value: in the metric's unit, percent for accuracies.
        parameters: attack fields that the number is conditioned on.
        surrogate: the view that was attacked; empty is the paper's strongest.
        note: what the file says about the number.
        caveat: the part of the note that a reader must know beside the number.
    """

    paper: str
    table: str
    dataset: str
    defense: str
    attack: str
    norm: str
    epsilon: float | None
    metric: str
    value: float
    note: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    surrogate: str = ""
    caveat: str = ""

    @property
    def source(self) -> str:
        """``e-abs, table 4``."""
        kind = "" if re.match(r"[a-z]", self.table) else "table "
        return f"{self.paper}, {kind}{self.table}"


@cache
def results() -> tuple[Published, ...]:
    """Every published number, in the file's order."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return tuple(_parse(row) for row in csv.DictReader(file))


def _parse(row: Mapping[str, str]) -> Published:
    parameters: dict[str, float] = {}
    surrogate, caveats, scale = "", [], 1.0
    for part in filter(None, (part.strip() for part in row["note"].split(";"))):
        if match := re.fullmatch(r"(\w+)=(\d+)", part):
            parameters[_PARAMETER_NAMES.get(match[1], match[1])] = float(match[2])
        elif part in _ATTACKED_VIEWS:
            surrogate = _ATTACKED_VIEWS[part] if row["attack"] != CLEAN else ""
        elif part == _SIGNED_PIXELS:
            scale = 0.5
        else:
            caveats.append(part)
    caveats += filter(None, (_UNBOUNDED.get(row["attack"]), _RECLASSIFIED.get(row["metric"])))
    radius = _radius(row["epsilon"])
    return Published(
        paper=row["paper"],
        table=row["table"],
        dataset=row["dataset"],
        defense=row["defense"],
        attack=row["attack"],
        norm=row["norm"],
        epsilon=None if radius is None else radius * scale,
        metric=row["metric"],
        value=float(row["value"]),
        note=row["note"],
        parameters=parameters,
        surrogate=surrogate,
        caveat="; ".join(caveats),
    )


def _radius(text: str) -> float | None:
    """``8/255`` or ``0.3`` as a number; None where no single radius is given."""
    try:
        return float(Fraction(text))
    except ValueError:
        return None


def specification(label: str) -> tuple[str, dict[str, float | str]]:
    """An attack label's name and fields: ``pgd-l2[steps=5]`` -> ("pgd-l2", {"steps": 5.0}).

    Raises:
        ValueError: the label is not of the form ``name[field=value,...]``.
    """
    match = re.fullmatch(r"([\w-]+)(?:\[((?:\w+=[^,]+,?)*)\])?", label)
    if match is None:
        raise ValueError(f"attack label must be name[field=value,...], got {label!r}; rename it")
    fields = re.findall(r"(\w+)=([^,]+)", match[2] or "")
    return match[1], {name: _number(value) for name, value in fields}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def lookup(
    *,
    dataset: str,
    defense: str,
    attack: str,
    surrogate: str = "",
    norm: str = "",
    epsilon: float = 0.0,
    metric: str = "accuracy",
    preferred: tuple[str, str] = ("", ""),
) -> tuple[Published, ...]:
    """The published numbers for one measurement, usually none or one.

    Two papers, or two tables of one, may have printed different numbers; equal ones are given once.

    Args:
        attack: our label, ``clean``, or ``all`` for the worst case over the norm's attacks.
        epsilon: radius for pixels in [0, 1]; ignored for ``clean`` and for `LARGEST_ERROR`.
        preferred: paper and table whose number is the only one, where it has one.
    """
    name, parameters = specification(attack)
    names = _names_in_papers(name)
    metrics: Collection[str] = (metric,)
    if metric == "accuracy" and defense.endswith(_RECLASSIFYING):
        defense, metrics = defense.removesuffix(_RECLASSIFYING), _RECLASSIFIED
    found: list[Published] = []
    for number in results():
        same = (
            number.dataset == dataset
            and number.defense == defense
            and number.attack in names
            and number.metric in metrics
            and number.surrogate == surrogate
            and number.parameters == parameters
        )
        if same and (name == CLEAN or _same_ball(number, norm, epsilon)):
            found.append(number)
    own = [number for number in found if (number.paper, number.table) == preferred]
    return tuple({number.value: number for number in reversed(own or found)}.values())[::-1]


def attacks_under_all(dataset: str, norm: str, defense: str) -> frozenset[str]:
    """The papers' names of the attacks that their ``all`` row covers for this defense."""
    tables = {
        (number.paper, number.table)
        for number in results()
        if (number.dataset, number.defense, number.norm) == (dataset, defense, norm)
        and number.attack == ALL
    }
    return frozenset(
        number.attack
        for number in results()
        if (number.paper, number.table) in tables
        and (number.dataset, number.defense, number.norm) == (dataset, defense, norm)
        and number.attack != ALL
    )


def covers(label: str, paper_name: str) -> bool:
    """Whether our attack of this label is the paper's attack of that name."""
    return paper_name in _names_in_papers(specification(label)[0])


def radii(dataset: str, norm: str) -> tuple[float, ...]:
    """Radii for which accuracies were printed for this data set and norm, ascending."""
    found = {
        number.epsilon
        for number in results()
        if (number.dataset, number.norm, number.metric) == (dataset, norm, "accuracy")
        and number.epsilon is not None
    }
    return tuple(sorted(found))


def _names_in_papers(name: str) -> tuple[str, ...]:
    bare = re.sub(r"-(linf|l0|l1|l2)$", "", name).replace("-", "_")
    return _PAPER_NAMES.get(name, (bare,))


def _same_ball(number: Published, norm: str, epsilon: float) -> bool:
    if number.attack in _UNBOUNDED:
        return True
    if number.metric == LARGEST_ERROR:
        return number.norm == norm
    return (
        number.norm == norm
        and number.epsilon is not None
        and math.isclose(number.epsilon, epsilon, rel_tol=_RELATIVE_TOLERANCE)
    )


def defense_rank(name: str) -> int:
    """The defense's place in the papers' tables; unknown ones come after all others."""
    return _rank([number.defense == name for number in results()])


def attack_rank(label: str) -> int:
    """The attack's place in the papers' tables; unknown ones come after all others."""
    return _rank([covers(label, number.attack) for number in results()])


def _rank(matches: list[bool]) -> int:
    return matches.index(True) if True in matches else len(matches)
