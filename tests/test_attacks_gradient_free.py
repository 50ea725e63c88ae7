"""Attacks that ask the deployed defense only: what they ask, and how they search."""

import dataclasses
import math
from collections.abc import Callable

import eagerpy as ep
import pytest
import torch
from torch import Generator, Tensor

from attacks import ATTACKS
from attacks.evasion import evades, evasion_lead
from attacks.from_foolbox import HopSkipJump
from attacks.mean_decision import MeanDecision, Steady
from attacks.square import Square
from attacks.square_moves import L2Moves, LinfMoves, eta
from attacks.threat import Norm
from defenses.base import Decision, Defense, Surrogate
from defenses.randomness import child, generator, row_generators
from tests.linear import (
    Linear,
    Noisy,
    Scripted,
    at_distance,
    exact_distance,
    images,
    labels,
    random_linear,
)


class Tossing(Defense):
    """Logits, refusals and scores that are functions of the seed alone, the same for all images."""

    stochastic = True
    can_reject = True
    num_classes = 2
    surrogate_names = ()

    def __init__(self, answer: Callable[[Generator], tuple[tuple[float, float], bool]]) -> None:
        super().__init__()
        self.answer = answer

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        logits, rejected = self.answer(rng)
        return Decision(
            torch.tensor(logits, dtype=x.dtype).expand(len(x), 2),
            torch.full((len(x),), rejected),
            {"toss": torch.full((len(x),), 2.0 if rejected else 0.0)},
        )

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        raise AssertionError("nobody may ask for gradients")


class InTurn:
    """Answers that come in turn, whatever the seed."""

    def __init__(self, *answers: tuple[tuple[float, float], bool]) -> None:
        self.answers = list(answers)

    def __call__(self, rng: Generator) -> tuple[tuple[float, float], bool]:
        return self.answers.pop(0)


def test_mean_decision_is_the_mean_over_seeds_of_logits_and_scores() -> None:
    defense = Noisy(*random_linear(), std=0.3)
    x = images(4)
    mean = MeanDecision(defense, 5).decide(x, generator(2))
    rows = [defense.decide(x, child(generator(2), "seed", seed)).logits for seed in range(5)]
    assert torch.allclose(mean.logits, sum(rows) / 5)
    tossed = MeanDecision(Tossing(InTurn(((1, 0), True), ((0, 3), False))), 2)
    answer = tossed.decide(x, generator(0))
    assert torch.equal(answer.logits, torch.tensor([[0.5, 1.5]]).expand(4, 2))
    assert torch.equal(answer.scores["toss"], torch.ones(4))


@pytest.mark.parametrize(
    ("refusals", "rejected"),
    [((True, False), True), ((True, False, False), False), ((True, True, False), True)],
)
def test_mean_decision_rejects_where_half_of_the_seeds_do(refusals, rejected) -> None:
    defense = Tossing(InTurn(*(((1, 0), each) for each in refusals)))
    answer = MeanDecision(defense, len(refusals)).decide(images(2), generator(0))
    assert answer.rejected.tolist() == [rejected] * 2


def test_mean_decision_with_one_answer_of_nan_is_no_evasion() -> None:
    defense = Tossing(InTurn(((0, 9), False), ((0, math.nan), False), ((0, 9), False)))
    answer = MeanDecision(defense, 3).decide(images(2), generator(0))
    assert answer.logits.isnan().any(dim=1).all()
    assert (evasion_lead(answer, torch.zeros(2).long()) == -torch.inf).all()


def test_mean_decision_asks_a_deterministic_defense_once_and_a_stochastic_one_per_seed() -> None:
    x = images(3)
    for defense, expected in ((Linear(*random_linear()), 3), (Noisy(*random_linear()), 21)):
        MeanDecision(defense, 7).decide(x, generator(0))
        assert defense.cost.forward == expected


def test_mean_decision_of_one_seed_is_the_deployed_answer() -> None:
    defense, x = Noisy(*random_linear()), images(3)
    mean = MeanDecision(defense, 1).decide(x, generator(4))
    assert torch.equal(mean.logits, defense.decide(x, generator(4)).logits)


