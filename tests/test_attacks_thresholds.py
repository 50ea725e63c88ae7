"""Threshold-aware attacks: closed forms and a slow reference, batches that shrink, availability."""

import dataclasses
import itertools
import math

import pytest
import torch

from attacks import ATTACKS
from attacks.bank import Bank, InformedByExamples
from attacks.eot import View
from attacks.evasion import evades
from attacks.goals import Goal
from attacks.problems import every_other_class, in_chunks
from attacks.projected_step import decaying, descend
from attacks.recorder import Recorder
from attacks.row_adam import RowAdam
from attacks.threat import Norm
from attacks.threshold_hinge import hinges
from attacks.thresholds import Metric, depth
from defenses.base import Decision, Terms, Thresholded
from defenses.randomness import generator
from tests.linear import Linear, Mixture, Rejecting, Scripted, images, labels, random_linear
from tests.reference.threshold_optimum import nearest_accepted

LOOSE = {"tau_enc": 1e3, "tau_dec": 1e3}
"""Thresholds that nothing near the images reaches."""

STRICT = {"gain": 0.3, "variance": 0.1, "tau_enc": 2.77, "tau_dec": 1.0, "seed": 3}
"""The encoder's threshold is inside the class boundary: it alone decides.

Where Eq. 10's parts balance, at |eta| = score |grad score|, the score is just below 1 at mid-grey.
"""


def attack_of(name, **fields):
    return dataclasses.replace(ATTACKS[name], **fields)


def broken_at(attack, defense, x, y, epsilons):
    candidates = attack(defense, x, y, epsilons, generator(0))
    return torch.stack([evades(defense, each, y, generator(1)) for each in candidates])


def boundary_distance(defense: Mixture, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """To the nearest bisector of two means: (z_y - z_k) / (gain ||e_y - e_k||), smallest over k."""
    with torch.no_grad():
        z = defense.encode(x)
    gaps = (z.gather(1, y[:, None]) - z) / (defense.gain * math.sqrt(2))
    return gaps.scatter(1, y[:, None], torch.inf).amin(dim=1)


def test_the_linear_defense_is_thresholded_and_its_terms_agree_with_its_decisions():
    defense = Mixture()
    assert isinstance(defense, Thresholded)
    x = images(60, spread=0.4)
    decision = defense.decide(x, generator(0))
    for wanted in range(4):
        terms = defense.terms(x, torch.full((60,), wanted))
        taken = (decision.classes == wanted) & ~decision.rejected
        assert torch.equal(depth(terms) > 0, taken)
    assert 0 < decision.rejected.sum() < 60


def test_hinge_attack_breaks_exactly_beyond_the_class_boundary_where_no_score_matters():
    defense, x = Mixture(**LOOSE), images(3)
    y = labels(defense, x)
    distance = boundary_distance(defense, x, y)
    attack = attack_of("threshold-hinge-l2")
    for row in range(len(x)):
        exact = distance[row].item()
        one = (x[row : row + 1], y[row : row + 1])
        broken = broken_at(attack, defense, *one, (exact * 0.999, exact * 1.03))
        assert broken.flatten().tolist() == [False, True]


@pytest.fixture(scope="module")
def strict():
    """A defense, an image near mid-grey, and the distance to what is accepted as another class."""
    defense, x = Mixture(**STRICT), images(1, seed=2, spread=0.02)
    best = min(nearest_accepted(defense, x[0], wanted) for wanted in (1, 2, 3))
    return defense, x, torch.tensor([0]), best


@pytest.mark.parametrize("name", ["threshold-hinge-l2", "threshold-aware-l2"])
def test_attack_comes_within_five_percent_of_the_nearest_accepted_point(strict, name):
    defense, x, y, best = strict
    broken = broken_at(ATTACKS[name], defense, x, y, (best * 0.999, best * 1.05))
    assert broken.flatten().tolist() == [False, True]


def test_in_the_strict_defense_the_encoders_threshold_is_active(strict):
    _, x, _, best = strict
    free = Mixture(**{**STRICT, "tau_enc": 1e3})
    assert best > 1.2 * min(nearest_accepted(free, x[0], wanted) for wanted in (1, 2, 3))


def test_descent_ends_at_the_minimum_of_equation_10_in_closed_form():
    """With a = b = 1 and one wanted class it is a ridge regression; its end is never accepted."""
    gain, c, tau = 0.3, 5.5, 0.5
    defense = Mixture(2, gain=gain, variance=1 / c, tau_enc=1.0, tau_dec=tau)
    x = images(4, spread=0.1)
    y = labels(defense, x)
    rows = defense.rows.detach()
    centred = x.flatten(1) - 0.5
    along = centred @ rows.T
    across = centred - along @ rows
    toward = defense.means.detach()[1 - y] - defense.encode(x).detach()
    eta = (c * gain / (1 + c * gain**2)) * toward @ rows - across / (1 + tau)
    attack = attack_of("threshold-aware-l2", power=1.0, patience=400)
    ended = attack(defense, x, y, (5.0,), generator(0))[0]
    assert torch.allclose((ended - x).flatten(1), eta, atol=1e-3)


@pytest.mark.parametrize(
    ("inverse", "printed"),
    [("threshold-aware-l2", "threshold-aware-printed-l2"), ("fooling", "fooling-printed")],
)
def test_the_printed_loss_does_not_see_the_encoders_threshold(inverse, printed):
    """With a variance of 0.002 the printed term is a 250,000th of the true score."""
    defense = Mixture(variance=0.002, tau_enc=20.0, gain=1.0, tau_dec=2.0)
    x = images(4)
    y = labels(defense, x)
    fields = {"steps": 400, "rate": 0.02}
    epsilons = (math.inf if ATTACKS[inverse].norm is Norm.UNRESTRICTED else 4.0,)
    assert broken_at(attack_of(inverse, **fields), defense, x, y, epsilons).all()
    assert not broken_at(attack_of(printed, **fields), defense, x, y, epsilons).any()


def test_both_metrics_tell_the_same_terms_and_differ_in_the_encoders_score():
    defense, x = Mixture(), images(3)
    wanted = torch.tensor([0, 1, 2])
    inverse, terms = Metric.INVERSE.terms(defense, x, wanted)
    printed, same = Metric.PRINTED.terms(defense, x, wanted)
    assert torch.equal(terms.gap, same.gap)
    assert torch.equal(terms.scores, same.scores)
    assert torch.allclose(printed[:, 0], inverse[:, 0] * 0.1**2)
    assert torch.equal(printed[:, 1], inverse[:, 1])


def test_depth_is_positive_exactly_where_every_term_allows():
    gap = torch.tensor([-1.0, -1.0, -1.0, 0.0, 1.0, -1e-45, torch.nan])
    scores = torch.tensor([[0.5, 0.2], [0.5, 1.0], [0.5, 1.1], [0, 0], [0, 0], [0, 0], [0, 0]])
    found = depth(Terms(gap, scores))
    assert (found > 0).tolist() == [True, True, False, False, False, True, False]
    assert found[0] == 0.5
    assert found[2] == pytest.approx(-0.1)


def test_hinges_are_zero_exactly_where_every_term_is_met_by_the_margin():
    gap = torch.tensor([-1.0, -0.1, -1.0, -1.0])
    scores = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.95, 0.5], [0.0, 0.0]])
    assert (hinges(Terms(gap, scores), 0.2) == 0).tolist() == [True, False, False, True]


