"""What a killed training goes on from: networks, optimisers, memory, losses, the clock."""

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from benchmark.history import History
from benchmark.storage import keep
from benchmark.weights import load_tensors
from defenses.base import Defense, Learner


def write(
    path: Path,
    defense: Defense,
    learner: Learner,
    history: History,
    *,
    epochs: int,
    seconds: float,
) -> None:
    """Keep everything after so many epochs and seconds."""
    tensors = {f"network.{key}": value for key, value in defense.state_dict().items()}
    tensors |= {f"memory.{key}": value for key, value in learner.memory().items()}
    tensors |= {f"history.{key}": value for key, value in history.tensors().items()}
    for number, optimizer in enumerate(learner.optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:  # SGD without momentum says so
                    tensors[f"optimizer.{number}.{parameter}.{key}"] = value
    tensors["epochs"] = torch.tensor(epochs)
    tensors["seconds"] = torch.tensor(seconds, dtype=torch.float64)
    # Cloned: tensors that share memory, such as centres with two names, are refused.
    dense = torch.contiguous_format
    keep(path, save({key: each.clone(memory_format=dense) for key, each in tensors.items()}))


def resume(
    path: Path, name: str, defense: Defense, learner: Learner, history: History
) -> tuple[int, float]:
    """Epochs done and seconds taken by an earlier, killed run; (0, 0) without one.

    Args:
        name: of the defense, for the error.

    Raises:
        ValueError: the checkpoint is of other networks.
    """
    if not path.exists():
        return 0, 0.0
    tensors = load_tensors(path)
    try:
        defense.load_state_dict(_part(tensors, "network"))
    except RuntimeError as error:
        raise ValueError(
            f"{path} must hold the networks of {name} as they are now, got "
            "others; delete it and train again"
        ) from error
    memory = _part(tensors, "memory")
    if memory:
        learner.recall(memory)
    history.recall(_part(tensors, "history"))
    for number, optimizer in enumerate(learner.optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, f"optimizer.{number}").items():
            parameter, entry = key.split(".")
            state.setdefault(int(parameter), {})[entry] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(tensors["epochs"]), float(tensors["seconds"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {
        key.removeprefix(f"{prefix}."): value
        for key, value in tensors.items()
        if key.startswith(f"{prefix}.")
    }
