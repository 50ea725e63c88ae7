"""Deep Image Prior: the grouped network, its descent, and the defense."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses.base import Explains
from defenses.projection.deep_image_prior import DeepImagePrior
from defenses.projection.redrawing import Redrawing
from defenses.projection.skip_network import SkipNetwork, Weights
from defenses.randomness import generator, row_generators
from tests.linear import Linear, random_linear
from tests.reference.skip_network import Reference, kernel

TINY = SkipNetwork(scales=2, width=6, skip=2, inputs=4)
PRIOR = DeepImagePrior(network=TINY, steps=40, error=0.0)


def pictures(count: int, side: int = 8, channels: int = 1) -> Tensor:
    """Smooth images."""
    rng = generator(11)
    small = torch.rand((count, channels, 2, 2), generator=rng)
    return torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")


def weights_of(network: SkipNetwork, shape: tuple[int, int, int], count: int) -> list[Weights]:
    """Random, with gains and shifts that are not trivial, in double precision."""
    found = []
    for seed in range(count):
        rng = generator(seed)
        drawn = network.begin(shape, rng)
        found.append(
            {
                name: each.double() + 0.1 * torch.randn(each.shape, generator=rng).double()
                for name, each in drawn.items()
            }
        )
    return found


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 13, 20)])
def test_the_grouped_network_is_ulyanovs_one_by_one(shape: tuple[int, int, int]) -> None:
    network = SkipNetwork(width=5, skip=3, inputs=7)
    own = weights_of(network, shape, 2)
    together = {name: torch.stack([w[name] for w in own]).requires_grad_() for name in own[0]}
    z = torch.rand((2, 7, *shape[1:]), generator=generator(5)).double()
    target = torch.rand((2, *shape), generator=generator(6)).double()
    drawn = network.draw(together, z)
    (drawn - target).square().sum().backward()
    for i, weights in enumerate(own):
        depth = network.depth(*shape[1:])
        alone = Reference(depth, 5, 3, 7, shape[0]).double().take(weights).train()
        expected = alone(z[i : i + 1])
        (expected - target[i : i + 1]).square().sum().backward()
        torch.testing.assert_close(drawn[i], expected[0])
        slopes = {name: slope_of(each)[i] for name, each in together.items()}
        for number, scale in enumerate(alone.scales()):
            for name in ("skip", "down", "same", "up", "mix"):
                body = getattr(scale, name)
                ours = kernel(slopes, f"{number}.{name}")
                torch.testing.assert_close(ours, body[0][-1].weight.grad, rtol=1e-6, atol=1e-10)
                gain = slopes[f"{number}.{name}.gain"]
                torch.testing.assert_close(gain, body[1].weight.grad, rtol=1e-6, atol=1e-10)


def slope_of(weights: Tensor) -> Tensor:
    assert weights.grad is not None
    return weights.grad


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    ours = sum(each.numel() for each in SkipNetwork().begin((3, 64, 64), generator(0)).values())
    cancelled = 5 * (4 + 4 * 128)  # biases before a normalisation
    assert ours + cancelled == 2_217_831
    reference = Reference(5, 128, 4, 32, 3)
    assert sum(each.numel() for each in reference.parameters()) == 2_217_831


@pytest.mark.parametrize(("side", "depth"), [(3, 1), (8, 2), (28, 4), (32, 4), (64, 5), (224, 5)])
def test_maps_are_halved_while_two_pixels_remain(side: int, depth: int) -> None:
    assert SkipNetwork().depth(side, side) == depth


def slow(prior: DeepImagePrior, x: Tensor) -> Tensor:
    """One image by PyTorch's layers and Adam, with the same randomness."""
    (row,) = row_generators(generator(3), x)
    shape = (prior.network.inputs, *x.shape[2:])
    z = prior.input_scale * torch.rand(shape, generator=row)
    channels, height, width = x.shape[1:]
    weights = prior.network.begin((channels, height, width), row)
    depth = prior.network.depth(height, width)
    sizes = (prior.network.width, prior.network.skip, prior.network.inputs)
    model = Reference(depth, *sizes, channels).take(weights).train()
    adam = torch.optim.Adam(model.parameters(), lr=prior.rate)
    drawn = x
    for _ in range(prior.steps):
        noise = torch.randn(shape, generator=row)
        drawn = model((z + prior.noise_std * noise)[None])
        loss = (drawn - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return drawn.detach()


def test_redrawing_is_the_descent_of_a_network_of_its_own() -> None:
    prior = replace(PRIOR, steps=6)
    x = pictures(3)
    found = prior.redraw(x, generator(3))
    for i in range(3):
        # The reference keeps the biases that a normalisation cancels: rounding moves them a little.
        torch.testing.assert_close(
            found.images[i : i + 1], slow(prior, x[i : i + 1]), atol=2e-3, rtol=0
        )


def test_redrawing_an_image_does_not_depend_on_its_batch() -> None:
    x = pictures(5)
    prior = replace(PRIOR, steps=15, error=0.02, at_once=3)
    together = prior.redraw(x, generator(0))
    for i in range(5):
        alone = prior.redraw(x[i : i + 1], generator(0))
        torch.testing.assert_close(alone.images[0], together.images[i], atol=1e-3, rtol=0)
        assert alone.steps[0] == together.steps[i]


def test_images_below_the_error_leave_and_the_others_go_on() -> None:
    smooth = torch.full((1, 1, 8, 8), 0.5)
    noise = torch.rand((1, 1, 8, 8), generator=generator(2))
    x = torch.cat([smooth, noise])
    prior = replace(PRIOR, steps=60, error=0.01)
    found = prior.redraw(x, generator(0))
    assert found.errors[0] < 0.01
    assert found.steps[0] < found.steps[1]
    whole = replace(prior, error=0.0).redraw(x, generator(0))
    longer = replace(prior, error=0.0, steps=int(found.steps[1])).redraw(x, generator(0))
    assert bool((whole.steps == 60).all())
    torch.testing.assert_close(found.images[1], longer.images[1], atol=1e-3, rtol=0)


def test_smooth_images_are_drawn_before_noise() -> None:
    x = pictures(2, side=32)
    noisy = (x + 0.2 * torch.randn(x.shape, generator=generator(1))).clamp(0, 1)
    prior = DeepImagePrior(network=SkipNetwork(width=16), steps=80, error=0.0)
    found = prior.redraw(noisy, generator(0))
    before = (noisy - x).square().mean()
    assert (found.images - x).square().mean() < 0.5 * before


def defense(**changes: Any) -> Redrawing:
    return Redrawing(Linear(*random_linear()), replace(PRIOR, steps=3, **changes)).eval()


def test_a_descent_without_finite_numbers_refuses_the_image() -> None:
    x = torch.rand((2, 1, 4, 4), generator=generator(0))
    broken = x.clone()
    broken[0, 0, 0, 0] = torch.nan
    decision = defense().decide(broken, generator(0))
    assert decision.rejected.tolist() == [True, False]
    assert bool(decision.logits.isfinite().all())


def test_the_identity_view_redraws_forward_and_passes_gradients_back() -> None:
    own = defense()
    x = torch.rand((2, 1, 4, 4), generator=generator(0)).requires_grad_()
    logits, _ = own.surrogate("identity_bpda", generator(4))(x)
    (slope,) = torch.autograd.grad(logits[:, 2].sum(), x)
    classifier = Linear(*random_linear())
    torch.testing.assert_close(slope, classifier.weight[2].reshape(1, 1, 4, 4).expand_as(slope))
    assert (logits - classifier.logits(x)).abs().max() > 0.1
    assert isinstance(own, Explains)


def test_every_query_and_every_seed_has_networks_of_its_own() -> None:
    own = defense()
    x = torch.rand((2, 1, 4, 4), generator=generator(0))
    view = own.surrogate("identity_bpda", generator(4))
    assert not torch.equal(view(x)[0], view(x)[0])
    again = own.surrogate("identity_bpda", generator(4))
    first = own.surrogate("identity_bpda", generator(4))
    assert torch.equal(first(x)[0], again(x)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SkipNetwork(width=0), "width must be at least 1, got 0"),
        (lambda: SkipNetwork().depth(2, 2), "at least 3 pixels on each side, got 2x2"),
        (lambda: DeepImagePrior(steps=0), "steps must be at least 1, got 0"),
        (lambda: DeepImagePrior(rate=0.0), "rate must be finite and above 0"),
        (lambda: DeepImagePrior(error=-1.0), "error must be finite and not negative"),
    ],
)
def test_impossible_settings_are_refused_in_words(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
