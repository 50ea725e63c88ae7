"""Between the harness and Foolbox: models that record every query, and borrowed randomness."""

import logging
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import eagerpy as ep
import numpy as np
import torch
from foolbox.criteria import Criterion
from foolbox.models import Model
from foolbox.types import Bounds
from torch import Generator, Tensor

from attacks.evasion import evasion_lead, evasion_logits, lead
from attacks.mean_decision import Decides
from attacks.recorder import Recorder
from defenses.base import Defense, Surrogate
from defenses.randomness import child, draw_seed

T = TypeVar("T")

_BOX = Bounds(0, 1)

SATURATION = 8.0
"""Lead of the true class above which logits are scaled down for attacks on the cross-entropy.

In float32 the cross-entropy's gradient loses the true class's part at a lead of 17 logits and is
zero from 104 on (Carlini & Wagner 2017, section on gradient masking by large logits); E-ABS's
scores, sums over pixels, often lead by more. Scaling one image's logits by a constant changes
neither its class nor the direction of any difference of logits. Nobody publishes a value.
"""


class ScoreModel(Model):
    """What gradient attacks see: the view's logits, wrong only where wrong *and accepted*.

    Args:
        defense: the view's defense; one that cannot reject needs no margin in its logits.
        view: the defense's differentiable view.
        y: labels (N,).
        recorder: is shown every query.
        saturation: largest lead of the true class that Foolbox gets to see.
        escape: gradient (C, H, W) for rows whose own is zero or not finite; the attacks that pass
            none follow a zero gradient, and one that is not finite becomes zero.
    """

    bounds = _BOX
    data_format = "channels_first"

    def __init__(
        self,
        defense: Defense,
        view: Surrogate,
        y: Tensor,
        recorder: Recorder,
        *,
        saturation: float = math.inf,
        escape: Tensor | None = None,
    ) -> None:
        self._can_reject = defense.can_reject
        self._view = view
        self._y = y
        self._recorder = recorder
        self._saturation = saturation
        self._escape = escape

    def __call__(self, inputs: T) -> T:
        """Logits (N, K) of the points, which are put on record."""
        points, restore = ep.astensor_(inputs)
        return restore(ep.astensor(self.query(points.raw)))

    def query(self, points: Tensor) -> Tensor:
        """Logits (N, K); all zero in a row in which the view answers NaN."""
        seen = points.detach()
        if points.requires_grad:
            points = points.view_as(points)
            points.register_hook(self._repair)
        logits, margin = self._view(points)
        if self._can_reject:
            logits = evasion_logits(logits, margin, self._y)
        ahead = lead(logits.detach(), self._y)
        self._recorder.see(seen, ahead)
        if self._saturation < math.inf:
            logits = logits / (ahead / -self._saturation).clamp_min(1)[:, None]
        return logits.nan_to_num(nan=0.0)

    def _repair(self, gradient: Tensor) -> Tensor:
        size = gradient.flatten(1).abs().sum(dim=1)
        usable = size < math.inf if self._escape is None else (size > 0) & (size < math.inf)
        if usable.is_cpu and bool(usable.all()):
            return gradient  # saves a copy where asking costs no device synchronisation
        usable = usable.reshape(-1, *[1] * (gradient.dim() - 1))
        return torch.where(usable, gradient, 0.0 if self._escape is None else self._escape)


class DecisionModel(Model):
    """What decision-based attacks see: the deployed defense, a fresh child of ``rng`` per query.

    Its output is `evasion_lead` (N,), for the criterion `WrongAndAccepted`.

    Args:
        defense: as deployed, or its mean decision over several seeds.
        starts: the first query is Foolbox's check of known starting points; their leads are
            answered from here, because a stochastic defense that changes its mind about one of
            them would make Foolbox refuse the whole batch.
    """

    bounds = _BOX
    data_format = "channels_first"

    def __init__(
        self,
        defense: Decides,
        y: Tensor,
        recorder: Recorder,
        rng: Generator,
        *,
        starts: Tensor | None = None,
    ) -> None:
        self._defense = defense
        self._y = y
        self._recorder = recorder
        self._rng = rng
        self._starts = starts
        self._queries = 0

    def __call__(self, inputs: T) -> T:
        """Leads (N,) of the points, which are put on record."""
        points, restore = ep.astensor_(inputs)
        own = child(self._rng, "query", self._queries)
        if self._queries == 0 and self._starts is not None:
            ahead = self._starts
        else:
            ahead = evasion_lead(self._defense.decide(points.raw, own), self._y)
        self._queries += 1
        self._recorder.see(points.raw, ahead)
        return restore(ep.astensor(ahead))


class WrongAndAccepted(Criterion):
    """Adversarial is what a `DecisionModel` answers with a positive lead."""

    def __repr__(self) -> str:
        return "WrongAndAccepted()"

    def __call__(self, perturbed: T, outputs: T) -> T:
        """(N,) bool."""
        leads, restore = ep.astensor_(outputs)
        return restore(leads > 0)


@contextmanager
def borrowed_randomness(rng: Generator, device: torch.device) -> Iterator[None]:
    """Foolbox draws from global generators: seed them from ``rng`` and put them back afterwards.

    The root logger is kept as it is too: Foolbox's `logging.info` would configure it.
    """
    seed = draw_seed(rng)
    python, numpy = random.getstate(), np.random.get_state()
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    silence, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(silence)
    try:
        with torch.random.fork_rng(devices=devices, device_type=kind):
            torch.default_generator.manual_seed(seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        root.removeHandler(silence)
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def differentiable_in_inputs_only(defense: Defense) -> Iterator[None]:
    """Gradients for images, none for weights: Foolbox calls `backward` on everything."""
    trained = [weight for weight in defense.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
