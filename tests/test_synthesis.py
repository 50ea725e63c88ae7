"""The ABS family against closed forms and a slow reference."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from defenses import DEFENSES
from defenses.architectures import ARCHITECTURES
from defenses.base import Cost, Task
from defenses.randomness import generator, noise_like_rows
from defenses.synthesis import (
    GaussianPrior,
    PointPosterior,
    SharedEncoder,
    Synthesis,
    SynthesisClassifier,
)
from defenses.synthesis.decoders import ClassDecoders
from defenses.synthesis.frozen import FrozenDecoders
from defenses.synthesis.inference import InferenceSettings, LatentInference, Model
from tests.reference import synthesis as reference

FAMILY = ("abs", "a_abs", "d_abs", "v_abs", "ad_abs", "av_abs", "dv_abs", "eabs")
TASKS = {
    "digits": Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5),
    "mnist": Task((1, 28, 28), 10, "mnist", 0.2, 0.3, 1.5),
    "traffic": Task((3, 32, 32), 10, "traffic", 0.01, 8 / 255, 1.5),
    "svhn": Task((3, 32, 32), 10, "svhn", 0.01, 8 / 255, 1.5),
    "celeba": Task((3, 64, 64), 2, "celeba", 0.01, 8 / 255, 3.0),
    "coil": Task((3, 128, 128), 10, "coil", 0.01, 8 / 255, 6.0),
    "imagenet": Task((3, 224, 224), 2, "imagenet", 0.01, 0.025, 10.5),
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def used(decoders: ClassDecoders) -> ClassDecoders:
    """Decoders whose normalisation statistics are not the initial ones."""
    for _ in range(3):
        decoders(torch.randn(8, decoders.latent))
    return decoders.eval().requires_grad_(False)


def member(name: str, **fields: object) -> SynthesisClassifier:
    torch.manual_seed(0)
    recipe = cast(Synthesis, DEFENSES[name])
    settings = {"candidates": 20, "latent_steps": 4, **fields}
    defense = replace(recipe, **settings).build(TASKS["digits"])
    used(defense.decoders)
    return defense.eval().requires_grad_(False)


def images(count: int) -> Tensor:
    return torch.rand((count, 1, 8, 8), generator=generator(1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoders_end_at_the_images_shape(architecture: str) -> None:
    task = TASKS[architecture]
    decoders = ClassDecoders(3, ARCHITECTURES[architecture])
    assert decoders(torch.randn(2, decoders.latent)).shape == (2, 3, *task.shape)


def test_networks_have_the_papers_parameter_counts() -> None:
    counts = {}
    for name in ("mnist", "traffic", "svhn"):
        defense = DEFENSES["eabs"].build(TASKS[name])
        counts[name] = sum(parameter.numel() for parameter in defense.parameters())
    assert counts == {"mnist": 752_415, "traffic": 1_975_487, "svhn": 2_436_847}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folded_decoders_equal_trained_ones_and_their_autograd_gradient(architecture: str) -> None:
    decoders = used(ClassDecoders(3, ARCHITECTURES[architecture]))
    frozen = FrozenDecoders(decoders, Cost())
    z = torch.randn(4, 3, decoders.latent, requires_grad=True)
    direct = torch.stack([decoders.decode(k, z[:, k]) for k in range(3)], dim=1)
    x = torch.rand(4, *TASKS[architecture].shape)
    error = (x[:, None] - direct).square().sum(dim=(2, 3, 4))
    (gradient,) = torch.autograd.grad(error.sum(), z)
    torch.testing.assert_close(frozen.decode(z.detach()), direct.detach(), rtol=1e-4, atol=1e-5)
    found_error, found_gradient = frozen.error_and_gradient(x, z.detach())
    torch.testing.assert_close(found_error, error.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-3, atol=1e-4)


def test_decoders_count_every_class_of_every_image() -> None:
    cost = Cost()
    frozen = FrozenDecoders(used(ClassDecoders(3, ARCHITECTURES["digits"])), cost)
    frozen.decode(torch.randn(4, 3, 8))
    frozen.error_and_gradient(images(2), torch.randn(2, 3, 8))
    assert cost.decoder == 18


def test_grouped_layers_equal_class_by_class_ones() -> None:
    decoders = used(ClassDecoders(3, ARCHITECTURES["digits"]))
    h = torch.randn(5, 3, decoders.layers[0].convolution.in_channels // 3, 1, 1)
    for layer in decoders.layers:
        together = layer(h.flatten(1, 2)).unflatten(1, (3, -1))
        apart = torch.stack([layer.of_class(k, h[:, k]) for k in range(3)], dim=1)
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
        h = together


@pytest.mark.parametrize("name", FAMILY)
def test_inference_equals_the_class_by_class_reference(name: str) -> None:
    defense = member(name)
    x = images(3)
    shape = (defense.settings.latent_steps + 2, defense.num_classes, defense.latent)
    noise = noise_like_rows(generator(5), x, shape)
    score, error = reference.explain(defense, x, noise)
    found = defense.explain(x, generator(5))
    torch.testing.assert_close(found.score, score, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.error, error, rtol=1e-3, atol=1e-3)


@dataclass
class LinearDecoders:
    """G_k(z) = A_k z + b_k: the best latent is a ridge regression."""

    slopes: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        self.classes, _, self.latent = self.slopes.shape
        self.device = self.slopes.device

    def decode(self, z: Tensor) -> Tensor:
        flat = torch.einsum("kpd,nkd->nkp", self.slopes, z) + self.offsets
        return flat.unflatten(2, (1, 4, -1))

    def error_and_gradient(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        residual = (self.decode(z) - x[:, None]).flatten(2)
        gradient = 2 * torch.einsum("kpd,nkp->nkd", self.slopes, residual)
        return residual.square().sum(dim=2), gradient


def test_inference_finds_the_ridge_regression_of_linear_decoders() -> None:
    decoders = LinearDecoders(0.3 * torch.randn(2, 16, 3), torch.rand(2, 16))
    beta = 0.7
    encoder = nn.Sequential(nn.Flatten(), _NoSuggestion())
    model = Model(decoders, SharedEncoder(), encoder, GaussianPrior(beta), None, PointPosterior())
    inference = LatentInference(model, InferenceSettings(candidates=100, latent_rate=0.02))
    x = torch.rand(5, 1, 4, 4)
    noise = torch.zeros(5, 1500, 2, 3)
    latents = inference.search(x, noise[:, 0])
    inference.refine(latents, x, noise)
    slopes = decoders.slopes
    gram = 2 * slopes.transpose(1, 2) @ slopes + beta * torch.eye(3)
    target = 2 * torch.einsum("kpd,nkp->nkd", slopes, x.flatten(1)[:, None] - decoders.offsets)
    exact = torch.linalg.solve(gram, target.unsqueeze(3)).squeeze(3)
    torch.testing.assert_close(latents.variables[0].detach(), exact, rtol=1e-3, atol=1e-3)


class _NoSuggestion(nn.Module):
    """An encoder whose suggestion is far from everything."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(x), 3), 50.0), torch.zeros(len(x), 3)


