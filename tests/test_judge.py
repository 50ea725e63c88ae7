"""The judge against classifiers whose distances are known exactly, and against cheating attacks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.threat import Norm
from benchmark.judge import (
    ABSOLUTE_TOLERANCE,
    RELATIVE_TOLERANCE,
    ask,
    judge,
    require_pixels,
    valid,
)
from benchmark.records import Outcome
from defenses.base import Decision, Defense, accepts_all
from defenses.randomness import generator
from tests.fakes import Brightness, Cautious, Cheat, Noisy, NotANumber, Walk

C, W, R = Outcome.CORRECT, Outcome.WRONG, Outcome.REJECTED


def flat(*values):
    """Constant images (n, 1, 2, 2): the L2 distance to Brightness's boundary is 2 |v - 1/2|."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def outcomes(judgement):
    return [list(verdict.outcome) for verdict in judgement.verdicts]


def judged(defense, x, y, candidates, epsilons, *, norm=Norm.L2, votes=5):
    clean = ask(defense, x, y, generator(1), votes)
    return judge(
        defense,
        x,
        y,
        candidates,
        norm=norm,
        epsilons=epsilons,
        clean=clean,
        rng=generator(1),
        votes=votes,
    )


class Scripted(Defense):
    """Answers each vote from a list: c correct (class 0), w wrong (class 1), r rejected."""

    num_classes = 2
    stochastic = True

    def __init__(self, votes):
        super().__init__()
        self.votes = iter(votes)
        self.seeds = []

    def _decide(self, x, rng):
        self.seeds.append(rng.initial_seed())
        vote = next(self.votes)
        logits = torch.tensor([[0.0, 1.0 if vote == "w" else -1.0]]).repeat(len(x), 1)
        return Decision(logits, torch.full((len(x),), vote == "r"))

    def _surrogate(self, name, rng):
        raise NotImplementedError


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_the_judge_breaks_a_linear_model_exactly_from_its_distance_on(norm):
    x, y = flat(0.3, 0.6), torch.tensor([0, 1])
    factor = 2 if norm is Norm.L2 else 1
    distances = [0.2 * factor, 0.1 * factor]
    epsilons = (0.05, 0.15, 0.25, 0.45)
    candidates = Walk(norm=norm)(Brightness(), x, y, epsilons, generator(0))
    judgement = judged(Brightness(), x, y, candidates, epsilons, norm=norm)
    for found, epsilon in zip(outcomes(judgement), epsilons, strict=True):
        assert found == [W if epsilon > distance else C for distance in distances]


def test_distances_are_measured_by_the_judge_in_both_norms():
    x = flat(0.3)
    judgement = judged(Brightness(), x, torch.tensor([0]), flat(0.4)[None], (0.5,))
    assert judgement.distances[Norm.L2][0, 0] == pytest.approx(0.2)
    assert judgement.distances[Norm.LINF][0, 0] == pytest.approx(0.1)


@pytest.mark.parametrize("how", ["far", "box", "nan"])
def test_candidates_outside_ball_or_box_or_numbers_are_invalid(how):
    x, y = flat(0.2, 0.9), torch.tensor([0, 1])
    candidates = Cheat(how=how)(Brightness(), x, y, (0.3,), generator(0))
    judgement = judged(Brightness(), x, y, candidates, (0.3,))
    assert outcomes(judgement) == [[Outcome.INVALID] * 2]
    assert list(judgement.verdicts[0].classes) == [-1, -1]


def test_nobody_is_asked_about_an_invalid_candidate():
    defense = Brightness()
    x = flat(0.2)
    clean = ask(defense, x, torch.tensor([0]), generator(0), 1)
    before = defense.cost.forward
    arguments = {"norm": Norm.L2, "epsilons": (0.1,), "clean": clean, "rng": generator(0)}
    judge(defense, x, torch.tensor([0]), flat(0.9)[None], votes=1, **arguments)
    assert defense.cost.forward == before


