"""The nearest point of the box at which a linear function has a wanted value."""

import torch
from torch import Tensor

from attacks.threat import Norm

_TINY = 1e-30


def nearest_on_hyperplane(norm: Norm, x: Tensor, slope: Tensor, rise: Tensor) -> Tensor:
    """The points (N, C, H, W) of the box nearest to ``x`` at which <slope, . - x> is ``rise``.

    Where no point of the box rises so far, its corner that rises furthest. The same in closed form
    as the projections of FAB (Croce & Hein 2020, section 3.1). A pixel moves as fast as the norm
    has it until it meets the box, and the rise is piecewise linear in time: in Linf all pixels move
    at one speed, in L2 at that of their slope. In L1 the steepest moves first, then the next.

    Args:
        x: (N, C, H, W) in [0, 1].
        slope: (N, C, H, W), finite.
        rise: (N,); negative to fall.

    Raises:
        ValueError: another norm than L1, L2 and Linf.
    """
    start, way = x.flatten(1).double(), slope.flatten(1).double()
    way = torch.where((rise < 0)[:, None], -way, way)
    wanted, steep = rise.double().abs()[:, None], way.abs()
    room = torch.where(way > 0, 1 - start, start) * (steep > 0)
    match norm:
        case Norm.L1:
            moved = _steepest_first(steep, room, wanted)
        case Norm.L2:
            moved = _at_once(steep, room, wanted, steep)
        case Norm.LINF:
            moved = _at_once(steep, room, wanted, (steep > 0).double())
        case _:
            raise ValueError(f"norm must be l1, l2 or linf, got {norm}; it has no nearest point")
    return (start + moved * way.sign()).clamp(0, 1).to(x.dtype).reshape(x.shape)


def _at_once(steep: Tensor, room: Tensor, wanted: Tensor, speed: Tensor) -> Tensor:
    """How far (N, D) each pixel has moved when the rise (N, 1) is reached."""
    arrival, order = (room / speed.clamp_min(_TINY)).sort(dim=1)
    risen = (steep * room).gather(1, order)
    rate = (steep * speed).gather(1, order)
    arrived = risen.cumsum(dim=1) - risen  # by the pixels that met the box before this one
    moving = rate.flip(1).cumsum(dim=1).flip(1)
    last = (arrived + arrival * moving < wanted).sum(dim=1, keepdim=True)
    last = last.clamp_max(room.shape[1] - 1)
    time = (wanted - arrived.gather(1, last)) / moving.gather(1, last).clamp_min(_TINY)
    return torch.minimum(time * speed, room)


def _steepest_first(steep: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """How far (N, D) each pixel has moved when the rise (N, 1) is reached."""
    order = steep.argsort(dim=1, descending=True, stable=True)
    slopes, rooms = steep.gather(1, order), room.gather(1, order)
    risen = (slopes * rooms).cumsum(dim=1)
    missing = wanted - (risen - slopes * rooms)
    moved = torch.minimum((missing / slopes.clamp_min(_TINY)).clamp_min(0), rooms)
    return torch.zeros_like(moved).scatter(1, order, moved)
