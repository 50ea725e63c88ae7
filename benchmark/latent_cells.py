"""Files about pairs of latents (Jalal et al. 2017, section 4.3): a row per pair, named by a hash of
everything that decides it, and found again by that name.

    results/<dataset>/records/latent/<id>.parquet                  finished
    results/<dataset>/records/latent/parts/<id>/<first>.parquet    blocks of an unfinished one

A pair is z, which keeps its class, and z', which leaves it. Columns besides ``pair``, by step:

    search     kept, left: latents (d,) of z and z'; mean_square: of G(z') - G(z) per value, on
               [0, 1]; trace: (T,) ||C(G(z)) - C(G(z'))||_2 of the best pair after ``marks`` steps
    answers    kept, left: log-probabilities (K,) of C(G(z)) and C(G(z')), in nats
    transfer   kept, left: classes (R,) in R fresh runs of the deployed defense; -1 for none

Metadata are the fields of `PairCell`, the keys of `benchmark.records` that do not belong to a
cell, and ``marks`` of a search, ``clean_images`` and ``clean_correct`` of answers: test images that
the bare classifier was asked about, and how many of them it got right.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import parquet

NOBODY = -1
"""In place of a class: the run refused, or answered no number."""


class Step(StrEnum):
    """What a file is about, in the order in which they are made."""

    SEARCH = "search"
    ANSWERS = "answers"
    TRANSFER = "transfer"


COLUMNS: Mapping[Step, tuple[str, ...]] = {
    Step.SEARCH: ("pair", "kept", "left", "mean_square", "trace"),
    Step.ANSWERS: ("pair", "kept", "left"),
    Step.TRANSFER: ("pair", "kept", "left"),
}


@dataclass(frozen=True, kw_only=True)
class PairCell:
    """What one file depends on; the number of workers and the device must not matter.

    Args:
        step: what it is about.
        dataset: its name.
        dataset_digest: hash of its arrays.
        defense: registered name of who is searched or asked.
        defense_repr: its recipe with every field.
        weights_digest: hash of its trained weights.
        attack: label of what found the pairs.
        attack_repr: that with every field.
        pairs: id of the search whose pairs are asked about; empty for a search.
        count: pairs searched, or at most asked about.
        runs: of the deployed defense per image; 0 where it is not asked.
        seed: root seed.
    """

    step: Step
    dataset: str
    dataset_digest: str
    defense: str
    defense_repr: str
    weights_digest: str
    attack: str
    attack_repr: str
    pairs: str = ""
    count: int
    runs: int = 0
    seed: int

    @property
    def id(self) -> str:
        """16 hexadecimal digits of a hash of exactly these fields."""
        return hashlib.blake2b(repr(self).encode(), digest_size=8).hexdigest()

    def path(self, results: Path) -> Path:
        """Where the finished file is kept."""
        return self._folder(results) / f"{self.id}.parquet"

    def parts(self, results: Path) -> Path:
        """Where finished blocks are kept meanwhile."""
        return self._folder(results) / "parts" / self.id

    def _folder(self, results: Path) -> Path:
        return results / self.dataset / "records" / "latent"


@dataclass(frozen=True, eq=False)
class PairFile:
    """One file.

    Args:
        cell: what it depends on.
        rows: one per pair, ascending.
        metadata: see the module.
    """

    cell: PairCell
    rows: pd.DataFrame
    metadata: Mapping[str, Any]


def write(path: Path, found: PairFile) -> None:
    """Keep one file, whole or absent.

    Raises:
        OSError: it can't be written.
    """
    rows = found.rows[list(COLUMNS[found.cell.step])]
    parquet.write(path, rows, {**found.metadata, **asdict(found.cell)})


def load(path: Path) -> PairFile:
    """One file as it was written.

    Raises:
        FileNotFoundError: it is missing.
        OSError: it is damaged, or not what its name says.
    """
    rows, metadata = parquet.read(path)
    try:
        values = {field.name: metadata[field.name] for field in fields(PairCell)}
        cell = PairCell(**{**values, "step": Step(values["step"])})
        rows = rows[list(COLUMNS[cell.step])]
    except (ValueError, KeyError) as error:
        raise parquet.damaged(path) from error
    if cell.id not in (path.stem, path.parent.name):
        raise parquet.damaged(path)
    return PairFile(cell, rows, metadata)
