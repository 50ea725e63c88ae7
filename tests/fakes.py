"""Small stand-ins with known answers: data, defenses and attacks for tests of the harness."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from attacks.bank import Bank
from attacks.base import Attack
from attacks.threat import Norm
from benchmark.datasets import Dataset, Source, Split
from benchmark.presets import Preset
from benchmark.progress import Progress
from benchmark.shelf import Armed, Shelf
from benchmark.work import Load
from defenses.base import (
    Decision,
    Defense,
    Surrogate,
    Task,
    accepts_all,
    never_rejects,
)
from defenses.randomness import noise_like_rows

TASK = Task(
    shape=(1, 2, 2),
    num_classes=2,
    architecture="none",
    noise_std=0.0,
    epsilon_linf=0.1,
    epsilon_l2=0.2,
)
TINY = Preset(name="tiny", summary="for tests", samples=12, votes=5, block=4)


class Brightness(Defense):
    """Class 1 where the mean pixel exceeds 1/2: the L2 distance is 2 |mean - 1/2| for 4 pixels."""

    num_classes = 2
    surrogate_names = ("exact",)

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.logits(x))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.logits(x), never_rejects(x))

    def logits(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


class Noisy(Brightness):
    """Brightness whose logits carry noise of a given size, one draw per image and seed."""

    stochastic = True

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        noise = self.size * noise_like_rows(rng, x, (1,))
        return accepts_all(self.logits(x) + noise * torch.tensor([-1.0, 1.0]))


class Cautious(Brightness):
    """Rejects where the mean pixel is within 0.05 of the boundary."""

    can_reject = True

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        distance = (x.flatten(1).mean(dim=1) - 0.5).abs()
        return Decision(self.logits(x), distance < 0.05, {"boundary": 0.05 / distance})


class Painter(Cautious):
    """Cautious, reconstructing every image by its mean and drawing classes dark and bright."""

    def explain(self, x: Tensor, rng: Generator) -> Tensor:
        return x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x)

    def generate(self, classes: Tensor, rng: Generator) -> Tensor:
        noise = torch.rand((len(classes), *TASK.shape), generator=rng)
        return (noise + classes.reshape(-1, 1, 1, 1)) / 2


class Leveller(Painter):
    """A painter whose latents are the mean pixel and what is missing to 1."""

    def encode(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([mean, 1 - mean], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        return z[:, :1].reshape(-1, 1, 1, 1).expand(-1, *TASK.shape)

    def classify(self, x: Tensor) -> Tensor:
        return self.logits(x)


class Guarded(Leveller):
    """A leveller that shows the classifier inside it, which refuses nothing."""

    surrogate_names = ("exact", "classifier")


class NotANumber(Brightness):
    """Answers NaN for images whose first pixel is above a threshold."""

    def __init__(self, above: float) -> None:
        super().__init__()
        self.above = above

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        logits = self.logits(x)
        return accepts_all(logits.masked_fill(x[:, 0, 0, :1] > self.above, torch.nan))


class Broken(Brightness):
    """Crashes when asked."""

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        raise RuntimeError("the network is gone")


@dataclass(frozen=True, kw_only=True)
class Walk(Attack):
    """Straight through Brightness's boundary, as far as epsilon allows: optimal.

    Args:
        log: a folder in which each call leaves a file; None leaves none.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2, Norm.LINF)
    norm: Norm = Norm.L2
    log: Path | None = field(default=None, repr=False)

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        if self.log is not None:
            (self.log / str(len(list(self.log.iterdir())))).touch()
        sign = torch.where(y == 1, -1.0, 1.0).reshape(-1, 1, 1, 1)
        length = 1.0 if self.norm is Norm.LINF else 0.5
        return torch.stack([(x + sign * length * epsilon).clamp(0, 1) for epsilon in epsilons])


