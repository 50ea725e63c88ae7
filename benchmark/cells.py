"""Cells: one defense under one attack on some samples, named by a hash of what decides it."""

import hashlib
from dataclasses import dataclass

CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The unit of caching and of seeding; two equal cells have the same rows.

    The number of workers, the device and the block size are missing on purpose: they must not
    matter.

    Args:
        dataset: its name.
        dataset_digest: hash of its arrays.
        defense: its registered name.
        defense_repr: its recipe with every field, after the preset's replacements.
        weights_digest: hash of its trained weights.
        attack: label as asked for, without the surrogate; `CLEAN` asks about the images themselves.
        attack_repr: the attack with every field; empty for `CLEAN`.
        surrogate: the differentiable view asked for; empty is the defense's strongest.
        norm: what the epsilons limit; empty for `CLEAN`.
        epsilons: radii, ascending; (0.0,) for `CLEAN`.
        samples: indices into the test split, ascending.
        seed: root seed.
        votes: how often the judge asks a stochastic defense about one point.
    """

    dataset: str
    dataset_digest: str
    defense: str
    defense_repr: str
    weights_digest: str
    attack: str
    attack_repr: str
    surrogate: str
    norm: str
    epsilons: tuple[float, ...]
    samples: tuple[int, ...]
    seed: int
    votes: int

    @property
    def id(self) -> str:
        """16 hexadecimal digits of a hash of exactly these fields."""
        return digest(self)

    @property
    def title(self) -> str:
        """For people: ``eabs, pgd-l2@classifier``."""
        surrogate = f"@{self.surrogate}" if self.surrogate else ""
        return f"{self.defense}, {self.attack}{surrogate}"


def digest(*values: object) -> str:
    """16 hexadecimal digits of a hash of the values' representations."""
    text = "\x1f".join(map(repr, values))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
