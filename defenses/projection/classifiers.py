"""The classifiers that the paper protects (Jalal et al. 2017, section 4.1)."""

from dataclasses import dataclass
from math import prod
from typing import final

from torch import Tensor, nn

from defenses.base import Defense, InnerAttack, Learner, Recipe, Task
from defenses.cnn import CrossEntropy, FeedForward, network_of
from defenses.magnet import as_they_are
from defenses.memory_format import channels_last

_KERNEL = 5


@final
@dataclass(frozen=True, kw_only=True)
class ManifoldClassifier(Recipe):
    """Two 5x5 convolutions and dense layers: a tutorial's network for grey images, another's for
    colour.

    The paper kept the architectures of two TensorFlow tutorials and says nothing of training.
    Grey (*Deep MNIST for Experts*): 32 and 64 filters, each with a 2x2 pooling, a layer of 1024
    with dropout; Adam at 1e-4, 20,000 steps of 50, which are 19 epochs of 54,000. Colour (*CIFAR-10
    tutorial*, "with minimal modifications"): 64 and 64 filters, each with a 3x3 pooling of stride 2
    and local response normalisation, layers of 384 and 192; pixels in [-1, 1] inside. Its training
    by SGD with distorted images is not followed: Adam as for grey images, and no augmentation.

    Args:
        dropout: probability before the last layer of the network for grey images; from the
            tutorial, the paper does not mention it.
    """

    epochs: int = 19
    batch_size: int = 50
    learning_rate: float = 1e-4
    halve_every: int = 0
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}; lower it")

    def build(self, task: Task) -> FeedForward:
        """The untrained network, by the number of channels."""
        build = self._grey if task.shape[0] == 1 else self._colour
        return FeedForward(channels_last(build(task)), task.num_classes)

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Cross-entropy on the images as they are."""
        return CrossEntropy(network_of(defense), self.learning_rate, as_they_are)

    def _grey(self, task: Task) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in ((1, 32), (32, 64)):
            layers += [_convolution(before, after), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        layers += [nn.Flatten(), nn.Linear(64 * prod(_pooled(task.shape)), 1024), nn.ReLU()]
        return nn.Sequential(*layers, nn.Dropout(self.dropout), nn.Linear(1024, task.num_classes))

    def _colour(self, task: Task) -> nn.Sequential:
        layers: list[nn.Module] = [_Centred()]
        for before in (task.shape[0], 64):
            layers += [_convolution(before, 64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
            layers.append(nn.LocalResponseNorm(9, alpha=1e-3, beta=0.75, k=1.0))
        layers += [nn.Flatten(), nn.Linear(64 * prod(_pooled(task.shape)), 384), nn.ReLU()]
        layers += [nn.Linear(384, 192), nn.ReLU(), nn.Linear(192, task.num_classes)]
        return nn.Sequential(*layers)


def _convolution(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, _KERNEL, padding=_KERNEL // 2)


def _pooled(shape: tuple[int, int, int]) -> tuple[int, int]:
    """(rows, columns) after two poolings, each of which halves and rounds up."""
    _, rows, columns = shape
    return -(-rows // 4), -(-columns // 4)


class _Centred(nn.Module):
    """Pixels in [0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1
