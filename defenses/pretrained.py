"""Classifiers that others trained, such as ``timm:resnet152``: timm, torchvision, RobustBench.

No library is needed otherwise, so each is imported when one of its models is asked for. What
is used of them is public: timm's ``list_models``, ``create_model`` and
``data.resolve_model_data_config`` (timm 1.0), torchvision's ``models.list_models``,
``get_model_weights`` and ``get_model`` (torchvision 0.14 and later), RobustBench's
``model_zoo.model_dicts`` and ``utils.load_model`` (1.1).

timm's and torchvision's models take normalised images; here the normalisation is a part of the
network, so that images have pixels in [0, 1] outside and an attack's ball is one of pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from defenses.base import Defense, InnerAttack, Learner, Recipe, Task
from defenses.cnn import CrossEntropy, FeedForward, network_of
from defenses.magnet import as_they_are


@dataclass(frozen=True, eq=False)
class Model:
    """A network as its library makes it.

    Args:
        network: normalised images (N, C, H, W) to logits (N, K).
        shape: (C, H, W) of the images it is made for.
        num_classes: K.
        mean, std: what its images are normalised by, per channel, for pixels in [0, 1].
        origin: which weights these are, or would be.
    """

    network: nn.Module
    shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str


class Library(ABC):
    """A package with classifiers of images."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The models of which it has trained weights.

        Raises:
            LookupError: the package is not installed, or cannot be imported.
        """

    @abstractmethod
    def untrained(self, name: str) -> Model:
        """A model, initialised from torch's global generator; downloads nothing."""

    @abstractmethod
    def trained(self, name: str) -> Model:
        """A model with the library's weights, downloaded unless the library kept them."""


@final
@dataclass(frozen=True)
class Timm(Library):
    """timm (Wightman 2019). ``resnet152`` has its default weights, ``resnet152.tv_in1k`` these."""

    def names(self) -> Sequence[str]:
        """Models, and models with the tag of one of their weights."""
        timm = _imported("timm")
        plain: list[str] = timm.list_models(pretrained=True, include_tags=False)
        tagged: list[str] = timm.list_models(pretrained=True, include_tags=True)
        return sorted({*plain, *tagged})

    def untrained(self, name: str) -> Model:
        """See `Library.untrained`."""
        return self._model(_imported("timm").create_model(name, pretrained=False))

    def trained(self, name: str) -> Model:
        """See `Library.trained`."""
        return self._model(_imported("timm").create_model(name, pretrained=True))

    def _model(self, network: Any) -> Model:
        config = _imported("timm.data").resolve_model_data_config(network)
        source = network.pretrained_cfg
        return Model(
            network=network,
            shape=tuple(config["input_size"]),
            num_classes=network.num_classes,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            origin=f"timm {_imported('timm').__version__}: "
            f"{source['architecture']}.{source.get('tag', '')}",
        )


@final
@dataclass(frozen=True)
class Torchvision(Library):
    """torchvision's classifiers, with the weights that it calls their default."""

    def names(self) -> Sequence[str]:
        """Classifiers alone: torchvision also has detectors, segmenters, quantised networks."""
        models = _imported("torchvision.models")
        found: list[str] = models.list_models(module=models)
        return found

    def untrained(self, name: str) -> Model:
        """See `Library.untrained`."""
        return self._model(name, _imported("torchvision.models").get_model(name, weights=None))

    def trained(self, name: str) -> Model:
        """See `Library.trained`."""
        models = _imported("torchvision.models")
        return self._model(name, models.get_model(name, weights=self._weights(name)))

    def _weights(self, name: str) -> Any:
        return _imported("torchvision.models").get_model_weights(name).DEFAULT

    def _model(self, name: str, network: nn.Module) -> Model:
        weights = self._weights(name)
        preset = weights.transforms()
        (side,) = preset.crop_size
        return Model(
            network=network,
            shape=(3, side, side),
            num_classes=len(weights.meta["categories"]),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            origin=f"torchvision {_imported('torchvision').__version__}: {weights!r}",
        )


