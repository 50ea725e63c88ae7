"""Regenerate one published table or figure: ``python -m benchmark.reproduce e-abs-table-4``.

What is measured stands in the artefact's file (`benchmark.artefact`), how much is spent on it in
the preset. The files are ``results/<dataset>/<artefact>-<preset>.*``, beside the published numbers.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from attacks.threat import Norm
from benchmark import artefact, catalog, examples, grids, records, tables
from benchmark.accuracy import Counterpart, ball_name
from benchmark.artefact import Artefact, Kind
from benchmark.cells import CLEAN
from benchmark.command import command
from benchmark.datasets import DATASETS, Source
from benchmark.presets import PRESETS, Preset
from benchmark.progress import Progress
from benchmark.records import Outcome
from benchmark.run import require_success
from benchmark.runner import Plan, sweep


@dataclass(frozen=True)
class Reproduction:
    """An artefact on a data set at a preset.

    Args:
        title: of the table; names a substituted data set.
        stem: of the files' names.
        plan: what the runner computes.
        counterpart: where the published numbers are.
    """

    artefact: Artefact
    title: str
    stem: str
    plan: Plan
    counterpart: Counterpart

    @property
    def table_epsilons(self) -> dict[str, tuple[float, ...]]:
        """Radii in the table: all, but of a curve those that `accuracy.choose_radii` chooses."""
        if self.artefact.kind is Kind.CURVE:
            return {}
        return {str(norm): tuple(radii) for norm, radii in self.plan.epsilons.items()}


def prepare(
    wanted: Artefact,
    preset: Preset,
    source: Source,
    *,
    samples: int | None = None,
    seed: int = 0,
) -> Reproduction:
    """Plan an artefact.

    Args:
        preset: ``paper`` runs the artefact's own sample number and attack fields; other presets
            have their own, except for the field that names the rows.
        source: its own data set, or one that takes its place and brings its own epsilons.
        samples: test images; None as above.
        seed: root of all seeds.
    """
    substituted = source.name != wanted.dataset
    radii = _radii(wanted, source) if substituted else wanted.epsilons
    specs = wanted.attacks_at(preset.name)
    channels = source.task.shape[0]
    labels = {
        catalog.parse_attack(ours, preset, channels)[0]: catalog.parse_attack(
            theirs, preset, channels
        )[0]
        for ours, theirs in specs.items()
    }
    counterpart = Counterpart((wanted.paper, wanted.table), labels)
    title = f"{wanted.source}: {wanted.title}, preset {preset.name}"
    if substituted:
        title += (
            f"; on {source.name} instead of {wanted.dataset}, with the epsilons of {source.name}"
        )
    if samples is None and preset.name == "paper":
        samples = wanted.samples
    parts = [wanted.name, preset.name]
    parts += [f"n{samples}"] if samples not in (None, wanted.samples) else []
    parts += [f"seed{seed}"] if seed else []
    plan = Plan(
        dataset=source.name,
        defenses=wanted.defenses,
        attacks=tuple(specs),
        preset=preset,
        epsilons={Norm(norm): values for norm, values in radii.items()},
        samples=samples,
        seed=seed,
    )
    return Reproduction(wanted, title, "-".join(parts), plan, counterpart)


def report(made: Reproduction, paths: Sequence[Path], source: Source, folder: Path) -> list[Path]:
    """Write an artefact's files from the records of its plan.

    Raises:
        ValueError, OSError: as `tables.write`; adversarial examples of a grid are missing.
    """
    pictures = _grid(made, paths, source, folder) if made.artefact.kind is Kind.GRID else []
    written = tables.write(
        paths,
        folder,
        made.stem,
        made.title,
        epsilons=made.table_epsilons,
        row_by=made.artefact.row_by,
        counterpart=made.counterpart,
        pictures=pictures,
    )
    return [*written, *pictures]


def run(
    name: Annotated[str, typer.Argument(help="Artefact, such as e-abs-table-4.")] = "",
    *,
    preset: Annotated[str, typer.Option(help=f"Budgets: {', '.join(PRESETS)}.")] = "quick",
    dataset: Annotated[
        str, typer.Option(help="Another data set in place of the artefact's own.")
    ] = "",
    samples: Annotated[
        int | None, typer.Option(help="Test images.", show_default="the preset's")
    ] = None,
    seed: Annotated[int, typer.Option(help="Root of all seeds.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(help="Processes.", show_default="one per core; 1 on cuda")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    results: Annotated[Path, typer.Option(help="Folder for records and tables.")] = Path("results"),
    list_: Annotated[bool, typer.Option("--list", help="Show the artefacts.")] = False,
) -> None:
    """Measure what a published table or figure shows, and set the published numbers beside ours."""
    if list_:
        print(listing(), end="")
        return
    if not name:
        raise ValueError(
            f"artefact must be named; available: {', '.join(artefact.names())} (see --list)"
        )
    wanted = artefact.load(name)
    source = catalog.lookup("data set", dataset or wanted.dataset, DATASETS)
    budgets = catalog.lookup("preset", preset, PRESETS)
    made = prepare(wanted, budgets, source, samples=samples, seed=seed)
    print(made.title)
    with Progress() as progress:
        paths = sweep(made.plan, results=results, jobs=jobs, device=device, progress=progress)
    written = report(made, paths, source, results / source.name)
    tables.show(
        paths,
        made.title,
        epsilons=made.table_epsilons,
        row_by=wanted.row_by,
        counterpart=made.counterpart,
    )
    for path in written:
        print(f"wrote {path}")
    require_success(paths)


def listing() -> str:
    """Every artefact with one line."""
    known = [artefact.load(name) for name in artefact.names()]
    width = max(len(each.name) for each in known)
    return "".join(
        f"{each.name:<{width}}  {each.kind}, {each.dataset}: {each.title}\n" for each in known
    )


def _radii(wanted: Artefact, source: Source) -> dict[str, tuple[float, ...]]:
    """The substitute's own epsilons, for the artefact's norms."""
    own = source.curve if wanted.kind is Kind.CURVE else source.epsilons
    return {norm: tuple(own[Norm(norm)]) for norm in wanted.epsilons}


def _grid(made: Reproduction, paths: Sequence[Path], source: Source, folder: Path) -> list[Path]:
    """Clean images above their adversarial examples, of the first attack and its last epsilon."""
    attacked = [path for path in paths if records.provenance(path)["attack"] != CLEAN]
    frame, metadata = records.load(attacked[0])
    if metadata["error"]:
        return []
    cell = records.cell_of(metadata)
    epsilon = cell.epsilons[-1]
    dataset = source.load()
    chosen = grids.choose(frame[frame["epsilon"] == epsilon])
    if chosen.empty:
        return []
    distance = f"distance_{cell.norm}"
    if distance not in chosen:  # of a norm that measures nothing
        distance = "distance_l2"
    wanted = set(chosen["sample"])
    points = {
        int(sample): (block.images[i], block.points[-1, i])
        for block in examples.blocks(cell, dataset.test.images)
        for i, sample in enumerate(block.samples)
        if int(sample) in wanted
    }
    pictures = [
        grids.Picture(
            *points[int(row["sample"])],
            grids.caption(
                dataset.classes[int(row["label"])],
                dataset.classes[int(row["adversarial_class"])],
                Outcome(row["outcome"]),
                float(row[distance]),
            ),
        )
        for row in chosen.to_dict("records")
    ]
    ball = ball_name(cell.norm, epsilon, before_radius=" at most ")
    title = f"{made.title}\n{cell.title}, {ball}"
    return grids.write(pictures, folder, f"{made.stem}-examples", title)


main = command(run)

if __name__ == "__main__":
    sys.exit(main(None))
