"""APGD against closed forms, saturated and silent networks, noise, refusal and its own promises."""

import dataclasses

import pytest
import torch
from torch import Generator

from attacks import ATTACKS
from attacks.apgd import APGD
from attacks.eot import View
from attacks.evasion import evades
from attacks.frequencies import cosines, low_pass
from attacks.losses import Loss
from attacks.pace import Halving, Sparse, Walk, checkpoints, stages
from attacks.threat import Norm
from defenses.base import never_rejects
from defenses.randomness import generator
from tests.linear import (
    Linear,
    Noisy,
    Rejecting,
    Scripted,
    at_distance,
    exact_distance,
    images,
    labels,
    random_linear,
)

DISTANCE = {Norm.LINF: 0.03, Norm.L2: 0.12, Norm.L1: 0.2}
BALLS = tuple(DISTANCE)
UNTARGETED = (Loss.CROSS_ENTROPY, Loss.MARGIN, Loss.DLR)


def broken(attack, defense, x, y, *epsilons):
    candidates = attack(defense, x, y, epsilons, generator(0))
    return [evades(defense, each, y, generator(1)) for each in candidates]


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("loss", UNTARGETED)
def test_apgd_breaks_a_linear_defense_exactly_beyond_its_distance(loss, scale, norm):
    distance = DISTANCE[norm]
    defense, x = at_distance(distance, norm)
    y = labels(defense, x)
    defense = Linear(scale * defense.weight.detach(), scale * defense.bias.detach())
    assert exact_distance(defense, x, y, norm).tolist() == pytest.approx([distance] * 3, rel=1e-3)
    attack = APGD(norm=norm, loss=loss)
    inside, outside = broken(attack, defense, x, y, 0.998 * distance, 1.02 * distance)
    assert not inside.any()
    assert outside.all()


def furthest(x, slope, norm, epsilon):
    """How much a linear function rises at most in ball and box: greedily, L2 by its multiplier."""
    room = torch.where(slope > 0, 1 - x, x)
    steep = slope.abs()
    if norm is Norm.LINF:
        return (steep * room.clamp_max(epsilon)).sum(dim=1)
    if norm is Norm.L1:
        order = steep.argsort(dim=1, descending=True)
        sorted_room = room.gather(1, order)
        before = sorted_room.cumsum(dim=1) - sorted_room
        moved = torch.minimum((epsilon - before).clamp_min(0), sorted_room)
        return (steep.gather(1, order) * moved).sum(dim=1)
    low, high = torch.zeros(len(x), 1), torch.full((len(x), 1), 1e4)
    for _ in range(80):
        middle = (low + high) / 2
        full = torch.minimum(steep * middle, room).norm(dim=1, keepdim=True) > epsilon
        low, high = torch.where(full, low, middle), torch.where(full, middle, high)
    return (steep * torch.minimum(steep * low, room)).sum(dim=1)


@pytest.mark.parametrize("norm", BALLS)
def test_apgd_fills_ball_and_box_where_pixels_are_at_their_ends(norm):
    rng = Generator().manual_seed(3)
    x = torch.rand(6, 1, 4, 4, generator=rng).mul(3).sub(1).clamp(0, 1)
    slope = torch.randn(16, generator=rng)
    epsilon = {Norm.LINF: 0.3, Norm.L2: 0.8, Norm.L1: 1.5}[norm]
    most = furthest(x.flatten(1), slope.expand(6, -1), norm, epsilon)
    defense = Linear(torch.stack([-slope, torch.zeros(16)]), torch.tensor([1e3, 0.0]))
    attack = APGD(norm=norm, loss=Loss.MARGIN)
    radii = torch.full((6,), epsilon)
    points = attack.perturb(defense, x, torch.zeros(6).long(), radii, generator(0))
    risen = ((points - x).flatten(1) * slope).sum(dim=1)
    assert (risen <= most * (1 + 1e-4)).all()
    least = 0.95 if norm is Norm.L1 else 0.99  # few coordinates at once, and seldom the very best
    assert (risen >= least * most).all()


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("seed", range(3))
def test_targeted_apgd_reaches_the_nearest_of_several_classes(norm, seed):
    defense = Linear(*random_linear(num_classes=6, seed=3))
    x = images(4, seed=seed)
    y = labels(defense, x)
    attack = APGD(norm=norm, loss=Loss.DLR, targets=5)
    distance = exact_distance(defense, x, y, norm)
    for share, reached in ((0.998, False), (1.03, True)):
        points = attack.perturb(defense, x, y, share * distance, generator(0))
        assert (evades(defense, points, y, generator(0)) == reached).all()


