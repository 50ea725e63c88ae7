"""Variational autoencoders (Kingma and Welling 2014): a dense one for grey images, the paper's, and
a convolutional one for photographs, ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import final

import torch
from torch import Generator, Tensor, nn

from defenses.projection import pyramid
from defenses.projection.generator import EncodingModel, GenerativeModel
from defenses.purification.losses import divergence, reconstruction

_QUANTISATION = 1 / 255**2 / 12


Likelihood = Callable[[Tensor, Tensor], Tensor]
"""-log p(x|z) in nats: (what was drawn before the sigmoid, images) -> mean over the batch."""


def bernoulli(drawn: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy summed over pixels, which are taken for probabilities of being white."""
    return reconstruction(drawn, x).flatten(1).sum(dim=1).mean()


def calibrated_gaussian(drawn: Tensor, x: Tensor) -> Tensor:
    """Squared error under the variance that makes the batch likeliest (Rybkin, Daniilidis and
    Levine 2021, *Simple and Effective VAE Training with Calibrated Decoders*, section 3).

        D / 2 log MSE, up to a constant, for images of D numbers

    So nothing weighs error against divergence by hand. The variance of rounding to one of 256 grey
    levels is added, since no image is known more exactly.
    """
    error = (torch.sigmoid(drawn) - x).square().mean()
    return x[0].numel() / 2 * (error + _QUANTISATION).log()


@final
class VariationalAutoencoder(EncodingModel):
    """E and G with a sigmoid at the end.

    Args:
        features: images (N, C, H, W) to features (N, width).
        width: of the features.
        decoder: latents (N, d) to images before the sigmoid.
        latent: d.
    """

    def __init__(self, features: nn.Module, width: int, decoder: nn.Module, latent: int) -> None:
        super().__init__()
        self.features = features
        self.mean = nn.Linear(width, latent)
        self.log_variance = nn.Linear(width, latent)
        self.decoder = decoder
        self.latent = latent

    def decode(self, z: Tensor) -> Tensor:
        """See `GenerativeModel.decode`."""
        return torch.sigmoid(self.decoder(z))

    def encode(self, x: Tensor) -> Tensor:
        """See `EncodingModel.encode`."""
        mean: Tensor = self.mean(self.features(x))
        return mean

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (N, d) of Q(z|x)."""
        features = self.features(x)
        return self.mean(features), (self.log_variance(features) / 2).exp()


@final
class VariationalFitting:
    """Adam on the negative evidence lower bound, one latent drawn per image.

    Args:
        model: what is trained.
        likelihood: of the images.
        learning_rate: Adam's.
    """

    def __init__(
        self, model: VariationalAutoencoder, likelihood: Likelihood, learning_rate: float
    ) -> None:
        self.model = model
        self.likelihood = likelihood
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Adam(model.parameters(), lr=learning_rate),
        )

    def update(self, x: Tensor, rng: Generator) -> dict[str, Tensor]:
        """See `Fitting.update`; both losses in nats per image."""
        (optimizer,) = self.optimizers
        mean, deviation = self.model.posterior(x)
        z = mean + deviation * torch.randn(mean.shape, generator=rng).to(mean)
        error = self.likelihood(self.model.decoder(z), x)
        kl = divergence(mean, deviation).sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        (error + kl).backward()
        optimizer.step()
        return {"reconstruction": error.detach(), "divergence": kl.detach()}

    def memory(self) -> dict[str, Tensor]:
        """Nothing besides the model and its optimiser."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See `Fitting.recall`."""


@final
@dataclass(frozen=True)
class DenseVAE:
    """The paper's VAE for MNIST (Jalal et al. 2017, section 4.1): 784-500-500-20 and back.

    The paper kept the architecture of a public notebook (jmetzen.github.io/notebooks/vae.ipynb):
    softplus between layers, cross-entropy summed over pixels, weights by Glorot and Bengio's
    uniform rule, biases 0; its Adam at 1e-3, batches of 100 and 75 epochs are from memory.

    Args:
        width: units of both hidden layers of encoder and decoder.
        latent: d.
        learning_rate: Adam's, as published.
    """

    width: int = 500
    latent: int = 20
    learning_rate: float = 1e-3

    def build(self, shape: tuple[int, int, int]) -> VariationalAutoencoder:
        """See `Family.build`; any shape will do."""
        pixels = prod(shape)
        features = nn.Sequential(nn.Flatten(), *_softplus(pixels, self.width, self.width))
        hidden = _softplus(self.latent, self.width, self.width)
        last = (nn.Linear(self.width, pixels), nn.Unflatten(1, shape))
        decoder = nn.Sequential(*hidden, *last)
        model = VariationalAutoencoder(features, self.width, decoder, self.latent)
        model.apply(_glorot)
        return model

    def fitting(self, model: GenerativeModel, learning_rate: float) -> VariationalFitting:
        """See `Family.fitting`."""
        return VariationalFitting(_vae(model), bernoulli, learning_rate)


@final
@dataclass(frozen=True)
class ConvolutionalVAE:
    """A VAE for photographs of 32x32 to 128x128 pixels; the paper has none, every number is ours.

    Convolutions of stride 2 down to 4x4 pixels, transposed ones back up (`pyramid`), ELU between
    them, and a squared error whose weight follows the data (`calibrated_gaussian`).

    Args:
        width: channels of the feature maps next to the image; the smallest have 4 times as many.
        latent: d.
        learning_rate: Adam's.
    """

    width: int = 64
    latent: int = 128
    learning_rate: float = 1e-3

    def build(self, shape: tuple[int, int, int]) -> VariationalAutoencoder:
        """See `Family.build`.

        Raises:
            ValueError: images of 4 pixels or fewer along a side.
        """
        smallest, *larger = pyramid.sizes(shape)
        channels = [*pyramid.channels(self.width, len(larger)), shape[0]]
        first = (channels[0], *smallest)
        down: list[nn.Module] = []
        for before, after in pairwise(reversed(channels)):
            down += [nn.Conv2d(before, after, 3, 2, 1), nn.ELU()]
        up: list[nn.Module] = [nn.Linear(self.latent, prod(first)), nn.Unflatten(1, first)]
        for (before, after), size in zip(pairwise(channels), larger, strict=True):
            up += [nn.ELU(), nn.ConvTranspose2d(before, after, 4, 2, 1), pyramid.Crop(*size)]
        features = nn.Sequential(*down, nn.Flatten())
        return VariationalAutoencoder(features, prod(first), nn.Sequential(*up), self.latent)

    def fitting(self, model: GenerativeModel, learning_rate: float) -> VariationalFitting:
        """See `Family.fitting`."""
        return VariationalFitting(_vae(model), calibrated_gaussian, learning_rate)


def _vae(model: GenerativeModel) -> VariationalAutoencoder:
    if not isinstance(model, VariationalAutoencoder):
        raise ValueError(
            f"model must be a VariationalAutoencoder, got {type(model).__name__}; "
            "fit it by the family that built it"
        )
    return model


def _softplus(*widths: int) -> list[nn.Module]:
    """Dense layers, each followed by softplus."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Softplus()]
    return layers


def _glorot(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
