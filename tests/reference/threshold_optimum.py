"""Slow but sure: nearest points that pass a linear defense's thresholds, by SLSQP from many starts.

No box: the defenses of these tests keep it far away.
"""

import numpy as np
import torch
from scipy.optimize import minimize

from tests.linear import SHAPE, Mixture


def nearest_accepted(defense: Mixture, x: torch.Tensor, wanted: int) -> float:
    """The L2 distance from one image (C, H, W) to the nearest point accepted as ``wanted``."""
    centre = x.double().numpy().ravel()
    exact = defense.double()
    classes = torch.tensor([wanted])

    def limits(offset: np.ndarray) -> np.ndarray:
        point = torch.from_numpy(centre + offset).reshape(1, *SHAPE)
        terms = exact.terms(point, classes)
        return np.concatenate([-terms.gap.detach().numpy(), 1 - terms.scores[0].detach().numpy()])

    rng = np.random.default_rng(0)
    found = []
    for _ in range(3):
        answer = minimize(
            lambda offset: float(offset @ offset),
            rng.normal(scale=0.2, size=centre.size),
            jac=lambda offset: 2 * offset,
            constraints={"type": "ineq", "fun": limits},
            method="SLSQP",
            options={"maxiter": 200, "ftol": 1e-10},
        )
        if answer.success and limits(answer.x).min() > -1e-6:
            found.append(float(np.linalg.norm(answer.x)))
    defense.float()
    return min(found)
