"""Carlini & Wagner's L0 and Linf attacks: closed forms, and rounds of each image's own."""

from dataclasses import replace

import pytest
import torch

from attacks import ATTACKS
from attacks.carlini_wagner_l0 import CarliniWagnerL0
from attacks.evasion import evades
from attacks.recorder import Recorder
from attacks.tanh_rounds import box_slope, to_box, to_tanh_space
from attacks.threat import Norm
from defenses.base import never_rejects
from defenses.randomness import generator
from tests.linear import (
    SIZE,
    Linear,
    Rejecting,
    Scripted,
    at_distance,
    exact_distance,
    images,
    labels,
    random_linear,
)
from tests.reference.fewest_pixels import fewest_of_all_sets, fewest_pixels

FAST = {"initial_const": 0.1, "const_factor": 4.0, "inset": 1e-3, "refresh": 25}
LINF = replace(ATTACKS["cw-linf"], **FAST, steps=50, rate=0.01, decrease=0.95)
L0 = replace(ATTACKS["cw-l0"], **FAST, steps=50, rate=0.1, largest_const=1e4)

both = pytest.mark.parametrize("attack", [LINF, L0], ids=["linf", "l0"])


def sparse(share: float, seed: int) -> tuple[Linear, torch.Tensor, torch.Tensor]:
    """A two-class defense, grey images, and a lead that takes this share of all pixels' gains."""
    weight, bias = random_linear(num_classes=2, seed=seed)
    bias[0] += share * (weight[1] - weight[0]).abs().sum() / 2
    defense, x = Linear(weight, bias), images(4, seed=seed, spread=0.05)
    return defense, x, torch.zeros(4).long()


def smallest_evading(attack, defense, x, y, epsilons):
    """The index (N,) of the smallest budget that breaks."""
    candidates = attack(defense, x, y, epsilons, generator(0))
    broken = torch.stack([evades(defense, each, y, generator(1)) for each in candidates])
    assert broken[-1].all()
    return broken.int().argmax(dim=0)


# closed forms


@pytest.mark.parametrize(("share", "seed"), [(0.4, 1), (0.6, 0), (0.6, 2), (0.8, 1)])
def test_l0_finds_the_fewest_pixels_of_a_linear_defense(share, seed):
    defense, x, y = sparse(share, seed)
    assert torch.equal(labels(defense, x), y)
    fewest = fewest_pixels(defense, x, y)
    assert fewest.min() > 2
    budgets = tuple(float(count) for count in range(1, SIZE + 1))
    assert torch.equal(smallest_evading(L0, defense, x, y, budgets) + 1, fewest)


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_of_fewest_pixels_is_the_smallest_of_all_sets(seed):
    weight, bias = random_linear(num_classes=4, seed=seed)
    bias[0] += 3 + 2 * seed
    defense, x = Linear(weight, bias), images(10, seed=seed, spread=0.5)
    y = labels(defense, x)
    fewest = fewest_pixels(defense, x, y)
    assert torch.equal(fewest, fewest_of_all_sets(defense, x, y))
    assert len(fewest.unique()) > 1


@pytest.mark.parametrize("seed", range(3))
def test_linf_comes_close_to_the_exact_distance_of_the_runner_up(seed):
    weight, bias = random_linear(num_classes=4, seed=seed)
    bias += torch.tensor([1.0, 0.0, -3.0, -3.0])
    defense, x = Linear(weight, bias), images(4, seed=seed, spread=0.02)
    y = labels(defense, x)
    distance = exact_distance(defense, x, y, Norm.LINF)
    recorder = Recorder(Norm.LINF, x, torch.stack([distance * 0.999, distance * 1.02]))
    replace(LINF, rate=2e-3, decrease=0.98).search(defense, y, recorder, generator(0))
    assert (recorder.leads[0] <= 0).all()
    assert (recorder.leads[1] > 0).all()


