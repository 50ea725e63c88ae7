"""Attacks of a single gradient step, run by Foolbox: FGSM and its randomised relative."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Generator, Tensor

from attacks.from_foolbox.descent import GradientDescent, Schedule
from attacks.threat import Norm
from defenses.randomness import noise_like_rows


@final
@dataclass(frozen=True, kw_only=True)
class FGSM(GradientDescent):
    """Fast gradient (sign) method (Goodfellow et al. 2015): one step of length epsilon."""

    skips: ClassVar[bool] = False

    def schedule(self, epsilon: Tensor) -> Schedule:
        """One full step."""
        return Schedule(1, 1.0)

    def start(self, x: Tensor, epsilon: Tensor, rng: Generator) -> Tensor:
        """The image."""
        return x


@final
@dataclass(frozen=True, kw_only=True)
class RandFGSM(GradientDescent):
    """R+FGSM (Tramèr et al. 2018) as MAD-VAE, A.1.1, prints it: a random corner, then one step.

        x' = x + alpha sign(N(0, I)),    x_adv = x' + (epsilon - alpha) sign(grad_x' J)

    The noise is a sign. MAD-VAE's public code adds alpha N(0, I), which may leave the ball.

    Args:
        alpha: length of the random step, in pixel units; in balls of less than twice that radius
            half of it (Tramèr et al.: alpha = epsilon / 2).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    skips: ClassVar[bool] = False

    norm: Norm = Norm.LINF
    alpha: float = 0.05

    def schedule(self, epsilon: Tensor) -> Schedule:
        """One step, as long as the random one leaves it."""
        return Schedule(1, 1 - self._length(epsilon) / epsilon.clamp_min(_TINY))

    def start(self, x: Tensor, epsilon: Tensor, rng: Generator) -> Tensor:
        """The random corner."""
        corner = noise_like_rows(rng, x, x.shape[1:]).sign()
        return (x + self._length(epsilon).reshape(-1, 1, 1, 1) * corner).clamp(0, 1)

    def _length(self, epsilon: Tensor) -> Tensor:
        return (epsilon / 2).clamp_max(self.alpha)


_TINY = 1e-12
