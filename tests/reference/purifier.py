"""The networks of MAD-VAE's Tables 4 and 5 with random weights: a purifier of MNIST's size."""

import torch
from torch import Generator, Tensor, nn

from defenses.base import Decision, Defense, Surrogate, accepts_all, never_rejects

LATENT = 128


class RandomPurifier(Defense):
    """C(G(E(x))) for 28x28 images; it knows nothing and costs what a trained one costs."""

    surrogate_names = ("end_to_end", "classifier")
    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(
                *_block(nn.Conv2d(1, 64, 5, 1, 2, bias=False)),
                *_block(nn.Conv2d(64, 64, 4, 2, 3, bias=False)),
                *_block(nn.Conv2d(64, 128, 4, 2, 1, bias=False)),
                *_block(nn.Conv2d(128, 256, 4, 2, 1, bias=False)),
                nn.Flatten(),
                nn.Linear(4096, LATENT),
            )
            self.decoder = nn.Sequential(
                nn.Linear(LATENT, 4096),
                nn.ReLU(),
                nn.Unflatten(1, (256, 4, 4)),
                *_block(nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False)),
                *_block(nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False)),
                *_block(nn.ConvTranspose2d(64, 64, 4, 2, 3, bias=False)),
                nn.ConvTranspose2d(64, 1, 5, 1, 2),
                nn.Sigmoid(),
            )
            self.classifier = nn.Sequential(
                *_convolution(1, 32),
                *_convolution(32, 32),
                nn.MaxPool2d(2),
                *_convolution(32, 64),
                *_convolution(64, 64),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(64 * 49, 200),
                nn.ReLU(),
                nn.Linear(200, self.num_classes),
            )
        self.to(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> Tensor:
        latents: Tensor = self.encoder(x)
        return latents

    def decode(self, z: Tensor) -> Tensor:
        self.cost.decoder += len(z)
        images: Tensor = self.decoder(z)
        return images

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.classify(self.decode(self.encode(x))))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.classify(self.decode(self.encode(x))), never_rejects(x))


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


def _convolution(inner: int, outer: int) -> list[nn.Module]:
    return [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU()]