def test_search_picks_the_candidate_of_the_least_score() -> None:
    decoders = LinearDecoders(torch.randn(2, 16, 3), torch.rand(2, 16))
    encoder = nn.Sequential(nn.Flatten(), _NoSuggestion())
    model = Model(decoders, SharedEncoder(), encoder, GaussianPrior(1.0), None, PointPosterior())
    settings = InferenceSettings(candidates=64, candidate_score="mean", candidate_seed=3)
    x = torch.rand(6, 1, 4, 4)
    start = LatentInference(model, settings).search(x, torch.zeros(6, 2, 3)).variables[0]
    candidates = torch.randn((2, 64, 3), generator=generator(3))[0]
    error, _ = decoders.error_and_gradient(
        x.repeat_interleave(64, dim=0), candidates.repeat(6, 1)[:, None].expand(-1, 2, -1)
    )
    scores = error.unflatten(0, (6, 64)) + 0.5 * candidates.square().sum(dim=1)[:, None]
    assert torch.equal(start, candidates[scores.argmin(dim=1)])


def test_fixed_latent_gradient_is_twice_the_residual() -> None:
    """E-ABS, Eq. 8."""
    defense = member("eabs")
    surrogate = defense.surrogate("fixed_latent", generator(2))
    x = images(2).requires_grad_()
    logits, _ = surrogate(x)
    (gradient,) = torch.autograd.grad(-logits[:, 4].sum(), x)
    reconstruction = defense.reconstruct(x.detach(), generator(2))[:, 4]
    torch.testing.assert_close(gradient, 2 * (x.detach() - reconstruction), rtol=1e-3, atol=1e-4)


