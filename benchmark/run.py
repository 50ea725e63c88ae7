"""Measure defenses under attacks: ``python -m benchmark.run --dataset digits --attack all_l2``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from attacks.threat import Norm
from benchmark import catalog, overrides, records, tables
from benchmark.command import command
from benchmark.datasets import DATASETS, Source
from benchmark.presets import PRESETS, Preset
from benchmark.progress import Progress
from benchmark.runner import Plan, sweep
from benchmark.workers import BACKENDS

DEFAULT_DEFENSES = ("cnn", "adv_linf", "adv_l2", "abs", "eabs")
DEFAULT_ATTACKS = ("all_linf", "all_l2")


def run(
    *,
    dataset: Annotated[str, typer.Option(help="Data set.")] = "digits",
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help="Defenses, comma separated or repeated; my_module:build is your own.",
            show_default=",".join(DEFAULT_DEFENSES),
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="Attacks or suites, comma separated or repeated; 'pgd-l2\\[steps=100]@classifier' "
            "sets a field and a surrogate, my_module:MyAttack is your own.",
            show_default=",".join(DEFAULT_ATTACKS),
        ),
    ] = None,
    epsilons: Annotated[
        str | None,
        typer.Option(
            help="Radii such as 0.5,1,1.5 or 8/255, for every norm that has any.",
            show_default="the data set's curve; tables show its main radius",
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            help="Share of clean held-out images that rejecting defenses accept.",
            show_default="the paper's thresholds",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="What the defenses that protect a classifier protect: a defense's name, "
            "timm:<model>, torchvision:<model>, robustbench:<model> or my_module:build.",
            show_default="each defense's own",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Test images.", show_default="the preset's")
    ] = None,
    seed: Annotated[int, typer.Option(help="Root of all seeds.")] = 0,
    preset: Annotated[str, typer.Option(help=f"Budgets: {', '.join(PRESETS)}.")] = "quick",
    jobs: Annotated[
        int | None, typer.Option(help="Processes.", show_default="one per core; 1 on cuda")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    results: Annotated[Path, typer.Option(help="Folder for records and tables.")] = Path("results"),
    backend: Annotated[str, typer.Option(help=f"{' or '.join(BACKENDS)}.")] = "loky",
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler, such as tcp://host:8786.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show data sets, defenses, attacks, suites, presets.")
    ] = False,
) -> None:
    """Measure defenses under attacks and print accuracy tables.

    Finished cells are kept: the same command after an interruption goes on where it stopped.
    """
    if list_:
        print(catalog.listing(), end="")
        return
    source = catalog.lookup("data set", dataset, DATASETS)
    defenses = catalog.split_names(defense or DEFAULT_DEFENSES)
    if coverage is not None:
        defenses = overrides.with_coverage(defenses, coverage)
    if classifier is not None:
        defenses = overrides.with_classifier(defenses, classifier)
    attacks = catalog.split_names(attack or DEFAULT_ATTACKS)
    catalog.require_aware_suites(attacks, defenses)
    chosen = catalog.lookup("preset", preset, PRESETS)
    plan = Plan(
        dataset=dataset,
        defenses=defenses,
        attacks=catalog.expand(attacks),
        preset=chosen,
        epsilons=_for_every_norm(numbers(epsilons)) if epsilons else _sweep(source, chosen),
        samples=samples,
        seed=seed,
    )
    for name in plan.defenses:
        catalog.recipe_for(name, plan.preset, dataset)
    with Progress() as progress:
        paths = sweep(
            plan,
            results=results,
            jobs=jobs,
            device=device,
            backend=backend,
            scheduler=scheduler,
            progress=progress,
        )
    title = f"Robust accuracy on {dataset}, preset {preset}"
    shown = None if epsilons else {str(norm): own for norm, own in source.epsilons.items()}
    tables.show(paths, title, epsilons=shown)
    for path in tables.write(paths, results / dataset, _stem(plan), title, epsilons=shown):
        print(f"wrote {path}")
    print(f"wrote {len(paths)} records in {paths[0].parent}")
    require_success(paths)


def _sweep(source: Source, preset: Preset) -> dict[Norm, tuple[float, ...]]:
    """The radii of a run without ``--epsilons``: see `Preset.every`."""
    return {
        norm: tuple(
            radius
            for place, radius in enumerate(curve, start=1)
            if place % preset.every == 0 or radius in source.epsilons[norm]
        )
        for norm, curve in source.curve.items()
    }


def numbers(text: str) -> tuple[float, ...]:
    """Comma-separated numbers; fractions such as 8/255 are welcome.

    Raises:
        ValueError: something else.
    """
    try:
        return tuple(_number(part.strip()) for part in text.split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"epsilons must be numbers separated by commas, got {text!r}; "
            "for example 0.5,1,1.5 or 8/255"
        ) from error


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(numerator)


def _for_every_norm(radii: tuple[float, ...]) -> dict[Norm, tuple[float, ...]]:
    """The radii for each norm that has any; numbers of pixels are those that are whole.

    Where none is, the data set's own number of pixels stays.
    """
    given = {norm: radii for norm in Norm if norm is not Norm.UNRESTRICTED}
    pixels = tuple(radius for radius in radii if radius.is_integer())
    return {norm: own for norm, own in {**given, Norm.L0: pixels}.items() if own}


def _stem(plan: Plan) -> str:
    """The tables' file name: the preset, and what differs from its defaults."""
    samples = "" if plan.samples is None else f"-n{plan.samples}"
    return f"accuracy-{plan.preset.name}{samples}" + (f"-seed{plan.seed}" if plan.seed else "")


def require_success(paths: Sequence[Path]) -> None:
    """Raise the first cell's error, if there is one.

    Raises:
        ValueError: some cells failed; the next run computes them again.
    """
    known = [records.provenance(path) for path in paths]
    failed = [metadata for metadata in known if metadata["error"] is not None]
    if failed:
        cell = records.cell_of(failed[0]).title
        reason = failed[0]["error"].splitlines()[-1]
        raise ValueError(
            f"{len(failed)} of {len(paths)} cells failed, first {cell}: {reason}; the record's "
            "metadata holds the traceback, and the same command tries them again"
        )


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
