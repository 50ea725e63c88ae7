"""True transfer: adversarial examples made on one defense, handed to another (Papernot 2017)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.base import Attack
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.sources import Trained
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child


@final
@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """One candidate per epsilon, made on the source and handed over whatever the target says.

    The target is never asked, not even whether a candidate fools it, so its cost stays zero.

    A sweep hands over candidates for all images that the target classifies correctly. Figure 5 of
    the robust manifold paper (Jalal et al. 2017) counts those alone that the source classifies
    correctly too; where the source errs already, the candidate is what it is most wrong about.

    Args:
        crafting: the attack on the source; one run, unconfirmed.
        source: name of the registered defense that the candidates are made on.
        trained: that defense; the runner provides it.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    reach: ClassVar[float] = math.inf

    crafting: FixedEpsilonAttack
    source: str = "cnn"
    trained: Trained | None = None

    def __post_init__(self) -> None:
        Attack.__post_init__(self)
        if self.crafting.norm is not self.norm:
            raise ValueError(
                f"norm must be that of the crafting attack, {self.crafting.norm}, got {self.norm}; "
                "change one of them"
            )
        if self.crafting.restarts > 1:
            raise ValueError(
                "restarts of the crafting attack must be 1, for one run is handed over, got "
                f"{self.crafting.restarts}; lower them"
            )

    def equipped(self, trained: Trained) -> "Transfer":
        """See `InformedByDefense`."""
        return replace(self, trained=trained)

    def needs(self, defense: Defense) -> str | None:
        """A trained source, and no view: a target that is not asked shows none."""
        if self.trained is None:
            return f"nobody handed over a trained {self.source!r} to make candidates on"
        if self.view.surrogate is None:
            return None
        return f"transfer asks nothing of the defense, so it has no use for {self.view.surrogate!r}"

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        """Candidates (E, N, C, H, W); see `Attack.__call__`.

        Raises:
            ValueError: nobody handed the source over, or it is for other classes.
        """
        self.check(x, epsilons)
        if self.trained is None:
            raise ValueError(
                f"source must be trained and handed over, got the name {self.source!r} alone; "
                "run a sweep, or call equipped()"
            )
        source = self.trained.load(str(x.device)).to(x.dtype)
        if source.num_classes != defense.num_classes:
            raise ValueError(
                f"source must know {defense.num_classes} classes, got {source.num_classes}; "
                "train it on the same data set"
            )
        if len(x) == 0:
            return x.repeat(len(epsilons), 1, 1, 1, 1)
        return torch.stack(
            [
                self.crafting.perturb(
                    source, x, y, x.new_full((len(x),), epsilon), child(rng, "epsilon", epsilon)
                )
                for epsilon in epsilons
            ]
        )
