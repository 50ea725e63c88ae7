"""Projected gradient descent and its relatives, run by Foolbox."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import eagerpy as ep
import torch
from foolbox.attacks.gradient_descent_base import (
    BaseGradientDescent,
    GDOptimizer,
    L2BaseGradientDescent,
    LinfBaseGradientDescent,
    Optimizer,
    normalize_lp_norms,
)
from foolbox.attacks.mi_fgsm import GDMOptimizer
from foolbox.criteria import Misclassification
from foolbox.types import Bounds
from torch import Generator, Tensor

from attacks.evasion import lead
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.from_foolbox.bridge import (
    SATURATION,
    ScoreModel,
    borrowed_randomness,
    differentiable_in_inputs_only,
)
from attacks.random_directions import random_direction, uniform_in_ball
from attacks.recorder import Recorder
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child, noise_like_rows


class Schedule(NamedTuple):
    """How a descent goes on.

    Args:
        steps: gradient steps.
        relative_step: their length as a share of epsilon, one or each image's own (N,).
        momentum: share of the past gradients that is added to each; None keeps no past.
    """

    steps: int
    relative_step: float | Tensor
    momentum: float | None = None


@dataclass(frozen=True, kw_only=True)
class GradientDescent(FixedEpsilonAttack):
    """Ascent on the cross-entropy in a ball; the best iterate counts, not the last."""

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)

    @abstractmethod
    def schedule(self, epsilon: Tensor) -> Schedule:
        """How many steps, how long, with what memory, in balls of these radii (N,)."""

    @abstractmethod
    def start(self, x: Tensor, epsilon: Tensor, rng: Generator) -> Tensor:
        """Where the run begins."""

    @final
    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`."""
        recorder = Recorder(self.norm, x, epsilon[None])
        model = ScoreModel(
            defense,
            self.view.of(defense, child(rng, "view")),
            y,
            recorder,
            saturation=SATURATION,
            escape=random_direction(x, child(rng, "escape")),
        )
        start = self.start(x, epsilon, child(rng, "start"))
        schedule = self.schedule(epsilon)
        kind = _DESCENTS[self.norm] if schedule.momentum is None else _LinfMomentum
        descent = kind(self.norm, start, epsilon, schedule)
        with differentiable_in_inputs_only(defense), borrowed_randomness(rng, x.device):
            last = descent.run(model, x, Misclassification(y), epsilon=1)
            model.query(last)
        return recorder.candidates(0)


@final
@dataclass(frozen=True, kw_only=True)
class PGD(GradientDescent):
    """Projected gradient descent from uniform random starts (Madry et al. 2018).

    Args:
        steps: gradient steps per restart (E-ABS, section 4.2: 80; MAD-VAE, from AdverTorch: 40);
            0 tries the random starts alone (E-ABS, Table 8).
        relative_step: step length / epsilon (E-ABS keeps Foolbox's: 0.01 / 0.3 for Linf, 0.025
            for L2).
    """

    counts_from_zero: ClassVar[tuple[str, ...]] = ("steps",)

    steps: int
    relative_step: float

    def schedule(self, epsilon: Tensor) -> Schedule:
        """As configured."""
        return Schedule(self.steps, self.relative_step)

    def start(self, x: Tensor, epsilon: Tensor, rng: Generator) -> Tensor:
        """Uniform in the ball."""
        return uniform_in_ball(self.norm, x, epsilon, rng)


@final
@dataclass(frozen=True, kw_only=True)
class BIM(GradientDescent):
    """Basic iterative method (Kurakin et al. 2017): from the image itself.

    Args:
        steps: gradient steps (Foolbox: 10).
        relative_step: step length / epsilon (Foolbox: 0.2).
    """

    skips: ClassVar[bool] = False

    steps: int = 10
    relative_step: float = 0.2

    def schedule(self, epsilon: Tensor) -> Schedule:
        """As configured."""
        return Schedule(self.steps, self.relative_step)

    def start(self, x: Tensor, epsilon: Tensor, rng: Generator) -> Tensor:
        """The image."""
        return x


