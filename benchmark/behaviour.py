"""Whether an answer depends on what it must not: the seed, the batch, the order, the device."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from benchmark.cells import Cell
from benchmark.datasets import Split
from benchmark.landscape import Sight, survey
from benchmark.probes import DefenseProbe, Share
from benchmark.seeding import for_probe
from benchmark.work import Load, attempt, calm, loaded, own_device
from defenses.base import Defense, Task
from defenses.randomness import child


class Answers(NamedTuple):
    """Classes (N,) and refusals (N,), on the CPU.

    Logits are left out: their last bits may depend on the batch's size and on the device.
    """

    classes: Tensor
    rejected: Tensor

    def differ(self, other: "Answers") -> Share:
        """In how many images the two disagree."""
        rows = (self.classes != other.classes) | (self.rejected != other.rejected)
        return Share(int(rows.sum()), len(rows))

    def take(self, rows: Tensor) -> "Answers":
        """The answers to some of the images."""
        return Answers(self.classes[rows], self.rejected[rows])


def answers(defense: Defense, x: Tensor, rng: Generator) -> Answers:
    """What the deployed defense says about images, with a fresh copy of the generator."""
    decision = defense.decide(x, child(rng, "answer"))
    return Answers(decision.classes.cpu(), decision.rejected.cpu())


@dataclass(frozen=True, eq=False)
class Questions:
    """One defense and the images that it is asked about, with everything a worker needs.

    Args:
        cell: the defense's clean cell.
        task: of its data set.
    """

    cell: Cell
    load: Load
    images: Split
    task: Task

    @property
    def title(self) -> str:
        """For people."""
        return self.cell.defense


def probe_defense(asked: Questions, device: str) -> tuple[DefenseProbe | None, str | None]:
    """The probe of a defense, or the traceback of why there is none."""
    with calm():
        return attempt(lambda: _probe(asked, own_device(device)))


def _probe(asked: Questions, device: str) -> DefenseProbe:
    cell, defense = asked.cell, loaded(asked.cell, asked.load, device)
    batch = asked.images.batch(torch.arange(len(asked.images)).numpy(), device)
    x, rng = batch.x, for_probe(cell, "answers")
    first = answers(defense, x, rng)
    alone = [answers(defense, x[row : row + 1], rng) for row in range(len(x))]
    backward = torch.arange(len(x)).flip(0)
    devices = Share(0, 0)
    if torch.device(device).type != "cpu":
        devices = first.differ(answers(asked.load("cpu"), x.cpu(), rng))
    land = {
        name: survey(Sight(defense, name, asked.task), x, batch.y, for_probe(cell, "sight", name))
        for name in defense.surrogate_names
    }
    return DefenseProbe(
        defense=cell.defense,
        defense_repr=cell.defense_repr,
        weights_digest=cell.weights_digest,
        dataset_digest=cell.dataset_digest,
        seed=cell.seed,
        stochastic=defense.stochastic,
        repeats=first.differ(answers(defense, x, for_probe(cell, "repeat"))),
        batches=first.differ(Answers(*map(torch.cat, zip(*alone, strict=True)))),
        orders=first.take(backward).differ(answers(defense, x.flip(0), rng)),
        devices=devices,
        refused=Share(int(first.rejected.sum()), len(x)),
        strongest=defense.surrogate_names[0],
        zero_gradients={name: each.zero for name, each in land.items()},
        odd_gradients={name: each.odd for name, each in land.items()},
        flat={name: each.flat for name, each in land.items()},
        jagged={name: each.jagged for name, each in land.items()},
    )
