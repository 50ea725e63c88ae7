"""BEGAN (Berthelot et al. 2017, *BEGAN: Boundary Equilibrium Generative Adversarial Networks*), the
paper's generator of faces.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, final

import torch
from torch import Generator, Tensor, nn

from defenses.projection.generator import GenerativeModel

_BASE = 8
_KERNEL = 3


@dataclass(frozen=True)
class Scales:
    """What generator and discriminator share: one decoder each, from 8x8 pixels to the image.

    Args:
        shape: (channels, height, width) of the images.
        width: channels of the convolutions.
        per_scale: convolutions at each size.
        count: sizes: 8x8, 16x16 and so on up to the image's.
    """

    shape: tuple[int, int, int]
    width: int
    per_scale: int
    count: int

    @classmethod
    def of(cls, shape: tuple[int, int, int], width: int, per_scale: int) -> "Scales":
        """The sizes for images of a shape.

        Raises:
            ValueError: not 8x8 pixels, doubled some times.
        """
        _, *size = shape
        count = (size[0] // _BASE).bit_length()
        if size != [_BASE << max(0, count - 1)] * 2:
            raise ValueError(
                f"images of a BEGAN must be {_BASE}x{_BASE}, {2 * _BASE}x{2 * _BASE}, "
                f"{4 * _BASE}x{4 * _BASE} and so on, got {size[0]}x{size[1]}; use another "
                "generator, such as convolutional_vae"
            )
        return cls(shape, width, per_scale, count)

    def decoder(self, latent: int) -> nn.Sequential:
        """Latents (N, d) to images (N, C, H, W) around [-1, 1]: nothing bounds the last layer."""
        first = (self.width, _BASE, _BASE)
        layers: list[nn.Module] = [nn.Linear(latent, prod(first)), nn.Unflatten(1, first)]
        for scale in range(self.count):
            if scale > 0:
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            for _ in range(self.per_scale):
                layers += [_convolution(self.width, self.width), nn.ELU()]
        return nn.Sequential(*layers, _convolution(self.width, self.shape[0]))

    def encoder(self, latent: int) -> nn.Sequential:
        """The way back: channels grow by `width` per size, a stride of 2 halves the sides."""
        layers: list[nn.Module] = [_convolution(self.shape[0], self.width), nn.ELU()]
        before = self.width
        for scale in range(self.count):
            after = self.width * (scale + 1)
            if scale > 0:
                layers += [_convolution(before, before, stride=2), nn.ELU()]
            for _ in range(self.per_scale):
                layers += [_convolution(before, after), nn.ELU()]
                before = after
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * _BASE**2, latent))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, _KERNEL, stride, _KERNEL // 2)


@final
class BeganGenerator(GenerativeModel):
    """The decoder of `Scales`, whose images around [-1, 1] become ones in [0, 1].

    Args:
        scales: of the network.
        latent: d.
    """

    prior_std: ClassVar[float] = 2.0

    def __init__(self, scales: Scales, latent: int) -> None:
        super().__init__()
        self.scales = scales
        self.network = scales.decoder(latent)
        self.latent = latent

    def draw(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) around [-1, 1] of latents (N, d), as the discriminator sees them."""
        drawn: Tensor = self.network(z)
        return drawn

    def decode(self, z: Tensor) -> Tensor:
        """See `GenerativeModel.decode`; what exceeds the range is clipped."""
        return ((self.draw(z) + 1) / 2).clamp(0, 1)


