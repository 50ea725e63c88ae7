"""The end of an inversion as a function of the image: its last steps, differentiated through."""

from dataclasses import dataclass

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from defenses.projection.descent import Descent, State
from defenses.projection.generator import GenerativeModel
from defenses.projection.inversion import squared_error


@dataclass(frozen=True)
class Unrolling:
    """Steps of a descent whose gradients are functions of the image.

    Of each step only its latents and the descent's memory are kept; the rest is computed again on
    the way back, so that memory grows by a few vectors per step.

    Args:
        descent: how a step is made.
        first: number of the first step, from 1.
        steps: of the whole descent, the last of which is the last here.
    """

    descent: Descent
    first: int
    steps: int

    def run(self, model: GenerativeModel, x: Tensor, z: Tensor, state: State) -> Tensor:
        """Latents (N, d) after the steps, differentiable in the images (N, C, H, W)."""

        def step(x: Tensor, z: Tensor, number: int, *state: Tensor) -> tuple[Tensor, ...]:
            _, gradient = squared_error(model, x, z, differentiable=True)
            state, change = self.descent.step(state, gradient / x[0].numel(), number, self.steps)
            return z - change, *state

        for number in range(self.first, self.steps + 1):
            z, *memory = checkpoint(step, x, z, number, *state, use_reentrant=False)
            state = tuple(memory)
        return z
