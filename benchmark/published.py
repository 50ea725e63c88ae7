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
    "cw-linf": ("cw_linf",),
    "cw-l0": ("cw_l0",),
    "mim-linf": ("mim", "mi_fgsm"),
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

_UNBOUNDED: Mapping[tuple[str, str], str] = {
    ("gmvae", "gmvae_white_box"): "the paper penalises the perturbation instead of bounding it",
    ("mad-vae", "cw"): "the paper minimises the perturbation and bounds it nowhere",
    ("mad-vae", "single_pixel"): "the paper changes one pixel and states no ball",
    **{
        ("robust-manifold", f"cw_{norm}"): "the paper minimises the perturbation, bounds it nowhere"
        for norm in ("l0", "l2", "linf")
    },
}
"""Papers' attacks that were printed without a ball: shown beside any, with this caveat."""

_UNENFORCED: Mapping[tuple[str, str], str] = {
    ("mad-vae", "overpowered"): "the paper also counts points outside its budget of 4 in L2"
}
"""Papers' attacks whose ball bounds nothing that was printed: ours are the unrestricted ones."""

_RESNET = "torchvision:resnet152"
_BARE: Mapping[tuple[str, str], str] = {
    ("mad-vae", ""): "magnet",
    ("robust-manifold", ""): "inc_classifier",
    ("robust-manifold", "2"): _RESNET,
}
"""Paper and, where that matters, table -> our name of the classifier that it calls undefended."""

_UNDEFENDED = "no_defense"

_ONLY_VIEW = "exact"
"""The view of a classifier that nothing defends: whoever names it attacks as if nobody did."""

_SUBSTITUTE = re.compile(r"substitute ([A-E])")
"""A note: the classifier that was attacked, and that classifies what the defense purified."""

_SAID_BY_THE_METRIC = (
    "agreement with its clean prediction, not with the label",
    "the substitute itself classifies the purified image",
    "mean over images and noise norms",
    "norm budget not enforced",
    "correct under every noise norm",
    "pairs found on the original classifier",
)
"""Notes that the metric's or the attack's own name says where the number is shown."""

_RECLASSIFYING = "_reclassify"
_RECLASSIFIED: Mapping[str, str] = {
    "reclassification_accuracy": "reclassified samples of the attack on the encoder alone",
    "accuracy_after_reclassification": "",
}
"""Metrics of a paper's defense that are the accuracy of ours with this ending, and a caveat."""

MEAN_ACCURACY, ORIGINAL_ACCURACY = "mean_accuracy", "original_accuracy"
"""Metrics of a set of attacks: over all their points, and over samples right under every one."""

LARGEST_ERROR = "error_maximum"
"""The metric of a whole sweep: it has no radius."""

_SIGNED_PIXELS = "pixels in [-1, 1]"
"""A note: radii are in a box twice as wide as ours."""

_TUNED = re.compile(r"stopping tuned for epsilon .+")
"""A note: the defense knows the attacker's radius."""

_STOPPED: Mapping[str, str] = {
    "0.01": f"dip_inc_paper[classifier={_RESNET}]",
    "0.05": f"dip_inc_paper[classifier={_RESNET}]",
    "0.1": f"dip_inc_paper[steps=100,classifier={_RESNET}]",
}
"""That radius -> our specification of what the paper calls ``dip_inc``."""


