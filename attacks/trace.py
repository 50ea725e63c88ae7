"""When an image was broken, and by what: a trace of one attack run in the defense's own calls.

Calls are counted where an attack can't lie, on the defense's side (`defenses.base.Cost`). Images
are known by their pixels, so that an attack may hand any of them, in any order, to another one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from defenses.base import Cost


class Break(NamedTuple):
    """The first candidate that convinced in a ball.

    Args:
        calls: images that had gone forward or backward through the defense by then.
        member: attack of an ensemble that found it; empty where there is no ensemble.
    """

    calls: int
    member: str


@dataclass
class Trace:
    """What one run has broken so far.

    Args:
        cost: the attacked defense's count, which goes on.
    """

    cost: Cost
    _begun: int = field(init=False)
    _member: str = field(default="", init=False)
    _breaks: dict[tuple[bytes, float], Break] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._begun = self._count()

    def first(self, x: Tensor, epsilon: float) -> list[Break | None]:
        """The first break of each image (N, C, H, W) in the ball of this radius."""
        return [self._breaks.get((name, _radius(epsilon))) for name in _names(x)]

    def note(self, x: Tensor, epsilons: Tensor) -> None:
        """Images (n, C, H, W) that were just broken in balls of these radii (n,)."""
        found = Break(self._count() - self._begun, self._member)
        for name, epsilon in zip(_names(x), epsilons.tolist(), strict=True):
            self._breaks.setdefault((name, _radius(epsilon)), found)

    @contextmanager
    def member(self, name: str) -> Iterator[None]:
        """What breaks from here on is this attack's doing."""
        before, self._member = self._member, name
        try:
            yield
        finally:
            self._member = before

    def _count(self) -> int:
        return self.cost.forward + self.cost.backward


_CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)


@contextmanager
def tracing(cost: Cost) -> Iterator[Trace]:
    """Trace the run inside; runs inside runs are traced by the outermost."""
    outer = _CURRENT.get()
    if outer is not None:
        yield outer
        return
    trace = Trace(cost)
    token = _CURRENT.set(trace)
    try:
        yield trace
    finally:
        _CURRENT.reset(token)


def current() -> Trace | None:
    """The trace of the run that this is part of, if anybody wants one."""
    return _CURRENT.get()


def _names(x: Tensor) -> list[bytes]:
    return [row.tobytes() for row in x.detach().cpu().contiguous().numpy()]


def _radius(epsilon: float) -> float:
    """Radii that passed through float32 and those that did not are the same."""
    return float(f"{epsilon:.6g}")
