"""Attacks on defenses whose nearest adversarial example is known in closed form."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks import ATTACKS
from attacks.eot import View
from attacks.evasion import evades
from attacks.from_foolbox.descent import estimated_gradient
from attacks.random_directions import uniform_in_ball
from attacks.threat import Norm
from defenses.randomness import generator, noise_like_rows
from tests.linear import (
    Linear,
    Noisy,
    Prototypes,
    Scripted,
    at_distance,
    exact_distance,
    images,
    labels,
    random_linear,
)

CLOSE = {
    "pgd-linf": ({"restarts": 1}, 0.01),
    "pgd-l2": ({"restarts": 1}, 0.1),
    "fgsm": ({}, 1e-3),
    "rand-fgsm": ({"alpha": 0.0}, 1e-3),
    "bim": ({}, 1e-3),
    "deepfool-l2": ({"steps": 20}, 0.025),
    "deepfool-linf": ({"steps": 20}, 0.025),
    "ddn": ({"steps": 80}, 0.05),
    "cw-l2": ({"binary_search_steps": 6, "steps": 100, "initial_const": 0.01}, 0.1),
    "cw-linf": (
        {"steps": 100, "rate": 1e-3, "initial_const": 0.1, "decrease": 0.98, "refresh": 50},
        0.02,
    ),
    "pgd-estimated-linf": ({"relative_step": 0.1, "samples": 60}, 0.1),
    "boundary": ({"steps": 2500}, 0.15),
    "hopskipjump-l2": ({"steps": 10, "initial_gradient_eval_steps": 50}, 0.1),
    "hopskipjump-linf": ({"steps": 10, "initial_gradient_eval_steps": 50}, 0.5),
    "fmn-linf": ({"steps": 50}, 0.01),
    "fmn-l2": ({"steps": 50}, 0.01),
    "fab-linf": ({"steps": 30}, 0.01),
    "fab-l2": ({"steps": 30}, 0.01),
}
DISTANCE = {Norm.LINF: 0.03, Norm.L2: 0.12}


def broken_at(attack, defense, x, y, epsilons):
    candidates = attack(defense, x, y, epsilons, generator(0))
    return torch.stack([evades(defense, each, y, generator(1)) for each in candidates])


@pytest.mark.parametrize("name", CLOSE)
def test_attack_breaks_a_linear_defense_exactly_beyond_its_distance(name):
    fields, slack = CLOSE[name]
    attack = dataclasses.replace(ATTACKS[name], **fields)
    distance = DISTANCE[attack.norm]
    defense, x = at_distance(distance, attack.norm)
    y = labels(defense, x)
    measured = exact_distance(defense, x, y, attack.norm)
    assert torch.allclose(measured, torch.full((len(x),), distance), rtol=1e-4)
    inside, outside = distance * 0.999, distance * (1 + slack)
    broken = broken_at(attack, defense, x, y, (inside, outside))
    assert not broken[0].any()
    assert broken[1].all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["deepfool-l2", "deepfool-linf"])
def test_deepfool_finds_the_nearest_of_several_classes(name, seed):
    attack, slack = ATTACKS[name], 0.05
    defense = Linear(*random_linear(num_classes=6, seed=3))
    x = images(1, seed=seed)
    y = labels(defense, x)
    distance = exact_distance(defense, x, y, attack.norm).item()
    broken = broken_at(attack, defense, x, y, (distance * 0.999, distance * (1 + slack)))
    assert broken.flatten().tolist() == [False, True]


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e5])
@pytest.mark.parametrize("name", ["pgd-l2", "pgd-linf", "ddn", "fgsm", "pgd-estimated-linf"])
def test_attack_is_as_strong_when_all_logits_are_scaled_up(name, scale):
    fields, slack = CLOSE[name]
    attack = dataclasses.replace(ATTACKS[name], **fields)
    distance = DISTANCE[attack.norm]
    defense, x = at_distance(distance, attack.norm)
    scaled = Linear(defense.weight.detach() * scale, defense.bias.detach() * scale)
    broken = broken_at(attack, scaled, x, labels(defense, x), (distance * (1 + slack),))
    assert broken.all()


def test_foolbox_alone_is_blind_to_a_linear_defense_with_large_logits():
    from foolbox.attacks import L2ProjectedGradientDescentAttack
    from foolbox.criteria import Misclassification
    from foolbox.models import PyTorchModel

    distance = DISTANCE[Norm.L2]
    defense, x = at_distance(distance, Norm.L2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(defense.weight * 1e5)
        model[1].bias.copy_(defense.bias * 1e5)
    attack = L2ProjectedGradientDescentAttack(steps=60, random_start=False)
    _, _, success = attack(
        PyTorchModel(model, bounds=(0, 1), device="cpu"),
        x,
        Misclassification(labels(defense, x)),
        epsilons=2 * distance,
    )
    assert not success.any(), "the fault that `SATURATION` works around is gone from Foolbox"


@pytest.mark.parametrize("seed", range(5))
def test_latent_descent_stops_where_the_line_to_the_other_prototype_is_crossed(seed):
    rng = torch.Generator().manual_seed(seed)
    defense = Prototypes(torch.rand(2, 1, 4, 4, generator=rng))
    own, other = defense.prototypes.detach()
    x, y = own[None] + 0.07 * seed * (other - own), torch.tensor([0])
    crossing = (0.5 - 0.07 * seed) * (other - own).norm().item()
    attack = dataclasses.replace(ATTACKS["latent-descent"], coarse_steps=11, binary_steps=8)
    coarse = (other - x[0]).norm().item() / 11
    broken = broken_at(attack, defense, x, y, (crossing * 0.999, crossing + coarse / 2**7))
    assert broken.flatten().tolist() == [False, True]


def test_latent_descent_takes_the_nearest_other_class():
    prototypes = torch.full((3, 1, 4, 4), 0.5)
    prototypes[1] += 0.4
    prototypes[2, 0, 0, 0] += 0.3
    defense = Prototypes(prototypes)
    attack = ATTACKS["latent-descent"]
    candidates = attack(defense, prototypes[:1], torch.tensor([0]), (1.0,), generator(0))
    assert labels(defense, candidates[0]).tolist() == [2]


def test_estimated_gradient_of_a_quadratic_is_exact_along_a_full_basis():
    torch.manual_seed(0)
    matrix = torch.randn(16, 16, dtype=torch.float64)
    x = 0.5 + 0.1 * torch.randn(3, 1, 4, 4, dtype=torch.float64).clamp(-2, 2)

    def loss(points):
        flat = points.flatten(1)
        return ((flat @ matrix) * flat).sum(dim=1)

    basis = (4 * torch.eye(16, dtype=torch.float64)).reshape(1, 16, 1, 4, 4)
    estimate = estimated_gradient(loss, x, basis.expand(3, -1, -1, -1, -1), 1e-3)
    exact = (x.flatten(1) @ (matrix + matrix.T)).reshape(x.shape)
    assert torch.allclose(estimate, exact, atol=1e-9)


def test_estimated_gradient_of_an_image_ignores_the_losses_of_others():
    x = images(2)
    noise = noise_like_rows(generator(0), x, (8, *x.shape[1:]))
    slope = torch.arange(16.0).reshape(x.shape[1:])
    one = estimated_gradient(lambda p: (p * slope).flatten(1).sum(1), x, noise, 1e-3)
    weights = torch.tensor([1.0, 1e3])
    two = estimated_gradient(lambda p: weights * (p * slope).flatten(1).sum(1), x, noise, 1e-3)
    assert torch.equal(one[0], two[0])


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L1])
def test_random_starts_are_uniform_in_the_ball(norm):
    x = 0.5 + 1e-4 * torch.rand(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    start = uniform_in_ball(norm, x, torch.full((2000,), 0.3), generator(1))
    share = norm.distance(x, start) / 0.3
    assert share.max() <= 1 + 1e-6
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    assert torch.allclose(share.pow(4).quantile(quantiles), quantiles, atol=0.04)
    assert (start - x).mean().abs() < 0.01


def test_eot_averages_away_the_noise_of_a_stochastic_defense():
    defense = Noisy(*random_linear(), std=0.5)
    x = images(1)

    def variance(samples):
        views = [View(samples=samples).of(defense, generator(seed)) for seed in range(60)]
        return torch.stack([view(x)[0] for view in views]).var(dim=0).mean().item()

    assert 10 < variance(1) / variance(16) < 25


def test_eot_asks_a_deterministic_defense_once():
    defense = Linear(*random_linear())
    x = images(3)
    one, many = (View(samples=n).of(defense, generator(0))(x)[0] for n in (1, 5))
    assert torch.equal(one, many)
    assert defense.cost.forward == 6


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=8)
def test_no_attack_beats_the_exact_distance_of_a_linear_defense(seed):
    defense = Linear(*random_linear(num_classes=3, seed=seed))
    x = images(2, seed=seed)
    y = labels(defense, x)
    for name in ("pgd-l2", "deepfool-linf"):
        attack = dataclasses.replace(ATTACKS[name], steps=5)
        distance = exact_distance(defense, x, y, attack.norm)
        epsilon = distance.min().item()
        candidates = attack(defense, x, y, (epsilon * 0.99, epsilon * 3), generator(0))
        for candidate in candidates:
            evading = evades(defense, candidate, y, generator(0))
            beyond = attack.norm.distance(x, candidate) >= distance * 0.999
            assert (beyond | ~evading).all()


@pytest.mark.parametrize(("epsilon", "alpha"), [(0.3, 0.05), (0.06, 0.03)])
def test_rand_fgsm_steps_from_a_random_corner_and_fills_what_is_left_of_the_ball(epsilon, alpha):
    defense, x = at_distance(DISTANCE[Norm.LINF], Norm.LINF)
    seen = []
    view = defense.logits
    defense.logits = lambda points: (seen.append(points.detach()), view(points))[1]
    radii = torch.full((len(x),), epsilon)
    ATTACKS["rand-fgsm"].perturb(defense, x, labels(defense, x), radii, generator(0))
    start, end = (points - x for points in seen[-2:])
    assert torch.allclose(start.abs(), torch.tensor(alpha), atol=1e-6)
    assert 0.3 < (start > 0).float().mean() < 0.7
    slope = (defense.weight[1] - defense.weight[0]).sign().reshape(x.shape[1:])
    step = (epsilon - alpha) * slope
    assert torch.allclose(end, start + step, atol=1e-5)


@pytest.mark.parametrize("confidence", [0.5, 2.0])
def test_carlini_wagner_goes_on_until_the_lead_is_the_confidence(confidence):
    fields = {**CLOSE["cw-l2"][0], "confidence": confidence, "stepsize": 0.02}
    attack = dataclasses.replace(ATTACKS["cw-l2"], **fields)
    defense, x = at_distance(DISTANCE[Norm.L2], Norm.L2)
    slope = (defense.weight[0] - defense.weight[1]).norm().item()
    y = labels(defense, x)
    needed = DISTANCE[Norm.L2] + confidence / slope
    (points,) = attack(defense, x, y, (10.0,), generator(0))
    leads = (defense.logits(points)[:, 1] - defense.logits(points)[:, 0]).detach()
    assert (leads >= confidence).all()
    assert (Norm.L2.distance(x, points) <= needed * 3).all()


def queries_of_bim(defense, view, x, epsilon, **fields):
    """The points (Q, N, ...) that one run asks the defense's method of this name about."""
    seen, answer = [], getattr(defense, view)
    setattr(defense, view, lambda points: (seen.append(points.detach()), answer(points))[1])
    attack = dataclasses.replace(ATTACKS["bim"], steps=20, **fields)
    attack.perturb(defense, x, torch.zeros(len(x)).long(), epsilon, generator(0))
    return torch.stack(seen)


