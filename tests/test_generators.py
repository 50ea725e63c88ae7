"""Generative models before a classifier: the VAEs, what every family keeps, and the classifiers."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from benchmark.catalog import value_of
from defenses import DEFENSES
from defenses.base import Task
from defenses.cnn import network_of
from defenses.projection import pyramid
from defenses.projection.began import BEGAN
from defenses.projection.families import FAMILIES, Kind, family_for, suited
from defenses.projection.generator import EncodingModel
from defenses.projection.vae import (
    ConvolutionalVAE,
    DenseVAE,
    bernoulli,
    calibrated_gaussian,
)
from defenses.projection.wgan import WGAN
from defenses.randomness import generator
from tests.generators import RATE, SHAPE, begun, built, halves, images, parameters
from tests.reference import generators as reference
from tests.reference import purification

TINY: dict[Kind, Any] = {
    Kind.DENSE_VAE: DenseVAE(width=16, latent=3),
    Kind.CONVOLUTIONAL_VAE: ConvolutionalVAE(width=4, latent=3),
    Kind.BEGAN: BEGAN(width=4, latent=3),
    Kind.WGAN: WGAN(width=4, latent=3, critic_steps=3),
}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Any:
    return TINY[request.param]


def test_the_vae_for_mnist_is_as_large_as_the_papers():
    vae = built(DenseVAE(), (1, 28, 28))
    assert parameters(vae.decoder) == 653_784  # .654 M
    assert parameters(vae) - parameters(vae.decoder) == 663_040


def test_dense_layers_of_the_vae_are_those_of_its_source():
    vae = built(DenseVAE(), (1, 28, 28))
    layers = [each for each in vae.modules() if isinstance(each, nn.Linear)]
    sizes = [(each.in_features, each.out_features) for each in layers]
    assert sizes == [
        *((784, 500), (500, 500), (500, 20), (500, 20)),
        *((20, 500), (500, 500), (500, 784)),
    ]
    assert sum(isinstance(each, nn.Softplus) for each in vae.modules()) == 4
    for layer, (before, after) in zip(layers, sizes, strict=True):
        assert not layer.bias.any()
        assert float(layer.weight.detach().std()) == pytest.approx(
            (2 / (before + after)) ** 0.5, rel=0.05
        )


def test_bernoulli_is_the_cross_entropy_summed_over_pixels():
    drawn, x = torch.randn((3, 1, 3, 3), generator=generator(0)), images(3, (1, 3, 3))
    expected = purification.cross_entropy(torch.sigmoid(drawn), x) / 3
    assert float(bernoulli(drawn, x)) == pytest.approx(expected)


def test_calibrated_gaussian_is_the_likelihood_under_the_best_variance():
    x = images(3, (3, 4, 4))
    near, far = (torch.logit(x, 0.01) + noise for noise in (0.5, 2.0))
    expected = [reference.least_gaussian(torch.sigmoid(drawn), x) for drawn in (near, far)]
    found = [float(calibrated_gaussian(drawn, x)) for drawn in (near, far)]
    assert found[1] - found[0] == pytest.approx(expected[1] - expected[0], rel=1e-3)


def test_calibrated_gaussian_of_a_perfect_image_is_that_of_a_rounded_one():
    drawn = torch.randn((2, 1, 3, 3), generator=generator(0)).requires_grad_()
    value = calibrated_gaussian(drawn, torch.sigmoid(drawn).detach())
    (slope,) = torch.autograd.grad(value, drawn)
    assert float(value.detach()) == pytest.approx(9 / 2 * math.log(1 / 255**2 / 12))
    assert torch.equal(slope, torch.zeros_like(slope))


def test_the_posteriors_deviation_is_the_root_of_its_variance():
    model, x = built(TINY[Kind.DENSE_VAE]), images(3)
    mean, deviation = model.posterior(x)
    torch.testing.assert_close(mean, model.encode(x))
    torch.testing.assert_close(deviation.square().log(), model.log_variance(model.features(x)))


@pytest.mark.parametrize("kind", [Kind.DENSE_VAE, Kind.CONVOLUTIONAL_VAE])
def test_an_update_of_a_vae_descends_the_evidence_lower_bound(kind):
    family, x = TINY[kind], images(5)
    model = built(family)
    mean, deviation = model.posterior(x)
    z = mean + deviation * torch.randn((5, 3), generator=generator(2))
    likelihood = bernoulli if kind is Kind.DENSE_VAE else calibrated_gaussian
    error = likelihood(model.decoder(z), x)
    kl = purification.divergence(mean, deviation).sum(dim=1).mean()
    weights = list(model.parameters())
    expected = torch.autograd.grad(error + kl, weights)
    losses = begun(family, model).update(x, generator(2))
    torch.testing.assert_close(losses["reconstruction"], error.detach())
    torch.testing.assert_close(losses["divergence"], kl.detach())
    for weight, slope in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "steps"), [(DenseVAE(64, 2), 150), (ConvolutionalVAE(8, 2), 200)]
)
def test_a_vae_learns_to_restore_two_kinds_of_images(family, steps):
    model, x = built(family), halves(16)
    fitting, rng = begun(family, model, rate=3e-3), generator(0)

    def error() -> float:
        with torch.no_grad():
            return float((model.decode(model.encode(x)) - x).square().flatten(1).sum(dim=1).mean())

    before = error()
    for _ in range(steps):
        fitting.update(x, rng)
    assert error() < before / 10
    assert not torch.allclose(model.encode(x[:1]), model.encode(x[1:2]), atol=0.5)


@pytest.mark.parametrize(
    ("side", "sizes"),
    [(28, [4, 7, 14, 28]), (32, [4, 8, 16, 32]), (8, [4, 8]), (10, [3, 5, 10]), (5, [3, 5])],
)
def test_sides_are_halved_and_rounded_up_to_at_most_four(side, sizes):
    assert pyramid.sizes((1, side, side)) == [(each, each) for each in sizes]


def test_sides_of_images_that_are_not_square_are_halved_together():
    assert pyramid.sizes((3, 16, 8)) == [(4, 2), (8, 4), (16, 8)]


def test_channels_fall_to_the_width_towards_the_image():
    assert pyramid.channels(64, 3) == [256, 128, 64]
    assert pyramid.channels(64, 5) == [256, 128, 64, 64, 64]


@pytest.mark.parametrize("kind", [Kind.CONVOLUTIONAL_VAE, Kind.WGAN])
def test_images_that_cannot_be_halved_are_refused(kind):
    with pytest.raises(ValueError, match=r"must be above 4, got 4x9; use a dense generator"):
        TINY[kind].build((1, 4, 9))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (Kind.DENSE_VAE, (1, 28, 28)),
        (Kind.DENSE_VAE, (3, 5, 7)),
        (Kind.CONVOLUTIONAL_VAE, (3, 32, 32)),
        (Kind.CONVOLUTIONAL_VAE, (1, 28, 28)),
        (Kind.CONVOLUTIONAL_VAE, (3, 64, 48)),
        (Kind.BEGAN, (3, 64, 64)),
        (Kind.BEGAN, (1, 16, 16)),
        (Kind.WGAN, (1, 28, 28)),
        (Kind.WGAN, (3, 32, 32)),
        (Kind.WGAN, (1, 9, 6)),
    ],
)
def test_a_model_draws_images_of_its_shape_and_range(kind, shape):
    model = built(TINY[kind], shape)
    drawn = model.decode(10 * torch.randn((4, 3), generator=generator(0)))
    assert drawn.shape == (4, *shape)
    assert drawn.min() >= 0 and drawn.max() <= 1
    if isinstance(model, EncodingModel):
        assert model.encode(images(2, shape)).shape == (2, 3)


def test_a_drawn_image_depends_on_its_latent_alone(family):
    model = built(family).eval()
    z = torch.randn((3, model.latent), generator=generator(0))
    alone = torch.cat([model.decode(row[None]) for row in z])
    torch.testing.assert_close(model.decode(z), alone)
    assert not torch.allclose(alone[0], alone[1])


def test_models_begin_from_the_global_generator_and_updates_ask_only_their_own(family):
    x = images(4)
    runs = []
    for seed in (2, 2, 3):
        fitting = begun(family, built(family))
        state = torch.get_rng_state()
        losses = [fitting.update(x, generator(seed)) for _ in range(4)]
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(value.requires_grad for each in losses for value in each.values())
        runs.append(torch.cat([each.flatten() for each in fitting.model.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_fitting_resumes_where_it_was_cut_off(family):
    x = images(12).split(4)

    def go_on(fitting: Any, first: int, last: int) -> None:
        for step in range(first, last):
            fitting.update(x[step % 3], generator(step))

    whole = begun(family, built(family))
    go_on(whole, 0, 7)
    cut = begun(family, built(family))
    go_on(cut, 0, 4)
    memory = load(save({key: value.clone() for key, value in cut.memory().items()}))
    resumed = begun(family, built(family), seed=5)
    resumed.model.load_state_dict(cut.model.state_dict())
    resumed.recall(memory)
    for optimizer, kept in zip(resumed.optimizers, cut.optimizers, strict=True):
        optimizer.load_state_dict(kept.state_dict())
    go_on(resumed, 4, 7)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    assert resumed.memory().keys() == whole.memory().keys()
    for name, kept in whole.memory().items():
        assert torch.equal(resumed.memory()[name], kept), name


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (Kind.DENSE_VAE, Kind.WGAN),
        (Kind.CONVOLUTIONAL_VAE, Kind.BEGAN),
        (Kind.BEGAN, Kind.DENSE_VAE),
        (Kind.WGAN, Kind.DENSE_VAE),
    ],
)
def test_a_family_does_not_fit_anothers_model(kind, other):
    with pytest.raises(ValueError, match=r"model must be a .*; fit it by the family that built it"):
        TINY[kind].fitting(built(TINY[other]), RATE)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1, 28, 28), Kind.DENSE_VAE),
        ((1, 8, 8), Kind.DENSE_VAE),
        ((3, 64, 64), Kind.BEGAN),
        ((3, 32, 32), Kind.CONVOLUTIONAL_VAE),
        ((3, 128, 128), Kind.CONVOLUTIONAL_VAE),
        ((1, 64, 64), Kind.DENSE_VAE),
    ],
)
def test_the_papers_choice_is_by_the_shape_of_the_images(shape, kind):
    assert suited(shape) is kind
    assert family_for(Kind.PAPER, shape) == FAMILIES[kind]


def test_every_kind_but_the_papers_choice_is_a_family():
    assert set(FAMILIES) == set(Kind) - {Kind.PAPER}


def test_a_family_can_be_made_narrower():
    family = family_for(Kind.PAPER, (1, 28, 28), width=40, latent=5)
    assert family == DenseVAE(width=40, latent=5)
    assert family_for(Kind.WGAN, (1, 28, 28), width=8) == replace(FAMILIES[Kind.WGAN], width=8)
    with pytest.raises(ValueError, match=r"width must be positive, or 0 .*, got -1; raise it"):
        family_for(Kind.WGAN, (1, 28, 28), width=-1)


def test_a_specification_names_a_kind():
    assert value_of("defense", "inc", "generator", "wgan", {"generator": Kind}) is Kind.WGAN


def task(shape: tuple[int, int, int], classes: int) -> Task:
    return Task(shape, classes, "mnist", 0.2, 0.3, 1.5)


def test_classifiers_are_as_large_as_the_tutorials():
    recipe = DEFENSES["inc_classifier"]
    assert parameters(recipe.build(task((1, 28, 28), 10))) == 3_274_634
    assert parameters(recipe.build(task((3, 64, 64), 2))) == 6_473_474


@pytest.mark.parametrize("shape", [(1, 7, 10), (3, 9, 6)])
def test_a_classifier_takes_images_of_any_size(shape):
    network = network_of(DEFENSES["inc_classifier"].build(task(shape, 4)))
    assert network(images(2, shape)).shape == (2, 4)


def test_colours_are_centred_before_the_first_convolution():
    network = network_of(DEFENSES["inc_classifier"].build(task((3, 8, 8), 4)))
    assert torch.equal(network[0](torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))
    assert isinstance(network[1], nn.Conv2d)


def test_responses_are_normalised_as_in_the_tutorial():
    network = network_of(DEFENSES["inc_classifier"].build(task((3, 8, 8), 4)))
    norms = [each for each in network if isinstance(each, nn.LocalResponseNorm)]
    x = 20 * torch.randn((2, 12, 3, 3), generator=generator(0))
    assert len(norms) == 2
    torch.testing.assert_close(norms[0](x), reference.response_normalised(x))


def test_dropout_acts_in_training_only_and_must_leave_something():
    network = network_of(DEFENSES["inc_classifier"].build(task(SHAPE, 4)))
    x = images(2)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        replace(DEFENSES["inc_classifier"], dropout=1.0)


def test_a_classifier_learns_two_kinds_of_images():
    recipe = replace(DEFENSES["inc_classifier"], learning_rate=1e-3)
    small = task(SHAPE, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = recipe.build(small)
        learner = recipe.learner(defense, small, None)
        x, y = halves(8), torch.arange(8) % 2
        for step in range(10):
            learner.update(x, y, generator(step))
    defense.eval()
    assert learner.validate(x, y).all()