@dataclass(frozen=True, kw_only=True)
class Loud(Walk):
    """A walk that is named after the noise that it would survive."""

    noise_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Crash(Attack):
    """Fails on blocks that hold an image whose first pixel reaches the threshold."""

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2, Norm.LINF)
    norm: Norm = Norm.L2
    threshold: float = 0.0

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        if bool((x[:, 0, 0, 0] >= self.threshold).any()):
            raise RuntimeError("no gradient")
        return x.repeat(len(epsilons), 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Die(Walk):
    """Kills the process it runs in, as the system does when memory runs out."""

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return x


@dataclass(frozen=True, kw_only=True)
class Cheat(Attack):
    """Proposes what no honest attack may.

    Args:
        how: far (outside the ball), box (outside the box), nan, or shape.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2, Norm.LINF)
    norm: Norm = Norm.L2
    how: str = "far"

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        points = x.repeat(len(epsilons), 1, 1, 1, 1)
        match self.how:
            case "far":
                return 1 - points
            case "box":
                return points + 1.001 - points.amax(dim=(2, 3, 4), keepdim=True)
            case "nan":
                return points * torch.nan
            case _:
                return points[:, :-1]


@dataclass(frozen=True, kw_only=True)
class Vandal(Walk):
    """Moves the images themselves, so that its candidates seem to have moved nowhere."""

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        x.copy_(1 - x)
        y.copy_(1 - y)
        return x.repeat(len(epsilons), 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Needy(Walk):
    """Applies to nobody."""

    def needs(self, defense: Defense) -> str | None:
        return "it needs a decoder"


@dataclass(frozen=True, kw_only=True)
class Anywhere(Attack):
    """The image's negative, however far that is."""

    norms: ClassVar[tuple[Norm, ...]] = (Norm.UNRESTRICTED,)
    norm: Norm = Norm.UNRESTRICTED

    def __call__(
        self, defense: Defense, x: Tensor, y: Tensor, epsilons: Sequence[float], rng: Generator
    ) -> Tensor:
        return 1 - x.repeat(len(epsilons), 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Informed(Walk):
    """Takes a bank and makes no use of it."""

    bank: Bank | None = field(default=None, compare=False)

    def informed(self, bank: Bank) -> "Informed":
        return replace(self, bank=bank)


@dataclass(frozen=True, kw_only=True)
class Images(Source):
    """Random images in two classes, most of them clearly dark or bright."""

    name: str = "images"
    summary: str = "random images"
    task: Task = TASK
    count: int = 40

    def load(self, folder: Path | None = None) -> Dataset:
        rng = np.random.default_rng(0)
        split = Split(
            rng.integers(0, 256, (self.count, 1, 2, 2), dtype=np.uint8),
            np.zeros(self.count, dtype=np.int64),
        )
        labels = (split.images.mean(axis=(1, 2, 3)) > 127.5).astype(np.int64)
        labels[::10] = 1 - labels[::10]
        split = Split(split.images, labels)
        return Dataset(self.name, ("dark", "bright"), self.task, split, split, split)


@dataclass(frozen=True)
class Make:
    """Builds a fake defense in any process."""

    kind: type[Defense]
    arguments: tuple[float, ...] = ()

    def __call__(self, device: str) -> Defense:
        return self.kind(*self.arguments).to(device).eval()


DEFENSES: dict[str, Load] = {
    "brightness": Make(Brightness),
    "noisy": Make(Noisy, (0.1,)),
    "cautious": Make(Cautious),
    "painter": Make(Painter),
    "leveller": Make(Leveller),
    "guarded": Make(Guarded),
    "nan": Make(NotANumber, (0.5,)),
    "broken": Make(Broken),
}
ATTACKS: dict[str, Attack] = {
    "walk": Walk(),
    "walk-linf": Walk(norm=Norm.LINF),
    "crash": Crash(),
    "cheat": Cheat(),
    "needy": Needy(),
}


def arm(dataset: Dataset, name: str, preset: Preset, device: str, progress: Progress) -> Armed:
    """Nothing to train."""
    return Armed(name, f"{name}()", f"weights of {name}", DEFENSES[name])


def shelf(**attacks: Attack) -> Shelf:
    """Everything fake, with further attacks; an underscore in a name stands for a hyphen."""
    named = {name.replace("_", "-"): attack for name, attack in attacks.items()}
    return Shelf({"images": Images()}, {**ATTACKS, **named}, arm)
