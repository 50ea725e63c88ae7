"""Adversarial training (Madry et al. 2018) of the trained CNN, as E-ABS's baselines use it."""

from dataclasses import dataclass
from typing import Literal

from defenses.base import Defense, Learner, Perturb, Task
from defenses.cnn import CNN, CrossEntropy


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(CNN):
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

    def learner(self, defense: Defense, task: Task, perturb: Perturb | None) -> Learner:
        """Cross-entropy on adversarial images only."""
        if perturb is None:
            raise ValueError("perturb must be an attack, got None; adversarial training needs one")
        return CrossEntropy(defense, self.learning_rate, 0.0, perturb)
