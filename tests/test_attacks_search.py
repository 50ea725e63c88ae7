"""How candidates are searched, confirmed and carried, and Foolbox's faults that stop there."""

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks import ATTACKS
from attacks.base import Attack
from attacks.eot import View
from attacks.evasion import evades, evasion_lead, evasion_logits
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.from_foolbox import AdditiveNoise
from attacks.minimum_norm import MinimumNormAttack
from attacks.recorder import Recorder
from attacks.shortlist import Shortlist, ask
from attacks.starts import random_starts
from attacks.threat import Norm
from defenses.base import Decision, accepts_all
from defenses.randomness import generator
from tests.linear import (
    SHAPE,
    Linear,
    Noisy,
    Rejecting,
    Scripted,
    at_distance,
    images,
    labels,
    random_linear,
)
from tests.reference.exhaustive_sweep import smallest_broken

SWEEP = {
    Norm.LINF: (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08),
    Norm.L2: (0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3),
}


def logits_of(*leads: float) -> torch.Tensor:
    """Two-class logits of images labelled 0 with these leads of class 1."""
    return torch.tensor([[0.0, lead] for lead in leads])


# what counts as a break


@given(st.integers(0, 10**6), st.booleans())
@settings(deadline=None, max_examples=60)
def test_evasion_logits_are_wrong_exactly_where_wrong_and_accepted(seed, rejects):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, 4, generator=rng)
    y = torch.randint(4, (20,), generator=rng)
    margin = torch.randn(20, generator=rng) if rejects else torch.full((20,), -torch.inf)
    wrong = evasion_logits(logits, margin, y).argmax(dim=1) != y
    assert torch.equal(wrong, (logits.argmax(dim=1) != y) & (margin < 0))


def test_evasion_logits_of_a_defense_that_cannot_reject_are_its_logits():
    logits = torch.randn(5, 3)
    assert torch.equal(
        evasion_logits(logits, torch.full((5,), -torch.inf), torch.zeros(5).long()), logits
    )


def test_evasion_lead_is_positive_exactly_for_wrong_accepted_answers():
    logits = torch.cat([logits_of(2, -2, 2), torch.tensor([[0.0, torch.nan]])])
    decision = Decision(logits, torch.tensor([False, False, True, False]))
    leads = evasion_lead(decision, torch.zeros(4).long())
    assert leads.tolist() == [2, -2, -torch.inf, -torch.inf]


def test_a_tie_lost_by_the_true_class_counts_as_wrong():
    decision = accepts_all(torch.zeros(1, 2))
    assert evasion_lead(decision, torch.tensor([1])).item() > 0
    assert evasion_lead(decision, torch.tensor([0])).item() <= 0


def test_an_attack_on_a_rejecting_defense_gets_its_candidates_accepted():
    weight, bias = random_linear(num_classes=2)
    normal = weight[1] - weight[0]
    other = torch.randn(16, generator=torch.Generator().manual_seed(4))
    axis = normal / normal.norm() + other / other.norm()
    defense = Rejecting(weight, bias, axis, threshold=0.05)
    x = images(6)
    keep = ~defense.decide(x, generator(0)).rejected
    x = x[keep]
    y = labels(defense, x)
    for name in ("pgd-l2", "ddn", "deepfool-l2", "boundary"):
        fields = {"restarts": 2} if name == "pgd-l2" else {}
        fields |= {"steps": 500} if name == "boundary" else {}
        attack = dataclasses.replace(ATTACKS[name], **fields)
        candidate = attack(defense, x, y, (2.0,), generator(0))[0]
        assert evades(defense, candidate, y, generator(1)).float().mean() >= 0.8, name


def test_no_attack_claims_a_break_where_every_wrong_answer_is_rejected():
    weight, bias = random_linear(num_classes=2)
    defense = Rejecting(weight, bias, torch.zeros(16), threshold=-1.0)
    x = images(2)
    y = labels(defense, x)
    assert not evades(defense, 1 - x, y, generator(0)).any()
    for name in ("pgd-l2", "fgsm", "noise-l2"):
        fields = {"restarts": 1} if name == "pgd-l2" else {}
        attack = dataclasses.replace(ATTACKS[name], **fields)
        candidate = attack(defense, x, y, (3.0,), generator(0))[0]
        assert not evades(defense, candidate, y, generator(1)).any()


# the record of queries


