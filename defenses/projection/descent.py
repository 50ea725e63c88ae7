"""Rules of descent for many rows at once, each as if it were alone; differentiable themselves.

A step is elementwise and out of place, so a row's steps do not depend on the rows beside it, and an
attack that unrolls them gets their gradient from autograd.
"""

import math
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""What a rule remembers, one tensor (N, ...) each."""

_BETAS = (0.9, 0.999)
_TINY = 1e-8


class Descent(Protocol):
    """How rows move against their gradients."""

    def begin(self, like: Tensor) -> State:
        """The memory of rows shaped as ``like`` (N, ...) that have not moved yet."""
        ...

    def step(self, state: State, gradient: Tensor, number: int, steps: int) -> tuple[State, Tensor]:
        """The memory afterwards, and what to subtract.

        Args:
            gradient: (N, ...).
            number: of the step, from 1.
            steps: of the whole descent.
        """
        ...


@final
@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), as Jalal et al. 2017 invert (section 4.1).

    The constant that keeps its denominator from zero stands below the root, where it keeps the
    derivative finite too.

    Args:
        rate: alpha; the paper's is 0.1 on MNIST and 0.01 on CelebA.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        _require_positive("rate", self.rate)

    def begin(self, like: Tensor) -> State:
        """Two moments of zero."""
        return torch.zeros_like(like), torch.zeros_like(like)

    def step(self, state: State, gradient: Tensor, number: int, steps: int) -> tuple[State, Tensor]:
        """See `Descent.step`."""
        first = torch.lerp(state[0], gradient, 1 - _BETAS[0])
        second = torch.lerp(state[1], gradient.square(), 1 - _BETAS[1])
        corrected, scale = (1 - beta**number for beta in _BETAS)
        root = (second / scale + _TINY**2).sqrt()
        return (first, second), first * (self.rate / corrected) / root


@final
@dataclass(frozen=True)
class Momentum:
    """Gradient descent with momentum, as Defense-GAN inverts (its public code).

    Defense-GAN's rate is for the error's mean over pixels, summed over the batch, which is what a
    row alone sees. The public code of Jalal et al.'s later version divides by the batch besides, so
    that its rate of 100 means 100 / batch here.

    Args:
        rate: of the first steps.
        momentum: share of the past that is added.
        drop: factor on the rate after ``drop_after`` of the steps.
        drop_after: a share of the steps.
    """

    rate: float = 10.0
    momentum: float = 0.7
    drop: float = 0.1
    drop_after: float = 0.8

    def __post_init__(self) -> None:
        _require_positive("rate", self.rate)
        for name in ("momentum", "drop", "drop_after"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}; it is a share")

    def begin(self, like: Tensor) -> State:
        """A velocity of zero."""
        return (torch.zeros_like(like),)

    def step(self, state: State, gradient: Tensor, number: int, steps: int) -> tuple[State, Tensor]:
        """See `Descent.step`."""
        velocity = self.momentum * state[0] + gradient
        late = number > math.ceil(self.drop_after * steps)
        return (velocity,), velocity * (self.rate * (self.drop if late else 1.0))


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and above 0, got {value}; raise it")
