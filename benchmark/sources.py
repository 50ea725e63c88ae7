"""Trained defenses for attacks that work on another one than they attack (`attacks.sources`)."""

from collections.abc import Callable, Iterable

from attacks.base import Attack
from attacks.sources import InformedByDefense, Trained
from benchmark.shelf import Armed


def equip(
    attacks: Iterable[tuple[str, Attack]], arm: Callable[[str], Armed]
) -> list[tuple[str, Attack]]:
    """The labelled attacks, those that name a source with that defense trained.

    Args:
        arm: finds or trains a defense by name.

    Raises:
        LookupError: an unknown source.
    """
    return [
        (
            label,
            attack.equipped(_trained(arm(attack.source)))
            if isinstance(attack, InformedByDefense)
            else attack,
        )
        for label, attack in attacks
    ]


def _trained(armed: Armed) -> Trained:
    return Trained(armed.name, armed.repr, armed.digest, armed.load)