def test_targets_find_what_the_likeliest_class_hides():
    """Class 1 follows closely everywhere but never wins; class 2 is far behind and does win."""
    normal = torch.randn(16, generator=Generator().manual_seed(1))

    def logits(points):
        along = ((points - 0.5).flatten(1) * normal).sum(dim=1) / normal.abs().sum()
        other = -0.05 - along  # its slope leads away from where class 2 wins
        follower = other.clamp_max(-1e-3)
        return torch.stack([torch.zeros_like(along), follower, 5 * (along - 0.06)], dim=1)

    defense = Scripted(logits, num_classes=3)
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2).long()
    untargeted = APGD(norm=Norm.LINF, loss=Loss.MARGIN, steps=40)
    targeted = dataclasses.replace(untargeted, targets=2)
    assert not torch.cat(broken(untargeted, defense, x, y, 0.1)).any()
    assert torch.cat(broken(targeted, defense, x, y, 0.1)).all()


@pytest.mark.parametrize("norm", BALLS)
def test_a_plateau_is_left_in_a_random_direction(norm):
    def flat_near_grey(points):
        away = Norm.L2.distance(torch.full_like(points, 0.5), points)
        return torch.stack([torch.ones_like(away), (4 * (away - 0.25)).relu()], dim=1)

    defense = Scripted(flat_near_grey)
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3).long()
    epsilon = {Norm.LINF: 0.4, Norm.L2: 0.8, Norm.L1: 2.0}[norm]
    assert torch.cat(broken(APGD(norm=norm, loss=Loss.MARGIN), defense, x, y, epsilon)).all()


def test_a_view_without_gradients_is_searched_at_random():
    linear = Linear(*random_linear(num_classes=2))
    blind = Scripted(linear.logits, lambda points: linear.logits(points.detach()))
    x = images(6, spread=0.02)
    y = labels(linear, x)
    attack = APGD(norm=Norm.L2, loss=Loss.CROSS_ENTROPY)
    assert torch.cat(broken(attack, blind, x, y, 1.5)).all()


def test_answers_that_are_not_finite_stop_no_other_image():
    linear = Linear(*random_linear())
    x = images(4)
    y = labels(linear, x)

    def spoilt(points):
        bad = (torch.arange(len(points)) == 0)[:, None]
        return torch.where(bad, torch.nan, linear.logits(points))

    attack = APGD(norm=Norm.LINF, loss=Loss.MARGIN, recheck=100)
    radii = torch.full((4,), 0.3)
    points = attack.perturb(Scripted(linear.logits, spoilt, 4), x, y, radii, generator(0))
    assert points.isfinite().all()
    assert evades(linear, points, y, generator(0))[1:].all()


def test_apgd_is_sure_of_what_it_hands_over_against_noise():
    defense = Noisy(*random_linear(), std=0.05)
    x = images(6)
    y = labels(defense, x)
    attack = APGD(norm=Norm.L2, loss=Loss.MARGIN, view=View(samples=5), confirmations=5)
    (candidates,) = attack(defense, x, y, (1.0,), generator(0))
    votes = torch.stack([evades(defense, candidates, y, generator(vote)) for vote in range(20)])
    assert votes.float().mean() > 0.95


def test_a_refused_wrong_answer_is_no_break_and_an_accepted_one_is_found():
    weight, bias = random_linear()
    axis = weight[1] - weight[0]
    x = images(8)
    attack = APGD(norm=Norm.LINF, loss=Loss.MARGIN)
    for threshold, some in ((-1e3, False), (1.0, True)):
        defense = Rejecting(weight, bias, axis, threshold)
        y = labels(defense, x)
        (candidates,) = attack(defense, x, y, (0.3,), generator(0))
        assert bool(evades(defense, candidates, y, generator(0)).any()) == some
    assert not defense.decide(candidates, generator(0)).rejected.all()


