"""The radius within which exact inference can't change its answer (E-ABS, Eq. 7 corrected)."""

import torch
from torch import Tensor


def certified_radius(distance: Tensor, score: Tensor, residual: Tensor, y: Tensor) -> Tensor:
    """The corrected certificate, in L2 pixel units.

        eps* = min over k != y of (d_k^2 - l_y) / (2 (d_k + r_y)),   at least 0

    It solves l_y + 2 eps r_y + eps^2 = (d_k - eps)^2: the true class's score can rise no faster
    than the left side (Cauchy-Schwarz), class k's can fall no faster than the right. The printed
    Eq. 7 has squared norms in the denominator, which is unsound where r_y < 1.

    Args:
        distance: d_k = min_z |x - G_k(z)|, (N, K).
        score: l_k, (N, K); only the true class's is used.
        residual: |x - G_k(z_k)| at the score's optimum, (N, K); only the true class's is used.
        y: labels (N,).

    Returns:
        (N,) radii; 0 where the true class does not win.
    """
    own_score = score.gather(1, y[:, None])
    own_residual = residual.gather(1, y[:, None])
    radii = (distance.square() - own_score) / (2 * (distance + own_residual))
    others = radii.scatter(1, y[:, None], torch.inf)
    return others.amin(dim=1).clamp_min(0)
