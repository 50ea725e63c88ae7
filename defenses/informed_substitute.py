"""The substitute of the robust manifold paper (Jalal et al. 2017, section 4.2.2).

It differs from `defenses.substitutes` in what the attacker knows, the classifier inside the target
and its gradients, and in what a query costs.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn

from defenses.base import Defense, InnerAttack, Learner, Task
from defenses.cnn import FeedForward, network_of
from defenses.inquiry import Inquiry, Transcript, inner_classifier
from defenses.randomness import child
from defenses.substitutes import TARGET, agrees, decaying_adam, fit


@final
@dataclass(frozen=True, kw_only=True)
class InformedSubstitute(Inquiry):
    """A network like the classifier inside the target, trained on the target's answers alone.

    One answer is one class of the deployed target: of a stochastic one, a single draw. What it
    refuses has no class and is left out.
    """

    queried_fields = frozenset({TARGET})

    def build(self, task: Task) -> FeedForward:
        """The untrained network.

        Raises:
            ValueError: a target without a classifier inside, or one that is no plain network.
        """
        network = network_of(inner_classifier(self.target).build(task))
        return FeedForward(network, task.num_classes)

    def ask(self, target: Defense, x: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """See `Inquiry.ask`: classes (n,)."""
        decision = target.decide(x, rng)
        return decision.classes, ~decision.rejected

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Adam on the cross-entropy with the target's answers."""
        return InformedImitation(
            network_of(defense),
            self.target.build(task),
            self.transcript(attack),
            batch_size=self.batch_size,
            adam=decaying_adam(network_of(defense), self.learning_rate, self.decay),
        )


@final
class InformedImitation(Learner):
    """An update asks about the next images and passes once over all that were asked.

    Args:
        student: images to logits.
        target: untrained; see `Learner.queried`.
        transcript: of the target.
        batch_size: images per step.
        adam: of the student.
    """

    def __init__(
        self,
        student: nn.Module,
        target: Defense,
        transcript: Transcript,
        *,
        batch_size: int,
        adam: torch.optim.Adam,
    ) -> None:
        self.student = student
        self.queried = {TARGET: target}
        self.transcript = transcript
        self.batch_size = batch_size
        self.optimizers = (adam,)

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One round on all images to ask about; ``y`` plays no part."""
        self.transcript.go_on(self.queried[TARGET], x, child(rng, "questions"))
        loss = x.new_zeros(())
        for points, classes in self.transcript.batches(self.batch_size, x.device, rng):
            loss = fit(self.student, self.optimizers[0], points, classes)
        return {"cross-entropy": loss}

    def memory(self) -> dict[str, Tensor]:
        """What was asked so far, and the answers."""
        return self.transcript.memory()

    def recall(self, memory: dict[str, Tensor]) -> None:
        """See `Learner.recall`."""
        self.transcript.recall(memory)

    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """Right by the true labels, which the student never saw."""
        return agrees(self.student, x, y)
