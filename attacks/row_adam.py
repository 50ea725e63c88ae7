"""Adam (Kingma & Ba 2015) for rows that are problems of their own and may leave or begin anew."""

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
TINY = 1e-8
"""The paper's constants, and those of every library."""


class RowAdam:
    """The moments of a batch whose rows begin together; each may begin anew by itself.

    Every operation is elementwise, so a row's steps do not depend on the rows beside it.

    Args:
        like: (N, ...), of the shape of the gradients.
        rate: the step size alpha.
    """

    def __init__(self, like: Tensor, rate: float) -> None:
        self._rate = rate
        self._first = torch.zeros_like(like)
        self._second = torch.zeros_like(like)
        self._steps = torch.zeros(len(like), *[1] * (like.dim() - 1), device=like.device)

    def step(self, gradient: Tensor) -> Tensor:
        """What to subtract from the rows; entries of the gradient that are not finite count as 0.

        Args:
            gradient: (N, ...), detached.
        """
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        self._steps += 1
        self._first.lerp_(gradient, 1 - BETAS[0])
        self._second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        # Exact beyond the precision of the rows: 1 - 0.999^t loses four digits in float32.
        first, second = (1 - beta ** self._steps.double() for beta in BETAS)
        scale = (self._second / second.to(gradient.dtype)).sqrt_().add_(TINY)
        return (self._first * (self._rate / first).to(gradient.dtype)).div_(scale)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (indices or a mask) alone."""
        self._first, self._second = self._first[rows], self._second[rows]
        self._steps = self._steps[rows]

    def restart(self, rows: Tensor) -> None:
        """Forget the past of these rows (N,) bool."""
        wide = rows.reshape(self._steps.shape)
        for memory in (self._first, self._second, self._steps):
            memory.masked_fill_(wide, 0)
