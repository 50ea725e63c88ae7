"""A view that gradient attacks climb: every query is put on record."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.evasion import evasion_logits, lead
from attacks.recorder import Recorder
from defenses.base import Surrogate


@dataclass(frozen=True)
class Climb:
    """Some images' logits on one view, wrong only where wrong *and accepted*.

    Args:
        view: made for these images.
        can_reject: whether the view's defense does.
        y: labels (n,).
        seen: is shown every query.
    """

    view: Surrogate
    can_reject: bool
    y: Tensor
    seen: Recorder

    def look(self, points: Tensor) -> Tensor:
        """Logits (n, K) of the points (n, C, H, W), which are put on record."""
        logits, margin = self.view(points)
        if self.can_reject:
            logits = evasion_logits(logits, margin, self.y)
        with torch.no_grad():
            self.seen.see(points.detach(), lead(logits, self.y))
        return logits

    def slope(self, points: Tensor, of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """A value (n,) of the logits (n, K), and its gradient (n, C, H, W).

        The gradient is zero where the view is constant or depends on nothing but its weights.
        """
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            value = of(self.look(points))
            gradient = torch.zeros_like(points)
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(
                    value.sum(), points, allow_unused=True, materialize_grads=True
                )
        return value.detach(), gradient
