"""What every defense and every attack promises, as checks that say in words what is broken.

A check returns None where the promise is kept, a sentence where it is not (what was expected, what
was seen, what to do), or `NotApplicable`. The test suite asks them of everything registered, and
``python -m benchmark.conform`` of what is not.
"""

import pickle
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.work import Load
from defenses.base import Defense
from defenses.randomness import generator

TOLERANCE = 1e-4
"""Relative and absolute: what another batch's rounding may change in a logit."""

_SCALE = 255
_SUSPICIOUS = 0.5
"""A network that is so much more often right on pixels up to 255 wants those (our choice)."""
_AGREEING = 0.5
"""Share of clean images on which an approximate surrogate names the deployed class (our choice)."""


@dataclass(frozen=True)
class NotApplicable:
    """There is nothing to check, for this reason."""

    reason: str


Finding = str | NotApplicable | None


@dataclass(frozen=True)
class DefenseTrial:
    """A defense and the images on which it is checked.

    Args:
        load: makes it; must be picklable. Every check gets its own.
        x: (N, C, H, W) in [0, 1], N at least 3.
        y: (N,) labels; None where they mean nothing, as for untrained networks.
    """

    load: Load
    x: Tensor
    y: Tensor | None = None

    @property
    def defense(self) -> Defense:
        """A fresh one, on the CPU."""
        return self.load("cpu")


def _gives_finite_logits(trial: DefenseTrial) -> Finding:
    defense, count = trial.defense, len(trial.x)
    before = defense.cost.copy()
    logits = defense.decide(trial.x, generator(0)).logits
    if tuple(logits.shape) != (count, defense.num_classes):
        return (
            f"logits must have shape {(count, defense.num_classes)}, got {tuple(logits.shape)}; "
            "return one logit per class, and say in num_classes how many there are"
        )
    counted = (defense.cost - before).forward
    if counted != count:
        return f"{count} calls must be counted, got {counted}; leave cost alone"
    return _finite(logits)


def _accepts_the_whole_box(trial: DefenseTrial) -> Finding:
    defense = trial.defense
    corners = torch.stack([torch.full_like(trial.x[0], value) for value in (0.0, 0.5, 1.0)])
    corners = torch.cat([corners, (trial.x[:1] > trial.x[:1].mean()).to(trial.x.dtype)])
    found = _finite(defense.decide(corners, generator(0)).logits)
    return found and f"{found} (on black, grey, white and two-toned images)"


def _expects_pixels_up_to_one(trial: DefenseTrial) -> Finding:
    if trial.y is None:
        return NotApplicable("no labels")
    right, scaled = (
        float((trial.defense.decide(x, generator(0)).classes == trial.y).float().mean())
        for x in (trial.x, trial.x * _SCALE)
    )
    if scaled > right + _SUSPICIOUS:
        return (
            f"pixels must be expected in [0, 1], got {right:.0%} right on those and {scaled:.0%} "
            "on pixels up to 255; scale inside the module"
        )
    return None


def _is_stochastic_where_it_says_so(trial: DefenseTrial) -> Finding:
    defense, x = trial.defense, trial.x[:3]
    first, again, second = (defense.decide(x, generator(seed)).logits for seed in (1, 1, 2))
    if not torch.equal(first, again):
        return (
            f"answers must be a function of the generator, got logits {_apart(first, again)} apart "
            "for the same seed; draw from the generator that decide is given "
            "(defenses.randomness.noise_like_rows)"
        )
    differ = not torch.equal(first, second)
    if differ and not defense.stochastic:
        return (
            f"a defense with stochastic = False must answer alike under any seed, got logits "
            f"{_apart(first, second)} apart; set stochastic = True"
        )
    if defense.stochastic and not differ:
        return (
            "a defense with stochastic = True must answer otherwise under another seed, got the "
            "same logits; set stochastic = False, or draw from the generator"
        )
    return None


