"""What one worker does with one block of samples: attack, judge, write. Results stay on disk."""

import multiprocessing
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attacks.base import Attack
from attacks.threat import Norm
from attacks.trace import tracing
from benchmark import examples, records, seeding
from benchmark.cells import Cell
from benchmark.datasets import Batch, Split
from benchmark.judge import Floats, Ints, Outcomes, Verdict, ask, judge, nobody
from benchmark.records import Outcome
from defenses.base import Defense

Result = TypeVar("Result")


class Load(Protocol):
    """How a worker gets the trained defense; must be picklable."""

    def __call__(self, device: str) -> Defense:
        """The defense in evaluation mode, frozen, on the device."""
        ...


@dataclass(frozen=True, eq=False)
class Unit:
    """One cell's block of samples, with everything a worker needs.

    Args:
        cell: what is computed.
        first: place of the block's first sample among the cell's samples.
        load: the defense.
        samples: (n,) indices into the test split.
        images: the samples' images and labels.
        origin: provenance shared by all records of the run.
        points: folder for the judged points.
        attack: None asks about the images themselves (a clean cell).
        clean: the verdicts on the images; None in a clean cell.
    """

    cell: Cell
    first: int
    load: Load
    samples: Ints
    images: Split
    origin: dict[str, Any]
    points: Path
    attack: Attack | None = None
    clean: Verdict | None = None

    def __len__(self) -> int:
        return len(self.samples)


def measure(unit: Unit, device: str, results: Path) -> tuple[str, int]:
    """Compute one block and keep its rows as a part of its cell.

    A failure inside the attack or the defense becomes ERROR rows with the traceback; a failure to
    read weights or to write files is raised.

    Returns: the cell's id and the number of samples.

    Raises:
        OSError, ValueError: see above.
    """
    with calm():
        where = own_device(device)
        defense = loaded(unit.cell, unit.load, where)
        began, before = time.perf_counter(), defense.cost.copy()
        batch = unit.images.batch(np.arange(len(unit)), where)
        found, error = attempt(lambda: _compute(unit, defense, batch))
        frame, points, calls = found or (_failed(unit), None, [])
        error = error or _missing_answers(unit, frame)
        wall, cost = time.perf_counter() - began, defense.cost - before
    if points is not None:
        clean = unit.images.batch(np.arange(len(unit))).x.numpy()
        block = examples.Examples(unit.samples, clean, points.cpu().numpy())
        examples.store(unit.points, unit.first, block)
    part = records.parts_folder(results, unit.cell) / f"{unit.first:06}.parquet"
    own = {
        "wall_seconds": wall,
        "cost": asdict(cost),
        "calls": calls,
        "not_applicable": None,
        "error": error,
    }
    records.write(part, frame, {**records.describe(unit.cell), **unit.origin, **own})
    return unit.cell.id, len(unit)


