"""Views that see the search for latents: as deployed on the way forth, exact on the way back."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from defenses import DEFENSES
from defenses.differentiable_adam import adam_step, remembered
from defenses.randomness import generator
from defenses.synthesis import GaussianPrior, PointPosterior, SharedEncoder
from defenses.synthesis.inference import InferenceSettings, LatentInference, Model
from defenses.synthesis.unrolling import UnrolledInference
from tests.test_synthesis import FAMILY, LinearDecoders, images, member

LONG = 50


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def slope(function, x: Tensor, direction: Tensor, h: float = 1e-6) -> Tensor:
    """The central difference along a direction."""
    return (function(x + h * direction) - function(x - h * direction)) / (2 * h)


def test_the_step_is_the_optimisers_and_differentiable_where_nothing_has_a_slope() -> None:
    gradients = torch.randn(30, 5, 3, generator=generator(0)) * torch.logspace(-6, 3, 5)[:, None]
    gradients[:, 0] = 0
    reference = torch.ones(5, 3).requires_grad_()
    optimizer = torch.optim.Adam([reference], lr=0.05)
    state = (torch.ones(5, 3), torch.zeros(5, 3), torch.zeros(5, 3))
    for number, gradient in enumerate(gradients, 1):
        reference.grad = gradient.clone()
        optimizer.step()
        state = adam_step(state, gradient, number, 0.05)
    torch.testing.assert_close(state[0], reference.detach(), rtol=1e-6, atol=1e-6)
    leaf = torch.zeros(2, requires_grad=True)
    moved = adam_step((torch.ones(2), torch.zeros(2), torch.zeros(2)), leaf, 1, 0.05)[0]
    assert torch.autograd.grad(moved.sum(), leaf)[0].isfinite().all()


def test_a_remembered_step_has_the_derivatives_of_the_step(double: None) -> None:
    def step(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a * b.sin(), b.square()

    a, b = (torch.randn(3, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: remembered(step, a, b), (a, b))
    assert torch.autograd.gradcheck(lambda b: remembered(step, a.detach(), b), (b,))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("steps", [0, 2, LONG])
def test_unrolled_scores_are_the_deployed_ones(name: str, steps: int) -> None:
    defense = member(name, latent_steps=6)
    defense.unrolled_steps = steps
    x = images(3)
    logits, margin = defense.surrogate("unrolled", generator(4))(x.requires_grad_())
    deployed = defense.decide(x.detach(), generator(4)).logits
    torch.testing.assert_close(logits.detach(), deployed, rtol=1e-4, atol=1e-3)
    assert (margin == -torch.inf).all()


@pytest.mark.parametrize(
    ("name", "candidates"),
    [("abs", 1), ("ad_abs", 1), ("eabs", 1), ("ad_abs", 500), ("eabs", 500)],
)
def test_unrolled_gradient_is_that_of_the_deployed_scores(
    name: str, candidates: int, double: None
) -> None:
    """Through the encoder's candidate where it won, and through all latent steps."""
    defense = member(name, latent_steps=4, candidates=candidates)
    x = images(2).double()
    noise = defense._noise(x, generator(4), 6)
    won = defense.inference().start(x, noise[:, 0]).suggested.float().mean()
    assert won > 0.5 if candidates == 1 else won < 0.5

    def scores(points: Tensor) -> Tensor:
        view = UnrolledInference(defense.inference(), lambda _: noise)
        return view(points)[0][:, :4].sum()

    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scores(point), point)
    for seed in range(3):
        direction = torch.randn(x.shape, generator=generator(seed))
        found, exact = (gradient * direction).sum(), slope(scores, x, direction)
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def test_the_encoder_has_a_part_in_the_gradient_only_where_all_steps_are_unrolled() -> None:
    defense = member("ad_abs", latent_steps=4, candidates=1)
    x = images(4).requires_grad_()
    for parameter in defense.encoders.parameters():
        parameter.requires_grad_()
    asked = list(defense.encoders.parameters())
    for steps, sees in ((4, True), (3, False)):
        defense.unrolled_steps = steps
        logits, _ = defense.surrogate("unrolled", generator(0))(x)
        found = torch.autograd.grad(logits.sum(), asked, allow_unused=True)
        assert any(each is not None and bool(each.abs().sum() > 0) for each in found) is sees