def _answers_alike_in_any_batch(trial: DefenseTrial) -> Finding:
    defense, x = trial.defense, trial.x
    together = defense.decide(x, generator(3)).logits
    backwards = defense.decide(x.flip(0), generator(3)).logits.flip(0)
    alone = torch.cat([defense.decide(row, generator(3)).logits for row in x.split(1)])
    for how, logits in (("in reverse order", backwards), ("one by one", alone)):
        if not _close(logits, together):
            return (
                f"an image's logits must not depend on its batch, got {_apart(logits, together)} "
                f"difference {how}; use no statistics of the batch, and noise of each image's own "
                "(defenses.randomness.noise_like_rows)"
            )
    return None


def _rejects_only_if_it_can(trial: DefenseTrial) -> Finding:
    defense = trial.defense
    decision = defense.decide(trial.x, generator(0))
    if decision.rejected.shape != (len(trial.x),) or decision.rejected.dtype is not torch.bool:
        return (
            f"rejected must be bool of shape ({len(trial.x)},), got {decision.rejected.dtype} of "
            f"shape {tuple(decision.rejected.shape)}; return one answer per image"
        )
    refused = int(decision.rejected.sum())
    if refused and not defense.can_reject:
        return (
            f"a defense with can_reject = False must accept all, got {refused} of {len(trial.x)} "
            "refused; set can_reject = True"
        )
    for name in defense.surrogate_names:
        with torch.no_grad():
            _, margin = defense.surrogate(name, generator(0))(trial.x)
        if not defense.can_reject and not bool((margin <= 0).all()):
            return (
                f"the margin of surrogate {name!r} must be at most 0 with can_reject = False, got "
                f"{float(margin.max()):g}; return defenses.base.never_rejects(x)"
            )
    return None


def _has_surrogates(trial: DefenseTrial) -> Finding:
    defense = trial.defense
    if not defense.surrogate_names:
        return "surrogate_names must hold at least one, got none; name a differentiable view"
    for name in defense.surrogate_names:
        with torch.no_grad():
            logits, margin = defense.surrogate(name, generator(0))(trial.x[:2])
        if tuple(logits.shape) != (2, defense.num_classes) or tuple(margin.shape) != (2,):
            return (
                f"surrogate {name!r} must give (2, {defense.num_classes}) logits and (2,) margins "
                f"for two images, got {tuple(logits.shape)} and {tuple(margin.shape)}; return both"
            )
    return None


def _surrogates_give_gradients(trial: DefenseTrial) -> Finding:
    defense = trial.defense
    for name in defense.surrogate_names:
        x = trial.x[:2].clone().requires_grad_()
        best = defense.surrogate(name, generator(0))(x)[0].topk(2, dim=1).values
        lead = (best[:, 0] - best[:, 1]).sum()
        gradient = None
        if lead.requires_grad:
            (gradient,) = torch.autograd.grad(lead, x, allow_unused=True)
        if gradient is None:
            return (
                f"surrogate {name!r} must be differentiable in the images, got no gradient; drop "
                "detach and no_grad, or give a differentiable stand-in (BPDA)"
            )
        if not bool(gradient.isfinite().all()):
            return f"gradients of surrogate {name!r} must be finite, got NaN or infinity; mend it"
        if not bool(gradient.any()):
            return (
                f"gradients of surrogate {name!r} must not vanish, got 0 for every pixel; attacks "
                "on it are blind: replace rounding, saturation and argmax by something smooth"
            )
    if defense.cost.backward != 2 * len(defense.surrogate_names):
        return f"every gradient must be counted once, got {defense.cost.backward}; leave cost alone"
    return None


def _surrogate_agrees_with_the_answer(trial: DefenseTrial) -> Finding:
    defense = trial.defense
    if defense.stochastic:
        return NotApplicable("the defense is stochastic")
    name = defense.surrogate_names[0]
    answer = defense.decide(trial.x, generator(0))
    with torch.no_grad():
        logits, _ = defense.surrogate(name, generator(0))(trial.x)
    if name == "exact" and not _close(logits, answer.logits):
        return (
            f"surrogate 'exact' must give the deployed logits, got {_apart(logits, answer.logits)} "
            "difference on clean images; mend it, or give it another name"
        )
    share = float((logits.argmax(dim=1) == answer.classes).float().mean())
    if share < _AGREEING:
        return (
            f"surrogate {name!r} must agree with the deployed answer, got {share:.0%} of the clean "
            "images; attacks on it aim at another network"
        )
    return None


