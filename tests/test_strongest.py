"""The ensemble: cheapest first, only survivors, never weaker than a member; and the trace of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Generator, Tensor

from attacks import ATTACKS, SUITES
from attacks.base import Attack
from attacks.eot import View
from attacks.evasion import evades
from attacks.strongest import ENSEMBLES, Kind, Strongest, kind_of
from attacks.threat import Norm
from attacks.trace import tracing
from benchmark import catalog
from benchmark.presets import PRESETS
from defenses.base import Defense
from defenses.randomness import generator
from tests.fakes import Brightness, Cautious, Guarded, Noisy, Walk

PIXELS = torch.tensor([0.2, 0.35, 0.45, 0.55, 0.7, 0.9])
X = PIXELS.reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
Y = (PIXELS > 0.5).long()
DISTANCES = 2 * (PIXELS - 0.5).abs()
EPSILONS = (0.05, 0.15, 0.5)


@dataclass(frozen=True, kw_only=True)
class Half(Attack):
    """A walk that goes only half as far as it may.

    Args:
        seen: is told which images and budgets it got.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2,)
    norm: Norm = Norm.L2
    seen: list[tuple[list[float], tuple[float, ...]]] = field(default_factory=list, repr=False)

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        self.seen.append(([round(v, 4) for v in x[:, 0, 0, 0].tolist()], tuple(epsilons)))
        defense.decide(x, rng)
        return Walk()(defense, x, y, [epsilon / 2 for epsilon in epsilons], rng)


@dataclass(frozen=True, kw_only=True)
class Full(Half):
    """A walk to the end of its ball."""

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        self.seen.append(([round(v, 4) for v in x[:, 0, 0, 0].tolist()], tuple(epsilons)))
        return Walk()(defense, x, y, epsilons, rng)


@dataclass(frozen=True, kw_only=True)
class Nothing(Half):
    """Returns the images."""

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        return x.repeat(len(epsilons), 1, 1, 1, 1)

    def needs(self, defense: Defense) -> str | None:
        return None


@dataclass(frozen=True, kw_only=True)
class NeedsMore(Full):
    """Does not apply."""

    def needs(self, defense: Defense) -> str | None:
        return "it has no decoder"


def ensemble(*members: Attack, kind: Kind = Kind.FEED_FORWARD) -> Strongest:
    """Members in place of the first ones of a kind, nothing in place of the others."""
    own = dict(zip(ENSEMBLES[kind][Norm.L2], members, strict=False))
    return Strongest(norm=Norm.L2).composed(lambda name: own.get(name, Nothing()))


def run(attack: Attack, defense: Defense, x: Tensor = X, y: Tensor = Y) -> Tensor:
    return attack(defense, x, y, EPSILONS, generator(3))


def broken(defense: Defense, points: Tensor) -> Tensor:
    return torch.stack([evades(defense, each, Y, generator(0)) for each in points])


def test_members_attack_what_the_ones_before_left_in_the_balls_in_which_it_stands():
    half, full = Half(), Full()
    points = run(ensemble(half, full), Brightness())
    expected = torch.stack([epsilon > DISTANCES for epsilon in EPSILONS])
    assert torch.equal(broken(Brightness(), points), expected)
    assert half.seen == [([0.2, 0.35, 0.45, 0.55, 0.7, 0.9], EPSILONS)]
    # Half a step in L2 breaks 0.45 and 0.55 from 0.5 on, so only the two smaller balls are open.
    assert full.seen == [([0.45, 0.55], EPSILONS[:2]), ([0.2, 0.35, 0.7, 0.9], EPSILONS)]


def test_ensemble_is_never_weaker_than_one_of_its_members():
    points = run(ensemble(Half(), Nothing()), Brightness())
    alone = run(Half(), Brightness())
    assert bool((broken(Brightness(), points) >= broken(Brightness(), alone)).all())


def test_candidates_stay_in_their_balls():
    points = run(ensemble(Half(), Full()), Brightness())
    for epsilon, each in zip(EPSILONS, points, strict=True):
        assert bool((Norm.L2.distance(X, each) <= epsilon * 1.0001).all())


