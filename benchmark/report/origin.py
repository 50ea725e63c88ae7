"""Where a group's numbers come from: versions, commits, devices, weights, configurations."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmark import footer
from benchmark.cells import CLEAN
from benchmark.report.grid import Column, Field, Row, Table, heading
from benchmark.scores import Scores

_DIGITS = 12


@dataclass(frozen=True)
class Origin:
    """The section of one group.

    Args:
        facts: pairs of a term and what there is to say.
        weights: a row per defense.
        attacks: a row per attack and configuration.
        failures: cells without a number.
    """

    facts: tuple[tuple[str, tuple[str, ...]], ...]
    weights: Table
    attacks: Table
    failures: tuple[str, ...]


def origin(scores: Scores) -> Origin:
    """What the metadata of the records says."""
    cells = scores.metadata
    facts = (
        ("Run", (footer.summary(scores),)),
        ("Data set digest", _different(m["dataset_digest"] for m in cells)),
        (
            "Versions",
            _different(
                ", ".join(f"{name} {version}" for name, version in m["versions"].items())
                for m in cells
            ),
        ),
        ("Commits", _different(m["commit"] for m in cells)),
        ("Devices", _different(m["device"] for m in cells)),
    )
    firsts = {m["defense_key"]: m for m in reversed(cells)}
    weights = tuple(
        Row(
            (
                heading(defense),
                heading(str(firsts[defense]["weights_digest"])[:_DIGITS] or "none"),
                heading(str(firsts[defense]["defense_repr"])),
            )
        )
        for defense in scores.defenses
    )
    configurations = {m["attack_key"]: str(m["attack_repr"]) for m in cells if m["attack"] != CLEAN}
    attacks = tuple(
        Row((heading(key), Field(text, order=text))) for key, text in configurations.items()
    )
    failures = tuple(
        f"{m['defense_key']} under {m['attack_key']}: {str(m['error']).strip().splitlines()[-1]}"
        for m in cells
        if m["error"]
    )
    return Origin(
        facts,
        Table(
            "weights", "Defenses and their weights", _heads("Defense", "Weights", "Recipe"), weights
        ),
        Table("attacks", "Attacks", _heads("Attack", "Configuration"), attacks),
        failures,
    )


def _heads(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, numeric=False) for name in names)


def _different(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(value) for value in values))
