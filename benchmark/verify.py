"""Judge stored adversarial examples again, with fresh seeds: ``python -m benchmark.verify``."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from attacks.threat import Norm
from benchmark import catalog, examples, groups, records, seeding, statistics
from benchmark.cells import CLEAN, Cell
from benchmark.command import command
from benchmark.datasets import Dataset
from benchmark.judge import Ints, Outcomes, ask, nobody, valid
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.records import Outcome
from benchmark.shelf import REGISTERED, Shelf
from benchmark.work import calm
from benchmark.workers import available_device
from defenses.base import Defense

ALPHA = 0.01
DISAGREES = 1


@dataclass(frozen=True, eq=False)
class Recount:
    """One cell at one epsilon, judged again.

    Args:
        samples: (n,) indices into the test split.
        recorded: (n,) outcomes in the record.
        found: (n,) outcomes now.
        stochastic: the defense draws new seeds, so some flips are chance.
    """

    cell: Cell
    epsilon: float
    samples: Ints
    recorded: Outcomes
    found: Outcomes
    stochastic: bool

    @property
    def flipped(self) -> list[int]:
        """Samples whose outcome differs."""
        return [int(sample) for sample in self.samples[self.recorded != self.found]]

    @property
    def p_value(self) -> float:
        """Of the change in accuracy: exact McNemar; any flip of a deterministic defense is 0."""
        if not self.stochastic:
            return 0.0 if self.flipped else 1.0
        was, now = self.recorded == Outcome.CORRECT, self.found == Outcome.CORRECT
        return statistics.exact(int((was & ~now).sum()), int((now & ~was).sum()))

    def accuracy(self, outcomes: Outcomes) -> float:
        """Share of CORRECT."""
        return float(np.mean(outcomes == Outcome.CORRECT))


def recount(
    path: Path, dataset: Dataset, defense: Defense, device: str, repetition: int = 0
) -> Iterator[Recount]:
    """Judge every stored point of one record again.

    Args:
        path: the record of an attack.
        defense: the deployed one, on the device.
        repetition: another number brings other fresh seeds.

    Raises:
        OSError: the record or the examples are missing or damaged.
    """
    frame, metadata = records.load(path)
    cell = records.cell_of(metadata)
    rng = seeding.for_verification(cell, repetition)
    blocks = []
    for block in examples.blocks(cell, dataset.test.images):
        x = torch.from_numpy(block.images).to(device)
        y = torch.from_numpy(dataset.test.labels[block.samples]).to(device)
        for epsilon, points in zip(cell.epsilons, block.points, strict=True):
            point = torch.from_numpy(points).to(device)
            inside = valid(x, point, Norm(cell.norm), epsilon)
            rows = torch.from_numpy(np.flatnonzero(inside)).to(device)
            verdict = nobody(len(x), Outcome.INVALID)
            verdict.put(inside, ask(defense, point[rows], y[rows], rng, cell.votes))
            blocks.append(
                pd.DataFrame(
                    {"epsilon": epsilon, "sample": block.samples, "found": verdict.outcome}
                )
            )
    both = frame.merge(pd.concat(blocks), on=["epsilon", "sample"], validate="one_to_one")
    for epsilon in cell.epsilons:
        here = both[both["epsilon"] == epsilon]
        yield Recount(
            cell,
            epsilon,
            here["sample"].to_numpy(),
            here["outcome"].map(Outcome).to_numpy(dtype=object),
            here["found"].to_numpy(dtype=object),
            defense.stochastic,
        )


def run(
    *,
    dataset: Annotated[str, typer.Option(help="Data set whose records are judged again.")],
    preset: Annotated[str, typer.Option(help="Only records of this preset.")] = "",
    defense: Annotated[
        list[str] | None, typer.Option(help="Only these, comma separated or repeated.")
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Only these, comma separated or repeated.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    repetition: Annotated[int, typer.Option(help="Another number, other fresh seeds.")] = 0,
) -> int:
    """Judge stored adversarial examples again with fresh seeds, without attacking again.

    Exit code 1 where an accuracy differs from its record by more than chance: for a deterministic
    defense any difference, for a stochastic one Holm-adjusted McNemar tests at 0.01.
    """
    chosen = [
        path
        for group in groups.find(
            results / dataset / "records",
            preset=preset,
            defenses=catalog.split_names(defense or ()),
            attacks=catalog.split_names(attack or ()),
        ).groups
        for path in group.records
    ]
    with Progress() as progress:
        found = list(
            recounts(
                chosen,
                dataset,
                device=available_device(device),
                repetition=repetition,
                progress=progress,
            )
        )
    if not found:
        raise ValueError(f"records of {dataset} must hold an attack to verify, got none")
    lines, disagree = report(found)
    print("\n".join(lines))
    return DISAGREES if disagree else 0


def recounts(
    paths: Sequence[Path],
    dataset: str,
    *,
    device: str,
    repetition: int,
    progress: Progress,
    shelf: Shelf = REGISTERED,
) -> Iterator[Recount]:
    """Every attack's record, epsilon by epsilon; clean, failed and inapplicable ones are passed.

    Raises:
        ValueError: data or weights are not those of the record.
        OSError: examples are missing or damaged.
    """
    data = catalog.lookup("data set", dataset, shelf.sources).load()
    bar = progress.start("judge again", len(paths))
    for path in paths:
        metadata = records.provenance(path)
        cell = records.cell_of(metadata)
        bar.advance(0, cell.title)
        if cell.attack != CLEAN and not metadata["not_applicable"] and not metadata["error"]:
            preset = catalog.lookup("preset", metadata["preset"], PRESETS)
            armed = shelf.arm(data, cell.defense, preset, device, progress)
            present = (data.digest, armed.repr, armed.digest)
            if present != (cell.dataset_digest, cell.defense_repr, cell.weights_digest):
                raise ValueError(
                    f"data and weights of {cell.title} must be those of record {path}, got others; "
                    "name records that can be verified with --defense and --attack"
                )
            with calm():
                yield from recount(path, data, armed.load(device), device, repetition)
        bar.advance(1)
    bar.finish()


def report(found: Sequence[Recount]) -> tuple[list[str], bool]:
    """One line per recount, and whether any accuracy differs by more than chance."""
    adjusted = statistics.holm([one.p_value for one in found])
    lines = [
        f"{one.cell.title}, epsilon {one.epsilon:g}: accuracy {one.accuracy(one.recorded):.1%} "
        f"recorded, {one.accuracy(one.found):.1%} now, "
        + (f"samples {', '.join(map(str, one.flipped))} flip" if one.flipped else "no sample flips")
        + (" (more than chance)" if p < ALPHA else "")
        for one, p in zip(found, adjusted, strict=True)
    ]
    return lines, any(p < ALPHA for p in adjusted)


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