def test_tau_is_the_smaller_of_itself_and_the_largest_change_decreased():
    x = torch.full((2, 1, 2, 2), 0.5)
    points = x + torch.tensor([0.1, -0.3]).reshape(2, 1, 1, 1)
    tau = torch.full((2, 1, 1, 1), 0.2)
    tighter = replace(LINF, decrease=0.9).tighter(x, points, torch.zeros_like(x), tau)
    assert torch.allclose(tighter.flatten(), torch.tensor([0.09, 0.18]))
    assert LINF.exhausted(torch.tensor([0.1, 1 / 256]).reshape(2, 1, 1, 1)).tolist() == [
        False,
        True,
    ]


@both
def test_the_rounds_go_on_until_the_lead_is_the_confidence(attack):
    defense, x = at_distance(0.05, Norm.LINF)
    y = labels(defense, x)
    for confidence in (0.5, 2.0):
        sure = replace(attack, confidence=confidence)
        recorder = Recorder(sure.norm, x, (sure.norm.largest(tuple(x.shape[1:])),))
        sure.search(defense, y, recorder, generator(0))
        assert (recorder.leads[0] >= confidence - 1e-3).all()


def test_linf_ends_its_first_round_at_the_confidence_and_looks_no_further():
    defense, x = at_distance(0.05, Norm.LINF)
    slope = (defense.weight[1] - defense.weight[0]).abs().sum().item()
    recorder = Recorder(Norm.LINF, x, (1.0,))
    replace(LINF, confidence=1.0).search(defense, labels(defense, x), recorder, generator(0))
    assert (recorder.leads[0] <= 1.0 + 0.02 * slope).all()


@both
def test_the_slope_of_the_penalty_is_the_gradient_of_its_value(attack):
    x = images(3)
    points = images(3, seed=1, spread=0.4).requires_grad_()
    limits = {Norm.LINF: torch.tensor([0.0, 0.1, 0.3]), Norm.L0: torch.ones(3)}[attack.norm]
    value, slope = attack.penalty(x, points, limits.reshape(3, 1, 1, 1))
    (expected,) = torch.autograd.grad(value.sum(), points)
    assert value.min() > 0
    assert torch.allclose(slope, expected)


# which pixels are frozen


def test_l0_freezes_the_pixels_that_contribute_least_over_all_channels():
    x = torch.full((1, 2, 2, 3), 0.5)
    points = x.clone()
    points[0, 0] += torch.tensor([[0.4, 0.2, 0.0], [0.3, 0.1, 0.1]])
    slopes = torch.ones_like(x)
    slopes[0, 0, 0, 0] = -1  # it changed most, against the lead
    points[0, 1, 1, 2] += 0.4  # the second channel of the pixel that changed least in the first
    free = torch.ones(1, 1, 2, 3, dtype=torch.bool)
    free[0, 0, 1, 1] = False
    attack = replace(L0, frozen_share=0.9, small=0.1)
    tighter = attack.tighter(x, points, slopes, free)
    # 5 changed pixels allow ceil(0.9 sqrt(5)) = 3; two contribute up to a tenth of 1.1, and one
    # more may be frozen: the contributions are -0.4, 0.2, 0, 0.3, (0.1 frozen), 0.5.
    assert tighter[0, 0].tolist() == [[False, False, False], [True, False, True]]
    assert attack.tighter(x, points, slopes, tighter)[0, 0].tolist() == [
        [False, False, False],
        [False, False, True],
    ]


def test_l0_freezes_no_more_than_its_share_and_at_least_one():
    x = torch.full((2, 1, 4, 4), 0.5)
    points = x + torch.tensor([0.1, 0.0]).reshape(2, 1, 1, 1)
    free = CarliniWagnerL0().loosest(x)
    for share, frozen in ((0.5, [2, 1]), (0.3, [2, 1]), (0.0, [1, 1])):
        attack = replace(L0, frozen_share=share, small=1.0)
        tighter = attack.tighter(x, points, torch.ones_like(x), free)
        assert (~tighter).sum(dim=(1, 2, 3)).tolist() == frozen


def test_frozen_pixels_are_the_images_own_to_the_last_bit():
    x = images(1)
    free = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    placed = L0.within(x, to_box(to_tanh_space(x, L0.inset)), free)
    assert Norm.L0.distance(x, placed).item() == free.sum().item()


