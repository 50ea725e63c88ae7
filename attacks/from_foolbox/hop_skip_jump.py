"""HopSkipJump (Chen et al. 2020) on the mean decision, run by Foolbox."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import eagerpy as ep
import torch
from foolbox.attacks import HopSkipJumpAttack
from torch import Generator, Tensor

from attacks.evasion import evades
from attacks.from_foolbox.bridge import DecisionModel, WrongAndAccepted, borrowed_randomness
from attacks.mean_decision import MeanDecision, Steady
from attacks.minimum_norm import MinimumNormAttack
from attacks.recorder import Recorder
from attacks.starts import random_starts
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child, noise_like_rows


@final
@dataclass(frozen=True, kw_only=True)
class HopSkipJump(MinimumNormAttack):
    """HopSkipJump (Chen et al. 2020, Algorithm 2), each image from a start of its own.

    It estimates the boundary's normal from decisions alone, steps along it and bisects back. The
    loop is Foolbox's; directions and bisections are each image's own (see `_OwnHops`).

    Args:
        steps: boundary steps (Foolbox: 64).
        initial_gradient_eval_steps: decisions for the first normal; the t-th takes sqrt(t) times
            as many (section IV; Foolbox: 100).
        max_gradient_eval_steps: decisions for one normal at most (Foolbox: 10 000).
        gamma: bisections stop at gamma / d^1.5 of the segment in L2 and gamma / d^2 in Linf, where
            d counts an image's values (Foolbox: 1).
        seeds: answers of a stochastic defense that make one decision (SPEC 5: 20).
        start_tries: random images tried per sample (unstated); a sample without a start keeps
            its clean image, the others go on.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2, Norm.LINF)
    reach: ClassVar[float] = 10.0

    steps: int = 64
    initial_gradient_eval_steps: int = 100
    max_gradient_eval_steps: int = 10_000
    gamma: float = 1.0
    seeds: int = 20
    start_tries: int = 60

    def __post_init__(self) -> None:
        MinimumNormAttack.__post_init__(self)
        if self.gamma == 0:
            raise ValueError("gamma must be positive, got 0.0; bisections would never end")

    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """See `MinimumNormAttack.search`."""
        x = recorder.x
        # Foolbox asserts that what was adversarial stays so and else halves a step without end.
        steady = Steady(MeanDecision(defense, self.seeds), child(rng, "decide"))
        starts, found = random_starts(steady, x, y, self.start_tries, child(rng, "starts"))
        rows = found.nonzero().squeeze(1)
        # Rounding may depend on how many images are asked about together.
        while not bool((firm := evades(steady, starts[rows], y[rows], rng)).all()):
            rows = rows[firm]
        if len(rows) == 0:
            return
        part = recorder.part(rows)
        attack = _OwnHops(self, x[rows], child(rng, "probes"))
        with borrowed_randomness(rng, x.device):
            attack.run(
                DecisionModel(steady, y[rows], part, rng),
                x[rows],
                WrongAndAccepted(),
                starting_points=starts[rows],
            )
        recorder.adopt(rows, part)


_PROBES = 32
"""Directions drawn at a time: bounds the memory of an estimate, whatever its length."""


class _OwnHops(HopSkipJumpAttack):
    """Foolbox's loop in which no image's result depends on the others.

    Foolbox draws one array for the whole batch, scales every normal by the length of all the
    batch's normals together, and bisects until the slowest image is done.
    """

    def __init__(self, settings: HopSkipJump, x: Tensor, rng: Generator) -> None:
        super().__init__(
            steps=settings.steps,
            initial_gradient_eval_steps=settings.initial_gradient_eval_steps,
            max_gradient_eval_steps=settings.max_gradient_eval_steps,
            gamma=settings.gamma,
            constraint="linf" if settings.norm is Norm.LINF else "l2",
        )
        power = 2.0 if settings.norm is Norm.LINF else 1.5
        self._bisections = max(1, math.ceil(math.log2(x[0].numel() ** power / settings.gamma)))
        self._x = x
        self._rng = rng

    def approximate_gradients(
        self,
        is_adversarial: Callable[[ep.Tensor], ep.Tensor],
        x_advs: ep.Tensor,
        steps: int,
        delta: ep.Tensor,
    ) -> ep.Tensor:
        """Unit normals (N, C, H, W) into the adversarial side (Eqs. 9 and 16).

        The mean of (sign - mean sign) * direction over ``steps`` directions, or of sign *
        direction where all signs agree, summed up without keeping the directions.
        """
        points = x_advs.raw
        radius = delta.raw.to(points.dtype).reshape(-1, 1, 1, 1)
        signed, plain = torch.zeros_like(points), torch.zeros_like(points)
        signs = points.new_zeros(len(points), 1, 1, 1)
        for first in range(0, steps, _PROBES):
            for direction in self._directions(min(_PROBES, steps - first)).unbind(dim=1):
                probe = (points + radius * direction).clamp(0, 1)
                moved = (probe - points) / (radius + 1e-8)
                sign = torch.where(is_adversarial(ep.astensor(probe)).raw, 1.0, -1.0)
                sign = sign.to(points.dtype).reshape(-1, 1, 1, 1)
                signed += sign * moved
                plain += moved
                signs += sign
        one_sided = signs.abs() == steps
        normal = torch.where(one_sided, signed, signed - signs / steps * plain)
        length: Tensor = torch.linalg.vector_norm(normal.flatten(1), dim=1).reshape(-1, 1, 1, 1)
        return ep.astensor(normal / length.clamp_min(1e-12))

    def _directions(self, count: int) -> Tensor:
        """Directions (N, count, C, H, W) of length 1 in L2: Gaussian, or uniform in Linf."""
        shape = (count, *self._x.shape[1:])
        if self.constraint == "linf":
            noise = 2 * noise_like_rows(self._rng, self._x, shape, torch.rand) - 1
        else:
            noise = noise_like_rows(self._rng, self._x, shape)
        length: Tensor = torch.linalg.vector_norm(noise.flatten(2), dim=2)
        return noise / length.clamp_min(1e-12).reshape(*length.shape, 1, 1, 1)

    def _binary_search(
        self,
        is_adversarial: Callable[[ep.Tensor], ep.Tensor],
        originals: ep.Tensor,
        perturbed: ep.Tensor,
    ) -> ep.Tensor:
        """The last adversarial point on the way from ``perturbed`` to the images.

        As many halvings as the threshold asks for, the same for every image. In Linf the way leads
        through ever smaller boxes around the image, in L2 along the segment.
        """
        best: Tensor = perturbed.raw
        low = torch.zeros_like(best[:, 0, 0, 0])
        high = torch.ones_like(low)
        if self.constraint == "linf":
            high = (perturbed.raw - originals.raw).flatten(1).abs().amax(dim=1)
        for _ in range(self._bisections):
            middle = (low + high) / 2
            point = self._project(originals, perturbed, ep.astensor(middle))
            hit = is_adversarial(point).raw
            high, low = torch.where(hit, middle, high), torch.where(hit, low, middle)
            best = torch.where(hit.reshape(-1, 1, 1, 1), point.raw, best)
        return ep.astensor(best)
