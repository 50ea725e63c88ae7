"""Fit defenses and keep them: ``python -m benchmark.train --dataset mnist --defense eabs``."""

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Generator, Tensor, nn

from benchmark import catalog, checkpoint, history, overrides, pairs, weights
from benchmark.catalog import lookup, parse_attack
from benchmark.command import command
from benchmark.datasets import DATASETS
from benchmark.datasets.base import Batch, Dataset, Split
from benchmark.history import History
from benchmark.pair_store import Pairs
from benchmark.pairs import Victim
from benchmark.presets import PRESETS, Preset
from benchmark.progress import Progress
from benchmark.schedule import Schedule
from benchmark.storage import keep
from benchmark.weights import Stored, Weights
from benchmark.workers import available_device
from defenses.architectures import ARCHITECTURES
from defenses.base import Defense, InnerAttack, Learner, Recipe, Task
from defenses.pairing import Restores
from defenses.randomness import child, draw_seed, generator, seed_from

_VALIDATED_AT_ONCE = 500
_DEPLOYED_SAMPLES = 200
_SHIPPED_BYTES = 2_000_000


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

    What it contains, asks or starts from is trained first.

    Args:
        seed: of initialisation, order and noise; the runs' own seed has no part in it.

    Raises:
        LookupError: an unknown defense.
        ValueError: training diverged, or a defense inside it may reject.
    """
    recipe, name = catalog.recipe_for(name, preset, dataset.name), catalog.base_name(name)
    inner = {**recipe.wraps(), **recipe.queries()}
    _require_answers(recipe, dataset.task)
    others = {
        each: ensure(dataset, each, preset, seed=seed, device=device, progress=progress)
        for each in dict.fromkeys([wrapped.name for wrapped in inner.values()])
    }
    parts = {field: others[wrapped.name] for field, wrapped in inner.items()}
    joined = {field: parts.pop(field) for field in sorted(recipe.joins())}
    recipe = recipe.as_trained()
    start = None
    if recipe.starts_from is not None:
        start = ensure(
            dataset, recipe.starts_from, preset, seed=seed, device=device, progress=progress
        )
        if recipe.epochs == 0:
            return start
    key = _key(dataset, recipe, seed, start, parts)
    found = weights.find(dataset.name, name, preset.name, key)
    if found is not None:
        return replace(found, joined=joined)
    target = weights.file_name(dataset.name, name, preset.name, key)
    path = weights.folders()[0] / target
    run = _Training(dataset, name, recipe, seed, device, path, start, parts)
    with torch.random.fork_rng():
        defense, card = run.finish(progress)
    card = {"preset": preset.name, **card}
    stored = weights.store(defense, target, card, weights.folders()[0])
    run.checkpoint.unlink(missing_ok=True)
    return replace(stored, joined=joined)


def _require_answers(recipe: Recipe, task: Task) -> None:
    """Refuse a defense inside that may reject, before hours go into training it."""
    with torch.random.fork_rng(devices=[]):
        for wrapped in (*recipe.wraps().values(), *recipe.queries().values()):
            wrapped.build(task)


def _key(
    dataset: Dataset, recipe: Recipe, seed: int, start: Weights | None, parts: Mapping[str, Weights]
) -> str:
    origin = start.digest if start else ""
    task = dataset.task
    built = [repr(task), repr(ARCHITECTURES[task.architecture])]
    inner = [f"{field} {part.digest}" for field, part in sorted(parts.items())]
    found = recipe.outside(task)
    outside = [found] if found else []
    text = "\n".join(
        [dataset.digest, *built, recipe.training(), str(seed), origin, *inner, *outside]
    )
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
    parts: Mapping[str, Weights]

    @property
    def checkpoint(self) -> Path:
        """Networks, optimisers, losses, epoch and seconds so far, after every epoch."""
        return self.path.with_suffix(".checkpoint")

    def finish(self, progress: Progress) -> tuple[Defense, dict[str, Any]]:
        """Train from the last checkpoint, or from the start, to the end."""
        task, recipe = self.dataset.task, self.recipe
        rng = generator(seed_from("train", self.seed, self.dataset.name, self.name))
        torch.manual_seed(draw_seed(rng))
        defense = recipe.build(task)
        adopted = recipe.adopt(defense)
        defense.to(self.device)
        if self.start is not None:
            defense.load_state_dict(weights.trained_tensors(self.start))
        inner = [self._trained(defense.get_submodule(field), field) for field in recipe.wraps()]
        learner = recipe.learner(defense, task, self._inner_attack())
        for field in recipe.queries():
            self._trained(learner.queried[field], field)
        made = self._pairs(learner, progress)
        train = self.dataset.train if made is None else made
        schedule = Schedule.of(recipe, len(train))
        labels = recipe.visible(torch.from_numpy(train.labels), child(rng, "visible"))
        past = History(schedule.epochs, schedule.batches)
        first, seconds = checkpoint.resume(self.checkpoint, self.name, defense, learner, past)
        label = f"train {self.name} on {self.dataset.name}"
        bar = progress.start(label, schedule.epochs * schedule.batches)
        bar.advance(first * schedule.batches)
        for epoch in range(first, schedule.epochs):
            began = time.monotonic()
            for optimizer in learner.optimizers:
                schedule.apply(optimizer, epoch)
            epoch_rng = child(rng, "epoch", epoch)
            torch.manual_seed(draw_seed(epoch_rng))
            defense.train()
            for part in inner:
                part.eval()
            for index in recipe.batches(labels, epoch_rng):
                losses = self._update(learner, index, labels[index], made, epoch_rng)
                past.see(losses)
                bar.advance(1)
            past.close()
            seconds += time.monotonic() - began
            self._check(losses, epoch)
            checkpoint.write(
                self.checkpoint, defense, learner, past, epochs=epoch + 1, seconds=seconds
            )
            told = ", ".join(f"{key} {float(value):.3g}" for key, value in losses.items())
            bar.advance(0, f"epoch {epoch + 1}/{schedule.epochs}: {told}")
        bar.finish()
        past.write(self.path)
        defense.eval()
        held_out = _parts(self.dataset.validation, self.device)
        seen = recipe.visible(torch.from_numpy(self.dataset.train.labels), child(rng, "visible"))
        clean = Split(self.dataset.train.images, seen.numpy())
        learner.finish(_parts(clean, self.device), held_out)
        card = self._card(defense, learner, schedule, seconds, made)
        return defense, {**card, "adopted": adopted or None}

    def _trained(self, module: nn.Module, field: str) -> nn.Module:
        """A contained or queried defense, with the weights of its part and out of training."""
        module.load_state_dict(weights.trained_tensors(self.parts[field]))
        return module.to(self.device).eval().requires_grad_(False)

    def _pairs(self, learner: Learner, progress: Progress) -> Pairs | None:
        """What it is trained on instead of the clean images."""
        pairing = self.recipe.pairing()
        if pairing is None:
            return None
        if not isinstance(learner, Restores):
            raise ValueError(
                f"learner of {self.name} must restore images to be trained on pairs, got "
                f"{type(learner).__name__}; give it `restore`, or its recipe no pairing"
            )
        victim = self.recipe.wraps()[pairing.victim]
        stored = Stored(self.parts[pairing.victim], victim.recipe, self.dataset.task)
        return pairs.ensure(
            self.dataset,
            pairing,
            Victim(victim, stored),
            seed=self.seed,
            device=self.device,
            progress=progress,
        )

    def _update(
        self, learner: Learner, index: Tensor, y: Tensor, made: Pairs | None, rng: Generator
    ) -> dict[str, Tensor]:
        """One step on the clean images of these places, or on the pairs."""
        y = y.to(self.device)
        if made is not None and isinstance(learner, Restores):
            adversarial, clean = made.batch(index.numpy(), self.device)
            return learner.restore(adversarial, clean, y, rng)
        return learner.update(self.dataset.train.batch(index.numpy(), self.device).x, y, rng)

    def _inner_attack(self) -> InnerAttack | None:
        if self.recipe.inner_attack is None:
            return None
        channels = self.dataset.task.shape[0]
        _, attack = parse_attack(self.recipe.inner_attack, PRESETS["paper"], channels)
        if not isinstance(attack, InnerAttack):
            raise ValueError(
                f"inner_attack must be one that can run during training, got "
                f"{self.recipe.inner_attack!r}; use one such as 'pgd-linf'"
            )
        return attack

    def _check(self, losses: dict[str, Tensor], epoch: int) -> None:
        for name, value in losses.items():
            if not torch.isfinite(value):
                raise ValueError(
                    f"{name} of {self.name} must stay finite, got {float(value)} in epoch "
                    f"{epoch + 1}; lower learning_rate"
                )

    def _card(
        self,
        defense: Defense,
        learner: Learner,
        schedule: Schedule,
        seconds: float,
        made: Pairs | None,
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
            "parts": {field: part.digest for field, part in self.parts.items()},
            "pairs": made.digest if made else None,
            "train_pairs": len(made) if made else None,
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
    classifier: Annotated[
        str, typer.Option(help="what the defenses that protect a classifier protect")
    ] = "",
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
    if classifier:
        names = overrides.with_classifier(names, classifier)
    for name in names:
        catalog.recipe_for(name, chosen, dataset)
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
    if (losses := history.path_beside(stored.path)).exists():
        keep(history.path_beside(shipped.path), losses.read_bytes())
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