def test_recorder_keeps_the_largest_lead_within_each_budget():
    x = torch.full((1, 1, 1, 1), 0.5)
    recorder = Recorder(Norm.LINF, x, (0.1, 0.3))
    for point, lead in ((0.55, -1.0), (0.7, 2.0), (0.58, -3.0), (0.75, 1.0), (0.9, 9.0)):
        recorder.see(torch.full_like(x, point), torch.tensor([lead]))
    assert recorder.candidates(0).item() == pytest.approx(0.55)
    assert recorder.candidates(1).item() == pytest.approx(0.7)
    assert recorder.leads.flatten().tolist() == [-1.0, 2.0]


def test_recorder_never_keeps_nan():
    x = torch.full((2, 1, 1, 1), 0.5)
    recorder = Recorder(Norm.L2, x, (1.0,))
    points = torch.tensor([torch.nan, 0.6]).reshape(2, 1, 1, 1)
    recorder.see(points, torch.tensor([1.0, torch.nan]))
    assert torch.equal(recorder.candidates(0), x)


# restarts, bisection, confirmation


@dataclass(frozen=True, kw_only=True)
class Listed(FixedEpsilonAttack):
    """Proposes x + epsilon and notes which images it was asked about at which epsilon."""

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)

    norm: Norm = Norm.LINF
    asked: Counter = dataclasses.field(default_factory=Counter, compare=False)

    def perturb(self, defense, x, y, epsilon, rng):
        for each, radius in zip(x[:, 0, 0, 0].tolist(), epsilon.tolist(), strict=True):
            self.asked[(round(each, 3), round(radius, 3))] += 1
        return x + epsilon.reshape(-1, 1, 1, 1)


def brightness(threshold: float) -> Scripted:
    """Class 1 above a mean brightness."""
    return Scripted(
        lambda x: torch.stack([torch.full((len(x),), threshold), x.flatten(1).mean(1)], dim=1)
    )


def brightness_weights() -> tuple[torch.Tensor, torch.Tensor]:
    """Of a linear classifier: class 1 above a mean brightness of 0.5."""
    weight = torch.stack([torch.zeros(16), torch.full((16,), 1 / 16)])
    return weight, torch.tensor([0.5, 0.0])


