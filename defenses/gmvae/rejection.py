"""The two thresholds that let a GMVAE refuse (Ghosh et al. 2019, section 3.4), and their choice.

An input is refused where its encoding lies too far from the mean of the predicted class (squared
Mahalanobis distance with the covariance of that class's training encodings) or where its
reconstruction error is too large. By default tau_enc is the chi-square quantile of the paper and
tau_dec the mean of the held-out errors plus three standard deviations, "the corresponding value".
Any other trade of risk for coverage comes from the same held-out images: `thresholds`.
"""

from enum import StrEnum

import torch
from scipy.stats import chi2
from torch import Tensor, nn

LEVELS = 2001
"""Quantile levels at which the held-out scores are kept, from 0 to 1."""

THREE_SIGMA = 0.9973
"""The mass of a normal within three standard deviations (the paper's "3 sigma rule")."""

_DEVIATIONS = 3.0


class Spread(StrEnum):
    """Whose encodings a class's covariance is measured on.

    CLASS: its own (the paper's). POOLED: every class's around its mean, one covariance for all;
    COIL-100 has fewer images of an object than latent dimensions.
    """

    CLASS = "class"
    POOLED = "pooled"


class Rejection(nn.Module):
    """Class covariances and held-out scores; every number is measured by `calibrate`.

    Args:
        means: (K, d), of the mixture components.

    Attributes:
        covariance: (K, d, d), of each class's training encodings.
        precision: (K, d, d), their inverses.
        default: (2,) tau_enc and tau_dec of the paper's rule.
        levels: (LEVELS, 2) quantiles of the held-out distances and errors.
        coverage: (LEVELS,) share of the held-out images within both quantiles of a level.
    """

    means: Tensor
    covariance: Tensor
    precision: Tensor
    default: Tensor
    levels: Tensor
    coverage: Tensor

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        count, size = means.shape
        self.register_buffer("means", means)
        self.register_buffer("covariance", torch.eye(size).repeat(count, 1, 1))
        self.register_buffer("precision", torch.eye(size).repeat(count, 1, 1))
        self.register_buffer("default", torch.ones(2))
        self.register_buffer("levels", torch.linspace(0, 1, LEVELS)[:, None].repeat(1, 2))
        self.register_buffer("coverage", torch.linspace(0, 1, LEVELS))

    def distances(self, z: Tensor, classes: Tensor, *, printed: bool = False) -> Tensor:
        """Squared Mahalanobis distances (N,) of encodings (N, d) to the means of their classes.

        Args:
            printed: multiply with the covariance, not its inverse, as Eqs. 10 and 11 print it.
        """
        offset = z - self.means[classes]
        metric = self.covariance if printed else self.precision
        return torch.einsum("ni,nij,nj->n", offset, metric[classes], offset)

    @torch.no_grad()
    def measure_covariances(self, z: Tensor, y: Tensor, spread: Spread = Spread.CLASS) -> None:
        """Covariances of training encodings (N, d) by class (N,).

        Raises:
            ValueError: too few encodings for an invertible covariance.
        """
        size, z = z.shape[1], z.double()
        everybody = torch.cat(
            [own - own.mean(dim=0) for own in (z[y == k] for k in y.unique().tolist())]
        )
        for k in range(len(self.means)):
            own = z[y == k] if spread is Spread.CLASS else everybody
            if len(own) <= size:
                of_class = f" of class {k}" if spread is Spread.CLASS else ""
                raise ValueError(
                    f"training images{of_class} must be more than {size} for a covariance in "
                    f"{size} dimensions, got {len(own)}; train on more, or use a pooled spread"
                )
            covariance = torch.cov(own.T)
            ridge = _RIDGE * covariance.diagonal().mean() * torch.eye(size).to(covariance)
            self.covariance[k] = covariance
            self.precision[k] = torch.linalg.inv(covariance + ridge)

    @torch.no_grad()
    def measure_scores(self, distances: Tensor, errors: Tensor) -> None:
        """Thresholds from held-out squared distances (N,) and reconstruction errors (N,)."""
        scores = torch.stack([distances, errors], dim=1).double()
        level = torch.linspace(0, 1, LEVELS, dtype=scores.dtype, device=scores.device)
        quantiles = torch.quantile(scores, level, dim=0)
        within = (scores[None] <= quantiles[:, None]).all(dim=2).double().mean(dim=1)
        self.levels.copy_(quantiles)
        self.coverage.copy_(within)
        deviations = scores[:, 1].std() * _DEVIATIONS
        self.default[0] = float(chi2.ppf(THREE_SIGMA, self.means.shape[1]))
        self.default[1] = scores[:, 1].mean() + deviations

    def thresholds(self, coverage: float | None = None) -> Tensor:
        """tau_enc and tau_dec (2,).

        Args:
            coverage: share of held-out images to accept, both quantiles at one level; None is the
                paper's rule.

        Raises:
            ValueError: a coverage outside (0, 1].
        """
        if coverage is None:
            return self.default
        require_coverage(coverage)
        level = torch.searchsorted(self.coverage, coverage * (1 - _ROUNDING)).clamp_max(LEVELS - 1)
        return self.levels[level]


_ROUNDING = 1e-6

_RIDGE = 1e-6
"""Share of the mean variance added to a covariance: an encoder may not use every dimension."""


def require_coverage(coverage: float | None) -> None:
    """A coverage is a share.

    Raises:
        ValueError: outside (0, 1].
    """
    if coverage is not None and not 0 < coverage <= 1:
        raise ValueError(
            f"coverage must be in (0, 1], got {coverage}; 0.98 accepts 98 % of held-out images"
        )
