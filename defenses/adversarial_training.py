"""Adversarial training (Madry et al. 2018) of the trained CNN, as E-ABS's baselines use it."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Generator, Tensor

from defenses.base import Defense, InnerAttack, Learner, Perturb, Perturbs, Task
from defenses.cnn import CrossEntropy, PlainNetwork, network_of


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(PlainNetwork):
    """200 epochs from the trained CNN, Adam at 1e-4 without decay (E-ABS, section 4.3).

    The inner attack is not stated by the paper: 10 PGD steps at the data set's own epsilon for the
    norm, step 2.5 epsilon / steps, one random start.

    Args:
        norm: which of the task's two epsilons bounds the training perturbation.
    """

    norm: Literal["linf", "l2"]
    epochs: int = 200
    learning_rate: float = 1e-4
    halve_every: int = 0
    starts_from: str | None = "cnn"

    def epsilon(self, task: Task) -> float:
        """The training radius."""
        return task.epsilon_linf if self.norm == "linf" else task.epsilon_l2

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Cross-entropy on adversarial images only (no noise: E-ABS, section 4.1)."""
        if not isinstance(attack, Perturbs):
            raise ValueError(
                f"inner_attack must have a fixed epsilon, got {self.inner_attack!r}; "
                "use one such as 'pgd-linf'"
            )
        augment = _Attacked(defense, attack.during_training(self.epsilon(task)))
        return CrossEntropy(network_of(defense), self.learning_rate, augment)


@dataclass(frozen=True)
class _Attacked:
    """Training images become adversarial examples of the network in evaluation mode."""

    defense: Defense
    perturb: Perturb

    def __call__(self, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        self.defense.eval()
        attacked = self.perturb(self.defense, x, y, rng)
        self.defense.train()
        return attacked
