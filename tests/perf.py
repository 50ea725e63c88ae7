"""Speed ratios, measured in one run: ``make perf``.

Every row is a ratio of two things measured alternately, so that a machine whose speed drifts still
prints the same table. The straightforward versions are those of tests/reference. Nothing here is a
test: noisy machines make timed tests lie.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from attacks import SUITES
from attacks.base import Attack
from attacks.evasion import evades
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.problems import every_other_class
from attacks.threat import Norm
from attacks.thresholds import thresholded
from benchmark import train, weights
from benchmark.catalog import parse_attack, recipe_for
from benchmark.command import command
from benchmark.datasets import DATASETS
from benchmark.datasets.base import Dataset, Split
from benchmark.judge import ask, judge
from benchmark.pairs import BLOCK, Victim
from benchmark.pairs import ensure as ensure_pairs
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.runner import Plan, sweep
from benchmark.work import calm
from defenses import DEFENSES
from defenses.architectures import ARCHITECTURES
from defenses.base import Defense, Task, Wrapped
from defenses.cnn import network_of
from defenses.pairing import Attacked, Pairing
from defenses.projection.deep_image_prior import DeepImagePrior
from defenses.projection.families import Kind, family_for
from defenses.projection.inversion import Inversion
from defenses.projection.skip_network import SkipNetwork
from defenses.randomness import generator
from defenses.synthesis import Synthesis, SynthesisClassifier
from tests.reference import synthesis as reference
from tests.reference.foolbox_direct import carlini_wagner, fgsm, pgd_linf
from tests.reference.full_inference import FullInference
from tests.reference.purifier import LATENT, RandomPurifier
from tests.reference.skip_network import Reference

_GIGA = 1e9
_IMAGES = 32


@dataclass(frozen=True)
class Row:
    """One claim of the table.

    Args:
        claim: what is compared.
        measured: the figure.
        wanted: the figure that the project promises.
        seconds: of the two sides, as text.
    """

    claim: str
    measured: str
    wanted: str
    seconds: str = ""


@dataclass(frozen=True)
class Pair:
    """Median seconds of two callables run in turn, and the median of their ratios."""

    first: float
    second: float
    ratio: float

    @classmethod
    def of(
        cls, first: Callable[[], object], second: Callable[[], object], device: str, runs: int = 5
    ) -> "Pair":
        """Run each once to warm up, then ``runs`` times alternately."""
        _seconds(first, device)
        _seconds(second, device)
        pairs = [(_seconds(first, device), _seconds(second, device)) for _ in range(runs)]
        firsts, seconds = zip(*pairs, strict=True)
        return cls(median(firsts), median(seconds), median(a / b for a, b in pairs))

    @classmethod
    def once(cls, first: Callable[[], object], second: Callable[[], object], device: str) -> "Pair":
        """Run each a single time, for what takes minutes."""
        a, b = _seconds(first, device), _seconds(second, device)
        return cls(a, b, a / b)

    @property
    def text(self) -> str:
        """Both sides in seconds."""
        return f"{self.first:.3g} s, {self.second:.3g} s"


def _seconds(function: Callable[[], object], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def inference(device: str) -> list[Row]:
    """(a) E-ABS on the SVHN architecture with random weights: 8001 candidates, latent steps."""
    task = DATASETS["svhn"].task
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = DEFENSES["eabs"].build(task).to(device).eval().requires_grad_(False)
    if not isinstance(defense, SynthesisClassifier):
        raise ValueError(f"eabs must be a SynthesisClassifier, got {type(defense).__name__}")
    rng = generator(0)
    x = torch.rand((_IMAGES, *task.shape), generator=rng).to(device)
    noise = torch.randn((_IMAGES, 1, task.num_classes, defense.latent), generator=rng).to(device)
    search = defense.inference()
    left, right = x.flatten(1), search.candidate_images.t()
    searched = Pair.of(lambda: search.search(x, noise[:, 0]), lambda: left @ right, device)

    square = torch.rand((2048, 2048), generator=rng).to(device)
    latents = search.search(x, noise[:, 0])
    variables = [
        [torch.zeros(_IMAGES, defense.latent, device=device).requires_grad_() for _ in range(2)]
        for _ in range(task.num_classes)
    ]
    optimizers = [torch.optim.Adam(own, lr=0.05) for own in variables]

    def class_by_class() -> None:
        for k, own in enumerate(variables):
            reference.latent_step(defense, k, x, own, noise=noise[:, 0, k], optimizer=optimizers[k])

    stepped = Pair.of(class_by_class, lambda: search.refine(latents, x, noise), device, runs=9)
    product = Pair.of(
        lambda: search.refine(latents, x, noise), lambda: square @ square, device, runs=9
    )
    work = 2 * 2 * decoder_multiplications(task.architecture) * _IMAGES * task.num_classes
    share = (work / product.first) / (2 * 2048**3 / product.second)
    rate = work / product.first / _GIGA
    return [
        Row(
            "(a) search of 8001 candidates / its bare matrix product",
            f"{searched.ratio:.2f}x",
            "<= 2x",
            searched.text,
        ),
        Row(
            "(a) latent step, 32 images x 10 classes: share of the matrix-product rate",
            f"{share:.0%} ({rate:.0f} GFLOP/s)",
            ">= 35%",
            product.text,
        ),
        Row(
            "(a) loop over class decoders / latent step",
            f"{stepped.ratio:.2f}x",
            ">= 1.5x",
            stepped.text,
        ),
        Row("(a) peak memory", f"{_peak_gigabytes(device):.2f} GB", "<= 3 GB"),
    ]


def decoder_multiplications(architecture: str) -> int:
    """Multiply-adds of one image through one decoder as Table 9 prints it, unfolded."""
    layers = ARCHITECTURES[architecture]
    total, channels, side = (
        layers.latent * layers.decoder[0].channels,
        layers.decoder[0].channels,
        1,
    )
    for conv in layers.decoder:
        total += side**2 * channels * conv.channels * conv.kernel**2
        channels, side = conv.channels, conv.grown(side)
    return total


def _peak_gigabytes(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / _GIGA
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIGA


def warm_start(device: str, digits: Dataset, progress: Progress) -> list[Row]:
    """(b) PGD-L2 on E-ABS: latents carried along, against full inference for every gradient."""
    defense = _trained("eabs", digits, device, progress, latent_steps=50)
    if not isinstance(defense, SynthesisClassifier):
        raise ValueError(f"eabs must be a SynthesisClassifier, got {type(defense).__name__}")
    x, y = _correct(defense, digits, device, 24)
    attack = _fixed("pgd-l2", steps=40)
    epsilon = digits.task.epsilon_l2
    full = FullInference(defense)

    def run(target: Defense) -> Tensor:
        return attack.perturb(target, x, y, x.new_full((len(x),), epsilon), generator(1))

    timed = Pair.once(lambda: run(full), lambda: run(defense), device)
    accuracies = [_accuracy(defense, run(target), y) for target in (defense, full)]
    return [
        Row(
            "(b) full inference per gradient / warm start, PGD-L2 with 40 steps",
            f"{timed.ratio:.1f}x",
            ">= 8x",
            timed.text,
        ),
        Row(
            f"(b) robust accuracy of {len(x)} samples, warm start",
            f"{accuracies[0]:.1%}",
            f"<= {accuracies[1]:.1%} (full inference)",
        ),
    ]


def overhead(device: str) -> list[Row]:
    """(c) PGD and the judge against Foolbox called directly, on the CNN for 32x32 RGB images."""
    task = DATASETS["svhn"].task
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = DEFENSES["cnn"].build(task).to(device).eval().requires_grad_(False)
    x = torch.rand((_IMAGES, *task.shape), generator=generator(0)).to(device)
    y = defense.decide(x, generator(0)).classes
    attack = _fixed("pgd-linf", steps=40)
    epsilons = (1e-5,)  # so small that no sample breaks and both sides take every step

    def harness() -> None:
        candidates = attack(defense, x, y, epsilons, generator(1))
        clean = ask(defense, x, y, generator(2), 1)
        rng = generator(2)
        settings: dict[str, Any] = {"norm": Norm.LINF, "epsilons": epsilons, "votes": 1}
        judge(defense, x, y, candidates, clean=clean, rng=rng, **settings)

    timed = Pair.of(
        harness, lambda: pgd_linf(network_of(defense), x, y, epsilons[0], 40), device, runs=3
    )
    return [
        Row(
            "(c) attack and judge / Foolbox called directly, PGD-Linf on the CNN",
            f"{timed.ratio:.3f}x",
            "<= 1.05x",
            timed.text,
        )
    ]


def many_epsilons(device: str, digits: Dataset, progress: Progress) -> list[Row]:
    """(d) Eight epsilons against one."""
    defense = _trained("cnn", digits, device, progress)
    x, y = _correct(defense, digits, device, 100)
    curve = DATASETS["digits"].curve[Norm.L2]
    one = (digits.task.epsilon_l2,)
    rows = []
    for name in ("pgd-l2", "ddn"):
        _, attack = parse_attack(name, PRESETS["quick"], digits.task.shape[0])
        swept, single = (
            partial(_attacked, attack, defense, (x, y), epsilons) for epsilons in (curve, one)
        )
        timed = Pair.of(swept, single, device, runs=3)
        claim = f"(d) {name} at {len(curve)} epsilons / at one, CNN on digits"
        rows.append(Row(claim, f"{timed.ratio:.2f}x", "<= 3x", timed.text))
    return rows


def _attacked(
    attack: Attack, defense: Defense, batch: tuple[Tensor, Tensor], epsilons: tuple[float, ...]
) -> Tensor:
    return attack(defense, *batch, epsilons, generator(1))


def parallel(device: str, progress: Progress) -> list[Row]:
    """(e) Two processes against one, for a sweep of many cells."""
    plan = Plan(
        dataset="digits",
        defenses=("cnn", "adv_linf", "adv_l2"),
        attacks=SUITES["all_linf"] + SUITES["all_l2"],
        preset=PRESETS["quick"],
        samples=200,
    )

    def run(jobs: int, planned: Plan = plan) -> None:
        with tempfile.TemporaryDirectory() as folder:
            sweep(planned, results=Path(folder), jobs=jobs, device=device, progress=progress)

    run(2, replace(plan, samples=2, attacks=("fgsm",)))  # starts the processes, trains
    timed = Pair.once(lambda: run(1), lambda: run(2), device)
    cells = len(plan.defenses) * (len(plan.attacks) + 1)
    claim = f"(e) one process / two, sweep of {cells} cells"
    return [Row(claim, f"{timed.ratio:.2f}x", ">= 1.7x", timed.text)]


def thresholds(device: str) -> list[Row]:
    """(f) The white-box attack on all targets at once against the bare networks, on MNIST's."""
    count, steps = (1000, 100) if device.startswith("cuda") else (12, 20)
    task = DATASETS["mnist"].task
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = DEFENSES["gmvae"].build(task).to(device).eval().requires_grad_(False)
    able = thresholded(defense)
    x = torch.rand((count, *task.shape), generator=generator(0)).to(device)
    y = torch.zeros(count, dtype=torch.long, device=device)
    problems = every_other_class(y, task.num_classes)
    rows = []
    for name in ("threshold-aware-l2", "threshold-hinge-l2"):
        _, attack = parse_attack(f"{name}[steps={steps}]", None, 1)

        def plain() -> None:
            for _ in range(steps):
                for some in torch.arange(len(problems.rows), device=device).split(1000):
                    points = x[problems.rows[some]].requires_grad_()
                    scores = able.terms(points, problems.wanted[some]).scores
                    torch.autograd.grad(scores.sum(), points)

        attacked = partial(_attacked, attack, defense, (x, y), (task.epsilon_l2,))
        timed = Pair.of(attacked, plain, device, runs=3)
        claim = f"(f) {name}, {len(problems.rows)} problems x {steps} steps / bare networks"
        rows.append(Row(claim, f"{timed.ratio:.2f}x", "<= 1.11x", timed.text))
    return rows


