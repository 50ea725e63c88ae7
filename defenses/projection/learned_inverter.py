"""A learned inverter: the stand-in of the combined attack (Jalal et al. 2017, section 4.2.3).

A target that searches its decoder's range has no useful gradient. Here an encoder learns from its
answers where the search ends, and C(G(E(x))) can be differentiated.
"""

import math
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from defenses.base import (
    Decision,
    Decodes,
    Defense,
    Explains,
    InnerAttack,
    Learner,
    Surrogate,
    Task,
    accepts_all,
    never_rejects,
)
from defenses.inquiry import Inquiry, Transcript, to_bytes, to_pixels
from defenses.memory_format import channels_last
from defenses.purification.networks import Encoder, bottom
from defenses.randomness import child
from defenses.substitutes import decaying_adam


@runtime_checkable
class Projects(Explains, Decodes, Protocol):
    """A defense that decides by the point G(z) of its decoder's range that it explains x by.

    Attributes:
        latent: d, of z.
    """

    latent: int


@final
class LearnedInverter(Defense):
    """C(G(E(x))): the target's own decoder and classifier behind a learned encoder.

    Defense-VAE's encoder (the paper says "a convolutional neural network") with one linear head.

    Args:
        task: image shape and number of classes.
        target: holds G and C, which stay as they are.

    Raises:
        ValueError: a target without a decoder, or images of odd sides.
    """

    surrogate_names = ("end_to_end",)

    def __init__(self, task: Task, target: Defense) -> None:
        super().__init__()
        self.num_classes = task.num_classes
        self.target = target
        features = Encoder(task.shape).features
        head = nn.Linear(math.prod(bottom(task.shape)), self.projecting.latent)
        self.encoder = channels_last(nn.Sequential(features, head))

    @property
    def projecting(self) -> Projects:
        """The target."""
        if not isinstance(self.target, Projects):
            raise ValueError(
                "target must explain images by a decoder with a known number of latents, got "
                f"{type(self.target).__name__}; name one that projects, such as 'inc'"
            )
        return self.target

    def project(self, x: Tensor) -> Tensor:
        """G(E(x)): images (N, C, H, W) in [0, 1]; differentiable."""
        return self.projecting.decode(self.encoder(x))

    @torch.no_grad()
    def explain(self, x: Tensor, rng: Generator) -> Tensor:
        """See `Explains.explain`: what the target's projection is taken to be."""
        return self.project(x)

    def logits(self, x: Tensor) -> Tensor:
        """(N, K); differentiable."""
        return self.projecting.classify(self.project(x))

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.logits(x))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.logits(x), never_rejects(x))


@final
@dataclass(frozen=True, kw_only=True)
class InverterImitation(Inquiry):
    """An encoder trained to imitate the target's projection; the target is contained.

        L = mean_i ||G(E(x_i)) - G(z*(x_i))||^2,    summed over pixels

    The paper states no loss. Images are compared and not latents: several latents may draw the
    same image, and only the image is classified. An answer is one explanation, kept as bytes.
    """

    def build(self, task: Task) -> LearnedInverter:
        """An untrained encoder before an untrained target.

        Raises:
            ValueError: see `LearnedInverter`; or a target that may reject.
        """
        return LearnedInverter(task, self.target.build(task))

    def ask(self, target: Defense, x: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """See `Inquiry.ask`: G(z*(x)) as bytes (n, C, H, W); a search that ended in NaN is none."""
        if not isinstance(target, Projects):
            raise ValueError(
                f"target must explain images, got {type(target).__name__}; name one such as 'inc'"
            )
        found = target.explain(x, rng)
        return to_bytes(found.nan_to_num()), found.flatten(1).isfinite().all(dim=1)

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Adam on the encoder."""
        if not isinstance(defense, LearnedInverter):
            raise ValueError(f"defense must be a LearnedInverter, got {type(defense).__name__}")
        adam = decaying_adam(defense.encoder, self.learning_rate, self.decay)
        return InverterLearner(defense, self.transcript(attack), self.batch_size, adam)


@final
class InverterLearner(Learner):
    """An update asks about the next images and passes once over all that were asked.

    Args:
        defense: the encoder, and the trained target.
        transcript: of the target.
        batch_size: images per step.
        adam: of the encoder.
    """

    def __init__(
        self,
        defense: LearnedInverter,
        transcript: Transcript,
        batch_size: int,
        adam: torch.optim.Adam,
    ) -> None:
        self.defense = defense
        self.transcript = transcript
        self.batch_size = batch_size
        self.optimizers = (adam,)

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One round on all images to ask about; ``y`` plays no part."""
        self.transcript.go_on(self.defense.target, x, child(rng, "questions"))
        loss = x.new_zeros(())
        for points, answers in self.transcript.batches(self.batch_size, x.device, rng):
            loss = self._fit(points, to_pixels(answers))
        return {"squared error": loss}

    def _fit(self, points: Tensor, projections: Tensor) -> Tensor:
        apart = (self.defense.project(points) - projections).square().flatten(1).sum(dim=1)
        loss, (adam,) = apart.mean(), self.optimizers
        weights = list(self.defense.encoder.parameters())
        gradients = torch.autograd.grad(loss, weights)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient  # and none for the target
        adam.step()
        return loss.detach()

    def memory(self) -> dict[str, Tensor]:
        """What was asked so far, and the projections."""
        return self.transcript.memory()

    def recall(self, memory: dict[str, Tensor]) -> None:
        """See `Learner.recall`."""
        self.transcript.recall(memory)

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """The deployed answer: there is no other."""
        return self.defense.logits(x).argmax(dim=1) == y
