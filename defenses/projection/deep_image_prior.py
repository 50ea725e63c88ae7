"""Deep Image Prior (Ulyanov et al. 2017): an untrained network redraws an image, and stops early.

What a convolutional network fits first is what natural images are made of; noise comes last. Each
image has a network of its own, its own loss and its own end, and its randomness is a function of
the image and the generator, so that no image depends on its batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from defenses.projection.skip_network import SkipNetwork, Weights
from defenses.randomness import row_generators

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Redrawn(NamedTuple):
    """What became of N images.

    Args:
        images: (N, C, H, W) in [0, 1]; zeros where the descent failed.
        errors: (N,) their mean squared error; inf where it failed.
        steps: (N,) after how many steps they were drawn.
    """

    images: Tensor
    errors: Tensor
    steps: Tensor


@dataclass(frozen=True, kw_only=True)
class DeepImagePrior:
    """The descent of one network per image on its mean squared error.

    Args:
        network: its layers.
        steps: at most so many (Jalal et al. 2017, section 4.4.2: 500, or 100 where the attacker's
            epsilon is 0.1 of [-1, 1]).
        error: an image whose mean squared error falls below this is done (section 4.4.2: 0.005 for
            pixels in [-1, 1], which is a quarter of that here).
        rate: Adam's (section 4.1).
        input_scale: inputs are uniform in [0, input_scale] (Ulyanov et al.'s public code; the
            paper's Algorithm 2 says N(0, 1)).
        noise_std: of the noise that the inputs get at every step (same code).
        at_once: images drawn as one network; changes no result.

    Raises:
        ValueError: a number out of range.
    """

    network: SkipNetwork = field(default_factory=SkipNetwork)
    steps: int = 500
    error: float = 0.00125
    rate: float = 0.01
    input_scale: float = 0.1
    noise_std: float = 1 / 30
    at_once: int = 16

    def __post_init__(self) -> None:
        for name in ("steps", "at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; raise it")
        for name in ("rate", "input_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0, got {value}; raise it")
        for name in ("error", "noise_std"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value}; fix it")

    def redraw(self, x: Tensor, rng: Generator) -> Redrawn:
        """Redraw images (N, C, H, W) in [0, 1]."""
        rows = row_generators(rng, x)
        parts = [
            self._descend(part, rows[first : first + self.at_once])
            for first, part in zip(
                range(0, max(1, len(x)), self.at_once), x.detach().split(self.at_once), strict=True
            )
        ]
        return Redrawn(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _descend(self, x: Tensor, rows: Sequence[Generator]) -> Redrawn:
        """One chunk of images, until all are done or the steps are used up."""
        images, errors = torch.zeros_like(x), x.new_full((len(x),), math.inf)
        taken = torch.full((len(x),), self.steps, device=x.device)
        if len(x) == 0:
            return Redrawn(images, errors, taken)
        running = torch.arange(len(x), device=x.device)
        shape = (self.network.inputs, *x.shape[2:])
        inputs = self.input_scale * _drawn(torch.rand, shape, rows, x)
        weights, adam = self._begin(x, rows)
        for step in range(1, self.steps + 1):
            noise = _drawn(torch.randn, shape, [rows[i] for i in running.tolist()], x)
            with torch.enable_grad():
                drawn = self.network.draw(weights, inputs + self.noise_std * noise)
                loss = (drawn - x).square().flatten(1).mean(dim=1)
                adam.zero_grad(set_to_none=True)
                loss.sum().backward()
            loss, drawn = loss.detach(), drawn.detach()
            failed = ~loss.isfinite()
            done = (loss < self.error) | failed | (step == self.steps)
            if bool(done.any()):
                right = running[done & ~failed]
                images[right], errors[right] = drawn[done & ~failed], loss[done & ~failed]
                taken[running[done]] = step
                stay = ~done
                running, x, inputs = running[stay], x[stay], inputs[stay]
                if len(running) == 0:
                    break
                adam.step()
                weights, adam = self._without(weights, adam, stay)
            else:
                adam.step()
        return Redrawn(images, errors, taken)

    def _begin(self, x: Tensor, rows: Sequence[Generator]) -> tuple[Weights, torch.optim.Adam]:
        """Fresh networks for images (n, C, H, W)."""
        channels, height, width = x.shape[1:]
        own = [self.network.begin((channels, height, width), row) for row in rows]
        weights = {
            name: torch.stack([each[name] for each in own]).to(x).requires_grad_()
            for name in own[0]
        }
        return weights, self._adam(weights)

    def _adam(self, weights: Weights) -> torch.optim.Adam:
        return torch.optim.Adam(list(weights.values()), lr=self.rate, fused=True)

    def _without(
        self, weights: Weights, adam: torch.optim.Adam, stay: Tensor
    ) -> tuple[Weights, torch.optim.Adam]:
        """The networks of some images (a mask) alone, with their moments."""
        kept = {name: each.detach()[stay].requires_grad_() for name, each in weights.items()}
        further = self._adam(kept)
        for name, each in weights.items():
            state = adam.state[each]
            moments = {moment: state[moment][stay] for moment in _MOMENTS}
            further.state[kept[name]] = {"step": state["step"], **moments}
        return kept, further


def _drawn(
    sample: Callable[..., Tensor], shape: tuple[int, ...], rows: Sequence[Generator], x: Tensor
) -> Tensor:
    """Noise (n, *shape), each image's from its own generator."""
    return torch.stack([sample(shape, generator=row) for row in rows]).to(x)
