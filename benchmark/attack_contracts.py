"""What every attack promises, on a defense with known answers; see `benchmark.contracts`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import Attack
from attacks.threat import Norm
from benchmark.contracts import Finding, NotApplicable, moved, random_states
from defenses.base import Defense
from defenses.randomness import generator

CLOSE = 1e-5
"""What another batch's rounding may change in a candidate's pixel."""

_BROKEN = 0.5
"""Share of images that even a random search breaks where a whole box may be searched (ours)."""


@dataclass(frozen=True)
class AttackTrial:
    """An attack, a defense that it applies to, images and budgets.

    Args:
        x: (N, C, H, W) in [0, 1], N at least 5.
        epsilons: ascending; the first is 0, and the last lets every image be broken.
    """

    attack: Attack
    defense: Defense
    x: Tensor
    epsilons: Sequence[float]

    def labels(self, x: Tensor) -> Tensor:
        """The classes (N,) that the defense gives."""
        return self.defense.decide(x, generator(0)).classes

    def candidates(self, x: Tensor, seed: int = 0) -> Tensor:
        """(E, N, C, H, W) for images that the defense classifies as it does."""
        return self.attack(self.defense, x, self.labels(x), self.epsilons, generator(seed))


def _stays_in_ball_and_box(trial: AttackTrial) -> Finding:
    x = trial.x[:5]
    for images in (x, (x > x.mean()).to(x.dtype)):
        candidates = trial.candidates(images)
        wanted = (len(trial.epsilons), *images.shape)
        if tuple(candidates.shape) != wanted:
            return (
                f"candidates must have shape {wanted}, one image per epsilon and image, got "
                f"{tuple(candidates.shape)}; stack them"
            )
        if not bool(candidates.isfinite().all()):
            return "candidates must be finite, got NaN or infinity; return x where nothing is found"
        if not bool(((candidates >= 0) & (candidates <= 1)).all()):
            return (
                f"candidates must stay in [0, 1], got {float(candidates.min()):g} to "
                f"{float(candidates.max()):g}; clip them"
            )
        for epsilon, points in zip(trial.epsilons, candidates, strict=True):
            distance = trial.attack.norm.distance(images, points)
            if not bool((distance <= torch.tensor(epsilon, dtype=distance.dtype)).all()):
                return (
                    f"candidates must stay within epsilon, got {trial.attack.norm} distance "
                    f"{float(distance.max()):.8g} for {epsilon:g}; end with norm.project"
                )
    return None


def _leaves_inputs_and_weights_alone(trial: AttackTrial) -> Finding:
    x, defense = trial.x[:3].clone(), trial.defense
    y = trial.labels(x)
    kept = x.clone(), y.clone()
    weights = {name: tensor.clone() for name, tensor in defense.state_dict().items()}
    frozen = [weight.requires_grad for weight in defense.parameters()]
    trial.attack(defense, x, y, trial.epsilons, generator(0))
    if not (torch.equal(x, kept[0]) and torch.equal(y, kept[1])) or x.requires_grad:
        return "images and labels must be left as they are, got them changed; clone them first"
    after = defense.state_dict()
    changed = [name for name, tensor in weights.items() if not torch.equal(tensor, after[name])]
    if changed or frozen != [weight.requires_grad for weight in defense.parameters()]:
        return "the defense must be left as it is, got other weights; train nothing, freeze nothing"
    if any(weight.grad is not None for weight in defense.parameters()):
        return (
            "weights must get no gradient, got one; use torch.autograd.grad with respect to the "
            "images instead of backward()"
        )
    return None


def _leaves_global_randomness_alone(trial: AttackTrial) -> Finding:
    before = random_states()
    trial.candidates(trial.x[:3])
    return moved(before)


def _depends_on_its_generator_alone(trial: AttackTrial) -> Finding:
    x = trial.x[:3]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = trial.candidates(x, 7)
        torch.manual_seed(2)
        other = trial.candidates(x, 7)
    if not torch.equal(one, other):
        return (
            "candidates must be a function of the generator, got "
            f"{float((one - other).abs().max()):.3g} difference for the same seed; draw from the "
            "generator that the attack is given"
        )
    return None


def _finds_alike_in_any_batch(trial: AttackTrial) -> Finding:
    x = trial.x[:5]
    together = trial.candidates(x, 3)
    for rows in ([2, 0], [4], [1, 3, 2, 0, 4]):
        apart = trial.candidates(x[rows], 3)
        if not torch.allclose(apart, together[:, rows], atol=CLOSE):
            return (
                "an image's candidates must not depend on its batch, got "
                f"{float((apart - together[:, rows]).abs().max()):.3g} difference for images {rows}"
                " of 5; use no mean over the batch, and noise of each image's own "
                "(defenses.randomness.noise_like_rows)"
            )
    return None


def _refuses_bad_input(trial: AttackTrial) -> Finding:
    x = trial.x[:2]
    y = trial.labels(x)
    bright, void = x.clone(), x.clone()
    bright[0, 0, 0, 0], void[0, 0, 0, 0] = 1.5, math.nan
    cases = {
        "a pixel of 1.5": (bright, (0.1,)),
        "a pixel that is NaN": (void, (0.1,)),
        "a negative epsilon": (x, (-0.1,)),
        "an epsilon that is NaN": (x, (math.nan,)),
        "epsilons in descending order": (x, (0.2, 0.1)),
    }
    for what, (images, epsilons) in cases.items():
        try:
            trial.attack(trial.defense, images, y, epsilons, generator(0))
        except ValueError:
            continue
        return f"{what} must be a ValueError, got an answer; begin with self.check(x, epsilons)"
    return None


def _breaks_an_undefended_network(trial: AttackTrial) -> Finding:
    if trial.defense.can_reject:
        return NotApplicable("the network that it is shown may reject")
    x = trial.x
    y = trial.labels(x)
    points = trial.candidates(x)[-1]
    broken = trial.attack.goal.lead(trial.defense.decide(points, generator(9)), y) > 0
    if float(broken.float().mean()) < _BROKEN:
        return (
            f"an undefended network must be broken at epsilon {trial.epsilons[-1]:g}, got "
            f"{int(broken.sum())} of {len(x)} images; what the attack does not find elsewhere "
            "means nothing"
        )
    return None


ATTACK_CHECKS: Mapping[str, Callable[[AttackTrial], Finding]] = {
    "stays in ball and box": _stays_in_ball_and_box,
    "leaves images, labels and weights as they are": _leaves_inputs_and_weights_alone,
    "leaves global randomness alone": _leaves_global_randomness_alone,
    "is a function of its generator alone": _depends_on_its_generator_alone,
    "finds alike in any batch and order": _finds_alike_in_any_batch,
    "refuses pixels and budgets out of range": _refuses_bad_input,
    "breaks an undefended network": _breaks_an_undefended_network,
}


def budgets(norm: Norm, shape: tuple[int, int, int]) -> tuple[float, ...]:
    """Radii to check an attack with: nothing, little, some, and the whole box."""
    if norm is Norm.UNRESTRICTED:
        return (0.0, math.inf)
    if norm is Norm.L0:
        return (0.0, 1.0, 3.0, norm.largest(shape))
    return (0.0, *(share * norm.largest(shape) for share in (0.02, 0.1, 1.0)))
