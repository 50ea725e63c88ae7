"""Rounds of descent in tanh space: what Carlini & Wagner's L0 and Linf attacks share (2017, VI).

Pixels are x = (tanh(w) + 1) / 2, so that no step over w leaves the box (section V-B). A round
minimises

    c * relu(confidence - lead) + penalty

over w with Adam until the point evades; if ``steps`` do not suffice, c grows and the descent goes
on from where it is. After every success the limit is drawn tighter (fewer free pixels, or a smaller
tau), and the next round starts from the point that succeeded: a warm start. An image is done when c
is used up or its limit is as tight as can be.

Every image has a clock of its own: c, limit, steps and Adam's moments never look at its neighbours.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Generator, Tensor

from attacks.evasion import evasion_logits, lead
from attacks.minimum_norm import MinimumNormAttack
from attacks.recorder import Recorder
from attacks.row_adam import RowAdam
from defenses.base import Defense, Surrogate
from defenses.randomness import child

SHORT = 1e-4
"""Loss, in logits, below which a round counts as won (nn_robust_attacks: 0.0001)."""


class Penalty(NamedTuple):
    """What the perturbations cost.

    Args:
        value: (N,).
        slope: (N, C, H, W), its gradient in the pixels.
    """

    value: Tensor
    slope: Tensor


@dataclass(frozen=True, kw_only=True)
class TanhRounds(MinimumNormAttack):
    """Untargeted rounds of descent with a growing c and a limit that tightens.

    Constants not stated in the paper are those of the authors' code, nn_robust_attacks. The lead is
    that of the best other class, and the class that leads in the first rounds is rarely left again:
    where several are near, the attack may miss the nearest.

    A pixel that is exactly black or white lies at the infinite end of tanh and would never move, so
    all pixels start drawn to mid-grey by the share ``inset``. It still lags behind: at 5e-7 a black
    pixel is 4.7 away in w from a brightness of 0.003 and 6.3 from 0.07, and Adam goes ``rate`` per
    step. An attack of few steps wants a larger rate or a larger inset, which displaces such pixels
    by half of it before the attack has begun. (Foolbox's L2 attack has the same defect.)

    Args:
        steps: Adam steps before c grows (their code, as all that follows: 1000).
        rate: Adam's (0.01 in L0, 0.005 in Linf).
        initial_const: first c (0.001; 0.00001); it is not lowered again.
        largest_const: an image whose c has grown to this is given up (2e6; 20).
        const_factor: by which c grows (2).
        confidence: lead in logits to aim at (0.01; 0).
        inset: share by which pixels are drawn to mid-grey at the start (5e-7).
        refresh: steps after which the images that are done leave, and the others get a fresh view
            (ours): one view sees the same rows all its life, and no image its neighbours leave.
    """

    steps: int = 1000
    rate: float
    initial_const: float
    largest_const: float
    const_factor: float = 2.0
    confidence: float
    inset: float = 5e-7
    refresh: int = 100

    def __post_init__(self) -> None:
        MinimumNormAttack.__post_init__(self)
        if self.initial_const == 0:
            raise ValueError("initial_const must be above 0, got 0.0; no factor makes it grow")
        if self.const_factor <= 1:
            raise ValueError(
                f"const_factor must be above 1, got {self.const_factor}; c has to grow"
            )
        if self.largest_const <= self.initial_const:
            raise ValueError(
                f"largest_const must be above initial_const, got {self.largest_const} for "
                f"{self.initial_const}; no round could be tried"
            )
        if not 0 < self.inset < 1:
            raise ValueError(
                f"inset must be between 0 and 1, got {self.inset}; pixels at the ends of tanh "
                "would not move"
            )

    @abstractmethod
    def loosest(self, x: Tensor) -> Tensor:
        """The limits (N, 1, ...) of the first round."""

    @abstractmethod
    def within(self, x: Tensor, points: Tensor, limits: Tensor) -> Tensor:
        """The points (N, C, H, W) with what their limits forbid undone."""

    @abstractmethod
    def penalty(self, x: Tensor, points: Tensor, limits: Tensor) -> Penalty:
        """What the points cost under their limits."""

    @abstractmethod
    def won(self, missing: Tensor, charge: Tensor) -> Tensor:
        """(N,) bool: whether the round is won.

        Args:
            missing: (N,) logits that are missing to the confidence.
            charge: (N,) penalty / c.
        """

    @abstractmethod
    def tighter(self, x: Tensor, points: Tensor, slopes: Tensor, limits: Tensor) -> Tensor:
        """The next limits of points that won under these.

        Args:
            slopes: (N, C, H, W), the lead's gradient in the pixels, finite.
        """

    @abstractmethod
    def exhausted(self, limits: Tensor) -> Tensor:
        """(N,) bool: whether limits are too tight for another round."""

    @final
    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """See `MinimumNormAttack.search`."""
        rounds = _Rounds(self, recorder.x, y)
        period = 0
        while len(rounds.rows):
            part = recorder.part(rounds.rows)
            view = self.view.of(defense, child(rng, "view", period))
            for _ in range(self.refresh):
                rounds.step(view, part)
            recorder.adopt(rounds.rows, part)
            rounds.let_go()
            period += 1


class _Rounds:
    """The images that are still under attack, each at its own place in its own round.

    Args:
        attack: the configuration.
        x: clean images (N, C, H, W).
        y: labels (N,).

    Attributes:
        rows: (n,) which of the N are left.
    """

    def __init__(self, attack: TanhRounds, x: Tensor, y: Tensor) -> None:
        self.attack = attack
        self.rows = torch.arange(len(x), device=x.device)
        self._x, self._y = x, y
        self._w = to_tanh_space(x, attack.inset)
        self._limits = attack.loosest(x)
        self._const = x.new_full((len(x),), attack.initial_const)
        self._waited = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self._done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._adam = RowAdam(x, attack.rate)

    @torch.no_grad()
    def step(self, view: Surrogate, record: Recorder) -> None:
        """Ask the view once for every row, and move on; rows that are done stay where they are."""
        attack, x, limits, const = self.attack, self._x, self._limits, self._const
        points = attack.within(x, to_box(self._w), limits)
        leads, slopes = _leads_and_slopes(view, points, self._y)
        record.see(points, leads)
        missing = (attack.confidence - leads).clamp_min(0)
        price = attack.penalty(x, points, limits)
        won = ~self._done & (leads > 0) & attack.won(missing, price.value / const)
        self._waited += 1
        lost = ~self._done & ~won & (self._waited == attack.steps)
        pull = torch.where(_wide(missing > 0), _wide(const) * slopes, 0.0)
        step = self._adam.step((price.slope - pull) * box_slope(self._w))
        self._w = torch.where(_wide(won | self._done), self._w, self._w - step)
        if not won.is_cpu or bool(won.any()):  # on a CPU asking is cheaper than tightening
            tighter = attack.tighter(x, points, slopes, limits)
            self._limits = torch.where(_wide(won), tighter, limits)
        self._const = torch.where(lost, const * attack.const_factor, const)
        self._waited = torch.where(won | lost, 0, self._waited)
        self._adam.restart(won | lost)
        given_up = lost & (self._const >= attack.largest_const)
        self._done = self._done | given_up | (won & attack.exhausted(self._limits))

    def let_go(self) -> None:
        """Go on without the rows that are done."""
        if not bool(self._done.any()):
            return
        stay = ~self._done
        self.rows, self._x, self._y = self.rows[stay], self._x[stay], self._y[stay]
        self._w, self._limits, self._const = self._w[stay], self._limits[stay], self._const[stay]
        self._waited, self._done = self._waited[stay], self._done[stay]
        self._adam.keep(stay)


def to_tanh_space(x: Tensor, inset: float) -> Tensor:
    """w of pixels in [0, 1] that were drawn to mid-grey by the share ``inset``.

    In double precision, where 1 - 5e-7 is not yet rounded.
    """
    centred = (2 * x.double() - 1) * (1 - inset)
    return centred.atanh().to(x.dtype)


def to_box(w: Tensor) -> Tensor:
    """The pixels (tanh(w) + 1) / 2."""
    return (w.tanh() + 1) / 2


def box_slope(w: Tensor) -> Tensor:
    """The derivative of `to_box`: (1 - tanh(w)^2) / 2, which is 1 / (2 cosh(w)^2).

    The second form keeps its digits at the ends; where cosh overflows the slope is 0.
    """
    return w.cosh().square().reciprocal() / 2


def _leads_and_slopes(view: Surrogate, points: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How far the view is beyond *wrong and accepted* (N,), in logits, and the gradient of that.

    Entries of the gradient that are not finite are 0.
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        logits, margin = view(points)
        leads = lead(evasion_logits(logits, margin, y), y)
        if not leads.requires_grad:  # the view's answer depends on nothing
            return leads, torch.zeros_like(points)
        (slopes,) = torch.autograd.grad(leads.sum(), points)
    return leads.detach(), slopes.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _wide(rows: Tensor) -> Tensor:
    return rows.reshape(-1, 1, 1, 1)
