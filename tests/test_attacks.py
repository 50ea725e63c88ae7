"""What every registered attack promises, whatever it does inside."""

import dataclasses
import logging
import math

import pytest
import torch

from attacks import ATTACKS, SUITES
from attacks.base import Attack
from attacks.eot import View
from attacks.from_foolbox import PGD
from attacks.sources import Trained
from attacks.strongest import Strongest
from attacks.threat import Norm
from benchmark.attack_contracts import ATTACK_CHECKS, AttackTrial
from defenses.randomness import generator
from tests.linear import (
    Decoding,
    Linear,
    Mixture,
    Noisy,
    Prototypes,
    Rejecting,
    images,
    labels,
    random_linear,
)

TINY_ROUNDS = {"steps": 12, "initial_const": 0.1, "const_factor": 8.0, "refresh": 10}
TWIN = Trained("twin", "", "", lambda device: Linear(*random_linear()))
TINY = {
    "pgd-linf": {"steps": 4, "restarts": 2},
    "pgd-l2": {"steps": 4, "restarts": 2},
    "deepfool-linf": {"steps": 3},
    "deepfool-l2": {"steps": 3},
    "noise-linf": {"repeats": 3},
    "noise-l2": {"repeats": 3},
    "ddn": {"steps": 12},
    "cw-l2": {"binary_search_steps": 4, "steps": 12, "stepsize": 0.05, "initial_const": 0.1},
    "cw-linf": {**TINY_ROUNDS, "rate": 0.03, "largest_const": 20.0, "decrease": 0.8},
    "cw-l0": {**TINY_ROUNDS, "rate": 0.2, "largest_const": 100.0},
    "boundary": {"steps": 60},
    "square-linf": {"queries": 60, "seeds": 2},
    "square-l2": {"queries": 60, "seeds": 2},
    "hopskipjump-l2": {"steps": 3, "initial_gradient_eval_steps": 20, "seeds": 2},
    "hopskipjump-linf": {"steps": 3, "initial_gradient_eval_steps": 20, "seeds": 2},
    "fmn-linf": {"steps": 12},
    "fmn-l2": {"steps": 12},
    "fmn-l1": {"steps": 12},
    "fmn-l0": {"steps": 12},
    "fab-linf": {"steps": 12},
    "fab-l2": {"steps": 12},
    "fab-l1": {"steps": 12},
    "pgd-estimated-linf": {"steps": 4, "samples": 6, "relative_step": 0.5},
    "bim": {"steps": 4},
    "mim-linf": {"steps": 4},
    **{name: {"steps": 12, "restarts": 2, "recheck": 4} for name in ATTACKS if "apgd" in name},
    "single-pixel": {"max_pixels": 8, "abreast": 5},
    "transfer-fgsm": {"trained": TWIN},
    "transfer-bim": {"trained": TWIN},
    "transfer-pgd-linf": {
        "trained": TWIN,
        "crafting": PGD(norm=Norm.LINF, steps=4, relative_step=0.4),
    },
    "transfer-pgd-l2": {"trained": TWIN, "crafting": PGD(norm=Norm.L2, steps=4, relative_step=0.4)},
    "overpowered-l2": {"steps": 60, "starts": 2, "noise_samples": 2, "noise_norm": 0.1},
    "overpowered-unrestricted": {"steps": 60, "starts": 2, "noise_samples": 2, "noise_norm": 0.1},
    "overpowered-pairs": {"steps": 60, "starts": 2, "asks": 2},
    "latent-descent": {"coarse_steps": 10, "binary_steps": 4},
    "threshold-aware-l2": {"steps": 40, "rate": 0.03},
    "threshold-aware-printed-l2": {"steps": 40, "rate": 0.03},
    "threshold-hinge-linf": {"steps": 8, "relative_step": 0.4},
    "threshold-hinge-l2": {"steps": 8, "relative_step": 0.4},
    "threshold-selective-linf": {"steps": 16, "relative_step": 0.3},
    "threshold-selective-l2": {"steps": 16, "relative_step": 0.3},
    "threshold-orthogonal-linf": {"steps": 16, "relative_step": 0.3},
    "threshold-orthogonal-l2": {"steps": 16, "relative_step": 0.3},
    "feature-matching-linf": {"steps": 16, "relative_step": 0.3},
    "feature-matching-l2": {"steps": 16, "relative_step": 0.3},
    "fooling": {"steps": 40, "rate": 0.03},
    "fooling-printed": {"steps": 40, "rate": 0.03},
    "refusal-linf": {"steps": 6, "relative_step": 0.4},
    "refusal-l2": {"steps": 6, "relative_step": 0.4},
}
EPSILONS = {
    Norm.LINF: (0.0, 0.02, 0.06, 0.3),
    Norm.L2: (0.0, 0.1, 0.3, 2.0),
    Norm.L1: (0.0, 0.2, 0.6, 6.0),
    Norm.L0: (0.0, 1.0, 3.0, 16.0),
    Norm.UNRESTRICTED: (0.0, 1.0, 3.0, math.inf),
}