def test_row_adam_is_adam_and_rows_may_leave():
    start = torch.randn(5, 3, generator=generator(0))
    reference = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([reference], lr=0.05)
    points, adam = start.clone(), RowAdam(start, 0.05)
    rows = torch.arange(5)
    for step in range(40):
        if step == 15:
            keep = torch.tensor([0, 3, 4])
            rows, points = rows[keep], points[keep]
            adam.keep(keep)
        optimizer.zero_grad()
        (reference - 1).pow(4).sum().backward()
        optimizer.step()
        points = points - adam.step(4 * (points - 1) ** 3)
    assert torch.allclose(points, reference.detach()[rows], atol=1e-5)


def test_row_adam_counts_gradients_that_are_no_numbers_as_zero():
    adam = RowAdam(torch.zeros(3), 0.1)
    assert torch.equal(adam.step(torch.tensor([torch.nan, torch.inf, 0.0])), torch.zeros(3))
    assert adam.step(torch.ones(3)).isfinite().all()


def test_row_adam_lets_rows_begin_anew_while_others_go_on():
    rng = torch.Generator().manual_seed(0)
    gradients = torch.randn(30, 3, 4, generator=rng)
    adam, fresh, whole = (RowAdam(torch.zeros(3, 4), 0.05) for _ in range(3))
    for step, gradient in enumerate(gradients):
        if step == 12:
            adam.restart(torch.tensor([False, True, False]))
        steps, expected = adam.step(gradient), whole.step(gradient)
        if step >= 12:
            expected[1] = fresh.step(gradient)[1]
        assert torch.equal(steps, expected)


