"""Modules as users write them, outside the project: good ones, and one for each broken promise."""

from pathlib import Path

PLAIN = '''
"""A network on pixels, as anybody has one."""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x):
        return self.layers(x)


def build():
    return Net()


def for_task(task):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, task.num_classes))


def greedy(width, depth):
    return Net()


instance = Net()
number = 3


def nothing():
    return None
'''

GUARDED = '''
"""A Defense of the user's own, which refuses what is nearly empty, and answers with noise."""
from torch import nn

from defenses.base import Decision, Defense
from defenses.randomness import noise_like_rows


class Guard(Defense):
    num_classes = 10
    stochastic = True
    can_reject = True
    surrogate_names = ("noisy",)

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def _logits(self, x, rng):
        return self.network(x + 0.1 * noise_like_rows(rng, x, x.shape[1:]))

    def _margin(self, x):
        return 0.05 - x.flatten(1).mean(dim=1)

    def _decide(self, x, rng):
        return Decision(self._logits(x, rng), self._margin(x) > 0)

    def _surrogate(self, name, rng):
        return lambda x: (self._logits(x, rng), self._margin(x))
'''

BROKEN = '''
"""One fault each."""
import torch
from torch import nn

from defenses.base import Defense, accepts_all, never_rejects


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = linear()


class Random(Base):
    def forward(self, x):
        return self.linear(x + 0.3 * torch.randn_like(x))


class BatchNorm(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def train(self, mode=True):
        return super().train(True)

    def forward(self, x):
        return self.linear(self.norm(x))


class Void(Base):
    def forward(self, x):
        return self.linear(x) * torch.nan


class VoidOnBlack(Base):
    def forward(self, x):
        return self.linear(x / x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1))


class Wide(Base):
    def forward(self, x):
        return torch.cat([self.linear(x), self.linear(x)], dim=1)


class Pair(Base):
    def forward(self, x):
        return self.linear(x), x


class Colour(Base):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 1, 1)

    def forward(self, x):
        return self.linear(self.first(x))


class Rounded(Base):
    def forward(self, x):
        return self.linear((x > 0.5).float() + 0 * x)


class Detached(Base):
    def forward(self, x):
        return self.linear(x).detach()


class InPlace(Base):
    def forward(self, x):
        if not x.requires_grad:
            x.mul_(0.5).mul_(1.5)
        return self.linear(x)


class Forgetful(Base):
    made = 0

    def __init__(self):
        super().__init__()
        Forgetful.made += 1
        self.shift = torch.eye(10)[0] * Forgetful.made

    def forward(self, x):
        return self.linear(x) + self.shift


class Answers(Defense):
    num_classes = 10
    surrogate_names = ("exact",)

    def __init__(self):
        super().__init__()
        self.network = linear()

    def _decide(self, x, rng):
        return accepts_all(self.network(x))

    def _surrogate(self, name, rng):
        return lambda x: (self.network(x), never_rejects(x))


class Refuser(Answers):
    def _decide(self, x, rng):
        decision = super()._decide(x, rng)
        decision.rejected[0] = True
        return decision


class Claims(Answers):
    stochastic = True


class Undeclared(Answers):
    def _decide(self, x, rng):
        return accepts_all(self.network(x) + torch.rand((), generator=rng))


class Disagrees(Answers):
    def _surrogate(self, name, rng):
        return lambda x: (-self.network(x), never_rejects(x))


class Fails(Answers):
    def _surrogate(self, name, rng):
        raise RuntimeError("no such view yet")
'''

BRIGHT = '''
"""Trained on pixels up to 255: the thresholds of an optimal network for the mean pixel."""
import torch
from sklearn.datasets import load_digits
from torch import nn


class Bytes(nn.Module):
    """Nearest class mean; right on bytes, blind on [0, 1]."""

    def __init__(self):
        super().__init__()
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16 * 255
        classes = torch.tensor(digits.target)
        means = [images[classes == k].mean(0) for k in range(10)]
        self.register_buffer("means", torch.stack(means))

    def forward(self, x):
        return -(x.flatten(1)[:, None] - self.means).square().sum(dim=2) / 1e4
'''

ATTACK = '''
"""A step toward mid-grey's other side, and ways to do it wrong."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from attacks.base import Attack
from attacks.evasion import evasion_logits, lead
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.threat import Norm
from defenses.base import Defense


@dataclass(frozen=True, kw_only=True)
class Sign(FixedEpsilonAttack):
    """Signed steps on the margin."""

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    norm: Norm = Norm.LINF
    steps: int = 5

    def perturb(self, defense, x, y, epsilon, rng):
        point, view = x, self.view.of(defense, rng)
        radius = epsilon.reshape(-1, 1, 1, 1)
        for _ in range(self.steps):
            leaf = point.clone().requires_grad_()
            logits, margin = view(leaf)
            target = lead(evasion_logits(logits, margin, y), y).sum()
            (gradient,) = torch.autograd.grad(target, leaf)
            point = self.norm.project(x, point + radius * gradient.sign(), epsilon)
        return point


@dataclass(frozen=True, kw_only=True)
class Bare(Attack):
    """No default norm; moves nothing."""

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2, Norm.LINF)

    def __call__(self, defense, x, y, epsilons, rng):
        self.check(x, epsilons)
        return x.repeat(len(epsilons), 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Unchecked(Bare):
    def __call__(self, defense, x, y, epsilons, rng):
        return x.repeat(len(epsilons), 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Far(Bare):
    def __call__(self, defense, x, y, epsilons, rng):
        return (1 - x).repeat(len(epsilons), 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Global(Bare):
    def __call__(self, defense, x, y, epsilons, rng):
        return torch.stack([(x + e * 0.001 * torch.rand_like(x)).clamp(0, 1) for e in epsilons])


@dataclass(frozen=True, kw_only=True)
class Crowd(Bare):
    def __call__(self, defense, x, y, epsilons, rng):
        return torch.stack([self.norm.project(x, x.mean(0, keepdim=True) + 0 * x, e)
                            for e in epsilons])


@dataclass(frozen=True, kw_only=True)
class Backward(Bare):
    def __call__(self, defense, x, y, epsilons, rng):
        leaf = x.clone().requires_grad_()
        defense.surrogate(None, rng)(leaf)[0].sum().backward()
        return x.repeat(len(epsilons), 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Greedy(Bare):
    budget: int


instance = Sign(steps=2)
number = 3
'''

MODULES = {
    "plain": PLAIN,
    "guarded": GUARDED,
    "broken": BROKEN,
    "bright": BRIGHT,
    "attack": ATTACK,
    "halting": "import no_such_library\n",
}
PACKAGE = "my_package"


def write(folder: Path) -> Path:
    """A package ``my_package`` with these modules in a folder."""
    home = folder / PACKAGE
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("")
    for name, text in MODULES.items():
        (home / f"{name}.py").write_text(text)
    return home
