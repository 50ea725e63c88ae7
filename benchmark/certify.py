"""Certificates beside attacks: ``python -m benchmark.certify --dataset mnist --defense eabs``.

A certificate is a lower bound on the distance of every adversarial example, an attack's best point
an upper bound. A certificate above an attack is a defect of one of the two, and is reported.

    results/<dataset>/certificate-<preset>.md, .csv            summary; radius and attack by sample
    results/<dataset>/certificate-<preset>-bounds.csv, .png, .svg    both as accuracies (`bounds`)

``--redraw`` makes them again from the radii in the CSV and the attacks on record, without a model.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from tabulate import tabulate

from benchmark import bounds, bounds_figure, catalog, records
from benchmark.cells import Cell
from benchmark.command import command
from benchmark.datasets import DATASETS, Dataset
from benchmark.datasets.base import Indices, test_sample
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.shelf import REGISTERED, Armed
from benchmark.storage import keep
from benchmark.work import calm
from benchmark.workers import available_device
from defenses.base import Certifies
from defenses.randomness import generator, seed_from

_AT_ONCE = 500  # every call decodes all candidates anew
_MOST_NAMED = 8
_EXPLANATION = (
    "The radius is the corrected Eq. 7 of E-ABS, per sample, for exact inference. It is an "
    "estimate and no proof: the distance to another class's images is found by search, which can "
    "only overestimate it."
)

_BOUNDS = (
    "The robust accuracy at a radius is at least the share of samples certified beyond it, as far "
    "as the estimate holds, and at most the share that no attack on record broke within it. The "
    "shaded region between the two is unknown. The attacks were aimed at the radii of their runs: "
    "where the upper curve falls in a step at one of these, others may lower it before."
)


def certify(
    dataset: Dataset, armed: Armed, index: Indices, *, seed: int, progress: Progress, device: str
) -> pd.DataFrame:
    """Radii of some test samples.

    Returns: columns defense, sample, label, certificate (L2, pixel units), weights.

    Raises:
        ValueError: the defense has no certificate.
    """
    defense = armed.load(device)
    if not isinstance(defense, Certifies):
        raise ValueError(
            f"defense must have a certificate, got {armed.name!r}; abs, eabs and their ablations do"
        )
    bar = progress.start(f"certify {armed.name}", len(index))
    radii = []
    for part in np.split(index, range(_AT_ONCE, len(index), _AT_ONCE)):
        batch = dataset.test.batch(part, device)
        rng = generator(seed_from(seed, "certificate", dataset.name, armed.name))
        radii.append(defense.certificate(batch.x, batch.y, rng).cpu())
        bar.advance(len(part))
    bar.finish()
    return pd.DataFrame(
        {
            "defense": armed.name,
            "sample": index,
            "label": dataset.test.labels[index],
            "certificate": torch.cat(radii).numpy().round(records.DISTANCE_DECIMALS),
            "weights": armed.digest[: bounds.WEIGHTS_DIGITS],
        }
    )


def attacks_on(folder: Path, armed: Armed, seed: int) -> list[Path]:
    """The record files of a defense.

    Args:
        folder: the data set's records.
        armed: attacks on other weights or another budget of inference don't count.
    """
    paths = []
    for path in sorted(folder.glob("*.parquet")):
        cell: Cell = records.cell_of(records.provenance(path))
        own = (cell.defense, cell.weights_digest, cell.defense_repr, cell.seed)
        if own == (armed.name, armed.digest, armed.repr, seed):
            paths.append(path)
    return paths


def run(
    *,
    dataset: Annotated[str, typer.Option(help="Data set.")] = "digits",
    defense: Annotated[
        list[str] | None,
        typer.Option(help="Defenses, comma separated or repeated.", show_default="abs,eabs"),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Test images.", show_default="the preset's")
    ] = None,
    seed: Annotated[int, typer.Option(help="Root of all seeds.")] = 0,
    preset: Annotated[str, typer.Option(help=f"Budgets: {', '.join(PRESETS)}.")] = "quick",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    results: Annotated[Path, typer.Option(help="Folder of records and tables.")] = Path("results"),
    redraw: Annotated[
        bool, typer.Option(help="Keep the radii of an earlier run, read the attacks again.")
    ] = False,
) -> None:
    """Estimate certified radii and hold them against the attacks in the records."""
    if redraw and (defense or samples is not None):
        raise ValueError(
            "--redraw must stand without --defense and --samples, got one of them; it keeps the "
            "defenses and samples of the earlier run"
        )
    data = catalog.lookup("data set", dataset, DATASETS).load()
    chosen = catalog.lookup("preset", preset, PRESETS)
    folder, stem = results / dataset, f"certificate-{preset}"
    if redraw:
        earlier = bounds.load(folder / f"{stem}.csv")
        frame = bounds.again(earlier, folder / "records", preset=preset, seed=seed)
    else:
        count = min(chosen.samples, len(data.test)) if samples is None else samples
        index = np.sort(test_sample(data, count, seed))
        frames = []
        device = available_device(device)
        with Progress() as progress, calm():
            for name in catalog.split_names(defense or ("abs", "eabs")):
                armed = REGISTERED.arm(data, name, chosen, device, progress)
                radii = certify(data, armed, index, seed=seed, progress=progress, device=device)
                attacks = attacks_on(folder / "records", armed, seed)
                frames.append(bounds.with_attacks(radii, bounds.attacked(attacks)))
        frame = pd.concat(frames, ignore_index=True)
    others = bounds.uncertified(frame, folder / "records", preset=preset, seed=seed)
    title, radius = _title(data, preset), data.task.epsilon_l2
    written = write(frame, folder, stem, title, radius=radius, others=others)
    print(written[0].read_text())
    for path in written:
        print(f"wrote {path}")


def write(
    frame: pd.DataFrame,
    folder: Path,
    stem: str,
    title: str,
    *,
    radius: float,
    others: Sequence[str] = (),
) -> Sequence[Path]:
    """A summary by defense (Markdown), the radii by sample (CSV), and the picture of the bounds.

    Args:
        frame: with `bounds.COLUMNS`.
        radius: the table's L2 epsilon.
        others: defenses on record that have no certified radii.
    """
    rows = []
    for name, own in frame.groupby("defense", sort=False):
        attacked = own["attack"].notna()
        rows.append(
            {
                "defense": name,
                "samples": len(own),
                "median radius": own["certificate"].median(),
                "largest radius": own["certificate"].max(),
                f"certified at {radius:g}": f"{(own['certificate'] >= radius).mean():.1%}",
                "samples broken by an attack": int(attacked.sum()),
                "median attack distance": own["attack"].median(),
                "certificate above attack": int((own["certificate"] > own["attack"]).sum()),
            }
        )
    table = tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3f")
    drawn = bounds_figure.write(frame, folder, stem, title)
    images = [f"![{path.name}]({path.name})" for path in drawn if path.suffix == ".svg"]
    picture = ["## Bounds", _BOUNDS, *images] if images else []
    parts = [f"# {title}", table, _EXPLANATION, *picture, _left_out(frame, others)]
    markdown, by_sample = folder / f"{stem}.md", folder / f"{stem}.csv"
    keep(markdown, ("\n\n".join(part for part in parts if part) + "\n").encode())
    keep(by_sample, frame.to_csv(index=False).encode())
    return markdown, by_sample, *drawn


def _left_out(frame: pd.DataFrame, others: Sequence[str]) -> str:
    """Which defenses the picture does not show, and why."""
    parts = []
    unanswered = set(frame["defense"]) - set(bounds.known(frame)["defense"])
    if unanswered:
        parts.append(
            f"Not in the picture, for want of records: {', '.join(sorted(unanswered))}; run the "
            "benchmark on them first."
        )
    if others:
        shown = (
            ", ".join(others)
            if len(others) <= _MOST_NAMED
            else f"the {len(others)} other defenses on record"
        )
        parts.append(
            f"Left out: {shown}. Without a certificate the lower bound is 0 at every radius, and "
            "all that is below the attacked accuracy is unknown."
        )
    return " ".join(parts)


def _title(dataset: Dataset, preset: str) -> str:
    caveat = f" ({dataset.caveat})" if dataset.caveat else ""
    return f"Estimated certified L2 radii on {dataset.name}{caveat}, preset {preset}"


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
