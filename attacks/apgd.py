"""Auto-PGD (Croce & Hein 2020; for L1: Croce & Hein 2021), checked against the deployed defense."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.climb import Climb
from attacks.evasion import likeliest_others
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.frequencies import low_pass
from attacks.losses import Loss
from attacks.pace import Halving, Pace, Sparse, Walk, stages
from attacks.projected_step import usable
from attacks.random_directions import random_direction, uniform_in_ball
from attacks.recorder import Recorder
from attacks.shortlist import ask
from attacks.threat import Norm
from defenses.base import Defense
from defenses.randomness import child


@final
@dataclass(frozen=True, kw_only=True)
class APGD(FixedEpsilonAttack):
    """Ascent with step lengths that follow the loss, from uniform random starts.

    Every so many steps the points that lead on the view are shown to the deployed defense, and
    images of which it is convinced leave the run; the others get a view made anew, so that one
    that carries its inner optimisation along infers in full again (the papers know no such
    re-check: they attack networks that are their own view).

    Args:
        steps: gradient steps per run (Croce & Hein 2020: 100).
        loss: what is climbed.
        targets: 0 leads to any wrong class; more lead one after another to so many of the other
            classes, likeliest first, each for the images that withstood those before (AutoAttack:
            9). One restart is one pass over all of them.
        recheck: steps between questions to the deployed defense (unstated by any paper).
        band: share of the DCT-II frequencies of each axis to which perturbations are held; 1 is
            all. Only clipping to the box adds others. No paper states one.

    Raises:
        ValueError: a band outside (0, 1], one below 1 in L1, or targets for the true-class loss.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2, Norm.L1)
    counts_from_zero: ClassVar[tuple[str, ...]] = ("targets",)

    steps: int = 100
    loss: Loss
    targets: int = 0
    recheck: int = 10
    band: float = 1.0

    def __post_init__(self) -> None:
        FixedEpsilonAttack.__post_init__(self)
        if not 0 < self.band <= 1:
            raise ValueError(f"band must be in (0, 1], got {self.band}; 1 is every frequency")
        if self.band < 1 and self.norm is Norm.L1:
            raise ValueError(
                f"band must be 1 in l1, got {self.band}; sparse steps have all frequencies"
            )
        if self.targets and self.loss is Loss.TRUE_CLASS:
            raise ValueError(
                f"targets must be 0 for the true-class loss, got {self.targets}; "
                "it knows no other class"
            )

    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`."""
        record = _Record(self, defense, x, y, epsilon)
        for turn, wanted in enumerate(self._turns(defense, x, y, child(rng, "ranking"))):
            self._run(record, wanted, child(rng, "turn", turn))
        return record.candidates()

    def _turns(
        self, defense: Defense, x: Tensor, y: Tensor, rng: Generator
    ) -> Iterator[Tensor | None]:
        """The classes (N,) to aim at, one after another, or None for any."""
        if self.targets == 0:
            yield None
            return
        with torch.no_grad():
            logits, _ = self.view.of(defense, rng)(x)
        yield from likeliest_others(logits, y, self.targets)

    def _run(self, record: "_Record", wanted: Tensor | None, rng: Generator) -> None:
        """One ascent of all images that still withstand."""
        rows = record.standing()
        if len(rows) == 0:
            return
        points = self._start(record, rows, child(rng, "start"))
        done = 0
        for share, steps in stages(self.norm, self.steps):
            x, epsilon = record.x[rows], share * record.epsilon[rows]
            points = self.norm.project(x, points, epsilon)
            ascent = self._ascent(record, rows, wanted, child(rng, "view", done))
            walk = Walk.begin(x, epsilon, points, *ascent(points, child(rng, "escape", done)))
            pace = self._pace(walk, steps)
            for index in range(1, steps + 1):
                done += 1
                points = pace.step(walk, index)
                if index == steps:  # nobody will follow this point's gradient
                    walk = walk.moved(points, ascent.height(points), walk.gradient)
                else:
                    walk = walk.moved(points, *ascent(points, child(rng, "escape", done)))
                    pace, walk = pace.adapted(walk, index)
                if index < steps and done % self.recheck:
                    continue
                if share > 1:  # what leads here may lead in the ball that counts
                    ascent.height(self.norm.project(walk.x, walk.best, record.epsilon[rows]))
                held = ~record.question(rows, ascent.climb.seen, child(rng, "question", done))
                rows, walk, pace = rows[held], walk.of(held), pace.of(held)
                if len(rows) == 0:
                    return
                if index < steps:
                    ascent = self._ascent(record, rows, wanted, child(rng, "view", done))
            points = walk.best

    def _start(self, record: "_Record", rows: Tensor, rng: Generator) -> Tensor:
        """Uniform in the ball; with a band, as far from the image in the low frequencies."""
        share, _ = stages(self.norm, self.steps)[0]
        x, epsilon = record.x[rows], share * record.epsilon[rows]
        points = uniform_in_ball(self.norm, x, epsilon, rng)
        if self.band == 1:
            return points
        smooth = x + low_pass(points - x, self.band)
        return self.norm.stretch(x, smooth, self.norm.distance(x, points))

    def _pace(self, walk: Walk, steps: int) -> Pace:
        if self.norm is Norm.L1:
            return Sparse.begin(steps, walk)
        return Halving.begin(self.norm, self.band, steps, walk)

    def _ascent(
        self, record: "_Record", rows: Tensor, wanted: Tensor | None, rng: Generator
    ) -> "_Ascent":
        """On a view made anew for these rows."""
        view, aims = self.view.of(record.defense, rng), None if wanted is None else wanted[rows]
        can_reject, seen = record.defense.can_reject, record.best.part(rows)
        climb = Climb(view, can_reject, record.y[rows], seen)
        return _Ascent(climb, self.loss, aims, self.band)


@dataclass(frozen=True)
class _Ascent:
    """The loss of some images on one view, and the points that led on it."""

    climb: Climb
    loss: Loss
    wanted: Tensor | None
    band: float

    def __call__(self, points: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Loss (n,) and gradient; a random direction in rows that have none."""
        value, gradient = self.climb.slope(points, self._value)
        escape = random_direction(points, rng)
        if self.band < 1:
            gradient, escape = low_pass(gradient, self.band), low_pass(escape[None], self.band)[0]
        return value.nan_to_num(nan=-torch.inf), usable(gradient, escape)

    def height(self, points: Tensor) -> Tensor:
        """Loss (n,) alone, -inf where it is not a number."""
        with torch.no_grad():
            return self._value(self.climb.look(points)).nan_to_num(nan=-torch.inf)

    def _value(self, logits: Tensor) -> Tensor:
        return self.loss.of(logits, self.climb.y, self.wanted)


class _Record:
    """What a run of `APGD` found: of what fooled the deployed defense, the longest streak.

    Where nothing did, the point that led most on the view.

    Attributes:
        best: the points that led most on the view.
    """

    def __init__(
        self, attack: APGD, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor
    ) -> None:
        self.defense, self.x, self.y, self.epsilon = defense, x, y, epsilon
        self.best = Recorder(attack.norm, x, epsilon[None])
        self._votes = attack.confirmations if defense.stochastic else 1
        self._streak = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self._found = x.clone()

    def standing(self) -> Tensor:
        """Indices of the images of which the deployed defense is not convinced."""
        return (self._streak < self._votes).nonzero().squeeze(1)

    def question(self, rows: Tensor, seen: Recorder, rng: Generator) -> Tensor:
        """Ask the deployed defense about what leads among the points seen of these rows.

        Returns: (n,) bool: convinced.
        """
        self.best.adopt(rows, seen)
        asked = (seen.leads[0] > 0).nonzero().squeeze(1)
        points, own = seen.candidates(0)[asked], rows[asked]
        streak = ask(self.defense, points, self.y[own], rng, self._votes).streak
        longer = streak > self._streak[own]
        self._streak[own[longer]] = streak[longer]
        self._found[own[longer]] = points[longer]
        return self._streak[rows] >= self._votes

    def candidates(self) -> Tensor:
        """(N, C, H, W), each in its ball and the box."""
        fooled = (self._streak > 0).reshape(-1, 1, 1, 1)
        return torch.where(fooled, self._found, self.best.candidates(0))
