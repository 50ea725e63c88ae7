"""MAD-VAE's losses and single rounds, written as the paper's sums, image by image."""

import math

import torch
from torch import Tensor


def cross_entropy(image: Tensor, clean: Tensor) -> float:
    """Sum over everything of -x log g - (1 - x) log (1 - g)."""
    pairs = zip(image.double().flatten().tolist(), clean.double().flatten().tolist(), strict=True)
    return sum(-x * math.log(g) - (1 - x) * math.log(1 - g) for g, x in pairs)


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """KL against the standard normal, by torch's own distributions."""
    posterior = torch.distributions.Normal(mean, deviation)
    return torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))


def proximity(z: Tensor, y: Tensor, centres: Tensor) -> float:
    """Mean of ||z_i - c_i||."""
    lengths = [math.dist(z[i].tolist(), centres[int(y[i])].tolist()) for i in range(len(z))]
    return sum(lengths) / len(z)


def distance(z: Tensor, y: Tensor, centres: Tensor, *, among_centres: bool) -> float:
    """Mean of 1 / (k - 1) sum over the other classes of ||z_i - c_j|| + ||c_i - c_j||."""
    total = 0.0
    for i in range(len(z)):
        own = int(y[i])
        for j in range(len(centres)):
            if j != own:
                total += math.dist(z[i].tolist(), centres[j].tolist())
                if among_centres:
                    total += math.dist(centres[own].tolist(), centres[j].tolist())
    return total / (len(centres) - 1) / len(z)
