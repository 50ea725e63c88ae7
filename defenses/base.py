"""What a defended classifier is: decisions for the judge, differentiable views for attacks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, Self, final, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from defenses.counting import Counts
from defenses.pairing import Pairing


@dataclass(frozen=True)
class Task:
    """What a defense is built for.

    Args:
        shape: (channels, height, width) of one image; pixels are in [0, 1].
        num_classes: K.
        architecture: key of `defenses.architectures.ARCHITECTURES` (E-ABS, Table 9).
        noise_std: standard deviation of the Gaussian training noise (E-ABS, section 4.3).
        epsilon_linf: radius for adversarial training and the tables' main column, in pixel units.
        epsilon_l2: likewise for the L2 norm.
    """

    shape: tuple[int, int, int]
    num_classes: int
    architecture: str
    noise_std: float
    epsilon_linf: float
    epsilon_l2: float


@dataclass(frozen=True)
class Decision:
    """What the deployed defense answers for N images.

    Args:
        logits: (N, K); the class is the argmax.
        rejected: (N,) bool; all False where the defense cannot reject.
        scores: (N,) each, divided by its threshold: above 1 rejects.
    """

    logits: Tensor
    rejected: Tensor
    scores: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def classes(self) -> Tensor:
        """(N,) predicted classes, rejected or not."""
        return self.logits.argmax(dim=1)


@runtime_checkable
class Surrogate(Protocol):
    """What an attacker differentiates: one batch's rows, for the length of one attack run.

    Successive calls see the same rows at other points (the attack moves, the images do not swap
    places), so a surrogate may start an inner optimisation where its last call ended.
    """

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and rejection margin (N,): <= 0 is accepted, -inf cannot reject."""
        ...


@dataclass
class Cost:
    """Work done, in images, counted on the defense's side where an attack can't lie."""

    forward: int = 0
    backward: int = 0
    decoder: int = 0

    def watched(self, x: Tensor) -> Tensor:
        """``x`` (N, ...) on its way in: N forward, and N backward if a gradient comes back."""
        self.forward += len(x)
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(self._backward)
        return x

    def _backward(self, gradient: Tensor) -> Tensor:
        self.backward += len(gradient)
        return gradient

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            self.forward - other.forward,
            self.backward - other.backward,
            self.decoder - other.decoder,
        )

    def copy(self) -> "Cost":
        """The counts so far."""
        return Cost(self.forward, self.backward, self.decoder)


class Defense(nn.Module, ABC):
    """A defended classifier on images (N, C, H, W) with pixels in [0, 1].

    Attributes:
        num_classes: K.
        stochastic: two generators may give two answers; a contract test verifies the claim.
        can_reject: some decisions may be refused (without it, only where an inference failed).
        surrogate_names: names of differentiable views, strongest first; the first is the default.
        cost: forward, backward and decoder calls so far.
    """

    num_classes: int
    stochastic: bool = False
    can_reject: bool = False
    surrogate_names: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    @final
    @torch.no_grad()
    def decide(self, x: Tensor, rng: Generator) -> Decision:
        """The answer as deployed: full inference, no gradients.

        An image's answer is a function of the image and the generator's state, not of its batch.
        """
        self.cost.forward += len(x)
        return self._decide(x, rng)

    @final
    def surrogate(self, name: str | None, rng: Generator) -> Surrogate:
        """A fresh differentiable view for one batch and one attack run.

        Args:
            name: one of `surrogate_names`; None is the strongest.

        Raises:
            LookupError: this defense has no surrogate of that name.
        """
        chosen = self.surrogate_names[0] if name is None else name
        if chosen not in self.surrogate_names:
            raise LookupError(
                f"unknown surrogate {chosen!r} of {type(self).__name__}; "
                f"available: {', '.join(self.surrogate_names)}"
            )
        return _Counted(self._surrogate(chosen, rng), self.cost)

    @abstractmethod
    def _decide(self, x: Tensor, rng: Generator) -> Decision: ...

    @abstractmethod
    def _surrogate(self, name: str, rng: Generator) -> Surrogate: ...


@dataclass(frozen=True)
class _Counted:
    """A surrogate whose calls and gradients are counted."""

    inner: Surrogate
    cost: Cost

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(self.cost.watched(x))


@runtime_checkable
class Reconstructs(Protocol):
    """A defense that holds one reconstruction of the input per class (latent descent needs it)."""

    def reconstruct(self, x: Tensor, rng: Generator) -> Tensor:
        """(N, K, C, H, W): each class's best reconstruction of each image, in [0, 1]."""
        ...


@runtime_checkable
class Explains(Protocol):
    """A defense that decides by one reconstruction of the input (image grids show it)."""

    def explain(self, x: Tensor, rng: Generator) -> Tensor:
        """(N, C, H, W) in [0, 1]: the reconstruction of each image that its refusal depends on."""
        ...


