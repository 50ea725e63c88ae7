"""The strongest attack we know on each kind of defense: a declared ensemble, cheapest first.

Members attack what the ones before them left standing, in the balls in which it stands, so that the
worst case over the ensemble costs little more than its last survivors do (AutoAttack's idea, Croce
& Hein 2020). What differs from kind to kind are the views and losses without which robustness is
only obfuscation (Athalye et al. 2018; Tramer et al. 2020; Croce et al. 2022).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, NamedTuple, Protocol, final, runtime_checkable

from torch import Generator, Tensor

from attacks import trace
from attacks.bank import Bank, InformedByExamples
from attacks.base import Attack
from attacks.shortlist import Shortlist
from attacks.threat import Norm
from defenses.base import Defense, Reconstructs, Thresholded
from defenses.randomness import child


class Kind(StrEnum):
    """What decides how a defense is best attacked."""

    FEED_FORWARD = "feed-forward"
    STOCHASTIC = "stochastic"
    REJECTING = "rejecting"
    OPTIMISING = "optimising"
    PURIFYING = "purifying"


_OPTIMISING_VIEWS = {"unrolled", "tangent_bpda", "identity_bpda"}
_BARE = "classifier"


def kind_of(defense: Defense) -> Kind:
    """The first that fits: it optimises at test time, refuses, purifies, or draws lots."""
    views = set(defense.surrogate_names)
    if isinstance(defense, Reconstructs) or views & _OPTIMISING_VIEWS:
        return Kind.OPTIMISING
    if isinstance(defense, Thresholded) or defense.can_reject:
        return Kind.REJECTING
    if _BARE in views:
        return Kind.PURIFYING
    return Kind.STOCHASTIC if defense.stochastic else Kind.FEED_FORWARD


ENSEMBLES: dict[Kind, dict[Norm, tuple[str, ...]]] = {
    Kind.FEED_FORWARD: {
        Norm.LINF: ("apgd-ce-linf", "apgd-targeted-linf", "fmn-linf", "fab-linf", "square-linf"),
        Norm.L2: ("apgd-ce-l2", "apgd-targeted-l2", "ddn", "fab-l2", "square-l2"),
        Norm.L1: ("apgd-ce-l1", "apgd-targeted-l1", "fmn-l1", "fab-l1"),
    },
    Kind.STOCHASTIC: {
        Norm.LINF: (
            "apgd-ce-linf",
            "apgd-margin-linf",
            "apgd-targeted-linf",
            "square-linf",
            "hopskipjump-linf",
        ),
        Norm.L2: (
            "apgd-ce-l2",
            "apgd-margin-l2",
            "apgd-targeted-l2",
            "square-l2",
            "hopskipjump-l2",
        ),
        Norm.L1: ("apgd-ce-l1", "apgd-margin-l1", "apgd-targeted-l1"),
    },
    Kind.REJECTING: {
        Norm.LINF: (
            "threshold-hinge-linf",
            "threshold-selective-linf",
            "threshold-orthogonal-linf",
            "feature-matching-linf",
            "apgd-margin-linf",
            "fmn-linf",
            "square-linf",
        ),
        Norm.L2: (
            "threshold-hinge-l2",
            "threshold-selective-l2",
            "threshold-orthogonal-l2",
            "feature-matching-l2",
            "apgd-margin-l2",
            "ddn",
            "square-l2",
        ),
        Norm.L1: ("apgd-margin-l1", "fmn-l1"),
    },
    Kind.OPTIMISING: {
        Norm.LINF: (
            "apgd-margin-linf",
            "apgd-lowpass-linf",
            "apgd-margin-linf@identity_bpda",
            "apgd-margin-linf@tangent_bpda",
            "apgd-margin-linf@encoder_proposal",
            "apgd-true-class-linf@unrolled",
            "apgd-margin-linf@unrolled",
            "apgd-targeted-linf",
            "square-linf",
            "hopskipjump-linf",
        ),
        Norm.L2: (
            "ddn",
            "apgd-margin-l2",
            "latent-descent",
            "overpowered-l2",
            "apgd-lowpass-l2",
            "apgd-margin-l2@identity_bpda",
            "apgd-margin-l2@tangent_bpda",
            "apgd-margin-l2@encoder_proposal",
            "apgd-true-class-l2@unrolled",
            "apgd-margin-l2@unrolled",
            "apgd-targeted-l2",
            "square-l2",
            "hopskipjump-l2",
        ),
        Norm.L1: ("apgd-margin-l1", "apgd-targeted-l1", "fmn-l1"),
    },
    Kind.PURIFYING: {
        Norm.LINF: (
            "apgd-ce-linf",
            "apgd-margin-linf",
            "apgd-targeted-linf",
            "fmn-linf",
            "square-linf",
        ),
        Norm.L2: (
            "apgd-ce-l2",
            "ddn",
            "apgd-margin-l2",
            "apgd-targeted-l2",
            "overpowered-l2",
            "square-l2",
        ),
        Norm.L1: ("apgd-ce-l1", "apgd-margin-l1", "apgd-targeted-l1", "fmn-l1"),
    },
}
"""Specifications of registered attacks, in the order in which they run."""


class Member(NamedTuple):
    """One attack of an ensemble, under the specification that it was declared with."""

    specification: str
    attack: Attack


@runtime_checkable
class Composed(Protocol):
    """An attack made of registered ones, which get their budgets from a preset before it runs."""

    def composed(self, make: Callable[[str], Attack]) -> Attack:
        """This attack with those that ``make`` makes of their specifications."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Strongest(Attack):
    """The ensemble of the defense's kind (`ENSEMBLES`), each member on the survivors of the others.

    A member that does not apply to the defense, or asks for a view that it has not, is passed over.
    A surrogate given to the ensemble itself is given to every member: ``strongest-l2@classifier``.

    Args:
        members: every attack of every ensemble of the norm, by specification.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2, Norm.L1)

    members: tuple[Member, ...] = ()

    def composed(self, make: Callable[[str], Attack]) -> "Strongest":
        """See `Composed`."""
        named = dict.fromkeys(name for kind in ENSEMBLES.values() for name in kind[self.norm])
        return replace(self, members=tuple(Member(name, make(name)) for name in named))

    def informed(self, bank: Bank) -> "Strongest":
        """See `InformedByExamples`."""
        return self.each(
            lambda attack: (
                attack.informed(bank) if isinstance(attack, InformedByExamples) else attack
            )
        )

    def each(self, change: Callable[[Attack], Attack]) -> "Strongest":
        """The same ensemble, every member changed."""
        changed = tuple(Member(name, change(attack)) for name, attack in self.members)
        return replace(self, members=changed)

    def against(self, defense: Defense) -> Iterator[Member]:
        """The members that attack this defense, in order.

        Raises:
            ValueError: the ensemble was not composed.
        """
        known = dict(self.members)
        surrogate = self.view.surrogate
        for name in ENSEMBLES[kind_of(defense)][self.norm]:
            if name not in known:
                raise ValueError(
                    f"members must hold {name!r}, got {', '.join(known) or 'none'}; take the "
                    "registered attack, or call composed"
                )
            attack = known[name]
            if surrogate is not None:
                attack = replace(attack, view=replace(attack.view, surrogate=surrogate))
            view = attack.view.surrogate
            if (view is None or view in defense.surrogate_names) and not attack.needs(defense):
                yield Member(name, attack)

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        """Candidates (E, N, C, H, W); see `Attack.__call__`."""
        self.check(x, epsilons)
        shortlist = Shortlist(
            defense,
            self.norm,
            x,
            y,
            epsilons,
            confirmations=self.confirmations,
            goal=self.goal,
        )
        traced = trace.current()
        for name, attack in self.against(defense):
            own = child(rng, name)
            standing = (~shortlist.convinces).sum(dim=0)  # breaks are inherited by larger balls
            with traced.member(name) if traced else nullcontext():
                for budgets in standing.unique().tolist():
                    rows = (standing == budgets).nonzero().squeeze(1)
                    if budgets:
                        found = attack(defense, x[rows], y[rows], epsilons[:budgets], own)
                        _propose(shortlist, rows, found, child(own, "confirm"))
        return shortlist.candidates


def _propose(shortlist: Shortlist, rows: Tensor, found: Tensor, rng: Generator) -> None:
    """Candidates (E', n, C, H, W) of some images, in the smallest E' balls, and in all beyond."""
    budgets = len(shortlist.radii)
    for budget in range(len(found)):
        open_ = ~shortlist.convinces[budget, rows]
        shortlist.propose(budget, rows[open_], found[budget][open_], child(rng, budget))
        shortlist.inherit(budget)
    for budget in range(len(found), budgets):
        shortlist.inherit(budget)
