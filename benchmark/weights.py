"""Trained weights: safetensors with a card beside them, in the user's cache or shipped in the zoo.

    <folder>/<dataset>/<defense>-<preset>-<key>.safetensors
    <folder>/<dataset>/<defense>-<preset>-<key>.json
    <folder>/<dataset>/<defense>-<preset>-<key>.csv     losses, see `benchmark.history`

The key hashes what the weights depend on (training configuration, data, seed, starting weights), so
another configuration never meets these weights and never overwrites them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import defenses
from benchmark.storage import cache_folder, keep
from defenses.base import Defense, Recipe, Task

_REMEDY = "delete it with its weights and train again"


@dataclass(frozen=True)
class Weights:
    """One trained defense on disk.

    Args:
        path: the safetensors file.
        card: what the card beside it says.
        joined: weights of the defenses that joined it after training, by the submodule's name.
    """

    path: Path
    card: Mapping[str, Any]
    joined: "Mapping[str, Weights]" = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the safetensors file; with what joined, of all their digests."""
        own = str(self.card["digest"])
        if not self.joined:
            return own
        others = [f"{name} {part.digest}" for name, part in sorted(self.joined.items())]
        return hashlib.sha256("\n".join([own, *others]).encode()).hexdigest()


def folders() -> tuple[Path, ...]:
    """Where weights are looked up, in order: the user's cache, then the package's own zoo."""
    return cache_folder() / "weights", Path(defenses.__file__).parent / "zoo"


def file_name(dataset: str, defense: str, preset: str, key: str) -> Path:
    """The path of a defense's weights below one of `folders`."""
    return Path(dataset) / f"{plain(defense)}-{preset}-{key}.safetensors"


def plain(name: str) -> str:
    """A defense's name for a file's: what not every file system takes becomes a dash.

    ``timm:resnet152`` has a colon, ``robustbench:cifar10/Linf/Carmon2019Unlabeled`` also slashes.
    """
    return name.replace(":", "-").replace("/", "-")


def find(dataset: str, defense: str, preset: str, key: str) -> Weights | None:
    """The weights with this key, or None where they have to be trained.

    Raises:
        OSError: a damaged card, or one of another data set, whose thresholds mean nothing here.
    """
    name = file_name(dataset, defense, preset, key)
    for folder in folders():
        path = folder / name
        if path.exists() and path.with_suffix(".json").exists():
            card = _card(path.with_suffix(".json"))
            if card.get("dataset", dataset) != dataset:
                raise OSError(
                    f"{path} must be weights and thresholds from {dataset}, got those from "
                    f"{card['dataset']}; {_REMEDY}"
                )
            return Weights(path, card)
    return None


def _card(path: Path) -> Mapping[str, Any]:
    """What a card says; a damaged one is an OSError that names it."""
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise OSError(f"{path} must be a card in JSON, got something else; {_REMEDY}") from error
    if "digest" not in card:
        raise OSError(f"{path} must name the weights' digest, got none; {_REMEDY}")
    return card


def store(defense: Defense, name: Path, card: Mapping[str, Any], folder: Path) -> Weights:
    """Write weights and card; the card comes last, so weights without one were cut off."""
    return _write(defense.state_dict(), folder / name, card)


def ship(stored: Weights, folder: Path, *, half: bool) -> Weights:
    """A copy for a package's zoo: same name, same card, another digest where it is rounded.

    Args:
        half: round to float16, which `load_defense` widens again.
    """
    tensors = load_tensors(stored.path)
    if half:
        tensors = {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
    path = folder / stored.path.parent.name / stored.path.name
    return _write(tensors, path, {**stored.card, "half": half})


def _write(tensors: Mapping[str, Tensor], path: Path, card: Mapping[str, Any]) -> Weights:
    # Networks with tied weights share memory, which safetensors refuses.
    data = save({name: tensor.contiguous().clone() for name, tensor in tensors.items()})
    full = {**card, "digest": hashlib.sha256(data).hexdigest()}
    keep(path, data)
    keep(path.with_suffix(".json"), (json.dumps(full, indent=2) + "\n").encode())
    return Weights(path, full)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        OSError: the file is missing or damaged.
    """
    try:
        return load(path.read_bytes())
    except SafetensorError as error:
        raise OSError(
            f"{path} must be a safetensors file, got something else; delete it and train again"
        ) from error


def trained_tensors(weights: Weights) -> dict[str, Tensor]:
    """What was trained, in float32.

    Raises:
        OSError: the file does not have the digest that its card names.
    """
    data, expected = weights.path.read_bytes(), str(weights.card["digest"])
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise OSError(
            f"weights {weights.path} must have digest {expected[:12]}..., got "
            f"{found[:12]}...; delete the file and its card and train again"
        )
    return {name: tensor.float() for name, tensor in load(data).items()}


def load_defense(weights: Weights, recipe: Recipe, task: Task, device: str) -> Defense:
    """The trained defense, frozen and in evaluation mode.

    Args:
        recipe: builds the networks; its inference fields may differ from the training's.

    Raises:
        OSError: the file does not have the digest that its card names, or another architecture.
    """
    tensors = trained_tensors(weights)
    for name, part in weights.joined.items():
        tensors |= {f"{name}.{key}": value for key, value in trained_tensors(part).items()}
    with torch.random.fork_rng(devices=[]):
        defense = recipe.build(task)
    try:
        defense.load_state_dict(
            {name: tensors[name].to(value.dtype) for name, value in defense.state_dict().items()}
        )
    except (KeyError, RuntimeError) as error:
        raise OSError(
            f"weights {weights.path} must fit {type(defense).__name__} for {task.architecture} "
            f"images, got other tensors; delete the file and its card and train again"
        ) from error
    return defense.to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class Stored:
    """Loads a trained defense, in any process."""

    weights: Weights
    recipe: Recipe
    task: Task

    def __call__(self, device: str) -> Defense:
        """The defense in evaluation mode, frozen, on the device."""
        return load_defense(self.weights, self.recipe, self.task, device)
