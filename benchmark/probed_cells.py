"""How far the number of one finished cell holds when something about its attack changes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from attacks.base import Attack
from attacks.evasion import evasion_logits, lead
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.goals import Goal
from attacks.minimum_norm import MinimumNormAttack
from attacks.strongest import Strongest
from attacks.threat import Norm
from benchmark.cells import Cell
from benchmark.datasets import Split
from benchmark.judge import Bools, Ints, Outcomes, Verdict, ask, judge
from benchmark.probes import CellProbe, Share
from benchmark.records import Outcome
from benchmark.seeding import for_probe
from benchmark.work import Load, attempt, calm, loaded, own_device
from defenses.base import Defense

BUDGETS = ("steps", "restarts", "queries")
"""Fields of attacks that are budgets: more of them is more attack."""

EOT = "eot"
"""The samples of an attack's view, as a budget."""

EVERY_BUDGET = "every budget"
"""All of them at once, in every member of an ensemble."""

_LEVELS = 255
_NOTHING = Share(0, 0)


@dataclass(frozen=True, eq=False)
class CellDoubt:
    """One finished cell at one radius, with everything a worker needs.

    Args:
        cell, load, attack: as in the cell.
        epsilon: one of the cell's radii.
        images: of the cell's n samples.
        outcomes: (n,) recorded at the radius.
        clean: verdicts on the images.
        points: (n, C, H, W) the judged points, float32; None where the cache has lost them.
        probed: survivors that are attacked again, at most.
        asked: fresh seeds for a stochastic defense.
        block: images in a batch, at most.
        self_test: what the attack made of the planted networks.
    """

    cell: Cell
    load: Load
    attack: Attack
    epsilon: float
    images: Split
    outcomes: Outcomes
    clean: Verdict
    points: NDArray[np.float32] | None
    probed: int
    asked: int
    block: int
    self_test: Mapping[str, Share] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For people."""
        return self.cell.title

    @property
    def aim(self) -> Outcome:
        """The outcome that the attack is after."""
        return Outcome.REJECTED if self.attack.goal is Goal.REFUSAL else Outcome.WRONG

    @property
    def attacked(self) -> Bools:
        """(n,) whom the attack was given."""
        return self.clean.found(Outcome.CORRECT)

    @property
    def answered(self) -> Bools:
        """(n,) about whose point the defense was asked, and answered."""
        outcomes = (Outcome.CORRECT, Outcome.WRONG, Outcome.REJECTED)
        return np.array([outcome in outcomes for outcome in self.outcomes], dtype=bool)

    @property
    def broken(self) -> Bools:
        """(n,) whom the attack broke."""
        reached: Bools = self.attacked & np.asarray(self.outcomes == self.aim, dtype=bool)
        return reached

    @property
    def survivors(self) -> Ints:
        """Places of the first of those whom it did not break, as many as are probed."""
        return np.flatnonzero(self.attacked & self.answered & ~self.broken)[: self.probed]


def probe_cell(doubt: CellDoubt, device: str) -> tuple[CellProbe | None, str | None]:
    """The probe of a cell, or the traceback of why there is none."""
    with calm():
        return attempt(lambda: _probe(doubt, own_device(device)))


def _probe(doubt: CellDoubt, device: str) -> CellProbe:
    defense = loaded(doubt.cell, doubt.load, device)
    survivors = len(doubt.survivors)
    return CellProbe(
        cell=doubt.cell.id,
        epsilon=doubt.epsilon,
        rounded=_rounded(doubt, defense, device),
        untransferred=_untransferred(doubt, defense, device),
        unbounded=_unbounded(doubt, defense, device),
        doubled={
            name: Share(_breaks(replace(doubt, attack=attack), defense, device, name), survivors)
            for name, attack in doubled(doubt.attack, stochastic=defense.stochastic).items()
        },
        asked=doubt.asked if defense.stochastic and doubt.points is not None else 1,
        wrong=_wrong(doubt, defense, device),
        self_test=doubt.self_test,
    )


def doubled(attack: Attack, *, stochastic: bool) -> dict[str, Attack]:
    """The attack with one budget doubled, for each that it has, by name.

    An ensemble is run once more only, with every budget of every member doubled: its members would
    otherwise cost as many ensembles as they have budgets between them.

    Args:
        stochastic: the defense draws lots, so that EOT samples are a budget.
    """
    changes: dict[str, Callable[[Attack], Attack]] = {
        name: partial(_with_twice, name) for name in BUDGETS
    }
    if stochastic:
        changes[EOT] = _with_twice_the_views
    if isinstance(attack, Strongest):
        for change in changes.values():
            attack = attack.each(change)
        return {EVERY_BUDGET: attack}
    twice = {name: change(attack) for name, change in changes.items()}
    return {name: changed for name, changed in twice.items() if changed != attack}


def _with_twice(name: str, attack: Attack) -> Attack:
    """The attack with twice as much of a budget; as it is where it has none of that name."""
    budgets = {each.name: getattr(attack, each.name) for each in fields(attack)}
    if not isinstance(attack, FixedEpsilonAttack | MinimumNormAttack) or not budgets.get(name):
        return attack
    change: dict[str, Any] = {name: 2 * budgets[name]}
    return replace(attack, **change)


def _with_twice_the_views(attack: Attack) -> Attack:
    if not isinstance(attack, FixedEpsilonAttack | MinimumNormAttack):
        return attack
    return replace(attack, view=replace(attack.view, samples=2 * attack.view.samples))


def _rounded(doubt: CellDoubt, defense: Defense, device: str) -> Share:
    """Breaks, under fresh seeds, that rounding to 8 bits undoes under the same seeds."""
    rng = for_probe(doubt.cell, "rounded")
    hits = of = 0
    for _, points, y in _kept(doubt, doubt.broken, device):
        votes = doubt.cell.votes
        still = ask(defense, points, y, rng, votes).found(doubt.aim)
        rounded = (points * _LEVELS).round() / _LEVELS
        after = ask(defense, rounded, y, rng, votes).found(doubt.aim)
        hits, of = hits + int((still & ~after).sum()), of + int(still.sum())
    return Share(hits, of)


def _untransferred(doubt: CellDoubt, defense: Defense, device: str) -> Share:
    """Points that break the attack's view of the defense, and of these those that break no more."""
    if doubt.attack.goal is not Goal.EVASION:
        return _NOTHING
    hits = of = 0
    rng = for_probe(doubt.cell, "view")
    for rows, points, y in _kept(doubt, doubt.attacked & doubt.answered, device):
        with torch.no_grad():
            logits, margin = doubt.attack.view.of(defense, rng)(points)
            fooled = (lead(evasion_logits(logits, margin, y), y) > 0).cpu().numpy()
        hits += int((fooled & ~doubt.broken[rows]).sum())
        of += int(fooled.sum())
    return Share(hits, of)