def test_without_unrolled_steps_the_gradient_is_equation_8s() -> None:
    defense = member("abs", candidates=500)
    defense.unrolled_steps = 0
    x = images(3).requires_grad_()
    unrolled, fixed = (
        torch.autograd.grad(defense.surrogate(name, generator(0))(x)[0][:, 2].sum(), x)[0]
        for name in ("unrolled", "fixed_latent")
    )
    torch.testing.assert_close(unrolled, fixed, rtol=1e-5, atol=1e-5)


class _Linear(nn.Module):
    """An encoder whose mean is linear in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(x.flatten(1))
        return mean, torch.zeros_like(mean)


def linear_inference(steps: int) -> LatentInference:
    decoders = LinearDecoders(0.3 * torch.randn(2, 16, 3), torch.rand(2, 16))
    model = Model(decoders, SharedEncoder(), _Linear(), GaussianPrior(0.7), None, PointPosterior())
    settings = InferenceSettings(candidates=1, latent_steps=steps, latent_rate=0.02)
    return LatentInference(model, settings)


def test_unrolled_gradient_becomes_equation_8s_where_the_search_has_converged() -> None:
    """The envelope theorem, on a ridge regression; after 3 steps it is something else."""
    apart = []
    for steps in (3, 600):
        torch.manual_seed(0)
        inference = linear_inference(steps)
        x = torch.rand(4, 1, 4, 4).requires_grad_()
        noise = torch.zeros(4, steps + 2, 2, 3)
        explanation = UnrolledInference(inference, lambda _, noise=noise: noise, steps).explain(
            x, noise
        )
        (gradient,) = torch.autograd.grad(explanation.score[:, 1].sum(), x)
        equation_8 = 2 * (x - explanation.reconstruction[:, 1])
        apart.append((gradient - equation_8).norm().item() / gradient.norm().item())
    assert apart[0] > 0.02
    assert apart[1] < 1e-3


def test_unrolled_latents_are_noise_of_the_image_and_the_generator() -> None:
    defense = member("v_abs")
    x = images(3)
    one = defense.surrogate("unrolled", generator(1))(x)[0]
    assert not torch.equal(one, defense.surrogate("unrolled", generator(2))(x)[0])
    alone = defense.surrogate("unrolled", generator(1))(x[1:2])[0]
    torch.testing.assert_close(alone, one[1:2], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["d_abs", "eabs"])
def test_the_encoders_proposal_is_differentiated_end_to_end(name: str, double: None) -> None:
    defense = member(name)
    x = images(2).double()

    def scores(points: Tensor) -> Tensor:
        noise = defense._noise(x, generator(3), 1)
        return type(view)(view.inference, lambda _: noise)(points)[0][:, 3].sum()

    view = defense._surrogate("encoder_proposal", generator(3))
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scores(point), point)
    direction = torch.randn(x.shape, generator=generator(0))
    torch.testing.assert_close(
        (gradient * direction).sum(), slope(scores, x, direction), rtol=1e-4, atol=1e-5
    )


def test_the_encoders_proposal_names_the_class_that_training_watches() -> None:
    defense = member("ad_abs", candidates=1)
    x = images(6)
    logits, _ = defense.surrogate("encoder_proposal", generator(0))(x)
    errors = defense.inference().explained(
        x, (defense.encoding.propose(defense.encoders, x, 10)[0],), torch.zeros(6, 10, 8)
    )
    torch.testing.assert_close(logits, -errors.score)
    assert torch.equal(member("d_abs").suggested(x), _suggested_by_view(x))


def _suggested_by_view(x: Tensor) -> Tensor:
    return member("d_abs").surrogate("encoder_proposal", generator(0))(x)[0].argmax(dim=1)


def test_the_default_view_and_the_recipes_text_know_nothing_of_unrolling() -> None:
    defense = member("eabs")
    assert defense.surrogate_names[0] == "fixed_latent"
    assert defense.unrolled_steps == LONG
    assert "unrolled" not in DEFENSES["eabs"].deployed()
