"""Fit defenses and keep them: ``python -m benchmark.train --dataset mnist --defense eabs``."""

import hashlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save
from torch import Tensor

from attacks.fixed_epsilon import FixedEpsilonAttack
from benchmark import catalog, weights
from benchmark.catalog import lookup, parse_attack
from benchmark.command import command
from benchmark.datasets import DATASETS
from benchmark.datasets.base import Batch, Dataset, Split
from benchmark.presets import PRESETS, Preset
from benchmark.progress import Progress
from benchmark.storage import keep
from benchmark.weights import Weights
from benchmark.workers import available_device
from defenses import DEFENSES
from defenses.architectures import ARCHITECTURES
from defenses.base import Defense, InnerAttack, Learner, Recipe
from defenses.randomness import child, draw_seed, generator, seed_from

_VALIDATED_AT_ONCE = 500
_DEPLOYED_SAMPLES = 200
_SHIPPED_BYTES = 2_000_000


@dataclass(frozen=True)
class Schedule:
    """How long training takes on one data set."""

    epochs: int
    batches: int
    halve_every: int

    @classmethod
    def of(cls, recipe: Recipe, images: int) -> "Schedule":
        """The recipe's epochs, stretched where the data set is too small for `least_updates`."""
        batches = max(1, images // recipe.batch_size)
        stretch = max(1, math.ceil(recipe.least_updates / (recipe.epochs * batches)))
        return cls(recipe.epochs * stretch, batches, recipe.halve_every * stretch)

    def rate(self, epoch: int) -> float:
        """The factor on the learning rate in this epoch, counted from 0."""
        return 0.5 ** (epoch // self.halve_every) if self.halve_every else 1.0


def ensure(
    dataset: Dataset,
    name: str,
    preset: Preset,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress,
) -> Weights:
    """The weights of a registered defense, trained now if they are not there yet.

    Args:
        seed: of initialisation, order and noise; the runs' own seed has no part in it.

    Raises:
        LookupError: an unknown defense.
        ValueError: training diverged.
    """
    recipe, name = catalog.recipe_for(name, preset, dataset.name), catalog.base_name(name)
    start = None
    if recipe.starts_from is not None:
        start = ensure(
            dataset, recipe.starts_from, preset, seed=seed, device=device, progress=progress
        )
        if recipe.epochs == 0:
            return start
    key = _key(dataset, recipe, seed, start)
    found = weights.find(dataset.name, name, preset.name, key)
    if found is not None:
        return found
    target = weights.file_name(dataset.name, name, preset.name, key)
    run = _Training(dataset, name, recipe, seed, device, weights.folders()[0] / target, start)
    with torch.random.fork_rng():
        defense, card = run.finish(progress)
    card = {"preset": preset.name, **card}
    stored = weights.store(defense, target, card, weights.folders()[0])
    run.checkpoint.unlink(missing_ok=True)
    return stored


def _key(dataset: Dataset, recipe: Recipe, seed: int, start: Weights | None) -> str:
    origin = start.digest if start else ""
    task = dataset.task
    built = [repr(task), repr(ARCHITECTURES[task.architecture])]
    text = "\n".join([dataset.digest, *built, recipe.training(), str(seed), origin])
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class _Training:
    dataset: Dataset
    name: str
    recipe: Recipe
    seed: int
    device: str
    path: Path
    start: Weights | None

    @property
    def checkpoint(self) -> Path:
        """Networks, optimisers, epoch and seconds so far, after every epoch."""
        return self.path.with_suffix(".checkpoint")

    def finish(self, progress: Progress) -> tuple[Defense, dict[str, Any]]:
        """Train from the last checkpoint, or from the start, to the end."""
        task, recipe, train = self.dataset.task, self.recipe, self.dataset.train
        rng = generator(seed_from("train", self.seed, self.dataset.name, self.name))
        torch.manual_seed(draw_seed(rng))
        defense = recipe.build(task).to(self.device)
        if self.start is not None:
            tensors = weights.load_tensors(self.start.path)
            defense.load_state_dict({name: value.float() for name, value in tensors.items()})
        learner = recipe.learner(defense, task, self._inner_attack())
        schedule = Schedule.of(recipe, len(train))
        labels = recipe.visible(torch.from_numpy(train.labels), child(rng, "visible"))
        first, seconds = self._resume(defense, learner)
        label = f"train {self.name} on {self.dataset.name}"
        bar = progress.start(label, schedule.epochs * schedule.batches)
        bar.advance(first * schedule.batches)
        for epoch in range(first, schedule.epochs):
            began = time.monotonic()
            for optimizer in learner.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * schedule.rate(epoch)
            epoch_rng = child(rng, "epoch", epoch)
            torch.manual_seed(draw_seed(epoch_rng))
            defense.train()
            for index in recipe.batches(labels, epoch_rng):
                batch = train.batch(index.numpy(), self.device)
                losses = learner.update(batch.x, labels[index].to(self.device), epoch_rng)
                bar.advance(1)
            seconds += time.monotonic() - began
            self._check(losses, epoch)
            self._save(defense, learner, epoch + 1, seconds)
            told = ", ".join(f"{key} {float(value):.3g}" for key, value in losses.items())
            bar.advance(0, f"epoch {epoch + 1}/{schedule.epochs}: {told}")
        bar.finish()
        defense.eval()
        held_out = _parts(self.dataset.validation, self.device)
        learner.finish(_parts(Split(train.images, labels.numpy()), self.device), held_out)
        return defense, self._card(defense, learner, schedule, seconds)

    def _inner_attack(self) -> InnerAttack | None:
        if self.recipe.inner_attack is None:
            return None
        channels = self.dataset.task.shape[0]
        _, attack = parse_attack(self.recipe.inner_attack, PRESETS["paper"], channels)
        if not isinstance(attack, FixedEpsilonAttack):
            raise ValueError(
                f"inner_attack must have a fixed epsilon, got {self.recipe.inner_attack!r}; "
                "use one such as 'pgd-linf'"
            )
        return attack.during_training

    def _check(self, losses: dict[str, Tensor], epoch: int) -> None:
        for name, value in losses.items():
            if not torch.isfinite(value):
                raise ValueError(
                    f"{name} of {self.name} must stay finite, got {float(value)} in epoch "
                    f"{epoch + 1}; lower learning_rate"
                )

    def _card(
        self, defense: Defense, learner: Learner, schedule: Schedule, seconds: float
    ) -> dict[str, Any]:
        held = self.dataset.validation
        batch = _validation_sample(self.dataset, self.device)
        decision = defense.decide(batch.x, generator(seed_from("validate", self.seed)))
        right = (decision.classes == batch.y) & ~decision.rejected
        quick = [learner.validate(x, y) for x, y in _parts(held, self.device)]
        return {
            "dataset": self.dataset.name,
            "dataset_digest": self.dataset.digest,
            "dataset_caveat": self.dataset.caveat,
            "defense": self.name,
            "recipe": self.recipe.training(),
            "starts_from": self.start.digest if self.start else None,
            "seed": self.seed,
            "epochs": schedule.epochs,
            "updates": schedule.epochs * schedule.batches,
            "train_images": len(self.dataset.train),
            "validation_images": len(held),
            "validation_accuracy_without_search": float(torch.cat(quick).float().mean()),
            "deployed_images": len(batch.y),
            "deployed_accuracy": float(right.float().mean()),
            "seconds": round(seconds, 1),
            "device": str(torch.device(self.device).type),
            "torch": torch.__version__,
        }

    def _save(self, defense: Defense, learner: Learner, epochs: int, seconds: float) -> None:
        tensors = {f"network.{key}": value for key, value in defense.state_dict().items()}
        for number, optimizer in enumerate(learner.optimizers):
            for parameter, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer.{number}.{parameter}.{key}"] = value
        tensors["epochs"] = torch.tensor(epochs)
        tensors["seconds"] = torch.tensor(seconds, dtype=torch.float64)
        keep(self.checkpoint, save({key: value.contiguous() for key, value in tensors.items()}))

    def _resume(self, defense: Defense, learner: Learner) -> tuple[int, float]:
        """Epochs done and seconds taken by an earlier, killed run; (0, 0) without one.

        Raises:
            ValueError: the checkpoint is of other networks.
        """
        if not self.checkpoint.exists():
            return 0, 0.0
        tensors = weights.load_tensors(self.checkpoint)
        network = {
            key.removeprefix("network."): value
            for key, value in tensors.items()
            if key.startswith("network.")
        }
        try:
            defense.load_state_dict(network)
        except RuntimeError as error:
            raise ValueError(
                f"{self.checkpoint} must hold the networks of {self.name} as they are now, got "
                "others; delete it and train again"
            ) from error
        for number, optimizer in enumerate(learner.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{number}."):
                    parameter, field = key.split(".")[2:]
                    state.setdefault(int(parameter), {})[field] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        return int(tensors["epochs"]), float(tensors["seconds"])


def _parts(split: Split, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    for index in torch.arange(len(split)).split(_VALIDATED_AT_ONCE):
        batch = split.batch(index.numpy(), device)
        yield batch.x, batch.y


def run(
    *,
    dataset: Annotated[str, typer.Option(help="data set; see benchmark.run --list")] = "digits",
    defense: Annotated[
        str, typer.Option(help="defenses, separated by commas")
    ] = "cnn,adv_linf,adv_l2,abs,eabs",
    preset: Annotated[str, typer.Option(help="smoke, quick or paper")] = "quick",
    seed: Annotated[int, typer.Option(help="of initialisation, order and noise")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    ship: Annotated[
        Path | None, typer.Option(help="also copy the weights to this folder, such as defenses/zoo")
    ] = None,
) -> None:
    """Train defenses and keep their weights; a killed run goes on from its last epoch."""
    device = available_device(device)
    chosen = lookup("preset", preset, PRESETS)
    names = catalog.split_names([defense])
    for name in names:
        lookup("defense", catalog.base_name(name), DEFENSES)
    data = lookup("data set", dataset, DATASETS).load()
    with Progress() as progress:
        for name in names:
            stored = ensure(data, name, chosen, seed=seed, device=device, progress=progress)
            accuracy, images = stored.card["deployed_accuracy"], stored.card["deployed_images"]
            progress.print(
                f"{name}: {accuracy:.1%} of {images} validation images right as deployed, "
                f"{stored.card['epochs']} epochs in {stored.card['seconds']:.0f} s, {stored.path}"
            )
            if ship is not None:
                shipped = _ship(stored, catalog.recipe_for(name, chosen, data.name), data, ship)
                progress.print(f"{name}: shipped as {shipped.path}")


def _ship(stored: Weights, recipe: Recipe, data: Dataset, folder: Path) -> Weights:
    """Copy weights, rounded to float16 if they are large and no decision depends on it.

    Raises:
        ValueError: some validation image would be decided otherwise.
    """
    large = stored.path.stat().st_size > _SHIPPED_BYTES
    shipped = weights.ship(stored, folder, half=large)
    batch = _validation_sample(data, "cpu")
    before, after = (
        weights.load_defense(each, recipe, data.task, "cpu").decide(batch.x, generator(0))
        for each in (stored, shipped)
    )
    differ = (before.classes != after.classes) | (before.rejected != after.rejected)
    changed = int(differ.sum())
    if changed:
        raise ValueError(
            f"float16 must not change decisions, but {changed} of {len(batch.y)} validation images "
            f"get another; delete {shipped.path} and ship another training"
        )
    return shipped


def _validation_sample(data: Dataset, device: str) -> Batch:
    """A fixed random part of the validation split, for what full inference costs."""
    order = torch.randperm(len(data.validation), generator=generator(0))[:_DEPLOYED_SAMPLES]
    return data.validation.batch(order.numpy(), device)


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
