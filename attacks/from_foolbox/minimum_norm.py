"""Minimum-norm gradient attacks, run by Foolbox: DDN, Carlini-Wagner, DeepFool, FMN."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import eagerpy as ep
import torch
from foolbox.attacks import (
    DDNAttack,
    L0FMNAttack,
    L1FMNAttack,
    L2CarliniWagnerAttack,
    L2DeepFoolAttack,
    L2FMNAttack,
    LinfDeepFoolAttack,
    LInfFMNAttack,
)
from foolbox.attacks.base import MinimizationAttack
from foolbox.attacks.fast_minimum_norm import FMNAttackLp
from foolbox.criteria import Misclassification
from torch import Generator, Tensor

from attacks.from_foolbox.bridge import (
    SATURATION,
    ScoreModel,
    borrowed_randomness,
    differentiable_in_inputs_only,
)
from attacks.minimum_norm import MinimumNormAttack
from attacks.random_directions import random_direction
from attacks.recorder import Recorder
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child


@dataclass(frozen=True, kw_only=True)
class GradientSearch(MinimumNormAttack):
    """A Foolbox minimisation attack over the view's scores; its queries count, not its result."""

    @abstractmethod
    def minimiser(self) -> MinimizationAttack:
        """Foolbox's attack with this configuration."""

    @abstractmethod
    def model(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> ScoreModel:
        """The scores as this attack should see them."""

    @final
    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """See `MinimumNormAttack.search`."""
        model = self.model(defense, y, recorder, rng)
        with differentiable_in_inputs_only(defense), borrowed_randomness(rng, y.device):
            found = self.minimiser().run(model, recorder.x, Misclassification(y))
            model.query(found)

    @final
    def nearest(self, defense: Defense, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """Foolbox's own answer (N, C, H, W), confirmed by nobody; ``x`` where it has none.

        Unlike `search` it knows of the attack's confidence: the nearest point that leads by so
        much, not the point of largest lead.
        """
        nothing = Recorder(self.norm, x, (0.0,))
        model = self.model(defense, y, nothing, rng)
        with differentiable_in_inputs_only(defense), borrowed_randomness(rng, y.device):
            found: Tensor = self.minimiser().run(model, x, Misclassification(y))
        # Where Foolbox finds nothing it returns a black image.
        failed = (found == 0).flatten(1).all(dim=1)
        return torch.where(failed[:, None, None, None], x, found)


@final
@dataclass(frozen=True, kw_only=True)
class DDN(GradientSearch):
    """Decoupled direction and norm (Rony et al. 2019).

    Args:
        steps: gradient steps (E-ABS, section 4.2: 80).
        init_epsilon: first radius (Foolbox: 1).
        gamma: relative change of the radius per step (Foolbox: 0.05).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)

    norm: Norm = Norm.L2
    steps: int = 80
    init_epsilon: float = 1.0
    gamma: float = 0.05

    def minimiser(self) -> MinimizationAttack:
        """Foolbox's DDN."""
        return DDNAttack(init_epsilon=self.init_epsilon, steps=self.steps, gamma=self.gamma)

    def model(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> ScoreModel:
        """Unsaturated logits, and the random step that DDN takes on a zero gradient."""
        return ScoreModel(
            defense,
            self.view.of(defense, child(rng, "view")),
            y,
            recorder,
            saturation=SATURATION,
            escape=random_direction(recorder.x, child(rng, "escape")),
        )


@final
@dataclass(frozen=True, kw_only=True)
class CarliniWagner(GradientSearch):
    """Carlini & Wagner's L2 attack (2017), without the early abort that looks at a whole batch.

    Args:
        binary_search_steps: values of the constant c (E-ABS, section 4.2: 5).
        steps: Adam steps for each (E-ABS, section 4.2: 100).
        stepsize: Adam's rate (Foolbox: 0.01).
        confidence: lead in logits to aim at (Foolbox: 0); a budget keeps its point of largest lead.
        initial_const: first c (Foolbox: 0.001).

    MAD-VAE's (AdverTorch's defaults but for confidence and length) is
    ``cw-l2[binary_search_steps=9,confidence=10,initial_const=0.001,steps=1500,stepsize=0.01]``.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)

    norm: Norm = Norm.L2
    binary_search_steps: int = 5
    steps: int = 100
    stepsize: float = 0.01
    confidence: float = 0.0
    initial_const: float = 1e-3

    def minimiser(self) -> MinimizationAttack:
        """Foolbox's Carlini-Wagner attack."""
        return L2CarliniWagnerAttack(
            binary_search_steps=self.binary_search_steps,
            steps=self.steps,
            stepsize=self.stepsize,
            confidence=self.confidence,
            initial_const=self.initial_const,
            abort_early=False,
        )

    def model(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> ScoreModel:
        """Logits as they are: c weighs them, and a zero gradient means that the point evades."""
        return ScoreModel(defense, self.view.of(defense, child(rng, "view")), y, recorder)


@final
@dataclass(frozen=True, kw_only=True)
class DeepFool(GradientSearch):
    """DeepFool (Moosavi-Dezfooli et al. 2016), on logits.

    Args:
        steps: linearisations (E-ABS, section 4.2: 100).
        candidates: most likely classes considered (Foolbox: 10).
        overshoot: relative excess over each linear step (Foolbox: 0.02).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2, Norm.LINF)

    steps: int = 100
    candidates: int = 10
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        GradientSearch.__post_init__(self)
        if self.candidates < 2:
            raise ValueError(
                f"candidates must be at least 2, got {self.candidates}; the true class is one"
            )

    def minimiser(self) -> MinimizationAttack:
        """Foolbox's DeepFool for the norm."""
        attack = L2DeepFoolAttack if self.norm is Norm.L2 else LinfDeepFoolAttack
        return attack(
            steps=self.steps, candidates=self.candidates, overshoot=self.overshoot, loss="logits"
        )

    def model(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> ScoreModel:
        """Logits as they are."""
        return ScoreModel(defense, self.view.of(defense, child(rng, "view")), y, recorder)


@final
@dataclass(frozen=True, kw_only=True)
class FMN(GradientSearch):
    """Fast minimum-norm attack (Pintor et al. 2021, Algorithm 1), from the image itself.

    Foolbox's, with our projections: its own for L2 leaves every point where it is, and its own for
    L0 keeps one value too many and fails at the largest budget. L0 counts pixels here, not values.

    Args:
        steps: gradient steps (the paper: 1000; Foolbox: 100).
        max_stepsize: length of the first step, in L2 (Foolbox: 1).
        min_stepsize: length of the last (Foolbox: a hundredth of the first).
        gamma: relative change of the radius in the first step (Foolbox: 0.05), annealed to 0.001.
        overshoot: relative excess over each radius (ours: the radius reaches to the boundary as
            far as a linear defense goes, so points would come to lie on it and never beyond).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L0, Norm.L1, Norm.L2, Norm.LINF)

    steps: int = 100
    max_stepsize: float = 1.0
    min_stepsize: float = 0.01
    gamma: float = 0.05
    overshoot: float = 1e-3

    def minimiser(self) -> MinimizationAttack:
        """Foolbox's FMN for the norm."""
        return _FMNS[self.norm](self)

    def model(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> ScoreModel:
        """Logits as they are, and the random step that also DDN takes on a zero gradient."""
        return ScoreModel(
            defense,
            self.view.of(defense, child(rng, "view")),
            y,
            recorder,
            escape=random_direction(recorder.x, child(rng, "escape")),
        )


class _Projecting(FMNAttackLp):
    """Foolbox's loop on points that `Norm.project` brings into ball and box."""

    def __init__(self, settings: FMN) -> None:
        super().__init__(
            steps=settings.steps,
            max_stepsize=settings.max_stepsize,
            min_stepsize=settings.min_stepsize,
            gamma=settings.gamma,
        )
        self._norm = settings.norm
        self._reach = 1 + settings.overshoot

    def project(self, x: ep.Tensor, x0: ep.Tensor, epsilon: ep.Tensor) -> ep.Tensor:
        return ep.astensor(self._norm.project(x0.raw, x.raw, self._reach * epsilon.raw))


class _L0FMN(_Projecting, L0FMNAttack):
    """For the counts of values that steer the radius."""


class _L1FMN(_Projecting, L1FMNAttack):
    """For the dual norm."""


class _L2FMN(_Projecting, L2FMNAttack):
    """For the dual norm."""


class _LinfFMN(_Projecting, LInfFMNAttack):
    """For the dual norm."""


_FMNS: dict[Norm, type[_Projecting]] = {
    Norm.L0: _L0FMN,
    Norm.L1: _L1FMN,
    Norm.L2: _L2FMN,
    Norm.LINF: _LinfFMN,
}
