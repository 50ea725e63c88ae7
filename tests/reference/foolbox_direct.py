"""PGD as a user of Foolbox would call it."""

import foolbox
import torch
from torch import Tensor, nn


def pgd_linf(network: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int) -> Tensor:
    """Foolbox's candidates for one epsilon."""
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    attack = foolbox.attacks.LinfPGD(steps=steps, rel_stepsize=0.01 / 0.3)
    with torch.random.fork_rng():
        _, clipped, _ = attack(model, x, y, epsilons=epsilon)
    candidates: Tensor = clipped
    return candidates