def test_problems_are_each_image_with_each_other_class():
    problems = every_other_class(torch.tensor([2, 0]), 3)
    pairs = sorted(zip(problems.rows.tolist(), problems.wanted.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 1), (1, 1), (1, 2)]
    assert problems.rows.tolist() == [0, 1, 0, 1]


def test_chunks_hold_whole_images():
    chunks = [c.tolist() for c in in_chunks(5, 9, 20, torch.device("cpu"))]
    assert chunks == [[0, 1], [2, 3], [4]]
    assert len(list(in_chunks(5, 9, 1, torch.device("cpu")))) == 5


NAMES = ["threshold-aware-l2", "threshold-hinge-l2", "threshold-hinge-linf", "fooling"]
RADII = {
    Norm.L2: (0.1, 0.3, 1.0),
    Norm.LINF: (0.03, 0.1, 0.3),
    Norm.UNRESTRICTED: (math.inf,),
}


@pytest.mark.parametrize("name", NAMES)
def test_chunks_change_no_candidate(name):
    defense, x = Mixture(), images(5)
    y = labels(defense, x)
    radii = RADII[ATTACKS[name].norm]
    made = [
        attack_of(name, steps=30, chunk=chunk)(defense, x, y, radii, generator(0))
        for chunk in (1, 7, 1000)
    ]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_problems_that_stall_leave_the_batch_and_change_nothing_for_the_others():
    defense, x = Mixture(), images(6)
    y = labels(defense, x)
    attack = attack_of("threshold-aware-l2", steps=300, rate=0.05, patience=10)
    together = attack(defense, x, y, (0.2, 0.5, 2.0), generator(0))
    sizes = defense.asked[:]
    assert sizes[0] == 18
    assert sizes[-1] < 18, "nobody left"
    assert all(later <= earlier for earlier, later in itertools.pairwise(sizes))
    for row in range(6):
        alone = attack(defense, x[[row]], y[[row]], (0.2, 0.5, 2.0), generator(0))
        assert torch.equal(alone, together[:, [row]])


def test_the_steps_of_a_problem_do_not_notice_that_others_leave():
    """Ends short of the minimum, so that a lost momentum would show; nothing is ever accepted."""
    defense = Mixture(2, gain=0.3, variance=1 / 5.5, tau_enc=1.0, tau_dec=0.5)
    attack = attack_of("threshold-aware-l2", power=1.0, steps=60, patience=5)
    x = images(2, spread=0.1)
    y = torch.zeros(2).long()
    minimum = attack_of("threshold-aware-l2", power=1.0, patience=400)
    x[1] = minimum(defense, x[1:], y[1:], (5.0,), generator(0))[0, 0]  # stalls at once
    x[1] += 0.05 * (x[1] - 0.5)
    defense.asked.clear()
    together = attack(defense, x, y, (5.0,), generator(0))
    assert sorted(set(defense.asked)) == [1, 2]
    assert torch.equal(attack(defense, x[:1], y[:1], (5.0,), generator(0)), together[:, :1])


def test_the_problems_of_an_image_that_is_broken_leave_together():
    defense, x = Mixture(**LOOSE), images(4)
    y = labels(defense, x)
    attack = attack_of("threshold-hinge-l2", steps=20, relative_step=0.3)
    attack.perturb(defense, x, y, torch.tensor([4.0, 4.0, 1e-6, 1e-6]), generator(0))
    assert defense.asked[0] == 12
    assert defense.asked[-1] == 6


def test_a_failed_problem_still_proposes_where_it_ended():
    defense = Mixture(tau_enc=0.01)
    x = images(3)
    y = labels(defense, x)
    attack = attack_of("threshold-aware-l2", steps=30, rate=0.003)
    candidates = attack(defense, x, y, (4.0,), generator(0))
    assert not evades(defense, candidates[0], y, generator(0)).any()
    assert (Norm.L2.distance(x, candidates[0]) > 0.05).all()
    hinge = attack_of("threshold-hinge-l2", steps=10)
    assert (Norm.L2.distance(x, hinge(defense, x, y, (0.1,), generator(0))[0]) > 0.05).all()


def bank_of(defense: Mixture, per_class: int = 6) -> Bank:
    """Images near the means, which the defense accepts, and grey ones."""
    offset = (defense.means.detach() - 1 / 4) / defense.gain @ defense.rows.detach()
    clean = (0.5 + offset).repeat(per_class, 1)
    clean = clean + 0.02 * torch.randn(clean.shape, generator=generator(3))
    shown = (clean.clamp(0, 1) * 255).round().to(torch.uint8).reshape(-1, 1, 4, 4)
    return Bank(shown, torch.arange(4).repeat(per_class), per_class=per_class, seed=0)