def test_a_distance_may_exceed_epsilon_by_the_documented_tolerance_only():
    x = flat(0.0)
    epsilon = 0.5
    limit = epsilon * (1 + RELATIVE_TOLERANCE) + ABSOLUTE_TOLERANCE
    inside, outside = flat(limit - 1e-6), flat(limit + 1e-6)
    assert valid(x, inside, Norm.LINF, epsilon).all()
    assert not valid(x, outside, Norm.LINF, epsilon).any()


def test_a_break_is_carried_to_larger_epsilons_whatever_the_attack_proposes_there():
    x, y = flat(0.4), torch.tensor([0])
    for proposal in (flat(0.4), flat(0.95), flat(float("nan"))):
        candidates = torch.stack([flat(0.51), proposal])
        judgement = judged(Brightness(), x, y, candidates, (0.3, 0.5))
        assert outcomes(judgement) == [[W], [W]]
        assert torch.equal(judgement.points[1], flat(0.51))
        assert judgement.distances[Norm.L2][1, 0] == pytest.approx(0.22)


def test_an_invalid_point_is_judged_anew_where_its_ball_is_large_enough():
    x, y = flat(0.4), torch.tensor([0])
    candidates = torch.stack([flat(0.6), flat(0.6)])
    assert outcomes(judged(Brightness(), x, y, candidates, (0.1, 0.5))) == [[Outcome.INVALID], [W]]


def test_equal_candidates_are_judged_once_and_the_image_keeps_its_verdict():
    defense = Brightness()
    x, y = flat(0.2, 0.3), torch.tensor([0, 0])
    candidates = torch.stack([x, flat(0.25, 0.35), flat(0.25, 0.35), x])
    judgement = judged(defense, x, y, candidates, (0.2, 0.3, 0.4, 0.5))
    assert outcomes(judgement) == [[C, C]] * 4
    assert defense.cost.forward == 2 + 2


def test_logits_that_are_not_numbers_are_an_error_and_only_there():
    verdict = ask(NotANumber(0.5), flat(0.2, 0.9), torch.tensor([0, 1]), generator(0), 3)
    assert list(verdict.outcome) == [C, Outcome.ERROR]
    assert verdict.classes[1] == -1
    assert np.isnan(verdict.wrong_share[1])


def test_a_rejected_candidate_breaks_nothing_and_is_not_correct_either():
    x, y = flat(0.3), torch.tensor([0])
    candidates = torch.stack([flat(0.46), flat(0.54), flat(0.56)])
    judgement = judged(Cautious(), x, y, candidates, (0.4, 0.5, 0.6))
    assert outcomes(judgement) == [[R], [R], [W]]
    assert [bool(verdict.rejected[0]) for verdict in judgement.verdicts] == [True, True, False]
    assert judgement.verdicts[2].classes[0] == 1


def test_accuracy_cannot_rise_with_epsilon_after_a_rejection():
    x, y = flat(0.3), torch.tensor([0])
    candidates = torch.stack([flat(0.46), flat(0.31)])
    judgement = judged(Cautious(), x, y, candidates, (0.4, 0.5))
    assert outcomes(judgement) == [[R], [R]]
    assert torch.equal(judgement.points[1], flat(0.46))


@pytest.mark.parametrize(
    ("votes", "outcome", "share"),
    [
        ("cccww", C, 0.4),
        ("ccwww", W, 0.6),
        ("ccww", W, 0.5),
        ("ccrr", R, 0.0),
        ("ccrw", W, 0.25),
        ("rrrww", R, 0.4),
        ("rrwwc", W, 0.4),
        ("ccrrw", R, 0.2),
        ("cccrw", C, 0.2),
    ],
)
def test_votes_are_counted_so_that_no_tie_helps_the_defense(votes, outcome, share):
    verdict = ask(Scripted(votes), flat(0.2), torch.tensor([0]), generator(0), len(votes))
    assert verdict.outcome[0] == outcome
    assert verdict.wrong_share[0] == pytest.approx(share)