@runtime_checkable
class Generates(Protocol):
    """A defense that holds a generative model of each class."""

    def generate(self, classes: Tensor, rng: Generator) -> Tensor:
        """(N, C, H, W) in [0, 1]: one image per entry of ``classes`` (N,)."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A defense with a decoder G, whose latents an attack may search instead of images.

    Latent attacks need it (Jalal et al. 2017, the Overpowered attack). All three are deterministic,
    the last two differentiable.
    """

    def encode(self, x: Tensor) -> Tensor:
        """Latents (N, d) at which a search for images near ``x`` (N, C, H, W) may begin."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """G: latents (N, d) to images (N, C, H, W) in [0, 1]."""
        ...

    def classify(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) that the decoder made, without what defends them."""
        ...


@runtime_checkable
class Certifies(Protocol):
    """A defense that can say how far an input may move before its answer could change."""

    def certificate(self, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """(N,) L2 radii in pixel units; 0 where the class is wrong."""
        ...


class Terms(NamedTuple):
    """What decides between *wrong and accepted* and the rest, for inputs and the classes wanted.

    Args:
        gap: (N,) how much nearer another class is than the wanted one; negative where the wanted
            class is predicted.
        scores: (N, S) each divided by its threshold: above 1 rejects, were the wanted class
            predicted.
    """

    gap: Tensor
    scores: Tensor


@runtime_checkable
class Thresholded(Protocol):
    """A defense that refuses by differentiable scores (threshold-aware attacks need them)."""

    def terms(self, x: Tensor, wanted: Tensor, *, printed: bool = False) -> Terms:
        """Differentiable in ``x`` (N, C, H, W); ``wanted`` (N,) are classes.

        Args:
            printed: with the covariance in place of its inverse, as GMVAE's Eqs. 10 and 11 have it.
        """
        ...


@runtime_checkable
class Embeds(Protocol):
    """A defense that decides by the latents of a differentiable encoder (feature matching)."""

    def embed(self, x: Tensor) -> Tensor:
        """Latents (N, d) of images (N, C, H, W), deterministic, differentiable and counted."""
        ...


def never_rejects(x: Tensor) -> Tensor:
    """The rejection margin (N,) of a defense that cannot reject: -inf."""
    return torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)


def log_margin(scores: Mapping[str, Tensor]) -> Tensor:
    """The rejection margin (N,): the logarithm of the largest score, 0 at the threshold.

    Scores may span many orders of magnitude on the way from one class to another; their logarithm
    stays comparable with the logits.
    """
    return torch.stack(list(scores.values())).amax(dim=0).clamp_min(_LEAST_SCORE).log()


_LEAST_SCORE = 1e-6


def accepts_all(logits: Tensor) -> Decision:
    """The decision of a defense that cannot reject."""
    return Decision(logits, torch.zeros(len(logits), dtype=torch.bool, device=logits.device))


Perturb = Callable[[Defense, Tensor, Tensor, Generator], Tensor]
"""An attack during training: (defense, x, y, rng) -> perturbed x of the same shape."""


@runtime_checkable
class Perturbs(Protocol):
    """An attack that can be the inner maximisation of adversarial training."""

    def during_training(self, epsilon: float) -> Perturb:
        """One run in a ball."""
        ...


