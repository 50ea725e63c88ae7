"""Selective and orthogonal steps and feature matching, on a defense known in closed form."""

import dataclasses

import pytest
import torch

from attacks import ATTACKS, SUITES
from attacks.bank import InformedByExamples
from attacks.evasion import evades
from attacks.feature_matching import accepted
from attacks.selective import Rule
from attacks.threat import Norm
from attacks.threshold_problems import violations
from defenses import DEFENSES
from defenses.base import Embeds, Task, Terms
from defenses.randomness import generator
from tests.linear import Linear, Mixture, images, labels, random_linear
from tests.reference.threshold_optimum import nearest_accepted
from tests.test_attacks_thresholds import (
    LOOSE,
    STRICT,
    attack_of,
    bank_of,
    boundary_distance,
    broken_at,
)

SELECTIVE = ["threshold-selective-l2", "threshold-orthogonal-l2"]
NEW = [
    f"{kind}-{norm}"
    for norm in ("linf", "l2")
    for kind in ("threshold-selective", "threshold-orthogonal", "feature-matching")
]


def test_selective_attack_breaks_exactly_beyond_the_boundary_where_no_score_matters():
    defense, x = Mixture(**LOOSE), images(3)
    y = labels(defense, x)
    distance = boundary_distance(defense, x, y)
    for row in range(len(x)):
        exact = distance[row].item()
        one = (x[row : row + 1], y[row : row + 1])
        attack = ATTACKS["threshold-selective-l2"]
        broken = broken_at(attack, defense, *one, (exact * 0.999, exact * 1.03))
        assert broken.flatten().tolist() == [False, True]


@pytest.mark.parametrize("name", [*SELECTIVE, "feature-matching-l2"])
def test_attack_comes_near_the_nearest_accepted_point_where_a_score_decides(name):
    defense, x = Mixture(**STRICT), images(1, seed=2, spread=0.02)
    best = min(nearest_accepted(defense, x[0], wanted) for wanted in (1, 2, 3))
    attack = ATTACKS[name].informed(bank_of(defense))
    broken = broken_at(attack, defense, x, torch.tensor([0]), (best * 0.999, best * 1.1))
    assert broken.flatten().tolist() == [False, True]


def terms_of(slopes, values):
    """Points at the origin of 5 dimensions, and linear terms with these slopes and values there."""
    points = torch.zeros(1, 5, requires_grad=True)
    return points, torch.tensor(values)[None] + points @ torch.tensor(slopes).T


GAP, FIRST, SECOND = [3.0, 4.0, 0, 0, 0], [0, 2.0, 2.0, 0, 0], [0, 0, 1.0, 5.0, 0]


@pytest.mark.parametrize(
    ("values", "slope"),
    [
        ([0.1, 9.0, 5.0], GAP),
        ([-0.1, 0.2, 0.3], SECOND),
        ([-0.1, 0.3, 0.2], FIRST),
        ([0.0, 0.3, -0.2], FIRST),
        ([0.1, -1.0, -1.0], GAP),
    ],
)
def test_a_selective_step_goes_against_the_gap_then_against_the_worst_score(values, slope):
    points, violated = terms_of([GAP, FIRST, SECOND], values)
    assert Rule.SELECTIVE.gradient(points, violated)[0].tolist() == slope


@pytest.mark.parametrize(
    ("values", "own", "spared"),
    [
        ([0.1, -1.0, -1.0], GAP, [FIRST, SECOND]),
        ([0.1, -1.0, 3.0], GAP, [FIRST]),
        ([-0.1, 2.0, -1.0], FIRST, [GAP, SECOND]),
        ([0.1, 1.0, 1.0], GAP, []),
    ],
)
def test_an_orthogonal_step_spares_exactly_the_terms_that_are_met(values, own, spared):
    points, violated = terms_of([GAP, FIRST, SECOND], values)
    gradient = Rule.ORTHOGONAL.gradient(points, violated)[0].double()
    own, rows = torch.tensor(own).double(), torch.tensor(spared).double().reshape(-1, 5)
    exact = own - rows.T @ torch.linalg.pinv(rows.T) @ own
    torch.testing.assert_close(gradient, exact / exact.norm(), rtol=1e-5, atol=1e-6)


def test_an_orthogonal_step_that_spares_everybody_does_not_exist_and_harms_somebody():
    points, violated = terms_of([GAP, [6.0, 8.0, 0, 0, 0]], [0.1, -1.0])
    gradient = Rule.ORTHOGONAL.gradient(points, violated)[0]
    torch.testing.assert_close(gradient, torch.tensor(GAP) / 5)


def test_rows_of_no_slope_or_of_tiny_ones_keep_their_direction_or_none():
    points = torch.zeros(2, 5, requires_grad=True)
    scale = torch.tensor([[0.0], [1e-30]])
    slopes = torch.tensor([GAP, SECOND])
    violated = torch.tensor([0.1, -1.0]) + (scale * points) @ slopes.T
    gradient = Rule.ORTHOGONAL.gradient(points, violated)
    assert torch.equal(gradient[0], torch.zeros(5))
    torch.testing.assert_close(gradient[1].norm(), torch.tensor(1.0))
    assert abs(gradient[1] @ slopes[1]) < 1e-5


def test_violations_are_zero_where_a_term_is_met_exactly_by_the_margin():
    terms = Terms(torch.tensor([-0.5]), torch.exp(torch.tensor([[-0.5, 0.0]])))
    torch.testing.assert_close(violations(terms, 0.5), torch.tensor([[0.0, 0.0, 0.5]]))