def test_mean_decision_knows_the_class_where_single_answers_are_tosses() -> None:
    linear, x = at_distance(0.1, Norm.L2, count=4)
    defense = Noisy(linear.weight.detach(), linear.bias.detach(), std=0.3)
    y = labels(linear, x)
    single = torch.stack([evades(defense, x, y, generator(seed)) for seed in range(40)])
    assert (single.float().mean(dim=0) > 0.2).all()
    mean = MeanDecision(defense, 200)
    assert not any(evades(mean, x, y, generator(seed)).any() for seed in range(5))


def test_steady_decisions_do_not_change_when_asked_again() -> None:
    defense, x = Noisy(*random_linear(), std=0.3), images(4)
    steady = Steady(MeanDecision(defense, 2), generator(0))
    first = steady.decide(x, generator(1)).logits
    assert torch.equal(steady.decide(x[2:], generator(2)).logits, first[2:])
    assert not torch.equal(defense.decide(x, generator(1)).logits, first)


def nested_rectangles(height: int, width: int) -> Tensor:
    """A heap as the paper's figure draws it: rectangles that grow around the centre, summed up."""
    heap = torch.zeros(height, width, dtype=torch.float64)
    for reach in range(max(height, width) // 2 + 1):
        for row in range(height):
            for column in range(width):
                if abs(row - height // 2) <= reach and abs(column - width // 2) <= reach:
                    heap[row, column] += 1 / (reach + 1) ** 2
    return heap / heap.square().sum().sqrt()


@pytest.mark.parametrize("side", [2, 3, 5, 8, 11])
def test_bump_is_two_heaps_of_nested_rectangles_of_opposite_sign(side) -> None:
    bump = eta(side, torch.zeros(1, dtype=torch.float64))
    upper = side // 2
    slow = torch.cat([nested_rectangles(upper, side), -nested_rectangles(side - upper, side)])
    assert torch.allclose(bump, slow / math.sqrt(2), atol=1e-12)


def drawn(count: int, numbers: int) -> Tensor:
    return torch.rand((count, numbers), generator=generator(3))


def test_square_in_linf_fills_one_square_per_image_and_never_the_way_it_was() -> None:
    x = torch.full((200, 3, 8, 8), 0.5)
    moves, epsilon = LinfMoves(), torch.full((200,), 0.1)
    delta = moves.start(x, epsilon, row_generators(generator(0), x))
    assert (delta.abs() == 0.1).all()
    assert (delta == delta[:, :, :1]).all(), "stripes are vertical"
    draws = drawn(200, moves.numbers(3))
    moved = moves.move(x, delta, epsilon, 9 / 64, draws)
    again = moves.move(x, moved, epsilon, 9 / 64, draws)
    assert (again != moved).flatten(1).any(dim=1).all()
    assert (moved.abs() == 0.1).all()
    changed = (moved != delta).any(dim=1)
    assert changed.flatten(1).any(dim=1).all()
    rows, columns = changed.any(dim=2), changed.any(dim=1)
    for lines in (rows, columns):
        where = [line.nonzero().squeeze(1) for line in lines]
        assert all(each[-1] - each[0] < 3 for each in where)
    assert rows.any(dim=0).all(), "every row is within reach"
    assert columns.any(dim=0).all(), "every column is within reach"


def test_square_in_l2_keeps_the_length_and_empties_the_window_that_it_takes_from() -> None:
    x = torch.full((60, 2, 9, 9), 0.5)
    moves, epsilon = L2Moves(), torch.linspace(0.2, 1, 60)
    delta = moves.start(x, epsilon, row_generators(generator(0), x))
    draws = drawn(60, moves.numbers(2))
    draws[:, :2], draws[:, 2:4] = 0.0, 0.99
    moved = moves.move(x, delta, epsilon, 9 / 81, draws)
    for each in (delta, moved):
        assert torch.allclose(each.flatten(1).norm(dim=1), epsilon, rtol=1e-5)
    assert (moved[:, :, -3:, -3:] == 0).all()
    assert (moved[:, :, :3, :3] != delta[:, :, :3, :3]).flatten(1).any(dim=1).all()
    outside = torch.ones(9, 9, dtype=torch.bool)
    outside[:3, :3] = outside[-3:, -3:] = False
    scale = moved[..., outside] / delta[..., outside]
    assert torch.allclose(scale, scale[:, :1, :1], rtol=1e-3), "all else is only scaled"


def test_square_halves_its_squares_on_the_paper_s_schedule() -> None:
    attack = Square(norm=Norm.LINF, queries=10_000)
    shares = {0: 0.8, 10: 0.8, 11: 0.4, 201: 0.1, 2000: 0.025, 8001: 0.8 / 2**9, 9999: 0.8 / 2**9}
    assert {query: attack.share(query) for query in shares} == pytest.approx(shares)
    assert Square(norm=Norm.LINF, queries=1000).share(21) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["square-linf", "square-l2"])
def test_square_breaks_a_linear_defense_within_few_queries(name) -> None:
    attack = dataclasses.replace(ATTACKS[name], queries=300)
    defense = Linear(*random_linear())
    x = images(12)
    y = labels(defense, x)
    distance = exact_distance(defense, x, y, attack.norm)
    broken = [
        evades(defense, attack.perturb(defense, x, y, k * distance, generator(0)), y, generator(1))
        for k in (0.999, 3.0)
    ]
    assert not broken[0].any()
    assert broken[1].all()


def fortress() -> Scripted:
    return Scripted(lambda x: torch.stack([1 + x.flatten(1).mean(1), 0 * x[:, 0, 0, 0]], dim=1))


def test_square_asks_as_often_as_it_says() -> None:
    x, y, epsilon = images(4), torch.zeros(4).long(), torch.full((4,), 0.1)
    attack = Square(norm=Norm.LINF, queries=300, seeds=3)
    defense = fortress()
    attack.perturb(defense, x, y, epsilon, generator(0))
    assert defense.cost.forward == 4 * 300
    defense.stochastic = True
    attack.perturb(defense, x, y, epsilon, generator(0))
    assert defense.cost.forward == 4 * 300 * (1 + 3)


def test_square_asks_no_more_about_an_image_that_evades_nor_in_a_ball_without_room() -> None:
    defense = Scripted(lambda x: torch.tensor([0.0, 1.0]).expand(len(x), 2))
    y = torch.tensor([0, 1, 1])
    epsilon = torch.tensor([0.1, 0.1, 0.0])
    Square(norm=Norm.LINF, queries=50).perturb(defense, images(3), y, epsilon, generator(0))
    assert defense.cost.forward == 1 + 50


@pytest.mark.parametrize(("confirmations", "stops"), [(1, True), (60, False)])
def test_square_goes_on_while_a_stochastic_defense_does_not_confirm(confirmations, stops) -> None:
    def often_wrong(rng: Generator) -> tuple[tuple[float, float], bool]:
        wrong = float(torch.rand((), generator=rng)) < 0.8
        return ((0.0, 3.0) if wrong else (1.0, 0.0)), False

    defense = Tossing(often_wrong)
    attack = Square(norm=Norm.LINF, queries=40, seeds=10, confirmations=confirmations)
    x, y = images(1), torch.zeros(1).long()
    attack.perturb(defense, x, y, torch.full((1,), 0.1), generator(0))
    assert (defense.cost.forward < 40 * 10) == stops


class Gated(Linear):
    """A linear defense that rejects whatever is too bright in its left half, by a score."""

    can_reject = True

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        score = 1 + 4 * (x[..., :2].flatten(1).mean(dim=1) - 0.48)
        return Decision(self.logits(x), score > 1, {"bright": score})


@pytest.mark.parametrize("name", ["square-linf", "square-l2"])
def test_square_leaves_the_region_in_which_everything_is_rejected(name) -> None:
    weight, bias = random_linear()
    defense = Gated(weight, bias)
    x = images(6) + 0.05
    attack = dataclasses.replace(ATTACKS[name], queries=400)
    epsilon = torch.full((6,), 0.25 if attack.norm is Norm.LINF else 1.0)
    y = labels(defense, x)
    assert defense.decide(x, generator(0)).rejected.any()
    found = attack.perturb(defense, x, y, epsilon, generator(0))
    assert evades(defense, found, y, generator(0)).all()


def test_square_lowers_the_score_of_what_stays_rejected() -> None:
    class Never(Gated):
        def _decide(self, x: Tensor, rng: Generator) -> Decision:
            score = 9 + x.flatten(1).mean(dim=1)
            return Decision(self.logits(x), score > 1, {"bright": score})

    x, epsilon = images(4), torch.full((4,), 0.1)
    defense = Never(*random_linear())
    attack = Square(norm=Norm.LINF, queries=200)
    found = attack.perturb(defense, x, torch.zeros(4).long(), epsilon, generator(0))
    assert ((x - found).flatten(1).mean(dim=1) > 0.08).all()


def test_hop_skip_jump_goes_on_for_images_that_have_a_start_where_others_have_none() -> None:
    x = images(3)

    def logits(points: Tensor) -> Tensor:
        inside = 0.3 - (points - x[1]).flatten(1).norm(dim=1)
        return torch.stack([torch.zeros_like(inside), inside], dim=1)

    defense, y = Scripted(logits), torch.tensor([0, 1, 0])
    attack = HopSkipJump(norm=Norm.L2, steps=3, initial_gradient_eval_steps=20, start_tries=12)
    candidate = attack(defense, x, y, (0.6,), generator(0))[0]
    assert evades(defense, candidate, y, generator(0)).tolist() == [False, True, False]
    assert torch.equal(candidate[[0, 2]], x[[0, 2]])


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_hop_skip_jump_bears_a_defense_that_changes_its_mind(norm) -> None:
    defense, x = Noisy(*random_linear(), std=0.3), images(6)
    attack = HopSkipJump(norm=norm, steps=3, initial_gradient_eval_steps=20, seeds=2)
    candidates = attack(defense, x, labels(defense, x), (1.0,), generator(0))
    assert candidates.shape == (1, *x.shape)


def test_hop_skip_jump_on_many_seeds_finds_the_mean_boundary_of_a_noisy_defense() -> None:
    linear, x = at_distance(0.15, Norm.L2, count=2)
    defense = Noisy(linear.weight.detach(), linear.bias.detach(), std=0.1)
    y = labels(linear, x)
    attack = HopSkipJump(norm=Norm.L2, steps=5, initial_gradient_eval_steps=40, seeds=10)
    candidates = attack(defense, x, y, (0.15 * 0.7, 0.15 * 3), generator(0))
    assert evades(linear, candidates[1], y, generator(0)).all()
    assert not evades(linear, candidates[0], y, generator(0)).any()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("hopskipjump-l2", "gamma", 0.0),
        ("hopskipjump-linf", "seeds", 0),
        ("square-l2", "initial_share", 0.0),
        ("square-linf", "initial_share", 1.5),
        ("square-linf", "queries", 0),
        ("fmn-l2", "overshoot", -0.1),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, field, value) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be .*, got .*; "):
        dataclasses.replace(ATTACKS[name], **{field: value})


