"""What one worker does with one block of pairs of latents: search them, or ask a defense."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Protocol, final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.overpowered_pairs import OverpoweredPairs
from benchmark.datasets import Split
from benchmark.latent_cells import NOBODY, PairCell, PairFile
from benchmark.work import Load, calm, own_device
from defenses.base import Decision, Defense
from defenses.projection.projecting import Projecting
from defenses.randomness import child, generator, seed_from

MARKS = 30
"""Numbers of steps at most at which a search's trace is kept, besides 0."""

_DECIMALS = 6
"""Numbers are rounded: below this they depend on how many images share a batch."""

_AT_ONCE = 500

Indices = NDArray[np.int64]


class Task(Protocol):
    """A block of a cell; picklable.

    Attributes:
        cell: whose block it is.
        pairs: (n,) numbers of the pairs.
    """

    @property
    def cell(self) -> PairCell:
        """See the class."""
        ...

    @property
    def pairs(self) -> Indices:
        """See the class."""
        ...

    def compute(self, device: str) -> PairFile:
        """The block's rows; metadata say ``wall_seconds`` and ``cost``."""
        ...


def marks_of(steps: int) -> tuple[int, ...]:
    """0 and up to `MARKS` numbers of steps, evenly spaced on a logarithmic scale, to the last."""
    spaced = np.geomspace(1, steps, MARKS).round().astype(int)
    return (0, *sorted({int(mark) for mark in spaced}))


@final
@dataclass(frozen=True, eq=False)
class Search:
    """Pairs to be found.

    Args:
        cell, pairs: see `Task`.
        load: the defense that is searched.
        attack: how.
        marks: numbers of steps at which the trace is kept.
    """

    cell: PairCell
    pairs: Indices
    load: Load
    attack: OverpoweredPairs
    marks: tuple[int, ...]

    def compute(self, device: str) -> PairFile:
        """Search from each pair's own start.

        Raises:
            ValueError: a defense without a prior over latents.
        """
        with calm():
            clock = _Clock(_projecting(self.load, device, self.cell.defense))
            starts = self._starts(clock.defense).to(own_device(device))
            rng = generator(seed_from(self.cell.seed, "latent pairs", self.cell.dataset, "search"))
            found = self.attack.searched(clock.defense, starts, rng, self.marks)
            moved = (found.images[:, 0] - found.images[:, 1]).double()
            rows = pd.DataFrame(
                {
                    "pair": self.pairs,
                    "kept": list(found.latents[:, 1].cpu().numpy()),
                    "left": list(found.latents[:, 0].cpu().numpy()),
                    "mean_square": moved.flatten(1).square().mean(dim=1).cpu().numpy(),
                    "trace": list(_distances(clock.defense, found.trace).cpu().numpy()),
                }
            )
            return PairFile(self.cell, rows, {**clock.spent(), "marks": list(self.marks)})

    def _starts(self, defense: Projecting) -> Tensor:
        """(n, d) from the prior; of two defenses with as many latents the same normal draws."""
        names = (self.cell.seed, "latent pairs", self.cell.dataset, "start")
        draws = [
            torch.randn(defense.generator.latent, generator=generator(seed_from(*names, pair)))
            for pair in self.pairs
        ]
        return defense.generator.prior_std * torch.stack(draws)


@final
@dataclass(frozen=True, eq=False)
class Answers:
    """Pairs, and clean images, that a bare classifier is asked about.

    Args:
        cell, pairs: see `Task`.
        load: whose classifier it is.
        source: the defense that draws the pairs' images.
        latents: rows of the search, of these pairs.
        clean: test images.
    """

    cell: PairCell
    pairs: Indices
    load: Load
    source: Load
    latents: pd.DataFrame
    clean: Split

    def compute(self, device: str) -> PairFile:
        """Log-probabilities, and how many clean images are right."""
        with calm():
            clock = _Clock(_projecting(self.load, device, self.cell.defense))
            rows: dict[str, Any] = {"pair": self.pairs}
            for name, images in drawn(self.source, self.latents, device).items():
                rows[name] = list(_log_probabilities(clock.defense, images).cpu().numpy())
            right = sum(self._right(clock.defense, part, device) for part in self._parts())
            facts = {"clean_images": len(self.clean), "clean_correct": right}
            return PairFile(self.cell, pd.DataFrame(rows), {**clock.spent(), **facts})

    def _parts(self) -> list[Indices]:
        return np.array_split(
            np.arange(len(self.clean)), range(_AT_ONCE, len(self.clean), _AT_ONCE)
        )

    def _right(self, defense: Projecting, part: Indices, device: str) -> int:
        batch = self.clean.batch(part, own_device(device))
        with torch.no_grad():
            return int((defense.classify(batch.x).argmax(dim=1) == batch.y).sum())