every_attack = pytest.mark.parametrize("name", ATTACKS)


def tiny(name: str) -> Attack:
    attack = ATTACKS[name]
    if isinstance(attack, Strongest):
        return attack.composed(lambda member: tiny(member.partition("@")[0]))
    return dataclasses.replace(ATTACKS[name], view=View(samples=2), **TINY.get(name, {}))


def prototypes() -> Prototypes:
    rng = torch.Generator().manual_seed(5)
    return Prototypes(torch.rand(4, 1, 4, 4, generator=rng))


def defenses_for(name: str):
    """A deterministic, a stochastic and a rejecting defense, or such as the attack applies to."""
    if name == "latent-descent":
        return {"prototypes": prototypes()}
    if name.startswith("overpowered"):
        return {"decoding": Decoding(*random_linear())}
    if "printed" in name:  # blind where the covariance is not the identity
        return {"mixture": Mixture(variance=1.0, tau_enc=1.0)}
    if name.startswith(("threshold", "fooling", "feature")):
        return {"mixture": Mixture()}
    weight, bias = random_linear()
    axis = torch.randn(16, generator=torch.Generator().manual_seed(9))
    if name.startswith("refusal"):
        return {"rejecting": Rejecting(weight, bias, axis, 0.8), "mixture": Mixture()}
    return {
        "linear": Linear(weight, bias),
        "noisy": Noisy(weight, bias),
        "rejecting": Rejecting(weight, bias, axis, 0.8),
    }


def cases():
    return [
        pytest.param(name, kind, id=f"{name}-{kind}")
        for name in ATTACKS
        for kind in defenses_for(name)
    ]


every_case = pytest.mark.parametrize(("name", "kind"), cases())


@pytest.mark.parametrize("promise", ATTACK_CHECKS)
@every_case
def test_attack_keeps_its_promise(name, kind, promise):
    attack, defense = tiny(name), defenses_for(name)[kind]
    trial = AttackTrial(attack, defense, images(5), EPSILONS[attack.norm])
    finding = ATTACK_CHECKS[promise](trial)
    assert not isinstance(finding, str), finding


@every_attack
def test_the_root_logger_is_untouched(name):
    attack = tiny(name)
    defense = next(iter(defenses_for(name).values()))
    x = images(3)
    handlers = list(logging.getLogger().handlers)
    attack(defense, x, labels(defense, x), EPSILONS[attack.norm], generator(0))
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize("name", ["pgd-linf", "pgd-l2", "noise-l2", "noise-linf", "boundary"])
def test_candidates_of_random_attacks_differ_between_seeds(name):
    attack, defense = tiny(name), defenses_for(name)["linear"]
    x = images(3)
    y = labels(defense, x)
    one, two = (attack(defense, x, y, EPSILONS[attack.norm], generator(s)) for s in (1, 2))
    assert not torch.equal(one, two)


@every_attack
def test_candidates_keep_the_precision_of_the_images(name):
    attack = tiny(name)
    defense = next(iter(defenses_for(name).values())).double()
    x = images(2).double()
    candidates = attack(defense, x, labels(defense, x), EPSILONS[attack.norm], generator(0))
    assert candidates.dtype == torch.float64
    assert candidates.device == x.device


