"""Inference by synthesis: for each class the latent that explains the image best (E-ABS, Eq. 6)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from defenses.base import Cost
from defenses.randomness import generator
from defenses.synthesis.decoders import ClassDecoders
from defenses.synthesis.encoding import Encoding
from defenses.synthesis.frozen import FrozenDecoders
from defenses.synthesis.posterior import Posterior, Variables
from defenses.synthesis.prior import Discriminators, Prior

_DECODED_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """The budget of the search for latents.

    Args:
        candidates: random candidates per class, decoded once per model; 8000 in both papers.
        candidate_score: a candidate N(mean, I) is scored at one sample of it (the literal reading
            of E-ABS, section 3.3), or at its mean.
        candidate_seed: of the candidates, which are part of the deployed model (as in ABS's code).
        latent_steps: Adam steps from the best candidate; E-ABS does not state them, ABS took 50.
        latent_rate: Adam's rate; E-ABS does not state it, ABS took 0.05.
    """

    candidates: int = 8000
    candidate_score: Literal["sample", "mean"] = "sample"
    candidate_seed: int = 0
    latent_steps: int = 50
    latent_rate: float = 0.05


@dataclass(frozen=True)
class Networks:
    """The trained parts that inference needs."""

    encoding: Encoding
    encoders: nn.Module
    decoders: ClassDecoders
    discriminators: Discriminators | None


@dataclass
class Latents:
    """A batch's variables between steps, with their optimiser's memory."""

    variables: Variables
    optimizer: torch.optim.Adam


@dataclass(frozen=True)
class Explanation:
    """How well each class explains each image.

    Args:
        error: |x - G_k(z)|^2 (N, K), summed over pixels.
        energy: the prior's charge (N, K).
        reconstruction: G_k(z) (N, K, C, H, W).
    """

    error: Tensor
    energy: Tensor
    reconstruction: Tensor

    @property
    def score(self) -> Tensor:
        """l_k(x) (N, K), lower is more likely (E-ABS, Eq. 6)."""
        return self.error + self.energy


class LatentInference:
    """The search over latents of one trained model, with its decoded candidates.

    Noise comes from the caller: slices of one tensor (N, steps, K, d), so that an image's result
    does not depend on its batch.
    """

    def __init__(
        self,
        networks: Networks,
        posterior: Posterior,
        prior: Prior,
        settings: InferenceSettings,
        cost: Cost,
    ) -> None:
        self.networks = networks
        self.posterior = posterior
        self.prior = prior
        self.settings = settings
        self.decoders = FrozenDecoders(networks.decoders, cost)
        self.classes = networks.decoders.num_classes
        self._build_candidates(networks.decoders.stem_weight)

    def search(self, x: Tensor, noise: Tensor) -> Latents:
        """The best of the random candidates and the encoder's, per image and class.

        Args:
            x: images (N, C, H, W).
            noise: (N, K, d), for the encoder's candidate.
        """
        mean, error = self._best_candidate(x)
        log_variance = torch.zeros_like(mean)
        with torch.no_grad():
            proposal = self.networks.encoding.propose(self.networks.encoders, x, self.classes)
            suggested = self.explain(x, self.posterior.variables(*proposal), noise)
            better = (suggested.score < error)[:, :, None]
            mean = torch.where(better, proposal[0], mean)
            log_variance = torch.where(better, proposal[1], log_variance)
        variables = self.posterior.variables(mean, log_variance)
        optimizer = torch.optim.Adam(variables, lr=self.settings.latent_rate)
        return Latents(variables, optimizer)

    def refine(self, latents: Latents, x: Tensor, noise: Tensor) -> None:
        """One Adam step on Eq. 6 per slice of the noise (N, steps, K, d), in place."""
        for step in range(noise.shape[1]):
            with torch.enable_grad():
                z = self.posterior.sample(latents.variables, noise[:, step])
                energy = self._energy(latents.variables, z)
            _, gradient = self.decoders.error_and_gradient(x, z.detach())
            latents.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward([z, energy], [gradient, torch.ones_like(energy)])
            latents.optimizer.step()

    @torch.no_grad()
    def explain(self, x: Tensor, variables: Variables, noise: Tensor) -> Explanation:
        """The score at one sample of the variables, for noise (N, K, d)."""
        z = self.posterior.sample(variables, noise)
        reconstruction = self.decoders.decode(z)
        error = (x[:, None] - reconstruction).square().sum(dim=(2, 3, 4))
        return Explanation(error, self._energy(variables, z), reconstruction)

    def _energy(self, variables: Variables, z: Tensor) -> Tensor:
        return self.prior.energy(
            z, self.posterior.divergence(variables), self.networks.discriminators
        )

    @torch.no_grad()
    def _build_candidates(self, like: Tensor) -> None:
        """Draw, decode and charge the random candidates; none of it depends on the input."""
        settings, latent = self.settings, like.shape[2]
        rng = generator(settings.candidate_seed)
        draws = torch.randn((2, settings.candidates, latent), generator=rng)
        mean, noise = draws.to(like.device, like.dtype)
        if settings.candidate_score == "mean":
            noise = torch.zeros_like(noise)
        self._means = mean
        images, offsets = [], []
        for rows in torch.arange(settings.candidates).split(_DECODED_AT_ONCE):
            shape = (len(rows), self.classes, latent)
            variables = self.posterior.variables(
                mean[rows, None].expand(shape), torch.zeros(shape, device=mean.device)
            )
            z = self.posterior.sample(variables, noise[rows, None].expand(shape))
            image = self.decoders.decode(z).flatten(2).transpose(0, 1)
            images.append(image)
            offsets.append(self._energy(variables, z).t() + image.square().sum(dim=2))
        self._images = torch.cat(images, dim=1).flatten(0, 1)
        self._offsets = torch.cat(offsets, dim=1).flatten()

    @torch.no_grad()
    def _best_candidate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, K, d) and scores (N, K) of the best random candidates.

        |x - g|^2 = |x|^2 - 2 x.g + |g|^2: one matrix product scores all candidates of all classes.
        """
        flat = x.flatten(1)
        scores = torch.addmm(self._offsets, flat, self._images.t(), alpha=-2)
        best, index = scores.unflatten(1, (self.classes, -1)).min(dim=2)
        return self._means[index], best + flat.square().sum(dim=1, keepdim=True)
