"""Single-pixel search against an exhaustive one, and what it asks."""

from dataclasses import replace

import pytest
import torch

from attacks import ATTACKS
from attacks.eot import View
from attacks.evasion import evades
from attacks.threat import Norm
from defenses.base import Decision
from defenses.randomness import generator
from tests.linear import SIZE, Linear, Rejecting, Scripted, images, labels, random_linear

ATTACK = replace(ATTACKS["single-pixel"], view=View(), abreast=7)


def every_pixel(x: torch.Tensor) -> torch.Tensor:
    """All 2 * 16 images (N, 32, 1, 4, 4) that differ from each of ``x`` in a black or white one."""
    flat = x.flatten(1)[:, None].repeat(1, 2 * SIZE, 1)
    where = torch.arange(2 * SIZE)
    flat[:, where, where // 2] = (where % 2).float()
    return flat.reshape(len(x), 2 * SIZE, *x.shape[1:])


def fragile(count: int = 40) -> tuple[Linear, torch.Tensor, torch.Tensor]:
    defense = Linear(*random_linear())
    x = images(count, spread=0.5)
    return defense, x, labels(defense, x)


def test_with_all_pixels_the_best_single_one_is_found():
    defense, x, y = fragile()
    (points,) = ATTACK(defense, x, y, (1.0,), generator(0))
    candidates = every_pixel(x)
    answers = defense.decide(candidates.flatten(0, 1), generator(0)).logits.unflatten(0, (40, -1))
    own = answers.gather(2, y[:, None, None].expand(-1, 2 * SIZE, 1)).squeeze(2)
    others = answers.scatter(2, y[:, None, None].expand(-1, 2 * SIZE, 1), -torch.inf).amax(dim=2)
    best = (others - own).argmax(dim=1)
    assert 0 < evades(defense, points, y, generator(0)).sum() < 40
    assert torch.equal(points, candidates[torch.arange(40), best])


def test_a_single_pixel_changes_in_all_channels_to_an_end_of_the_box():
    defense = Scripted(lambda x: torch.stack([0 * x[:, 0, 0, 0], x[:, 1, 2, 3] - 0.5], dim=1))
    x = torch.full((1, 3, 4, 4), 0.4)
    (point,) = ATTACK(defense, x, torch.tensor([0]), (1.0,), generator(0))
    changed = (point != x).any(dim=1)
    assert changed.sum() == 1
    assert point[0, :, 2, 3].tolist() == [1.0, 1.0, 1.0]


def test_more_pixels_break_more_images_and_never_more_than_the_budget():
    defense, x, y = fragile()
    budgets = (0.5, 1.0, 2.0, 4.0)
    points = ATTACK(defense, x, y, budgets, generator(0))
    broken = [evades(defense, each, y, generator(0)).sum().item() for each in points]
    assert broken[0] == 0
    assert broken == sorted(broken)
    assert 0 < broken[1] < broken[3]
    for budget, each in zip(budgets, points, strict=True):
        assert Norm.L0.distance(x, each).max() <= budget


def test_each_image_has_a_random_choice_of_pixels_and_both_extremes_of_each_are_tried():
    asked = []
    defense = Scripted(lambda x: (asked.append(x), x.flatten(1)[:, :2] * 0)[1])
    x = images(2)
    few = replace(ATTACK, max_pixels=3, abreast=2)
    few(defense, x, torch.zeros(2).long(), (1.0,), generator(0))
    tried = torch.stack(asked[:3]).unflatten(1, (2, 2)).flatten(0, 1)
    chosen = []
    for copies, image in zip(tried.unbind(dim=1), x, strict=True):
        pixels = [
            ((copy != image).flatten().nonzero().item(), float(copy[copy != image]))
            for copy in copies
        ]
        assert len(set(pixels)) == 6
        assert len({pixel for pixel, _ in pixels}) == 3
        assert {value for _, value in pixels} == {0.0, 1.0}
        chosen.append({pixel for pixel, _ in pixels})
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("chunk", [1, 1000])
def test_memory_changes_no_candidate(chunk):
    defense, x, y = fragile(9)
    one, other = (
        replace(ATTACK, max_pixels=5, chunk=size)(defense, x, y, (1.0, 3.0), generator(0))
        for size in (40, chunk)
    )
    assert torch.equal(one, other)


def test_what_is_wrong_but_rejected_does_not_count():
    weight, bias = random_linear()
    axis = torch.zeros(SIZE)
    axis[:8] = 5.0  # refuses images whose first half is bright
    defense = Rejecting(weight, bias, axis, 1.0)
    x = images(60)
    y = labels(defense, x)
    accepted = ~defense.decide(x, generator(0)).rejected
    x, y = x[accepted], y[accepted]
    (points,) = ATTACK(defense, x, y, (1.0,), generator(0))
    answer: Decision = defense.decide(points, generator(0))
    wrong = answer.classes != y
    candidates = every_pixel(x)
    answers = defense.decide(candidates.flatten(0, 1), generator(0))
    some = (answers.classes != y.repeat_interleave(2 * SIZE)) & ~answers.rejected
    assert torch.equal(wrong & ~answer.rejected, some.unflatten(0, (-1, 2 * SIZE)).any(dim=1))
    assert some.any()
