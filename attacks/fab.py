"""FAB (Croce & Hein 2020, "Minimally Distorted Adversarial Examples"): over the boundary and back.

Attacks that stay inside a ball stop where a network has flattened itself there. This one walks over
linearised boundaries wherever they lie and then comes back toward the image.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.climb import Climb
from attacks.evasion import lead, likeliest_others
from attacks.hyperplane import nearest_on_hyperplane
from attacks.losses import Loss
from attacks.minimum_norm import MinimumNormAttack
from attacks.projected_step import usable
from attacks.random_directions import random_direction, uniform_in_ball
from attacks.recorder import Recorder
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child

_TINY = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class FAB(MinimumNormAttack):
    """The paper's Algorithm 1 toward one class after another, as AutoAttack runs it (FAB-T).

    The classes come likeliest first, each for the images for which nothing evades the view within
    the smallest budget yet. The paper's closing search on the way to the image is left out.

    Args:
        steps: linearisations per run (both papers: 100).
        targets: other classes to aim at (AutoAttack: 9).
        restarts: runs per class, from the image, then from random points half as far away as the
            nearest evading budget (AutoAttack: 1).
        largest_pull: alpha_max, by which a step may lean to the image's own projection (both: 0.1).
        overshoot: eta, length of a step relative to the way to the hyperplane (both: 1.05).
        backward: beta, share of its way that a point that evades keeps (both: 0.9).

    Raises:
        ValueError: shares above 1.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2, Norm.L1)

    steps: int = 100
    targets: int = 9
    restarts: int = 1
    largest_pull: float = 0.1
    overshoot: float = 1.05
    backward: float = 0.9

    def __post_init__(self) -> None:
        MinimumNormAttack.__post_init__(self)
        for name in ("largest_pull", "backward"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, got {getattr(self, name)}; lower it")

    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """See `MinimumNormAttack.search`."""
        with torch.no_grad():
            logits, _ = self.view.of(defense, child(rng, "ranking"))(recorder.x)
        for turn, wanted in enumerate(likeliest_others(logits, y, self.targets)):
            for restart in range(self.restarts):
                rows = (recorder.leads[0] <= 0).nonzero().squeeze(1)
                if len(rows) == 0:
                    return
                own = child(rng, "run", turn, restart)
                part = recorder.part(rows)
                points = self._beside(recorder, rows, own) if restart else part.x
                view = self.view.of(defense, child(own, "view"))
                climb = Climb(view, defense.can_reject, y[rows], part)
                self._run(climb, wanted[rows], points, child(own, "escape"))
                recorder.adopt(rows, part)

    def _beside(self, recorder: Recorder, rows: Tensor, rng: Generator) -> Tensor:
        """Random points (n, C, H, W), at most half as far away as the nearest evading budget."""
        evading = recorder.leads[:, rows] > 0
        radii = recorder.radii[:, rows]
        nearest = torch.where(evading, radii, radii[-1:]).amin(dim=0)
        return uniform_in_ball(self.norm, recorder.x[rows], nearest / 2, child(rng, "start"))

    def _run(self, climb: Climb, wanted: Tensor, points: Tensor, rng: Generator) -> None:
        """One walk of every image to and over its boundary with the wanted class."""
        x, y = climb.seen.x, climb.y
        for step in range(self.steps):
            height, slope = climb.slope(points, lambda logits: Loss.MARGIN.of(logits, y, wanted))
            height = height.nan_to_num()
            slope = usable(slope, random_direction(x, child(rng, step)))
            ahead = nearest_on_hyperplane(self.norm, points, slope, -height)
            offset = ((points - x) * slope).flatten(1).sum(dim=1)
            home = nearest_on_hyperplane(self.norm, x, slope, offset - height)
            way, back = self.norm.distance(points, ahead), self.norm.distance(x, home)
            pull = (way / (way + back).clamp_min(_TINY)).clamp_max(self.largest_pull)
            pull = pull.reshape(-1, 1, 1, 1)
            outward = points + self.overshoot * (ahead - points)
            inward = x + self.overshoot * (home - x)
            points = ((1 - pull) * outward + pull * inward).clamp(0, 1)
            with torch.no_grad():
                evades = (lead(climb.look(points), y) > 0).reshape(-1, 1, 1, 1)
            points = torch.where(evades, x + self.backward * (points - x), points)
