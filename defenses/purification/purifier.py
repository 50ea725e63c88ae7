"""A classifier that sees images only after an autoencoder has cleaned them."""

from typing import final

import torch
from torch import Generator, Tensor

from defenses.base import Decision, Defense, Surrogate, Task
from defenses.memory_format import channels_last
from defenses.purification.networks import LATENT, Decoder, Encoder
from defenses.randomness import generator


@final
class Purifier(Defense):
    """C(G(E(x))): what Defense-VAE and MAD-VAE deploy, z the encoder's mean.

    Surrogates: ``end_to_end`` differentiates all of it; ``classifier`` is C alone, which both
    papers attacked and handed the result to the purifier.

    Args:
        task: image shape and number of classes.
        classifier: C as it was attacked in training; it must answer every image.
        answered_by: what classifies the purified images in its place, in decisions and views.
    """

    surrogate_names = ("end_to_end", "classifier")

    def __init__(
        self, task: Task, classifier: Defense, *, answered_by: Defense | None = None
    ) -> None:
        super().__init__()
        self.num_classes = task.num_classes
        self.latent = LATENT
        self.encoder = Encoder(task.shape, LATENT)
        self.decoder = Decoder(task.shape, LATENT)
        self.classifier = classifier
        self.answered_by = answered_by
        self.stochastic = self.answering.stochastic
        channels_last(self)

    @property
    def answering(self) -> Defense:
        """What classifies the purified images."""
        return self.classifier if self.answered_by is None else self.answered_by

    def purify(self, x: Tensor) -> Tensor:
        """G(E(x)): images (N, C, H, W) in [0, 1]."""
        purified: Tensor = self.decoder(self.encoder(x))
        return purified

    def encode(self, x: Tensor) -> Tensor:
        """See `Decodes.encode`: the encoder's mean."""
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """See `Decodes.decode`; every call counts as one of the decoder."""
        self.cost.decoder += len(z)
        image: Tensor = self.decoder(z)
        return image

    def classify(self, x: Tensor) -> Tensor:
        """See `Decodes.classify`: the classifier's strongest view, always with the same seed.

        Counts as a forward pass, and as a backward pass where gradients flow.
        """
        logits, _ = self.answering.surrogate(None, generator(0))(self.cost.watched(x))
        return logits

    @torch.no_grad()
    def explain(self, x: Tensor, rng: Generator) -> Tensor:
        """See `Explains.explain`: the purified image."""
        return self.purify(x)

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return self.answering.decide(self.purify(x), rng)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        alone = self.answering.surrogate(None, rng)
        if name == "classifier":
            return alone
        return lambda x: alone(self.purify(x))
