"""Pairs of latents, searched on one defense and put to that or another (Jalal et al. 2017, section
4.3): the search, the answers of a bare classifier, and the transfer to the deployed defense.

Each is a file (`benchmark.latent_cells`) that is made once. Searches and transfers are cut into
blocks, which several processes compute; a killed run goes on from there.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attacks.overpowered_pairs import OverpoweredPairs
from benchmark import latent_cells, provenance
from benchmark.datasets import Dataset, test_sample
from benchmark.latent_cells import PairCell, PairFile, Step
from benchmark.latent_numbers import Answered
from benchmark.latent_work import Answers, Indices, Search, Task, Transfer, marks_of
from benchmark.presets import Preset
from benchmark.progress import Progress
from benchmark.shelf import Armed
from benchmark.storage import require_writable
from benchmark.workers import Workers

SEARCHED, ASKED = 50, 10
"""Pairs searched together, and pairs that a defense is asked about together: what a kill costs."""

CLEAN_IMAGES = 10_000
"""Test images at most for the accuracy of a bare classifier: all of MNIST's."""


@dataclass(frozen=True, eq=False)
class Hunt:
    """Searches and questions on one data set; what is there already is read.

    Args:
        dataset: its test images are the clean ones.
        preset: about how many pairs a deployed defense is asked.
        seed: root of all seeds.
        results: folder of the results.
        workers: who computes.
        progress: shows what runs.
    """

    dataset: Dataset
    preset: Preset
    seed: int
    results: Path
    workers: Workers
    progress: Progress

    def search(self, armed: Armed, label: str, attack: OverpoweredPairs, count: int) -> PairFile:
        """So many pairs, one search each, from latents of the prior.

        Raises:
            ValueError: no pair, or a defense without a prior over latents.
            OSError: a damaged file, an unwritable folder, or a worker that died.
        """
        if count < 1:
            raise ValueError(f"samples must be at least 1, got {count}; a share needs pairs")
        cell = replace(
            self._cell(Step.SEARCH, armed), attack=label, attack_repr=repr(attack), count=count
        )
        marks = marks_of(attack.steps)
        tasks = [
            Search(cell, p, armed.load, attack, marks) for p in _blocks(np.arange(count), SEARCHED)
        ]
        return self._finished(cell, tasks, f"pairs on {armed.name}, {label}")

    def ask(self, armed: Armed, source: Armed, searched: PairFile) -> Answered:
        """What a defense's bare classifier says of pairs found on ``source``.

        Raises:
            ValueError, OSError: as `search`.
        """
        cell = replace(self._cell(Step.ANSWERS, armed, searched), count=len(searched.rows))
        count = min(CLEAN_IMAGES, len(self.dataset.test))
        index = np.sort(test_sample(self.dataset, count, self.seed))
        task = Answers(
            cell,
            searched.rows["pair"].to_numpy(),
            armed.load,
            source.load,
            searched.rows,
            self.dataset.test.take(index),
        )
        return Answered(searched, self._finished(cell, [task], f"answers of {armed.name}"))

    def transfer(self, armed: Armed, source: Armed, found: Answered, runs: int) -> Answered:
        """The same, with what the deployed defense says of valid pairs of different classes.

        Args:
            runs: of the defense per image, with fresh seeds; a deterministic one is asked once.

        Raises:
            ValueError, OSError: as `search`.
        """
        count = self.preset.transfers
        cell = replace(
            self._cell(Step.TRANSFER, armed, found.searched),
            count=count,
            runs=runs if armed.example.stochastic else 1,
        )
        chosen = np.flatnonzero(found.valid & found.different)[:count]
        tasks = [
            Transfer(cell, block, armed.load, source.load, found.searched.rows.iloc[block])
            for block in _blocks(chosen, ASKED)
        ]
        label = f"transfer to {armed.name} of pairs on {source.name}"
        return replace(found, transfer=self._finished(cell, tasks, label))

    def _cell(self, step: Step, armed: Armed, searched: PairFile | None = None) -> PairCell:
        return PairCell(
            step=step,
            dataset=self.dataset.name,
            dataset_digest=self.dataset.digest,
            defense=armed.name,
            defense_repr=armed.repr,
            weights_digest=armed.digest,
            attack=searched.cell.attack if searched else "",
            attack_repr=searched.cell.attack_repr if searched else "",
            pairs=searched.cell.id if searched else "",
            count=0,
            seed=self.seed,
        )

    def _finished(self, cell: PairCell, tasks: Sequence[Task], label: str) -> PairFile:
        """The file of a cell, its missing blocks computed now."""
        path, parts = cell.path(self.results), cell.parts(self.results)
        if path.exists():
            return latent_cells.load(path)
        require_writable(parts)
        waiting = [task for task in tasks if not _part(parts, task).exists()]
        bar = self.progress.start(label, sum(len(task.pairs) for task in waiting))
        compute = partial(_compute, device=self.workers.device, parts=parts.absolute())
        alone = replace(self.workers, jobs=1)
        for count in (self.workers if len(waiting) > 1 else alone).each(compute, waiting):
            bar.advance(count)
        bar.finish()
        blocks = [latent_cells.load(_part(parts, task)) for task in tasks]
        latent_cells.write(path, PairFile(cell, _rows(cell, blocks), self._metadata(blocks)))
        shutil.rmtree(parts, ignore_errors=True)
        return latent_cells.load(path)

    def _metadata(self, blocks: Sequence[PairFile]) -> dict[str, Any]:
        """What the blocks say, with seconds and images summed."""
        known = [block.metadata for block in blocks]
        kinds = ("forward", "backward", "decoder")
        return {
            **(known[0] if known else {}),
            **provenance.origin(self.workers.device),
            "dataset_caveat": self.dataset.caveat,
            "preset": self.preset.name,
            "wall_seconds": sum(each["wall_seconds"] for each in known),
            "cost": {kind: sum(each["cost"][kind] for each in known) for kind in kinds},
        }


def _blocks(pairs: Indices, size: int) -> list[Indices]:
    return [pairs[first : first + size] for first in range(0, len(pairs), size)]


def _part(parts: Path, task: Task) -> Path:
    return parts / f"{int(task.pairs[0]):06}.parquet"


def _compute(task: Task, device: str, parts: Path) -> int:
    """Compute one block and keep it; the number of its pairs."""
    latent_cells.write(_part(parts, task), task.compute(device))
    return len(task.pairs)


def _rows(cell: PairCell, blocks: Sequence[PairFile]) -> pd.DataFrame:
    nothing = pd.DataFrame(columns=list(latent_cells.COLUMNS[cell.step]))
    return pd.concat([block.rows for block in blocks] or [nothing], ignore_index=True)