@final
@dataclass(frozen=True, kw_only=True)
class MIM(GradientDescent):
    """Momentum iterative method, MI-FGSM (Dong et al. 2018): from the image itself.

    Foolbox's optimiser, but it adds up gradients of length 1 in L1, as in the paper's Eq. 6, where
    Foolbox adds up their signs.

    Args:
        steps: gradient steps (CleverHans 2: 10; MAD-VAE, from AdverTorch: 40).
        relative_step: step length / epsilon (CleverHans 2: 0.06 / 0.3; MAD-VAE: 0.01 / 0.3).
        decay: share of the accumulated gradient that is kept (CleverHans 2: 1).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    skips: ClassVar[bool] = False

    norm: Norm = Norm.LINF
    steps: int = 10
    relative_step: float = 0.06 / 0.3
    decay: float = 1.0

    def schedule(self, epsilon: Tensor) -> Schedule:
        """As configured."""
        return Schedule(self.steps, self.relative_step, self.decay)

    def start(self, x: Tensor, epsilon: Tensor, rng: Generator) -> Tensor:
        """The image."""
        return x


@final
@dataclass(frozen=True, kw_only=True)
class PGDEstimated(FixedEpsilonAttack):
    """PGD whose gradient is estimated from scores by evolution strategies (Ilyas et al. 2018).

    The loss is the lead over the true class in logits, not the cross-entropy, whose differences
    vanish in float32 where the true class leads by much.

    Args:
        steps: gradient steps (E-ABS, section 4.2: 50).
        relative_step: step length / epsilon (Foolbox's default for Linf).
        samples: score queries per gradient, in antithetic pairs (unstated by the paper).
        sigma: standard deviation of the probes, in pixel units (unstated by the paper).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    reach: ClassVar[float] = 10.0

    norm: Norm = Norm.LINF
    steps: int = 50
    relative_step: float = 0.01 / 0.3
    samples: int = 100
    sigma: float = 1e-3

    def __post_init__(self) -> None:
        FixedEpsilonAttack.__post_init__(self)
        if self.samples % 2:
            raise ValueError(
                f"samples must be even, got {self.samples}; probes come in antithetic pairs"
            )

    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`."""
        recorder = Recorder(self.norm, x, epsilon[None])
        model = ScoreModel(defense, self.view.of(defense, child(rng, "view")), y, recorder)
        probes = child(rng, "probes")

        def loss(points: Tensor) -> Tensor:
            return lead(model.query(points), y)

        def gradient(points: Tensor) -> Tensor:
            noise = noise_like_rows(probes, x, (self.samples // 2, *x.shape[1:]))
            return estimated_gradient(loss, points, noise, self.sigma)

        start = uniform_in_ball(self.norm, x, epsilon, child(rng, "start"))
        schedule = Schedule(self.steps, self.relative_step)
        descent = _LinfEstimated(start, epsilon, schedule, gradient)
        with borrowed_randomness(rng, x.device), torch.no_grad():
            last = descent.run(model, x, Misclassification(y), epsilon=1)
            model.query(last)
        return recorder.candidates(0)


def estimated_gradient(
    loss: Callable[[Tensor], Tensor], points: Tensor, noise: Tensor, sigma: float
) -> Tensor:
    """Antithetic evolution-strategies estimate of a per-image gradient (Ilyas et al. 2018, Eq. 3).

        g = 1 / (2 sigma P) sum_p (L(x + sigma u_p) - L(x - sigma u_p)) u_p

    Probes are clipped to the box. Images do not mix: every row has its own loss and noise.

    Args:
        loss: (N, C, H, W) -> (N,).
        points: (N, C, H, W).
        noise: (N, P, C, H, W), standard normal.
        sigma: probe size in pixel units.
    """
    gradient = torch.zeros_like(points)
    pairs = noise.shape[1]
    for direction in noise.unbind(dim=1):
        above = loss((points + sigma * direction).clamp(0, 1))
        below = loss((points - sigma * direction).clamp(0, 1))
        gradient += (above - below).reshape(-1, 1, 1, 1) * direction
    return gradient / (2 * sigma * pairs)


class _InOwnBall(BaseGradientDescent):
    """Foolbox's descent, every image from a given start in a ball of its own radius.

    Foolbox's own ``epsilon`` and step size have no part: the steps are relative to the radius.
    """

    def __init__(self, norm: Norm, start: Tensor, radius: Tensor, schedule: Schedule) -> None:
        steps, relative_step, self._momentum = schedule
        super().__init__(rel_stepsize=1, steps=steps, random_start=True)
        self._norm = norm
        self._start = start
        self._radius = radius
        self._length = relative_step * radius

    def get_random_start(self, x0: ep.Tensor, epsilon: float) -> ep.Tensor:
        return ep.astensor(self._start)

    def get_optimizer(self, x: ep.Tensor, stepsize: float) -> Optimizer:
        length: Any = ep.astensor(self._length.reshape(-1, 1, 1, 1))  # annotated float
        if self._momentum is None:
            return GDOptimizer(x, length)
        return GDMOptimizer(x, length, self._momentum)

    def project(self, x: ep.Tensor, x0: ep.Tensor, epsilon: float) -> ep.Tensor:
        return ep.astensor(self._norm.project(x0.raw, x.raw, self._radius))


class _LinfDescent(_InOwnBall, LinfBaseGradientDescent):
    pass


class _LinfMomentum(_InOwnBall, LinfBaseGradientDescent):
    def normalize(self, gradients: ep.Tensor, *, x: ep.Tensor, bounds: Bounds) -> ep.Tensor:
        return normalize_lp_norms(gradients, p=1)


class _L2Descent(_InOwnBall, L2BaseGradientDescent):
    pass


_DESCENTS: dict[Norm, type[_LinfDescent] | type[_L2Descent]] = {
    Norm.LINF: _LinfDescent,
    Norm.L2: _L2Descent,
}


class _LinfEstimated(_LinfDescent):
    """Foolbox's descent along a given estimate: its own mixes the losses of a batch."""

    def __init__(
        self,
        start: Tensor,
        radius: Tensor,
        schedule: Schedule,
        gradient: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(Norm.LINF, start, radius, schedule)
        self._gradient = gradient

    def value_and_grad(
        self, loss_fn: Callable[[ep.Tensor], ep.Tensor], x: ep.Tensor
    ) -> tuple[ep.Tensor, ep.Tensor]:
        return loss_fn(x), ep.astensor(self._gradient(x.raw))
