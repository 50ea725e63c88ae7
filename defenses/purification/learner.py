"""One update of a purifier: reconstruction, divergence, and MAD-VAE's three additions."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import final

import torch
from torch import Generator, Tensor
from torch.nn import functional

from defenses.base import Learner
from defenses.purification.losses import Centres, divergence, draw_centres, reconstruction
from defenses.purification.networks import LATENT, Spread
from defenses.purification.purifier import Purifier
from defenses.randomness import generator


class Reduction(StrEnum):
    """How per-pixel cross-entropies and per-dimension divergences become one number."""

    MEAN = "mean"
    SUM = "sum"

    def of(self, values: Tensor) -> Tensor:
        """Over everything, the batch included."""
        return values.mean() if self is Reduction.MEAN else values.sum()


class Clusters(StrEnum):
    """Whose centres the proximity and the distance loss mean.

    The paper's c_i are the same in both. Its public code draws two sets: one attracts latents, the
    other repels them, attracts nothing and so says nothing about where a class is.
    """

    SHARED = "shared"
    SEPARATE = "separate"


@dataclass(frozen=True)
class Loss:
    """The weights of the terms.

        L = L_r + divergence KL + classification L_c + proximity L_p - distance L_d

    Args:
        reduction: of L_r and KL; L_c, L_p and L_d are means over images.
        divergence: beta.
        classification: gamma (alpha in section 2.2.1); 0 leaves it out, and so below.
        proximity: alpha of section 2.2.2.
        distance: sigma.
        clusters: see `Clusters`.
        spread: see `Spread`.
    """

    reduction: Reduction
    divergence: float
    classification: float
    proximity: float
    distance: float
    clusters: Clusters
    spread: Spread

    @property
    def clustered(self) -> bool:
        """Some term needs centres."""
        return self.proximity > 0 or self.distance > 0


@dataclass(frozen=True)
class Rates:
    """How fast everything is learned.

    Args:
        networks: Adam's initial rate.
        decay: of Adam's rate per epoch.
        least: below which Adam's rate does not fall.
        attracting: SGD's rate for centres that attract.
        repelling: SGD's rate for centres that only repel. Where one set does both, as in the paper,
            it moves by `attracting` along the gradient of the whole loss and this rate is unused:
            repulsion weighs a thousandth of attraction.
        centres_decay: of both SGD rates per epoch.
        clip: largest gradient norm, of the networks and of each set of centres; 0 does not clip.
    """

    networks: float
    decay: float
    least: float
    attracting: float
    repelling: float
    centres_decay: float
    clip: float


@final
class PurifierLearner(Learner):
    """Adam on encoder and decoder, SGD on class centres; the classifier stays as it is.

    Args:
        defense: the networks, and the trained classifier.
        loss: which terms with what weight.
        rates: of the optimisers.
    """

    def __init__(self, defense: Purifier, loss: Loss, rates: Rates) -> None:
        self.defense = defense
        self.loss = loss
        self.clip = rates.clip
        self.centres: Centres | None = None
        networks = [*defense.encoder.parameters(), *defense.decoder.parameters()]
        group = {"params": networks, "decay": rates.decay, "least": rates.least}
        self.clipped: list[list[torch.nn.Parameter]] = [networks]
        self.optimizers = (torch.optim.Adam([group], lr=rates.networks),)
        if loss.clustered:
            shared = loss.clusters is Clusters.SHARED
            device = networks[0].device
            self.centres = draw_centres(defense.num_classes, LATENT, shared=shared).to(device)
            for parameter, rate in zip(
                self.centres.parameters(), (rates.attracting, rates.repelling), strict=False
            ):
                centres = {"params": [parameter], "decay": rates.centres_decay}
                self.optimizers += (torch.optim.SGD([centres], lr=rate),)
                self.clipped.append([parameter])

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One step on clean images, which are their own targets (the identity VAE)."""
        return self.restore(x, x, y, rng)

    def restore(
        self, adversarial: Tensor, clean: Tensor, y: Tensor, rng: Generator
    ) -> dict[str, Tensor]:
        """See `Restores.restore`; the latent is a sample, as in any VAE."""
        weights, decoder = self.loss, self.defense.decoder
        mean, head = self.defense.encoder.heads(adversarial)
        deviation = weights.spread.deviation(head)
        noise = torch.randn(mean.shape, generator=rng).to(mean)
        z = mean + deviation * noise
        drawn = decoder.logits(z)
        terms = {"reconstruction": (1.0, weights.reduction.of(reconstruction(drawn, clean)))}
        if weights.divergence:
            kl = weights.reduction.of(divergence(mean, deviation))
            terms["divergence"] = (weights.divergence, kl)
        if weights.classification:
            logits = self.defense.classify(torch.sigmoid(drawn))
            terms["classification"] = (weights.classification, functional.cross_entropy(logits, y))
        if self.centres is not None:
            terms["proximity"] = (weights.proximity, self.centres.proximity(z, y))
            terms["distance"] = (-weights.distance, self.centres.distance(z, y))
        self._step(torch.stack([weight * value for weight, value in terms.values()]).sum())
        return {name: value.detach() for name, (_, value) in terms.items()}

    def _step(self, loss: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        parameters = list(chain.from_iterable(self.clipped))
        for parameter, gradient in zip(
            parameters,
            torch.autograd.grad(loss, parameters, allow_unused=True),
            strict=True,
        ):
            parameter.grad = gradient  # and none for the classifier
        if self.clip:
            for group in self.clipped:
                torch.nn.utils.clip_grad_norm_(group, self.clip)
        for optimizer in self.optimizers:
            optimizer.step()

    def memory(self) -> dict[str, Tensor]:
        """The centres."""
        return {} if self.centres is None else self.centres.state_dict()

    def recall(self, memory: dict[str, Tensor]) -> None:
        """See `Learner.recall`."""
        if self.centres is not None:
            self.centres.load_state_dict(memory)

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """The class of the purified clean image."""
        defense = self.defense
        decided = defense.classifier.decide(defense.purify(x), generator(0))
        return decided.classes == y
