"""What the rules look at: outcomes by attack and sample, and the probes kept beside the records."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmark import probes, published, records
from benchmark.accuracy import Layout
from benchmark.agreement import OBLIVIOUS
from benchmark.cells import CLEAN
from benchmark.probes import CellProbe, DefenseProbe
from benchmark.records import Outcome
from benchmark.scores import SEVERITY, Scores, split_key


class Kind(StrEnum):
    """What an attack knows and how often it looks."""

    SINGLE_STEP = "single-step"
    ITERATIVE = "iterative"
    """Ascent in the whole ball, which a single step is a special case of."""
    GRADIENT = "gradient"
    """Other gradient attacks: they look for the nearest point or in a part of the ball."""
    BLACK_BOX = "black-box"
    TRANSFER = "transfer"
    """Aimed at another network than the deployed defense, or at the classifier inside it."""
    NOISE = "noise"
    YARDSTICK = "yardstick"
    """Too few pixels for a comparison."""


KINDS: dict[str, Kind] = {
    "fgsm": Kind.SINGLE_STEP,
    "rand-fgsm": Kind.SINGLE_STEP,
    "pgd": Kind.ITERATIVE,
    "bim": Kind.ITERATIVE,
    "mim": Kind.ITERATIVE,
    "apgd": Kind.ITERATIVE,
    "apgd-lowpass": Kind.GRADIENT,
    "apgd-true-class": Kind.GRADIENT,
    "deepfool": Kind.GRADIENT,
    "ddn": Kind.GRADIENT,
    "cw": Kind.GRADIENT,
    "fmn": Kind.GRADIENT,
    "fab": Kind.GRADIENT,
    "latent-descent": Kind.GRADIENT,
    "threshold-aware": Kind.GRADIENT,
    "threshold-hinge": Kind.GRADIENT,
    "threshold-selective": Kind.GRADIENT,
    "threshold-orthogonal": Kind.GRADIENT,
    "feature-matching": Kind.GRADIENT,
    "strongest": Kind.GRADIENT,
    "pgd-estimated": Kind.BLACK_BOX,
    "square": Kind.BLACK_BOX,
    "hopskipjump": Kind.BLACK_BOX,
    "boundary": Kind.BLACK_BOX,
    "transfer": Kind.TRANSFER,
    "noise": Kind.NOISE,
    "single-pixel": Kind.YARDSTICK,
}
"""How an attack's name begins -> its kind; the longest beginning decides."""

WHITE_BOX = (Kind.SINGLE_STEP, Kind.ITERATIVE, Kind.GRADIENT)
BLIND = (Kind.BLACK_BOX, Kind.TRANSFER)
"""Without a gradient of the deployed defense."""


class Ball(NamedTuple):
    """One defense at one radius."""

    defense: str
    norm: str
    epsilon: float


@dataclass(frozen=True)
class ProbedCell:
    """The probe of one cell, and whose it is.

    Args:
        defense, attack: keys of the column and the row.
    """

    defense: str
    attack: str
    norm: str
    probe: CellProbe


@dataclass(frozen=True)
class Probes:
    """The probes that belong to some records.

    Args:
        defenses: by column key.
        unasked: column keys of the others.
        cells: of attacks; those of a crash or where the attack does not apply have none.
        cells_unasked: how many other cells there are.
    """

    defenses: Mapping[str, DefenseProbe] = field(default_factory=dict)
    unasked: tuple[str, ...] = ()
    cells: tuple[ProbedCell, ...] = ()
    cells_unasked: int = 0


