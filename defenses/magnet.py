"""The classifier that MAD-VAE protects, which it takes from MagNet (Meng and Chen 2017)."""

from dataclasses import dataclass
from typing import final

from torch import Generator, Tensor, nn

from defenses.base import Defense, InnerAttack, Learner, Recipe, Task
from defenses.cnn import CrossEntropy, FeedForward, network_of
from defenses.memory_format import channels_last

_POOLINGS = 4


@final
@dataclass(frozen=True, kw_only=True)
class MagNet(Recipe):
    """MAD-VAE's Table 5 by its public code: Adam at 1e-3, batches of 128, 50 epochs, no noise.

    Convolutions 32, 32, pooling, 64, 64, pooling, all 3x3 with a border of 1, then dense layers.

    Args:
        dense: layers of 200 units before the last: the code has 1, the table prints 2.
    """

    epochs: int = 50
    batch_size: int = 128
    halve_every: int = 0
    dense: int = 1

    def __post_init__(self) -> None:
        if self.dense < 1:
            raise ValueError(f"dense must be at least 1, got {self.dense}; raise it")

    def build(self, task: Task) -> FeedForward:
        """The untrained network.

        Raises:
            ValueError: images whose sides two poolings do not divide.
        """
        channels, height, width = task.shape
        if height % _POOLINGS or width % _POOLINGS:
            raise ValueError(
                f"sides of the images must be divisible by {_POOLINGS}, got {height}x{width}; "
                "choose another data set or classifier"
            )
        layers: list[nn.Module] = []
        for before, after in ((channels, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers.append(nn.Flatten())
        features = 64 * (height // _POOLINGS) * (width // _POOLINGS)
        for _ in range(self.dense):
            layers += [nn.Linear(features, 200), nn.ReLU()]
            features = 200
        network = nn.Sequential(*layers, nn.Linear(features, task.num_classes))
        return FeedForward(channels_last(network), task.num_classes)

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Cross-entropy on the images as they are."""
        return CrossEntropy(network_of(defense), self.learning_rate, as_they_are)


def as_they_are(x: Tensor, y: Tensor, rng: Generator) -> Tensor:
    """No augmentation."""
    return x
