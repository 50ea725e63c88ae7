"""Encoder and decoder by image size: convolution, pooling, dense; dense, upsampling, convolution.

The paper (Ghosh et al. 2019, section 4) names the kinds of layers and no width: every number here
is ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_KERNEL = 3


@dataclass(frozen=True)
class Layers:
    """Widths for one image size.

    Args:
        stages: channels per stage of the encoder: two 3x3 convolutions and a 2x2 max-pooling.
        base: side of the decoder's first image.
        rising: channels per stage of the decoder, the first those of its first image: an upsampling
            by 2 and a 3x3 convolution between one and the next.
        hidden: width of the dense layers next to the latent space.
    """

    stages: tuple[int, ...]
    base: int
    rising: tuple[int, ...]
    hidden: int = 256


LAYERS: dict[int, Layers] = {
    8: Layers(stages=(32, 64), base=2, rising=(64, 64, 32)),
    28: Layers(stages=(32, 64), base=7, rising=(64, 64, 32)),
    32: Layers(stages=(32, 64, 128), base=8, rising=(128, 64, 32)),
    64: Layers(stages=(32, 64, 128), base=8, rising=(128, 128, 64, 32)),
    128: Layers(stages=(32, 64, 128), base=16, rising=(128, 128, 64, 32)),
}


def layers_for(shape: tuple[int, int, int]) -> Layers:
    """The widths for images (C, side, side).

    Raises:
        ValueError: no layers for this size.
    """
    _, height, width = shape
    if height != width or height not in LAYERS:
        sides = ", ".join(f"{side}x{side}" for side in LAYERS)
        raise ValueError(
            f"images of a GMVAE must be {sides}, got {height}x{width}; add their layers to LAYERS"
        )
    return LAYERS[height]


class Encoder(nn.Module):
    """f: images (N, C, H, W) to means (N, d) and, where it learns them, log variances (N, d).

    Args:
        learns_variance: False keeps the encoder's entropy fixed: it has no variance head.
    """

    def __init__(
        self, shape: tuple[int, int, int], latent: int, *, learns_variance: bool = False
    ) -> None:
        super().__init__()
        layers = layers_for(shape)
        channels, side, _ = shape
        convolutions: list[nn.Module] = []
        for width in layers.stages:
            for before in (channels, width):
                convolutions += [nn.Conv2d(before, width, _KERNEL, padding=1), nn.ReLU()]
            convolutions.append(nn.MaxPool2d(2))
            channels, side = width, side // 2
        self.features = nn.Sequential(
            *convolutions, nn.Flatten(), nn.Linear(channels * side**2, layers.hidden), nn.ReLU()
        )
        self.mean = nn.Linear(layers.hidden, latent)
        self.log_variance = nn.Linear(layers.hidden, latent) if learns_variance else None

    def forward(self, x: Tensor) -> Tensor:
        """Means (N, d)."""
        mean: Tensor = self.mean(self.features(x))
        return mean

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances, each (N, d).

        Raises:
            ValueError: the entropy is fixed.
        """
        if self.log_variance is None:
            raise ValueError("this encoder's variance is fixed; ask for the mean alone")
        features = self.features(x)
        return self.mean(features), self.log_variance(features)


class Decoder(nn.Module):
    """g: latents (N, d) to images (N, C, H, W) in [0, 1]."""

    def __init__(self, shape: tuple[int, int, int], latent: int) -> None:
        super().__init__()
        layers = layers_for(shape)
        first, *rest = layers.rising
        self.dense = nn.Sequential(
            nn.Linear(latent, layers.hidden),
            nn.ReLU(),
            nn.Linear(layers.hidden, first * layers.base**2),
            nn.ReLU(),
            nn.Unflatten(1, (first, layers.base, layers.base)),
        )
        convolutions: list[nn.Module] = []
        for before, width in zip(layers.rising, rest, strict=False):
            convolutions += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, width, _KERNEL, padding=1),
                nn.ReLU(),
            ]
        convolutions.append(nn.Conv2d(layers.rising[-1], shape[0], _KERNEL, padding=1))
        self.convolutions = nn.Sequential(*convolutions)

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W)."""
        return torch.sigmoid(self.convolutions(self.dense(z)))
