"""Inference of the ABS family as one would first write it: class by class, nothing cached.

The oracle for `defenses.synthesis`, and what `benchmark.perf` is measured against: decoders as they
were trained, a candidate at a time in chunks, one optimiser per class, autograd throughout.
"""

import torch
from torch import Tensor

from defenses.randomness import generator
from defenses.synthesis import SynthesisClassifier


def charge(defense: SynthesisClassifier, k: int, z: Tensor, divergence: Tensor) -> Tensor:
    """The prior's energy (N,) of latents z (N, d) in class k."""
    discriminators = defense.discriminators
    if discriminators is None:
        return defense.prior.beta * divergence
    h = z
    own = 0 if len(discriminators.weights[0]) == 1 else k
    for layer, (weight, bias) in enumerate(
        zip(discriminators.weights, discriminators.biases, strict=True)
    ):
        h = h @ weight[own] + bias[own]
        if layer < len(discriminators.weights) - 1:
            h = torch.nn.functional.leaky_relu(h, discriminators.slope)
    return -defense.prior.beta * torch.nn.functional.logsigmoid(h.squeeze(1))


def objective(
    defense: SynthesisClassifier, k: int, x: Tensor, variables: list[Tensor], noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Eq. 6's score (N,) of class k at one sample, and its squared error (N,)."""
    if len(variables) == 1:
        z = variables[0]
        divergence = 0.5 * z.square().sum(dim=1)
    else:
        mean, log_variance = variables
        z = mean + (0.5 * log_variance).exp() * noise
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
    error = (defense.decoders.decode(k, z) - x).square().sum(dim=(1, 2, 3))
    return error + charge(defense, k, z, divergence), error


def latent_step(
    defense: SynthesisClassifier,
    k: int,
    x: Tensor,
    variables: list[Tensor],
    *,
    noise: Tensor,
    optimizer: torch.optim.Optimizer,
) -> None:
    """One Adam step of one class on a batch."""
    score, _ = objective(defense, k, x, variables, noise)
    gradients = torch.autograd.grad(score.sum(), variables)
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.grad = gradient
    optimizer.step()


@torch.no_grad()
def best_start(defense: SynthesisClassifier, k: int, x: Tensor, noise: Tensor) -> list[Tensor]:
    """Class k's best candidate for each image: every candidate decoded and compared in turn."""
    settings = defense.settings
    mean, extra = torch.randn(
        (2, settings.candidates, defense.latent), generator=generator(settings.candidate_seed)
    )
    if settings.candidate_score == "mean":
        extra = torch.zeros_like(extra)
    best = torch.full((len(x),), torch.inf)
    chosen = [torch.zeros(len(x), defense.latent), torch.zeros(len(x), defense.latent)]
    for index in range(settings.candidates):
        candidate = [mean[index : index + 1], torch.zeros(1, defense.latent)]
        parameters = candidate if defense.stochastic else candidate[:1]
        scores, _ = objective(defense, k, x, parameters, extra[index : index + 1])
        better = scores < best
        best = torch.where(better, scores, best)
        for own, new in zip(chosen, candidate, strict=True):
            own[better] = new
    proposal = [
        part[:, k] for part in defense.encoding.propose(defense.encoders, x, defense.num_classes)
    ]
    parameters = proposal if defense.stochastic else proposal[:1]
    scores, _ = objective(defense, k, x, parameters, noise)
    better = scores < best
    for own, new in zip(chosen, proposal, strict=True):
        own[better] = new[better]
    return chosen if defense.stochastic else chosen[:1]


def explain(defense: SynthesisClassifier, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Scores l_k (N, K) and squared errors (N, K) for noise (N, steps + 2, K, d)."""
    scores, errors = [], []
    for k in range(defense.num_classes):
        variables = best_start(defense, k, x, noise[:, 0, k])
        variables = [value.clone().requires_grad_() for value in variables]
        optimizer = torch.optim.Adam(variables, lr=defense.settings.latent_rate)
        for step in range(1, noise.shape[1] - 1):
            latent_step(defense, k, x, variables, noise=noise[:, step, k], optimizer=optimizer)
        with torch.no_grad():
            score, error = objective(defense, k, x, variables, noise[:, -1, k])
        scores.append(score)
        errors.append(error)
    return torch.stack(scores, dim=1), torch.stack(errors, dim=1)