def test_foolbox_alone_scales_an_image_s_normal_by_its_batch() -> None:
    from foolbox.attacks import HopSkipJumpAttack

    attack, points = HopSkipJumpAttack(), ep.astensor(torch.full((4, 1, 4, 4), 0.5))
    delta = ep.astensor(torch.full((4,), 0.1))
    torch.manual_seed(0)
    normals = attack.approximate_gradients(
        lambda x: x.flatten(start=1).mean(axis=1) > 0.5, points, 50, delta
    )
    assert (normals.raw.flatten(1).norm(dim=1) < 0.9).all(), "Foolbox has mended it"


def test_foolbox_alone_projects_onto_no_l2_ball_and_fails_at_the_largest_l0_ball() -> None:
    from foolbox.attacks import L0FMNAttack, L2FMNAttack

    centre, point = ep.astensor(torch.zeros(1, 1, 4, 4)), ep.astensor(torch.ones(1, 1, 4, 4))
    moved = L2FMNAttack().project(point, centre, ep.astensor(torch.tensor([0.1])))
    assert torch.equal(moved.raw, point.raw), "Foolbox has mended it"
    with pytest.raises(IndexError):
        L0FMNAttack().project(point, centre, ep.astensor(torch.tensor([16.0])))


def test_fmn_in_l0_finds_the_one_pixel_that_decides() -> None:
    weight = torch.zeros(2, 16)
    weight[0], weight[1, 5] = 0.1, 3.0
    defense = Linear(weight, torch.tensor([1.0, 0.0]))
    x = images(4, spread=0.05) - 0.25
    y = labels(defense, x)
    assert (y == 0).all()
    candidate = dataclasses.replace(ATTACKS["fmn-l0"], steps=60)(
        defense, x, y, (1.0,), generator(0)
    )[0]
    assert evades(defense, candidate, y, generator(0)).all()
    changed = (candidate != x).flatten(1)
    assert changed.sum(dim=1).tolist() == [1] * 4
    assert changed[:, 5].all()