class Doubtful(Scripted):
    """Scripted, with two scores per vote."""

    def __init__(self, scores):
        super().__init__("r" * len(scores))
        self.scores = iter(scores)

    def _decide(self, x, rng):
        decision = super()._decide(x, rng)
        first, second = next(self.scores)
        scores = {"a": torch.full((len(x),), first), "b": torch.full((len(x),), second)}
        return Decision(decision.logits, decision.rejected, scores)


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ([(0.5, 0.25)], 0.5),
        ([(0.5, 4.0), (2.0, 0.0), (0.25, 0.5)], 2.0),
        ([(float("nan"), 0.5)], float("inf")),
    ],
)
def test_the_score_is_the_largest_and_of_several_votes_the_median(scores, found):
    verdict = ask(Doubtful(scores), flat(0.2), torch.tensor([0]), generator(0), len(scores))
    assert verdict.score[0] == found


def test_a_defense_without_scores_has_none():
    assert np.isnan(ask(Brightness(), flat(0.2), torch.tensor([0]), generator(0), 1).score).all()


def test_every_vote_has_a_seed_of_its_own_and_a_deterministic_defense_is_asked_once():
    scripted = Scripted("ccccc")
    ask(scripted, flat(0.2), torch.tensor([0]), generator(7), 5)
    assert len(set(scripted.seeds)) == 5
    defense = Brightness()
    ask(defense, flat(0.2), torch.tensor([0]), generator(7), 5)
    assert defense.cost.forward == 1


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6),
    cut=st.integers(0, 6),
    seed=st.integers(0, 2**31),
)
def test_a_verdict_does_not_depend_on_the_batch(values, cut, seed):
    x, y = flat(*values), torch.zeros(len(values), dtype=torch.long)
    whole = ask(Noisy(0.3), x, y, generator(seed), 3)
    for rows in (slice(0, cut), slice(cut, None)):
        part = ask(Noisy(0.3), x[rows], y[rows], generator(seed), 3)
        assert list(part.outcome) == list(whole.outcome[rows])
        assert np.array_equal(part.wrong_share, whole.wrong_share[rows])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    st.floats(0, 1, width=32),
)
def test_outcomes_never_improve_with_epsilon_for_valid_candidates(proposals, start):
    epsilons = (0.5, 1.0, 1.5, 2.0)
    x = flat(start)
    y = Brightness().logits(x).argmax(dim=1)
    candidates = torch.stack(
        [Norm.L2.project(x, flat(v), e) for v, e in zip(proposals, epsilons, strict=True)]
    )
    severity = [
        (C, R, W).index(found[0])
        for found in outcomes(judged(Cautious(), x, y, candidates, epsilons))
    ]
    assert severity == sorted(severity)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_pixels_outside_the_box_are_refused_with_the_range_that_was_found(value):
    with pytest.raises(ValueError, match=r"pixels must be in \[0, 1\], got"):
        require_pixels(flat(0.5, value))


def test_candidates_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"candidates must have shape \(2, 1, 1, 2, 2\), got"):
        judged(Brightness(), flat(0.2), torch.tensor([0]), flat(0.2)[None], (0.1, 0.2))


def test_scores_of_minus_infinity_are_numbers():
    class Certain(Brightness):
        def _decide(self, x, rng):
            return accepts_all(torch.tensor([[0.0, -torch.inf]]).repeat(len(x), 1))

    verdict = ask(Certain(), flat(0.2), torch.tensor([0]), generator(0), 1)
    assert list(verdict.outcome) == [C]


def test_a_part_of_a_verdict_can_be_changed_without_changing_the_whole():
    verdict = ask(Brightness(), flat(0.2, 0.3), torch.tensor([0, 0]), generator(0), 1)
    for part in (verdict.copy(), verdict.take(slice(0, 1)), verdict.take([0])):
        part.outcome[0] = W
        part.classes[0] = 1
    assert list(verdict.outcome) == [C, C]
    assert list(verdict.classes) == [0, 0]