@final
@dataclass(frozen=True)
class RobustBench(Library):
    """RobustBench's model zoo (Croce et al. 2021): ``cifar10/Linf/Carmon2019Unlabeled``.

    The name is data set, threat model and model, as RobustBench spells them. Its models take pixels
    in [0, 1] and normalise inside.
    """

    _TASKS: ClassVar[dict[str, tuple[tuple[int, int, int], int]]] = {
        "cifar10": ((3, 32, 32), 10),
        "cifar100": ((3, 32, 32), 100),
        "imagenet": ((3, 224, 224), 1000),
    }

    def names(self) -> Sequence[str]:
        """Every model of every data set and threat model."""
        return sorted(self._zoo())

    def untrained(self, name: str) -> Model:
        """See `Library.untrained`."""
        return self._model(name, self._zoo()[name]["model"]())

    def trained(self, name: str) -> Model:
        """See `Library.trained`."""
        dataset, threat, model = name.split("/")
        network = _imported("robustbench.utils").load_model(
            model_name=model,
            model_dir=Path(torch.hub.get_dir()) / "robustbench",
            dataset=dataset,
            threat_model=threat,
        )
        return self._model(name, network)

    def _zoo(self) -> dict[str, Any]:
        return {
            f"{dataset.value}/{threat.value}/{name}": entry
            for dataset, threats in _imported("robustbench.model_zoo").model_dicts.items()
            for threat, models in threats.items()
            for name, entry in models.items()
            if dataset.value in self._TASKS
        }

    def _model(self, name: str, network: nn.Module) -> Model:
        shape, num_classes = self._TASKS[name.partition("/")[0]]
        return Model(
            network=network,
            shape=shape,
            num_classes=num_classes,
            mean=(0.0,) * shape[0],
            std=(1.0,) * shape[0],
            origin=f"robustbench {version('robustbench')}: {name}",
        )


def _imported(module: str) -> ModuleType:
    try:
        return import_module(module)
    # torchvision built for another torch fails with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        package = module.partition(".")[0]
        raise LookupError(
            f"package {package} must be there for {package}:<model>, got {error}; "
            f"install it with pip install '.[{package}]'"
        ) from error


LIBRARIES: dict[str, Library] = {
    "timm": Timm(),
    "torchvision": Torchvision(),
    "robustbench": RobustBench(),
}


class Normalise(nn.Module):
    """(x - mean) / std per channel; both are kept with the weights.

    Args:
        mean, std: (C,) for pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, C, H, W)."""
        return (x - self.mean) / self.std


@final
@dataclass(frozen=True, kw_only=True)
class Pretrained(Recipe):
    """A library's model as it comes; with more than 0 epochs it is trained on, by cross-entropy.

    Args:
        library: key of `LIBRARIES`.
        model: name of a model there.
    """

    library: str
    model: str
    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-5
    halve_every: int = 0

    def build(self, task: Task) -> FeedForward:
        """The network without its weights, which are stored with those of the other defenses.

        Raises:
            LookupError: the library cannot be imported.
            ValueError: it is made for other classes or for images of another shape.
        """
        model = LIBRARIES[self.library].untrained(self.model)
        for noun, own, wanted in (
            ("classes", str(model.num_classes), str(task.num_classes)),
            ("images", _size(model.shape), _size(task.shape)),
        ):
            if own != wanted:
                raise ValueError(
                    f"{noun} of {self.library}:{self.model} must be the data set's, {wanted}, "
                    f"got {own}; name a model or a data set that fits"
                )
        return _defense(model)

    def adopt(self, defense: Defense) -> str:
        """Give it the library's weights.

        Raises:
            OSError: they cannot be had, or do not fit what the library makes without them.
        """
        try:
            model = LIBRARIES[self.library].trained(self.model)
            defense.load_state_dict(_defense(model).state_dict())
        # torch.hub and timm raise a RuntimeError for damaged and for missing files.
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"weights of {self.library}:{self.model} must come from {self.library} and fit, "
                f"got: {error}; see whether the network can be reached, or name another model"
            ) from error
        return model.origin

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Cross-entropy on the images as they are."""
        return CrossEntropy(network_of(defense), self.learning_rate, as_they_are)


def _defense(model: Model) -> FeedForward:
    network = nn.Sequential(Normalise(model.mean, model.std), model.network)
    return FeedForward(network, model.num_classes)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
