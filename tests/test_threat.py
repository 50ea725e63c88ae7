import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from attacks.threat import Norm

BALLS = (Norm.LINF, Norm.L2, Norm.L1, Norm.L0)


@st.composite
def clean_and_candidate(draw):
    rng = Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), 5, 5)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    x = torch.rand(shape, generator=rng, dtype=dtype)
    reach = draw(st.sampled_from([0.01, 0.5, 3.0]))
    candidate = x + reach * torch.randn(shape, generator=rng, dtype=dtype)
    return x, candidate, draw(st.floats(0, 2)), draw(st.sampled_from(BALLS))


@given(clean_and_candidate())
@settings(deadline=None, max_examples=100)
def test_projection_lands_in_ball_and_box_by_its_own_measure(case):
    x, candidate, epsilon, norm = case
    projected = norm.project(x, candidate, epsilon)
    radius = torch.tensor(epsilon, dtype=x.dtype)
    assert (norm.distance(x, projected) <= radius).all()
    assert projected.min() >= 0
    assert projected.max() <= 1


@given(clean_and_candidate())
@settings(deadline=None, max_examples=100)
def test_projection_twice_is_projection_once(case):
    x, candidate, epsilon, norm = case
    once = norm.project(x, candidate, epsilon)
    assert torch.equal(norm.project(x, once, epsilon), once)


@given(clean_and_candidate())
@settings(deadline=None, max_examples=100)
def test_projection_leaves_points_inside_alone(case):
    x, candidate, _, norm = case
    inside = candidate.clamp(0, 1)
    epsilon = norm.distance(x, inside)
    assert torch.equal(norm.project(x, inside, epsilon), inside)


@given(clean_and_candidate())
@settings(deadline=None, max_examples=50)
def test_projection_onto_l2_ball_keeps_the_direction_and_fills_the_ball(case):
    x, candidate, _, _ = case
    boxed = candidate.clamp(0, 1)
    distance = Norm.L2.distance(x, boxed)
    projected = Norm.L2.project(x, candidate, distance / 2)
    assert torch.allclose(projected - x, (boxed - x) / 2, atol=1e-5)


@pytest.mark.parametrize("norm", BALLS)
def test_projection_onto_radius_zero_is_the_image(norm):
    x = torch.rand(2, 1, 3, 3)
    assert torch.equal(norm.project(x, torch.rand(2, 1, 3, 3), 0.0), x)


def test_projection_takes_one_radius_per_image():
    x = torch.full((2, 1, 2, 2), 0.5)
    projected = Norm.LINF.project(x, torch.ones_like(x), torch.tensor([0.1, 0.3]))
    assert torch.allclose(Norm.LINF.distance(x, projected), torch.tensor([0.1, 0.3]), atol=1e-5)


def bisected(x, candidate, epsilon):
    """Slow reference: the threshold of Croce & Hein 2021, Proposition 2.1, by bisection."""
    change = candidate - x
    room = torch.where(change > 0, 1 - x, x)
    low, high = 0.0, change.abs().max().item()
    for _ in range(60):
        middle = (low + high) / 2
        moved = torch.minimum((change.abs() - middle).clamp_min(0), room)
        low, high = (middle, high) if moved.sum() > epsilon else (low, middle)
    return x + change.sign() * moved


@given(clean_and_candidate(), st.floats(0.01, 0.9))
@settings(deadline=None, max_examples=50)
def test_projection_onto_l1_ball_and_box_is_the_nearest_point_of_both(case, share):
    x, candidate, _, _ = case
    epsilon = share * Norm.L1.distance(x, candidate.clamp(0, 1))
    projected = Norm.L1.project(x, candidate, epsilon)
    for own, wish, radius, found in zip(x, candidate, epsilon, projected, strict=True):
        expected = bisected(own.double(), wish.double(), radius.item())
        assert torch.allclose(found.double(), expected, atol=1e-5)


def test_projection_onto_l1_ball_uses_how_far_beyond_the_box_a_point_was_wished():
    x = torch.tensor([0.9, 0.5]).reshape(1, 1, 1, 2)
    wish = torch.tensor([3.0, 0.9]).reshape(1, 1, 1, 2)
    projected = Norm.L1.project(x, wish, 0.4).flatten()
    assert torch.allclose(projected, torch.tensor([1.0, 0.8]), atol=1e-5)


def test_projection_onto_l1_ball_leaves_small_changes_out_altogether():
    x = torch.full((1, 1, 1, 3), 0.5)
    change = torch.tensor([0.4, -0.3, 0.1]).reshape(x.shape)
    projected = Norm.L1.project(x, x + change, 0.3)
    assert torch.equal(projected[..., 2], x[..., 2])
    assert torch.allclose((projected - x).flatten(), torch.tensor([0.2, -0.1, 0.0]), atol=1e-5)


def test_projection_of_a_large_image_onto_l1_ball_stays_inside_and_fills_it():
    rng = Generator().manual_seed(0)
    x = torch.rand((2, 3, 96, 96), generator=rng)
    wish = x + torch.randn(x.shape, generator=rng)
    radius = torch.tensor([0.5, 400.0])
    distance = Norm.L1.distance(x, Norm.L1.project(x, wish, radius))
    assert (distance <= radius).all()
    assert (distance >= 0.995 * radius).all()


@pytest.mark.parametrize(("epsilon", "kept"), [(0.9, 0), (1.0, 1), (2.5, 2), (4.0, 4)])
def test_projection_onto_pixels_keeps_those_of_largest_change(epsilon, kept):
    x = torch.full((2, 3, 2, 2), 0.5)
    change = torch.zeros_like(x)
    change[0, 1] = torch.tensor([[0.1, -0.4], [0.3, 0.2]])
    change[1, 2] = torch.tensor([[-0.4, 0.1], [0.2, -0.3]])
    projected = Norm.L0.project(x, x + change, epsilon)
    for moved, wanted in zip((projected - x).abs().amax(dim=1), change, strict=True):
        sizes = wanted.abs().amax(dim=0)
        assert torch.allclose(moved, torch.where(sizes > 0.45 - kept / 10, sizes, 0.0))


def test_what_moved_pixels_is_not_stretched():
    x = torch.rand(3, 1, 4, 4) / 2
    point = x.clone()
    point[:, 0, 1, 2] = 0.9
    assert torch.equal(Norm.L0.stretch(x, point, 5.0), point)


def test_distances_of_a_known_perturbation():
    x = torch.zeros(1, 3, 2, 2)
    other = x.clone()
    other[0, 0, 0, 0] = 0.3
    other[0, 1, 0, 0] = -0.4
    assert Norm.L0.distance(x, other).item() == 1
    assert math.isclose(Norm.L1.distance(x, other).item(), 0.7, rel_tol=1e-6)
    assert math.isclose(Norm.L2.distance(x, other).item(), 0.5, rel_tol=1e-6)
    assert math.isclose(Norm.LINF.distance(x, other).item(), 0.4, rel_tol=1e-6)
    assert Norm.UNRESTRICTED.distance(x, other).item() == 0


@pytest.mark.parametrize("norm", list(Norm))
def test_no_image_is_farther_than_the_largest_distance(norm):
    black, white = torch.zeros(1, 3, 4, 5), torch.ones(1, 3, 4, 5)
    assert norm.distance(black, white).item() <= norm.largest((3, 4, 5)) + 1e-6
