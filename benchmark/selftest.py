"""The self-test: an attack has to break networks that defend nothing, or its numbers mean nothing.

Two networks are planted for the data set, a linear classifier that anyone breaks and the same one
behind logits so large that the cross-entropy's gradient is zero in float32 (gradient masking by
saturation, Carlini & Wagner 2017). In a linear network the nearest image of another class is known
(`nearest`), and within a small multiple of that distance an attack that works finds one.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional

from attacks.base import Attack
from attacks.threat import Norm
from benchmark import seeding
from benchmark.datasets import Dataset, Split
from benchmark.judge import Ints, ask, judge
from benchmark.probes import ENOUGH, MASKED, UNDEFENDED, Share
from benchmark.records import Outcome
from benchmark.work import attempt, calm, own_device
from defenses.base import Decision, Defense, Surrogate, accepts_all, never_rejects

IMAGES = 16
"""Images of a self-test."""

_SATURATED = 1e4
_RIDGE = 1e-2
"""Penalty relative to the mean squared length of a training image."""
_MOST, _MOST_PIXELS = 2000, 5 * 10**7
"""Images that the regression sees at most, and their pixels together: it is fitted in memory."""
_ROUNDS = 60
"""Bisections: more than a double has digits."""
_FARTHEST = 1e30


class Planted(Defense):
    """logits = scale (W x + b): deterministic, exact, and no defense at all.

    Args:
        weight: (K, D).
        bias: (K,).
        scale: changes no answer; a large one saturates the cross-entropy.
    """

    surrogate_names = ("exact",)

    def __init__(self, weight: Tensor, bias: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.scale = scale
        self.num_classes = len(bias)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        linear = functional.linear(x.flatten(1), self.get_buffer("weight"), self.get_buffer("bias"))
        return self.scale * linear

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.logits(x))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.logits(x), never_rejects(x))


@dataclass(frozen=True, eq=False)
class Ground:
    """Where attacks are tried: planted networks and test images that they classify correctly.

    Args:
        networks: by name.
        x: (N, C, H, W), at most `IMAGES`.
        y: (N,) labels.
    """

    networks: Mapping[str, Planted]
    x: Tensor
    y: Tensor


def plant(dataset: Dataset, seed: int) -> Ground:
    """The networks and images of one sweep: functions of the data and the seed."""
    rng = seeding.for_self_test(seed, "images", dataset.digest)
    room = max(2 * dataset.task.num_classes, _MOST_PIXELS // math.prod(dataset.task.shape))
    train = _some(dataset.train, min(_MOST, room), rng)
    weight, bias = ridge(*train, dataset.task.num_classes)
    networks = {UNDEFENDED: Planted(weight, bias), MASKED: Planted(weight, bias, _SATURATED)}
    x, y = _some(dataset.test, min(_MOST, room), rng)
    right = (networks[UNDEFENDED].logits(x).argmax(dim=1) == y).nonzero().squeeze(1)[:IMAGES]
    return Ground({name: each.eval() for name, each in networks.items()}, x[right], y[right])


def _some(split: Split, most: int, rng: Generator) -> tuple[Tensor, Tensor]:
    order: Ints = torch.randperm(len(split), generator=rng).numpy()
    batch = split.batch(order[:most])
    return batch.x, batch.y


def ridge(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Ridge regression to one-hot labels, in closed form.

        W = (Y - mean)' (X X' + lambda I)^-1 X  with X centred

    Args:
        x: (N, C, H, W).
        y: (N,) labels below ``classes``.

    Returns: weight (K, D) and bias (K,).
    """
    flat, target = x.flatten(1), functional.one_hot(y, classes).to(x.dtype)
    mean, level = flat.mean(dim=0), target.mean(dim=0)
    centred = flat - mean
    products = (centred @ centred.T).double()
    penalty = _RIDGE * products.diagonal().mean() * torch.eye(len(x), dtype=torch.float64)
    dual = torch.linalg.solve(products + penalty, (target - level).double()).to(x.dtype)
    weight = dual.T @ centred
    return weight, level - weight @ mean