@every_attack
def test_accuracy_falls_with_epsilon_and_reaches_zero(name):
    attack = tiny(name)
    defense = next(iter(defenses_for(name).values()))
    x = images(8)
    y = labels(defense, x)
    epsilons = {
        Norm.LINF: (0.01, 0.05, 0.2, 1.0),
        Norm.L2: (0.05, 0.2, 0.8, 4.0),
        Norm.L1: (0.1, 0.4, 2.0, 16.0),
        Norm.L0: (0.0, 1.0, 3.0, 16.0),
        Norm.UNRESTRICTED: (math.inf,),
    }[attack.norm]
    candidates = attack(defense, x, y, epsilons, generator(0))
    answers = [defense.decide(each, generator(9)) for each in (x, *candidates)]
    broken = torch.stack([attack.goal.lead(answer, y) > 0 for answer in answers])
    assert not broken[0].any(), "nothing is broken before the attack"
    assert (broken[1:] | ~broken[:-1]).all(), "a break at one budget must be one at every larger"
    if len(epsilons) > 1:
        assert broken[-1].sum() > broken[1].sum()
    if not name.startswith(("noise", "cw", "deepfool")):
        assert broken[-1].all()


@every_attack
def test_an_empty_batch_gives_empty_candidates(name):
    attack = tiny(name)
    defense = next(iter(defenses_for(name).values()))
    x = images(3)[:0]
    candidates = attack(
        defense, x, torch.zeros(0, dtype=torch.long), EPSILONS[attack.norm], generator(0)
    )
    assert candidates.shape == (4, 0, 1, 4, 4)


@pytest.mark.parametrize("name", ["pgd-l2", "ddn"])
@pytest.mark.parametrize(
    ("pixels", "epsilons", "message"),
    [
        (1.5, (0.1,), r"x must be in \[0, 1\], got values from .* to 1.5"),
        (float("nan"), (0.1,), r"x must be in \[0, 1\]"),
        (0.5, (-0.1,), r"epsilons must be finite and not negative, got \[-0.1\]"),
        (0.5, (float("nan"),), "epsilons must be finite"),
        (0.5, (0.2, 0.1), r"epsilons must ascend, got \[0.2, 0.1\]"),
    ],
)
def test_pixels_and_budgets_out_of_range_are_refused(name, pixels, epsilons, message):
    x = images(2)
    x[0, 0, 0, 0] = pixels
    with pytest.raises(ValueError, match=message):
        tiny(name)(Linear(*random_linear()), x, torch.zeros(2).long(), epsilons, generator(0))


@every_attack
def test_repr_names_every_setting(name):
    attack = ATTACKS[name]
    for field in dataclasses.fields(attack):
        assert f"{field.name}=" in repr(attack)


def test_registry_holds_the_published_parameters():
    for name in ("pgd-linf", "pgd-l2"):
        assert (ATTACKS[name].steps, ATTACKS[name].restarts) == (80, 20)
    assert ATTACKS["ddn"].steps == 80
    assert (ATTACKS["cw-l2"].binary_search_steps, ATTACKS["cw-l2"].steps) == (5, 100)
    assert ATTACKS["cw-linf"].steps == ATTACKS["cw-l0"].steps == 1000
    assert (ATTACKS["cw-linf"].rate, ATTACKS["cw-linf"].decrease) == (5e-3, 0.9)
    assert (ATTACKS["cw-linf"].initial_const, ATTACKS["cw-linf"].largest_const) == (1e-5, 20)
    assert (ATTACKS["cw-l0"].rate, ATTACKS["cw-l0"].frozen_share) == (1e-2, 0.3)
    assert (ATTACKS["cw-l0"].initial_const, ATTACKS["cw-l0"].largest_const) == (1e-3, 2e6)
    assert ATTACKS["deepfool-l2"].steps == ATTACKS["deepfool-linf"].steps == 100
    assert ATTACKS["boundary"].steps == 100_000
    assert ATTACKS["pgd-estimated-linf"].steps == 50
    gradient = ("pgd-linf", "pgd-l2", "ddn", "cw-l2", "deepfool-l2", "deepfool-linf")
    gradient += ("cw-linf", "cw-l0")
    assert {ATTACKS[name].view.samples for name in gradient} == {5}