def _leaves_images_alone(trial: DefenseTrial) -> Finding:
    defense, x = trial.defense, trial.x.clone()
    defense.decide(x, generator(0))
    with torch.no_grad():
        for name in defense.surrogate_names:
            defense.surrogate(name, generator(0))(x)
    if not torch.equal(x, trial.x):
        return "images must be left as they are, got them changed in place; copy them first"
    return None


def _leaves_global_randomness_alone(trial: DefenseTrial) -> Finding:
    defense = trial.defense
    before = random_states()
    defense.decide(trial.x, generator(0))
    defense.surrogate(None, generator(0))(trial.x)
    return moved(before)


def _is_loaded_frozen(trial: DefenseTrial) -> Finding:
    defense = trial.defense
    training = [name for name, module in defense.named_modules() if module.training]
    if training:
        return (
            f"every part must be in evaluation mode once loaded, got training mode in "
            f"{', '.join(name or 'the defense' for name in training)}; do not override train()"
        )
    free = [name for name, weight in defense.named_parameters() if weight.requires_grad]
    if free:
        return f"weights must be frozen once loaded, got gradients for {', '.join(free)}"
    before = {name: tensor.clone() for name, tensor in defense.state_dict().items()}
    defense.decide(trial.x, generator(0))
    after = defense.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    if changed:
        return f"an answer must not change the defense, got another {', '.join(changed)}; drop that"
    return None


def _is_the_same_when_loaded_again(trial: DefenseTrial) -> Finding:
    first = trial.defense
    again: Defense = pickle.loads(pickle.dumps(trial.load))("cpu")
    again.load_state_dict(first.state_dict())
    one, other = (each.decide(trial.x, generator(0)).logits for each in (first, again))
    if not _close(one, other):
        return (
            f"a defense that is loaded again with the same state_dict must answer alike, got "
            f"{_apart(one, other)} difference; keep all that it learned in parameters and buffers"
        )
    return None


DEFENSE_CHECKS: Mapping[str, Callable[[DefenseTrial], Finding]] = {
    "gives one finite logit per class": _gives_finite_logits,
    "answers everywhere in the box": _accepts_the_whole_box,
    "expects pixels in [0, 1]": _expects_pixels_up_to_one,
    "is stochastic exactly where it says so": _is_stochastic_where_it_says_so,
    "answers alike in any batch and order": _answers_alike_in_any_batch,
    "rejects only if it says that it can": _rejects_only_if_it_can,
    "has the surrogates that it names": _has_surrogates,
    "has surrogates with finite gradients that do not vanish": _surrogates_give_gradients,
    "has a surrogate that agrees with its answers": _surrogate_agrees_with_the_answer,
    "leaves images as they are": _leaves_images_alone,
    "leaves global randomness alone": _leaves_global_randomness_alone,
    "is in evaluation mode, frozen and unchanged by answers": _is_loaded_frozen,
    "is the same when loaded in another process": _is_the_same_when_loaded_again,
}


def random_states() -> tuple[bytes, ...]:
    """The global random states of torch, NumPy and Python."""
    return (
        torch.get_rng_state().numpy().tobytes(),
        pickle.dumps(np.random.get_state()),
        pickle.dumps(random.getstate()),
    )


def moved(before: tuple[bytes, ...]) -> Finding:
    """What is wrong where something has drawn from a global generator since."""
    pairs = zip(("torch", "NumPy", "Python"), before, random_states(), strict=True)
    drawn = [name for name, one, other in pairs if one != other]
    if drawn:
        return (
            f"global randomness must be left alone, got draws from that of {' and '.join(drawn)}; "
            "draw from the generator that you are given"
        )
    return None


def _finite(logits: Tensor) -> str | None:
    count = int((~logits.isfinite()).any(dim=1).sum())
    if count:
        return f"logits must be finite, got NaN or infinity for {count} of {len(logits)} images"
    return None


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _apart(one: Tensor, other: Tensor) -> str:
    return f"{float((one - other).abs().max()):.3g}"
