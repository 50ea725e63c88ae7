"""Where Square's random search begins and how it goes on, in Linf and in L2.

Perturbations (n, C, H, W) are what a point differs by from its image. Every random number comes
from the image's own generator, so that no image's search depends on its batch.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

from attacks.threat import Norm

_TINY = 1e-12

Index = tuple[Tensor, Tensor, Tensor, Tensor]


class Moves(Protocol):
    """A norm's sampling distribution (Andriushchenko et al. 2020, section 3)."""

    def start(self, x: Tensor, epsilon: Tensor, own: list[Generator]) -> Tensor:
        """First perturbations of the images (n, C, H, W) at radii (n,), one generator each."""
        ...

    def numbers(self, channels: int) -> int:
        """How many numbers, uniform in [0, 1), a move takes."""
        ...

    def move(
        self, x: Tensor, delta: Tensor, epsilon: Tensor, share: float, draws: Tensor
    ) -> Tensor:
        """Perturbations near ``delta``, before they are brought into ball and box.

        Args:
            share: of the image that a square covers.
            draws: (n, numbers) uniform in [0, 1).
        """
        ...


class LinfMoves:
    """Vertical stripes of width 1, then squares of one sign per channel (Algorithm 2)."""

    def start(self, x: Tensor, epsilon: Tensor, own: list[Generator]) -> Tensor:
        """See `Moves.start`."""
        _, channels, _, width = x.shape
        stripes = _signs(_drawn(own, (channels, 1, width), x))
        return (epsilon.reshape(-1, 1, 1, 1) * stripes).expand_as(x)

    def numbers(self, channels: int) -> int:
        """A corner and a sign per channel."""
        return 2 + channels

    def move(
        self, x: Tensor, delta: Tensor, epsilon: Tensor, share: float, draws: Tensor
    ) -> Tensor:
        """See `Moves.move`.

        Where the square is already filled so, all its signs turn (the authors' code draws others;
        for grey images that is the same), for to ask about the same point again would be a waste.
        """
        height, width = x.shape[2:]
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        where = _window(x, draws[:, :2], side)
        signs = _signs(draws[:, 2:])[..., None, None]
        radius = epsilon.reshape(-1, 1, 1, 1)
        inside = x[where]
        before, after = inside + delta[where], (inside + radius * signs).clamp(0, 1)
        least = 1e-3 * radius
        same = ((after - before).abs() <= least).flatten(1).all(dim=1).reshape(-1, 1, 1, 1)
        moved = delta.clone()
        moved[where] = radius * torch.where(same, -signs, signs).expand_as(inside)
        return moved


