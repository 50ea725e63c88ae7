"""How long training takes and how fast it learns in each epoch."""

from dataclasses import dataclass

from torch.optim import Optimizer

from defenses.base import Recipe

_INITIAL = "initial_lr"


@dataclass(frozen=True)
class Schedule:
    """How long training takes on one data set.

    Args:
        epochs: passes over the data.
        batches: updates in each.
        halve_every: epochs between halvings of the rate; 0 keeps it.
        stretch: how many epochs stand for one of the recipe's.
    """

    epochs: int
    batches: int
    halve_every: int
    stretch: int = 1

    @classmethod
    def of(cls, recipe: Recipe, images: int) -> "Schedule":
        """The recipe's epochs, stretched where the data set is too small for `least_updates`."""
        stretch = recipe.stretch(images)
        epochs, halve_every = recipe.epochs * stretch, recipe.halve_every * stretch
        return cls(epochs, recipe.updates(images), halve_every, stretch)

    def rate(self, epoch: int) -> float:
        """The factor on the learning rate in this epoch, counted from 0."""
        return 0.5 ** (epoch // self.halve_every) if self.halve_every else 1.0

    def apply(self, optimizer: Optimizer, epoch: int) -> None:
        """Set the rates of an epoch, from what they were at first; see `Learner.optimizers`."""
        for group in optimizer.param_groups:
            initial = group.setdefault(_INITIAL, group["lr"])
            if "decay" in group:
                decayed = initial * group["decay"] ** (epoch // self.stretch)
                group["lr"] = max(decayed, group.get("least", 0.0))
            else:
                group["lr"] = initial * self.rate(epoch)
