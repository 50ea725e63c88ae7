"""The corrected Eq. 7 of E-ABS against brute force on finite manifolds."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.randomness import generator
from defenses.synthesis.certificate import certified_radius


def explained(
    x: torch.Tensor, manifolds: torch.Tensor, charges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances, scores and residuals (N, K) for classes that are finite sets of points."""
    squared = (x[:, None, None] - manifolds).square().sum(dim=3)
    score, index = (squared + charges).min(dim=2)
    residual = squared.gather(2, index[:, :, None]).squeeze(2).sqrt()
    return squared.min(dim=2).values.sqrt(), score, residual


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 3.0), st.floats(0.0, 1.0))
def test_no_perturbation_within_the_radius_changes_the_class(
    seed: int, spread: float, charge: float
) -> None:
    rng = generator(seed)
    manifolds = spread * torch.randn((3, 5, 4), generator=rng)
    charges = charge * torch.rand((3, 5), generator=rng)
    x = manifolds[0, :1] + 0.1 * torch.randn((1, 4), generator=rng)
    y = torch.zeros(1, dtype=torch.long)
    distance, score, residual = explained(x, manifolds, charges)
    radius = certified_radius(distance, score, residual, y)
    if score.argmin(dim=1) != 0:
        assert radius == 0
        return
    toward = manifolds.flatten(0, 1) - x
    away = x - manifolds[0]
    directions = torch.cat([toward, away, torch.randn((100, 4), generator=rng)])
    directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-9)
    _, scores, _ = explained(x + 0.999 * radius * directions, manifolds, charges)
    assert (scores.argmin(dim=1) == 0).all()


def test_radius_without_a_prior_is_half_the_gap_of_distances() -> None:
    """E-ABS, figure 1."""
    distance = torch.tensor([[1.0, 4.0, 6.0]])
    radius = certified_radius(distance, distance.square(), distance, torch.tensor([0]))
    torch.testing.assert_close(radius, torch.tensor([1.5]))


def test_printed_form_would_be_unsound_where_the_residual_is_small() -> None:
    distance, residual = torch.tensor([[0.5, 3.0]]), torch.tensor([[0.5, 3.0]])
    y = torch.tensor([0])
    radius = float(certified_radius(distance, residual.square(), residual, y))
    printed = (3.0**2 - 0.5**2) / (2 * 3.0 + 2 * 0.5**2)
    assert radius == 1.25 < printed


def test_radius_is_zero_where_another_class_wins() -> None:
    distance = torch.tensor([[2.0, 1.0]])
    assert certified_radius(distance, distance.square(), distance, torch.tensor([0])) == 0
