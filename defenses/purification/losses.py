"""The terms of Defense-VAE's and MAD-VAE's losses, each a number for a batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_TINY = 1e-12


def reconstruction(drawn: Tensor, clean: Tensor) -> Tensor:
    """Binary cross-entropy (N, C, H, W) per pixel, in nats.

    Args:
        drawn: the decoder's output before its sigmoid.
        clean: what it should be, in [0, 1].
    """
    return functional.binary_cross_entropy_with_logits(drawn, clean, reduction="none")


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL[N(mean, deviation^2) || N(0, 1)] per image and dimension (N, d), in nats."""
    variance = deviation.square()
    return (mean.square() + variance - 1 - (variance + _TINY).log()) / 2


def proximity(z: Tensor, y: Tensor, centres: Tensor) -> Tensor:
    """L_p of MAD-VAE (section 2.2.2): mean over the batch of ||z_i - c_i||.

    Args:
        z: latents (N, d).
        y: classes (N,).
        centres: (K, d), one per class.
    """
    return distances(z, centres[y]).mean()


def distance(z: Tensor, y: Tensor, centres: Tensor, *, among_centres: bool) -> Tensor:
    """L_d of MAD-VAE (section 2.2.2), which is to grow.

        mean_i 1 / (k - 1) sum_{j != i} (||z_i - c_j|| + ||c_i - c_j||)

    Args:
        z, y, centres: see `proximity`.
        among_centres: False drops the second norm, as the public code does.
    """
    apart = distances(z[:, None], centres[None])
    if among_centres:
        apart = apart + distances(centres[y][:, None], centres[None])
    others = 1 - functional.one_hot(y, len(centres)).to(z.dtype)
    return (apart * others).sum(dim=1).mean() / (len(centres) - 1)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances over the last dimension; a point at distance 0 has gradient 0."""
    return ((a - b).square().sum(dim=-1) + _TINY).sqrt()


class Centres(nn.Module):
    """Learned class centres c (K, d), standard normal at first (public code; the paper is silent).

    Args:
        attracting: that pull latents; drawn from torch's global generator.
        repelling: that push those of other classes away; the same where None.
    """

    def __init__(self, attracting: Tensor, repelling: Tensor | None = None) -> None:
        super().__init__()
        self.attracting = nn.Parameter(attracting)
        self.repelling = self.attracting if repelling is None else nn.Parameter(repelling)

    @property
    def shared(self) -> bool:
        """One set does both, as in the paper."""
        return self.repelling is self.attracting

    def proximity(self, z: Tensor, y: Tensor) -> Tensor:
        """L_p."""
        return proximity(z, y, self.attracting)

    def distance(self, z: Tensor, y: Tensor) -> Tensor:
        """L_d; without its second norm where the repelling centres attract nothing."""
        return distance(z, y, self.repelling, among_centres=self.shared)


def draw_centres(classes: int, latent: int, *, shared: bool) -> Centres:
    """Centres where they begin."""
    first = torch.randn(classes, latent)
    return Centres(first, None if shared else torch.randn(classes, latent))
