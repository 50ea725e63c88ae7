"""What defenses make of images before and after an attack: grids, distances, latents.

Only images that an attack was given are shown: those that the attacked defense gets right when
clean. Each record is shown at its last epsilon.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import confidence_grid, examples, grids, histograms, records, scatter
from benchmark.accuracy import ball_name
from benchmark.agreement import OBLIVIOUS
from benchmark.cells import CLEAN
from benchmark.confidence_grid import Row
from benchmark.datasets import Dataset
from benchmark.grids import Image
from benchmark.histograms import Moved
from benchmark.illustrate import Illustration, in_parts
from benchmark.maps import Panel
from benchmark.records import Outcome
from benchmark.shelf import REGISTERED
from defenses.base import Decodes, Defense, Explains
from defenses.randomness import generator, seed_from

Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Attacked:
    """The images that one attack on one defense was given.

    Args:
        defense: its name.
        attack: with the view and, below, the ball.
        rows: of the record, one per image.
        clean, adversarial: (n, C, H, W) in [0, 1], in the order of the rows.
    """

    defense: str
    attack: str
    rows: pd.DataFrame
    clean: Image
    adversarial: Image

    def choose(self) -> "Attacked":
        """At most a row of a grid: broken images first, one of each class before a second."""
        chosen = grids.choose(self.rows)
        places = self.rows.index.get_indexer(chosen.index)
        return Attacked(
            self.defense, self.attack, chosen, self.clean[places], self.adversarial[places]
        )


@dataclass(frozen=True, eq=False)
class Rebuilder:
    """A defense that reconstructs images.

    Args:
        name: as in the records.
        defense, explains: the same defense.
    """

    name: str
    defense: Defense
    explains: Explains

    def rebuilt(self, images: Image) -> Image:
        """What it makes of images (n, C, H, W), by the same seed at every call."""
        rng = generator(seed_from("projection", self.name))
        return in_parts(lambda x: self.explains.explain(x, rng), images)

    def confidences(self, images: Image, labels: Labels) -> Image:
        """(n,) the probability that the classifier inside it gives to the labels (n,).

        Raises:
            ValueError: it shows no classifier inside.
        """
        if OBLIVIOUS not in self.defense.surrogate_names:
            raise ValueError(
                f"defenses must show the classifier inside as {OBLIVIOUS!r}, got {self.name}; "
                "name others"
            )
        alone = self.defense.surrogate(OBLIVIOUS, generator(0))
        shares = in_parts(lambda x: alone(x)[0].softmax(dim=1), images)
        return np.take_along_axis(shares, labels[:, None], axis=1)[:, 0]

    def row(self, name: str, images: Image, labels: Labels) -> Row:
        """What it makes of images, with confidences in their labels."""
        remade = self.rebuilt(images)
        return Row(f"{name},\n{self.name}", remade, self.confidences(remade, labels))


def attacked(paths: Sequence[Path], dataset: Dataset) -> Iterator[Attacked]:
    """The attacked images of every record that has some.

    Raises:
        OSError: records or adversarial examples are missing or damaged.
    """
    for path in paths:
        frame, metadata = records.load(path)
        if metadata["attack"] == CLEAN or metadata["error"] or metadata["not_applicable"]:
            continue
        cell = records.cell_of(metadata)
        blocks = list(examples.blocks(cell, dataset.test.images))
        samples = np.concatenate([block.samples for block in blocks])
        last = frame[frame["epsilon"] == cell.epsilons[-1]].set_index("sample").loc[samples]
        given = (last["clean_class"] == last["label"]) & ~last["clean_rejected"]
        given &= ~last["outcome"].isin([Outcome.INVALID, Outcome.ERROR])
        if not given.any():
            continue
        kept = given.to_numpy()
        view = f"@{cell.surrogate}" if cell.surrogate else ""
        ball = ball_name(cell.norm, cell.epsilons[-1], before_radius=" at most ")
        yield Attacked(
            cell.defense,
            f"{cell.attack}{view}\n{ball}",
            last[given].reset_index(),
            np.concatenate([block.images for block in blocks])[kept],
            np.concatenate([block.points[-1] for block in blocks])[kept],
        )


def compared(show: Illustration, paths: Sequence[Path]) -> list[Path]:
    """``<stem>-projections``: a grid per attack, as it is on the first defense that it attacked.

    Its rows are the images, what every defense of the records that reconstructs makes of them, the
    attacked images, and what becomes of those.

    Raises:
        ValueError: no defense reconstructs, or one shows no classifier inside.
        OSError: as `attacked`.
    """
    dataset = show.source.load()
    rebuilders = _rebuilders(show, dataset, paths)
    written: list[Path] = []
    shown: set[str] = set()
    for found in attacked(paths, dataset):
        if found.attack in shown:
            continue
        shown.add(found.attack)
        chosen = found.choose()
        labels = chosen.rows["label"].to_numpy()
        rows = []
        for name, images in (("image", chosen.clean), ("attacked", chosen.adversarial)):
            rows.append(Row(name, images, rebuilders[0].confidences(images, labels)))
            rows += [each.row(name, images, labels) for each in rebuilders]
        captions = [dataset.classes[int(label)] for label in labels]
        stem = f"{show.stem}-projections{f'-{len(shown)}' if len(shown) > 1 else ''}"
        title = (
            f"{show.title}\n{', '.join(found.attack.splitlines())}, on {found.defense}; "
            "in the corners the classifier's confidence in the label"
        )
        written += confidence_grid.write(rows, captions, show.folder, stem, title)
    return written


def measured(show: Illustration, paths: Sequence[Path]) -> list[Path]:
    """``<stem>-distances``: how far each defense moves the images of each attack on it.

    Raises:
        ValueError: no defense reconstructs, or none was attacked.
        OSError: as `attacked`.
    """
    dataset = show.source.load()
    rebuilders = {each.name: each for each in _rebuilders(show, dataset, paths)}
    moved = [
        Moved(
            found.defense,
            found.attack,
            found.rows["sample"].to_numpy(),
            *(
                np.linalg.norm(
                    (rebuilders[found.defense].rebuilt(x) - x).reshape(len(x), -1), axis=1
                )
                for x in (found.clean, found.adversarial)
            ),
        )
        for found in attacked(paths, dataset)
        if found.defense in rebuilders
    ]
    return histograms.write(moved, show.folder, show.stem, show.title)


def scattered(show: Illustration, paths: Sequence[Path]) -> list[Path]:
    """``<stem>-scatter``: where each defense encodes its images, clean and attacked.

    Where several were attacked their names are in the files'. Those without latents are left out.

    Raises:
        ValueError: none has latents, or some have another dimension than two.
        OSError: as `attacked`.
    """
    dataset = show.source.load()
    of_defense: dict[str, list[Attacked]] = {}
    for found in attacked(paths, dataset):
        of_defense.setdefault(found.defense, []).append(found)
    written: list[Path] = []
    for name, defense in _armed(show, dataset, paths).items():
        if not isinstance(defense, Decodes) or name not in of_defense:
            continue
        first = of_defense[name][0]
        panels = [
            _panel("clean", first, in_parts(defense.encode, first.clean)),
            *(
                _panel(found.attack, found, in_parts(defense.encode, found.adversarial))
                for found in of_defense[name]
            ),
        ]
        stem = f"{show.stem}-scatter{f'-{name}' if len(of_defense) > 1 else ''}"
        title = f"{show.title}\nlatents of {name}"
        written += scatter.write(panels, dataset.classes, show.folder, stem, title)
    if not written:
        raise ValueError(
            f"defenses must have latents and be attacked, got {', '.join(_names(paths))}; "
            "name others"
        )
    return written


def _panel(name: str, found: Attacked, points: Image) -> Panel:
    """Latents with the classes of what they are of."""
    predicted = "clean_class" if name == "clean" else "adversarial_class"
    samples, labels, predictions = (
        found.rows[column].to_numpy() for column in ("sample", "label", predicted)
    )
    return Panel(name, points, samples, labels, predictions)


def _names(paths: Sequence[Path]) -> list[str]:
    """The defenses of the records, in their order."""
    return list(dict.fromkeys(str(records.provenance(path)["defense"]) for path in paths))


def _armed(show: Illustration, dataset: Dataset, paths: Sequence[Path]) -> dict[str, Defense]:
    """These, trained, in this process and on the CPU."""
    return {name: REGISTERED.defense(dataset, name, show.preset) for name in _names(paths)}


def _rebuilders(show: Illustration, dataset: Dataset, paths: Sequence[Path]) -> list[Rebuilder]:
    """Those among them that reconstruct images."""
    found = [
        Rebuilder(name, defense, defense)
        for name, defense in _armed(show, dataset, paths).items()
        if isinstance(defense, Explains)
    ]
    if not found:
        raise ValueError(
            f"defenses must hold reconstructions, got {', '.join(_names(paths))}; name others"
        )
    return found
