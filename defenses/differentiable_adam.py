"""One step of Adam (Kingma & Ba 2015) as a function that can be differentiated itself.

The arithmetic is `torch.optim.Adam`'s, operation by operation, so that a search that was deployed
with that optimiser can be unrolled without becoming another search. `remembered` keeps of a step
only what it was given, and computes the rest again on the way back.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = tuple[Tensor, Tensor, Tensor]
"""A variable and its optimiser's two moments, of one shape."""

_BETAS = (0.9, 0.999)
_TINY = 1e-8


def adam_step(state: State, gradient: Tensor, number: int, rate: float) -> State:
    """The state after a step, differentiable in state and gradient.

    Where all gradients so far are zero the root's slope is infinite; it counts as 0 there.

    Args:
        state: before the step.
        gradient: of the variable.
        number: of the step, from 1.
        rate: alpha.
    """
    variable, first, second = state
    first = torch.lerp(first, gradient, 1 - _BETAS[0])
    second = torch.addcmul(second * _BETAS[1], gradient, gradient, value=1 - _BETAS[1])
    corrections = [1 - beta**number for beta in _BETAS]
    moved = second > 0
    root = torch.where(moved, torch.where(moved, second, 1).sqrt(), 0)
    scale = root / corrections[1] ** 0.5 + _TINY
    return torch.addcdiv(variable, first, scale, value=-rate / corrections[0]), first, second


Step = Callable[..., tuple[Tensor, ...]]
"""Tensors to tensors; where gradients are enabled they can be differentiated in its arguments."""


def remembered(step: Step, *given: Tensor) -> tuple[Tensor, ...]:
    """``step(*given)``, of which only ``given`` is kept for the way back.

    `torch.utils.checkpoint` would run a step that differentiates inside twice on the way forth.
    """
    made: tuple[Tensor, ...] = _Remembered.apply(step, *given)  # type: ignore[no-untyped-call]
    return made


class _Remembered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.step = step
        ctx.save_for_backward(*given)
        return step(*given)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        given = [
            each.detach().requires_grad_(needed)
            for each, needed in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with torch.enable_grad():
            made = ctx.step(*given)
        asked = [each for each in given if each.requires_grad]
        through = [row for row in zip(made, gradients, strict=True) if row[0].requires_grad]
        outputs, weights = zip(*through, strict=True)
        found = iter(torch.autograd.grad(outputs, asked, weights, allow_unused=True))
        return None, *(next(found) if needed else None for needed in wanted)
