"""A classifier that sees of an image only what a generator can draw."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Generator, Tensor

from defenses.base import Decision, Defense, Surrogate
from defenses.projection.generator import EncodingModel, GenerativeModel
from defenses.randomness import generator

CLASSIFIER = "classifier"
"""The surrogate that is the bare classifier: what the paper attacked."""


class Projecting(Defense, ABC):
    """C(G(z)) for a latent z of the image.

    Args:
        classifier: C; it must answer every image.
        model: G.
    """

    def __init__(self, classifier: Defense, model: GenerativeModel) -> None:
        super().__init__()
        self.num_classes = classifier.num_classes
        self.latent = model.latent
        self.classifier = classifier
        self.generator = model

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """See `Decodes.encode`."""

    @final
    def decode(self, z: Tensor) -> Tensor:
        """See `Decodes.decode`; every call counts as one of the decoder."""
        self.cost.decoder += len(z)
        image: Tensor = self.generator.decode(z)
        return image

    @final
    def classify(self, x: Tensor) -> Tensor:
        """See `Decodes.classify`: the classifier's strongest view, always with the same seed.

        Counts as a forward pass, and as a backward pass where gradients flow.
        """
        logits, _ = self.classifier.surrogate(None, generator(0))(self.cost.watched(x))
        return logits


@final
class Autoencoding(Projecting):
    """C(G(E(x))): autoencode-and-classify (Jalal et al. 2017, appendix A).

    Surrogates: ``end_to_end`` differentiates all of it, which is the paper's own attack (Eq. 12);
    ``classifier`` is C alone.

    Args:
        classifier: see `Projecting`.
        model: G and E.
    """

    surrogate_names = ("end_to_end", CLASSIFIER)

    def __init__(self, classifier: Defense, model: EncodingModel) -> None:
        super().__init__(classifier, model)
        self.stochastic = classifier.stochastic
        self._encoding = (model,)  # in a tuple: it is registered above, as the generator

    def encode(self, x: Tensor) -> Tensor:
        """The encoder's mean."""
        return self._encoding[0].encode(x)

    @torch.no_grad()
    def explain(self, x: Tensor, rng: Generator) -> Tensor:
        """See `Explains.explain`: the autoencoded image."""
        return self.decode(self.encode(x))

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return self.classifier.decide(self.decode(self.encode(x)), rng)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        alone = self.classifier.surrogate(None, rng)
        if name == CLASSIFIER:
            return alone
        return lambda x: alone(self.decode(self.encode(x)))
