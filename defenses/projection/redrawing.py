"""Deep Image Prior before a classifier (Jalal et al. 2017, sections 2.4 and 3.1, Algorithm 2)."""

from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Generator, Tensor

from defenses.base import Decision, Defense, InnerAttack, Learner, Recipe, Surrogate, Task, Wrapped
from defenses.projection.deep_image_prior import DeepImagePrior
from defenses.projection.projecting import CLASSIFIER
from defenses.projection.skip_network import SkipNetwork
from defenses.randomness import child, generator


@final
class Redrawing(Defense):
    """C(G_phi*(z)): an untrained network's weights phi are fitted to each image, early stopped.

    An image whose descent ends in no finite number is refused.

    Surrogates: ``identity_bpda`` answers as deployed, by a network fitted anew at every query, and
    takes redrawing for the identity on the way back (SPEC 5.5); ``classifier`` is C alone, which is
    what the paper attacked. Each view has its own random networks, so averaging over views is EOT.

    Args:
        classifier: C; it must answer every image.
        prior: the descent.
    """

    stochastic = True
    surrogate_names = ("identity_bpda", CLASSIFIER)

    def __init__(self, classifier: Defense, prior: DeepImagePrior) -> None:
        super().__init__()
        self.num_classes = classifier.num_classes
        self.classifier = classifier
        self.prior = prior

    @torch.no_grad()
    def explain(self, x: Tensor, rng: Generator) -> Tensor:
        """See `Explains.explain`: the redrawn image."""
        return self._redrawn(x, rng)[0]

    def _redrawn(self, x: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Redrawn images, and which of them failed (N,)."""
        redrawn = self.prior.redraw(x, child(rng, "networks"))
        self.cost.decoder += int(redrawn.steps.sum())
        return redrawn.images, ~redrawn.errors.isfinite()

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        images, failed = self._redrawn(x, rng)
        decision = self.classifier.decide(images, rng)
        return Decision(decision.logits.where(~failed[:, None], 0), failed)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        alone = self.classifier.surrogate(None, rng)
        if name == CLASSIFIER:
            return alone
        return _Identity(self, alone, child(rng, "views"))


@dataclass
class _Identity:
    """Backward pass differentiable approximation (Athalye et al. 2018) of redrawing.

    Args:
        queries: so far; each has networks of its own.
    """

    defense: Redrawing
    classifier: Surrogate
    rng: Generator
    queries: int = 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        own = child(self.rng, self.queries)
        self.queries += 1
        return self.classifier(self.defense.explain(x, own) + (x - x.detach()))


@final
@dataclass(frozen=True, kw_only=True)
class RedrawAndClassify(Recipe):
    """A trained classifier behind Deep Image Prior: nothing else is trained.

    When to stop is what the defense stands on: the paper stops earlier against a stronger attacker,
    so its defender knows epsilon (`dip_inc_paper`, and ``[steps=100]`` for 0.1 of [-1, 1], as in
    Table 2's last row). `dip_inc` has one rule for all, from clean images alone: of 50 held-out
    traffic signs a classifier that knows 96 % got 80, 92, 96 and 96 % after 50, 100, 200 and 300
    steps (width 32).

    Args:
        classifier: C.
        scales, width: see `SkipNetwork`.
        steps, error, rate, noise_std, at_once: see `DeepImagePrior`.
    """

    inference_fields = frozenset(
        {"scales", "width", "steps", "error", "rate", "noise_std", "at_once"}
    )

    classifier: Wrapped
    epochs: int = 0
    scales: int = 5
    width: int = 128
    steps: int = 500
    error: float = 0.00125
    rate: float = 0.01
    noise_std: float = 1 / 30
    at_once: int = 16

    def build(self, task: Task) -> Redrawing:
        """Around an untrained classifier.

        Raises:
            ValueError: a number out of range, or images too small.
        """
        network = SkipNetwork(scales=self.scales, width=self.width)
        network.depth(*task.shape[1:])
        own = {each.name for each in fields(DeepImagePrior)} & self.inference_fields
        prior = DeepImagePrior(network=network, **{name: getattr(self, name) for name in own})
        return Redrawing(self.classifier.build(task), prior)

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Nothing to learn, but the classifier can be looked at."""
        if not isinstance(defense, Redrawing):
            raise ValueError(f"defense must redraw, got {type(defense).__name__}")
        return _Untrained(defense.classifier)


@final
class _Untrained(Learner):
    """A classifier that is taken as it is."""

    optimizers = ()

    def __init__(self, classifier: Defense) -> None:
        self.classifier = classifier

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """The bare classifier's class."""
        return self.classifier.decide(x, generator(0)).classes == y
