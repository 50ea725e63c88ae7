"""Stand-ins for pairs of latents: files by hand, and linear classifiers of a linear generator."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from attacks.overpowered_pairs import OverpoweredPairs
from benchmark.datasets import Dataset, Source, Split
from benchmark.latent_cells import PairCell, PairFile, Step
from benchmark.latent_numbers import Answered
from benchmark.presets import Preset
from benchmark.progress import Progress
from benchmark.shelf import Armed, Shelf
from defenses.base import Task
from defenses.projection.descent import Adam
from defenses.projection.inversion import Inversion
from defenses.projection.inverting import Inverting, Views
from tests import fakes
from tests.linear import SHAPE, Linear, random_linear
from tests.manifold import LinearModel

CELL = PairCell(
    step=Step.SEARCH,
    dataset="images",
    dataset_digest="d",
    defense="inc",
    defense_repr="inc()",
    weights_digest="w",
    attack="overpowered-pairs",
    attack_repr="OverpoweredPairs()",
    count=2,
    seed=0,
)
SPENT = {"wall_seconds": 1.0, "cost": {"forward": 1, "backward": 1, "decoder": 1}}


def file_of(step: Step, defense: str = "inc", **columns: Sequence[Any]) -> PairFile:
    """Rows by hand."""
    cell = replace(CELL, step=step, defense=defense, weights_digest=f"weights of {defense}")
    count = len(next(iter(columns.values())))
    arrays = {
        name: [np.asarray(value, dtype=float) for value in column]
        if name in ("kept", "left", "trace")
        else column
        for name, column in columns.items()
    }
    rows = pd.DataFrame({"pair": range(count), **arrays})
    return PairFile(cell, rows, {**SPENT, "clean_images": 50, "clean_correct": 49})


def answered(
    kept: Sequence[Sequence[float]],
    left: Sequence[Sequence[float]],
    mean_square: Sequence[float],
    *,
    runs: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]] | None = None,
    defense: str = "inc",
    found_on: str = "inc",
) -> Answered:
    """Of probabilities and, where it was asked, of the classes of each run."""
    nothing = [[0.0]] * len(mean_square)
    return Answered(
        file_of(
            Step.SEARCH,
            found_on,
            kept=nothing,
            left=nothing,
            mean_square=mean_square,
            trace=nothing,
        ),
        file_of(Step.ANSWERS, defense, kept=np.log(kept), left=np.log(left)),
        runs and file_of(Step.TRANSFER, defense, kept=runs[0], left=runs[1]),
    )


@dataclass(frozen=True)
class Make:
    """A linear classifier, the surer the steeper, behind the linear generator."""

    steepness: float

    def __call__(self, device: str) -> Inverting:
        weight, bias = random_linear(2)
        return Inverting(
            Linear(self.steepness * weight, self.steepness * bias),
            LinearModel(),
            inversion=Inversion(steps=300, descent=Adam(0.1), tolerance=0),
            restarts=1,
            start_std=1.0,
            eta=None,
            views=Views(),
        ).eval()


MADE = {"inc": Make(50.0), "soft": Make(1.0)}


@dataclass(frozen=True, kw_only=True)
class Images(Source):
    """Random images of the linear generator's shape, labelled by the classifiers."""

    name: str = "images"
    summary: str = "random images"
    task: Task = field(default_factory=lambda: replace(fakes.TASK, shape=SHAPE))

    def load(self, folder: Path | None = None) -> Dataset:
        pixels = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)
        x = torch.from_numpy(pixels).float() / 255
        labels = Linear(*random_linear(2)).logits(x).argmax(dim=1).numpy()
        labels[::4] = 1 - labels[::4]  # every fourth is wrong
        split = Split(pixels, labels)
        return Dataset(self.name, ("dark", "bright"), self.task, split, split, split)


ATTACK = OverpoweredPairs(mean_square=1e-4, steps=300, asks=10, margin=1.0, rate=0.05)
TINY = Preset(name="tiny", summary="for tests", samples=12, votes=5, block=4, transfers=3)


def arm(dataset: Dataset, name: str, preset: Preset, device: str, progress: Progress) -> Armed:
    """Nothing to train."""
    return Armed(name, f"{name}()", f"weights of {name}", MADE[name])


SHELF = Shelf({"images": Images()}, {"overpowered-pairs": ATTACK, **fakes.ATTACKS}, arm)
