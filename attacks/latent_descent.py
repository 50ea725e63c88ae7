"""Latent Descent Attack on analysis by synthesis (Schott et al. 2018, section 4)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.evasion import evasion_lead
from attacks.minimum_norm import MinimumNormAttack
from attacks.recorder import Recorder
from attacks.threat import Norm
from defenses.base import Defense, Reconstructs
from defenses.randomness import child


@final
@dataclass(frozen=True, kw_only=True)
class LatentDescent(MinimumNormAttack):
    """Walk from the image toward the best reconstruction of the nearest other class.

    A coarse line search, its target recomputed at every step, until the deployed defense is wrong
    and accepts; then bisection between the last point that failed and the first that did not.

    Args:
        coarse_steps: steps of the line search (Schott et al.'s code: 51).
        binary_steps: halvings afterwards (Schott et al.'s code: 2 to 10).
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)

    norm: Norm = Norm.L2
    coarse_steps: int = 51
    binary_steps: int = 10

    def needs(self, defense: Defense) -> str | None:
        """A reconstruction per class."""
        if isinstance(defense, Reconstructs):
            return None
        return f"{type(defense).__name__} has no reconstruction per class to descend toward"

    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """See `MinimumNormAttack.search`.

        Raises:
            ValueError: the defense does not reconstruct; `needs` says so beforehand.
        """
        if not isinstance(defense, Reconstructs):
            raise ValueError(f"defense must reconstruct, got {type(defense).__name__}; see needs()")
        x = recorder.x
        inside, outside = x.clone(), x.clone()
        walking = torch.arange(len(x), device=x.device)
        for step in range(1, self.coarse_steps + 1):
            if len(walking) == 0:
                break
            own = child(rng, "coarse", step)
            here = inside[walking]
            target = nearest_other(defense, here, y[walking], child(own, "reconstruct"))
            moved = x[walking] + (step / self.coarse_steps) * (target - x[walking])
            leads = evasion_lead(defense.decide(moved, child(own, "decide")), y[walking])
            recorder.see_rows(walking, moved, leads)
            evading = leads > 0
            outside[walking[evading]] = moved[evading]
            inside[walking[~evading]] = moved[~evading]
            walking = walking[~evading]
        arrived = torch.ones(len(x), dtype=torch.bool, device=x.device)
        arrived[walking] = False
        rows = arrived.nonzero().squeeze(1)
        for step in range(self.binary_steps if len(rows) else 0):
            middle = (inside[rows] + outside[rows]) / 2
            leads = evasion_lead(defense.decide(middle, child(rng, "binary", step)), y[rows])
            recorder.see_rows(rows, middle, leads)
            evading = leads > 0
            outside[rows[evading]] = middle[evading]
            inside[rows[~evading]] = middle[~evading]


def nearest_other(defense: Reconstructs, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
    """The reconstruction (N, C, H, W) nearest to ``x`` among the classes that are not ``y``."""
    with torch.no_grad():
        reconstructions = defense.reconstruct(x, rng)
    distances = torch.linalg.vector_norm((reconstructions - x[:, None]).flatten(2), dim=2)
    nearest = distances.scatter(1, y[:, None], torch.inf).argmin(dim=1)
    return reconstructions[torch.arange(len(x), device=x.device), nearest].clamp(0, 1)
