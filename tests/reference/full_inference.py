"""E-ABS attacked without memory: the whole inference for every gradient."""

import torch
from torch import Generator, Tensor

from defenses.base import Decision, Defense, Surrogate, never_rejects
from defenses.synthesis import SynthesisClassifier


class FullInference(Defense):
    """The same defense; its surrogate forgets every query (E-ABS, Eq. 8, taken literally)."""

    surrogate_names = ("full_inference",)
    stochastic = True

    def __init__(self, defense: SynthesisClassifier) -> None:
        super().__init__()
        self.defense = defense
        self.num_classes = defense.num_classes

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return self.defense.decide(x, rng)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        def query(x: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                explanation = self.defense.explain(x.detach(), rng)
            error = (x[:, None] - explanation.reconstruction).square().sum(dim=(2, 3, 4))
            return -(error + explanation.energy), never_rejects(x)

        return query
