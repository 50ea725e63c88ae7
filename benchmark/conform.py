"""Check a defense or an attack of your own: ``python -m benchmark.conform my_module:build``.

One line per promise of `benchmark.contracts`: passed, FAILED with what to do, or why it does not
apply. The exit status is 1 if any failed.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
import torch
import typer
from torch import Generator, Tensor, nn

from benchmark import catalog
from benchmark.attack_contracts import ATTACK_CHECKS, AttackTrial, budgets
from benchmark.command import command, sentence
from benchmark.contracts import DEFENSE_CHECKS, DefenseTrial, Finding, NotApplicable
from benchmark.datasets import DATASETS
from benchmark.datasets.base import Batch, Dataset, test_sample
from benchmark.presets import PRESETS
from benchmark.work import calm
from defenses.base import Defense, Recipe, Task
from defenses.cnn import FeedForward
from defenses.foreign import Foreign
from defenses.randomness import generator

IMAGES = 20
_FAULTS = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, AssertionError, OSError),
)
"""What somebody's code may raise inside a check: a finding, no fault of the check."""

Trial = TypeVar("Trial")


@dataclass(frozen=True)
class Built:
    """Loads a defense as its recipe builds it, without training."""

    recipe: Recipe
    task: Task

    def __call__(self, device: str) -> Defense:
        """The defense in evaluation mode, frozen, on the device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            defense = self.recipe.build(self.task)
        return defense.to(device).eval().requires_grad_(False)


def findings(
    checks: Mapping[str, Callable[[Trial], Finding]], trial: Trial
) -> Iterator[tuple[str, Finding]]:
    """What each check finds; an error inside one is what it finds."""
    for name, check in checks.items():
        try:
            yield name, check(trial)
        except _FAULTS as error:
            yield name, f"no error must be raised, got {type(error).__name__}: {sentence(error)}"


def of_defense(name: str, dataset: Dataset) -> Iterator[tuple[str, Finding]]:
    """Every promise of a defense, on test images of a data set.

    Args:
        name: a defense's specification.

    Raises:
        LookupError, ValueError: no such defense.
    """
    recipe = catalog.recipe_for(name, PRESETS["quick"], dataset.name)
    load = Built(recipe, dataset.task)
    try:
        load("cpu")
    except _FAULTS as error:
        yield "is built for the data set", sentence(error)
        return
    batch = _images(dataset)
    # What is registered stands here untrained, so that labels say nothing about it.
    y = batch.y if isinstance(recipe, Foreign) else None
    yield from findings(DEFENSE_CHECKS, DefenseTrial(load, batch.x, y))


def of_attack(spec: str, dataset: Dataset) -> Iterator[tuple[str, Finding]]:
    """Every promise of an attack, against an undefended linear network on a data set's images.

    Raises:
        LookupError, ValueError: no such attack.
    """
    _, attack = catalog.parse_attack(spec, None, dataset.task.shape[0])
    defense = linear(dataset.task)
    needed = attack.needs(defense)
    if needed is not None:
        yield from ((name, NotApplicable(needed)) for name in ATTACK_CHECKS)
        return
    radii = budgets(attack.norm, dataset.task.shape)
    # Rounded images at the box's edge hide what a candidate outside the box would show.
    x = 0.1 + 0.8 * _images(dataset).x
    yield from findings(ATTACK_CHECKS, AttackTrial(attack, defense, x, radii))


def linear(task: Task) -> FeedForward:
    """An undefended network, logits = W x + b with random W and equal logits at mid-grey."""
    return FeedForward(_Linear(task, generator(0)), task.num_classes).eval()


class _Linear(nn.Module):
    """Sums that do not depend, to the last bit, on how many images stand beside each other."""

    def __init__(self, task: Task, rng: Generator) -> None:
        super().__init__()
        size = int(np.prod(task.shape))
        weight = torch.randn((task.num_classes, size), generator=rng) / size**0.5
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(-weight.sum(dim=1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] * self.weight).sum(dim=2) + self.bias


def _images(dataset: Dataset) -> Batch:
    count = min(IMAGES, len(dataset.test))
    return dataset.test.batch(np.sort(test_sample(dataset, count, 0)))


def run(
    *,
    defense: Annotated[
        str, typer.Argument(help="my_package.my_module:build, or any other defense's name.")
    ] = "",
    attack: Annotated[
        str, typer.Option(help="Check an attack instead, such as my_package.my_module:MyAttack.")
    ] = "",
    dataset: Annotated[str, typer.Option(help="Data set whose test images are shown.")] = "digits",
) -> int:
    """Check what every defense, or every attack, promises; exit status 1 if a promise is broken."""
    if bool(defense) == bool(attack):
        raise ValueError(
            "conform must be given a defense or --attack, got "
            f"{'both' if defense else 'neither'}; for example my_package.my_module:build"
        )
    data = catalog.lookup("data set", dataset, DATASETS).load()
    with calm():
        found = of_defense(defense, data) if defense else of_attack(attack, data)
        failed = 0
        for name, finding in found:
            print(_line(name, finding), flush=True)
            failed += isinstance(finding, str)
    if failed:
        print(f"broken promises: {failed}; mend them before you trust a number")
    return 1 if failed else 0


def _line(name: str, finding: Finding) -> str:
    match finding:
        case None:
            return f"passed          {name}"
        case NotApplicable(reason):
            return f"not applicable  {name}: {reason}"
        case _:
            return f"FAILED          {name}: {finding}"


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
