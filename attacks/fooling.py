"""Fooling images: noise that becomes an accepted image of a class (Ghosh et al. 2019, Eq. 11)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.threat import Norm
from attacks.threshold_descent import ThresholdDescent
from defenses.randomness import noise_like_rows


@final
@dataclass(frozen=True, kw_only=True)
class Fooling(ThresholdDescent):
    """Eq. 11: from uniform noise, each image's own, to whatever is accepted as another class.

    argmin_eta (decoder score)^a + (encoder score of the wanted class)^b, eta in the box
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.UNRESTRICTED,)

    norm: Norm = Norm.UNRESTRICTED

    def start(self, x: Tensor, rng: Generator) -> Tensor:
        """Uniform noise in [0, 1]; of the image nothing remains."""
        return noise_like_rows(rng, x, x.shape[1:], torch.rand)

    def price(self, x: Tensor, points: Tensor) -> Tensor:
        """Nothing: any distance will do."""
        return x.new_zeros(len(x))