@final
@dataclass(frozen=True, eq=False)
class Transfer:
    """Pairs that a deployed defense is asked about, in fresh runs.

    Args:
        cell, pairs: see `Task`.
        load: the defense.
        source: the defense that draws the pairs' images.
        latents: rows of the search, of these pairs.
    """

    cell: PairCell
    pairs: Indices
    load: Load
    source: Load
    latents: pd.DataFrame

    def compute(self, device: str) -> PairFile:
        """The classes of each run."""
        with calm():
            clock = _Clock(_projecting(self.load, device, self.cell.defense))
            names = (self.cell.seed, "latent pairs", self.cell.dataset, "transfer")
            rng = generator(seed_from(*names, self.cell.defense))
            rows: dict[str, Any] = {"pair": self.pairs}
            for name, images in drawn(self.source, self.latents, device).items():
                runs = [
                    _classes(clock.defense.decide(images, child(rng, run)))
                    for run in range(self.cell.runs)
                ]
                rows[name] = list(torch.stack(runs, dim=1).cpu().numpy())
            return PairFile(self.cell, pd.DataFrame(rows), clock.spent())


class _Clock:
    """Time and images that a block takes, from now on."""

    def __init__(self, defense: Projecting) -> None:
        self.defense = defense
        self._began, self._before = time.perf_counter(), defense.cost.copy()

    def spent(self) -> dict[str, Any]:
        """So far, as metadata."""
        seconds = time.perf_counter() - self._began
        return {"wall_seconds": seconds, "cost": asdict(self.defense.cost - self._before)}


def _projecting(load: Load, device: str, name: str) -> Projecting:
    defense: Defense = load(own_device(device))
    if not isinstance(defense, Projecting):
        raise ValueError(
            f"defense must project onto a generator, whose prior pairs begin from, got {name}; "
            "name one such as 'inc'"
        )
    return defense


@torch.no_grad()
def drawn(source: Load, latents: pd.DataFrame, device: str) -> dict[str, Tensor]:
    """G(z) and G(z') (n, C, H, W) by the column that holds their latents."""
    decoder = _projecting(source, device, "the searched defense")
    return {
        name: decoder.decode(
            torch.from_numpy(np.stack(latents[name].to_list())).to(own_device(device))
        )
        for name in ("kept", "left")
    }


@torch.no_grad()
def _log_probabilities(defense: Projecting, images: Tensor) -> Tensor:
    """Of the bare classifier (n, K), float64, in nats."""
    logits = torch.cat([defense.classify(part) for part in images.split(_AT_ONCE)])
    return logits.double().log_softmax(dim=1).mul(10**_DECIMALS).round().div(10**_DECIMALS)


@torch.no_grad()
def _distances(defense: Projecting, trace: Tensor) -> Tensor:
    """||C(G(z)) - C(G(z'))||_2 (n, T) of latents (n, T, 2, d)."""
    parts = trace.flatten(0, 2).split(_AT_ONCE)
    logs = torch.cat([_log_probabilities(defense, defense.decode(part)) for part in parts])
    outputs = logs.exp().reshape(*trace.shape[:3], -1)
    between: Tensor = (outputs[:, :, 0] - outputs[:, :, 1]).norm(dim=2)
    return between


def _classes(decision: Decision) -> Tensor:
    """(n,) the classes; `NOBODY` where refused or not a number."""
    void = decision.rejected | decision.logits.isnan().any(dim=1)
    return decision.classes.masked_fill(void, NOBODY)
