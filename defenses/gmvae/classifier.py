"""A variational autoencoder with one Gaussian per class that may refuse (Ghosh et al. 2019)."""

from typing import final

import torch
from torch import Generator, Tensor
from torch.nn import functional

from defenses.base import Decision, Defense, Surrogate, Task, Terms, log_margin, never_rejects
from defenses.gmvae.networks import Decoder, Encoder
from defenses.gmvae.rejection import Rejection, require_coverage
from defenses.memory_format import channels_last


@final
class GMVAE(Defense):
    """Classifies by the nearest mean, refuses what is far from it or badly reconstructed.

    Surrogates: ``end_to_end`` knows the decoder and both thresholds; ``encoder`` is the encoder
    alone, which never rejects: what the paper's own FGSM, PGD and MIM attacked.

    Args:
        task: image shape and number of classes.
        latent: d, at least the number of classes; the means are one-hot, padded with zeros.
        weight: alpha of Eq. 7; scales the logits, which are log responsibilities up to a constant.
        coverage: share of held-out images to accept; None keeps the paper's thresholds.
        learns_variance: see `Encoder`.
        variance: of the mixture components when images are generated: the fixed encoder noise.
    """

    can_reject = True
    surrogate_names = ("end_to_end", "encoder")

    def __init__(
        self,
        task: Task,
        *,
        latent: int,
        weight: float,
        coverage: float | None = None,
        learns_variance: bool = False,
        variance: float = 0.0,
    ) -> None:
        super().__init__()
        require_coverage(coverage)
        if latent < task.num_classes:
            raise ValueError(
                f"latent must be at least the number of classes, {task.num_classes}, got {latent}"
            )
        self.num_classes = task.num_classes
        self.weight = weight
        self.coverage = coverage
        self.variance = variance
        self.encoder = Encoder(task.shape, latent, learns_variance=learns_variance)
        self.decoder = Decoder(task.shape, latent)
        padded = functional.pad(torch.eye(task.num_classes), (0, latent - task.num_classes))
        self.rejection = Rejection(padded)
        channels_last(self)

    def logits(self, z: Tensor) -> Tensor:
        """-alpha ||z - mu_k||^2 (N, K): the argmax is the nearest mean."""
        offset = z[:, None] - self.rejection.means
        logits: Tensor = -self.weight * offset.square().sum(dim=2)
        return logits

    def errors(self, x: Tensor, z: Tensor) -> Tensor:
        """Squared reconstruction errors (N,), summed over pixels, of the latents (N, d)."""
        error: Tensor = (x - self.decoder(z)).flatten(1).square().sum(dim=1)
        return error

    def scores(self, x: Tensor, z: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Both distances (N,), each divided by its threshold."""
        tau_enc, tau_dec = self.rejection.thresholds(self.coverage)
        return {
            "encoder": self.rejection.distances(z, classes) / tau_enc,
            "decoder": self.errors(x, z) / tau_dec,
        }

    def terms(self, x: Tensor, wanted: Tensor, *, printed: bool = False) -> Terms:
        """See `Thresholded.terms`: gaps in squared latent distance; encoder's and decoder's scores.

        Every call counts as a forward pass, and as a backward pass where gradients flow.
        """
        z = self.encoder(self.cost.watched(x))
        distances = (z[:, None] - self.rejection.means).square().sum(dim=2)
        own = distances.gather(1, wanted[:, None]).squeeze(1)
        others = distances.scatter(1, wanted[:, None], torch.inf).amin(dim=1)
        tau_enc, tau_dec = self.rejection.thresholds(self.coverage)
        encoder = self.rejection.distances(z, wanted, printed=printed) / tau_enc
        return Terms(own - others, torch.stack([encoder, self.errors(x, z) / tau_dec], dim=1))

    @torch.no_grad()
    def explain(self, x: Tensor, rng: Generator) -> Tensor:
        """See `Explains.explain`: g(f(x)), which the decoder's threshold compares with x."""
        explained: Tensor = self.decoder(self.encoder(x))
        return explained

    def encode(self, x: Tensor) -> Tensor:
        """See `Decodes.encode`: f(x)."""
        z: Tensor = self.encoder(x)
        return z

    def embed(self, x: Tensor) -> Tensor:
        """See `Embeds.embed`: f(x), counted as a forward pass and as a backward pass."""
        z: Tensor = self.encoder(self.cost.watched(x))
        return z

    def decode(self, z: Tensor) -> Tensor:
        """See `Decodes.decode`: g(z), counted."""
        self.cost.decoder += len(z)
        image: Tensor = self.decoder(z)
        return image

    def classify(self, x: Tensor) -> Tensor:
        """See `Decodes.classify`: the logits without thresholds."""
        return self.logits(self.encoder(x))

    @torch.no_grad()
    def generate(self, classes: Tensor, rng: Generator) -> Tensor:
        """See `Generates.generate`: g(mu_k + e), e of the fixed variance."""
        means = self.rejection.means[classes]
        noise = torch.randn(means.shape, generator=rng).to(means)
        generated: Tensor = self.decoder(means + self.variance**0.5 * noise)
        return generated

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        z = self.encoder(x)
        logits = self.logits(z)
        scores = self.scores(x, z, logits.argmax(dim=1))
        return Decision(logits, refused(scores), scores)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return self._end_to_end if name == "end_to_end" else self._encoder_alone

    def _end_to_end(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        logits = self.logits(z)
        return logits, log_margin(self.scores(x, z, logits.argmax(dim=1)))

    def _encoder_alone(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits(self.encoder(x)), never_rejects(x)


def refused(scores: dict[str, Tensor]) -> Tensor:
    """(N,) bool: some score is above 1, or not a number."""
    return ~(torch.stack(list(scores.values())) <= 1).all(dim=0)