def test_a_break_is_scaled_down_and_the_budget_below_gets_all_restarts():
    x = torch.tensor([0.0, 0.48, 0.45]).reshape(3, 1, 1, 1)
    epsilons = tuple(0.01 * k for k in range(1, 8))
    attack = Listed(restarts=3)
    y = torch.zeros(3).long()
    candidates = attack(brightness(0.5), x, y, epsilons, generator(0))
    broken = torch.stack([evades(brightness(0.5), each, y, generator(0)) for each in candidates])
    assert broken.sum(dim=0).tolist() == [0, 5, 2]
    never = [attack.asked[(0.0, e)] for e in epsilons]
    early = [attack.asked[(0.48, e)] for e in epsilons]
    assert never == [0, 0, 0, 3, 0, 3, 3]
    assert early == [0, 3, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd-linf", "pgd-l2"])
def test_bisection_finds_the_budgets_that_an_exhaustive_sweep_finds(name):
    fields = {"steps": 60, "restarts": 1} if name.startswith("pgd") else {}
    attack = dataclasses.replace(ATTACKS[name], **fields)
    defense = Linear(*random_linear(num_classes=2))
    x = images(8, spread=0.1)
    y = labels(defense, x)
    epsilons = SWEEP[attack.norm]
    candidates = attack(defense, x, y, epsilons, generator(0))
    broken = torch.stack([evades(defense, each, y, generator(1)) for each in candidates])
    first = (~broken).sum(dim=0)
    assert torch.equal(first, smallest_broken(attack, defense, x, y, epsilons, seed=0))
    assert 0 < first.float().mean() < len(epsilons)


@pytest.mark.parametrize("name", ["ddn", "deepfool-l2"])
def test_minimum_norm_attack_breaks_every_budget_that_it_breaks_alone(name):
    attack = ATTACKS[name]
    defense = Linear(*random_linear(num_classes=2))
    x = images(8, spread=0.1)
    y = labels(defense, x)
    epsilons = SWEEP[Norm.L2]
    candidates = attack(defense, x, y, epsilons, generator(0))
    broken = torch.stack([evades(defense, each, y, generator(1)) for each in candidates])
    assert torch.equal(
        (~broken).sum(dim=0), smallest_broken(attack, defense, x, y, epsilons, seed=0)
    )


def test_a_break_only_in_the_view_does_not_end_the_restarts():
    defense = Scripted(
        deployed=lambda x: torch.zeros(len(x), 2) + torch.tensor([1.0, 0.0]),
        view=lambda x: x.flatten(1).sum(1)[:, None] * torch.tensor([0.0, 1.0]),
    )
    attack = dataclasses.replace(ATTACKS["pgd-linf"], steps=3, restarts=4)
    x = images(2)
    attack(defense, x, torch.zeros(2).long(), (0.1,), generator(0))
    per_restart = len(x) * (3 + 1 + 1)
    assert defense.cost.forward == 4 * per_restart


def test_a_stochastic_defense_must_be_fooled_several_times_in_a_row():
    rng = torch.Generator().manual_seed(0)

    class Coin(Scripted):
        stochastic = True

    defense = Coin(lambda x: torch.rand(len(x), 2, generator=rng))
    x, y = images(400), torch.zeros(400).long()
    standing = ask(defense, x, y, generator(0), 3)
    shares = [(standing.streak == streak).float().mean().item() for streak in range(4)]
    assert shares == pytest.approx([0.5, 0.25, 0.125, 0.125], abs=0.08)


def test_a_deterministic_defense_is_asked_once_a_stochastic_one_as_often_as_must_convince():
    x, rows = images(3), torch.arange(3)
    for defense, votes in ((Linear(*random_linear()), 1), (Noisy(*random_linear(), std=0.0), 3)):
        wrong = (labels(defense, x) + 1) % 4
        before = defense.cost.forward
        shortlist = Shortlist(defense, Norm.L2, x, wrong, (0.1,), confirmations=3)
        assert shortlist.propose(0, rows, x, generator(0)).all()
        assert defense.cost.forward - before == 3 * votes


def test_a_stochastic_defense_is_attacked_at_every_budget_where_no_break_is_sure():
    def asked(std: float) -> list[int]:
        defense, attack = Noisy(*brightness_weights(), std=std), Listed(restarts=2)
        attack(
            defense, torch.full((1, 1, 4, 4), 0.43), torch.zeros(1).long(), epsilons, generator(0)
        )
        return [attack.asked[(0.43, each)] for each in epsilons]

    epsilons = (0.02, 0.05, 0.08, 0.2)
    assert asked(std=1e-4) == [2, 2, 1, 0]  # what broke at 0.08 fills 0.2 and breaks it surely
    assert asked(std=10.0)[2:] != [1, 0]  # a coin: a break at one budget says nothing of the next


def test_the_shortlist_keeps_streaks_then_leads_within_every_ball():
    x, y, rows = torch.full((1, 1, 1, 1), 0.2), torch.zeros(1).long(), torch.zeros(1).long()
    shortlist = Shortlist(brightness(0.5), Norm.LINF, x, y, (0.1, 0.4, 0.7), confirmations=3)
    for value in (0.25, 0.9, 0.22):  # 0.9 is brought to 0.3: nearer to the threshold, not beyond it
        assert not shortlist.propose(0, rows, torch.full_like(x, value), generator(0)).any()
    assert shortlist.candidates[0].item() == pytest.approx(0.3, rel=1e-5)
    shortlist.inherit(1)
    assert shortlist.candidates[1].item() == pytest.approx(0.2)
    assert shortlist.propose(1, rows, torch.full_like(x, 0.55), generator(0)).all()
    assert not shortlist.propose(1, rows, torch.full_like(x, 0.45), generator(0)).any()
    assert shortlist.convinces.tolist() == [[False], [True], [False]]
    shortlist.inherit(2)
    assert shortlist.candidates[2].item() == pytest.approx(0.55)
    assert shortlist.convinces[2].all()


def test_a_boundary_point_of_a_stochastic_defense_is_stretched_to_fill_the_budget():
    @dataclass(frozen=True, kw_only=True)
    class OnTheEdge(MinimumNormAttack):
        norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)
        norm: Norm = Norm.L2

        def search(self, defense, y, recorder, rng):
            step = 0.1001 * normal / normal.norm()
            recorder.see(recorder.x + step.reshape(1, 1, 4, 4), torch.full((len(y),), 1e-3))

    exact, x = at_distance(0.1, Norm.L2, count=20)
    normal = (exact.weight[1] - exact.weight[0]).detach()
    defense = Noisy(exact.weight.detach(), exact.bias.detach(), std=0.03)
    y = labels(defense, x)
    candidates = OnTheEdge()(defense, x, y, (0.11, 0.3), generator(0))
    near, far = Norm.L2.distance(x, candidates[0]), Norm.L2.distance(x, candidates[1])
    assert near.max() <= 0.11
    assert (far > 0.29).float().mean() > 0.5
    wrong = torch.stack([evades(defense, candidates[1], y, generator(s)) for s in range(20)])
    assert (wrong.float().mean(dim=0) > 0.5).all()


