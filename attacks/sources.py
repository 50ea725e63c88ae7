"""Trained defenses that an attack may use besides the one it attacks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from attacks.base import Attack
from defenses.base import Defense


@dataclass(frozen=True)
class Trained:
    """A trained defense; its repr tells which weights, so an attack's repr does.

    Args:
        name: registered name or specification.
        recipe: with every field, as text.
        digest: hash of its weights.
        load: makes it in evaluation mode on a device, in any process.
    """

    name: str
    recipe: str
    digest: str
    load: Callable[[str], Defense] = field(repr=False, compare=False)


@runtime_checkable
class InformedByDefense(Protocol):
    """An attack that works on another defense; the runner trains that one and hands it over."""

    @property
    def source(self) -> str:
        """The name under which the other defense is registered."""
        ...

    def equipped(self, trained: Trained) -> Attack:
        """This attack with the other defense."""
        ...
