"""The Wasserstein GAN behind Defense-GAN (Samangouei et al. 2018), trained with a gradient penalty
(Gulrajani et al. 2017, *Improved Training of Wasserstein GANs*, Algorithm 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import final

import torch
from torch import Generator, Tensor, nn

from defenses.projection import pyramid
from defenses.projection.generator import GenerativeModel

_KERNEL = 5
_SLOPE = 0.2
_BETAS = (0.5, 0.9)


@final
class WassersteinGenerator(GenerativeModel):
    """A dense layer to 4x4 pixels, then transposed convolutions of stride 2 up to the image.

    Args:
        network: latents (N, d) to images before the sigmoid.
        latent: d.
        shape: (channels, height, width) of the images.
    """

    def __init__(self, network: nn.Module, latent: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network
        self.latent = latent
        self.shape = shape

    def decode(self, z: Tensor) -> Tensor:
        """See `GenerativeModel.decode`."""
        return torch.sigmoid(self.network(z))


@final
class WassersteinFitting:
    """One step of the critic per batch, and one of the generator after every so many.

    The public code of Defense-GAN takes the norm of its penalty's gradient over rows of pixels
    alone; here it is over the whole image, as in Algorithm 1.

    Args:
        model: what is trained.
        critic: images (N, C, H, W) to scores (N, 1), high for what looks real.
        learning_rate: Adam's, of both.
        critic_steps: batches between steps of the generator.
        penalty: lambda.
    """

    def __init__(
        self,
        model: WassersteinGenerator,
        critic: nn.Module,
        learning_rate: float,
        *,
        critic_steps: int,
        penalty: float,
    ) -> None:
        self.model = model
        self.critic = critic
        self.critic_steps = critic_steps
        self.penalty = penalty
        self.updates = 0
        self.optimizers: tuple[torch.optim.Optimizer, ...] = tuple(
            torch.optim.Adam(network.parameters(), lr=learning_rate, betas=_BETAS)
            for network in (model, critic)
        )

    def update(self, x: Tensor, rng: Generator) -> dict[str, Tensor]:
        """See `Fitting.update`.

        Returns: ``wasserstein``, how much higher the critic scores these images than drawn ones
            (an estimate of the distance times the critic's slope), and the ``penalty``.
        """
        generator, critic = self.optimizers
        with torch.no_grad():
            drawn = self._draw(x, rng)
        real, fake = self.critic(torch.cat([x, drawn])).chunk(2)
        distance = (real - fake).mean()
        share = torch.rand((len(x), 1, 1, 1), generator=rng).to(x)
        penalty = gradient_penalty(self.critic, x + share * (drawn - x))
        critic.zero_grad(set_to_none=True)
        (self.penalty * penalty - distance).backward()
        critic.step()
        self.updates += 1
        if self.updates % self.critic_steps == 0:
            score = self.critic(self._draw(x, rng)).mean()
            weights = list(self.model.parameters())
            for weight, slope in zip(weights, torch.autograd.grad(-score, weights), strict=True):
                weight.grad = slope  # and none for the critic
            generator.step()
        return {"wasserstein": distance.detach(), "penalty": penalty.detach()}

    def _draw(self, x: Tensor, rng: Generator) -> Tensor:
        """As many images as there are in a batch, of latents from the prior."""
        return self.model.decode(torch.randn((len(x), self.model.latent), generator=rng).to(x))

    def memory(self) -> dict[str, Tensor]:
        """The critic, and how often it was updated."""
        return {**self.critic.state_dict(), "updates": torch.tensor(self.updates)}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See `Fitting.recall`."""
        weights = dict(memory)
        self.updates = int(weights.pop("updates"))
        self.critic.load_state_dict(weights)


def gradient_penalty(critic: nn.Module, x: Tensor) -> Tensor:
    """Mean over images of (||gradient of the score by the image|| - 1)^2."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    length: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (length - 1).square().mean()


@final
@dataclass(frozen=True)
class WGAN:
    """Defense-GAN's generator for MNIST, for images of any size that can be halved.

    From 4x4 pixels with 4 width channels by transposed 5x5 convolutions, ReLU between them; 28x28
    take three doublings, of which the first is cropped from 8 to 7, as published; other sizes by
    `pyramid.sizes`: three doublings for 32x32, one for 8x8. The critic is the way back with leaky
    ReLU. For colour the original had batch normalisation and tanh; here no image depends on others
    and a sigmoid draws all. Published training: batches of 50, 200,000 steps of the generator. Its
    prior is N(0, 1) per dimension; that Defense-GAN begins its search at a tighter
    N(0, 1/d) is a matter of the search.

    Args:
        width: channels of the feature maps next to the image.
        latent: d.
        learning_rate: Adam's, as published.
        critic_steps: batches between steps of the generator.
        penalty: lambda, the weight of the gradient penalty.
    """

    width: int = 64
    latent: int = 128
    learning_rate: float = 1e-4
    critic_steps: int = 5
    penalty: float = 10.0

    def __post_init__(self) -> None:
        if self.critic_steps < 1:
            raise ValueError(f"critic_steps must be at least 1, got {self.critic_steps}; raise it")

    def build(self, shape: tuple[int, int, int]) -> WassersteinGenerator:
        """See `Family.build`.

        Raises:
            ValueError: images of 4 pixels or fewer along a side.
        """
        smallest, *larger = pyramid.sizes(shape)
        channels = [*pyramid.channels(self.width, len(larger)), shape[0]]
        first = (channels[0], *smallest)
        layers: list[nn.Module] = [nn.Linear(self.latent, prod(first)), nn.Unflatten(1, first)]
        for (before, after), size in zip(pairwise(channels), larger, strict=True):
            doubled = nn.ConvTranspose2d(before, after, _KERNEL, 2, _KERNEL // 2, output_padding=1)
            layers += [nn.ReLU(), doubled, pyramid.Crop(*size)]
        return WassersteinGenerator(nn.Sequential(*layers), self.latent, shape)

    def fitting(self, model: GenerativeModel, learning_rate: float) -> WassersteinFitting:
        """See `Family.fitting`; the critic is initialised from torch's global generator."""
        if not isinstance(model, WassersteinGenerator):
            raise ValueError(
                f"model must be a WassersteinGenerator, got {type(model).__name__}; "
                "fit it by the family that built it"
            )
        return WassersteinFitting(
            model,
            self._critic(model.shape).to(next(model.parameters())),
            learning_rate,
            critic_steps=self.critic_steps,
            penalty=self.penalty,
        )

    def _critic(self, shape: tuple[int, int, int]) -> nn.Module:
        smallest, *larger = pyramid.sizes(shape)
        channels = [*pyramid.channels(self.width, len(larger)), shape[0]]
        layers: list[nn.Module] = []
        for before, after in pairwise(reversed(channels)):
            layers += [nn.Conv2d(before, after, _KERNEL, 2, _KERNEL // 2), nn.LeakyReLU(_SLOPE)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[0] * prod(smallest), 1))
