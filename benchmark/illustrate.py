"""Pictures that need the data set, stored adversarial examples or the defense itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmark import examples, figures, grids, maps, records
from benchmark.accuracy import ball_name
from benchmark.artefact import Shown
from benchmark.cells import CLEAN, Cell
from benchmark.datasets import Dataset, Source
from benchmark.grids import Image, Picture
from benchmark.maps import Panel
from benchmark.presets import Preset
from benchmark.records import Outcome
from benchmark.shelf import REGISTERED
from benchmark.work import calm
from defenses.base import Decodes, Defense, Explains, Generates
from defenses.randomness import generator, seed_from

MOST_CLASSES = 10
SAMPLES_PER_CLASS = 10
_AT_ONCE = 250


@dataclass(frozen=True)
class Illustration:
    """Where pictures come from and where they go.

    Args:
        source: of the images.
        preset: of the defenses that are shown.
        folder: where the files go.
        stem: their names begin with it.
        title: above each picture.
    """

    source: Source
    preset: Preset
    folder: Path
    stem: str
    title: str

    def attacked(self, paths: Sequence[Path]) -> list[Path]:
        """Images above adversarial examples and their difference, at each attack's last epsilon.

        ``<stem>-examples`` per record of an attack, numbered from the second on; failed ones have
        none.

        Raises:
            OSError: records or adversarial examples are missing or damaged.
        """
        return self._grids(paths, None)

    def reconstructed(self, paths: Sequence[Path]) -> list[Path]:
        """The same with the defense's reconstruction, scores and verdict below each example.

        Raises:
            ValueError: a defense that holds no reconstruction.
            OSError: as `attacked`.
        """
        return self._grids(paths, self.preset)

    def generated(self, defenses: Sequence[str]) -> list[Path]:
        """``<stem>-samples-<defense>``: images that each defense generates, a row per class.

        Raises:
            ValueError: a defense that generates nothing.
        """
        dataset = self.source.load()
        written = []
        for name in defenses:
            defense = _armed(dataset, name, self.preset)
            if not isinstance(defense, Generates):
                raise ValueError(f"defenses must generate images, got {name}; name others")
            count = min(MOST_CLASSES, len(dataset.classes))
            classes = torch.arange(count).repeat_interleave(SAMPLES_PER_CLASS)
            with calm():
                images = defense.generate(classes, generator(seed_from("samples", name))).numpy()
            rows = np.split(images, count)
            samples = {dataset.classes[k]: list(row) for k, row in enumerate(rows)}
            figure = grids.draw_samples(samples, f"{self.title}\n{name}")
            written += figures.save(figure, self.folder, f"{self.stem}-samples-{name}")
        return written

    def farthest(self, paths: Sequence[Path]) -> list[Path]:
        """The successes that moved farthest in L2, farthest first; raises as `attacked`."""
        return self._grids(paths, None, grids.farthest)

    def mapped(self, paths: Sequence[Path], shows: Sequence[Shown]) -> list[Path]:
        """``<stem>-map-<what>``: clean images and each attack at its last epsilon in a plane.

        Args:
            paths: records; where they are of several defenses, each has its own maps, with its
                name in the files'.
            shows: what is mapped; one map each.

        Raises:
            ValueError: a defense that has no reconstruction or latents to show; too few samples.
            OSError: as `attacked`.
        """
        dataset = self.source.load()
        of_defense: dict[str, list[Panel]] = {}
        for path in paths:
            frame, metadata = records.load(path)
            if not metadata["error"] and not metadata["not_applicable"]:
                panel = _panel(frame, records.cell_of(metadata), dataset)
                of_defense.setdefault(metadata["defense"], []).append(panel)
        written = []
        for name, panels in of_defense.items():
            for shown in shows:
                view = _view(dataset, name, self.preset, shown)
                seen = [replace(panel, points=view(panel.points)) for panel in panels]
                stem = f"{self.stem}-map-{shown}" + (f"-{name}" if len(of_defense) > 1 else "")
                title = f"{self.title}\n{shown} of {name}"
                written += maps.write(seen, dataset.classes, self.folder, stem, title)
        return written

    def _grids(
        self,
        paths: Sequence[Path],
        preset: Preset | None,
        choose: Callable[[pd.DataFrame], pd.DataFrame] = grids.choose,
    ) -> list[Path]:
        dataset = self.source.load()
        written: list[Path] = []
        for path in paths:
            frame, metadata = records.load(path)
            if metadata["attack"] == CLEAN or metadata["error"] or metadata["not_applicable"]:
                continue
            cell = records.cell_of(metadata)
            epsilon = cell.epsilons[-1]
            chosen = choose(frame[frame["epsilon"] == epsilon])
            if not chosen.empty:
                pictures = _pictures(cell, chosen, dataset, preset)
                place = len(written) // 2
                stem = f"{self.stem}-examples{f'-{place + 1}' if place else ''}"
                limit = ball_name(cell.norm, epsilon, before_radius=" at most ")
                title = f"{self.title}\n{cell.title}, {limit}"
                written += grids.write(pictures, self.folder, stem, title)
        return written


def _pictures(
    cell: Cell, chosen: pd.DataFrame, dataset: Dataset, preset: Preset | None
) -> list[Picture]:
    wanted = set(chosen["sample"])
    points = {
        int(sample): (block.images[i], block.points[-1, i])
        for block in examples.blocks(cell, dataset.test.images)
        for i, sample in enumerate(block.samples)
        if int(sample) in wanted
    }
    distance = f"distance_{cell.norm}"
    if distance not in chosen:  # of a norm that measures nothing
        distance = "distance_l2"
    rows = chosen.to_dict("records")
    pairs = [points[int(row["sample"])] for row in rows]
    said = [
        (
            dataset.classes[int(row["label"])],
            dataset.classes[int(row["adversarial_class"])],
            Outcome(row["outcome"]),
            float(row[distance]),
        )
        for row in rows
    ]
    if preset is None:
        return [
            Picture(*pair, grids.caption(*words)) for pair, words in zip(pairs, said, strict=True)
        ]
    stacked = np.stack([adversarial for _, adversarial in pairs])
    images, scores = _explained(_armed(dataset, cell.defense, preset), cell, stacked)
    return [
        Picture(*pair, grids.verdict(*words, own), image)
        for pair, words, own, image in zip(pairs, said, scores, images, strict=True)
    ]


def _explained(
    defense: Defense, cell: Cell, stacked: Image
) -> tuple[list[Image], list[dict[str, float]]]:
    """Reconstructions and scores of images (n, C, H, W)."""
    if not isinstance(defense, Explains):
        raise ValueError(f"defenses must hold reconstructions, got {cell.defense}; name others")
    x = torch.from_numpy(stacked)
    rng = generator(seed_from("explain", cell.id))
    with calm():
        images = defense.explain(x, rng).numpy()
        decided = defense.decide(x, rng).scores
    scores = [{name: float(of[i]) for name, of in decided.items()} for i in range(len(x))]
    return list(images), scores


def _panel(frame: pd.DataFrame, cell: Cell, dataset: Dataset) -> Panel:
    """What a record is about, as images; a clean record about the images themselves."""
    if cell.attack == CLEAN:
        name, samples = "clean", frame["sample"].to_numpy()
        points = dataset.test.images[samples].astype(np.float32) / np.float32(255)
    else:
        label = cell.attack + (f"@{cell.surrogate}" if cell.surrogate else "")
        name = f"{label}\n{ball_name(cell.norm, cell.epsilons[-1], before_radius=' at most ')}"
        blocks = list(examples.blocks(cell, dataset.test.images))
        samples = np.concatenate([block.samples for block in blocks])
        points = np.concatenate([block.points[-1] for block in blocks])
    rows = frame[frame["epsilon"] == cell.epsilons[-1]].set_index("sample").loc[samples]
    return Panel(
        name, points, samples, rows["label"].to_numpy(), rows["adversarial_class"].to_numpy()
    )


def _view(dataset: Dataset, name: str, preset: Preset, shown: Shown) -> Callable[[Image], Image]:
    """What the defense makes of images (n, C, H, W)."""
    if shown is Shown.INPUTS:
        return lambda points: points
    defense = _armed(dataset, name, preset)
    if shown is Shown.LATENTS:
        if not isinstance(defense, Decodes):
            raise ValueError(f"defenses must have latents, got {name}; name others")
        return lambda points: in_parts(defense.encode, points)
    if not isinstance(defense, Explains):
        raise ValueError(f"defenses must hold reconstructions, got {name}; name others")
    rng = generator(seed_from("map", name))
    return lambda points: in_parts(lambda x: defense.explain(x, rng), points)


def in_parts(function: Callable[[Tensor], Tensor], points: Image) -> Image:
    """A function of images (n, C, H, W), on one thread and a part of them at a time."""
    with calm(), torch.no_grad():
        parts = torch.from_numpy(points).split(_AT_ONCE)
        return torch.cat([function(part) for part in parts]).numpy()


def _armed(dataset: Dataset, name: str, preset: Preset) -> Defense:
    """The trained defense in this process, on the CPU."""
    return REGISTERED.defense(dataset, name, preset)