def test_the_bank_names_the_nearest_image_of_each_class():
    defense, x = Mixture(), images(5)
    bank = bank_of(defense)
    found = bank.nearest(x, 5)
    assert found[:, 4].tolist() == [-1] * 5
    everything = bank.of(torch.arange(24), x)
    for row in range(5):
        for k in range(4):
            distances = (everything - x[row]).flatten(1).norm(dim=1)
            distances[bank.labels != k] = torch.inf
            assert found[row, k] == distances.argmin()


class Mined(Mixture):
    """Every way out of the images leads downhill into a trap: the slope of the gap is reversed."""

    def terms(self, x, wanted, *, printed=False):
        gap, scores = super().terms(x, wanted, printed=printed)
        return Terms(torch.where(gap < 0, gap, gap.detach() + (gap.detach() - gap)), scores)


def test_the_start_toward_an_image_of_the_class_finds_what_the_gradient_hides():
    defense = Mined(**LOOSE)
    x = images(4)
    y = labels(defense, x)
    attack = attack_of("threshold-hinge-l2", steps=10)
    assert isinstance(attack, InformedByExamples)
    assert not broken_at(attack, defense, x, y, (0.8,)).any()
    assert broken_at(attack.informed(bank_of(defense)), defense, x, y, (0.8,)).all()


def test_an_attack_with_a_bank_names_it_and_keeps_chunks_harmless():
    defense, x = Mixture(), images(4)
    y = labels(defense, x)
    attack = attack_of("threshold-hinge-linf", steps=10).informed(bank_of(defense))
    assert "bank=Bank(per_class=6, seed=0)" in repr(attack)
    made = [
        dataclasses.replace(attack, chunk=chunk)(defense, x, y, (0.05, 0.2), generator(0))
        for chunk in (1, 1000)
    ]
    assert torch.equal(*made)


def test_fooling_images_start_from_noise_and_keep_nothing_of_the_image():
    defense = Mixture(tau_dec=2.0)
    x = images(6)
    y = labels(defense, x)
    candidates = attack_of("fooling", steps=200, rate=0.03)(
        defense, x, y, (math.inf,), generator(0)
    )
    assert evades(defense, candidates[0], y, generator(0)).all()
    assert (candidates[0] - x).abs().flatten(1).mean(dim=1).min() > 0.1
    assert ATTACKS["fooling"].start(x, generator(0)).unique(dim=0).shape == x.shape


def test_a_defense_whose_terms_are_no_numbers_is_not_broken():
    class Blank(Mixture):
        def terms(self, x, wanted, *, printed=False):
            gap, scores = super().terms(x, wanted, printed=printed)
            return Terms(gap * torch.nan, scores * torch.nan)

    defense, x = Blank(), images(3)
    y = labels(defense, x)
    for name in NAMES:
        attack = attack_of(name, steps=5)
        radii = RADII[attack.norm]
        candidates = attack(defense, x, y, radii, generator(0))
        assert candidates.isfinite().all()
        assert torch.equal(candidates[0], x), name


@pytest.mark.parametrize("name", NAMES)
def test_a_defense_without_thresholds_is_refused_by_name(name):
    attack, x = ATTACKS[name], images(2)
    with pytest.raises(
        ValueError, match=r"^defense must have thresholds, got Linear; see needs\(\)$"
    ):
        attack(Linear(*random_linear()), x, torch.zeros(2).long(), (0.1,), generator(0))


@pytest.mark.parametrize(("name", "dual"), [("refusal-l2", 2), ("refusal-linf", 1)])
def test_refusal_is_reached_exactly_beyond_the_distance_to_the_rejecting_side(name, dual):
    weight, bias = random_linear()
    axis = torch.randn(16, generator=generator(9))
    defense, x = Rejecting(weight, bias, axis, 0.8), images(4)
    y = labels(defense, x)
    distance = -defense.margin(x).detach() / torch.linalg.vector_norm(axis, ord=dual)
    assert (distance > 0).all()
    attack = attack_of(name, restarts=1, view=dataclasses.replace(ATTACKS[name].view, samples=1))
    for row in range(4):
        exact = distance[row].item()
        one = (x[row : row + 1], y[row : row + 1])
        candidates = attack(defense, *one, (exact * 0.999, exact * 1.02), generator(0))
        refused = [bool(defense.decide(each, generator(0)).rejected) for each in candidates]
        assert refused == [False, True]


