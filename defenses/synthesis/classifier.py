"""The deployed analysis-by-synthesis classifier: the class that explains the image best."""

from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Generator, Tensor, nn

from defenses.base import Decision, Defense, Surrogate, accepts_all, never_rejects
from defenses.randomness import noise_like_rows
from defenses.synthesis.certificate import certified_radius
from defenses.synthesis.decoders import ClassDecoders
from defenses.synthesis.encoding import Encoding
from defenses.synthesis.frozen import FrozenDecoders
from defenses.synthesis.inference import (
    Explanation,
    InferenceSettings,
    LatentInference,
    Latents,
    Model,
)
from defenses.synthesis.posterior import PointPosterior, Posterior, gaussian_divergence
from defenses.synthesis.prior import Discriminators, GaussianPrior, Prior
from defenses.synthesis.unrolling import UNROLLED_STEPS, EncoderProposal, UnrolledInference

_ROWS_AT_ONCE = 64


@final
class SynthesisClassifier(Defense):
    """ABS and E-ABS: logits are -l_k(x), the negative scores of Eq. 6.

    Surrogates: ``fixed_latent`` is Eq. 8, exact where the inner optimum is (`_FixedLatent`);
    ``unrolled`` differentiates the search for the latents as well and so sees how to make it fail
    (`UnrolledInference`); ``encoder_proposal`` is the score at the encoder's own latents, where the
    search may begin (`EncoderProposal`). The deployed defense always searches in full.

    Args:
        encoding: where the encoder's candidate comes from.
        posterior: what inference optimises.
        prior: what a latent is charged.
        settings: the budget of inference.
        refine_steps: latent steps per query of the `fixed_latent` surrogate after its first.
        follow_radius: L2 distance from the query before beyond which latents are inferred afresh.
        encoders: networks of ``encoding``.
        decoders: one per class.
        discriminators: networks of an adversarial prior, else None.
        unrolled_steps: last latent steps that the `unrolled` surrogate differentiates. It is no
            field of the recipe: no answer of the deployed defense depends on it.
    """

    surrogate_names = ("fixed_latent", "unrolled", "encoder_proposal")

    def __init__(
        self,
        *,
        encoding: Encoding,
        posterior: Posterior,
        prior: Prior,
        settings: InferenceSettings,
        refine_steps: int,
        follow_radius: float,
        encoders: nn.Module,
        decoders: ClassDecoders,
        discriminators: Discriminators | None,
        unrolled_steps: int = UNROLLED_STEPS,
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.posterior = posterior
        self.prior = prior
        self.settings = settings
        self.refine_steps = refine_steps
        self.follow_radius = follow_radius
        self.encoders = encoders
        self.decoders = decoders
        self.discriminators = discriminators
        self.unrolled_steps = unrolled_steps
        self.num_classes = decoders.num_classes
        self.stochastic = posterior.stochastic
        self.latent = decoders.latent
        self._inference: tuple[object, LatentInference] | None = None

    def explain(self, x: Tensor, rng: Generator) -> Explanation:
        """Full inference: search, all latent steps, one fresh sample (E-ABS, section 3.3)."""
        noise = self._noise(x, rng, self.settings.latent_steps + 2)
        parts = [
            self._infer(rows, draws)[1]
            for rows, draws in zip(x.split(_ROWS_AT_ONCE), noise.split(_ROWS_AT_ONCE), strict=True)
        ]
        return Explanation(
            torch.cat([part.error for part in parts]),
            torch.cat([part.energy for part in parts]),
            torch.cat([part.reconstruction for part in parts]),
        )

    def reconstruct(self, x: Tensor, rng: Generator) -> Tensor:
        """(N, K, C, H, W): each class's best reconstruction."""
        return self.explain(x, rng).reconstruction

    def suggested(self, x: Tensor) -> Tensor:
        """(N,) the best class at the encoder's own latents, without any search: training's view."""
        mean, log_variance = self.encoding.propose(self.encoders, x, self.num_classes)
        images = torch.stack(
            [self.decoders.decode(k, mean[:, k]) for k in range(self.num_classes)], dim=1
        )
        error = (x[:, None] - images).square().sum(dim=(2, 3, 4))
        divergence = gaussian_divergence(mean, log_variance)
        return (error + self.prior.energy(mean, divergence, self.discriminators)).argmin(dim=1)

    def certificate(self, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """Estimated certified L2 radius (N,), 0 where the class is wrong (E-ABS, Eq. 7 corrected).

        It holds for exact inference: the minimum over latents is found by search here, which can
        only overestimate the distance to another class, so this is an estimate and no proof.
        """
        with_prior = self._exactly(self.prior, x, rng)
        without = self._exactly(GaussianPrior(beta=0.0), x, rng)
        distance = torch.minimum(with_prior.error, without.error).sqrt()
        return certified_radius(distance, with_prior.score, with_prior.error.sqrt(), y)

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        if len(x) == 0:
            return accepts_all(x.new_zeros((0, self.num_classes)))
        return accepts_all(-self.explain(x, rng).score)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        match name:
            case "unrolled":
                noise = partial(self._noise, rng=rng, slices=self.settings.latent_steps + 2)
                return UnrolledInference(self.inference(), noise, self.unrolled_steps)
            case "encoder_proposal":
                return EncoderProposal(self.inference(), partial(self._noise, rng=rng, slices=1))
            case _:
                return _FixedLatent(self, rng)

    def _noise(self, x: Tensor, rng: Generator, slices: int) -> Tensor:
        """(N, slices, K, d), each row a function of its image; zeros where nothing is random."""
        shape = (slices, self.num_classes, self.latent)
        if not self.stochastic:
            return x.new_zeros(1).expand(len(x), *shape)
        return noise_like_rows(rng, x, shape)

    def _infer(self, x: Tensor, noise: Tensor) -> tuple[Latents, Explanation]:
        inference = self.inference()
        latents = inference.search(x, noise[:, 0])
        inference.refine(latents, x, noise[:, 1:-1])
        return latents, inference.explain(x, latents.variables, noise[:, -1])

    def _exactly(self, prior: Prior, x: Tensor, rng: Generator) -> Explanation:
        """This model's explanation under another prior, with a point in place of a distribution."""
        exact = SynthesisClassifier(
            encoding=self.encoding,
            posterior=PointPosterior(),
            prior=prior,
            settings=self.settings,
            refine_steps=self.refine_steps,
            follow_radius=self.follow_radius,
            encoders=self.encoders,
            decoders=self.decoders,
            discriminators=self.discriminators,
        )
        return exact.train(self.training).explain(x, rng)

    def inference(self) -> LatentInference:
        """The folded model and its decoded candidates, rebuilt when a weight has changed."""
        if self.training:
            raise ValueError(
                "a synthesis defense must be in evaluation mode to infer, got training mode; "
                "call eval() first"
            )
        tensors = [*self.parameters(), *self.buffers()]
        state = tuple((id(tensor), tensor.device, tensor._version) for tensor in tensors)
        if self._inference is None or self._inference[0] != state:
            model = Model(
                decoders=FrozenDecoders(self.decoders, self.cost),
                encoding=self.encoding,
                encoders=self.encoders,
                prior=self.prior,
                discriminators=self.discriminators,
                posterior=self.posterior,
            )
            self._inference = (state, LatentInference(model, self.settings))
        return self._inference[1]


@dataclass
class _FixedLatent:
    """Eq. 8: scores differentiated in x with the inferred latents held fixed.

    Full inference answers the first query of an attack run; later queries move the latents of the
    query before by a few steps. A repeated point is answered from memory. Where an attack jumps (a
    new binary search, a long first step) a few steps would leave the true class's latents behind
    and show a break that is none, so latents of images that moved far are inferred afresh.
    """

    defense: SynthesisClassifier
    rng: Generator
    latents: Latents | None = None
    last: Tensor | None = None
    explanation: Explanation | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        explanation = self._explain(x.detach())
        error = (x[:, None] - explanation.reconstruction).square().sum(dim=(2, 3, 4))
        return -(error + explanation.energy), never_rejects(x)

    def _explain(self, x: Tensor) -> Explanation:
        known = self.explanation
        if known is not None and self.last is not None and torch.equal(x, self.last):
            return known
        defense, latents = self.defense, self.latents
        if latents is None or self.last is None or len(self.last) != len(x):
            noise = defense._noise(x, self.rng, defense.settings.latent_steps + 2)
            self.latents, explanation = defense._infer(x, noise)
        else:
            far = ((x - self.last).flatten(1).norm(dim=1) > defense.follow_radius).nonzero()
            if len(far):
                rows = far.squeeze(1)
                noise = defense._noise(x[rows], self.rng, defense.settings.latent_steps + 2)
                latents.adopt(rows, defense._infer(x[rows], noise)[0])
            noise = defense._noise(x, self.rng, defense.refine_steps + 1)
            inference = defense.inference()
            inference.refine(latents, x, noise[:, :-1])
            explanation = inference.explain(x, latents.variables, noise[:, -1])
        self.last, self.explanation = x.clone(), explanation
        return explanation
