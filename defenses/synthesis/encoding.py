"""Where latents come from in training: one encoder per class (ABS), or one for all (E-ABS)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from defenses.architectures import Architecture, GaussianEncoder
from defenses.base import Task
from defenses.synthesis.decoders import ClassDecoders


@dataclass(frozen=True)
class Encoded:
    """What one training batch gives, for the M rows that take part.

    Args:
        mean: (M, d) of Q(z|x) for the row's own class.
        log_variance: (M, d).
        z: (M, d), one sample of it.
        y: (M,) the rows' classes.
        error: (M,) |x - G_y(z)|^2, summed over pixels.
        discriminative: (M,) the outlier-exposure term, weighted; 0 without it.
    """

    mean: Tensor
    log_variance: Tensor
    z: Tensor
    y: Tensor
    error: Tensor
    discriminative: Tensor


@dataclass(frozen=True)
class Encoding(ABC):
    """The encoders, and the training objective that goes with them."""

    @abstractmethod
    def build(self, task: Task, architecture: Architecture) -> nn.Module:
        """The encoder networks."""

    @abstractmethod
    def discriminator_count(self, task: Task) -> int:
        """How many discriminators an adversarial prior needs: one per marginal of latents."""

    @abstractmethod
    def propose(self, encoders: nn.Module, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Mean and log variance (N, K, d) that the encoders suggest for each class."""

    @abstractmethod
    def encode(
        self,
        networks: tuple[nn.Module, ClassDecoders],
        x: Tensor,
        target: Tensor,
        y: Tensor,
        rng: Generator,
    ) -> Encoded:
        """One training batch through encoder and decoders."""

    @abstractmethod
    def outliers(
        self, encoders: nn.Module, x: Tensor, y: Tensor, encoded: Tensor, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """Encodings (M, d) of out-of-distribution images and the classes (M,) that they fake.

        Args:
            encoded: the batch's own encodings (N, d), which the answer is to stand beside.
        """


@final
@dataclass(frozen=True)
class ClassEncoders(Encoding):
    """One encoder per class, each trained on its own class only (ABS, section 2)."""

    def build(self, task: Task, architecture: Architecture) -> nn.Module:
        """K encoders."""
        return nn.ModuleList(
            GaussianEncoder(task.shape, architecture) for _ in range(task.num_classes)
        )

    def discriminator_count(self, task: Task) -> int:
        """One per class."""
        return task.num_classes

    def propose(self, encoders: nn.Module, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Each class's own encoder."""
        means, log_variances = zip(*(encoder(x) for encoder in _each(encoders)), strict=True)
        return torch.stack(means, dim=1), torch.stack(log_variances, dim=1)

    def encode(
        self,
        networks: tuple[nn.Module, ClassDecoders],
        x: Tensor,
        target: Tensor,
        y: Tensor,
        rng: Generator,
    ) -> Encoded:
        """Each image through its own class's autoencoder."""
        encoders, decoders = networks
        rows, mean, log_variance = _by_class(encoders, x, y)
        z = mean + (0.5 * log_variance).exp() * _normal(mean, rng)
        own, target = y[rows], target[rows]
        error = torch.cat(
            [
                _squared(decoders.decode(k, z[own == k]), target[own == k])
                for k in own.unique().tolist()
            ]
        )
        return Encoded(mean, log_variance, z, own, error, torch.zeros_like(error))

    def outliers(
        self, encoders: nn.Module, x: Tensor, y: Tensor, encoded: Tensor, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """Each image through a random other class's encoder (E-ABS, section 4.4).

        The encoders answer as deployed: other classes' images must not move their statistics.
        """
        classes = len(_each(encoders))
        shift = torch.randint(1, classes, (len(y),), generator=rng).to(y.device)
        other = (y + shift) % classes
        encoders.eval()
        rows, mean, log_variance = _by_class(encoders, x, other)
        encoders.train()
        return mean + (0.5 * log_variance).exp() * _normal(mean, rng), other[rows]


@final
@dataclass(frozen=True)
class SharedEncoder(Encoding):
    """One encoder for all classes and the discriminative loss (E-ABS, section 3.2, Eqs. 4, 5).

    Args:
        gamma: weight of the cross-entropy of the class-conditional errors; 10 in the paper.
    """

    gamma: float = 10.0

    def build(self, task: Task, architecture: Architecture) -> nn.Module:
        """One encoder."""
        return GaussianEncoder(task.shape, architecture)

    def discriminator_count(self, task: Task) -> int:
        """One: every image is in distribution for the shared encoder."""
        return 1

    def propose(self, encoders: nn.Module, x: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """The same suggestion for every class."""
        mean, log_variance = encoders(x)
        shape = (-1, classes, -1)
        return mean[:, None].expand(shape), log_variance[:, None].expand(shape)

    def encode(
        self,
        networks: tuple[nn.Module, ClassDecoders],
        x: Tensor,
        target: Tensor,
        y: Tensor,
        rng: Generator,
    ) -> Encoded:
        """Each image through all K decoders at one z, so that -beta log D cancels in Eq. 4."""
        encoder, decoders = networks
        mean, log_variance = encoder(x)
        z = mean + (0.5 * log_variance).exp() * _normal(mean, rng)
        errors = (decoders(z) - target[:, None]).square().sum(dim=(2, 3, 4))
        own = errors.gather(1, y[:, None]).squeeze(1)
        cross_entropy = functional.cross_entropy(-errors, y, reduction="none")
        return Encoded(mean, log_variance, z, y, own, self.gamma * cross_entropy)

    def outliers(
        self, encoders: nn.Module, x: Tensor, y: Tensor, encoded: Tensor, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """None: the shared encoder has no out-of-distribution images."""
        return x.new_zeros((0, encoded.shape[1])), y[:0]


def _each(encoders: nn.Module) -> nn.ModuleList:
    if not isinstance(encoders, nn.ModuleList):
        raise ValueError(f"encoders must be one per class, got {type(encoders).__name__}")
    return encoders


def _by_class(encoders: nn.Module, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row indices grouped by class, with mean and log variance from each row's class's encoder.

    A class with a single row sits out: batch normalisation has nothing to average over.
    """
    rows, means, log_variances = [], [], []
    for k, encoder in enumerate(_each(encoders)):
        members = (classes == k).nonzero().squeeze(1)
        if len(members) > 1:
            mean, log_variance = encoder(x[members])
            rows.append(members)
            means.append(mean)
            log_variances.append(log_variance)
    if not rows:
        raise ValueError(
            f"a batch must hold two images of some class, got {len(x)} images; raise batch_size"
        )
    return torch.cat(rows), torch.cat(means), torch.cat(log_variances)


def _normal(like: Tensor, rng: Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng).to(like.device)


def _squared(image: Tensor, target: Tensor) -> Tensor:
    return (image - target).square().sum(dim=(1, 2, 3))
