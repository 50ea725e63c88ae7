"""Attacks as a user of Foolbox would call them."""

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


def fgsm(network: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Adversarial examples of one step in the ball."""
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    _, points, _ = foolbox.attacks.FGSM()(model, x, y, epsilons=epsilon)
    found: Tensor = points
    return found


def carlini_wagner(network: nn.Module, x: Tensor, y: Tensor, **settings: float) -> Tensor:
    """The nearest adversarial examples with these settings of Foolbox's attack."""
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    attack = foolbox.attacks.L2CarliniWagnerAttack(abort_early=False, **settings)
    _, points, _ = attack(model, x, y, epsilons=None)
    found: Tensor = points
    return found
