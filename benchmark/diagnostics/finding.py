"""What a rule says: that it looked, that it saw something, and what a reader should do about it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from benchmark.diagnostics.evidence import Evidence

EVERY_RADIUS = math.inf
"""Epsilon of a finding that concerns an attack at all of its radii."""


class Severity(StrEnum):
    """How much of a number is left."""

    INVALID = "invalid"
    """The number says nothing."""
    SUSPECT = "suspect"
    """The number may be wrong, nearly always too high."""
    NOTE = "note"
    """Worth knowing; no number is in doubt."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a rule saw in one case.

    Args:
        text: in words, with counts.
        defense: column key; empty concerns every defense.
        attack: row key; `benchmark.published.ALL` concerns the worst case of the norm, empty the
            defense under whatever attack.
        norm: empty where it does not matter.
        epsilon: `EVERY_RADIUS` for all radii; 0 where it does not matter.
    """

    text: str
    defense: str = ""
    attack: str = ""
    norm: str = ""
    epsilon: float = 0.0
    severity: Severity = Severity.SUSPECT


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule saw, under the rule's name; fields as those of `Seen`.

    Args:
        name: of the rule.
        advice: what the reader should do.
    """

    name: str
    defense: str
    attack: str
    norm: str
    epsilon: float
    text: str
    advice: str
    severity: Severity

    @property
    def counts(self) -> bool:
        """Whether it puts a number in doubt."""
        return self.severity is not Severity.NOTE

    @property
    def footnote(self) -> str:
        """For a table: name, what was seen, what to do."""
        return f"{self.name}: {self.text}; {self.advice}"


@dataclass(frozen=True)
class Rule:
    """One question to the evidence.

    Args:
        ask: yields one item per case that could be looked at, None where it is as it should be.
        advice: what a reader should do where it is not.
    """

    ask: Callable[[Evidence], Iterator[Seen | None]]
    advice: str
