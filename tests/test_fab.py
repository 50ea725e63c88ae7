"""FAB against closed forms: projections against linear programs, walks on linear defenses."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Generator

from attacks import ATTACKS
from attacks.evasion import evades
from attacks.fab import FAB
from attacks.hyperplane import nearest_on_hyperplane
from attacks.threat import Norm
from defenses.randomness import generator
from tests.linear import (
    Linear,
    Rejecting,
    Scripted,
    at_distance,
    exact_distance,
    images,
    labels,
    random_linear,
)

BALLS = (Norm.LINF, Norm.L2, Norm.L1)
DISTANCE = {Norm.LINF: 0.03, Norm.L2: 0.12, Norm.L1: 0.2}


def shortest(norm: Norm, x: np.ndarray, slope: np.ndarray, rise: float) -> float:
    """The least distance from x to the hyperplane within the box, by a solver."""
    size = len(x)
    low, high = -x, 1 - x
    if norm is Norm.L2:
        found = minimize(
            lambda d: d @ d,
            np.zeros(size),
            jac=lambda d: 2 * d,
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda d: slope @ d - rise, "jac": lambda d: slope},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return float(np.linalg.norm(found.x))
    if norm is Norm.LINF:  # d, t: |d_j| <= t
        cost = np.append(np.zeros(size), 1.0)
        above = np.hstack([np.vstack([np.eye(size), -np.eye(size)]), -np.ones((2 * size, 1))])
        equal = np.append(slope, 0.0)[None]
        bounds = [*zip(low, high, strict=True), (0, None)]
        return linprog(cost, above, np.zeros(2 * size), equal, [rise], bounds).fun
    equal = np.append(slope, -slope)[None]  # the parts that rise and that fall
    bounds = [*((0, each) for each in high), *((0, -each) for each in low)]
    return linprog(np.ones(2 * size), A_eq=equal, b_eq=[rise], bounds=bounds).fun


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("share", [-0.9, -0.3, 0.05, 0.5, 0.95])
def test_nearest_point_of_a_hyperplane_is_a_solver_s(norm, share):
    rng = Generator().manual_seed(5)
    x = torch.rand(4, 1, 3, 4, generator=rng).mul(1.6).sub(0.3).clamp(0, 1)
    slope = torch.randn(4, 1, 3, 4, generator=rng)
    slope[:, :, 0, 0] = 0.0
    room = torch.where(slope * share > 0, 1 - x, x)
    rise = share * (slope.abs() * room).flatten(1).sum(dim=1)
    point = nearest_on_hyperplane(norm, x, slope, rise)
    assert ((point >= 0) & (point <= 1)).all()
    reached = ((point - x) * slope).flatten(1).sum(dim=1)
    assert torch.allclose(reached, rise, atol=1e-5)
    for row, distance in enumerate(norm.distance(x, point).tolist()):
        best = shortest(
            norm,
            x[row].flatten().double().numpy(),
            slope[row].flatten().double().numpy(),
            rise[row].item(),
        )
        assert distance == pytest.approx(best, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("norm", BALLS)
def test_beyond_the_box_its_furthest_corner_is_nearest(norm):
    x, slope = images(3), torch.randn(3, 1, 4, 4, generator=Generator().manual_seed(2))
    point = nearest_on_hyperplane(norm, x, slope, torch.full((3,), 1e6))
    assert torch.equal(point, (slope > 0).to(x.dtype))


@pytest.mark.parametrize("norm", BALLS)
def test_no_rise_moves_nothing_and_no_slope_is_no_trouble(norm):
    x = images(2)
    slope = torch.ones_like(x)
    assert torch.equal(nearest_on_hyperplane(norm, x, slope, torch.zeros(2)), x)
    assert torch.equal(nearest_on_hyperplane(norm, x, 0 * slope, torch.ones(2)), x)


def test_pixels_have_no_nearest_point_in_l0():
    with pytest.raises(ValueError, match=r"^norm must be l1, l2 or linf, got l0; "):
        nearest_on_hyperplane(Norm.L0, images(1), images(1), torch.ones(1))


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_fab_breaks_a_linear_defense_exactly_beyond_its_distance(norm, scale):
    distance = DISTANCE[norm]
    defense, x = at_distance(distance, norm)
    y = labels(defense, x)
    defense = Linear(scale * defense.weight.detach(), scale * defense.bias.detach())
    assert exact_distance(defense, x, y, norm).tolist() == pytest.approx([distance] * 3, rel=1e-3)
    attack = FAB(norm=norm, steps=30)
    inside, outside = attack(defense, x, y, (0.998 * distance, 1.01 * distance), generator(0))
    assert not evades(defense, inside, y, generator(1)).any()
    assert evades(defense, outside, y, generator(1)).all()


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("seed", range(3))
def test_fab_reaches_the_nearest_of_several_classes(norm, seed):
    defense = Linear(*random_linear(num_classes=6, seed=3))
    x = images(4, seed=seed)
    y = labels(defense, x)
    distance = exact_distance(defense, x, y, norm)
    for row in range(len(x)):
        own = x[row : row + 1], y[row : row + 1]
        radii = (0.998 * distance[row].item(), 1.01 * distance[row].item())
        points = FAB(norm=norm, steps=30)(defense, *own, radii, generator(0))
        found = [bool(evades(defense, point, own[1], generator(0))) for point in points]
        assert found == [False, True]


def test_fab_gets_past_a_refusal():
    weight, bias = random_linear(num_classes=2)
    axis = torch.ones(16)
    free = Linear(weight, bias)
    x = images(4, spread=0.05)
    defense = Rejecting(weight, bias, axis, threshold=0.3)
    y = labels(free, x)
    points = FAB(norm=Norm.L2)(defense, x, y, (2.0,), generator(0))
    assert evades(defense, points[0], y, generator(0)).all()


def test_restarts_find_what_the_image_itself_does_not_lead_to():
    """A ridge of wrong answers on the right, and at the image itself a slope to the left."""

    def logits(points):
        at = points[:, 0, 0, 0]
        left, right = 0.02 * (0.5 - at) - 0.05, 3 * (at - 0.62)
        return torch.stack([torch.zeros_like(at), torch.maximum(left, right)], dim=1)

    defense = Scripted(logits)
    x, y = torch.full((8, 1, 1, 1), 0.5), torch.zeros(8).long()
    once = FAB(norm=Norm.L2)(defense, x, y, (0.4,), generator(0))
    often = FAB(norm=Norm.L2, restarts=9)(defense, x, y, (0.4,), generator(0))
    assert not evades(defense, once[0], y, generator(0)).any()
    assert evades(defense, often[0], y, generator(0)).sum() > 0


@pytest.mark.parametrize("name", ["largest_pull", "backward"])
def test_a_share_above_one_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^{name} must be at most 1, got 1.5; "):
        dataclasses.replace(ATTACKS["fab-l2"], **{name: 1.5})
