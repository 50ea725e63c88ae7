"""Artefacts: one small TOML file per published table or figure, and what it says.

    title = "Number of steps of Linf PGD on SVHN"
    source = "E-ABS (Ju & Wagner 2020), Table 8"
    paper = "e-abs"                              # where its numbers stand in published/results.csv
    table = "8"
    kind = "table"                               # or another `Kind`
    dataset = "svhn"
    defenses = ["eabs"]
    row_by = "steps"                             # only where rows are values of an attack's field
    attacks = ["pgd-linf[eot=3,restarts=20,steps=0]", ...]
    keeps = ["confidence"]                       # fields that say what is measured, if any
    shows = ["purified", "latents"]              # only where the kind is "map"
    classifier = "torchvision:resnet152"         # only where the defenses protect another one here
    samples = 200                                # at preset paper; others have their own number

    [epsilons]
    linf = ["8/255"]

    [substitutes.mnist]                          # only where mnist's own would not do in its place
    linf = ["0.1", "0.2"]

A field in brackets is the paper's budget, except ``row_by``, which is the row itself, and those in
``keeps``, which make it another attack and not a longer one. Preset ``paper`` runs all of them;
every other preset keeps these and spends its own budgets on the rest, and the published number then
carries the fields it was measured with as a footnote.
"""

import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmark.published import specification

FOLDER = Path(__file__).parent / "artefacts"


class Kind(StrEnum):
    """What is drawn besides the table.

    CURVE: worst-case accuracy against epsilon. RATES: accuracy, error and rejection against
    epsilon, per attack. PROTOCOLS: accuracy against epsilon under attacks on the classifier inside,
    under attacks through the whole defense, and under each that transfers. GRID: images,
    adversarial examples, their difference. RECONSTRUCTIONS: adversarial examples above what the
    defense makes of them, with its scores and verdict. PROJECTIONS: images, adversarial examples
    and what each defense makes of both, with the classifier's confidence in the label. DISTANCES:
    histograms of how far the defenses move images, clean and attacked. SCATTER: both as points of a
    plane that is the defense's latents. SAMPLES: images that the defenses generate. MAP: clean and
    attacked images, or what a purifier makes of them, in two dimensions. PAIRS: the successes that
    moved farthest. OVERPOWERED: nothing, but the pairs that left their class are counted in the
    table.

    The others are about pairs of latents and have no sweep (`benchmark.latent_report`).
    LATENT_PAIRS: numbers of the pairs found on each defense, and of the first one's put to the
    others. LATENT_GRID: the pairs. LATENT_TRACE: how far apart they are after so many steps.
    LATENT_OUTPUTS: what each defense makes of the first one's pairs. LOSSES: of the first defense's
    training.
    """

    TABLE = "table"
    CURVE = "curve"
    RATES = "rates"
    PROTOCOLS = "protocols"
    GRID = "grid"
    RECONSTRUCTIONS = "reconstructions"
    PROJECTIONS = "projections"
    DISTANCES = "distances"
    SCATTER = "scatter"
    SAMPLES = "samples"
    MAP = "map"
    PAIRS = "pairs"
    OVERPOWERED = "overpowered"
    LATENT_PAIRS = "latent_pairs"
    LATENT_GRID = "latent_grid"
    LATENT_TRACE = "latent_trace"
    LATENT_OUTPUTS = "latent_outputs"
    LOSSES = "losses"


class Shown(StrEnum):
    """What a map is of: the images as they come in, as a purifier sends them on, its latents."""

    INPUTS = "inputs"
    PURIFIED = "purified"
    LATENTS = "latents"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One published table or figure.

    Args:
        name: of its file, without the suffix.
        title: what it shows.
        source: paper and place in it, for people.
        paper: where its numbers stand in the published results.
        table: likewise.
        kind: how it is shown.
        dataset: registered name.
        defenses: specifications, in the order of the columns.
        attacks: specifications in the order of the rows, with the paper's own fields in brackets;
            none for what is measured on clean images alone.
        samples: test images at preset ``paper``.
        epsilons: radii, ascending, per norm.
        row_by: the attack field whose values are the rows; empty where rows are attacks.
        keeps: further attack fields that every preset keeps.
        shows: what a map is of, one map each.
        classifier: what the defenses protect on the artefact's own data set; empty for what they
            are registered with, as it is on all others.
        substitutes: data set -> radii, where it takes the place of the artefact's own; data sets
            that are not named bring theirs.
    """

    name: str
    title: str
    source: str
    paper: str
    table: str
    kind: Kind
    dataset: str
    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    samples: int
    epsilons: Mapping[str, tuple[float, ...]]
    row_by: str = ""
    keeps: tuple[str, ...] = ()
    shows: tuple[Shown, ...] = ()
    classifier: str = ""
    substitutes: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)

    def attacks_at(self, preset: str) -> dict[str, str]:
        """Specification to run at this preset -> the paper's specification."""
        if preset == "paper":
            return {spec: spec for spec in self.attacks}
        return {with_fields(spec, (self.row_by, *self.keeps)): spec for spec in self.attacks}


