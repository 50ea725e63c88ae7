"""The sweep over budgets as one would write it first: every budget attacked on its own."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from attacks.base import Attack
from attacks.evasion import evades
from defenses.base import Defense
from defenses.randomness import child


def smallest_broken(
    attack: Attack, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], *, seed: int
) -> Tensor:
    """Index (N,) of the smallest budget at which the attack alone breaks; E where none does."""
    first = torch.full((len(x),), len(epsilons))
    for index in reversed(range(len(epsilons))):
        rng = Generator().manual_seed(seed)
        candidates = attack(defense, x, y, epsilons[index : index + 1], rng)
        first[evades(defense, candidates[0], y, child(rng, "reference"))] = index
    return first