def attempt(compute: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """What is computed, or the traceback of why not: a faulty defense ends no sweep."""
    try:
        return compute(), None
    except Exception:
        return None, _short_traceback()


@contextmanager
def calm() -> Iterator[None]:
    """One thread, full float32 and repeatable kernels: results don't depend on the worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_num_threads(threads)


Calls = list[tuple[float, int, float]]
"""Epsilon, sample, and the calls per image until it was broken; see `benchmark.records`."""


def _compute(
    unit: Unit, defense: Defense, batch: Batch
) -> tuple[pd.DataFrame, Tensor | None, Calls]:
    """The block's rows; where there was an attack, its judged points and when they were found."""
    cell, rng = unit.cell, seeding.for_judge(unit.cell)
    if unit.attack is None or unit.clean is None:
        verdict = ask(defense, batch.x, batch.y, rng, cell.votes)
        nothing = np.full((1, len(unit)), "", dtype=object)
        return _frame(unit, verdict, [verdict], np.zeros((2, 1, len(unit))), nothing), None, []
    shape = (len(cell.epsilons), len(unit))
    verdicts = [unit.clean.copy() for _ in cell.epsilons]
    broken_by = np.full(shape, "", dtype=object)
    calls: Calls = []
    distances = np.zeros((2, *shape))
    points = batch.x.expand(shape[0], *batch.x.shape).clone()
    rows = unit.clean.found(Outcome.CORRECT)
    if rows.any():
        places = torch.from_numpy(np.flatnonzero(rows))
        x, y = batch.x[places], batch.y[places]
        rng_attack = seeding.for_attack(cell)
        with tracing(defense.cost) as trace:
            candidates = unit.attack(defense, x.clone(), y.clone(), cell.epsilons, rng_attack)
        for budget, epsilon in enumerate(cell.epsilons):
            for place, first in zip(places.tolist(), trace.first(x, epsilon), strict=True):
                if first is not None:
                    calls.append((epsilon, int(unit.samples[place]), first.calls / len(x)))
                    broken_by[budget, place] = first.member
        judgement = judge(
            defense,
            x,
            y,
            candidates.to(x),
            norm=Norm(cell.norm),
            epsilons=cell.epsilons,
            clean=unit.clean.take(rows),
            rng=rng,
            votes=cell.votes,
        )
        for verdict, found in zip(verdicts, judgement.verdicts, strict=True):
            verdict.put(rows, found)
        points[:, places] = judgement.points
        distances[0][:, rows] = judgement.distances[Norm.L2]
        distances[1][:, rows] = judgement.distances[Norm.LINF]
    return _frame(unit, unit.clean, verdicts, distances, broken_by), points, calls


def _frame(
    unit: Unit,
    clean: Verdict,
    verdicts: Sequence[Verdict],
    distances: Floats,
    broken_by: Outcomes,
) -> pd.DataFrame:
    """Rows of `benchmark.records.COLUMNS`.

    Args:
        distances: (2, E, n), L2 and Linf.
        broken_by: (E, n) members of an ensemble; "" for none.
    """
    cell = unit.cell
    frames = [
        pd.DataFrame(
            {
                "dataset": cell.dataset,
                "defense": cell.defense,
                "attack": cell.attack,
                "surrogate": cell.surrogate,
                "norm": cell.norm,
                "epsilon": epsilon,
                "sample": unit.samples,
                "label": unit.images.labels,
                "clean_class": clean.classes,
                "clean_rejected": clean.rejected,
                "adversarial_class": verdict.classes,
                "rejected": verdict.rejected,
                "outcome": [str(outcome) for outcome in verdict.outcome],
                "wrong_vote_share": verdict.wrong_share,
                "rejection_score": records.rounded(verdict.score),
                "distance_l2": np.round(l2, records.DISTANCE_DECIMALS),
                "distance_linf": np.round(linf, records.DISTANCE_DECIMALS),
                "broken_by": members,
                "seed": cell.seed,
                "cell": cell.id,
            }
        )
        for epsilon, verdict, l2, linf, members in zip(
            cell.epsilons, verdicts, *distances, broken_by, strict=True
        )
    ]
    return pd.concat(frames, ignore_index=True)


def _failed(unit: Unit) -> pd.DataFrame:
    """ERROR for every sample that was to be computed; the others keep their clean verdict."""
    count = len(unit)
    clean = unit.clean or nobody(count, Outcome.ERROR)
    verdict = clean.copy()
    verdict.put(
        clean.found(Outcome.CORRECT), nobody(int(clean.found(Outcome.CORRECT).sum()), Outcome.ERROR)
    )
    shape = (len(unit.cell.epsilons), count)
    distances, nobody_did = np.full((2, *shape), np.nan), np.full(shape, "", dtype=object)
    return _frame(unit, clean, [verdict] * shape[0], distances, nobody_did)


def _missing_answers(unit: Unit, frame: pd.DataFrame) -> str | None:
    """Why rows are ERROR although nothing was raised."""
    failed = frame.loc[frame["outcome"] == Outcome.ERROR, "sample"].nunique()
    if not failed:
        return None
    if unit.clean is not None and unit.clean.found(Outcome.ERROR).any():
        return f"{unit.cell.defense} did not answer to the clean images; see its clean cell"
    return (
        f"logits of {unit.cell.defense} must be numbers, got NaN for {failed} of {len(unit)} images"
    )


def _short_traceback() -> str:
    """The last exception and where it came from, without folders."""
    _, error, trace = sys.exc_info()
    calls = [
        f"{Path(call.filename).name}:{call.lineno} in {call.name}"
        for call in traceback.extract_tb(trace)
    ]
    return "\n".join([*calls, f"{type(error).__name__}: {error}"])


@dataclass(frozen=True)
class _Key:
    """Which trained defense on which device; the loader itself does not take part."""

    dataset: str
    defense: str
    defense_repr: str
    weights_digest: str
    device: str
    load: Load = field(compare=False)

    @classmethod
    def of(cls, cell: Cell, load: Load, device: str) -> "_Key":
        return cls(cell.dataset, cell.defense, cell.defense_repr, cell.weights_digest, device, load)


def loaded(cell: Cell, load: Load, device: str) -> Defense:
    """The trained defense of a cell on a device; the one asked for last stays in memory."""
    return _defense(_Key.of(cell, load, device))


@lru_cache(maxsize=1)
def _defense(key: _Key) -> Defense:
    """The worker's defense; one at a time, because candidate banks are large."""
    return key.load(key.device)


def own_device(device: str) -> str:
    """Where there are several accelerators, each worker has its own, in turn."""
    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    number = re.search(r"\d+$", multiprocessing.current_process().name)
    return f"cuda:{int(number[0]) % torch.cuda.device_count() if number else 0}"
