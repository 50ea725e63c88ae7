"""Probes and self-tests of one sweep: what is missing is made, by the sweep's own workers.

`benchmark.behaviour` and `benchmark.landscape` probe defenses, `benchmark.probed_cells` finished
cells, `benchmark.selftest` attacks. A probe that fails costs a line, never the sweep; the same
command tries it again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from attacks.base import Attack
from attacks.threat import Norm
from benchmark import examples, probes, records
from benchmark.behaviour import Questions, probe_defense
from benchmark.cells import Cell
from benchmark.datasets import Dataset
from benchmark.judge import Verdict
from benchmark.presets import Preset
from benchmark.probed_cells import CellDoubt, probe_cell
from benchmark.probes import CellProbe, DefenseProbe, Share
from benchmark.progress import Progress
from benchmark.records import Outcome
from benchmark.selftest import Trial, plant, self_test, warnings
from benchmark.subjects import Subject
from benchmark.workers import Workers

Probe = TypeVar("Probe", DefenseProbe, CellProbe)


@dataclass(frozen=True, eq=False)
class Probing:
    """What all probes of one sweep share.

    Args:
        main: the data set's main radii, by norm; at one of these a cell is probed.
        results: folder that holds one folder per data set.
        seed: the sweep's.
        answers: the verdicts on the images, from a clean cell's record.
    """

    dataset: Dataset
    preset: Preset
    main: Mapping[Norm, Sequence[float]]
    results: Path
    seed: int
    workers: Workers
    progress: Progress
    answers: Callable[[Cell], Verdict]

    @property
    def folder(self) -> Path:
        """Where records and probes are."""
        return self.results / self.dataset.name / "records"

    def self_tests(self, subjects: Sequence[Subject]) -> dict[str, Mapping[str, Share]]:
        """What each attack whose cells lack probes makes of the planted networks, by its repr.

        A failed one is told at once: the hours that follow would measure nothing.
        """
        attacks = {
            repr(each.attack): (each.cell.title.removeprefix(f"{each.cell.defense}, "), each.attack)
            for each in subjects
            if each.attack is not None and self._lacks(each) and each.not_applicable is None
        }
        if not attacks:
            return {}
        ground = plant(self.dataset, self.seed)
        trials = [Trial(attack, ground, self.seed) for _, attack in attacks.values()]
        bar = self.progress.start("self-tests", len(trials))
        found: dict[str, Mapping[str, Share]] = {}
        for result in self.workers.each(partial(self_test, device=self.workers.device), trials):
            name = repr(result.attack)
            found[name] = result.broken
            for line in warnings(attacks[name][0], result):
                self.progress.print(line)
            bar.advance(1, attacks[name][0])
        bar.finish()
        return found

    def finish(
        self,
        clean: Sequence[Subject],
        attacked: Sequence[Subject],
        tested: Mapping[str, Mapping[str, Share]],
    ) -> None:
        """Make the probes that are missing.

        Args:
            clean, attacked: finished cells.
            tested: see `self_tests`.
        """
        if not self.preset.probed:
            return
        defenses = [each for each in clean if self._unprobed(each) and self._sound(each)]
        cells = [each for each in attacked if self._lacks(each) and self._sound(each)]
        if not defenses and not cells:
            return
        bar = self.progress.start("probes", len(defenses) + len(cells))
        device = self.workers.device
        questions = (self._questions(each) for each in defenses)
        doubts = (
            self._doubt(each, each.attack, each.clean, tested)
            for each in cells
            if each.attack is not None and each.clean is not None
        )
        for found in (
            self.workers.each(partial(_titled, probe_defense, device=device), questions),
            self.workers.each(partial(_titled, probe_cell, device=device), doubts),
        ):
            for title, probe, error in found:
                if probe is not None:
                    probes.write(self.folder, probe)
                else:
                    reason = (error or "").splitlines()[-1]
                    self.progress.print(
                        f"no probe of {title}: {reason}; the same command tries it again"
                    )
                bar.advance(1, title)
        bar.finish()

    def _lacks(self, subject: Subject) -> bool:
        """Probes are wanted, and this cell has none."""
        return self.preset.probed > 0 and probes.of_cell(self.folder, subject.cell.id) is None

    def _unprobed(self, subject: Subject) -> bool:
        cell = subject.cell
        id_ = probes.defense_id(
            cell.defense, cell.defense_repr, cell.weights_digest, cell.dataset_digest, cell.seed
        )
        return probes.of_defense(self.folder, id_) is None

    def _sound(self, subject: Subject) -> bool:
        """There is a number that can be doubted."""
        told = records.provenance(records.record_path(self.results, subject.cell))
        return told["error"] is None and told["not_applicable"] is None

    def _questions(self, subject: Subject) -> Questions:
        first = np.array(subject.cell.samples[: self.preset.probed])
        images = self.dataset.test.take(first)
        return Questions(subject.cell, subject.armed.load, images, self.dataset.task)

    def _doubt(
        self,
        subject: Subject,
        attack: Attack,
        clean: Cell,
        tested: Mapping[str, Mapping[str, Share]],
    ) -> CellDoubt:
        cell = subject.cell
        epsilon = middle(cell.epsilons, self.main.get(attack.norm, ()))
        frame = records.read([records.record_path(self.results, cell)])
        here = frame[frame["epsilon"] == epsilon]
        return CellDoubt(
            cell=cell,
            load=subject.armed.load,
            attack=attack,
            epsilon=epsilon,
            images=self.dataset.test.take(np.array(cell.samples)),
            outcomes=here["outcome"].map(Outcome).to_numpy(dtype=object),
            clean=self.answers(clean),
            points=self._points(subject, epsilon),
            probed=self.preset.probed,
            asked=self.preset.asked,
            block=self.preset.block,
            self_test=tested.get(repr(attack), {}),
        )

    def _points(self, subject: Subject, epsilon: float) -> np.ndarray[Any, Any] | None:
        """(n, C, H, W) the judged points in the order of the samples; None where any is lost."""
        cell = subject.cell
        place = cell.epsilons.index(epsilon)
        try:
            blocks = list(examples.blocks(cell, self.dataset.test.images))
        except OSError:
            return None
        samples = np.concatenate([block.samples for block in blocks])
        points = np.concatenate([block.points[place] for block in blocks])
        return points[np.argsort(samples)]


def middle(epsilons: Sequence[float], main: Sequence[float]) -> float:
    """The radius at which a cell is probed: the middle one of the tables' own, else of all."""
    chosen = sorted(set(epsilons) & set(main)) or sorted(epsilons)
    return chosen[len(chosen) // 2]


def _titled(
    probe: Callable[..., tuple[Probe | None, str | None]], task: Any, device: str
) -> tuple[str, Probe | None, str | None]:
    """The probe of a task, under its title; picklable."""
    found, error = probe(task, device)
    return task.title, found, error