def test_refusal_climbs_each_score_where_the_largest_leads_to_a_summit_too_low():
    """The decoder's score starts at 0.8 and cannot reach 1 in the ball; the encoder's can."""
    defense = Mixture(gain=4.0, variance=0.01, tau_enc=4.0, tau_dec=1.0)
    with torch.no_grad():
        along = (defense.means[0] - 1 / 4) / defense.gain @ defense.rows
        across = torch.randn(16, generator=generator(1)).sign()  # so that no pixel leaves the box
        across = across - defense.rows.T @ (defense.rows @ across)
        x = (0.5 + along + 0.8**0.5 * across / across.norm()).reshape(1, 1, 4, 4)
    assert ((x >= 0) & (x <= 1)).all()
    y, epsilon = torch.tensor([0]), torch.tensor([0.06])
    assert not defense.decide(x, generator(0)).rejected.any()
    attack = attack_of("refusal-l2", restarts=1)
    point = attack.perturb(defense, x, y, epsilon, generator(0))
    assert defense.decide(point, generator(0)).rejected.all()
    of_the_view = dataclasses.replace(attack, view=View(surrogate="exact"))
    point = of_the_view.perturb(defense, x, y, epsilon, generator(0))
    assert not defense.decide(point, generator(0)).rejected.any()


def test_a_wrong_answer_is_no_refusal_and_a_refusal_no_evasion():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0]])
    rejected = torch.tensor([False, False, True, True, True])
    y = torch.zeros(5).long()
    scores = {"a": torch.tensor([0.5, 0.5, 3.0, 1.0, 9.0]), "b": torch.zeros(5)}
    for told in ({}, scores):
        decision = Decision(logits, rejected, told)
        reached = [False, False, True, True, False]
        assert (Goal.REFUSAL.lead(decision, y) > 0).tolist() == reached
        assert (Goal.EVASION.lead(decision, y) > 0).tolist() == [False, True, False, False, False]
    assert Goal.REFUSAL.lead(Decision(logits, rejected, scores), y)[2] == 2


def test_a_view_that_never_rejects_leaves_the_availability_attack_with_nothing():
    class Mute(Scripted):
        can_reject = True

    x = images(3)
    defense = Mute(lambda points: points.flatten(1)[:, :2])
    candidates = attack_of("refusal-l2", steps=3)(
        defense, x, labels_of(defense, x), (0.1, 0.2), generator(0)
    )
    assert not defense.decide(candidates[-1], generator(0)).rejected.any()


def labels_of(defense, x):
    return defense.decide(x, generator(0)).classes


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_a_step_goes_its_length_and_takes_the_escape_where_there_is_no_slope(norm):
    x = images(3)
    escape = torch.ones(1, 4, 4)
    gradient = torch.stack([1e-30 * torch.randn(1, 4, 4), torch.zeros(1, 4, 4), escape * torch.nan])
    epsilon = torch.tensor([0.1, 0.2, 0.3])
    moved = descend(norm, x, x, gradient, epsilon=epsilon, length=0.5, escape=escape)
    assert torch.allclose(norm.distance(x, moved), 0.5 * epsilon, rtol=1e-3)
    assert (moved[1:] < x[1:]).all()
    assert ((moved[0] - x[0]) * gradient[0] <= 0).all()


def test_step_lengths_fall_linearly():
    assert decaying(4, 0.4) == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_a_record_of_copies_keeps_the_best_of_each_image():
    x = images(2)
    part = Recorder(Norm.L2, x.repeat(3, 1, 1, 1), (0.1, 5.0))
    points = x.repeat(3, 1, 1, 1) + 0.01 * torch.arange(1, 7).reshape(6, 1, 1, 1)
    part.see_rows(torch.arange(6), points, torch.tensor([1.0, 5.0, 3.0, 2.0, 2.0, 5.0]))
    one = part.merged(3)
    assert one.leads.tolist() == [[1.0, 5.0], [3.0, 5.0]]
    assert torch.equal(one.candidates(1), points[[2, 1]])
    assert torch.equal(one.candidates(0), points[[0, 1]])


def test_momentum_carries_a_step_over_a_slope_that_turned():
    """The gradients' L1 lengths are equal, so of two turned against one the sum decides (Eq. 6)."""
    defense, x = Linear(*random_linear(num_classes=2)), images(3)
    y = labels(defense, x)
    with_memory = ATTACKS["mim-linf"]
    without = attack_of("mim-linf", decay=0.0)
    bim = attack_of("bim", steps=with_memory.steps, relative_step=with_memory.relative_step)
    radii = (0.02, 0.05)
    a, b, c = (each(defense, x, y, radii, generator(0)) for each in (with_memory, without, bim))
    assert torch.equal(b, c)
    assert torch.allclose(a, c), "on a linear defense momentum changes nothing"
