"""Encoder and decoder of Defense-VAE (MAD-VAE, Table 4), for any even image size."""

from enum import StrEnum

import torch
from torch import Tensor, nn

LATENT = 128
_WIDTHS = (64, 64, 128, 256)
_HALVINGS = 8
_INITIAL_STD = 0.02


class Spread(StrEnum):
    """What the encoder's second head means.

    MAD-VAE's public code takes the head's output, whatever its sign, for a standard deviation and
    so computes with its square; the absolute value does the same. Defense-VAE's is a log variance.
    """

    ABSOLUTE = "absolute"
    LOG_VARIANCE = "log_variance"

    def deviation(self, head: Tensor) -> Tensor:
        """Standard deviations (N, d) from the head's output (N, d)."""
        return head.abs() if self is Spread.ABSOLUTE else (head / 2).exp()


def margin(side: int) -> int:
    """Pixels that the first halving adds on each side so that three halvings come out even.

    28 becomes 16 (Table 4: a border of 3 where the others have 1), 8, 4.

    Raises:
        ValueError: an odd side.
    """
    if side < 2 or side % 2:
        raise ValueError(
            f"sides of the images must be even, got {side}; choose another data set or crop them"
        )
    return (-side % _HALVINGS) // 2


def bottom(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of the encoder's last feature map for images of a shape."""
    _, height, width = shape
    rows, columns = ((side + 2 * margin(side)) // _HALVINGS for side in (height, width))
    return _WIDTHS[-1], rows, columns


def _borders(shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The borders (vertical, horizontal) of the three halvings."""
    _, height, width = shape
    return [(1 + margin(height), 1 + margin(width)), (1, 1), (1, 1)]


class Encoder(nn.Module):
    """E: four convolutions and two heads.

    Args:
        shape: (channels, height, width) of the images.
        latent: d.
    """

    def __init__(self, shape: tuple[int, int, int], latent: int = LATENT) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(shape[0], _WIDTHS[0], 5, 1, 2, bias=False)]
        for before, after, border in zip(_WIDTHS, _WIDTHS[1:], _borders(shape), strict=False):
            layers += [nn.BatchNorm2d(before), nn.ReLU()]
            layers.append(nn.Conv2d(before, after, 4, 2, border, bias=False))
        channels, rows, columns = bottom(shape)
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.mean = nn.Linear(channels * rows * columns, latent)
        self.spread = nn.Linear(channels * rows * columns, latent)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Means (N, d) of images (N, C, H, W)."""
        mean: Tensor = self.mean(self.features(x))
        return mean

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means (N, d) and the second head's output (N, d), which a `Spread` interprets."""
        features = self.features(x)
        return self.mean(features), self.spread(features)


class Decoder(nn.Module):
    """G: the encoder backwards.

    Table 4 prints 64 channels, batch normalisation and ReLU for its last layer; what makes images
    is one channel per colour and a sigmoid, as in the public code.

    Args:
        shape: (channels, height, width) of the images.
        latent: d.
    """

    def __init__(self, shape: tuple[int, int, int], latent: int = LATENT) -> None:
        super().__init__()
        channels, rows, columns = first = bottom(shape)
        self.dense = nn.Sequential(
            nn.Linear(latent, channels * rows * columns), nn.ReLU(), nn.Unflatten(1, first)
        )
        layers: list[nn.Module] = []
        down = _WIDTHS[::-1]
        for before, after, border in zip(down, down[1:], _borders(shape)[::-1], strict=False):
            layers.append(nn.ConvTranspose2d(before, after, 4, 2, border, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(_WIDTHS[0], shape[0], 5, 1, 2, bias=False))
        self.convolutions = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of latents (N, d)."""
        return torch.sigmoid(self.logits(z))

    def logits(self, z: Tensor) -> Tensor:
        """The images before the sigmoid."""
        drawn: Tensor = self.convolutions(self.dense(z))
        return drawn


def _initialise(module: nn.Module) -> None:
    """Convolutions from N(0, 0.02), normalisations from N(1, 0.02), as the public code has it."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, _INITIAL_STD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, _INITIAL_STD)
