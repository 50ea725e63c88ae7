"""Our strongest attack beside a peer's AutoAttack-standard: ``python -m tests.peers``.

Needs the extra ``peers`` (or ``pip install --no-deps torchattacks``, which does not need
torchvision for this). Both attack the same images of the same plain networks at one radius; calls
are counted on the network's side, and what an attack returns is judged by asking the network.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import torch
import typer
from tabulate import tabulate
from torch import Tensor, nn
from torchattacks import APGD, APGDT, FAB, MultiAttack, Square

from attacks.threat import Norm
from benchmark import catalog
from benchmark.command import command
from benchmark.datasets import DATASETS
from benchmark.datasets.base import test_sample
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.shelf import REGISTERED
from benchmark.work import calm
from defenses.base import Cost, Defense
from defenses.randomness import generator

_PEER_NORMS = {Norm.LINF: "Linf", Norm.L2: "L2"}

Run = Callable[[Tensor, Tensor], Tensor]


class _Logits(nn.Module):
    """A defense as the peer wants it: a module from pixels to logits."""

    def __init__(self, defense: Defense) -> None:
        super().__init__()
        self.defense = defense

    def forward(self, x: Tensor) -> Tensor:
        logits, _ = self.defense.surrogate(None, generator(0))(x)
        return logits


def run(
    *,
    dataset: Annotated[str, typer.Option(help="data set")] = "mnist",
    defense: Annotated[str, typer.Option(help="deterministic defenses that refuse nothing")] = (
        "cnn,adv_linf,adv_l2"
    ),
    samples: Annotated[int, typer.Option(help="test images")] = 200,
    preset: Annotated[str, typer.Option(help="of our attack, and of the weights")] = "quick",
    budget: Annotated[str, typer.Option(help="preset of our attack; the same without it")] = "",
) -> None:
    """Compare robust accuracy and gradient calls in one run."""
    data = DATASETS[dataset].load()
    index = np.sort(test_sample(data, samples, 0))
    batch = data.test.take(index).batch(np.arange(len(index)), "cpu")
    chosen = PRESETS[budget or preset]
    rows = []
    for name in catalog.split_names([defense]):
        with Progress() as progress:
            armed = REGISTERED.arm(data, name, PRESETS[preset], "cpu", progress)
        target = armed.load("cpu")
        right = target.decide(batch.x, generator(0)).classes == batch.y
        x, y = batch.x[right], batch.y[right]
        for norm, epsilon in ((Norm.LINF, data.task.epsilon_linf), (Norm.L2, data.task.epsilon_l2)):
            _, ours = catalog.parse_attack(f"strongest-{norm}", chosen, x.shape[1])
            theirs = _standard(target, _PEER_NORMS[norm], epsilon)
            peer = _measured(target, theirs, x, y, (norm, epsilon))
            own = partial(_ours, ours, target, epsilon)
            mine = _measured(target, own, x, y, (norm, epsilon))
            share = 100 / len(index)
            rows.append(
                {
                    "defense": name,
                    "ball": f"{norm} {epsilon:g}",
                    "clean": share * int(right.sum()),
                    "AutoAttack": share * peer[0],
                    "strongest": share * mine[0],
                    "gradients AA": peer[1].backward / len(x),
                    "gradients ours": mine[1].backward / len(x),
                    "ratio": mine[1].backward / peer[1].backward,
                    "forward AA": peer[1].forward / len(x),
                    "forward ours": mine[1].forward / len(x),
                }
            )
            print(tabulate(rows[-1:], headers="keys", tablefmt="github", floatfmt=".2f"))
    print(f"\n{samples} images of {dataset}, calls per image attacked, budget {chosen.name}\n")
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f"))


def _standard(target: Defense, norm: str, epsilon: float) -> MultiAttack:
    """AutoAttack-standard (Croce & Hein 2020) with its published budgets.

    The peer's own wrapper takes 10 steps where the paper takes 100.
    """
    model = _Logits(target).eval()  # a model in training mode would be put back into it, dropout on
    common = {"eps": epsilon, "norm": norm, "n_restarts": 1, "seed": 0, "verbose": False}
    return MultiAttack(
        [
            APGD(model, loss="ce", steps=100, **common),
            APGDT(model, n_classes=target.num_classes, steps=100, **common),
            FAB(model, n_classes=target.num_classes, multi_targeted=True, steps=100, **common),
            Square(model, n_queries=5000, **common),
        ]
    )


def _ours(attack: Callable[..., Tensor], target: Defense, epsilon: float, *x_y: Tensor) -> Tensor:
    candidates: Tensor = attack(target, *x_y, (epsilon,), generator(0))
    return candidates[0]


def _measured(
    target: Defense, attack: Run, x: Tensor, y: Tensor, ball: tuple[Norm, float]
) -> tuple[int, Cost]:
    """How many images stand, and what the attack asked of the network."""
    before = target.cost.copy()
    with calm():
        points = attack(x.clone(), y.clone()).detach()
    cost = target.cost - before
    norm, epsilon = ball
    points = norm.project(x, points, epsilon)
    with torch.no_grad():
        standing = target.decide(points, generator(0)).classes == y
    return int(standing.sum()), cost


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
