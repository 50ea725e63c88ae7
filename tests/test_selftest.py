"""The self-test: distances with a slow reference, and attacks that pass or fail by construction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Generator, Tensor
from torch.nn import functional

from attacks.base import Attack
from attacks.eot import View
from attacks.from_foolbox import DDN, PGD, AdditiveNoise
from attacks.overpowered import Overpowered
from attacks.threat import Norm
from benchmark import selftest
from benchmark.datasets import DATASETS
from benchmark.probes import MASKED, UNDEFENDED, Share
from benchmark.selftest import Ground, Planted, Trial, nearest, plant, ridge, self_test
from defenses.base import Defense
from tests import linear
from tests.fakes import Crash


@dataclass(frozen=True, kw_only=True)
class Still(Attack):
    """Gives the images back."""

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    norm: Norm = Norm.LINF

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        return x.repeat(len(epsilons), 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Naive(Still):
    """Signed gradients of the cross-entropy, with nothing against its saturation."""

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        view = self.view.of(defense, rng)
        points = x.clone()
        for _ in range(20):
            points.requires_grad_()
            loss = functional.cross_entropy(view(points)[0], y, reduction="sum")
            (slope,) = torch.autograd.grad(loss, points)
            points = (points + epsilons[0] / 5 * slope.sign()).detach()
            points = Norm.LINF.project(x, points, epsilons[0])
        return points[None]


PGD_LINF = PGD(norm=Norm.LINF, steps=10, relative_step=0.25)


@pytest.fixture(scope="module")
def ground() -> Ground:
    return plant(DATASETS["digits"].load(), seed=0)


def tried(attack, ground):
    return self_test(Trial(attack, ground, 0), "cpu")


def planted(weight, bias):
    return Planted(weight, bias)


def test_ridge_solves_the_normal_equations_in_either_form():
    rng = Generator().manual_seed(0)
    x, y = torch.rand(30, 1, 2, 3, generator=rng), torch.arange(30) % 3
    weight, bias = ridge(x, y, 3)
    flat = x.flatten(1).double() - x.flatten(1).double().mean(dim=0)
    target = functional.one_hot(y, 3).double()
    penalty = 0.01 * flat.square().sum(dim=1).mean() * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(flat.T @ flat + penalty, flat.T @ (target - target.mean(dim=0)))
    assert torch.allclose(weight.double(), expected.T, atol=1e-4)
    mean = x.flatten(1).mean(dim=0)
    assert torch.allclose(weight @ mean + bias, target.mean(dim=0).float(), atol=1e-6)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_away_from_the_box_the_nearest_image_is_where_the_closed_form_says(norm):
    weight, bias = linear.random_linear()
    defense = linear.Linear(weight, bias)
    x = linear.images(8, spread=0.05)
    y = linear.labels(defense, x)
    exact = linear.exact_distance(defense, x, y, norm)
    near = exact < (0.4 if norm is Norm.LINF else 0.6)
    assert near.any()
    found = nearest(planted(weight, bias), x, y, norm)
    assert torch.allclose(found[near], exact[near], atol=1e-5)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L1, Norm.L2])
def test_in_a_corner_of_the_box_a_slow_solver_finds_the_same_distance(norm):
    rng = Generator().manual_seed(3)
    weight = torch.randn(2, 16, generator=rng)
    x = (torch.rand(4, 1, 4, 4, generator=rng) > 0.5).float()
    network = planted(weight, torch.zeros(2))
    y = network.logits(x).argmax(dim=1)
    found = nearest(network, x, y, norm)
    assert found.isfinite().all()
    for image, label, distance in zip(x.flatten(1), y, found, strict=True):
        normal = (weight[1 - label] - weight[label]).double().numpy()
        gap = -float(normal @ image.double().numpy())
        reference, slack = _slow(norm, normal, gap, image.double().numpy())
        assert reference - 1e-4 <= float(distance) <= reference + slack


def _slow(norm, normal, gap, image):
    """The distance by a general solver, and by how much more a whole last pixel may be."""
    box = list(zip(-image, 1 - image, strict=True))
    if norm is Norm.L2:
        solved = minimize(
            lambda d: d @ d,
            np.full(len(image), 0.01),
            jac=lambda d: 2 * d,
            bounds=box,
            constraints={
                "type": "ineq",
                "fun": lambda d: normal @ d - gap,
                "jac": lambda d: normal,
            },
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-12},
        )
        return float(np.sqrt(solved.fun)), 1e-3
    size = len(image)
    if norm is Norm.LINF:
        length = np.r_[np.zeros(size), 1.0]
        limits = np.c_[np.vstack([np.eye(size), -np.eye(size)]), -np.ones(2 * size)]
        rows = np.vstack([np.r_[-normal, 0.0], limits])
        bounds = [*box, (0, None)]
    else:
        length = np.r_[np.zeros(size), np.ones(size)]
        signs = np.vstack([np.eye(size), -np.eye(size)])
        limits = np.c_[signs, -np.vstack([np.eye(size)] * 2)]
        rows = np.vstack([np.r_[-normal, np.zeros(size)], limits])
        bounds = [*box, *[(0, None)] * size]
    solved = linprog(length, A_ub=rows, b_ub=np.r_[-gap, np.zeros(2 * size)], bounds=bounds)
    return float(solved.fun), 1.0 if norm is Norm.L1 else 1e-4


def test_in_l0_the_pixels_that_gain_most_are_counted():
    weight = torch.tensor([[0.0, 0, 0, 0], [1.0, 2.0, 4.0, 0.0]])
    network = planted(weight, torch.tensor([5.0, 0.0]))
    x, y = torch.zeros(1, 1, 2, 2), torch.tensor([0])
    assert nearest(network, x, y, Norm.L0).tolist() == [2.0]
    far = planted(weight, torch.tensor([7.5, 0.0]))
    assert nearest(far, x, y, Norm.L0).tolist() == [torch.inf]


def test_planted_networks_answer_alike_and_classify_their_images_correctly(ground):
    assert len(ground.x) == selftest.IMAGES
    for network in ground.networks.values():
        assert (network.logits(ground.x).argmax(dim=1) == ground.y).all()
    logits = ground.networks[MASKED].logits(ground.x)
    x = ground.x.clone().requires_grad_()
    loss = functional.cross_entropy(ground.networks[MASKED].logits(x), ground.y)
    assert logits.isfinite().all()
    assert torch.autograd.grad(loss, x)[0].abs().max() == 0


@pytest.mark.parametrize("attack", [PGD_LINF, DDN(steps=20)])
def test_honest_attacks_break_both_networks(ground, attack):
    result = tried(attack, ground)
    assert result.broken == {UNDEFENDED: Share(16, 16), MASKED: Share(16, 16)}
    assert selftest.warnings("pgd", result) == []


def test_an_attack_that_gives_the_images_back_is_invalid(ground):
    result = tried(Still(), ground)
    assert result.broken == {UNDEFENDED: Share(0, 16), MASKED: Share(0, 16)}
    lines = selftest.warnings("still", result)
    assert lines[0].startswith(
        "attack invalid: still broke 0 of 16 images of an undefended network within 2 times"
    )
    assert len(lines) == 2


def test_an_attack_that_saturation_stops_breaks_the_undefended_network_alone(ground):
    result = tried(Naive(), ground)
    assert result.broken[UNDEFENDED].hits >= 14
    assert result.broken[MASKED].hits == 0
    (line,) = selftest.warnings("naive", result)
    assert "only masks its gradients" in line


@pytest.mark.parametrize(
    "attack", [AdditiveNoise(norm=Norm.L2, repeats=2), Overpowered(norm=Norm.L2)]
)
def test_yardsticks_and_attacks_that_need_more_than_a_network_are_not_tried(ground, attack):
    assert tried(attack, ground).broken == {}


def test_a_named_view_is_tested_on_the_network_that_has_no_other(ground):
    named = replace(PGD_LINF, view=View(surrogate="classifier"))
    assert tried(named, ground).broken == tried(PGD_LINF, ground).broken


def test_an_attack_that_raises_breaks_nothing_and_is_named(ground):
    result = tried(Crash(norm=Norm.LINF), ground)
    assert result.broken[UNDEFENDED] == Share(0, 16)
    assert "attack invalid: crash raised RuntimeError: no gradient" in selftest.warnings(
        "crash", result
    )
