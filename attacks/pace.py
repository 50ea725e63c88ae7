"""How APGD moves: steps whose length follows the loss, and restarts from the best point."""

import math
from dataclasses import dataclass, fields, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from attacks.frequencies import low_pass
from attacks.projected_step import steepest
from attacks.threat import Norm


@dataclass(frozen=True)
class _Rows:
    """Tensors of one row per image."""

    def of(self, rows: Tensor) -> Self:
        """These rows (indices or bool) alone."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        own = {name: each[rows] for name, each in values.items() if isinstance(each, Tensor)}
        return replace(self, **own)


@dataclass(frozen=True)
class Walk(_Rows):
    """Where n ascents stand.

    Args:
        x: centres (n, C, H, W).
        epsilon: radii (n,).
        points: the current points, their predecessors and the best so far, (n, C, H, W) each.
        value: losses (n,) at the current points.
        rose: (n,) whether the loss is larger than at the predecessors.
        gradient: of the loss at the current points.
        best: the points of the largest loss, with its value and gradient.
    """

    x: Tensor
    epsilon: Tensor
    points: Tensor
    previous: Tensor
    value: Tensor
    rose: Tensor
    gradient: Tensor
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor

    @classmethod
    def begin(
        cls, x: Tensor, epsilon: Tensor, points: Tensor, value: Tensor, gradient: Tensor
    ) -> Self:
        """At the start, which is the best point so far."""
        rose = torch.zeros_like(value, dtype=torch.bool)
        best = (points, value, gradient)
        return cls(x, epsilon, points, points, value, rose, gradient, *best)

    def moved(self, points: Tensor, value: Tensor, gradient: Tensor) -> Self:
        """One step on."""
        better = value > self.best_value
        return replace(
            self,
            points=points,
            previous=self.points,
            value=value,
            rose=value > self.value,
            gradient=gradient,
            best=_where(better, points, self.best),
            best_value=torch.where(better, value, self.best_value),
            best_gradient=_where(better, gradient, self.best_gradient),
        )

    def returned(self, rows: Tensor) -> Self:
        """These rows (n,) bool back at their best points."""
        return replace(
            self,
            points=_where(rows, self.best, self.points),
            value=torch.where(rows, self.best_value, self.value),
            gradient=_where(rows, self.best_gradient, self.gradient),
        )


class Pace(Protocol):
    """A rule for steps; it remembers one row per ascent."""

    def of(self, rows: Tensor) -> Self:
        """The memory of these rows alone."""
        ...

    def step(self, walk: Walk, index: int) -> Tensor:
        """The next points, in ball and box."""
        ...

    def adapted(self, walk: Walk, index: int) -> tuple[Self, Walk]:
        """After step ``index`` (from 1): new step lengths, and where the ascents go on from."""
        ...


@dataclass(frozen=True)
class Halving(_Rows):
    """Steps with momentum, halved where they stopped paying (Croce & Hein 2020, Algorithm 1).

    At each checkpoint w_j an ascent's step is halved, and the ascent goes on from its best point,
    if fewer than a share rho of the steps since w_j-1 raised the loss, or if neither the step
    changed at w_j-1 nor the best loss since then.

    Args:
        norm: L2 or Linf.
        band: see `APGD`.
        checkpoints: the w_j.
        length: step lengths (n,) as shares of epsilon.
        rises: (n,) steps since the last checkpoint that raised the loss.
        record: (n,) the best loss at the last checkpoint.
        halved: (n,) bool, whether it was halved there.
    """

    norm: Norm
    band: float
    checkpoints: tuple[int, ...]
    length: Tensor
    rises: Tensor
    record: Tensor
    halved: Tensor

    @staticmethod
    def begin(norm: Norm, band: float, steps: int, walk: Walk) -> "Halving":
        """Steps of 2 epsilon (section 3 of the paper)."""
        length = torch.full_like(walk.epsilon, _FIRST)
        rises = torch.zeros_like(length)
        points = checkpoints(steps)
        return Halving(norm, band, points, length, rises, walk.best_value, rises.bool())

    def step(self, walk: Walk, index: int) -> Tensor:
        """Alg. 1, lines 7 and 8; the first step has no momentum (line 3)."""
        direction = steepest(self.norm, walk.gradient)
        if self.band < 1:
            direction = _unit(self.norm, low_pass(direction, self.band))
        reach = (self.length * walk.epsilon).reshape(-1, 1, 1, 1)
        ahead = self._back(walk, walk.points + reach * direction)
        if index == 1:
            return ahead
        turned = walk.points + _ALPHA * (ahead - walk.points)
        return self._back(walk, turned + (1 - _ALPHA) * (walk.points - walk.previous))

    def _back(self, walk: Walk, points: Tensor) -> Tensor:
        """Into ball and box; clipping to a cube would bring high frequencies back."""
        if self.band < 1 and self.norm is Norm.LINF:
            share = walk.epsilon / self.norm.distance(walk.x, points).clamp_min(_TINY)
            points = walk.x + (points - walk.x) * share.clamp_max(1).reshape(-1, 1, 1, 1)
        return self.norm.project(walk.x, points, walk.epsilon)

    def adapted(self, walk: Walk, index: int) -> tuple["Halving", Walk]:
        """Alg. 1, lines 13 to 16."""
        rises = self.rises + walk.rose
        if index not in self.checkpoints:
            return replace(self, rises=rises), walk
        place = self.checkpoints.index(index)
        since = index - (self.checkpoints[place - 1] if place else 0)
        stuck = ~self.halved & (self.record == walk.best_value)
        halved = (rises < _RHO * since) | stuck
        own = replace(
            self,
            length=torch.where(halved, self.length / 2, self.length),
            rises=torch.zeros_like(rises),
            record=walk.best_value,
            halved=halved,
        )
        return own, walk.returned(halved)


@dataclass(frozen=True)
class Sparse(_Rows):
    """Steps along few coordinates, as few as the best point needs (Croce & Hein 2021, Algorithm 1).

    Every ``interval`` steps the coordinates of a step become those that the best point changes,
    divided by 1.5. Where they fell by more than a twentieth the step is epsilon again and the
    ascent goes on from its best point; elsewhere the step shrinks by 1.5, down to epsilon / 10.
    Coordinates at that end of the box to which they should move are passed over. The authors' code
    counts them, and a sparse step whose steepest coordinates are such then moves nothing.

    Args:
        interval: steps between adaptations.
        length: step lengths (n,) as shares of epsilon.
        coordinates: (n,) how many a step moves.
        changed: (n,) how many the best point changed at the last adaptation.
    """

    interval: int
    length: Tensor
    coordinates: Tensor
    changed: Tensor

    @staticmethod
    def begin(steps: int, walk: Walk) -> "Sparse":
        """Adaptations every 0.04 of the steps; at first a fifth of the coordinates.

        Where the start changes fewer, as that of a later stage does, it is as after an adaptation.
        """
        size = walk.x[0].numel()
        length = torch.ones_like(walk.epsilon)
        interval = max(1, math.floor(_INTERVAL * steps))
        changed = _changed(walk)
        coordinates = torch.where(changed < size, changed / _SHRINK, size * _SHARE)
        return Sparse(interval, length, coordinates, changed)

    def step(self, walk: Walk, index: int) -> Tensor:
        """Equal steps along the coordinates of largest slope, then the exact projection."""
        gradient = walk.gradient.flatten(1)
        slopes = gradient.abs()
        free = walk.points.flatten(1) != (gradient > 0).to(gradient.dtype)
        ranked = (slopes * free).sort(dim=1, descending=True).values
        last = self.coordinates.long().clamp(1, slopes.shape[1]) - 1
        steep = free & (slopes > 0) & (slopes >= ranked.gather(1, last[:, None]))
        moves = gradient.sign() * steep
        moves = moves / steep.sum(dim=1, keepdim=True).clamp_min(1)
        reach = (self.length * walk.epsilon).reshape(-1, 1, 1, 1)
        points = walk.points + reach * moves.reshape(walk.x.shape)
        return Norm.L1.project(walk.x, points, walk.epsilon)

    def adapted(self, walk: Walk, index: int) -> tuple["Sparse", Walk]:
        """See the class."""
        if index % self.interval:
            return self, walk
        changed = _changed(walk)
        fell = changed < _FELL * self.changed
        shorter = (self.length / _SHRINK).clamp_min(_LEAST)
        own = replace(
            self,
            length=torch.where(fell, torch.ones_like(shorter), shorter),
            coordinates=changed / _SHRINK,
            changed=changed,
        )
        return own, walk.returned(fell)


def checkpoints(steps: int) -> tuple[int, ...]:
    """w_j = ceil(p_j steps) (Croce & Hein 2020, section 3).

    p_1 = 0.22, p_j+1 = p_j + max(p_j - p_j-1 - 0.03, 0.06), as far as they lie within the run.
    """
    shares, gap = [0.0], 0.22
    while shares[-1] + gap <= 1:
        shares.append(shares[-1] + gap)
        gap = max(gap - 0.03, 0.06)
    return tuple(dict.fromkeys(math.ceil(round(share * steps, 9)) for share in shares[1:]))


def stages(norm: Norm, steps: int) -> tuple[tuple[float, int], ...]:
    """(radius as a share of epsilon, steps) of a run's parts, each from the best point of the last.

    L1 begins in balls of thrice and twice the radius, for 0.3 of the steps each (Croce & Hein
    2021, multi-epsilon APGD); the others stay in their own.
    """
    if norm is not Norm.L1:
        return ((1.0, steps),)
    early = math.floor(_EARLY * steps)
    parts = ((3.0, early), (2.0, early), (1.0, steps - 2 * early))
    return tuple(part for part in parts if part[1])


def _changed(walk: Walk) -> Tensor:
    """How many coordinates (n,) the best points change."""
    return (walk.best != walk.x).flatten(1).sum(dim=1).to(walk.epsilon.dtype)


def _where(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, 1, 1, 1), one, other)


def _unit(norm: Norm, direction: Tensor) -> Tensor:
    length = norm.distance(torch.zeros_like(direction), direction).clamp_min(_TINY)
    return direction / length.reshape(-1, 1, 1, 1)


_TINY = 1e-12
_FIRST = 2.0
_ALPHA = 0.75
_RHO = 0.75
_SHARE = 0.2
_INTERVAL = 0.04
_EARLY = 0.3
_FELL = 0.95
_SHRINK = 1.5
_LEAST = 0.1
