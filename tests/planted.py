"""Five broken defenses of any classifier, each robust only to those who trust its gradients.

What they show the attacker is what a naive author would write: autograd through all of it. The
diagnostics must name each:

    python -m benchmark.run --dataset mnist --attack fgsm,pgd-linf,square-linf,noise-linf
        --defense tests.planted:masked,tests.planted:vanishing_temperature --epsilons 0.1
    python -m benchmark.diagnose --dataset mnist
"""

import torch
from torch import Generator, Tensor, nn

from benchmark.datasets import DATASETS
from benchmark.presets import PRESETS
from benchmark.shelf import REGISTERED
from defenses.base import Decision, Defense, Surrogate, accepts_all, never_rejects
from defenses.cnn import network_of
from defenses.randomness import noise_like_rows


class Wrapping(Defense):
    """A classifier on images of any shape, as it is.

    Args:
        network: images (N, C, H, W) to logits (N, K).
        num_classes: K.
    """

    surrogate_names = ("exact",)

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def logits(self, x: Tensor, rng: Generator) -> Tensor:
        answer: Tensor = self.network(x)
        return answer

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.logits(x, rng))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.logits(x, rng), never_rejects(x))


class Masked(Wrapping):
    """Logits in steps of a quarter: their slope is zero everywhere."""

    def logits(self, x: Tensor, rng: Generator) -> Tensor:
        return (4 * self.network(x)).round() / 4


class VanishingTemperature(Wrapping):
    """The softmax at temperature 1e-5 in place of logits: one class has it all."""

    def logits(self, x: Tensor, rng: Generator) -> Tensor:
        return (self.network(x) / 1e-5).softmax(dim=1)


class NoiseWithoutEot(Wrapping):
    """Gaussian noise on the pixels, in a defense that declares itself deterministic."""

    std = 0.5

    def logits(self, x: Tensor, rng: Generator) -> Tensor:
        noise = self.std * noise_like_rows(rng, x, x.shape[1:])
        answer: Tensor = self.network((x + noise).clamp(0, 1))
        return answer


class Rounding(Wrapping):
    """Pixels rounded to 8 levels, with nothing that passes the gradient on."""

    def logits(self, x: Tensor, rng: Generator) -> Tensor:
        answer: Tensor = self.network((7 * x).round() / 7)
        return answer


class RefusesEverything(Wrapping):
    """Never wrong and accepted, for nothing is."""

    can_reject = True

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        refused = torch.ones(len(x), dtype=torch.bool, device=x.device)
        score = torch.full((len(x),), 2.0, device=x.device)
        return Decision(self.logits(x, rng), refused, {"suspicion": score})

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.logits(x, rng), torch.ones(len(x), device=x.device))


BROKEN: dict[str, type[Wrapping]] = {
    "masked": Masked,
    "vanishing_temperature": VanishingTemperature,
    "noise_without_eot": NoiseWithoutEot,
    "rounding": Rounding,
    "refuses_everything": RefusesEverything,
}


def masked() -> Defense:
    """See `Masked`; like the others, around the CNN that ships for MNIST."""
    return Masked(_network(), _CLASSES)


def vanishing_temperature() -> Defense:
    """See `VanishingTemperature`."""
    return VanishingTemperature(_network(), _CLASSES)


def noise_without_eot() -> Defense:
    """See `NoiseWithoutEot`."""
    return NoiseWithoutEot(_network(), _CLASSES)


def rounding() -> Defense:
    """See `Rounding`."""
    return Rounding(_network(), _CLASSES)


def refuses_everything() -> Defense:
    """See `RefusesEverything`."""
    return RefusesEverything(_network(), _CLASSES)


_CLASSES = 10


def _network() -> nn.Module:
    mnist = DATASETS["mnist"].load()
    return network_of(REGISTERED.defense(mnist, "cnn", PRESETS["quick"]))
