"""A small page with everything on it: two defenses, one of which can reject, and kept points."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import examples, groups, records
from benchmark.examples import Examples
from benchmark.report import page
from benchmark.report.gallery import Pool
from benchmark.report.page import Sources
from tests.synthetic_records import letters, write_cell

NASTY = "<img src=x onerror=alert(1)>"
DIGEST = "d" * 32
SAMPLES = 10


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SAMPLES, 1, 8, 8), dtype=np.uint8)


def _keep_points(path: Path) -> None:
    """Points of one cell, each a little brighter than its image, with the distance recorded."""
    frame, metadata = records.load(path)
    frame["distance_l2"] = 0.5
    records.write(path, pd.DataFrame(frame), metadata)
    cell = records.cell_of(metadata)
    clean = images().astype(np.float32) / np.float32(255)
    points = np.stack([np.clip(clean + 0.1 * (i + 1), 0, 1) for i in range(len(cell.epsilons))])
    block = Examples(np.arange(SAMPLES), clean, points.astype(np.float32))
    examples.store(examples.examples_folder(cell), 0, block)


def render(results: Path, *, pool: bool = True) -> str:
    """The page of records written into a folder; points go into $BENCH_CACHE."""
    cheap = {"forward": 9, "backward": 0, "decoder": 0}
    described = {"dataset_caveat": NASTY, "cost": cheap}
    write_cell(results, "cnn", "clean", letters(9, 1), metadata=described)
    attacked = write_cell(
        results, "cnn", "pgd-linf", {0.1: letters(9, 1), 0.2: letters(5, 5), 0.3: letters(1, 9)}
    )
    _keep_points(attacked)
    write_cell(
        results, "gmvae", "clean", letters(8, 1, 1), scores=[0.1 * (i + 1) for i in range(SAMPLES)]
    )
    sweep = {0.1: letters(8, 1, 1), 0.2: letters(6, 2, 2), 0.3: letters(4, 4, 2)}
    scored = [0.1 * (i + 1) for i in range(SAMPLES)]
    write_cell(results, "gmvae", "pgd-linf", sweep, scores=scored)
    found = groups.find(results / "mnist" / "records")
    shown = Pool(images(), tuple(map(str, range(10))), DIGEST) if pool else None
    return page.render(found, "mnist", Sources(results / "mnist", shown))
