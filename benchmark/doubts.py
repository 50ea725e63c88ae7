"""Doubts: what stands in an accuracy table's fields beside, or in place of, their numbers.

The table knows fields and texts; which findings lead to which doubts `benchmark.diagnostics` knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

ATTACK_INVALID = "attack invalid"
"""In place of the number of an attack that fails where it must not."""


class Field(NamedTuple):
    """One field of an accuracy table, by the column's and the row's keys."""

    defense: str
    attack: str
    norm: str
    epsilon: float


class Doubt(NamedTuple):
    """One doubt: its rule's name, and a footnote that begins with it."""

    name: str
    footnote: str


@dataclass(frozen=True)
class Doubts:
    """What is doubtful in a table.

    Args:
        marks: of each field in doubt.
        void: fields whose number is withheld.
    """

    marks: Mapping[Field, tuple[Doubt, ...]] = field(default_factory=dict)
    void: frozenset[Field] = frozenset()


NO_DOUBTS = Doubts()