@final
class BeganFitting:
    """Adam on an autoencoder that restores real images well and drawn ones badly, and on a
    generator that it shall restore well (section 3.4).

        L(v) = mean |v - D(v)|
        L_D = L(x) - k L(G(z)),  L_G = L(G(z)),  k <- k + lambda (gamma L(x) - L(G(z))) in [0, 1]

    One draw of z serves both losses, as in the source of `BEGAN`.

    Args:
        model: what is trained.
        discriminator: D, images (N, C, H, W) around [-1, 1] to their restorations.
        learning_rate: Adam's, of both.
        diversity: gamma.
        balance_rate: lambda_k.
    """

    def __init__(
        self,
        model: BeganGenerator,
        discriminator: nn.Module,
        learning_rate: float,
        *,
        diversity: float,
        balance_rate: float,
    ) -> None:
        self.model = model
        self.discriminator = discriminator
        self.diversity = diversity
        self.balance_rate = balance_rate
        self.k = next(discriminator.parameters()).new_zeros(())
        self.optimizers: tuple[torch.optim.Optimizer, ...] = tuple(
            torch.optim.Adam(network.parameters(), lr=learning_rate)
            for network in (model, discriminator)
        )

    def update(self, x: Tensor, rng: Generator) -> dict[str, Tensor]:
        """See `Fitting.update`.

        Returns: L(x) as ``real``, L(G(z)) as ``drawn``, ``k``, and the global measure of
            convergence L(x) + |gamma L(x) - L(G(z))| as ``convergence``.
        """
        z = self.model.prior_std * torch.randn((len(x), self.model.latent), generator=rng)
        real = self._restoring(2 * x - 1)
        drawn = self._restoring(self.model.draw(z.to(x)))
        ours, its = list(self.model.parameters()), list(self.discriminator.parameters())
        slopes = torch.autograd.grad(drawn, ours + its)
        for weight, slope in zip(ours, slopes, strict=False):
            weight.grad = slope
        of_real = torch.autograd.grad(real, its)
        for weight, good, bad in zip(its, of_real, slopes[len(ours) :], strict=True):
            weight.grad = good - self.k * bad
        for optimizer in self.optimizers:
            optimizer.step()
        real, drawn = real.detach(), drawn.detach()
        balance = self.diversity * real - drawn
        self.k = (self.k + self.balance_rate * balance).clamp(0, 1)
        convergence = real + balance.abs()
        return {"convergence": convergence, "real": real, "drawn": drawn, "k": self.k}

    def _restoring(self, images: Tensor) -> Tensor:
        """L."""
        error: Tensor = (images - self.discriminator(images)).abs().mean()
        return error

    def memory(self) -> dict[str, Tensor]:
        """The discriminator, and k."""
        return {**self.discriminator.state_dict(), "k": self.k}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See `Fitting.recall`."""
        weights = dict(memory)
        self.k = weights.pop("k").to(self.k)
        self.discriminator.load_state_dict(weights)


@final
@dataclass(frozen=True)
class BEGAN:
    """The paper's generator for 64x64 faces (Jalal et al. 2017, section 4.1).

    A dense layer to 8x8x128, four 3x3 convolutions of 128 filters, ELU, and one to colours; sides
    double between convolutions (nearest neighbour). The paper says that it kept the architecture of
    its public source (github.com/carpedm20/BEGAN-tensorflow), which has two convolutions at each
    size, not one, and latents from U(-1, 1), where the paper has N(0, 4) per dimension. The
    discriminator, which the paper does not describe, is that source's, with as many convolutions
    per size as the generator and a code as wide as the latents. The source trains on batches of 16
    for 500,000 updates and halves the rate every 100,000.

    Args:
        width: filters of the convolutions.
        latent: d, also of the discriminator's code.
        learning_rate: Adam's, the source's.
        per_scale: convolutions at each of the four sizes: 1 as the paper counts, 2 as the source.
        diversity: gamma, the source's; the paper does not state it.
        balance_rate: lambda_k, BEGAN's.
    """

    width: int = 128
    latent: int = 128
    learning_rate: float = 1e-4
    per_scale: int = 1
    diversity: float = 0.5
    balance_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.per_scale < 1:
            raise ValueError(f"per_scale must be at least 1, got {self.per_scale}; raise it")
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity must be in [0, 1], got {self.diversity}; change it")

    def build(self, shape: tuple[int, int, int]) -> BeganGenerator:
        """See `Family.build`.

        Raises:
            ValueError: images that are not 8x8, 16x16, 32x32, 64x64 and so on.
        """
        return BeganGenerator(Scales.of(shape, self.width, self.per_scale), self.latent)

    def fitting(self, model: GenerativeModel, learning_rate: float) -> BeganFitting:
        """See `Family.fitting`; the discriminator is initialised from torch's global generator."""
        if not isinstance(model, BeganGenerator):
            raise ValueError(
                f"model must be a BeganGenerator, got {type(model).__name__}; "
                "fit it by the family that built it"
            )
        scales = model.scales
        discriminator = nn.Sequential(scales.encoder(model.latent), scales.decoder(model.latent))
        return BeganFitting(
            model,
            discriminator.to(next(model.parameters())),
            learning_rate,
            diversity=self.diversity,
            balance_rate=self.balance_rate,
        )
