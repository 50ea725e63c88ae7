"""The layers of E-ABS (Ju and Wagner 2020, Table 9), by kind of image."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Conv:
    """One (transposed) convolution of Table 9: square kernel, in pixels."""

    channels: int
    kernel: int
    stride: int
    padding: int

    def shrunk(self, side: int) -> int:
        """The side length after this convolution."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1

    def grown(self, side: int) -> int:
        """The side length after this transposed convolution."""
        return (side - 1) * self.stride - 2 * self.padding + self.kernel


@dataclass(frozen=True)
class Architecture:
    """One column of Table 9.

    Args:
        latent: dimensions of the latent space.
        encoder: convolutions, each followed by batch normalisation and LeakyReLU.
        decoder: transposed convolutions after a fully connected layer that has as many outputs as
            the first of them (a 1x1 image); the last has as many channels as the image.
        discriminator: widths of the two hidden layers.
        dropout: probability; the paper does not state it.
        slope: LeakyReLU's; the paper does not state it.
        initial_log_variance: where the encoder's log variances start; the paper does not state it.
            Near 0 a sample of Q(z|x) is mostly noise at first and E-ABS's decoders learn to ignore
            z: on MNIST they stayed at the class means' error for 1200 updates.
    """

    latent: int
    encoder: tuple[Conv, ...]
    decoder: tuple[Conv, ...]
    discriminator: tuple[int, int]
    dropout: float = 0.2
    slope: float = 0.2
    initial_log_variance: float = -4.0


_RGB_DECODER = (
    Conv(64, 4, 1, 0),
    Conv(64, 4, 2, 1),
    Conv(32, 4, 2, 1),
    Conv(16, 4, 2, 1),
    Conv(3, 1, 1, 0),
)

_SVHN_ENCODER = (Conv(32, 5, 2, 2), Conv(64, 5, 2, 2), Conv(128, 5, 2, 2))
_DEEPER = Conv(128, 5, 2, 2)  # halves the encoder's side once more
_LARGER = Conv(16, 4, 2, 1)  # doubles the decoder's side once more
_SVHN_LAST = Conv(128, 4, 1, 0)

ARCHITECTURES: dict[str, Architecture] = {
    # Not in the paper: Table 9 scaled down to the 8x8 images of `digits`.
    "digits": Architecture(
        latent=8,
        encoder=(Conv(16, 3, 1, 1), Conv(32, 3, 2, 1), Conv(32, 3, 1, 1), Conv(64, 3, 2, 1)),
        decoder=(Conv(32, 2, 1, 0), Conv(16, 4, 2, 1), Conv(8, 4, 2, 1), Conv(1, 1, 1, 0)),
        discriminator=(64, 32),
    ),
    "mnist": Architecture(
        latent=10,
        encoder=(Conv(16, 5, 2, 2), Conv(32, 5, 2, 2), Conv(64, 5, 2, 2), Conv(64, 4, 1, 1)),
        decoder=(
            Conv(32, 4, 1, 0),
            Conv(32, 5, 2, 0),
            Conv(16, 5, 2, 0),
            Conv(8, 4, 1, 0),
            Conv(1, 1, 1, 0),
        ),
        discriminator=(256, 128),
    ),
    "traffic": Architecture(
        latent=16,
        encoder=(Conv(16, 5, 2, 2), Conv(32, 5, 2, 2), Conv(64, 5, 2, 2), Conv(128, 4, 1, 0)),
        decoder=_RGB_DECODER,
        discriminator=(256, 128),
    ),
    "svhn": Architecture(
        latent=40,
        encoder=(*_SVHN_ENCODER, _SVHN_LAST),
        decoder=_RGB_DECODER,
        discriminator=(512, 256),
    ),
    # Not in the paper: SVHN's column, continued by one stage of stride 2 on either side for 64x64
    # pixels (CelebA) and by two for 128x128 (COIL-100), as wide as the stages they continue; for
    # 224x224 (ImageNet) by two around a last kernel of 7 pixels instead of 4.
    "celeba": Architecture(
        latent=40,
        encoder=(*_SVHN_ENCODER, _DEEPER, _SVHN_LAST),
        decoder=(*_RGB_DECODER[:-1], _LARGER, _RGB_DECODER[-1]),
        discriminator=(512, 256),
    ),
    "coil": Architecture(
        latent=40,
        encoder=(*_SVHN_ENCODER, _DEEPER, _DEEPER, _SVHN_LAST),
        decoder=(*_RGB_DECODER[:-1], _LARGER, _LARGER, _RGB_DECODER[-1]),
        discriminator=(512, 256),
    ),
    "imagenet": Architecture(
        latent=40,
        encoder=(*_SVHN_ENCODER, _DEEPER, _DEEPER, Conv(128, 7, 1, 0)),
        decoder=(Conv(64, 7, 1, 0), *_RGB_DECODER[1:-1], _LARGER, _LARGER, _RGB_DECODER[-1]),
        discriminator=(512, 256),
    ),
}


def convolutional_encoder(
    shape: tuple[int, int, int], architecture: Architecture
) -> tuple[nn.Sequential, int]:
    """The encoder's convolutions with dropout after the last, and its number of features.

    Args:
        shape: (channels, height, width) of the images; they must be square.
    """
    channels, side, _ = shape
    layers: list[nn.Module] = []
    for conv in architecture.encoder:
        layers += [
            nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding),
            nn.BatchNorm2d(conv.channels),
            nn.LeakyReLU(architecture.slope),
        ]
        channels, side = conv.channels, conv.shrunk(side)
    layers += [nn.Flatten(), nn.Dropout(architecture.dropout)]
    return nn.Sequential(*layers), channels * side * side


class GaussianEncoder(nn.Module):
    """Q(z|x): the convolutions and two parallel fully connected layers."""

    def __init__(self, shape: tuple[int, int, int], architecture: Architecture) -> None:
        super().__init__()
        self.features, width = convolutional_encoder(shape, architecture)
        self.mean = nn.Linear(width, architecture.latent)
        self.log_variance = nn.Linear(width, architecture.latent)
        nn.init.constant_(self.log_variance.bias, architecture.initial_log_variance)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance (N, d) each for images (N, C, H, W)."""
        features = self.features(x)
        return self.mean(features), self.log_variance(features)