@runtime_checkable
class FindsPairs(Protocol):
    """An attack on a decoder's latents, for training against pairs of images of its making."""

    def pairs(self, defense: Decodes, starts: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Latents z and z' (n, d) each, from ``starts`` (n, d), that are classified apart."""
        ...


InnerAttack = Perturbs | FindsPairs
"""What `Recipe.inner_attack` names."""

UNLABELLED = -1
"""The label of a training image whose class the learner may not see."""

Labelled = Iterable[tuple[Tensor, Tensor]]
"""Images (n, C, H, W) and labels (n,), batch after batch."""


class Learner(ABC):
    """One defense being fitted: its networks, its optimisers and one update.

    The loop over epochs, its checkpoints and its progress belong to `benchmark.train`.

    Attributes:
        optimizers: as they begin; the loop changes their rates by the recipe's schedule. A group
            with an entry ``decay`` is multiplied by it after every epoch instead, down to its
            entry ``least``.
        queried: untrained defenses by the name that the recipe queries them under; the loop gives
            them their trained weights.
    """

    optimizers: tuple[torch.optim.Optimizer, ...]
    queried: Mapping[str, Defense] = MappingProxyType({})

    @abstractmethod
    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One step on a batch of clean images; returns named losses, detached, on the device."""

    @abstractmethod
    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """(N,) bool, right or wrong, by a quick look at a defense in evaluation mode."""

    def memory(self) -> dict[str, Tensor]:
        """What a checkpoint must keep besides the defense and the optimisers."""
        return {}

    def recall(self, memory: dict[str, Tensor]) -> None:  # noqa: B027 (optional)
        """Go on from what `memory` returned."""

    def finish(self, training: Labelled, held_out: Labelled) -> None:  # noqa: B027 (optional)
        """Measure what the defense needs besides its networks, once, in evaluation mode.

        Args:
            training: what `update` saw, labels as it saw them.
            held_out: images that it did not see.
        """


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """How a registered defense is built and trained; its repr is the defense's provenance.

    Args:
        summary: one line for `--list`.
        epochs: passes over the training split; 0 leaves the weights that it begins with.
        batch_size: images per update.
        learning_rate: Adam's initial rate.
        halve_every: epochs between halvings of the rate; 0 keeps it.
        least_updates: small data sets take as many times more epochs (and epochs between
            halvings) as make this many updates; 0 takes the epochs literally.
        starts_from: name of the registered defense whose weights this one begins with.
        inner_attack: attack specification that becomes the `InnerAttack` handed to `learner`.
    """

    inference_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that the trained weights do not depend on."""

    blind_surrogates: ClassVar[frozenset[str]] = frozenset()
    """Surrogates of what it builds that know nothing of its refusals."""

    queried_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that hold a `Wrapped` defense which is asked during training, but not contained."""

    counts: ClassVar[Counts] = Counts.ACCURACY
    """What its paper counts under attacks on the classifier that it contains."""

    summary: str
    epochs: int
    batch_size: int = 512
    learning_rate: float = 1e-3
    halve_every: int = 200
    least_updates: int = 0
    starts_from: str | None = None
    inner_attack: str | None = None

    def training(self) -> str:
        """The configuration that the weights depend on, as text."""
        return self._text(self.inference_fields | {"summary"})

    def deployed(self) -> str:
        """The configuration that the answers depend on, as text."""
        return self._text(frozenset({"summary"}))

    def _text(self, silent: frozenset[str]) -> str:
        values = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name not in silent
        )
        return f"{type(self).__name__}({', '.join(values)})"

    @final
    def wraps(self) -> "Mapping[str, Wrapped]":
        """The defenses that it contains, by field; their submodules have the same names."""
        return {name: value for name, value in self._wrapped() if name not in self.queried_fields}

    @final
    def queries(self) -> "Mapping[str, Wrapped]":
        """The defenses that its learner asks, by field."""
        return {name: value for name, value in self._wrapped() if name in self.queried_fields}

    @final
    def joins(self) -> frozenset[str]:
        """Fields of contained defenses that the training knows nothing of."""
        return self.inference_fields & self.wraps().keys()

    @final
    def as_trained(self) -> Self:
        """Without the defenses that join it after training."""
        nothing: dict[str, Any] = dict.fromkeys(self.joins())
        return replace(self, **nothing)

    def _wrapped(self) -> "Iterator[tuple[str, Wrapped]]":
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ((name, value) for name, value in values if isinstance(value, Wrapped))

    def pairing(self) -> Pairing | None:
        """The (adversarial, clean) pairs it is trained on; None is trained on clean images."""
        return None

    def visible(self, labels: Tensor, rng: Generator) -> Tensor:
        """The training labels (N,) with `UNLABELLED` where the learner may not see them."""
        return labels

    def updates(self, images: int) -> int:
        """How many `batches` an epoch has."""
        return max(1, images // self.batch_size)

    def stretch(self, images: int) -> int:
        """How many epochs stand for one where `least_updates` asks for more."""
        updates = self.epochs * self.updates(images)
        return max(1, math.ceil(self.least_updates / updates)) if updates else 1

    def batches(self, labels: Tensor, rng: Generator) -> Iterator[Tensor]:
        """One epoch: indices of the images of each update, a random order in full batches.

        What is left over waits for another epoch's order.

        Args:
            labels: (N,) as `visible` shows them.
        """
        order = torch.randperm(len(labels), generator=rng)
        for first in range(0, max(1, len(labels) - self.batch_size + 1), self.batch_size):
            yield order[first : first + self.batch_size]

    def adopt(self, defense: Defense) -> str:
        """Give what `build` made the weights of others to begin with, from wherever they are.

        Returns: which they are, for the card; "" leaves the initial ones.
        """
        return ""

    def outside(self, task: Task) -> str:
        """What the weights depend on besides the configuration, as text; "" for nothing."""
        return ""

    @abstractmethod
    def build(self, task: Task) -> Defense:
        """An untrained defense, initialised from torch's global generator."""

    @abstractmethod
    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """What updates a defense that `build` made for the same task."""


@dataclass(frozen=True)
class Wrapped:
    """A registered defense that another contains or queries.

    Args:
        name: as registered.
        recipe: how it is built; its weights are those that are trained under the name.
    """

    name: str
    recipe: Recipe

    def __repr__(self) -> str:
        return f"{self.name}={self.recipe.deployed()}"

    def build(self, task: Task) -> Defense:
        """The untrained defense.

        Raises:
            ValueError: it may refuse to answer, and nobody said what that would mean.
        """
        defense = self.recipe.build(task)
        if defense.can_reject:
            raise ValueError(
                "a defense inside another must answer every image, got "
                f"{self.name!r}, which may reject; name one that does not, such as 'magnet'"
            )
        return defense
