"""Seeds: hashes of the names of what is computed, so order and number of workers can't matter.

Noise within a batch is a function of each image (`defenses.randomness.noise_like_rows`), so no seed
depends on a sample's place. The judge's seeds hash another name than the attack's and are handed to
the judge alone: an attack holds a generator from which they can't be derived.
"""

from torch import Generator

from benchmark.cells import Cell
from defenses.randomness import generator, seed_from


def for_attack(cell: Cell) -> Generator:
    """The attack's only randomness in this cell."""
    return generator(
        seed_from(cell.seed, "attack", cell.dataset, cell.defense, cell.attack, cell.surrogate)
    )


def for_judge(cell: Cell) -> Generator:
    """The judge's randomness; clean images meet the same seeds under every attack."""
    return generator(seed_from(cell.seed, "judge", cell.dataset, cell.defense))


def for_verification(cell: Cell, repetition: int) -> Generator:
    """Seeds that neither the attack nor the judge ever saw."""
    return generator(seed_from(cell.seed, "verify", cell.dataset, cell.defense, repetition))


def for_probe(cell: Cell, *question: object) -> Generator:
    """Seeds of a question beside the accuracy, each with its own, none of them the cell's."""
    names = (cell.dataset, cell.defense, cell.attack, cell.surrogate)
    return generator(seed_from(cell.seed, "probe", *names, *question))


def for_self_test(seed: int, *names: object) -> Generator:
    """Seeds of an attack on a planted network, or of the judge there."""
    return generator(seed_from(seed, "self-test", *names))