def with_fields(spec: str, names: Collection[str]) -> str:
    """An attack specification with only those of its fields that are named."""
    label, at, surrogate = spec.partition("@")
    name, parameters = specification(label)
    kept = [
        f"{field}={value:g}" if isinstance(value, float) else f"{field}={value}"
        for field, value in parameters.items()
        if field in names
    ]
    return f"{name}[{','.join(kept)}]{at}{surrogate}" if kept else name + at + surrogate


def names() -> tuple[str, ...]:
    """Every artefact, tables and figures in numerical order."""
    found = (path.stem for path in FOLDER.glob("*.toml"))
    return tuple(sorted(found, key=lambda name: [_natural(part) for part in name.split("-")]))


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


def load(name: str) -> Artefact:
    """The artefact of this name.

    Raises:
        LookupError: no such artefact; says the nearest and all that exist.
        ValueError: its file is not as the module describes.
    """
    if name not in names():
        near = get_close_matches(name, names(), n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise LookupError(f"unknown artefact {name!r}; {guess}available: {', '.join(names())}")
    return parse(name, (FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Artefact:
    """An artefact from its file's text; raises ValueError as `load`."""
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"artefact {name} must be TOML, got {error}; correct the file") from error
    known = {each.name: each for each in fields(Artefact) if each.name != "name"}
    missing = [name for name, each in known.items() if _required(each) and name not in content]
    unknown = [key for key in content if key not in known]
    if missing or unknown:
        raise ValueError(
            f"artefact {name} must have the fields {', '.join(known)}, got "
            f"{', '.join(content) or 'none'} (missing: {', '.join(missing) or 'none'}; unknown: "
            f"{', '.join(unknown) or 'none'}); correct the file"
        )
    if content["kind"] not in list(Kind):
        raise ValueError(
            f"kind of artefact {name} must be {', '.join(Kind)}, got {content['kind']!r}; "
            "correct the file"
        )
    shows = content.get("shows", [])
    if (content["kind"] == Kind.MAP) != bool(shows) or not set(shows) <= set(Shown):
        raise ValueError(
            f"shows of artefact {name} must be some of {', '.join(Shown)} for a map and absent for "
            f"other kinds, got {', '.join(shows) or 'none'}; correct the file"
        )
    artefact = Artefact(
        name=name,
        title=content["title"],
        source=content["source"],
        paper=content["paper"],
        table=content["table"],
        kind=Kind(content["kind"]),
        dataset=content["dataset"],
        defenses=tuple(content["defenses"]),
        attacks=tuple(content["attacks"]),
        samples=content["samples"],
        epsilons=_radii(content["epsilons"]),
        row_by=content.get("row_by", ""),
        keeps=tuple(content.get("keeps", ())),
        shows=tuple(map(Shown, shows)),
        classifier=content.get("classifier", ""),
        substitutes={n: _radii(radii) for n, radii in content.get("substitutes", {}).items()},
    )
    for dataset, radii in artefact.substitutes.items():
        if radii.keys() != artefact.epsilons.keys():
            raise ValueError(
                f"epsilons for {dataset} in artefact {name} must be of the norms "
                f"{', '.join(artefact.epsilons)}, got {', '.join(radii) or 'none'}; "
                "correct the file"
            )
    for spec in artefact.attacks if artefact.row_by else ():
        if artefact.row_by not in specification(spec)[1]:
            raise ValueError(
                f"attacks of artefact {name} must name {artefact.row_by!r}, got {spec!r}; "
                "correct the file"
            )
    return artefact


def _required(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _radii(listed: Mapping[str, Collection[str]]) -> dict[str, tuple[float, ...]]:
    return {norm: tuple(map(_radius, radii)) for norm, radii in listed.items()}


def _radius(text: str) -> float:
    if text == "inf":
        return math.inf
    if not re.fullmatch(r"\d+(\.\d+)?(/\d+)?", text):
        raise ValueError(f"epsilon must be like 0.3, 8/255 or inf, got {text!r}; correct the file")
    return float(Fraction(text))