def test_ensemble_gives_every_image_its_result_in_any_batch():
    attack, defense = ensemble(Half(), Full()), Noisy(0.02)
    whole = run(attack, defense)
    parts = [run(attack, defense, X[i : i + 2], Y[i : i + 2]) for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts, dim=1))


def test_member_that_does_not_apply_is_passed_over():
    absent = NeedsMore()
    run(ensemble(absent, Full()), Brightness())
    assert absent.seen == []


def test_member_on_a_view_that_the_defense_lacks_is_passed_over():
    absent = Full(view=View(surrogate="unrolled"))
    run(ensemble(absent, Full()), Brightness())
    assert absent.seen == []


def test_surrogate_of_the_ensemble_is_that_of_every_member():
    _, attack = catalog.parse_attack("strongest-l2@classifier", PRESETS["smoke"], 1)
    assert isinstance(attack, Strongest)
    members = list(attack.against(Guarded()))
    assert members and {member.attack.view.surrogate for member in members} == {"classifier"}


def test_uncomposed_ensemble_says_what_is_missing():
    with pytest.raises(ValueError, match="members must hold 'apgd-ce-l2', got none"):
        run(Strongest(norm=Norm.L2), Brightness())


@pytest.mark.parametrize(
    ("defense", "kind"),
    [
        (Brightness(), Kind.FEED_FORWARD),
        (Noisy(0.1), Kind.STOCHASTIC),
        (Cautious(), Kind.REJECTING),
        (Guarded(), Kind.REJECTING),
    ],
)
def test_kind_follows_what_a_defense_offers(defense, kind):
    assert kind_of(defense) is kind


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L1])
def test_every_member_is_a_registered_attack_of_the_norm(kind, norm):
    for specification in ENSEMBLES[kind][norm]:
        _, attack = catalog.parse_attack(specification, None, 1)
        assert attack.norm is norm


def test_suite_holds_both_norms_of_the_tables():
    assert SUITES["strongest"] == ("strongest-linf", "strongest-l2")


def test_members_take_their_budgets_from_the_preset():
    for preset in ("smoke", "quick"):
        _, attack = catalog.parse_attack("strongest-linf", PRESETS[preset], 1)
        assert isinstance(attack, Strongest)
        for specification, member in attack.members:
            assert member == catalog.parse_attack(specification, PRESETS[preset], 1)[1]


def test_registered_ensemble_holds_the_registered_members():
    registered = ATTACKS["strongest-l2"]
    assert isinstance(registered, Strongest)
    members = dict(registered.members)
    assert members["ddn"] == ATTACKS["ddn"]
    unrolled = members["apgd-margin-l2@unrolled"].view
    assert unrolled == View("unrolled", ATTACKS["apgd-margin-l2"].view.samples)


def test_trace_says_when_and_by_whom_an_image_was_broken_first():
    defense = Brightness()
    with tracing(defense.cost) as trace:
        run(ensemble(Half(), Full()), defense)
    names = ENSEMBLES[Kind.FEED_FORWARD][Norm.L2]
    first = trace.first(X, 0.5)
    found = [each and each.member for each in first]
    assert found == [None, names[1], names[0], names[0], names[1], None]
    by_half, by_full = first[2], first[1]
    assert by_half is not None and by_full is not None
    assert 0 < by_half.calls < by_full.calls <= defense.cost.forward


def test_trace_knows_an_image_by_its_pixels_and_a_ball_by_its_radius():
    defense = Brightness()
    with tracing(defense.cost) as trace:
        trace.note(X[:1], torch.tensor([0.3]))
    assert trace.first(X, 0.3)[0] is not None
    assert trace.first(X, 0.31) == [None] * len(X) and trace.first(X[1:], 0.3) == [None] * 5


def test_nobody_traces_outside():
    defense = Brightness()
    with tracing(defense.cost) as outer, tracing(defense.cost) as inner:
        assert inner is outer
    run(ensemble(Full()), defense)
    assert outer.first(X, 0.5) == [None] * len(X)
