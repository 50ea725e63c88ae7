"""What a sweep works on: one cell, with the defense and the attack that it names."""

from dataclasses import dataclass

from attacks.base import Attack
from benchmark.cells import Cell
from benchmark.shelf import Armed


@dataclass(frozen=True, eq=False)
class Subject:
    """One cell to be finished; a clean one has no attack and needs no clean answers.

    Args:
        clean: the cell that holds the answers to the images themselves.
    """

    cell: Cell
    armed: Armed
    attack: Attack | None = None
    clean: Cell | None = None

    @property
    def not_applicable(self) -> str | None:
        """Why there is nothing to compute: the attack needs what the defense has not."""
        if self.attack is None:
            return None
        defense = self.armed.example
        surrogate = self.attack.view.surrogate
        if surrogate is not None and surrogate not in defense.surrogate_names:
            return f"{self.armed.name} has no surrogate {surrogate!r}"
        return self.attack.needs(defense)
