"""What a gradient attack climbs: losses on logits whose boundary is *wrong and accepted*."""

from enum import StrEnum

import torch
from torch import Tensor

from attacks.evasion import lead

_TINY = 1e-12


class Loss(StrEnum):
    """Losses to be maximised, untargeted or toward a wanted class.

    Given the logits of `evasion_logits`, in which a refusal raises the true class, every loss but
    `TRUE_CLASS` points toward a wrong class that is accepted.
    """

    CROSS_ENTROPY = "ce"
    MARGIN = "margin"
    DLR = "dlr"
    TRUE_CLASS = "true-class"

    def of(self, logits: Tensor, y: Tensor, wanted: Tensor | None = None) -> Tensor:
        """The loss (N,) of logits (N, K), differentiable.

        `CROSS_ENTROPY` is log(sum_k!=y exp l_k) - l_y, of which the cross-entropy is the softplus:
        both grow together along the same direction, but this one's gradient cannot vanish where
        the true class leads by so much that softmax rounds to 1 (as scores summed over pixels do).

        `DLR` (Croce & Hein 2020, Eqs. 6 and 7) divides the margin by differences of the largest
        logits l_(1) >= l_(2) >= ...: by l_(1) - l_(3), toward a wanted class by
        l_(1) - (l_(3) + l_(4)) / 2. The paper leaves few classes out: here three have no fourth
        logit to average with, and two are left with the margin alone.

        `TRUE_CLASS` is -l_y. It makes the search for the true class fail in a model that answers
        by the best reconstruction it can find.

        Args:
            logits: (N, K), K >= 2.
            y: labels (N,).
            wanted: (N,) classes other than ``y``, or None for any other class.

        Raises:
            ValueError: a wanted class for `TRUE_CLASS`, which knows one class only.
        """
        match self:
            case Loss.CROSS_ENTROPY:
                if wanted is None:
                    return _without(logits, y).logsumexp(dim=1) - _at(logits, y)
                return _at(logits, wanted) - _without(logits, wanted).logsumexp(dim=1)
            case Loss.MARGIN:
                return _margin(logits, y, wanted)
            case Loss.DLR:
                return _margin(logits, y, wanted) / _spread(logits, 3 if wanted is None else 4)
            case Loss.TRUE_CLASS:
                if wanted is not None:
                    raise ValueError("wanted must be None for the true-class loss; pass no class")
                return -_at(logits, y)


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _without(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.scatter(1, classes[:, None], -torch.inf)


def _margin(logits: Tensor, y: Tensor, wanted: Tensor | None) -> Tensor:
    if wanted is None:
        return lead(logits, y)
    return _at(logits, wanted) - _at(logits, y)


def _spread(logits: Tensor, last: int) -> Tensor:
    """DLR's denominator (N,): the largest logit minus the mean of the third to the last one's."""
    if logits.shape[1] == 2:
        return torch.ones_like(logits[:, 0])
    ranked = logits.sort(dim=1, descending=True).values
    return (ranked[:, 0] - ranked[:, 2:last].mean(dim=1)).clamp_min(_TINY)