def gather(scores: Scores, folder: Path) -> Probes:
    """Read the probes of a table's defenses and cells.

    Args:
        folder: ``results/<dataset>/records``.

    Raises:
        ValueError: a probe's file is damaged.
    """
    defenses: dict[str, DefenseProbe] = {}
    cells: list[ProbedCell] = []
    unasked = 0
    for entry in scores.metadata:
        key, attack, norm = entry["defense_key"], entry["attack_key"], str(entry["norm"])
        if key not in scores.defenses:
            continue
        cell = records.cell_of(entry)
        asked = (cell.defense, cell.defense_repr, cell.weights_digest, cell.dataset_digest)
        if key not in defenses:
            whole = probes.of_defense(folder, probes.defense_id(*asked, cell.seed))
            if whole is not None:
                defenses[key] = whole
        if cell.attack == CLEAN or entry["not_applicable"] or entry["error"]:
            continue
        found = probes.of_cell(folder, cell.id)
        unasked += found is None
        cells += [] if found is None else [ProbedCell(key, attack, norm, found)]
    others = tuple(key for key in scores.defenses if key not in defenses)
    return Probes(defenses, others, tuple(cells), unasked)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Scores and probes, as the rules ask for them."""

    scores: Scores
    layout: Layout
    probes: Probes

    @property
    def balls(self) -> Iterator[Ball]:
        """Every defense at every radius of the table."""
        for norm, radii in self.layout.radii.items():
            for epsilon in radii:
                for defense in self.scores.defenses:
                    yield Ball(defense, norm, epsilon)

    def attacks(self, ball: Ball, *kinds: Kind) -> tuple[str, ...]:
        """Keys of the attacks of some kinds that were run on a defense at a radius."""
        found = self._severities.get(ball)
        present = [] if found is None else list(found.columns)
        return tuple(a for a in self.scores.attacks[ball.norm] if a in present and kind(a) in kinds)

    def broken(self, ball: Ball, attack: str) -> "pd.Series[bool]":
        """Per sample with a verdict, whether the attack made an accepted wrong answer of it."""
        severities = self._severities[ball][attack].dropna()
        resolved = severities[severities <= SEVERITY[Outcome.WRONG]]
        return resolved == SEVERITY[Outcome.WRONG]

    def broken_by_any(self, ball: Ball, *kinds: Kind) -> "pd.Series[bool] | None":
        """Per sample, whether any attack of some kinds broke it; None without such attacks."""
        names = self.attacks(ball, *kinds)
        if not names:
            return None
        found = pd.concat([self.broken(ball, name) for name in names], axis=1, join="inner")
        return found.any(axis=1)

    def members(self, ball: Ball, attack: str) -> "pd.Series[str]":
        """Per sample that an ensemble broke, the member that did it; empty for other attacks."""
        frame = self.scores.outcomes
        chosen = (frame["defense"] == ball.defense) & (frame["norm"] == ball.norm)
        chosen &= (frame["epsilon"] == ball.epsilon) & (frame["attack"] == attack)
        found = frame[chosen & (frame["severity"] == SEVERITY[Outcome.WRONG])]
        return found.loc[found["member"] != ""].set_index("sample")["member"]

    def clean_right(self, defense: str) -> "pd.Series[bool] | None":
        """Per sample, whether the image itself is answered correctly; None where nobody asked."""
        found = self._severities.get(Ball(defense, "", 0.0))
        return None if found is None else found[CLEAN] == SEVERITY[Outcome.CORRECT]

    @cached_property
    def _severities(self) -> "dict[Ball, pd.DataFrame]":
        """Rows are samples, columns attacks."""
        found = {}
        for defense in self.scores.defenses:
            rows = self.scores.outcomes[self.scores.outcomes["defense"] == defense]
            for norm, epsilon in (
                rows[["norm", "epsilon"]].drop_duplicates().itertuples(index=False)
            ):
                here = rows[(rows["norm"] == norm) & (rows["epsilon"] == epsilon)]
                found[Ball(defense, norm, epsilon)] = here.pivot(
                    index="sample", columns="attack", values="severity"
                )
        return found


def kind(attack: str) -> Kind | None:
    """What an attack is by its row key; None for one that no rule compares."""
    label, surrogate, _ = split_key(attack)
    name = published.specification(label)[0]
    fitting = [known for known in KINDS if name == known or name.startswith(f"{known}-")]
    if not fitting:
        return None
    found = KINDS[max(fitting, key=len)]
    return Kind.TRANSFER if surrogate == OBLIVIOUS and found in WHITE_BOX else found


def only(first: "pd.Series[bool]", second: "pd.Series[bool]") -> tuple[int, int]:
    """Samples that are true in the first alone, and in the second alone; of those in both."""
    both = first.index.intersection(second.index)
    one, other = first.loc[both], second.loc[both]
    return int((one & ~other).sum()), int((other & ~one).sum())
