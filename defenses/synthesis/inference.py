"""Inference by synthesis: for each class the latent that explains the image best (E-ABS, Eq. 6)."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from defenses.randomness import generator
from defenses.synthesis.encoding import Encoding
from defenses.synthesis.posterior import Posterior, Variables
from defenses.synthesis.prior import Discriminators, Prior

_DECODED_AT_ONCE = 500
_MOMENTS = {"exp_avg", "exp_avg_sq"}


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


class Decoders(Protocol):
    """K frozen decoders of d latent dimensions (`FrozenDecoders`)."""

    classes: int
    latent: int
    device: torch.device

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, K, C, H, W) of the latents z (N, K, d), differentiable in them."""
        ...

    def error_and_gradient(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """|x - G_k(z)|^2 (N, K) and its gradient in z (N, K, d)."""
        ...


@dataclass(frozen=True)
class Model:
    """What inference needs of a trained member of the family."""

    decoders: Decoders
    encoding: Encoding
    encoders: nn.Module
    prior: Prior
    discriminators: Discriminators | None
    posterior: Posterior


@dataclass
class Latents:
    """A batch's variables between steps, with their optimiser's memory."""

    variables: Variables
    optimizer: torch.optim.Adam

    @torch.no_grad()
    def adopt(self, rows: Tensor, fresh: "Latents") -> None:
        """Replace these rows (indices), and what the optimiser remembers of them, in place."""
        for mine, other in zip(self.variables, fresh.variables, strict=True):
            mine[rows] = other
            memory, others = self.optimizer.state[mine], fresh.optimizer.state[other]
            for name in _MOMENTS & memory.keys() & others.keys():
                memory[name][rows] = others[name]


@dataclass(frozen=True)
class Start:
    """Where the latent steps begin.

    Args:
        mean: (N, K, d).
        log_variance: (N, K, d).
        suggested: (N, K, 1) bool: it is the encoder's own candidate.
    """

    mean: Tensor
    log_variance: Tensor
    suggested: Tensor


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

    def __init__(self, model: Model, settings: InferenceSettings) -> None:
        self.model = model
        self.settings = settings
        self._build_candidates()

    def search(self, x: Tensor, noise: Tensor) -> Latents:
        """The best of the random candidates and the encoder's, per image and class.

        Args:
            x: images (N, C, H, W).
            noise: (N, K, d), for the encoder's candidate.
        """
        return self.begin(self.start(x, noise))

    @torch.no_grad()
    def start(self, x: Tensor, noise: Tensor) -> Start:
        """What `search` finds."""
        mean, error = self._best_candidate(x)
        log_variance = torch.zeros_like(mean)
        proposal = self.propose(x)
        suggested = self.explain(x, self.model.posterior.variables(*proposal), noise)
        better = (suggested.score < error)[:, :, None]
        return Start(
            torch.where(better, proposal[0], mean),
            torch.where(better, proposal[1], log_variance),
            better,
        )

    def begin(self, start: Start) -> Latents:
        """Fresh variables and an optimiser without a past."""
        variables = self.model.posterior.variables(start.mean, start.log_variance)
        return Latents(variables, torch.optim.Adam(variables, lr=self.settings.latent_rate))

    def propose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (N, K, d) that the encoders suggest, differentiable in ``x``."""
        model = self.model
        return model.encoding.propose(model.encoders, x, model.decoders.classes)

    def refine(self, latents: Latents, x: Tensor, noise: Tensor) -> None:
        """One Adam step on Eq. 6 per slice of the noise (N, steps, K, d), in place."""
        for step in range(noise.shape[1]):
            with torch.enable_grad():
                z = self.model.posterior.sample(latents.variables, noise[:, step])
                energy = self._energy(latents.variables, z)
            _, gradient = self.model.decoders.error_and_gradient(x, z.detach())
            latents.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward([z, energy], [gradient, torch.ones_like(energy)])
            latents.optimizer.step()

    @torch.no_grad()
    def explain(self, x: Tensor, variables: Variables, noise: Tensor) -> Explanation:
        """The score at one sample of the variables, for noise (N, K, d)."""
        return self.explained(x, variables, noise)

    def explained(self, x: Tensor, variables: Variables, noise: Tensor) -> Explanation:
        """`explain`, differentiable in images and variables."""
        z = self.model.posterior.sample(variables, noise)
        reconstruction = self.model.decoders.decode(z)
        error = (x[:, None] - reconstruction).square().sum(dim=(2, 3, 4))
        return Explanation(error, self._energy(variables, z), reconstruction)

    def _energy(self, variables: Variables, z: Tensor) -> Tensor:
        divergence = self.model.posterior.divergence(variables)
        return self.model.prior.energy(z, divergence, self.model.discriminators)

    @torch.no_grad()
    def _build_candidates(self) -> None:
        """Draw, decode and charge the random candidates; none of it depends on the input."""
        settings, decoders = self.settings, self.model.decoders
        shape = (2, settings.candidates, decoders.latent)
        mean, noise = torch.randn(shape, generator=generator(settings.candidate_seed)).to(
            decoders.device
        )
        if settings.candidate_score == "mean":
            noise = torch.zeros_like(noise)
        shape = (settings.candidates, decoders.classes, decoders.latent)
        variables = self.model.posterior.variables(
            mean[:, None].expand(shape), mean.new_zeros(()).expand(shape)
        )
        z = self.model.posterior.sample(variables, noise[:, None].expand(shape))
        offsets = self._energy(variables, z).t().contiguous()
        images: Tensor | None = None
        for first in range(0, settings.candidates, _DECODED_AT_ONCE):
            rows = slice(first, first + _DECODED_AT_ONCE)
            decoded = decoders.decode(z[rows]).flatten(2).transpose(0, 1)
            if images is None:  # allocated once: the candidates are the model's largest tensor
                images = decoded.new_empty(
                    (decoders.classes, settings.candidates, decoded.shape[2])
                )
            images[:, rows] = decoded
            offsets[:, rows] += decoded.square().sum(dim=2)
        if images is None:
            raise ValueError(f"candidates must be at least 1, got {settings.candidates}")
        self._means = mean
        self.candidate_images = images.flatten(0, 1)
        self._offsets = offsets.flatten()

    @torch.no_grad()
    def _best_candidate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, K, d) and scores (N, K) of the best random candidates.

        |x - g|^2 = |x|^2 - 2 x.g + |g|^2: one matrix product scores all candidates of all classes.
        """
        flat = x.flatten(1)
        scores = torch.addmm(self._offsets, flat, self.candidate_images.t(), alpha=-2)
        best, index = scores.unflatten(1, (self.model.decoders.classes, -1)).min(dim=2)
        return self._means[index], best + flat.square().sum(dim=1, keepdim=True)