def test_stretching_keeps_direction_ball_and_box():
    x = torch.full((1, 1, 1, 2), 0.9)
    point = x + torch.tensor([0.0, -0.01])
    assert torch.allclose(Norm.L2.stretch(x, point, 0.5), x + torch.tensor([0.0, -0.5]))
    assert torch.equal(Norm.L2.stretch(x, x + 0.01, 2.0), torch.ones_like(x))
    assert torch.equal(Norm.L2.stretch(x, x, 0.5), x)


def test_confirmed_breaks_are_carried_to_larger_budgets_of_a_noisy_attack():
    defense = Linear(*random_linear(num_classes=2))
    x = images(20, spread=0.05)
    y = labels(defense, x)
    attack = AdditiveNoise(norm=Norm.L2, repeats=2)
    epsilons = tuple(0.1 * k for k in range(1, 8))
    candidates = attack(defense, x, y, epsilons, generator(0))
    broken = torch.stack([evades(defense, each, y, generator(1)) for each in candidates])
    assert (broken[1:] | ~broken[:-1]).all()
    assert 0 < broken.sum() < broken.numel()


# Foolbox's faults


def band(inner: float, outer: float) -> Scripted:
    """Class 1 in a band of brightness; its logit peaks in the middle of the band."""
    middle, half = (inner + outer) / 2, (outer - inner) / 2
    return Scripted(
        lambda x: torch.stack(
            [torch.zeros(len(x)), half - (x.flatten(1).mean(1) - middle).abs()], dim=1
        )
    )


