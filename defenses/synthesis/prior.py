"""How a latent is charged for being unlikely: a Gaussian's KL, or an adversarial discriminator."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


class Discriminators(nn.Module):
    """D(z) as logits: one multilayer perceptron for all classes, or one per class, side by side.

    Args:
        count: 1 (shared by all classes) or K.
        latent: dimensions of z.
        widths: the hidden layers' widths (Table 9), each followed by LeakyReLU.
        slope: LeakyReLU's slope.
    """

    def __init__(self, count: int, latent: int, widths: tuple[int, int], slope: float) -> None:
        super().__init__()
        self.slope = slope
        sizes = (latent, *widths, 1)
        bounds = [1 / math.sqrt(size) for size in sizes[:-1]]
        self.weights = nn.ParameterList(
            torch.empty(count, fan_in, fan_out).uniform_(-bound, bound)
            for fan_in, fan_out, bound in zip(sizes[:-1], sizes[1:], bounds, strict=True)
        )
        self.biases = nn.ParameterList(
            torch.empty(count, 1, fan_out).uniform_(-bound, bound)
            for fan_out, bound in zip(sizes[1:], bounds, strict=True)
        )

    def own(self, z: Tensor, y: Tensor) -> Tensor:
        """Logits (N,) of the latents z (N, d) for the discriminators of their classes y (N,)."""
        if len(self.weights[0]) == 1:
            logits: Tensor = self(z[:, None])
            return logits.squeeze(1)
        every: Tensor = self(z[:, None].expand(-1, len(self.weights[0]), -1))
        return every.gather(1, y[:, None]).squeeze(1)

    def forward(self, z: Tensor) -> Tensor:
        """Logits (N, K) that the latents z (N, K, d) were drawn from the prior."""
        rows, classes, latent = z.shape
        shared = len(self.weights[0]) == 1
        h = z.reshape(1, rows * classes, latent) if shared else z.transpose(0, 1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if layer < len(self.weights) - 1:
                h = functional.leaky_relu(h, self.slope)
        return h.reshape(rows, classes) if shared else h.squeeze(2).transpose(0, 1)


@dataclass(frozen=True)
class Prior(ABC):
    """The term added to the squared error.

    Args:
        beta: its weight; 1 in both papers.
    """

    beta: float = 1.0

    @property
    @abstractmethod
    def adversarial(self) -> bool:
        """Whether discriminators have to be trained for it."""

    @abstractmethod
    def energy(
        self, z: Tensor, divergence: Tensor, discriminators: Discriminators | None
    ) -> Tensor:
        """The charge (N, K) >= 0 for samples z (N, K, d) of posteriors with this KL (N, K)."""


@final
@dataclass(frozen=True)
class GaussianPrior(Prior):
    """beta KL[Q | N(0, I)]: the variational autoencoder of ABS (Eq. 2 with the right sign)."""

    @property
    def adversarial(self) -> bool:
        """No discriminator."""
        return False

    def energy(
        self, z: Tensor, divergence: Tensor, discriminators: Discriminators | None
    ) -> Tensor:
        """The KL, weighted."""
        return self.beta * divergence


@final
@dataclass(frozen=True)
class AdversarialPrior(Prior):
    """-beta log D(z): the adversarial autoencoder of E-ABS (Eq. 3)."""

    @property
    def adversarial(self) -> bool:
        """D is trained beside the autoencoders."""
        return True

    def energy(
        self, z: Tensor, divergence: Tensor, discriminators: Discriminators | None
    ) -> Tensor:
        """-beta log sigmoid of the discriminator's logit."""
        if discriminators is None:
            raise ValueError("discriminators must be networks for an adversarial prior, got None")
        return self.beta * functional.softplus(-discriminators(z))
