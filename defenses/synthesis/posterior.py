"""What inference optimises for each image and class: a latent point, or a Gaussian over latents."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

Variables = tuple[Tensor, ...]
"""The tensors that inference optimises, (N, K, d) each."""


@dataclass(frozen=True)
class Posterior(ABC):
    """A family of distributions Q(z) to choose from at inference."""

    @property
    @abstractmethod
    def stochastic(self) -> bool:
        """Whether a sample depends on its noise."""

    @abstractmethod
    def parameters(self, mean: Tensor, log_variance: Tensor) -> Variables:
        """Those of the two, (N, K, d) each, that tell one of its distributions from another."""

    @final
    def variables(self, mean: Tensor, log_variance: Tensor) -> Variables:
        """Fresh variables for the distributions with these parameters, (N, K, d) each."""
        parameters = self.parameters(mean, log_variance)
        return tuple(each.detach().clone().requires_grad_() for each in parameters)

    @abstractmethod
    def sample(self, variables: Variables, noise: Tensor) -> Tensor:
        """One reparameterised latent (N, K, d) for standard normal noise of that shape."""

    @abstractmethod
    def divergence(self, variables: Variables) -> Tensor:
        """KL divergence (N, K) to the standard normal, in nats, up to a constant."""


@final
@dataclass(frozen=True)
class PointPosterior(Posterior):
    """A single latent z, scored as N(z, I) (ABS, Eq. 2): KL = |z|^2 / 2."""

    @property
    def stochastic(self) -> bool:
        """A point has nothing random."""
        return False

    def parameters(self, mean: Tensor, log_variance: Tensor) -> Variables:
        """The mean alone."""
        return (mean,)

    def sample(self, variables: Variables, noise: Tensor) -> Tensor:
        """The point itself."""
        return variables[0]

    def divergence(self, variables: Variables) -> Tensor:
        """Half the squared norm."""
        return 0.5 * variables[0].square().sum(dim=-1)


@final
@dataclass(frozen=True)
class VariationalPosterior(Posterior):
    """N(mean, diag(variance)), both optimised by reparameterised gradients (E-ABS, Eq. 6)."""

    @property
    def stochastic(self) -> bool:
        """The final score uses a fresh sample."""
        return True

    def parameters(self, mean: Tensor, log_variance: Tensor) -> Variables:
        """Mean and log variance."""
        return mean, log_variance

    def sample(self, variables: Variables, noise: Tensor) -> Tensor:
        """Mean plus standard deviation times noise."""
        mean, log_variance = variables
        return mean + (0.5 * log_variance).exp() * noise

    def divergence(self, variables: Variables) -> Tensor:
        """KL of a diagonal Gaussian to the standard normal."""
        return gaussian_divergence(*variables)


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL[N(mean, exp(log_variance)) | N(0, I)] in nats, summed over the last dimension."""
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * torch.sum(terms, dim=-1)
