"""The sweep: every defense under every attack, skipping what an earlier run finished."""

import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attacks.base import Attack
from attacks.threat import Norm
from benchmark import catalog, examples, provenance, records
from benchmark.bank import inform
from benchmark.cells import CLEAN, Cell
from benchmark.datasets import Dataset, test_sample
from benchmark.judge import Verdict
from benchmark.own_attacks import described
from benchmark.presets import Preset
from benchmark.probing import Probing
from benchmark.progress import Progress
from benchmark.records import Outcome
from benchmark.shelf import REGISTERED, Armed, Shelf
from benchmark.sources import equip
from benchmark.storage import require_writable
from benchmark.subjects import Subject
from benchmark.work import Unit
from benchmark.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured.

    Args:
        dataset: a registered name.
        defenses: registered names.
        attacks: specifications (`benchmark.catalog`), suites already expanded.
        preset: all budgets.
        epsilons: radii by norm; a norm that is missing takes the data set's own.
        samples: test images; None takes the preset's number, or all where there are fewer.
        seed: root of every seed, the choice of images included.
    """

    dataset: str
    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    preset: Preset
    epsilons: Mapping[Norm, Sequence[float]] = field(default_factory=dict)
    samples: int | None = None
    seed: int = 0


def sweep(
    plan: Plan,
    *,
    results: Path,
    jobs: int | None = None,
    device: str = "cpu",
    backend: str = "loky",
    scheduler: str | None = None,
    progress: Progress,
    shelf: Shelf = REGISTERED,
) -> list[Path]:
    """Compute what is missing of a plan, and its probes (`benchmark.probing`).

    Args:
        results: folder that holds one folder per data set.
        jobs, device, backend, scheduler: see `benchmark.workers.Workers`.
        progress: shows what runs.
        shelf: where names are looked up.

    Returns: the record files of exactly this plan's cells: of each defense in turn, its clean cell
        and then its attacks in the plan's order.

    Raises:
        LookupError: an unknown name.
        ValueError: no defense; an epsilon, a number of samples or a specification that makes no
            sense.
        OSError: missing or damaged files, an unwritable folder, a full disk; what is finished is
            kept, and the same command goes on from there.
    """
    if not plan.defenses:
        raise ValueError("defenses must name at least one, got none; see --list")
    workers = Workers.of(jobs, device, backend, scheduler)
    source = catalog.lookup("data set", plan.dataset, shelf.sources)
    channels = source.task.shape[0]
    asked = _distinct(
        catalog.parse_attack(spec, plan.preset, channels, shelf.attacks) for spec in plan.attacks
    )
    epsilons = {
        attack.norm: checked_epsilons(
            attack.norm,
            plan.epsilons.get(attack.norm, source.epsilons.get(attack.norm, ())),
            source.task.shape,
        )
        for _, attack in asked
    }
    dataset = source.load()
    wanted = plan.samples
    if wanted is None:
        wanted = min(plan.preset.samples, len(dataset.test))
    samples = np.sort(test_sample(dataset, wanted, plan.seed))
    require_writable(results / plan.dataset / "records")

    @cache
    def trained(name: str) -> Armed:
        return shelf.arm(dataset, name, plan.preset, workers.device, progress)

    attacks = equip(inform(asked, dataset, plan.seed), trained)
    armed = [trained(name) for name in dict.fromkeys(plan.defenses)]
    _require_known_surrogates([attack for _, attack in attacks], armed)
    bench = _Bench(plan, dataset, samples, results, workers, progress)
    clean = [bench.cell(arm, CLEAN) for arm in armed]
    images = [Subject(cell, arm) for cell, arm in zip(clean, armed, strict=True)]
    bench.finish(images, "clean images")
    tasks = [
        Subject(bench.cell(arm, label, attack, epsilons[attack.norm]), arm, attack, answers)
        for arm, answers in zip(armed, clean, strict=True)
        for label, attack in attacks
    ]
    probing = bench.probing(source.epsilons)
    tested = probing.self_tests(tasks)
    bench.finish(tasks, "attacks")
    probing.finish(images, tasks, tested)
    return [
        records.record_path(results, cell)
        for answers in clean
        for cell in (answers, *(task.cell for task in tasks if task.clean is answers))
    ]


def _distinct(attacks: Iterable[tuple[str, Attack]]) -> list[tuple[str, Attack]]:
    """Each label and view once, however often and in whatever spelling it was asked for."""
    return list({(label, attack.view): (label, attack) for label, attack in attacks}.values())


def checked_epsilons(
    norm: Norm, epsilons: Sequence[float], shape: tuple[int, int, int]
) -> tuple[float, ...]:
    """Radii in ascending order, each once; infinite ones only where distances do not count.

    Raises:
        ValueError: none, or one that is not positive, not a number, or larger than the box.
    """
    if not epsilons:
        raise ValueError(f"epsilons must be given for norm {norm}, got none; add --epsilons")
    largest = norm.largest(shape)
    for epsilon in epsilons:
        if not (0 < epsilon <= largest) or (math.isinf(epsilon) and math.isfinite(largest)):
            raise ValueError(
                f"epsilon must be above 0 and at most {largest:g}, the {norm} diagonal of the "
                f"images' box, got {epsilon:g}; pixels are in [0, 1]"
            )
    return tuple(sorted({float(epsilon) for epsilon in epsilons}))


@dataclass(frozen=True, eq=False)
class _Bench:
    """What all cells of one sweep share."""

    plan: Plan
    dataset: Dataset
    samples: np.ndarray[Any, np.dtype[np.int64]]
    results: Path
    workers: Workers
    progress: Progress

    def cell(
        self,
        armed: Armed,
        label: str,
        attack: Attack | None = None,
        epsilons: tuple[float, ...] = (0.0,),
    ) -> Cell:
        """The cell of a defense under an attack, or under none."""
        return Cell(
            dataset=self.dataset.name,
            dataset_digest=self.dataset.digest,
            defense=armed.name,
            defense_repr=armed.repr,
            weights_digest=armed.digest,
            attack=label,
            attack_repr=described(label, attack) if attack else "",
            surrogate=(attack.view.surrogate or "") if attack else "",
            norm=str(attack.norm) if attack else "",
            epsilons=epsilons,
            samples=tuple(int(sample) for sample in self.samples),
            seed=self.plan.seed,
            votes=self.plan.preset.votes,
        )

    def probing(self, main: Mapping[Norm, Sequence[float]]) -> Probing:
        """What is asked beside the accuracy; ``main`` are the data set's main radii."""
        return Probing(
            self.dataset,
            self.plan.preset,
            main,
            self.results,
            self.plan.seed,
            self.workers,
            self.progress,
            self._answers,
        )

    def finish(self, tasks: Sequence[Subject], label: str) -> None:
        """Compute the missing blocks of some cells and merge those that are complete."""
        open_tasks = [task for task in tasks if not self._finished(task.cell)]
        units = [unit for task in open_tasks for unit in self._units(task)]
        missing = Counter(unit.cell.id for unit in units)
        cells = {task.cell.id: task.cell for task in open_tasks}
        for cell in cells.values():
            if cell.id not in missing and records.parts_folder(self.results, cell).exists():
                self._merge(cell)
        if not units:
            return
        bar = self.progress.start(label, sum(len(unit) for unit in units))
        bar.advance(0, units[0].cell.title)
        for cell_id, count in self.workers.run(units, self.results.absolute()):
            bar.advance(count, cells[cell_id].title)
            missing[cell_id] -= 1
            if not missing[cell_id]:
                self._merge(cells[cell_id])
        bar.finish()

    def _finished(self, cell: Cell) -> bool:
        """A record is there and nothing in it failed."""
        path = records.record_path(self.results, cell)
        if not path.exists() or records.provenance(path)["error"] is not None:
            return False
        shutil.rmtree(records.parts_folder(self.results, cell), ignore_errors=True)
        return True

    def _units(self, task: Subject) -> list[Unit]:
        """The blocks of a cell that no earlier run finished."""
        cell = task.cell
        reason = task.not_applicable
        if reason is not None:
            metadata = {**self._origin(task), **_NOTHING, "not_applicable": reason}
            records.write(records.record_path(self.results, cell), records.no_rows(), metadata)
            return []
        done = self._kept_samples(cell)
        places = np.flatnonzero(~np.isin(self.samples, done))
        clean = self._answers(task.clean) if task.clean else None
        size = self.plan.preset.block
        return [
            Unit(
                cell=cell,
                first=int(block[0]),
                load=task.armed.load,
                samples=self.samples[block],
                images=self.dataset.test.take(self.samples[block]),
                origin=self._origin(task),
                points=examples.examples_folder(cell).absolute(),
                attack=task.attack,
                clean=clean.take(block) if clean else None,
            )
            for block in (places[i : i + size] for i in range(0, len(places), size))
        ]

    def _kept_samples(self, cell: Cell) -> list[int]:
        """Samples in the finished blocks of a cell; failed blocks are discarded."""
        done: list[int] = []
        paths = sorted(records.parts_folder(self.results, cell).glob("*.parquet"))
        for path in paths:
            frame, metadata = records.load(path)
            if metadata["error"] is None:
                done += frame["sample"].unique().tolist()
            else:
                path.unlink()
        if not done:
            shutil.rmtree(examples.examples_folder(cell), ignore_errors=True)
        return done

    def _answers(self, clean: Cell) -> Verdict:
        """The verdicts on the images, in the order of the samples."""
        frame = records.read([records.record_path(self.results, clean)])
        return Verdict(
            frame["outcome"].map(Outcome).to_numpy(dtype=object),
            frame["clean_class"].to_numpy(),
            frame["clean_rejected"].to_numpy(),
            frame["wrong_vote_share"].to_numpy(),
            frame["rejection_score"].to_numpy(),
        )

    def _merge(self, cell: Cell) -> None:
        """One record from all parts; where some failed, the parts stay for the next run."""
        folder = records.parts_folder(self.results, cell)
        parts = [records.load(path) for path in sorted(folder.glob("*.parquet"))]
        frame = pd.concat([frame for frame, _ in parts], ignore_index=True)
        known = [metadata for _, metadata in parts]
        errors = [metadata["error"] for metadata in known if metadata["error"] is not None]
        metadata = {
            **known[-1],
            "wall_seconds": sum(entry["wall_seconds"] for entry in known),
            "cost": {
                kind: sum(entry["cost"][kind] for entry in known) for kind in _NOTHING["cost"]
            },
            "calls": [each for entry in known for each in entry.get("calls", [])],
            "error": errors[0] if errors else None,
        }
        records.write(records.record_path(self.results, cell), frame, metadata)
        if not errors:
            shutil.rmtree(folder, ignore_errors=True)

    def _origin(self, task: Subject) -> dict[str, Any]:
        return {
            **records.describe(task.cell),
            **provenance.origin(self.workers.device),
            "dataset_caveat": self.dataset.caveat,
            "preset": self.plan.preset.name,
            "reference": task.armed.reference,
            "counts": task.armed.counts,
        }


_NOTHING: dict[str, Any] = {
    "wall_seconds": 0.0,
    "cost": {"forward": 0, "backward": 0, "decoder": 0},
    "calls": [],
    "not_applicable": None,
    "error": None,
}


def _require_known_surrogates(attacks: Sequence[Attack], armed: Sequence[Armed]) -> None:
    """Every surrogate asked for belongs to some defense of the sweep: a typo is no cell."""
    asked = {attack.view.surrogate for attack in attacks} - {None}
    if asked:
        known = {name: None for arm in armed for name in arm.example.surrogate_names}
        for name in asked:
            catalog.lookup("surrogate", str(name), known)
