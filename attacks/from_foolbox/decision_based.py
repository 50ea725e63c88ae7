"""Attacks that see decisions only, run by Foolbox: repeated noise and the Boundary attack."""

import math
from dataclasses import dataclass
from typing import ClassVar, TypeVar, final

import eagerpy as ep
import torch
from foolbox.attacks import (
    BoundaryAttack,
    L2RepeatedAdditiveGaussianNoiseAttack,
    LinfRepeatedAdditiveUniformNoiseAttack,
)
from foolbox.attacks.additive_noise import BaseRepeatedAdditiveNoiseAttack
from foolbox.criteria import Criterion
from torch import Generator, Tensor

from attacks.evasion import LEAST, evasion_lead
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.from_foolbox.bridge import DecisionModel, WrongAndAccepted, borrowed_randomness
from attacks.minimum_norm import MinimumNormAttack
from attacks.recorder import Recorder
from attacks.starts import approach, random_starts
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child, noise_like_rows

T = TypeVar("T")


@final
@dataclass(frozen=True, kw_only=True)
class AdditiveNoise(FixedEpsilonAttack):
    """Repeated noise of size epsilon: Gaussian in L2, uniform in Linf (E-ABS, section 4.2).

    Args:
        repeats: draws per image (Foolbox: 100).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2, Norm.LINF)
    reach: ClassVar[float] = math.inf

    repeats: int = 100

    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`."""
        recorder = Recorder(self.norm, x, epsilon[None])
        model = DecisionModel(defense, y, recorder, child(rng, "decide"))
        noise = _L2Noise if self.norm is Norm.L2 else _LinfNoise
        attack = noise(self.repeats, epsilon, child(rng, "noise"))
        with borrowed_randomness(rng, x.device):
            attack.run(model, x, _NeverEnough(), epsilon=1)
        return recorder.candidates(0)


class _NeverEnough(Criterion):
    """Nothing is adversarial: Foolbox makes every draw for every image, whatever its batch."""

    def __repr__(self) -> str:
        return "NeverEnough()"

    def __call__(self, perturbed: T, outputs: T) -> T:
        """(N,) bool, all False; the recorder keeps what evades."""
        leads, restore = ep.astensor_(outputs)
        return restore(leads > float("inf"))


@final
@dataclass(frozen=True, kw_only=True)
class Boundary(MinimumNormAttack):
    """The Boundary attack (Brendel et al. 2018), each image from a start of its own.

    Args:
        steps: iterations (E-ABS, section 4.2: 100 000).
        spherical_step: first step along the sphere, relative to the distance (Foolbox: 0.01).
        source_step: first step toward the image, likewise (Foolbox: 0.01).
        step_adaptation: factor by which steps grow and shrink (Foolbox: 1.5).
        start_tries: random images tried per sample (unstated); a sample without a start keeps
            its clean image, the others go on.
        start_bisections: halvings of the segment between image and start (unstated).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)
    reach: ClassVar[float] = 10.0

    norm: Norm = Norm.L2
    steps: int = 100_000
    spherical_step: float = 0.01
    source_step: float = 0.01
    step_adaptation: float = 1.5
    start_tries: int = 60
    start_bisections: int = 10

    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """See `MinimumNormAttack.search`."""
        x = recorder.x
        starts, found = random_starts(defense, x, y, self.start_tries, child(rng, "starts"))
        rows = found.nonzero().squeeze(1)
        if len(rows) == 0:
            return
        near = approach(
            defense,
            x[rows],
            starts[rows],
            y[rows],
            steps=self.start_bisections,
            rng=child(rng, "approach"),
        )
        part = recorder.part(rows)
        leads = evasion_lead(defense.decide(near, child(rng, "near")), y[rows]).clamp_min(LEAST)
        model = DecisionModel(defense, y[rows], part, child(rng, "decide"), starts=leads)
        attack = BoundaryAttack(
            steps=self.steps,
            spherical_step=self.spherical_step,
            source_step=self.source_step,
            step_adaptation=self.step_adaptation,
            tensorboard=False,
        )
        with borrowed_randomness(rng, x.device):
            attack.run(model, x[rows], WrongAndAccepted(), starting_points=near)
        recorder.adopt(rows, part)


class _OwnNoise(BaseRepeatedAdditiveNoiseAttack):
    """Foolbox's, with noise of each image's own that fills its ball; ``epsilon`` has no part."""

    norm: ClassVar[Norm]

    def __init__(self, repeats: int, radius: Tensor, rng: Generator) -> None:
        super().__init__(repeats=repeats, check_trivial=False)
        self._radius = radius
        self._rng = rng

    def get_epsilons(
        self, x: ep.Tensor, p: ep.Tensor, epsilon: float, min_: float, max_: float
    ) -> ep.Tensor:
        length = self.norm.distance(torch.zeros_like(p.raw), p.raw)
        return ep.astensor((self._radius / length).reshape(-1, 1, 1, 1))


class _L2Noise(_OwnNoise, L2RepeatedAdditiveGaussianNoiseAttack):
    norm = Norm.L2

    def sample_noise(self, x: ep.Tensor) -> ep.Tensor:
        return ep.astensor(noise_like_rows(self._rng, x.raw, x.shape[1:]))


class _LinfNoise(_OwnNoise, LinfRepeatedAdditiveUniformNoiseAttack):
    """Foolbox scales by the largest entry; this one by the largest *magnitude*."""

    norm = Norm.LINF

    def sample_noise(self, x: ep.Tensor) -> ep.Tensor:
        return ep.astensor(2 * noise_like_rows(self._rng, x.raw, x.shape[1:], torch.rand) - 1)