def test_a_round_of_l0_starts_from_the_point_that_won_the_last():
    defense, x, y = sparse(0.4, 1)
    seen, answer = [], defense.logits
    defense.logits = lambda points: (seen.append(points.detach()), answer(points))[1]
    L0.search(defense, y[:1], Recorder(Norm.L0, x[:1], (16.0,)), generator(0))
    leads = torch.tensor([(answer(points)[0, 1] - answer(points)[0, 0]).item() for points in seen])
    first = int((leads > L0.confidence).nonzero()[0])
    kept = seen[first + 1] == seen[first]
    assert (~kept).sum() == 2  # ceil(0.3 sqrt(16))
    assert torch.equal(seen[first + 1][~kept], x[:1][~kept])


def test_a_slope_that_is_no_number_does_not_keep_its_pixel_free():
    defense, x, y = sparse(0.6, 2)
    least = (defense.weight[1] - defense.weight[0]).abs().argmin()

    def view(points):
        flat = points.flatten(1)
        return defense.logits(points) + (0 * flat[:, least]).sqrt()[:, None]

    budgets = tuple(float(count) for count in range(1, SIZE + 1))
    broken = smallest_evading(L0, Scripted(defense.logits, view), x, y, budgets) + 1
    assert torch.equal(broken, fewest_pixels(defense, x, y))


def test_a_pixel_whose_slope_is_no_number_still_pays_its_penalty():
    defense, seen = Linear(*random_linear(num_classes=2, seed=1)), []
    x = images(2)
    x[:, 0, 0, 0] = 0  # the inset lights it up to 0.05

    def view(points):
        seen.append(points.detach()[:, 0, 0, 0])
        return defense.logits(points) + (0 * points[:, :1, 0, 0]).sqrt()

    unsatisfied = replace(L0, inset=0.1, confidence=100.0, steps=20, largest_const=0.2)
    unsatisfied(Scripted(defense.logits, view), x, labels(defense, x), (16.0,), generator(0))
    assert (seen[19] < 0.9 * seen[0]).all()


# tanh space


def test_tanh_space_and_the_box_are_each_others_inverse_but_for_the_inset():
    x = torch.linspace(0, 1, 101, dtype=torch.float32)
    for inset in (5e-7, 1e-2):
        back = to_box(to_tanh_space(x, inset))
        assert torch.allclose(back - 0.5, (x - 0.5) * (1 - inset), atol=2e-7)
    assert to_tanh_space(x, 5e-7).isfinite().all()


def test_box_slope_is_the_derivative_of_the_box_up_to_its_ends():
    w = torch.tensor([-50.0, -7.25, -1.0, 0.0, 0.3, 7.25, 100.0], requires_grad=True)
    (slope,) = torch.autograd.grad(to_box(w.double()).sum(), w)
    assert torch.allclose(box_slope(w.detach()), slope, rtol=1e-4, atol=1e-12)
    assert box_slope(w.detach())[[1, 5]].min() > 0


def test_saturated_pixels_lag_behind_and_a_larger_inset_sets_them_free():
    weight = torch.stack([torch.zeros(SIZE), torch.ones(SIZE)])
    defense = Linear(weight, torch.tensor([0.5, 0.0]))
    x, y = torch.zeros(1, 1, 4, 4), torch.tensor([0])
    short = replace(LINF, steps=30, rate=0.05, largest_const=0.3)
    for inset, broken in ((5e-7, False), (1e-2, True)):
        (point,) = replace(short, inset=inset)(defense, x, y, (0.1,), generator(0))
        assert evades(defense, point, y, generator(0)).item() is broken


# every image has rounds of its own


@both
def test_images_leave_when_they_are_done_and_cost_what_they_cost_alone(attack):
    defense, x, y = sparse(0.3, 1)
    toward = (defense.weight[1] - defense.weight[0]).detach().sign().reshape(x.shape[1:])
    x = x + torch.tensor([0.0, 0.1, -0.2, -0.4]).reshape(4, 1, 1, 1) * toward
    assert torch.equal(labels(defense, x), y)

    def cost(rows):
        before = defense.cost.copy()
        attack.search(defense, y[rows], Recorder(attack.norm, x[rows], (1.0,)), generator(0))
        return (defense.cost - before).forward

    alone = [cost([row]) for row in range(4)]
    assert len(set(alone)) > 1
    assert cost([0, 1, 2, 3]) == sum(alone)


