"""How GMVAEs are trained: Eq. 7 where labels are known, the mixture where they are not."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from defenses.base import (
    UNLABELLED,
    Defense,
    InnerAttack,
    Labelled,
    Learner,
    Recipe,
    Task,
)
from defenses.gmvae.classifier import GMVAE
from defenses.gmvae.rejection import Spread, require_coverage

_PADDED_LATENT = 32


@final
@dataclass(frozen=True, kw_only=True)
class GaussianMixtureVAE(Recipe):
    """A GMVAE; sums over pixels and latent dimensions, means over images.

    Args:
        weight: alpha of Eq. 7 (unstated).
        encoder_variance: of the noise added to the encoding, the fixed entropy (section 4: 1/3000
            on MNIST, "reduced as the latent dimensionality increases" elsewhere: see `variance`);
            0 takes the value for the task.
        learns_variance: the encoder learns its variance, per image and dimension (Figure 5).
        labels_per_class: images of each class whose label the learner sees, drawn at random; 0 is
            all of them (section 4: 100 for the semi-supervised model).
        labelled_per_batch: labelled images added to every batch where not all are (unstated).
        labelled_alone: updates before the mixture term of Eq. 3 counts (unstated). With it from the
            start, the unlabelled majority holds every encoding at one and the same mean.
        spread: whose training encodings a class's covariance is measured on.
        coverage: share of held-out images that are accepted; None is the paper's rule.
    """

    inference_fields = frozenset({"coverage"})
    blind_surrogates = frozenset({"encoder"})

    epochs: int = 100
    batch_size: int = 128
    halve_every: int = 20
    weight: float = 30.0
    encoder_variance: float = 0.0
    learns_variance: bool = False
    labels_per_class: int = 0
    labelled_per_batch: int = 32
    labelled_alone: int = 800
    spread: Spread = Spread.CLASS
    coverage: float | None = None

    def __post_init__(self) -> None:
        require_coverage(self.coverage)

    def visible(self, labels: Tensor, rng: Generator) -> Tensor:
        """See `Recipe.visible`.

        Raises:
            ValueError: a class with fewer images than are to be labelled.
        """
        if not self.labels_per_class:
            return labels
        seen = torch.full_like(labels, UNLABELLED)
        for k in labels.unique().tolist():
            own = (labels == k).nonzero().squeeze(1)
            if len(own) < self.labels_per_class:
                raise ValueError(
                    f"labels_per_class must be at most the {len(own)} training images of class "
                    f"{k}, got {self.labels_per_class}; lower it"
                )
            chosen = own[torch.randperm(len(own), generator=rng)[: self.labels_per_class]]
            seen[chosen] = k
        return seen

    def batches(self, labels: Tensor, rng: Generator) -> Iterator[Tensor]:
        """See `Recipe.batches`; a few hundred labels would be rare in them without a share."""
        known = (labels != UNLABELLED).nonzero().squeeze(1)
        for batch in super().batches(labels, rng):
            if len(known) == len(labels):
                yield batch
            else:
                drawn = torch.randint(len(known), (self.labelled_per_batch,), generator=rng)
                yield torch.cat([batch, known[drawn]])

    def variance(self, task: Task) -> float:
        """Of the encoding's noise: 1/3000 up to 10 dimensions, 1/5000 to 32, then 1/10000."""
        if self.encoder_variance:
            return self.encoder_variance
        latent = self.latent(task)
        return next(1 / parts for most, parts in _VARIANCES if latent <= most)

    @staticmethod
    def latent(task: Task) -> int:
        """The number of classes; for small colour images at least 32 (section 4)."""
        return max(task.num_classes, _PADDED_LATENT if task.shape[0] > 1 else 0)

    def build(self, task: Task) -> GMVAE:
        """Untrained networks for the task's image size, with thresholds that nobody measured."""
        return GMVAE(
            task,
            latent=self.latent(task),
            weight=self.weight,
            coverage=self.coverage,
            learns_variance=self.learns_variance,
            variance=self.variance(task),
        )

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Adam on encoder and decoder, then thresholds from the held-out images."""
        if not isinstance(defense, GMVAE):
            raise ValueError(f"defense must be a GMVAE, got {type(defense).__name__}")
        return GMVAELearner(
            defense,
            self.weight,
            self.variance(task),
            self.learning_rate,
            labelled_alone=self.labelled_alone,
            spread=self.spread,
        )


_VARIANCES = ((10, 3000), (32, 5000), (math.inf, 10_000))


@final
class GMVAELearner(Learner):
    """One update of Eq. 7 per batch, and of Eq. 3 on the images without a label.

        labelled     ||x - g(f(x) + e)||^2 + alpha ||f(x) - mu_y||^2
        unlabelled   ||x - g(f(x) + e)||^2 - log (1/K) sum_k exp(-alpha ||f(x) - mu_k||^2)

    With a learned variance s^2 the prior term is an expectation, alpha (||f(x) - mu||^2 + sum s^2),
    and the entropy that Eq. 7 drops returns as -alpha v sum log s^2, v the fixed variance: without
    a reconstruction the best s^2 is v. The mixture's part joins after `labelled_alone` updates.

    Args:
        defense: the networks.
        weight: alpha.
        variance: v, of the fixed encoder noise.
        learning_rate: Adam's.
        labelled_alone: see `GaussianMixtureVAE`.
        spread: for the covariances, in the end.
    """

    def __init__(
        self,
        defense: GMVAE,
        weight: float,
        variance: float,
        learning_rate: float,
        *,
        labelled_alone: int = 0,
        spread: Spread = Spread.CLASS,
    ) -> None:
        self.defense = defense
        self.weight = weight
        self.variance = variance
        self.labelled_alone = labelled_alone
        self.spread = spread
        networks = [*defense.encoder.parameters(), *defense.decoder.parameters()]
        self.optimizers = (torch.optim.Adam(networks, lr=learning_rate),)

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One Adam step; images labelled `UNLABELLED` are so treated."""
        encoder, decoder = self.defense.encoder, self.defense.decoder
        noise = torch.randn((len(x), self.defense.rejection.means.shape[1]), generator=rng)
        noise = noise.to(x.device)
        if encoder.log_variance is None:
            mean = encoder(x)
            z, spread = mean + self.variance**0.5 * noise, mean.new_zeros(len(x))
        else:
            mean, log_variance = encoder.moments(x)
            z = mean + (log_variance / 2).exp() * noise
            entropy = self.variance * log_variance.sum(dim=1)
            spread = self.weight * (log_variance.exp().sum(dim=1) - entropy)
        error = (x - decoder(z)).flatten(1).square().sum(dim=1)
        energies = -self.defense.logits(mean)
        known = y != UNLABELLED
        own = energies.gather(1, torch.where(known, y, 0)[:, None]).squeeze(1)
        mixture = math.log(energies.shape[1]) - torch.logsumexp(-energies, dim=1)
        if self._updates() < self.labelled_alone:
            mixture = torch.zeros_like(mixture)
        prior = torch.where(known, own, mixture) + spread
        loss = (error + prior).mean()
        (optimizer,) = self.optimizers
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"error": error.detach().mean(), "prior": prior.detach().mean()}

    def _updates(self) -> int:
        """Steps so far, as Adam counts them: its state survives a killed training."""
        (optimizer,) = self.optimizers
        states = list(optimizer.state.values())
        return int(states[0]["step"]) if states else 0

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """Right class, refused or not."""
        right: Tensor = self.defense.logits(self.defense.encoder(x)).argmax(dim=1) == y
        return right

    @torch.no_grad()
    def finish(self, training: Labelled, held_out: Labelled) -> None:
        """Covariances from training encodings, thresholds from held-out images.

        Where a training image has no label, the predicted class stands in for it.
        """
        defense = self.defense
        encodings, labels = [], []
        for x, y in training:
            z = defense.encoder(x)
            encodings.append(z)
            labels.append(torch.where(y == UNLABELLED, defense.logits(z).argmax(dim=1), y))
        defense.rejection.measure_covariances(torch.cat(encodings), torch.cat(labels), self.spread)
        distances, errors = [], []
        for x, _ in held_out:
            z = defense.encoder(x)
            distances.append(defense.rejection.distances(z, defense.logits(z).argmax(dim=1)))
            errors.append(defense.errors(x, z))
        defense.rejection.measure_scores(torch.cat(distances), torch.cat(errors))