def training_pairs(device: str) -> list[Row]:
    """(g) Pairs of MagNet's network for MNIST's size on disk against Foolbox called directly."""
    task = DATASETS["mnist"].task
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = DEFENSES["magnet"].build(task).to(device).eval().requires_grad_(False)
    cw = {"binary_search_steps": 1, "steps": 40, "stepsize": 0.3, "initial_const": 3.0}
    fields = ",".join(f"{name}={value}" for name, value in {"confidence": 5, **cw}.items())
    sides: list[tuple[Attacked, int, Callable[[Tensor, Tensor], object]]] = [
        (Attacked("fgsm", 0.3), 2000, lambda x, y: fgsm(network_of(defense), x, y, 0.3)),
        (
            Attacked(f"cw-l2[{fields}]"),
            BLOCK,
            lambda x, y: carlini_wagner(network_of(defense), x, y, confidence=5, **cw),
        ),
    ]
    rows, seeds = [], count()
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, BENCH_CACHE=folder):
        stored = weights.store(defense, Path("magnet.safetensors"), {}, Path(folder))
        recipe = DEFENSES["magnet"]
        victim = Victim(Wrapped("magnet", recipe), weights.Stored(stored, recipe, task))
        for wanted, images, direct in sides:
            dataset = _random_images(defense, task, images, device)

            def made(wanted: Attacked = wanted, dataset: Dataset = dataset) -> None:
                pairing, seed = Pairing("classifier", (wanted,)), next(seeds)
                with Progress(silent=True) as silent:
                    ensure_pairs(
                        dataset, pairing, victim, seed=seed, device=device, jobs=1, progress=silent
                    )

            def straight(
                dataset: Dataset = dataset,
                images: int = images,
                direct: Callable[[Tensor, Tensor], object] = direct,
            ) -> None:
                with calm():
                    for index in torch.arange(images).split(BLOCK):
                        batch = dataset.train.batch(index.numpy(), device)
                        direct(batch.x, batch.y)

            timed = Pair.of(straight, made, device, runs=3)
            name = wanted.attack.partition("[")[0]
            claim = f"(g) pairs of {name} on disk, {images} images: share of Foolbox's rate"
            rows.append(Row(claim, f"{timed.ratio:.0%}", ">= 80%", timed.text))
    return rows