@pytest.mark.parametrize("name", NEW)
def test_chunks_and_neighbours_change_no_candidate(name):
    defense, x = Mixture(), images(5)
    y = labels(defense, x)
    radii = (0.05, 0.2) if ATTACKS[name].norm is Norm.LINF else (0.2, 0.6)
    attack = attack_of(name, steps=12).informed(bank_of(defense))
    made = [
        dataclasses.replace(attack, chunk=chunk)(defense, x, y, radii, generator(0))
        for chunk in (1, 50, 1000)
    ]
    assert torch.equal(made[0], made[2])
    assert torch.equal(made[1], made[2])
    alone = attack(defense, x[[3]], y[[3]], radii, generator(0))
    assert torch.allclose(alone, made[2][:, [3]], atol=1e-5)


@pytest.mark.parametrize("name", NEW)
def test_an_attack_on_terms_that_are_no_numbers_stays_at_the_image(name):
    class Blank(Mixture):
        def terms(self, x, wanted, *, printed=False):
            gap, scores = super().terms(x, wanted, printed=printed)
            return Terms(gap * torch.nan, scores * torch.nan)

    defense, x = Blank(), images(2)
    candidates = attack_of(name, steps=4)(defense, x, labels(defense, x), (0.1,), generator(0))
    assert torch.equal(candidates[0], x)


def test_feature_matching_descends_on_the_share_of_the_latent_distance():
    """No score pulls here; without examples nothing would."""
    defense, x = Mixture(**LOOSE), images(4)
    y = labels(defense, x)
    attack = attack_of("feature-matching-l2", steps=60)
    assert isinstance(attack, InformedByExamples)
    bank, rows, wanted = bank_of(defense), torch.arange(4), (y + 1) % 4
    points = (x + 0.05).requires_grad_()
    _, alone = attack.slope(defense, x, wanted)(points, rows)
    assert torch.equal(alone, torch.zeros_like(x))
    aimed = attack.informed(bank)
    _, gradient = aimed.slope(defense, x, wanted)(points, rows)
    aim = defense.encode(bank.of(bank.nearest(x, 4)[rows, wanted], x))
    apart = (defense.encode(x) - aim).square().sum(dim=1, keepdim=True)
    exact = 2 * defense.gain * (defense.encode(points) - aim) @ defense.rows / apart
    torch.testing.assert_close(gradient.flatten(1), exact.detach(), rtol=1e-4, atol=1e-5)
    assert broken_at(aimed, defense, x, y, (0.8,)).all()


def test_only_images_that_the_defense_accepts_as_their_class_are_matched():
    defense = Mixture()
    bank = bank_of(defense)
    spoilt = dataclasses.replace(bank, images=bank.images.clone(), labels=bank.labels.clone())
    spoilt.images[0] = 255 * (torch.arange(16).reshape(1, 4, 4) % 2)  # refused
    spoilt.labels[1] = 2  # of class 1
    kept = accepted(defense, spoilt, images(1))
    assert torch.equal(kept.images, bank.images[2:])
    assert torch.equal(kept.labels, bank.labels[2:])


def test_a_refused_image_is_no_aim_however_near_it_is():
    defense, x = Mixture(**LOOSE), images(1)
    y = labels(defense, x)
    bank, wanted = bank_of(defense), (y + 1) % 4
    spoilt = dataclasses.replace(bank, images=bank.images.clone(), labels=bank.labels.clone())
    own = (bank.labels == wanted).nonzero().squeeze(1)
    spoilt.images[own[0]] = (x[0] * 255).to(torch.uint8)  # of another class, for the defense
    kept = (torch.arange(len(bank.labels)) != own[0]).nonzero().squeeze(1)
    without = dataclasses.replace(bank, images=bank.images[kept], labels=bank.labels[kept])
    points = (x + 0.05).requires_grad_()
    slopes = [
        attack_of("feature-matching-l2", bank=each).slope(defense, x, wanted)
        for each in (spoilt, without)
    ]
    one, other = (slope(points, torch.arange(1))[1] for slope in slopes)
    assert torch.equal(one, other)


def test_feature_matching_names_what_a_defense_lacks():
    class Hidden(Mixture):
        embed = None

    attack = ATTACKS["feature-matching-l2"]
    assert attack.needs(Mixture()) is None
    assert attack.needs(Linear(*random_linear())) == (
        "Linear has no differentiable thresholds to stay within"
    )
    assert attack.needs(Hidden()) == "Hidden has no latents to match"
    with pytest.raises(ValueError, match=r"^defense must have latents, got Hidden; see needs\(\)$"):
        attack(Hidden(), images(1), torch.zeros(1).long(), (0.1,), generator(0))


@pytest.mark.parametrize("name", [name for name in DEFENSES if name.startswith("gmvae")])
def test_every_gmvae_embeds_and_counts_it(name):
    with torch.random.fork_rng():
        defense = DEFENSES[name].build(Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)).eval()
    assert isinstance(defense, Embeds)
    cost = getattr(defense, "base", defense).cost
    x = torch.rand(3, 1, 8, 8, requires_grad=True)
    defense.embed(x).sum().backward()
    assert (cost.forward, cost.backward) == (3, 3)
    assert all(ATTACKS[name].needs(defense) is None for name in SUITES["threshold_aware"])


def test_a_larger_ball_is_broken_with_the_point_of_a_smaller():
    defense, x = Mixture(), images(6)
    y = labels(defense, x)
    for name in SELECTIVE:
        candidates = attack_of(name, steps=40)(defense, x, y, (0.3, 0.6, 1.2), generator(0))
        broken = torch.stack([evades(defense, each, y, generator(0)) for each in candidates])
        assert (broken[1:] | ~broken[:-1]).all()
        assert broken[-1].all()
