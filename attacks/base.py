"""What an attack is: it proposes candidates and never gives a verdict."""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

from torch import Generator, Tensor

from attacks.eot import View
from attacks.goals import Goal
from attacks.threat import Norm
from defenses.base import Defense


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack configuration; its repr is its provenance.

    Args:
        norm: the distance that budgets limit.
        view: which differentiable view the attack queries, averaged over how many EOT samples.
        confirmations: how often in a row a stochastic defense, as deployed, must be fooled before
            the attack lets a sample go (no paper states one; a deterministic defense is asked
            once). A lucky seed is no proof, and stopping on one would flatter the defense.

    Raises:
        ValueError: a count below 1, a number that is negative or not finite, or a norm that this
            attack does not minimise.
    """

    norms: ClassVar[tuple[Norm, ...]]
    goal: ClassVar[Goal] = Goal.EVASION
    counts_from_zero: ClassVar[tuple[str, ...]] = ()
    reach: ClassVar[float] = 2.0
    """Times the distance to the boundary of a linear network within which the attack must break it
    (`benchmark.selftest`); infinite for yardsticks, of which nobody expects that."""

    norm: Norm
    view: View = field(default_factory=View)
    confirmations: int = 3

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            match value:
                case bool():
                    continue
                case int() if value < (least := 0 if name in self.counts_from_zero else 1):
                    raise ValueError(f"{name} must be at least {least}, got {value}; raise it")
                case float() if not math.isfinite(value) or value < 0:
                    raise ValueError(f"{name} must be finite and not negative, got {value}; fix it")
        if self.norm not in self.norms:
            raise ValueError(
                f"norm must be one of {', '.join(self.norms)} for {type(self).__name__}, "
                f"got {self.norm}; choose another attack for that norm"
            )

    @abstractmethod
    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        """Candidates (E, N, C, H, W) in the box, candidate e within ``epsilons[e]`` of ``x``.

        Where nothing was found the candidate is the attack's best attempt, or ``x`` itself.

        Args:
            x: clean images (N, C, H, W) in [0, 1] that the defense classifies correctly.
            y: labels (N,).
            epsilons: radii in ascending order.
            rng: the only source of randomness; images keep their result in any batch.

        Raises:
            ValueError: see `check`.
        """

    def check(self, x: Tensor, epsilons: Sequence[float]) -> None:
        """Refuse what no attack can work with.

        Raises:
            ValueError: pixels outside the box or not finite; budgets that are negative, not finite
                (but for attacks without a budget) or not ascending.
        """
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(
                f"x must be in [0, 1], got values from {x.min().item():g} to {x.max().item():g}; "
                "scale the images"
            )
        largest = math.inf if self.norm is Norm.UNRESTRICTED else sys.float_info.max
        if not all(0 <= each <= largest for each in epsilons):
            raise ValueError(
                f"epsilons must be finite and not negative, got {list(epsilons)}; drop the others"
            )
        if list(epsilons) != sorted(epsilons):
            raise ValueError(f"epsilons must ascend, got {list(epsilons)}; sort them")

    def needs(self, defense: Defense) -> str | None:
        """Why the attack is not applicable to this defense, or None."""
        return None