def test_pgd_keeps_its_best_iterate_where_the_last_is_not_adversarial():
    from foolbox.attacks import LinfBasicIterativeAttack
    from foolbox.models import PyTorchModel

    x = torch.full((2, 1, 4, 4), 0.3)
    y = torch.zeros(2).long()
    defense = band(0.3 + 0.038, 0.3 + 0.047)
    attack = dataclasses.replace(ATTACKS["bim"], steps=3)
    candidate = attack(defense, x, y, (0.1,), generator(0))[0]
    assert evades(defense, candidate, y, generator(0)).all()

    class Model(torch.nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return defense.deployed(points)

    model = PyTorchModel(Model().eval(), bounds=(0, 1), device="cpu")
    last = LinfBasicIterativeAttack(steps=3).run(model, x, y, epsilon=0.1)
    assert not evades(defense, last, y, generator(0)).any()


def unbeatable() -> Scripted:
    """Class 0 by a mile, with gradients that say otherwise."""
    return Scripted(lambda x: x.flatten(1).sum(1)[:, None] * torch.tensor([0.0, 1e-3]) - OFFSET)


OFFSET = torch.tensor([0.0, 5.0])

every_attack_on_logits = pytest.mark.parametrize(
    "name", [name for name, attack in ATTACKS.items() if attack.needs(unbeatable()) is None]
)


@every_attack_on_logits
def test_a_failing_attack_returns_an_image_near_the_clean_one(name):
    fields = {"steps": 5} if hasattr(ATTACKS[name], "steps") else {}
    fields |= {"restarts": 1} if hasattr(ATTACKS[name], "restarts") else {}
    fields |= {"queries": 50} if hasattr(ATTACKS[name], "queries") else {}
    attack = dataclasses.replace(ATTACKS[name], **fields)
    x = images(2)
    candidates = attack(unbeatable(), x, torch.zeros(2).long(), (0.05, 0.1), generator(0))
    assert (attack.norm.distance(x, candidates[0]) <= 0.05).all()
    assert candidates.flatten(2).amax(dim=2).min() > 0.2, "black"


@every_attack_on_logits
def test_a_defense_that_answers_nan_is_not_broken(name):
    x = images(3)

    def logits(points: torch.Tensor) -> torch.Tensor:
        moved = (points - x[: len(points)]).flatten(1).abs().amax(dim=1) > 1e-7
        answer = points.flatten(1).sum(1)[:, None] * torch.tensor([1.0, 0.9])
        return torch.where(moved[:, None], answer * torch.nan, answer)

    fields = {"steps": 5} if hasattr(ATTACKS[name], "steps") else {}
    fields |= {"restarts": 1} if hasattr(ATTACKS[name], "restarts") else {}
    fields |= {"queries": 50} if hasattr(ATTACKS[name], "queries") else {}
    attack: Attack = dataclasses.replace(ATTACKS[name], **fields)
    defense = Scripted(logits)
    y = torch.zeros(3).long()
    candidates = attack(defense, x, y, (0.05, 0.1), generator(0))
    assert candidates.isfinite().all()
    for candidate in candidates:
        assert not evades(defense, candidate, y, generator(0)).any()


def islands(*centres: torch.Tensor) -> Scripted:
    """Class 1 within a small ball around each centre, class 0 everywhere else."""

    def logits(points: torch.Tensor) -> torch.Tensor:
        distances = [(points - each).flatten(1).norm(dim=1) for each in centres]
        inside = 0.3 - torch.stack(distances).amin(dim=0)
        return torch.stack([torch.zeros_like(inside), inside], dim=1)

    return Scripted(logits)


def test_boundary_goes_on_for_images_that_have_a_start_where_others_have_none():
    x = images(3)
    defense = islands(x[1])
    y = torch.tensor([0, 1, 0])
    _, found = random_starts(defense, x, y, 12, generator(0))
    assert found.tolist() == [False, True, False]
    attack = dataclasses.replace(ATTACKS["boundary"], steps=200, start_tries=12)
    candidate = attack(defense, x, y, (0.6,), generator(0))[0]
    assert evades(defense, candidate, y, generator(0)).tolist() == [False, True, False]
    assert torch.equal(candidate[[0, 2]], x[[0, 2]])


def test_boundary_keeps_going_when_a_stochastic_defense_changes_its_mind_about_a_start():
    defense = Noisy(*random_linear(), std=0.3)
    x = images(6)
    attack = dataclasses.replace(ATTACKS["boundary"], steps=20)
    candidates = attack(defense, x, labels(defense, x), (1.0,), generator(0))
    assert candidates.shape == (1, *x.shape)


def test_linf_noise_fills_its_ball_and_never_leaves_it_whatever_its_sign():
    x = torch.full((40, 1, 1, 2), 0.5)
    seen = []

    def logits(points: torch.Tensor) -> torch.Tensor:
        seen.append((points - x).flatten(1).abs().amax(dim=1))
        return torch.tensor([1.0, 0.0]).expand(len(points), 2)

    AdditiveNoise(norm=Norm.LINF, repeats=3).perturb(
        Scripted(logits), x, torch.zeros(40).long(), torch.full((40,), 0.2), generator(0)
    )
    assert len(seen) == 3
    assert torch.allclose(torch.stack(seen), torch.tensor(0.2), atol=1e-6)


def test_a_row_that_has_its_start_is_not_asked_about_again():
    defense = Scripted(lambda x: torch.tensor([0.0, 1.0]).expand(len(x), 2))
    random_starts(defense, images(3), torch.tensor([0, 1, 0]), 10, generator(0))
    assert defense.cost.forward == 2 + 10


def plateau() -> Scripted:
    """Class 0 on a flat ball of radius 0.1 around mid-grey, where gradients vanish."""

    def logits(points: torch.Tensor) -> torch.Tensor:
        far = (points - 0.5).flatten(1).square().sum(dim=1).clamp_min(0.01)
        return torch.stack([torch.full_like(far, 0.02), far], dim=1)

    return Scripted(logits)


@pytest.mark.parametrize("name", ["bim", "ddn", "pgd-l2"])
def test_an_attack_leaves_a_plateau_on_which_gradients_vanish(name):
    x = torch.full((3, 1, 4, 4), 0.5) + 1e-4 * images(3)
    y = torch.zeros(3).long()
    attack = ATTACKS[name]
    epsilon = 0.3 if attack.norm is Norm.L2 else 0.2
    together = attack(plateau(), x, y, (epsilon,), generator(0))[0]
    assert evades(plateau(), together, y, generator(0)).all()
    alone = attack(plateau(), x[1:2], y[1:2], (epsilon,), generator(0))[0]
    assert torch.allclose(alone, together[1:2], atol=1e-5)


def test_an_attack_does_not_configure_logging():
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        defense = Linear(*random_linear())
        x = images(1)
        ATTACKS["deepfool-l2"](defense, x, labels(defense, x), (0.1,), generator(0))
        assert root.handlers == []
    finally:
        root.handlers = handlers


# adversarial training


def test_training_attack_stays_in_the_ball_and_leaves_weights_without_gradients():
    defense = Linear(*random_linear())
    x = images(4)
    y = labels(defense, x)
    attack = dataclasses.replace(ATTACKS["pgd-linf"], steps=5, restarts=20)
    perturbed = attack.during_training(0.1)(defense, x, y, generator(0))
    assert (Norm.LINF.distance(x, perturbed) <= 0.1).all()
    assert (
        evasion_lead(accepts_all(defense.logits(perturbed)), y).min()
        > evasion_lead(accepts_all(defense.logits(x)), y).min()
    )
    assert defense.cost.forward == 4 * (5 + 1), "one run, no restarts, no questions"
    assert all(weight.grad is None and weight.requires_grad for weight in defense.parameters())


def test_every_image_gets_all_noise_draws_whatever_stands_beside_it():
    attack = replace(ATTACKS["noise-l2"], repeats=20)
    defense = Linear(*random_linear())
    x = images(20)
    y = labels(defense, x)
    epsilons = (0.12,)
    together = attack(defense, x, y, epsilons, generator(0))
    alone = [attack(defense, x[i : i + 1], y[i : i + 1], epsilons, generator(0)) for i in range(20)]
    assert torch.equal(torch.cat(alone, dim=1), together)
    evading = (defense.logits(together[0]).argmax(dim=1) != y).sum()
    assert 0 < evading < 20, "the case must have both kinds"


@pytest.mark.parametrize("name", ["fgsm", "bim"])
def test_attacks_of_few_steps_find_a_small_ball_that_they_miss_in_a_larger_one(name):
    """A score with a bump: the class is wrong between 0.05 and 0.15 away from the image only."""

    def bump(x: torch.Tensor) -> torch.Tensor:
        moved = (x - 0.5).flatten(1).mean(dim=1)
        wrong = 0.05 - (moved - 0.1).abs()
        return torch.stack([torch.zeros_like(wrong), wrong], dim=1)

    attack = replace(ATTACKS[name], **({"steps": 1, "relative_step": 1.0} if name == "bim" else {}))
    defense = Scripted(bump)
    x = torch.full((2, *SHAPE), 0.5)
    y = torch.zeros(2, dtype=torch.long)
    epsilons = (0.02, 0.1, 0.3, 0.4)
    candidates = attack(defense, x, y, epsilons, generator(0))
    broken = [bool((defense.deployed(each).argmax(dim=1) == 1).all()) for each in candidates]
    assert broken == [False, True, True, True]


def test_a_view_that_does_not_see_the_repair_is_tried_at_every_epsilon():
    """The view knows no limit; the deployed defense is wrong up to 0.15 from the image only."""

    def moved(x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5).flatten(1).mean(dim=1)

    def view(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros(len(x)), moved(x) - 0.05], dim=1)

    def deployed(x: torch.Tensor) -> torch.Tensor:
        return view(x) * (moved(x) < 0.15)[:, None]

    attack = replace(ATTACKS["pgd-linf"], steps=20, restarts=1, view=View("scripted"))
    defense = Scripted(deployed, view)
    x = torch.full((2, *SHAPE), 0.5)
    y = torch.zeros(2, dtype=torch.long)
    candidates = attack(defense, x, y, (0.02, 0.1, 0.3, 0.4), generator(0))
    broken = [bool((deployed(each).argmax(dim=1) == 1).all()) for each in candidates]
    assert broken == [False, True, True, True]


@pytest.mark.parametrize("name", ["pgd-l2", "ddn"])
def test_a_lucky_break_at_a_small_budget_does_not_save_a_stochastic_defense_at_large_ones(name):
    attack = replace(ATTACKS[name], steps=20, view=View())
    if name == "pgd-l2":
        attack = replace(attack, restarts=1)
    defense = Noisy(*random_linear(), std=0.05)
    x = images(20)
    y = defense.decide(x, generator(9)).classes
    epsilons = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.5)
    candidates = attack(defense, x, y, epsilons, generator(1))
    votes = torch.stack([evades(defense, candidates[-1], y, generator(50 + i)) for i in range(10)])
    assert (votes.float().mean(dim=0) > 0.5).all()
