"""Expectation over transformation (Athalye et al. 2018): averaging over a defense's randomness."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from defenses.base import Defense, Surrogate
from defenses.randomness import child


@dataclass(frozen=True)
class View:
    """Which surrogate an attack queries, and how often per query.

    Args:
        surrogate: a name of `Defense.surrogate_names`; None is the defense's strongest.
        samples: EOT samples averaged per query; deterministic defenses are asked once.
    """

    surrogate: str | None = None
    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}; 1 is no averaging")

    def of(self, defense: Defense, rng: Generator) -> Surrogate:
        """The view of one defense, for one batch and one attack run."""
        count = self.samples if defense.stochastic else 1
        views = [
            defense.surrogate(self.surrogate, child(rng, "eot", sample)) for sample in range(count)
        ]
        return views[0] if count == 1 else _Expectation(tuple(views))


@dataclass(frozen=True)
class _Expectation:
    surrogates: tuple[Surrogate, ...]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, margins = zip(*(surrogate(x) for surrogate in self.surrogates), strict=True)
        return torch.stack(logits).mean(dim=0), torch.stack(margins).mean(dim=0)