@dataclass(frozen=True)
class Published:
    """One printed number.

    Args:
        defense: our name; for a substitute that classifies what a defense purified, our
            specification of that.
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
    surrogate, substitute, known, caveats, scale = "", "", row["epsilon"], [], 1.0
    undefended = row["defense"] == _UNDEFENDED
    for part in filter(None, (part.strip() for part in row["note"].split(";"))):
        if match := re.fullmatch(r"(\w+)=(\d+)", part):
            parameters[_PARAMETER_NAMES.get(match[1], match[1])] = float(match[2])
        elif part in _ATTACKED_VIEWS:
            surrogate = _ATTACKED_VIEWS[part] if row["attack"] != CLEAN else ""
        elif part == _SIGNED_PIXELS:
            scale = 0.5
            caveats += [f"epsilon {row['epsilon']} for {part}"] if row["epsilon"] else []
        elif _TUNED.fullmatch(part):
            known = part.rpartition(" ")[2]
            caveats += [] if undefended else [part]
        elif match := _SUBSTITUTE.fullmatch(part):
            substitute = f"substitute_{match[1].lower()}"
            surrogate = "classifier" if row["attack"] != CLEAN else ""
        elif part not in _SAID_BY_THE_METRIC:
            caveats.append(part)
    printed, is_accuracy = (row["paper"], row["attack"]), row["metric"] == "accuracy"
    if undefended and is_accuracy:  # agreements stand beside the classifier's own view
        surrogate = ""
    of_attack = _UNBOUNDED.get(printed, _UNENFORCED.get(printed))
    caveats += filter(None, (of_attack, _RECLASSIFIED.get(row["metric"])))
    radius = math.inf if printed in _UNENFORCED else _radius(row["epsilon"])
    return Published(
        paper=row["paper"],
        table=row["table"],
        dataset=row["dataset"],
        defense=_our_defense(row, substitute, known),
        attack=row["attack"].removesuffix("_substitute"),
        norm="unrestricted" if printed in _UNENFORCED else row["norm"],
        epsilon=None if radius is None else radius * scale,
        metric=MEAN_ACCURACY if printed in _UNENFORCED and is_accuracy else row["metric"],
        value=float(row["value"]),
        note=row["note"],
        parameters=parameters,
        surrogate=surrogate,
        caveat="; ".join(caveats),
    )


def _our_defense(row: Mapping[str, str], substitute: str, known: str) -> str:
    """Our name of a paper's defense.

    Args:
        known: the radius of the attack, or that which the defense is tuned for.
    """
    paper, name = row["paper"], row["defense"]
    if name == _UNDEFENDED:
        bare = _BARE.get((paper, row["table"]), _BARE.get((paper, ""), name))
        return substitute or bare
    if name == "dip_inc":
        return _STOPPED[known]
    return f"{name}[answered_by={substitute}]" if substitute else name


def _radius(text: str) -> float | None:
    """``8/255`` or ``0.3`` as a number; None where no single radius is given."""
    try:
        return float(Fraction(text))
    except ValueError:
        return None


def specification(label: str) -> tuple[str, dict[str, float | str]]:
    """An attack label's name and fields: ``pgd-l2[steps=5]`` -> ("pgd-l2", {"steps": 5.0}).

    Labels of defenses are alike, and may have a colon, dots and slashes:
    ``timm:resnet152.tv_in1k``, ``robustbench:cifar10/Linf/Carmon2019Unlabeled``.

    Raises:
        ValueError: the label is not of the form ``name[field=value,...]``.
    """
    match = re.fullmatch(r"([\w.:/-]+)(?:\[((?:\w+=[^,]+,?)*)\])?", label)
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
        surrogate: the view that was attacked; empty is the strongest, or the only one.
        epsilon: radius for pixels in [0, 1]; ignored for ``clean`` and for `LARGEST_ERROR`.
        preferred: paper and table whose number is the only one, where it has one.
    """
    name, parameters = specification(attack)
    names = _names_in_papers(name)
    surrogate = "" if surrogate == _ONLY_VIEW else surrogate
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


def of_table(
    table: tuple[str, str], *, defense: str, attack: str, metric: str
) -> tuple[Published, ...]:
    """What one table of a paper says of a measurement, on whichever data set it was made.

    Whoever shows such a number beside one from another data set names the paper's.

    Args:
        table: paper and table.
        attack: as the paper's rows call it.
    """
    return tuple(
        number
        for number in results()
        if (number.paper, number.table) == table
        and (number.defense, number.attack, number.metric) == (defense, attack, metric)
    )


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


def stated_fields(paper: str, table: str) -> frozenset[str]:
    """The attack fields that some number of a paper's table is conditioned on."""
    return frozenset(
        name
        for number in results()
        if (number.paper, number.table) == (paper, table)
        for name in number.parameters
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
    bare = re.sub(r"-(linf|l0|l1|l2|unrestricted)$", "", name).replace("-", "_")
    return _PAPER_NAMES.get(name, (bare,))


def _same_ball(number: Published, norm: str, epsilon: float) -> bool:
    if (number.paper, number.attack) in _UNBOUNDED:
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
