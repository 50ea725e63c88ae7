"""Norms: how large a perturbation is, and the nearest point within a budget."""

import math
from enum import StrEnum

import torch
from torch import Tensor

_TINY = 1e-12
_SLACK = 8
"""Rounding steps by which a projected point stays inside its ball, so that measuring agrees."""


class Norm(StrEnum):
    """The threat models' distances on pixels in [0, 1]."""

    L0 = "l0"
    L1 = "l1"
    L2 = "l2"
    LINF = "linf"
    UNRESTRICTED = "unrestricted"

    def distance(self, x: Tensor, other: Tensor) -> Tensor:
        """Distance (N,) between images (N, ...); L0 counts pixels in which any channel differs."""
        difference = (other - x).flatten(1)
        match self:
            case Norm.L0:
                changed = (other != x).reshape(len(x), x.shape[1], -1).any(dim=1)
                return changed.sum(dim=1).to(x.dtype)
            case Norm.L1:
                return difference.abs().sum(dim=1)
            case Norm.L2:
                length: Tensor = torch.linalg.vector_norm(difference, dim=1)
                return length
            case Norm.LINF:
                return difference.abs().amax(dim=1)
            case Norm.UNRESTRICTED:
                return x.new_zeros(len(x))

    def largest(self, shape: tuple[int, ...]) -> float:
        """The norm of the box's diagonal for an image (C, H, W): no budget needs to exceed it."""
        channels, *pixels = shape
        area = float(math.prod(pixels))
        match self:
            case Norm.L0:
                return area
            case Norm.L1:
                return channels * area
            case Norm.L2:
                return float((channels * area) ** 0.5)
            case Norm.LINF:
                return 1.0
            case Norm.UNRESTRICTED:
                return float("inf")

    def stretch(self, x: Tensor, point: Tensor, epsilon: Tensor | float) -> Tensor:
        """The point (N, C, H, W) moved along its own direction from ``x`` to lie at ``epsilon``.

        Clipping to the box may leave it nearer; a point at ``x`` stays there, and so does every
        point where distances do not count or where they count pixels.

        Args:
            epsilon: one distance or (N,).
        """
        if self in (Norm.L0, Norm.UNRESTRICTED):
            return self.project(x, point, epsilon)
        scale = epsilon / self.distance(x, point).clamp_min(_TINY)
        return self.project(x, x + (point - x) * scale.reshape(-1, 1, 1, 1), epsilon)

    def project(self, x: Tensor, candidate: Tensor, epsilon: Tensor | float) -> Tensor:
        """The candidate moved into the box and the ball around ``x``; the identity inside both.

        The result's own `distance` is at most epsilon, rounding included. In L0 the pixels of
        largest change are kept, as many as the budget allows. In L1 and Linf the result is the
        nearest point of ball and box together, in L2 that on the way from ``x`` to the candidate
        after it was clipped.

        Args:
            x: centres (N, C, H, W) in [0, 1].
            candidate: points of the same shape.
            epsilon: one radius or (N,).
        """
        wished, candidate = candidate, candidate.clamp(0, 1)
        if self is Norm.UNRESTRICTED:
            return candidate
        radius = torch.as_tensor(epsilon, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
        rounding = _SLACK * torch.finfo(x.dtype).eps
        if self is Norm.LINF:
            inner = (radius - rounding).clamp_min(0)
            nearest = torch.minimum(torch.maximum(candidate, x - inner), x + inner).clamp(0, 1)
            return torch.where((candidate - x).abs() > radius, nearest, candidate)
        if self is Norm.L2:
            distance = self.distance(x, candidate).reshape(-1, 1, 1, 1)
            inner = radius * (1 - rounding) - rounding
            shrunk = x + (candidate - x) * (inner.clamp_min(0) / distance.clamp_min(_TINY))
            return torch.where(distance > radius, shrunk.clamp(0, 1), candidate)
        if self is Norm.L1:
            distance = self.distance(x, candidate).reshape(-1, 1, 1, 1)
            within = radius.flatten().expand(len(x)).double()
            nearest = _nearest_in_l1(
                x, wished, within * (1 - rounding), within * (1 - rounding / 2)
            )
            return torch.where(distance > radius, nearest, candidate)
        change = (candidate - x).abs().amax(dim=1).flatten(1)
        rank = change.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        kept = (rank + 1).reshape(len(x), 1, *x.shape[2:]) <= radius
        return torch.where(kept, candidate, x)


def _nearest_in_l1(x: Tensor, candidate: Tensor, radius: Tensor, most: Tensor) -> Tensor:
    """The nearest point of L1 ball and box, for candidates that lie outside the ball when clipped.

    Every coordinate moves by clip(|change| - t, 0, room), where room is what the box leaves it in
    its direction (Croce & Hein 2021, Proposition 2.1). The length of that is piecewise linear in
    t, with kinks where a coordinate begins to shrink and where it is back at the image; one sort
    finds the two kinks between which it is the radius.

    Args:
        radius: (N,).
        most: (N,) what rounding in the sums may make of it; beyond, all coordinates give way.
    """
    change = (candidate.double() - x.double()).flatten(1)
    size, flat = change.abs(), x.double().flatten(1)
    room = torch.where(change > 0, 1 - flat, flat)
    begins, ends = (size - room).clamp_min(0), size
    kinks, order = torch.cat([begins, ends], dim=1).sort(dim=1)
    slope = torch.ones_like(begins)
    falls = torch.cat([slope, -slope], dim=1).gather(1, order).cumsum(dim=1)
    lost = (falls[:, :-1] * kinks.diff(dim=1)).cumsum(dim=1)
    lost = torch.cat([torch.zeros_like(lost[:, :1]), lost], dim=1)
    whole = torch.minimum(size, room).sum(dim=1, keepdim=True)
    excess = (whole - radius[:, None]).clamp_min(0)
    last = kinks.shape[1] - 2
    at = (torch.searchsorted(lost, excess, right=True) - 1).clamp(0, last)
    rest = (excess - lost.gather(1, at)) / falls.gather(1, at).clamp_min(1)
    threshold = kinks.gather(1, at) + rest
    moved = torch.minimum((size - threshold).clamp_min(0), room)
    moved = moved * (most[:, None] / moved.sum(dim=1, keepdim=True).clamp_min(_TINY)).clamp_max(1)
    point = (flat + change.sign() * moved).reshape(x.shape).to(x.dtype)
    exact = (moved == room).reshape(x.shape)  # at an end of the box, or not moved at all
    return torch.where(exact, point, torch.nextafter(point, x)).clamp(0, 1)