def _unbounded(doubt: CellDoubt, defense: Defense, device: str) -> Share:
    """Survivors that stand in the smallest ball that holds every image there is."""
    if doubt.attack.norm is Norm.UNRESTRICTED or not len(doubt.survivors):
        return _NOTHING
    largest = doubt.attack.norm.largest(doubt.images.images.shape[1:])
    broken = _breaks(replace(doubt, epsilon=largest), defense, device, "unbounded")
    return Share(len(doubt.survivors) - broken, len(doubt.survivors))


def _breaks(doubt: CellDoubt, defense: Defense, device: str, question: str) -> int:
    """How many survivors the attack breaks within epsilon, with seeds of the question's own."""
    attack, epsilon, broken = doubt.attack, doubt.epsilon, 0
    for rows in _blocks(doubt.survivors, doubt.block):
        batch = doubt.images.batch(rows, device)
        x, y = batch.x, batch.y
        rng = for_probe(doubt.cell, question, "attack")
        judgement = judge(
            defense,
            x,
            y,
            attack(defense, x.clone(), y.clone(), (epsilon,), rng).to(x),
            norm=attack.norm,
            epsilons=(epsilon,),
            clean=doubt.clean.take(rows),
            rng=for_probe(doubt.cell, question, "judge"),
            votes=doubt.cell.votes,
        )
        broken += int(judgement.verdicts[0].found(doubt.aim).sum())
    return broken


def _wrong(doubt: CellDoubt, defense: Defense, device: str) -> dict[int, int]:
    """Sample -> wrong and accepted answers; a deterministic defense's is the recorded one."""
    samples = doubt.cell.samples
    if not defense.stochastic:
        wrong = np.asarray(doubt.outcomes == Outcome.WRONG)
        return {samples[row]: int(wrong[row]) for row in np.flatnonzero(doubt.answered)}
    found: dict[int, int] = {}
    rng: Generator = for_probe(doubt.cell, "asked")
    for rows, points, y in _kept(doubt, doubt.answered, device):
        share = ask(defense, points, y, rng, doubt.asked).wrong_share
        counts = np.rint(share * doubt.asked)
        told = zip(rows.tolist(), counts.tolist(), strict=True)
        found |= {samples[row]: int(count) for row, count in told if not np.isnan(count)}
    return found


def _kept(doubt: CellDoubt, chosen: Bools, device: str) -> Iterator[tuple[Ints, Tensor, Tensor]]:
    """Places, judged points and labels of some samples, in blocks; none where points are lost."""
    if doubt.points is None:
        return
    for rows in _blocks(np.flatnonzero(chosen), doubt.block):
        points = torch.from_numpy(doubt.points[rows]).to(device)
        yield rows, points, torch.from_numpy(doubt.images.labels[rows]).to(device)


def _blocks(rows: Ints, size: int) -> Iterator[Ints]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
