"""Projection onto a generator's range (Jalal et al. 2017, Algorithm 1): z* = argmin ||G(z) - x||.

Images times restarts are one batch. Every row has its own loss and its own end, so that no row
depends on the others: the authors' later code averages the loss over the batch, and so steps
shorter the more images it is given (SPEC 1.5).
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from defenses.projection.descent import Adam, Descent, State
from defenses.projection.generator import GenerativeModel

_VALUES_AT_ONCE = 4_000_000
_ROWS_AT_ONCE = 1024


class Found(NamedTuple):
    """Where the inversions of N images ended, each at the best of its restarts.

    Args:
        latents: (N, d) of the lowest error seen; the start where no error was finite.
        errors: (N,) ||G(z) - x||_2 there, in pixel units; inf where none was finite.
        last: (N, d) where the same restart stopped.
        state: of the descent there.
        decoded: images that the generator drew.
    """

    latents: Tensor
    errors: Tensor
    last: Tensor
    state: State
    decoded: int


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """The descent in latent space.

    Args:
        steps: T ("typically more than 2000"; Defense-GAN: 200).
        descent: how a step is made.
        tolerance: a row leaves when ``patience`` steps have not lowered its lowest error by this
            share (ours; 0 takes all steps, as the papers do).
        patience: see there.

    Raises:
        ValueError: a count below 1, or a share outside [0, 1).
    """

    steps: int = 2000
    descent: Descent = field(default_factory=Adam)
    tolerance: float = 1e-3
    patience: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; raise it")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must be in [0, 1), got {self.tolerance}; it is a share")

    def run(self, model: GenerativeModel, x: Tensor, starts: Tensor, steps: int) -> Found:
        """Invert images (N, C, H, W) from ``starts`` (N, R, d), R for each.

        Args:
            steps: at most so many.
        """
        restarts = starts.shape[1]
        images = x.detach().repeat_interleave(restarts, dim=0)
        rows = max(1, min(_ROWS_AT_ONCE, _VALUES_AT_ONCE // math.prod(x.shape[1:])))
        parts = [
            self._descend(model, own, z, steps)
            for own, z in zip(images.split(rows), starts.flatten(0, 1).split(rows), strict=True)
        ]
        latents, errors, last = (
            torch.cat(each) for each in zip(*(part[:3] for part in parts), strict=True)
        )
        state = tuple(torch.cat(each) for each in zip(*(p.state for p in parts), strict=True))
        best = errors.reshape(-1, restarts).argmin(dim=1)
        best = best + torch.arange(len(x), device=x.device) * restarts
        return Found(
            latents[best],
            errors[best],
            last[best],
            tuple(each[best] for each in state),
            sum(part.decoded for part in parts),
        )

    def _descend(self, model: GenerativeModel, x: Tensor, start: Tensor, steps: int) -> Found:
        """One chunk of rows, until all have left or the steps are used up."""
        z, state = start, self.descent.begin(start)
        latents, last, kept = start.clone(), start.clone(), tuple(each.clone() for each in state)
        lowest, marks = (x.new_full((len(x),), math.inf) for _ in range(2))
        running = torch.arange(len(x), device=x.device)
        decoded = 0
        for step in range(steps + 1):
            squares, gradient = squared_error(model, x, z)
            decoded += len(running)
            better = squares < lowest[running]
            lowest[running] = torch.where(better, squares, lowest[running])
            latents[running] = torch.where(better[:, None], z, latents[running])
            done = step == steps
            stay = torch.full_like(better, not done)
            if self.tolerance and step % self.patience == 0 and not done:
                now = lowest[running]
                stay = ~(now > marks * (1 - self.tolerance) ** 2)  # of squares
                marks = now
            if done or (self.tolerance and step % self.patience == 0):
                gone = running[~stay]
                last[gone] = z[~stay]
                for whole, own in zip(kept, state, strict=True):
                    whole[gone] = own[~stay]
                running, x, z, marks = running[stay], x[stay], z[stay], marks[stay]
                gradient, state = gradient[stay], tuple(each[stay] for each in state)
            if len(running) == 0:
                break
            state, change = self.descent.step(state, gradient / x[0].numel(), step + 1, steps)
            z = z - change
        return Found(latents, lowest.sqrt(), last, kept, decoded)


def squared_error(
    model: GenerativeModel, x: Tensor, z: Tensor, *, differentiable: bool = False
) -> tuple[Tensor, Tensor]:
    """||G(z) - x||^2 (n,) and its gradient (n, d) in the latents.

    Args:
        differentiable: the gradient too can be differentiated, in images and latents.
    """
    with torch.enable_grad():
        leaf = z if differentiable and z.requires_grad else z.detach().requires_grad_()
        squares = (model.decode(leaf) - x).flatten(1).square().sum(dim=1)
        (gradient,) = torch.autograd.grad(squares.sum(), leaf, create_graph=differentiable)
    return (squares, gradient) if differentiable else (squares.detach(), gradient)
