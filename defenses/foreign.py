"""Defenses from outside: ``my_package.my_module:build``, a `Defense` or any network on pixels."""

import copy
import hashlib
import inspect
from dataclasses import dataclass
from inspect import Parameter
from typing import Self, final

import torch
from torch import Generator, Tensor, nn

from defenses.base import Defense, InnerAttack, Learner, Recipe, Task
from defenses.by_name import imported, module_of, sources
from defenses.cnn import FeedForward
from defenses.randomness import generator

_ASKED = 2
_DIGEST_BYTES = 16
_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError)
"""What networks raise for images of a shape that they are not made for."""


@final
@dataclass(frozen=True, kw_only=True)
class Foreign(Recipe):
    """What a function, a class or a module's global gives: used as it comes, never trained here.

    A function or class is called without arguments, or with the `Task` where its one parameter has
    no default. A `Defense` stays what it is; any other ``nn.Module`` must map pixels (N, C, H, W)
    in [0, 1] to logits (N, K), and is then asked and differentiated as it is.

    Args:
        specification: ``module:name``.
        sources: hash of the module's files, so that a changed file is another defense.

    Raises:
        ValueError: epochs, of which there are none.
    """

    specification: str
    sources: str
    epochs: int = 0

    def __post_init__(self) -> None:
        if self.epochs:
            raise ValueError(
                f"epochs must be 0 for {self.specification}, got {self.epochs}; "
                "train it before its module returns it"
            )

    @classmethod
    def named(cls, specification: str) -> Self:
        """The recipe of a specification.

        Raises:
            ValueError, LookupError: see `by_name.imported`.
        """
        imported(specification)
        return cls(
            summary=f"{specification}, as it comes",
            specification=specification,
            sources=sources(module_of(specification)),
        )

    def build(self, task: Task) -> Defense:
        """The defense; weights that it draws from torch's global generator are always the same.

        Raises:
            ValueError: it is no network, or does not give logits for the data set's images.
            LookupError: its module is gone.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = self._made(task)
            if not isinstance(made, nn.Module):
                raise ValueError(
                    f"{self.specification} must give a Defense or a torch.nn.Module, got "
                    f"{type(made).__name__}; return the network"
                )
            made.eval()
            if isinstance(made, Defense):
                self._ask(made, task)
                return made
            defense = FeedForward(made, task.num_classes)
            self._ask(defense, task)
        return defense.eval()

    def outside(self, task: Task) -> str:
        """A hash of all its tensors: files that its module reads may change, too."""
        whole = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for name, tensor in sorted(self.build(task).state_dict().items()):
            whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return whole.hexdigest()

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Nothing to learn."""
        return _AsItComes(defense)

    def _made(self, task: Task) -> object:
        found = imported(self.specification)
        if isinstance(found, nn.Module):
            return copy.deepcopy(found)
        if not callable(found):
            raise ValueError(
                f"{self.specification} must be a function, a class or a torch.nn.Module, got "
                f"{type(found).__name__}; name what makes the network"
            )
        parameters = inspect.signature(found).parameters.values()
        collecting = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
        needed = [
            each.name
            for each in parameters
            if each.default is Parameter.empty and each.kind not in collecting
        ]
        if len(needed) > 1:
            raise ValueError(
                f"{self.specification} must take nothing or the Task, got the parameters "
                f"{', '.join(needed)}; give them defaults, or name a function that fills them in"
            )
        return found(task) if needed else found()

    def _ask(self, defense: Defense, task: Task) -> None:
        """Refuse what gives no logits for two images with pixels in [0, 1]."""
        x = torch.rand((_ASKED, *task.shape), generator=generator(0))
        shape = ", ".join(map(str, task.shape))
        fits = f"images (N, {shape}) with pixels in [0, 1]"
        try:
            logits: object = defense.decide(x, generator(0)).logits
        except _REFUSALS as error:
            raise ValueError(
                f"{self.specification} must take {fits}, got {type(error).__name__}: {error}; name "
                "a data set that fits, or resize and normalise inside the module"
            ) from error
        wanted = (_ASKED, task.num_classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            seen = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"logits of {self.specification} must be a tensor of shape {wanted} for {_ASKED} "
                f"images of {task.num_classes} classes, got {seen}; return one logit per class"
            )
        if defense.num_classes != task.num_classes:
            raise ValueError(
                f"num_classes of {self.specification} must be the data set's, {task.num_classes}, "
                f"got {defense.num_classes}; name a data set that fits"
            )
        if not bool(logits.isfinite().all()):
            raise ValueError(
                f"logits of {self.specification} must be finite, got NaN or infinity for {fits}; "
                "mend the module"
            )


@final
class _AsItComes(Learner):
    """No update, only the look that tells how good it is."""

    def __init__(self, defense: Defense) -> None:
        self.defense = defense
        self.optimizers = ()

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """Never asked for: there are no epochs."""
        raise ValueError("epochs must be 0 for a defense from outside, got an update; drop them")

    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """By its strongest surrogate."""
        with torch.no_grad():
            logits, _ = self.defense.surrogate(None, generator(0))(x)
        return logits.argmax(dim=1) == y