class Jealous(Linear):
    """Its views know the rows of their first call, and remember how often each was asked."""

    def __init__(self, weight, bias):
        super().__init__(weight, bias)
        self.seeds = []

    def _surrogate(self, name, rng):
        rows = []
        self.seeds.append(rng.initial_seed())

        def view(x):
            rows.append(len(x))
            assert rows[0] == len(x), "a view must see the same rows all its life"
            return self.logits(x) * (1 + 0.01 * len(rows)), never_rejects(x)

        return view


@both
def test_a_view_that_remembers_its_rows_gives_an_image_the_same_result_in_any_batch(attack):
    weight, bias = random_linear(num_classes=3, seed=2)
    bias[0] += 1.0
    defense, x = Jealous(weight, bias), images(4, spread=0.3)
    y = labels(defense, x)
    budgets = {Norm.LINF: (0.05, 0.1, 0.4), Norm.L0: (1.0, 3.0, 16.0)}[attack.norm]
    together = attack(defense, x, y, budgets, generator(0))
    assert len(set(defense.seeds)) == len(defense.seeds) > 1
    for rows in ([1], [3, 0]):
        apart = attack(defense, x[rows], y[rows], budgets, generator(0))
        assert torch.allclose(apart, together[:, rows], atol=1e-6)


@both
@pytest.mark.parametrize("poison", ["answers", "gradients"])
def test_an_image_without_numbers_poisons_no_other(attack, poison):
    weight, bias = random_linear(num_classes=2, seed=1)
    bias[0] += 1.0
    sound = Linear(weight, bias)
    x = images(3, spread=0.05)
    x[1, 0, 0, 0] = 0.0
    y = labels(sound, x)

    def view(points):
        logits = sound.logits(points)
        sick = (points[:, 0, 0, 0] < 0.2)[:, None]
        if poison == "answers":
            return torch.where(sick, torch.nan, logits)
        bad = (points[:, :1, 0, 0] * 0).sqrt()  # 0 with an infinite slope
        return torch.where(sick, logits + bad, logits)

    defense = Scripted(sound.logits, view)
    budgets = {Norm.LINF: (0.3,), Norm.L0: (16.0,)}[attack.norm]
    (points,) = attack(defense, x, y, budgets, generator(0))
    (others,) = attack(defense, x[[0, 2]], y[[0, 2]], budgets, generator(0))
    assert points.isfinite().all()
    assert torch.equal(points[[0, 2]], others)
    assert evades(defense, others, y[[0, 2]], generator(0)).all()


@both
def test_a_view_that_depends_on_nothing_ends_the_attack_without_an_error(attack):
    defense = Scripted(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), -1))
    x = images(2)
    (points,) = attack(defense, x, torch.zeros(2).long(), (0.3,), generator(0))
    assert points.isfinite().all()


@both
def test_a_rejecting_defense_is_fooled_where_it_accepts(attack):
    weight, bias = random_linear(num_classes=2)
    normal = weight[1] - weight[0]
    other = torch.randn(SIZE, generator=torch.Generator().manual_seed(4))
    axis = normal / normal.norm() + other / other.norm()
    defense = Rejecting(weight, bias, axis, threshold=0.05)
    x = images(8)
    x = x[~defense.decide(x, generator(0)).rejected]
    y = labels(defense, x)
    budget = {Norm.LINF: 0.5, Norm.L0: 16.0}[attack.norm]
    (points,) = attack(defense, x, y, (budget,), generator(0))
    assert evades(defense, points, y, generator(1)).float().mean() >= 0.8
    refuses_all = Rejecting(weight, bias, torch.zeros(SIZE), threshold=-1.0)
    (points,) = attack(refuses_all, x, y, (budget,), generator(0))
    assert not evades(refuses_all, points, y, generator(1)).any()
