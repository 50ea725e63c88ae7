"""What an attack is after, as a lead of the deployed defense's answer that must be positive."""

from enum import StrEnum

import torch
from torch import Tensor

from attacks.evasion import LEAST, evasion_lead
from defenses.base import Decision


class Goal(StrEnum):
    """When a perturbation has done its work."""

    EVASION = "evasion"
    REFUSAL = "refusal"

    def lead(self, decision: Decision, y: Tensor) -> Tensor:
        """How far an answer is beyond the goal (N,): positive exactly where it is reached."""
        match self:
            case Goal.EVASION:
                return evasion_lead(decision, y)
            case Goal.REFUSAL:
                return refusal_lead(decision)


def refusal_lead(decision: Decision) -> Tensor:
    """How far a decision is beyond *rejected* (N,): the excess of the largest score over 1.

    A defense that tells no scores leads by ±`LEAST`; an answer of NaN, which is a fault of the
    defense and no refusal, by -inf.
    """
    rejected = decision.rejected
    sign = torch.where(rejected, LEAST, -LEAST).to(decision.logits.dtype)
    if decision.scores:
        excess = torch.stack(list(decision.scores.values())).amax(dim=0) - 1
        sign = torch.where(rejected, excess.clamp_min(LEAST), excess.clamp_max(0))
    return sign.masked_fill(decision.logits.isnan().any(dim=1), -torch.inf)