def nearest(network: Planted, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """How far (N,) an image of another class is at most, inside the box of pixels.

    The class is the nearest one were there no box, the way to it is the shortest in the box, but
    for its last pixel, which L0 and L1 count as a whole. Infinite where the box ends before.
    """
    weight, logits = network.get_buffer("weight"), network.logits(x) / network.scale
    found = []
    for image, label, own in zip(x.flatten(1), y.tolist(), logits, strict=True):
        normals = weight - weight[label]
        gaps = own[label] - own
        straight = gaps / _dual(norm, normals).clamp_min(torch.finfo(x.dtype).tiny)
        straight[label] = torch.inf
        to = int(straight.argmin())
        gap, normal = gaps[to].double(), normals[to].double()
        room = torch.where(normal > 0, 1 - image, image).double()
        found.append(_way(norm, normal.abs(), room, float(gap), channels=x.shape[1]))
    return x.new_tensor(found)


def _dual(norm: Norm, normals: Tensor) -> Tensor:
    """Length (K,) of normals (K, D) by which a step of length 1 can raise a logit's lead."""
    match norm:
        case Norm.LINF:
            return normals.abs().sum(dim=1)
        case Norm.L2:
            lengths: Tensor = torch.linalg.vector_norm(normals, dim=1)
            return lengths
        case _:
            return normals.abs().amax(dim=1)


def _way(norm: Norm, size: Tensor, room: Tensor, gap: float, *, channels: int) -> float:
    """Length of the shortest change (D,) within the room that closes the gap.

    Args:
        size: (D,) gain per unit of change.
        room: (D,) largest change.
    """
    gain = size * room
    if float(gain.sum()) < gap:
        return math.inf
    match norm:
        case Norm.UNRESTRICTED:
            return math.inf
        case Norm.L0:
            best = gain.reshape(channels, -1).sum(dim=0).sort(descending=True).values
            return 1.0 + float((best.cumsum(dim=0) < gap).sum())
        case Norm.L1:
            order = size.argsort(descending=True)
            whole = 1 + int((gain[order].cumsum(dim=0) < gap).sum())
            return float(room[order[:whole]].sum())
    rate = torch.ones_like(size) if norm is Norm.LINF else size
    low, high = 0.0, 1.0
    while float((size * torch.minimum(high * rate, room)).sum()) < gap and high < _FARTHEST:
        low, high = high, 2 * high
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        enough = float((size * torch.minimum(middle * rate, room)).sum()) >= gap
        low, high = (low, middle) if enough else (middle, high)
    change = torch.minimum(high * rate, room)
    return float(change.max() if norm is Norm.LINF else change.norm())


@dataclass(frozen=True, eq=False)
class Trial:
    """One attack on the planted networks, with everything a worker needs."""

    attack: Attack
    ground: Ground
    seed: int


@dataclass(frozen=True, eq=False)
class Result:
    """How a trial went.

    Args:
        broken: network -> images broken; empty where the attack does not apply to such networks.
        error: traceback of what it raised, or None; then no image counts as broken.
    """

    attack: Attack
    broken: Mapping[str, Share]
    error: str | None = None


def applies(attack: Attack, ground: Ground) -> bool:
    """There is something to test: no yardstick, and nothing needed that a plain network has not."""
    plain = attack.reach < math.inf and len(ground.x) > 0
    return plain and not any(_plain(attack).needs(each) for each in ground.networks.values())


def _plain(attack: Attack) -> Attack:
    """The attack on a network's only view, whatever view of a defense it is meant for."""
    return replace(attack, view=replace(attack.view, surrogate=None))


def self_test(trial: Trial, device: str) -> Result:
    """Run one attack on every planted network."""
    if not applies(trial.attack, trial.ground):
        return Result(trial.attack, {})
    broken, errors = {}, []
    with calm():
        for name in trial.ground.networks:
            share, error = attempt(partial(_broken, trial, name, own_device(device)))
            broken[name] = share or Share(0, len(trial.ground.x))
            errors += [error] if error else []
    return Result(trial.attack, broken, errors[0] if errors else None)


def _broken(trial: Trial, name: str, device: str) -> Share:
    ground, attack = trial.ground, _plain(trial.attack)
    distances = nearest(ground.networks[name], ground.x, ground.y, attack.norm)
    rows = torch.ones_like(distances, dtype=torch.bool)
    epsilon = attack.norm.largest(ground.x.shape[1:])
    if attack.norm is not Norm.UNRESTRICTED:
        rows = distances.isfinite()
        epsilon = min(epsilon, attack.reach * float(distances[rows].max())) if rows.any() else 0.0
    if attack.norm is Norm.L0:
        epsilon = float(math.ceil(epsilon))
    x, y = ground.x[rows].to(device), ground.y[rows].to(device)
    if not len(x):
        return Share(0, 0)
    network = deepcopy(ground.networks[name]).to(device)
    own = seeding.for_self_test(trial.seed, name, repr(attack))
    candidates = attack(network, x.clone(), y.clone(), (epsilon,), own)
    rng = seeding.for_self_test(trial.seed, name, "judge")
    judgement = judge(
        network,
        x,
        y,
        candidates.to(x),
        norm=attack.norm,
        epsilons=(epsilon,),
        clean=ask(network, x, y, rng, 1),
        rng=rng,
        votes=1,
    )
    return Share(int(judgement.verdicts[0].found(Outcome.WRONG).sum()), len(x))


_WORDS = {UNDEFENDED: "an undefended network", MASKED: "a network that only masks its gradients"}


def warnings(label: str, result: Result) -> list[str]:
    """What to tell people about an attack that is no measure of robustness; nothing if it is."""
    lines = [
        f"attack invalid: {label} broke {share.hits} of {share.of} images of {_WORDS[network]} "
        f"within {result.attack.reach:g} times the distance at which the last of them breaks"
        for network, share in result.broken.items()
        if share.hits < ENOUGH * share.of
    ]
    if result.error:
        lines.append(f"attack invalid: {label} raised {result.error.splitlines()[-1]}")
    return lines