def test_bim_can_step_by_two_epsilon_as_the_robust_manifold_paper_prints_it():
    def lead_falls_beyond_a_little_brighter(points):
        lead = -(points - 0.55).flatten(1).square().sum(dim=1)
        return torch.stack([torch.zeros_like(lead), lead], dim=1)

    defense = Scripted(lead_falls_beyond_a_little_brighter)
    x, epsilon = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0.1, 0.2])
    moved = queries_of_bim(defense, "view", x, epsilon, relative_step=2.0) - x
    corners = epsilon * torch.tensor([1.0, -1.0]).repeat(10)[:, None]
    expected = torch.cat([torch.zeros(1, 2), corners])[..., None, None, None]
    assert torch.allclose(moved, expected.expand_as(moved), atol=1e-5)


def test_bim_can_step_by_a_tenth_of_epsilon_as_its_authors_code_has_it():
    defense, x = at_distance(DISTANCE[Norm.LINF], Norm.LINF)
    epsilon = torch.full((len(x),), 0.2)
    moved = queries_of_bim(defense, "logits", x, epsilon, relative_step=0.1) - x
    lengths = moved.abs().flatten(1).amax(dim=1)
    assert torch.allclose(lengths, (0.02 * torch.arange(21)).clamp_max(0.2), atol=1e-5)
