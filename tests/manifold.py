"""Generators whose projections are known in closed form."""

import torch
from torch import Generator, Tensor, nn

from defenses.projection.generator import EncodingModel
from tests.linear import SHAPE, SIZE


class LinearModel(EncodingModel):
    """G(z) = 1/2 + A z: inversion is a least-squares projection onto A's columns."""

    def __init__(self, latent: int = 5, seed: int = 0) -> None:
        super().__init__()
        rng = Generator().manual_seed(seed)
        self.latent = latent
        self.columns = nn.Parameter(torch.randn(SIZE, latent, generator=rng) / 4)
        self.requires_grad_(False)

    def decode(self, z: Tensor) -> Tensor:
        along = (z[:, None] * self.columns).sum(dim=2)
        return (0.5 + along).reshape(-1, *SHAPE)

    def encode(self, x: Tensor) -> Tensor:
        inverse = torch.linalg.pinv(self.columns)
        return ((x.flatten(1) - 0.5)[:, None] * inverse).sum(dim=2)

    def projected(self, x: Tensor) -> Tensor:
        """The nearest image in the range."""
        return self.decode(self.encode(x))


class CurvedModel(LinearModel):
    """G(z) = 1/2 + tanh(A z) / 2: smooth, bounded, and not linear."""

    def decode(self, z: Tensor) -> Tensor:
        along = (z[:, None] * self.columns).sum(dim=2)
        return (0.5 + along.tanh() / 2).reshape(-1, *SHAPE)


class BrokenModel(LinearModel):
    """Draws NaN for latents whose first entry is above a threshold."""

    def __init__(self, above: float) -> None:
        super().__init__()
        self.above = above

    def decode(self, z: Tensor) -> Tensor:
        factor = torch.where(z[:, :1] > self.above, torch.nan, 1.0)
        return super().decode(z) * factor[..., None, None]
