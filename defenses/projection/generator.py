"""What Invert-and-Classify asks of a generative model, and of how it is trained."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor, nn


class GenerativeModel(nn.Module, ABC):
    """G: latents (N, d) to images (N, C, H, W) in [0, 1], whatever range its networks work in.

    In evaluation mode an image is a function of its latent alone.

    Attributes:
        latent: d.
        prior_std: the prior of latents is N(0, prior_std^2) in each dimension.
    """

    prior_std: ClassVar[float] = 1.0

    latent: int

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of latents (N, d); differentiable."""


class EncodingModel(GenerativeModel):
    """A generative model with an encoder: E and G are approximate inverses of each other."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Latents (N, d) of images (N, C, H, W) in [0, 1]: the mean of Q(z|x); differentiable."""


class Fitting(Protocol):
    """A generative model being trained on images; its critic, if any, is a part of this."""

    optimizers: tuple[torch.optim.Optimizer, ...]
    """As `defenses.base.Learner.optimizers`."""

    def update(self, x: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One step on images (n, C, H, W) in [0, 1]; named losses, detached, on the device."""
        ...

    def memory(self) -> dict[str, Tensor]:
        """What a checkpoint must keep besides the model and the optimisers."""
        ...

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from what `memory` returned."""
        ...


class Family(Protocol):
    """One kind of generative model: a frozen dataclass of its widths and constants."""

    def build(self, shape: tuple[int, int, int]) -> GenerativeModel:
        """An untrained model for images of a shape, initialised from torch's global generator.

        Raises:
            ValueError: the family can't draw images of this shape.
        """
        ...

    def fitting(self, model: GenerativeModel, learning_rate: float) -> Fitting:
        """What trains a model that `build` made."""
        ...
