"""How a generator is trained, and the defenses that project onto what it draws."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import final

import torch
from torch import Generator, Tensor

from defenses.base import Defense, InnerAttack, Learner, Recipe, Task, Wrapped
from defenses.projection.descent import Adam, Descent
from defenses.projection.families import Kind, family_for
from defenses.projection.generator import EncodingModel, Family, Fitting, GenerativeModel
from defenses.projection.inversion import Inversion
from defenses.projection.inverting import Inverting, Views
from defenses.projection.projecting import Autoencoding, Projecting
from defenses.randomness import generator

_GLANCE = 512
"""Random images among which a glance looks for the nearest."""


@final
class GeneratorLearner(Learner):
    """A generative model being fitted; the classifier stays as it is and labels play no part.

    Args:
        defense: whose generator is trained.
        fitting: one update of it.
    """

    def __init__(self, defense: Projecting, fitting: Fitting) -> None:
        self.defense = defense
        self.fitting = fitting
        self.optimizers = fitting.optimizers

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """See `Fitting.update`."""
        return self.fitting.update(x, rng)

    def memory(self) -> dict[str, Tensor]:
        """See `Fitting.memory`."""
        return self.fitting.memory()

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """See `Learner.recall`."""
        self.fitting.recall(memory)

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """The class of the autoencoded image or, without an encoder, of the nearest random one."""
        model = self.defense.generator
        if isinstance(model, EncodingModel):
            images = model.decode(model.encode(x))
        else:
            z = torch.randn((_GLANCE, model.latent), generator=generator(0)).to(x)
            drawn = model.decode(model.prior_std * z)
            images = drawn[torch.cdist(x.flatten(1), drawn.flatten(1)).argmin(dim=1)]
        return self.defense.classifier.decide(images, generator(0)).classes == y


@dataclass(frozen=True, kw_only=True)
class ProjectingRecipe(Recipe):
    """A classifier behind a generator.

    Args:
        classifier: C; the paper's is registered as ``inc_classifier``.
        generator: which kind of generative model; see `Kind`.
        width, latent: of it; 0 leaves what was published, see `family_for`.
    """

    classifier: Wrapped
    generator: Kind = Kind.PAPER
    width: int = 0
    latent: int = 0

    @final
    def family(self, task: Task) -> Family:
        """Of the generator."""
        return family_for(self.generator, task.shape, width=self.width, latent=self.latent)

    @final
    def model(self, task: Task) -> GenerativeModel:
        """The untrained generator.

        Raises:
            ValueError: it can't draw the task's images.
        """
        model = self.family(task).build(task.shape)
        require_images(model, task.shape)
        return model


@dataclass(frozen=True, kw_only=True)
class InvertingRecipe(ProjectingRecipe):
    """Invert-and-Classify, whatever of it is trained; nothing below changes the weights.

    Args:
        steps, descent, tolerance, patience: see `Inversion`.
        restarts: R (Jalal et al. 2017: one start; Defense-GAN: 10).
        start_std: of the starts (both: 1; the public code of Defense-GAN: sqrt(1 / d)).
        eta: refuse where ||G(z*) - x||_2 >= eta, in pixel units; None refuses nothing.
        refine_steps, unrolled_steps, damping: see `Views`.
    """

    inference_fields = frozenset(
        {
            "steps",
            "descent",
            "tolerance",
            "patience",
            "restarts",
            "start_std",
            "eta",
            "refine_steps",
            "unrolled_steps",
            "damping",
        }
    )

    steps: int = 2000
    descent: Descent = field(default_factory=Adam)
    tolerance: float = 1e-3
    patience: int = 100
    restarts: int = 1
    start_std: float = 1.0
    eta: float | None = None
    refine_steps: int = 0
    unrolled_steps: int = 50
    damping: float = 1e-6

    @final
    def build(self, task: Task) -> Inverting:
        """An untrained generator before an untrained classifier.

        Raises:
            ValueError: a number out of range, or a generator that can't draw the task's images.
        """
        own = {name: getattr(self, name) for name in self.inference_fields}
        return Inverting(
            self.classifier.build(task),
            self.model(task),
            inversion=Inversion(**{each.name: own[each.name] for each in fields(Inversion)}),
            restarts=self.restarts,
            start_std=self.start_std,
            eta=self.eta,
            views=Views(**{each.name: own[each.name] for each in fields(Views)}),
        )


@final
@dataclass(frozen=True, kw_only=True)
class InvertAndClassify(InvertingRecipe):
    """Invert-and-Classify, whose generator is trained here (Jalal et al. 2017, section 4.1).

    Defense-GAN (Samangouei et al. 2018) is the configuration with a WGAN, ten restarts and 200
    steps of `Momentum`.
    """

    halve_every: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(
                f"epochs must be at least 1, got {self.epochs}; a generator that was not trained "
                "draws nothing to project onto"
            )

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """The family's own training of the generator."""
        if not isinstance(defense, Projecting):
            raise ValueError(f"defense must project, got {type(defense).__name__}")
        fitting = self.family(task).fitting(defense.generator, self.learning_rate)
        return GeneratorLearner(defense, fitting)


@final
@dataclass(frozen=True, kw_only=True)
class AutoencodeAndClassify(ProjectingRecipe):
    """C(G(E(x))) with the networks of ``starts_from``: nothing of its own is trained."""

    epochs: int = 0
    starts_from: str | None = "inc"

    def build(self, task: Task) -> Autoencoding:
        """Around untrained networks.

        Raises:
            ValueError: a generator without an encoder.
        """
        model = self.model(task)
        if not isinstance(model, EncodingModel):
            raise ValueError(
                f"generator must have an encoder to autoencode, got {type(model).__name__}; "
                "name one such as 'convolutional_vae', for this defense and for "
                f"{self.starts_from!r}, or take 'inc'"
            )
        return Autoencoding(self.classifier.build(task), model)

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Nothing to learn.

        Raises:
            ValueError: always; `benchmark.train` takes the weights of ``starts_from``.
        """
        raise ValueError(f"a recipe of 0 epochs must not be trained; train {self.starts_from}")


def require_images(model: GenerativeModel, shape: tuple[int, int, int]) -> None:
    """A generator must draw what is to be projected.

    Raises:
        ValueError: images of another shape, or outside [0, 1].
    """
    training = model.training
    with torch.no_grad():
        drawn = model.eval().decode(torch.zeros((2, model.latent)))
    model.train(training)
    if drawn.shape[1:] != shape:
        raise ValueError(
            f"generator must draw images of shape {shape}, got {tuple(drawn.shape[1:])} from "
            f"{type(model).__name__}; choose another generator or data set"
        )
    low, high = float(drawn.min()), float(drawn.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"generator must draw pixels in [0, 1], got {low:g} to {high:g} from "
            f"{type(model).__name__}; map its range to [0, 1]"
        )