def test_suites_name_registered_attacks_of_one_norm():
    for members in SUITES.values():
        assert set(members) <= set(ATTACKS)
    assert {ATTACKS[name].norm for name in SUITES["all_linf"]} == {Norm.LINF}
    assert {ATTACKS[name].norm for name in SUITES["all_l2"]} == {Norm.L2}
    left_out = {n for n, a in ATTACKS.items() if a.norm is Norm.L1 or isinstance(a, Strongest)}
    assert set(ATTACKS) - set(SUITES["all"]) == left_out
    assert list(SUITES["all"]) == [name for name in ATTACKS if name in SUITES["all"]]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("pgd-l2", "restarts", 0),
        ("pgd-l2", "restarts", -1),
        ("pgd-l2", "relative_step", float("nan")),
        ("ddn", "gamma", -0.1),
        ("ddn", "norm", Norm.LINF),
        ("deepfool-l2", "candidates", 1),
        ("pgd-estimated-linf", "samples", 5),
        ("boundary", "confirmations", 0),
        ("cw-linf", "decrease", 1.0),
        ("cw-linf", "decrease", 0.0),
        ("cw-linf", "const_factor", 1.0),
        ("cw-l0", "initial_const", 0.0),
        ("cw-l0", "largest_const", 1e-3),
        ("cw-l0", "inset", 0.0),
        ("cw-l0", "inset", 1.0),
        ("cw-l0", "norm", Norm.L2),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got .*; "):
        dataclasses.replace(ATTACKS[name], **{field: value})


def test_a_view_of_no_samples_is_refused():
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        View(samples=0)


def test_latent_descent_names_what_a_defense_lacks():
    attack = ATTACKS["latent-descent"]
    assert attack.needs(prototypes()) is None
    assert attack.needs(Linear(*random_linear())) == (
        "Linear has no reconstruction per class to descend toward"
    )


def test_threshold_aware_attacks_name_what_a_defense_lacks():
    attack = ATTACKS["threshold-aware-l2"]
    assert attack.needs(Mixture()) is None
    for name in ("threshold-aware-l2", "threshold-hinge-linf", "feature-matching-l2", "fooling"):
        assert ATTACKS[name].needs(Linear(*random_linear())) == (
            "Linear has no differentiable thresholds to stay within"
        )


def test_availability_attacks_need_a_defense_that_may_reject():
    attack = ATTACKS["refusal-l2"]
    assert attack.needs(Mixture()) is None
    assert attack.needs(Linear(*random_linear())) == "Linear never rejects"


def test_overpowered_attacks_name_what_a_defense_lacks():
    attack = ATTACKS["overpowered-l2"]
    assert attack.needs(Decoding(*random_linear())) is None
    assert attack.needs(Linear(*random_linear())) == (
        "Linear has no decoder whose latents could be searched"
    )


def test_transfer_names_the_source_that_nobody_handed_over():
    assert tiny("transfer-fgsm").needs(Linear(*random_linear())) is None
    assert "'cnn'" in ATTACKS["transfer-fgsm"].needs(Linear(*random_linear()))


@pytest.mark.parametrize("name", ["overpowered-l2", "transfer-fgsm"])
def test_an_attack_without_use_for_a_view_says_so(name):
    attack = dataclasses.replace(tiny(name), view=View(surrogate="classifier"))
    assert "'classifier'" in attack.needs(Decoding(*random_linear()))


_PARTICULAR = ("latent", "overpowered", "threshold", "feature", "fooling", "refusal", "transfer")


def test_other_attacks_need_nothing():
    for name, attack in ATTACKS.items():
        if not name.startswith(_PARTICULAR):
            assert attack.needs(Linear(*random_linear())) is None