class _Stale(Linear):
    """A view that believes every image broken until it is made anew, like a stale inner optimum."""

    def _surrogate(self, name, rng):
        self.views += 1
        lie = self.lies > 0
        self.lies -= 1
        return lambda x: (self._tell(x, lie), never_rejects(x))

    def _tell(self, x, lie):
        logits = self.logits(x)
        return logits.flip(1) + 100 * torch.tensor([0.0, 1.0]) if lie else logits


def test_a_view_made_anew_at_each_recheck_mends_one_that_lied():
    linear, x = at_distance(0.03, Norm.LINF)
    for lies, recheck, breaks in ((1, 50, False), (1, 10, True)):
        defense = _Stale(linear.weight.detach(), linear.bias.detach())
        defense.views, defense.lies = 0, lies
        attack = APGD(norm=Norm.LINF, loss=Loss.MARGIN, steps=50, recheck=recheck)
        points = attack.perturb(defense, x, labels(linear, x), torch.full((3,), 0.04), generator(0))
        assert bool(evades(linear, points, labels(linear, x), generator(0)).all()) == breaks


def test_a_broken_image_costs_no_gradient_after_the_recheck():
    defense, x = at_distance(0.03, Norm.LINF, count=2)
    x = torch.stack([x[0], x[1] + 10 * (x[1] - 0.5)]).clamp(0, 1)
    y = labels(defense, x)
    near, far = exact_distance(defense, x, y, Norm.LINF).tolist()
    assert far > 2 * near
    attack = APGD(norm=Norm.LINF, loss=Loss.CROSS_ENTROPY, steps=40, recheck=10)
    before = defense.cost.copy()
    attack.perturb(defense, x, y, torch.full((2,), 1.5 * near), generator(0))
    assert (defense.cost - before).backward == 11 + 40


def test_later_targets_cost_only_images_that_withstood_the_first():
    defense = Linear(*random_linear(num_classes=4))
    x = images(5)
    y = labels(defense, x)
    attack = APGD(norm=Norm.LINF, loss=Loss.DLR, targets=3, recheck=1, steps=20)
    before = defense.cost.copy()
    attack.perturb(defense, x, y, torch.full((5,), 0.5), generator(0))
    assert (defense.cost - before).backward <= 5 * 3


def test_more_targets_than_classes_are_no_more_than_those_there_are():
    attack = APGD(norm=Norm.LINF, loss=Loss.MARGIN, targets=9, steps=4)
    defense, x = at_distance(0.3, Norm.LINF)
    before = defense.cost.copy()
    attack.perturb(defense, x, labels(defense, x), torch.full((3,), 0.01), generator(0))
    assert (defense.cost - before).backward == 3 * 4


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_a_band_holds_the_perturbation_to_low_frequencies_and_fills_the_ball(norm):
    defense = Linear(*random_linear(num_classes=2))
    x = images(3)
    epsilon = torch.full((3,), 0.1)
    attack = APGD(norm=norm, loss=Loss.MARGIN, band=0.5, recheck=100)
    points = attack.perturb(defense, x, 1 - labels(defense, x), epsilon, generator(0))
    change = (points - x).double()
    spectrum = cosines(4) @ change @ cosines(4).T
    assert spectrum[..., 2:, :].abs().max() < 1e-5
    assert spectrum[..., :, 2:].abs().max() < 1e-5
    assert (norm.distance(x, points) > 0.09).all()


def test_low_pass_keeps_the_lowest_frequencies_alone():
    matrix = cosines(6)
    assert torch.allclose(matrix @ matrix.T, torch.eye(6, dtype=torch.float64))
    for down in range(6):
        for right in range(6):
            wave = (matrix[down][:, None] * matrix[right]).reshape(1, 1, 6, 6)
            kept = wave if max(down, right) < 2 else 0 * wave
            assert torch.allclose(low_pass(wave, 0.3), kept, atol=1e-12)
    noise = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    assert torch.allclose(low_pass(noise, 1.0), noise)


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(1) == (1,)
    for steps in (3, 50, 1000):
        assert list(checkpoints(steps)) == sorted(set(checkpoints(steps)))