def test_fixed_latent_starts_with_full_inference_then_follows_the_image() -> None:
    defense = member("ad_abs", latent_steps=30)
    surrogate = defense.surrogate("fixed_latent", generator(2))
    x = images(4)
    first = surrogate(x)[0]
    torch.testing.assert_close(first, defense.decide(x, generator(0)).logits)
    decoded = defense.cost.decoder
    assert surrogate(x)[0] is not None
    assert defense.cost.decoder == decoded, "a repeated point is answered from memory"
    moved = (x + 0.05).clamp(0, 1)
    followed = surrogate(moved)[0]
    refined = (defense.refine_steps + 1) * len(x) * defense.num_classes
    assert defense.cost.decoder == decoded + refined
    full = defense.decide(moved, generator(0)).logits
    torch.testing.assert_close(followed, full, rtol=0.1, atol=0.5)


def test_more_latent_steps_explain_better() -> None:
    x = images(8)
    short, long = (
        member("d_abs", latent_steps=steps).explain(x, generator(0)).score for steps in (0, 60)
    )
    assert (long < short + 1e-4).float().mean() > 0.95


def test_new_weights_are_seen_by_inference() -> None:
    defense = member("abs")
    x = images(2)
    before = defense.decide(x, generator(0)).logits
    with torch.no_grad():
        defense.decoders.stem_bias.add_(0.5)
    assert not torch.equal(before, defense.decide(x, generator(0)).logits)


def test_inference_in_training_mode_is_refused() -> None:
    defense = member("abs").train()
    with pytest.raises(ValueError, match="evaluation mode"):
        defense.decide(images(1), generator(0))


@pytest.mark.parametrize("name", FAMILY)
def test_training_lowers_the_reconstruction_error(name: str) -> None:
    recipe = replace(cast(Synthesis, DEFENSES[name]), candidates=5)
    defense = recipe.build(TASKS["digits"]).train()
    learner = recipe.learner(defense, TASKS["digits"], None)
    x, y = images(60), torch.arange(60) % 10
    rng = generator(0)
    first = learner.update(x, y, rng)
    for _ in range(15):
        last = learner.update(x, y, rng)
    assert last["error"] < first["error"]
    assert ("discriminator" in last) is defense.prior.adversarial
    assert bool(last["discriminative"] > 0) is isinstance(defense.encoding, SharedEncoder)
    for parameter in defense.parameters():
        assert parameter.isfinite().all()


def test_each_class_encoder_learns_from_its_own_class_alone() -> None:
    recipe = cast(Synthesis, DEFENSES["abs"])
    defense = recipe.build(TASKS["digits"]).train()
    learner = recipe.learner(defense, TASKS["digits"], None)
    before = {name: value.clone() for name, value in defense.named_parameters()}
    learner.update(images(20), torch.full((20,), 3), generator(0))
    changed = {name for name, value in defense.named_parameters() if not value.equal(before[name])}
    encoders = {name.split(".")[1] for name in changed if name.startswith("encoders")}
    assert encoders == {"3"}
    stem = defense.decoders.stem_weight
    moved = (stem != before["decoders.stem_weight"]).flatten(1).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["a_abs", "eabs"])
def test_every_member_trains_on_every_kind_of_image(name: str, architecture: str) -> None:
    task = TASKS[architecture]
    defense = DEFENSES[name].build(task).train()
    x = torch.rand((20, *task.shape), generator=generator(1))
    losses = (
        DEFENSES[name].learner(defense, task, None).update(x, torch.arange(20) % 2, generator(0))
    )
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("name", ["a_abs", "eabs"])
def test_encoders_keep_statistics_of_their_own_images_alone(name: str) -> None:
    defense = DEFENSES[name].build(TASKS["digits"]).train()
    learner = DEFENSES[name].learner(defense, TASKS["digits"], None)
    learner.update(images(40), torch.arange(40) % 10, generator(0))
    counts = {
        int(value) for key, value in defense.encoders.state_dict().items() if "tracked" in key
    }
    assert counts == {1}


def test_latents_of_images_that_jumped_are_inferred_afresh() -> None:
    x = images(4)
    moved = x.clone()
    moved[:3] = 1 - moved[:3]
    spent, answers = {}, {}
    for radius in (0.5, 1e9):
        defense = member("ad_abs", latent_steps=20, follow_radius=radius)
        surrogate = defense.surrogate("fixed_latent", generator(2))
        surrogate(x)
        before = defense.cost.decoder
        answers[radius] = surrogate(moved)[0]
        spent[radius] = defense.cost.decoder - before
    full = defense.decide(moved, generator(0)).logits
    assert spent[0.5] - spent[1e9] == 3 * (20 + 2) * defense.num_classes
    assert (answers[0.5] - full).abs().max() < (answers[1e9] - full).abs().max()