def _random_images(defense: Defense, task: Task, images: int, device: str) -> Dataset:
    """A data set of noise with the labels that the defense gives it."""
    noise = torch.randint(256, (images, *task.shape), generator=generator(0), dtype=torch.uint8)
    split = Split(noise.numpy(), torch.zeros(images, dtype=torch.int64).numpy())
    x = split.batch(torch.arange(images).numpy(), device).x
    classes = torch.cat([defense.decide(part, generator(0)).classes for part in x.split(BLOCK)])
    split = replace(split, labels=classes.cpu().numpy())
    names = tuple(str(k) for k in range(task.num_classes))
    return Dataset("noise", names, task, train=split, validation=split, test=split)


def latents(device: str) -> list[Row]:
    """(h) The Overpowered attack on a purifier of MNIST's size with random weights."""
    images, steps = 5, 10
    defense = RandomPurifier().to(device).eval().requires_grad_(False)
    x = torch.rand((images, 1, 28, 28), generator=generator(0)).to(device)
    y = defense.decide(x, generator(0)).classes
    spec = f"overpowered-l2[margin=1e6,noise_samples=10,starts=5,steps={steps}]"  # nobody leaves
    _, attack = parse_attack(spec, None, 1)
    z = torch.randn((25, LATENT), generator=generator(0)).to(device)
    noise = torch.randn((25, 10, 1, 28, 28), generator=generator(0)).to(device)

    def plain() -> None:
        for _ in range(steps * images * 5 // len(z)):
            points = z.clone().requires_grad_()
            copies = defense.decode(points)[:, None] + noise
            torch.autograd.grad(defense.classify(copies.flatten(0, 1)).sum(), points)

    attacked = partial(_attacked, attack, defense, (x, y), (4.0,))
    before = defense.cost.copy()
    attacked()
    calls = (defense.cost - before).decoder
    timed = Pair.of(attacked, plain, device, runs=3)
    minutes = timed.first / (images * (steps + 2)) * (100 * 202) / 60
    work = "100 images x 5 starts x 10 copies x 200 steps"
    return [
        Row(
            f"(h) Overpowered, {images * 5} searches x {steps} steps / bare networks",
            f"{timed.ratio:.2f}x",
            "<= 1.2x",
            timed.text,
        ),
        Row(
            f"(h) {work}, from {images} images and {steps} steps",
            f"{minutes:.1f} min, {calls * 100 * 202 // (images * (steps + 2))} decoder calls",
            "<= 12 min",
        ),
        Row("(h) peak memory", f"{_peak_gigabytes(device):.2f} GB", "<= 4 GB"),
    ]


def inversion(device: str) -> list[Row]:
    """(i) Inverting a batch against one image alone, on the paper's VAE with random weights."""
    count, steps = 256, 100
    model = family_for(Kind.DENSE_VAE, (1, 28, 28)).build((1, 28, 28))
    model = model.to(device).eval().requires_grad_(False)
    x = torch.rand((count, 1, 28, 28), generator=generator(0)).to(device)
    starts = torch.randn((count, 1, model.latent), generator=generator(1)).to(device)
    search = Inversion(steps=steps, tolerance=0.0)

    def plain() -> None:
        z = starts[:1, 0].clone().requires_grad_()
        adam = torch.optim.Adam([z], lr=0.1)
        for _ in range(steps):
            (z.grad,) = torch.autograd.grad((model.decode(z) - x[:1]).square().sum(), z)
            adam.step()

    batched = partial(search.run, model, x, starts, steps)
    alone = partial(search.run, model, x[:1], starts[:1], steps)
    against_alone = Pair.of(batched, alone, device)
    against_plain = Pair.of(batched, plain, device)
    return [
        Row(
            f"(i) Inversion, per image: {count} at once / one alone",
            f"1/{count / against_alone.ratio:.0f}",
            "<= 1/20",
            against_alone.text,
        ),
        Row(
            f"(i) Inversion, per image: {count} at once / one by torch's Adam",
            f"1/{count / against_plain.ratio:.0f}",
            "<= 1/20",
            against_plain.text,
        ),
    ]


def redrawing(device: str) -> list[Row]:
    """(j) Sixteen images' networks as one, against PyTorch's layers one image after the other."""
    count, steps, shape = 16, 10, (3, 32, 32)
    x = torch.rand((count, *shape), generator=generator(0)).to(device)
    rows = []
    for width in (128, 32):
        prior = DeepImagePrior(network=SkipNetwork(width=width), steps=steps, error=0.0)
        depth, inputs = prior.network.depth(*shape[1:]), prior.network.inputs
        model = Reference(depth, width, prior.network.skip, inputs, shape[0]).to(device).train()
        z = torch.rand((1, inputs, *shape[1:]), generator=generator(1)).to(device)

        def plain(model: Reference = model, z: Tensor = z) -> None:
            for image in x.split(1):
                adam = torch.optim.Adam(model.parameters(), lr=0.01)
                for _ in range(steps):
                    loss = (model(z + torch.randn_like(z) / 30) - image).square().mean()
                    adam.zero_grad()
                    loss.backward()
                    adam.step()

        timed = Pair.of(plain, partial(prior.redraw, x, generator(2)), device, runs=3)
        name = "published width" if width == 128 else f"quick's {width}"
        rows.append(
            Row(
                f"(j) Deep Image Prior at 32x32, {name}: one after the other / {count} as one",
                f"{timed.ratio:.1f}x",
                ">= 3x",
                timed.text,
            )
        )
    return rows


def _trained(
    name: str, dataset: Dataset, device: str, progress: Progress, **fields: Any
) -> Defense:
    preset = PRESETS["quick"]
    stored = train.ensure(dataset, name, preset, device=device, progress=progress)
    recipe = recipe_for(name, preset, dataset.name)
    if isinstance(recipe, Synthesis):
        recipe = replace(recipe, **fields)
    return weights.load_defense(stored, recipe, dataset.task, device)


def _correct(defense: Defense, dataset: Dataset, device: str, count: int) -> tuple[Tensor, Tensor]:
    """The first test images that the defense classifies correctly."""
    batch = dataset.test.batch(torch.arange(2 * count).numpy(), device)
    right = defense.decide(batch.x, generator(0)).classes == batch.y
    return batch.x[right][:count], batch.y[right][:count]


def _fixed(name: str, steps: int) -> FixedEpsilonAttack:
    _, attack = parse_attack(f"{name}[eot=1,restarts=1,steps={steps}]", PRESETS["quick"], 1)
    if not isinstance(attack, FixedEpsilonAttack):
        raise ValueError(f"{name} must have a fixed epsilon, got {type(attack).__name__}")
    return attack


def _accuracy(defense: Defense, x: Tensor, y: Tensor) -> float:
    """Share of samples that most of five fresh seeds classify correctly."""
    wrong = torch.stack([evades(defense, x, y, generator(100 + vote)) for vote in range(5)])
    return float((wrong.float().mean(dim=0) < 0.5).float().mean())


def run(
    part: Annotated[str, typer.Option(help="parts to run, such as a,c")] = "a,b,c,d,e,f,g,h,i,j",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Print a table of speed ratios against the straightforward versions."""
    unknown = set(part.split(",")) - set("abcdefghij")
    if unknown:
        raise ValueError(f"part must name parts a to j, got {', '.join(sorted(unknown))}")
    table = Table(title=f"Speed, {torch.get_num_threads()} threads, {device}", title_justify="left")
    for heading in ("claim", "measured", "wanted", "seconds, first and second side"):
        table.add_column(heading)
    digits = DATASETS["digits"].load()
    with Progress() as progress:
        parts: dict[str, Callable[[], list[Row]]] = {
            "a": lambda: inference(device),
            "b": lambda: warm_start(device, digits, progress),
            "c": lambda: overhead(device),
            "d": lambda: many_epsilons(device, digits, progress),
            "e": lambda: parallel(device, progress),
            "f": lambda: thresholds(device),
            "g": lambda: training_pairs(device),
            "h": lambda: latents(device),
            "i": lambda: inversion(device),
            "j": lambda: redrawing(device),
        }
        for name in part.split(","):
            for row in parts[name]():
                table.add_row(row.claim, row.measured, row.wanted, row.seconds)
    Console(width=120).print(table)


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
