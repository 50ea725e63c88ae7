"""Views that see the search for latents: unrolled, and at the encoder's own proposal.

Eq. 8 of E-ABS is the gradient at an exact inner optimum. The deployed search is not exact: it
begins at the best of some candidates and takes a few dozen steps. An image from which the true
class's search ends badly is misclassified although a good latent exists, and Eq. 8 cannot see the
way there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from defenses.base import never_rejects
from defenses.differentiable_adam import State, adam_step, remembered
from defenses.synthesis.inference import Explanation, LatentInference, Latents
from defenses.synthesis.posterior import Variables

UNROLLED_STEPS = 50
"""Of the latent steps, how many are differentiated: all of those of ABS and E-ABS.

No paper unrolls this search. With fewer than the search has, its start is a constant.
"""

Noise = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to the noise (N, slices, K, d) of one inference on them."""


@final
@dataclass(frozen=True)
class UnrolledInference:
    """The scores after full inference, whose last latent steps are functions of the image.

    Every query searches anew, as the deployed defense does. Where all steps are unrolled and the
    encoder's candidate won the search, the start too is a function of the image; which candidate
    wins, and all that lies before the unrolled steps, is taken as constant.

    Args:
        inference: of the trained model.
        noise: slices for the search, for each latent step and for the final sample.
        steps: to unroll, if there are so many.
    """

    inference: LatentInference
    noise: Noise
    steps: int = UNROLLED_STEPS

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Surrogate.__call__`."""
        return -self.explain(x, self.noise(x.detach())).score, never_rejects(x)

    def explain(self, x: Tensor, noise: Tensor) -> Explanation:
        """The explanation as deployed, for noise (N, slices, K, d), differentiable in ``x``."""
        total = noise.shape[1] - 2
        before = max(0, total - self.steps)
        states = self._states(x, noise[:, : before + 1], whole=before == 0)
        count = len(states)
        for number in range(before + 1, total + 1):
            step = partial(self._step, number, noise[:, number])
            flat = remembered(step, x, *(tensor for state in states for tensor in state))
            states = [(flat[3 * i], flat[3 * i + 1], flat[3 * i + 2]) for i in range(count)]
        variables = tuple(variable for variable, _, _ in states)
        return self.inference.explained(x, variables, noise[:, -1])

    def _states(self, x: Tensor, noise: Tensor, *, whole: bool) -> list[State]:
        """The variables, with Adam's moments, where the unrolled steps begin.

        Args:
            noise: slices for the search and for the steps before.
            whole: no step lies before.
        """
        inference, point = self.inference, x.detach()
        start = inference.start(point, noise[:, 0])
        if whole:
            posterior = inference.model.posterior
            proposal = inference.propose(x)
            variables = posterior.parameters(
                torch.where(start.suggested, proposal[0], start.mean),
                torch.where(start.suggested, proposal[1], start.log_variance),
            )
            return [(each, torch.zeros_like(each), torch.zeros_like(each)) for each in variables]
        latents = inference.begin(start)
        inference.refine(latents, point, noise[:, 1:])
        return _constants(latents)

    def _step(self, number: int, noise: Tensor, x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        """One Adam step on Eq. 6 for the flattened states of all variables."""
        states = [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]
        gradients = self._gradients(x, tuple(variable for variable, _, _ in states), noise)
        rate = self.inference.settings.latent_rate
        moved = (
            adam_step(state, gradient, number, rate)
            for state, gradient in zip(states, gradients, strict=True)
        )
        return tuple(tensor for state in moved for tensor in state)

    def _gradients(self, x: Tensor, variables: Variables, noise: Tensor) -> Variables:
        """Of Eq. 6 in the variables; differentiable itself where gradients are enabled."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            leaves = tuple(
                each if each.requires_grad else each.detach().requires_grad_() for each in variables
            )
            score = self.inference.explained(x, leaves, noise).score
            return torch.autograd.grad(score.sum(), leaves, create_graph=differentiable)


@final
@dataclass(frozen=True)
class EncoderProposal:
    """The scores at the latents that the encoder suggests, differentiable end to end.

    No search: what fools it misleads the candidate from which the search may begin, and the
    deployed search may still recover.

    Args:
        inference: of the trained model.
        noise: one slice.
    """

    inference: LatentInference
    noise: Noise

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Surrogate.__call__`."""
        variables = self.inference.model.posterior.parameters(*self.inference.propose(x))
        explanation = self.inference.explained(x, variables, self.noise(x.detach())[:, 0])
        return -explanation.score, never_rejects(x)


def _constants(latents: Latents) -> list[State]:
    """Variables and moments (zero before any step) as constants."""
    states = []
    for each in latents.variables:
        memory = latents.optimizer.state[each]
        moments = [memory.get(name, torch.zeros_like(each)) for name in ("exp_avg", "exp_avg_sq")]
        states.append((each.detach(), moments[0].detach(), moments[1].detach()))
    return states
