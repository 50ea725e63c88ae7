"""Regenerate one published table or figure: ``python -m benchmark.reproduce e-abs-table-4``.

What is measured stands in the artefact's file (`benchmark.artefact`), how much is spent on it in
the preset. The files are ``results/<dataset>/<artefact>-<preset>.*``, beside the published numbers.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from attacks.threat import Norm
from benchmark import (
    artefact,
    catalog,
    latent_report,
    overrides,
    projections,
    protocols,
    published,
    rates,
    scores,
    sheet,
    tables,
)
from benchmark.accuracy import Counterpart
from benchmark.artefact import Artefact, Kind
from benchmark.command import command
from benchmark.datasets import DATASETS, Source
from benchmark.illustrate import Illustration
from benchmark.overpowered import Flags
from benchmark.presets import PRESETS, Preset
from benchmark.progress import Progress
from benchmark.run import require_success
from benchmark.runner import Plan, sweep
from benchmark.shelf import REGISTERED
from benchmark.storage import keep
from benchmark.transmutation import INDEPENDENT, Independent
from benchmark.weights import plain
from benchmark.workers import Workers

_SWEPT = (Kind.CURVE, Kind.RATES)


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
        """Radii in the table: all, but of a sweep those that `accuracy.choose_radii` chooses."""
        if self.artefact.kind in _SWEPT:
            return {}
        return {str(norm): tuple(radii) for norm, radii in self.plan.epsilons.items()}


def prepare(
    wanted: Artefact,
    preset: Preset,
    source: Source,
    *,
    samples: int | None = None,
    seed: int = 0,
    classifier: str = "",
) -> Reproduction:
    """Plan an artefact.

    Args:
        preset: ``paper`` runs the artefact's own sample number and attack fields; other presets
            have their own, except for the field that names the rows.
        source: its own data set, or one that takes its place, with the epsilons that the artefact
            has for it, or else its own.
        samples: test images; None as above.
        seed: root of all seeds.
        classifier: what the artefact's defenses protect in place of their own, and what is then
            undefended; published numbers that are not of it stand beside none of ours.
    """
    substituted = source.name != wanted.dataset
    radii = _radii(wanted, source) if substituted else wanted.epsilons
    specs = wanted.attacks_at(preset.name)
    channels = source.task.shape[0]
    stated = published.stated_fields(wanted.paper, wanted.table)
    labels = {
        catalog.parse_attack(ours, preset, channels)[0]: catalog.parse_attack(
            artefact.with_fields(theirs, stated), preset, channels
        )[0]
        for ours, theirs in specs.items()
    }
    counterpart = Counterpart((wanted.paper, wanted.table), labels)
    title = f"{wanted.source}: {wanted.title}, preset {preset.name}"
    if substituted:
        title += f"; on {source.name} instead of {wanted.dataset}"
        bounded = any(isfinite(radius) for values in radii.values() for radius in values)
        whose = "epsilons for" if source.name in wanted.substitutes else "the epsilons of"
        title += f", with {whose} {source.name}" if bounded else ""
    if samples is None and preset.name == "paper":
        samples = wanted.samples
    defenses = wanted.defenses
    protected = classifier or ("" if substituted else wanted.classifier)
    if protected:
        defenses = overrides.around_classifier(defenses, protected)
    if classifier:
        title += f"; the defenses protect {classifier}"
    parts = [wanted.name, preset.name, *([plain(classifier)] if classifier else [])]
    parts += [f"n{samples}"] if samples not in (None, wanted.samples) else []
    parts += [f"seed{seed}"] if seed else []
    plan = Plan(
        dataset=source.name,
        defenses=defenses,
        attacks=tuple(specs),
        preset=preset,
        epsilons={Norm(norm): values for norm, values in radii.items()},
        samples=samples,
        seed=seed,
    )
    return Reproduction(wanted, title, "-".join(parts), plan, counterpart)


def transmuted(made: Reproduction, paths: Sequence[Path], source: Source) -> Flags | None:
    """Which pairs left their class, where the artefact counts them.

    Raises:
        ValueError, OSError: as `Independent.flags`.
    """
    if made.artefact.kind is not Kind.OVERPOWERED:
        return None
    dataset = source.load()
    defense = REGISTERED.defense(dataset, INDEPENDENT, made.plan.preset)
    return Independent(INDEPENDENT, defense).flags(paths, dataset)


def report(
    made: Reproduction,
    paths: Sequence[Path],
    source: Source,
    folder: Path,
    flags: Flags | None = None,
) -> list[Path]:
    """Write an artefact's files from the records of its plan.

    Args:
        flags: of `transmuted`; also written, as ``<stem>-transmuted.csv``.

    Raises:
        ValueError, OSError: as `tables.write`; adversarial examples of a grid are missing, or a
            defense cannot show what the artefact shows.
    """
    pictures = _pictures(made, paths, source, folder)
    written = tables.write(
        paths,
        folder,
        made.stem,
        made.title,
        epsilons=made.table_epsilons,
        row_by=made.artefact.row_by,
        counterpart=made.counterpart,
        pictures=pictures,
        flags=flags,
    )
    if flags is not None:
        written.append(folder / f"{made.stem}-transmuted.csv")
        keep(written[-1], flags.pairs.to_csv(index=False, lineterminator="\n").encode())
    return [*written, *pictures]


def run(
    name: Annotated[str, typer.Argument(help="Artefact, such as e-abs-table-4.")] = "",
    *,
    preset: Annotated[str, typer.Option(help=f"Budgets: {', '.join(PRESETS)}.")] = "quick",
    dataset: Annotated[
        str, typer.Option(help="Another data set in place of the artefact's own.")
    ] = "",
    classifier: Annotated[
        str, typer.Option(help="Another classifier for the defenses that protect one.")
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
    made = prepare(wanted, budgets, source, samples=samples, seed=seed, classifier=classifier)
    print(made.title)
    if made.artefact.kind in latent_report.KINDS:
        _show_latent(made, source, Workers.of(jobs, device), results)
        return
    with Progress() as progress:
        paths = sweep(made.plan, results=results, jobs=jobs, device=device, progress=progress)
    flags = transmuted(made, paths, source)
    written = report(made, paths, source, results / source.name, flags)
    tables.show(
        paths,
        made.title,
        epsilons=made.table_epsilons,
        row_by=wanted.row_by,
        counterpart=made.counterpart,
        flags=flags,
    )
    for path in written:
        print(f"wrote {path}")
    require_success(paths)


def _show_latent(made: Reproduction, source: Source, workers: Workers, results: Path) -> None:
    """Write and print what an artefact says about pairs of latents."""
    wanted = latent_report.Wanted(
        made.artefact.kind, made.title, made.stem, made.counterpart.table, made.plan, source
    )
    with Progress() as progress:
        written = latent_report.write(wanted, workers, results, progress)
    if written.table is not None:
        Console().print(sheet.terminal(written.table))
    for path in written.files:
        print(f"wrote {path}")


def listing() -> str:
    """Every artefact with one line."""
    known = [artefact.load(name) for name in artefact.names()]
    width = max(len(each.name) for each in known)
    return "".join(
        f"{each.name:<{width}}  {each.kind}, {each.dataset}: {each.title}\n" for each in known
    )


def _radii(wanted: Artefact, source: Source) -> dict[str, tuple[float, ...]]:
    """Epsilons for a substitute: the artefact's, or its own, for the artefact's norms."""
    if source.name in wanted.substitutes:
        return dict(wanted.substitutes[source.name])
    own = source.curve if wanted.kind in (*_SWEPT, Kind.PROTOCOLS) else source.epsilons
    return {norm: tuple(own[Norm(norm)]) for norm in wanted.epsilons}


def _pictures(
    made: Reproduction, paths: Sequence[Path], source: Source, folder: Path
) -> list[Path]:
    """What the artefact's kind shows besides the table."""
    show = Illustration(source, made.plan.preset, folder, made.stem, made.title)
    pictures: list[Path] = []
    match made.artefact.kind:
        case Kind.GRID:
            pictures = show.attacked(paths)
        case Kind.RECONSTRUCTIONS:
            pictures = show.reconstructed(paths)
        case Kind.SAMPLES:
            pictures = show.generated(made.plan.defenses)
        case Kind.RATES:
            pictures = rates.write(scores.read(paths), folder, made.stem, made.title)
        case Kind.PROTOCOLS:
            pictures = protocols.write(scores.read(paths), folder, made.stem, made.title)
        case Kind.PROJECTIONS:
            pictures = projections.compared(show, paths)
        case Kind.DISTANCES:
            pictures = projections.measured(show, paths)
        case Kind.SCATTER:
            pictures = projections.scattered(show, paths)
        case Kind.MAP:
            pictures = show.mapped(paths, made.artefact.shows)
        case Kind.PAIRS:
            pictures = show.farthest(paths)
        case _:
            pass
    return pictures


main = command(run)

if __name__ == "__main__":
    sys.exit(main(None))
