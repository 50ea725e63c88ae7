"""What a gradient attack meets at an image: no gradient, a useless one, or one it may trust.

The lead of *wrong and accepted* (`attacks.evasion`) is differentiated as the attacks do it, and the
surface around the image is tried along the gradient and along random directions (Athalye et al.
2018, section 3.1; Carlini et al. 2019, on what a broken evaluation shows).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from attacks.eot import View
from attacks.evasion import evasion_logits, lead
from benchmark.probes import Share
from defenses.base import Defense, Task
from defenses.randomness import child, noise_like_rows

ZERO = 1e-30
"""A gradient whose largest part is smaller is zero: float32 has nothing to scale it up with."""

RANDOM_DIRECTIONS = 5
SHORT = 0.05
"""Length of the short step / epsilon: the lead's change along it stands out of float32 rounding,
and the surface has little room to bend."""

PROMISE = 0.5
"""Share of the promised rise below which a step was a disappointment."""

_ROUNDING = 64.0
"""Rounding steps of the logits above which a promise is no noise."""


@dataclass(frozen=True)
class Landscape:
    """How many images show what; see `benchmark.probes.DefenseProbe`.

    Args:
        zero, odd, flat: among all images.
        jagged: among the images with a usable gradient; of 0 for a stochastic defense, whose fresh
            noise moves the lead more than a short step does.
    """

    zero: Share
    odd: Share
    flat: Share
    jagged: Share


class Sight(NamedTuple):
    """Who is looked at, through which surrogate, and how far.

    Args:
        task: whose L2 radius is the long step, and in whose Linf ball the point beside x lies.
    """

    defense: Defense
    surrogate: str
    task: Task


def survey(sight: Sight, x: Tensor, y: Tensor, rng: Generator) -> Landscape:
    """Look around some images, with one EOT sample.

    Every point is seen through a fresh surrogate with the same seeds, so that an inner optimisation
    remembers nothing of the point before.

    Args:
        x: images (N, C, H, W).
        y: labels (N,).
    """
    defense, task = sight.defense, sight.task
    view = View(surrogate=sight.surrogate)

    def ahead(points: Tensor) -> Tensor:
        logits, margin = view.of(defense, child(rng, "view"))(points)
        return lead(evasion_logits(logits, margin, y), y)

    noise = noise_like_rows(child(rng, "beside"), x, x.shape[1:], torch.rand)
    beside = (x + task.epsilon_linf * (2 * noise - 1)).clamp(0, 1)
    here, gradient = _climb(ahead, x)
    _, other = _climb(ahead, beside)
    zero = _zero(gradient) | _zero(other)
    odd = _odd(gradient) | _odd(other)
    uphill = gradient.nan_to_num(nan=0, posinf=0, neginf=0)
    with torch.no_grad():
        long = _step(x, uphill, task.epsilon_l2)
        best = _best_of_random(ahead, x, task.epsilon_l2, child(rng, "directions"))
        flat = ~(ahead(long) > torch.maximum(best, here)) | _zero(uphill)
        short = _step(x, uphill, SHORT * task.epsilon_l2)
        promise = (uphill * (short - x)).flatten(1).sum(dim=1)
        noise_floor = _ROUNDING * torch.finfo(x.dtype).eps * here.abs().clamp_min(1)
        told = promise > noise_floor
        jagged = told & ~(ahead(short) - here >= PROMISE * promise)
    surface = Share(0, 0) if defense.stochastic else Share(int(jagged.sum()), int(told.sum()))
    return Landscape(_share(zero), _share(odd), _share(flat), surface)


def _share(rows: Tensor) -> Share:
    return Share(int(rows.sum()), len(rows))


def _climb(ahead: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The lead (N,) and its gradient (N, C, H, W); zero where the view passes none on."""
    points = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        leads = ahead(points)
    if not leads.requires_grad:
        return leads, torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(leads.sum(), points, allow_unused=True)
    return leads.detach(), torch.zeros_like(x) if gradient is None else gradient


def _zero(gradient: Tensor) -> Tensor:
    small: Tensor = gradient.flatten(1).abs().amax(dim=1) < ZERO
    return small


def _odd(gradient: Tensor) -> Tensor:
    finite: Tensor = gradient.flatten(1).isfinite().all(dim=1)
    return ~finite


def _step(x: Tensor, direction: Tensor, length: float) -> Tensor:
    """The image moved by this L2 length, along what of the direction stays in the box."""
    outward = ((x <= 0) & (direction < 0)) | ((x >= 1) & (direction > 0))
    inside = direction.masked_fill(outward, 0)
    inside = inside / inside.flatten(1).abs().amax(dim=1).clamp_min(ZERO).reshape(-1, 1, 1, 1)
    size = torch.linalg.vector_norm(inside.flatten(1), dim=1).clamp_min(ZERO)
    moved: Tensor = (x + inside * (length / size).reshape(-1, 1, 1, 1)).clamp(0, 1)
    return moved


def _best_of_random(
    ahead: Callable[[Tensor], Tensor], x: Tensor, length: float, rng: Generator
) -> Tensor:
    """The largest lead (N,) at the ends of some random steps."""
    draws = (
        noise_like_rows(child(rng, place), x, x.shape[1:]) for place in range(RANDOM_DIRECTIONS)
    )
    ends: Tensor = torch.stack([ahead(_step(x, draw, length)) for draw in draws])
    return ends.amax(dim=0)