class L2Moves:
    """A grid of small bumps, then larger ones fed by the mass of other windows (Algorithm 3)."""

    def start(self, x: Tensor, epsilon: Tensor, own: list[Generator]) -> Tensor:
        """See `Moves.start`: five tiles or more along the shorter side."""
        channels, height, width = x.shape[1:]
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        draws = _drawn(own, (down, across, 1 + channels), x)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        delta = torch.zeros_like(x)
        for row in range(down):
            for column in range(across):
                first, second = top + row * side, left + column * side
                tile = _bumps(side, draws[:, row, column])
                delta[:, :, first : first + side, second : second + side] = tile
        return _filling(delta, epsilon)

    def numbers(self, channels: int) -> int:
        """Two corners, an orientation and a sign per channel."""
        return 5 + channels

    def move(
        self, x: Tensor, delta: Tensor, epsilon: Tensor, share: float, draws: Tensor
    ) -> Tensor:
        """See `Moves.move`.

        A bump, bent toward what its window holds already, takes the place of that, of the mass of
        a second window, which is emptied, and of what the ball has left.
        """
        channels, height, width = x.shape[1:]
        side = max(round(math.sqrt(share * height * width)), 3)
        side = min(side + 1 - side % 2, (min(height, width) - 1) // 2 * 2 + 1)
        here, there = _window(x, draws[:, :2], side), _window(x, draws[:, 2:4], side)
        covered = torch.zeros_like(delta)
        covered[here] = covered[there] = 1.0
        mass = (covered * delta.square()).sum(dim=(2, 3), keepdim=True)
        spare = epsilon.square().reshape(-1, 1, 1, 1) - delta.square().sum((1, 2, 3), keepdim=True)
        old = delta[here]
        bump = _unit(_bumps(side, draws[:, 4:]) + _unit(old))
        moved = delta.clone()
        moved[there] = 0.0
        moved[here] = bump * (spare.clamp_min(0) / channels + mass).sqrt()
        return _filling(moved, epsilon)


MOVES: dict[Norm, Callable[[], Moves]] = {Norm.LINF: LinfMoves, Norm.L2: L2Moves}


def eta(side: int, like: Tensor) -> Tensor:
    """The bump (side, side) of length 1 in L2: a positive half above a negative one.

    Each half is a heap of nested rectangles, the k-th weighing 1 / k^2 (Eq. 2): where the larger
    of the two distances to its centre is m, its height is the sum of 1 / (k + 1)^2 from k = m on.
    """
    upper = side // 2
    halves = [_heap(upper, side, like), -_heap(side - upper, side, like)]
    whole = torch.cat(halves)
    length: Tensor = torch.linalg.vector_norm(whole)
    return whole / length


def _heap(height: int, width: int, like: Tensor) -> Tensor:
    """A heap (height, width) of length 1 in L2, or nothing where the height is 0."""
    down = (torch.arange(height, device=like.device) - height // 2).abs()
    across = (torch.arange(width, device=like.device) - width // 2).abs()
    distance = torch.maximum(down[:, None], across[None])
    steps = torch.arange(max(height, width) // 2 + 1, device=like.device)
    weights = 1 / (steps + 1).to(like.dtype).square()
    heap = weights.flip(0).cumsum(0).flip(0)[distance]
    length: Tensor = torch.linalg.vector_norm(heap)
    return heap / length.clamp_min(_TINY)


def _bumps(side: int, draws: Tensor) -> Tensor:
    """Bumps (n, C, side, side) from draws (n, 1 + C): an orientation, and a sign per channel."""
    bump = eta(side, draws)
    upright = (draws[:, 0] < 0.5).reshape(-1, 1, 1, 1)
    return torch.where(upright, bump, bump.T) * _signs(draws[:, 1:])[..., None, None]


def _unit(windows: Tensor) -> Tensor:
    """Windows (n, C, s, s) scaled to length 1 in each channel; empty ones stay empty."""
    length: Tensor = torch.linalg.vector_norm(windows, dim=(2, 3), keepdim=True)
    return windows / length.clamp_min(_TINY)


def _filling(delta: Tensor, epsilon: Tensor) -> Tensor:
    """Perturbations scaled to length epsilon (n,) in L2."""
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return delta * (epsilon / length.clamp_min(_TINY)).reshape(-1, 1, 1, 1)


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0).to(draws.dtype)


def _drawn(own: list[Generator], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uniform numbers (n, *shape), a row from each generator."""
    return torch.stack([torch.rand(shape, generator=each) for each in own]).to(like)


def _window(x: Tensor, corner: Tensor, side: int) -> Index:
    """The index of one square per image, uniform among all that lie inside.

    Args:
        corner: (n, 2) uniform in [0, 1).
    """
    count, channels, height, width = x.shape
    room = torch.tensor([height - side, width - side], device=x.device)
    top, left = torch.minimum((corner * (room + 1)).long(), room).unbind(dim=1)
    along = torch.arange(side, device=x.device)
    return (
        torch.arange(count, device=x.device).reshape(-1, 1, 1, 1),
        torch.arange(channels, device=x.device).reshape(1, -1, 1, 1),
        (top[:, None] + along).reshape(count, 1, side, 1),
        (left[:, None] + along).reshape(count, 1, 1, side),
    )