def walk_of(count, values, rises):
    x = torch.full((count, 1, 4, 4), 0.5)
    gradient = torch.ones_like(x)
    walk = Walk.begin(x, torch.full((count,), 0.1), x, torch.zeros(count), gradient)
    return dataclasses.replace(
        walk, best_value=torch.tensor(values), rose=torch.tensor(rises), best=x + 0.05
    )


def test_l1_begins_in_larger_balls_and_the_others_in_their_own():
    assert stages(Norm.L1, 100) == ((3.0, 30), (2.0, 30), (1.0, 40))
    assert stages(Norm.L1, 3) == ((1.0, 3),)
    assert stages(Norm.LINF, 100) == ((1.0, 100),)


def test_a_sparse_step_passes_over_pixels_at_their_end_of_the_box():
    walk = walk_of(1, [1.0], [True])
    points = walk.x.clone()
    points[0, 0, 3] = 1.0  # the four steepest
    slopes = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    pace = dataclasses.replace(Sparse.begin(50, walk), coordinates=torch.tensor([2.0]))
    wide = dataclasses.replace(walk, points=points, gradient=slopes, epsilon=torch.tensor([4.0]))
    moved = (pace.step(wide, 1) > points).flatten(1)
    assert moved.nonzero()[:, 1].tolist() == [10, 11]


def test_a_step_is_halved_where_too_few_steps_rose_or_nothing_changed():
    walk = walk_of(3, [1.0, 1.0, 0.0], [True, False, True])
    pace = Halving.begin(Norm.LINF, 1.0, 100, walk)
    pace = dataclasses.replace(pace, record=torch.zeros(3))
    for index in range(1, 22):
        pace, unmoved = pace.adapted(walk, index)
        assert unmoved is walk
    pace, back = pace.adapted(walk, 22)
    assert pace.length.tolist() == [2.0, 1.0, 1.0]
    assert pace.halved.tolist() == [False, True, True]
    assert torch.equal(back.points[1:], walk.best[1:])
    assert torch.equal(back.points[0], walk.points[0])
    for index in range(23, 42):
        pace, _ = pace.adapted(walk, index)
    assert pace.length.tolist() == [1.0, 0.5, 1.0], "no new best halves every second time"


def test_sparse_steps_move_as_many_coordinates_as_the_best_point_needs():
    walk = walk_of(2, [1.0, 1.0], [True, True])
    best = walk.x.clone()
    best[0, 0, 0] += 0.1  # four coordinates
    best[1] += 0.1  # all sixteen
    pace = Sparse.begin(50, walk)
    assert pace.interval == 2
    assert pace.coordinates.tolist() == pytest.approx([16 / 5] * 2)
    walk = dataclasses.replace(walk, best=best)
    pace, _ = pace.adapted(walk, 2)
    assert pace.coordinates.tolist() == pytest.approx([4 / 1.5, 16 / 1.5])
    assert pace.length.tolist() == pytest.approx([1.0, 1 / 1.5])
    slopes = torch.arange(16.0).reshape(1, 1, 4, 4)
    steps = pace.step(dataclasses.replace(walk, gradient=slopes.repeat(2, 1, 1, 1)), 3)
    assert ((steps - walk.x).abs() > 1e-6).flatten(1).sum(dim=1).tolist() == [2, 10]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"band": 0.0}, r"band must be in \(0, 1\], got 0.0"),
        ({"band": 1.5}, r"band must be in \(0, 1\], got 1.5"),
        ({"band": 0.5, "norm": Norm.L1}, "band must be 1 in l1, got 0.5"),
        ({"loss": Loss.TRUE_CLASS, "targets": 2}, "targets must be 0 .*, got 2"),
        ({"recheck": 0}, "recheck must be at least 1, got 0"),
        ({"norm": Norm.L0}, "norm must be one of linf, l2, l1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        APGD(**{"norm": Norm.LINF, "loss": Loss.MARGIN, **fields})


def test_registry_holds_the_published_parameters():
    for name, attack in ATTACKS.items():
        if name.startswith("apgd"):
            assert attack.steps == 100 and attack.view.samples == 20
            assert (attack.restarts, attack.targets) == ((1, 9) if attack.targets else (5, 0))
            assert name == f"apgd-{name.split('-', 1)[1].rsplit('-', 1)[0]}-{attack.norm}"
            assert attack.band == (0.25 if "lowpass" in name else 1.0)
