"""What a sweep takes from the shelf: data sets, attacks, and trained defenses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from attacks import ATTACKS
from attacks.base import Attack
from benchmark import catalog, history, train
from benchmark.datasets import DATASETS, Dataset, Source
from benchmark.presets import Preset
from benchmark.progress import Progress
from benchmark.weights import Stored
from benchmark.work import Load
from defenses.base import Defense, Recipe


@dataclass(frozen=True)
class Armed:
    """A trained defense as the runner sees it.

    Args:
        name: registered name.
        repr: its recipe with every field.
        digest: hash of its weights.
        load: makes it, in any process.
        reference: registered name of the bare classifier that it contains; empty for none.
        counts: what its paper counts under attacks on that classifier; see `Counts`.
        losses: how its training went (`benchmark.history`); None for nothing trained.
    """

    name: str
    repr: str
    digest: str
    load: Load
    reference: str = ""
    counts: str = ""
    losses: Path | None = None

    @cached_property
    def example(self) -> Defense:
        """The defense in this process, on the CPU, to see what it offers."""
        return self.load("cpu")


@dataclass(frozen=True)
class Shelf:
    """Where a sweep finds what its plan names.

    Args:
        sources: data sets by name.
        attacks: by name.
        arm: finds or trains a defense: (data set, name, preset, device, progress) -> `Armed`.
    """

    sources: Mapping[str, Source]
    attacks: Mapping[str, Attack]
    arm: Callable[[Dataset, str, Preset, str, Progress], Armed]

    def defense(self, dataset: Dataset, name: str, preset: Preset) -> Defense:
        """A trained defense in this process, on the CPU."""
        with Progress(silent=True) as progress:
            return self.arm(dataset, name, preset, "cpu", progress).load("cpu")


def arm_registered(
    dataset: Dataset, name: str, preset: Preset, device: str, progress: Progress
) -> Armed:
    """A registered defense, trained now unless its weights are stored."""
    recipe = catalog.recipe_for(name, preset, dataset.name)
    stored = train.ensure(dataset, name, preset, device=device, progress=progress)
    load = Stored(stored, recipe, dataset.task)
    reference = _reference(recipe)
    counts = str(recipe.counts) if reference else ""
    losses = history.path_beside(stored.path)
    return Armed(name, repr(recipe), stored.digest, load, reference, counts, losses)


def _reference(recipe: Recipe) -> str:
    """Who answers in the end: the wrapped classifier, or the substitute put in its place."""
    wrapped = recipe.wraps()
    found = wrapped.get("answered_by", wrapped.get("classifier"))
    return found.name if found else ""


REGISTERED = Shelf(DATASETS, ATTACKS, arm_registered)
