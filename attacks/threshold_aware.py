"""The white-box attack on a classifier with thresholds (Ghosh et al. 2019, Eq. 10)."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Generator, Tensor

from attacks.threat import Norm
from attacks.threshold_descent import ThresholdDescent


@final
@dataclass(frozen=True, kw_only=True)
class ThresholdAware(ThresholdDescent):
    """Eq. 10: a small perturbation that keeps both scores of the wanted class small.

    argmin_eta (decoder score)^a + (encoder score of the wanted class)^b + ||eta||^2, from eta = 0
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)

    norm: Norm = Norm.L2

    def start(self, x: Tensor, rng: Generator) -> Tensor:
        """The image."""
        return x

    def price(self, x: Tensor, points: Tensor) -> Tensor:
        """||eta||^2."""
        squared: Tensor = (points - x).flatten(1).square().sum(dim=1)
        return squared
