"""Certificates beside attacks: ``python -m benchmark.certify --dataset mnist --defense eabs``.

A certificate is a lower bound on the distance of every adversarial example, an attack's best point
an upper bound. A certificate above an attack is a defect of one of the two, and is reported.
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

from benchmark import catalog, records
from benchmark.cells import Cell
from benchmark.command import command
from benchmark.datasets import DATASETS, Dataset
from benchmark.datasets.base import Indices, test_sample
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.records import Outcome
from benchmark.shelf import REGISTERED, Armed
from benchmark.storage import keep
from benchmark.work import calm
from benchmark.workers import available_device
from defenses.base import Certifies
from defenses.randomness import generator, seed_from

_AT_ONCE = 500  # every call decodes all candidates anew
_EXPLANATION = (
    "The radius is the corrected Eq. 7 of E-ABS, per sample, for exact inference. It is an "
    "estimate and no proof: the distance to another class's images is found by search, which can "
    "only overestimate it."
)


def certify(
    dataset: Dataset, armed: Armed, index: Indices, *, seed: int, progress: Progress, device: str
) -> pd.DataFrame:
    """Radii of some test samples.

    Returns: columns defense, sample, label, certificate (L2, pixel units).

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
        }
    )


def smallest_attacks(folder: Path, armed: Armed, seed: int) -> pd.Series:
    """The smallest L2 distance at which any recorded attack broke each sample, by sample.

    Samples that the deployed defense got wrong without any attack are left out.

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
    if not paths:
        return pd.Series(dtype=float)
    frame = records.read(paths)
    right_at_first = (frame["clean_class"] == frame["label"]) & ~frame["clean_rejected"]
    broken = frame[right_at_first & (frame["outcome"] == Outcome.WRONG)]
    return broken.groupby("sample")["distance_l2"].min()


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
) -> None:
    """Estimate certified radii and hold them against the attacks in the records."""
    data = catalog.lookup("data set", dataset, DATASETS).load()
    chosen = catalog.lookup("preset", preset, PRESETS)
    count = min(chosen.samples, len(data.test)) if samples is None else samples
    index = np.sort(test_sample(data, count, seed))
    frames, armed = [], {}
    device = available_device(device)
    with Progress() as progress, calm():
        for name in catalog.split_names(defense or ("abs", "eabs")):
            armed[name] = REGISTERED.arm(data, name, chosen, device, progress)
            frame = certify(data, armed[name], index, seed=seed, progress=progress, device=device)
            attacks = smallest_attacks(results / dataset / "records", armed[name], seed)
            frames.append(frame.assign(attack=frame["sample"].map(attacks)))
    frame = pd.concat(frames, ignore_index=True)
    radius = data.task.epsilon_l2
    written = write(frame, results / dataset, f"certificate-{preset}", _title(data, preset), radius)
    print(written[0].read_text())
    for path in written:
        print(f"wrote {path}")


def write(
    frame: pd.DataFrame, folder: Path, stem: str, title: str, radius: float
) -> Sequence[Path]:
    """A summary by defense (Markdown) and the radii by sample (CSV).

    Args:
        frame: of `certify`, with the column ``attack``: smallest attack distance or NaN.
        radius: the table's L2 epsilon.
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
    markdown, by_sample = folder / f"{stem}.md", folder / f"{stem}.csv"
    keep(markdown, f"# {title}\n\n{table}\n\n{_EXPLANATION}\n".encode())
    keep(by_sample, frame.to_csv(index=False).encode())
    return markdown, by_sample


def _title(dataset: Dataset, preset: str) -> str:
    caveat = f" ({dataset.caveat})" if dataset.caveat else ""
    return f"Estimated certified L2 radii on {dataset.name}{caveat}, preset {preset}"


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
