"""The learned inverter: on a plane, where the projection it imitates has a closed form."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from defenses import DEFENSES
from defenses.base import Explains, Task, Wrapped
from defenses.inquiry import to_pixels
from defenses.projection.learned_inverter import (
    InverterImitation,
    InverterLearner,
    LearnedInverter,
    Projects,
)
from defenses.purification import Purifier
from defenses.randomness import generator
from tests.asked import Plane, Protecting, Shift, images

TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)
VAE = Wrapped("defense_vae", DEFENSES["defense_vae"])
LABELS = torch.zeros(1000, dtype=torch.long)


def recipe(**fields: object) -> InverterImitation:
    small = {"asked": 80, "asked_per_epoch": 32, "batch_size": 32, "epsilons": (0.1,)}
    return replace(InverterImitation(summary="", target=VAE), **{**small, **fields})


def made(plane: Plane, **fields: object) -> tuple[LearnedInverter, InverterLearner]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = LearnedInverter(TASK, plane)
    learner = recipe(**fields).learner(defense, TASK, Shift())
    assert isinstance(learner, InverterLearner)
    return defense, learner


@pytest.fixture(scope="module")
def trained() -> tuple[LearnedInverter, Plane]:
    plane = Plane()
    defense, learner = made(plane, asked=512, asked_per_epoch=512)
    x = plane.sample(256, seed=1)
    for number in range(8):
        learner.update(x, LABELS[:256], generator(number))
    return defense.eval(), plane


def test_an_inverter_approaches_the_projection_on_images_it_never_saw(trained):
    defense, plane = trained
    fresh = plane.sample(200, seed=2)
    found, exact = (each.explain(fresh, generator(0)) for each in (defense, plane))
    missed, spread = (found - exact).square().mean(), (exact - exact.mean(dim=0)).square().mean()
    assert missed < 0.08 * spread
    found, exact = (each.decide(fresh, generator(0)).classes for each in (defense, plane))
    assert (found == exact).float().mean() > 0.8


def test_gradients_through_an_inverter_resemble_those_through_the_projection(trained):
    gradients = []
    for each in trained:
        leaf = trained[1].sample(100, seed=2).requires_grad_()
        logits, _ = each.surrogate(None, generator(0))(leaf)
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
        gradients.append(gradient.flatten(1))
    assert nn.functional.cosine_similarity(*gradients).mean() > 0.6


def test_the_target_explains_as_often_as_allowed_and_no_more():
    plane = Plane()
    _, learner = made(plane)
    counts = []
    for number in range(5):
        learner.update(images(40), LABELS[:40], generator(number))
        counts.append(plane.explained)
    assert counts == [32, 64, 80, 80, 80]


def test_answers_are_the_targets_projections_to_the_nearest_byte():
    plane = Plane()
    _, learner = made(plane, asked_per_epoch=80)
    learner.update(images(40), LABELS[:40], generator(0))
    points, answers = learner.transcript.points, learner.transcript.answers
    assert points is not None and answers is not None
    exact = plane.explain(to_pixels(points), generator(0))
    torch.testing.assert_close(to_pixels(answers), exact, rtol=0, atol=0.5 / 255 + 1e-6)


def test_an_update_minimises_the_squared_distance_of_the_projections():
    plane = Plane()
    defense, learner = made(plane, asked=32)
    before = deepcopy(defense)
    told = learner.update(images(16), LABELS[:16], generator(0))
    points, answers = learner.transcript.points, learner.transcript.answers
    assert points is not None and answers is not None
    apart = before.project(to_pixels(points)) - to_pixels(answers)
    expected = float(apart.square().sum().detach()) / 32
    assert float(told["squared error"]) == pytest.approx(expected, rel=1e-4)


def test_only_the_encoder_is_trained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = recipe().build(TASK)
    defense.target.eval()
    before = {key: value.clone() for key, value in defense.state_dict().items()}
    learner = recipe().learner(defense, TASK, Shift())
    learner.update(images(40), LABELS[:40], generator(0))
    assert isinstance(defense.target, Purifier)
    moved = {key for key, value in defense.state_dict().items() if not value.equal(before[key])}
    assert moved and all(key.startswith("encoder.") for key in moved)
    assert {f"encoder.{name}" for name, _ in defense.encoder.named_parameters()} <= moved
    assert all(weight.grad is None for weight in defense.target.parameters())


def test_a_search_that_ended_in_nan_is_left_out():
    plane = Plane(loses=lambda x: x[:, :, :1, :1] > 0.5)
    _, learner = made(plane)
    for number in range(3):
        losses = learner.update(images(40), LABELS[:40], generator(number))
        assert losses["squared error"].isfinite()
    points = learner.transcript.points
    assert points is not None and plane.explained == 80
    assert 10 < len(points) < 70
    assert bool((to_pixels(points)[:, 0, 0, 0] <= 0.5).all())


def test_a_resumed_training_does_not_ask_again():
    x = images(40)
    _, killed = made(Plane())
    for number in range(2):
        killed.update(x, LABELS[:40], generator(number))
    plane = Plane()
    _, resumed = made(plane)
    resumed.recall(killed.memory())
    resumed.update(x, LABELS[:40], generator(2))
    killed.update(x, LABELS[:40], generator(2))
    assert plane.explained == 16
    kept, expected = resumed.memory(), killed.memory()
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[key], expected[key]) for key in kept)


def test_an_inverter_answers_and_is_attacked_by_the_class_of_what_it_projects():
    defense, learner = made(Plane())
    defense.eval()
    x = images(5)
    expected = defense.target.classify(defense.explain(x, generator(0)))
    torch.testing.assert_close(defense.decide(x, generator(0)).logits, expected)
    logits, margin = defense.surrogate(None, generator(0))(x)
    torch.testing.assert_close(logits, expected)
    assert bool((margin == -torch.inf).all())
    y = expected.argmax(dim=1)
    assert learner.validate(x, y).all() and not learner.validate(x, (y + 1) % 10).any()


def test_the_target_is_contained():
    assert set(recipe().wraps()) == {"target"} and not recipe().queries()
    defense = recipe().build(TASK)
    assert isinstance(defense.target, Purifier) and isinstance(defense, Explains)
    assert defense.encoder(images(2)).shape == (2, defense.target.latent)


def test_purifiers_project_and_plain_networks_do_not():
    assert isinstance(Plane(), Projects)
    assert isinstance(VAE.build(TASK), Projects)
    with pytest.raises(ValueError, match=r"target must explain images by a decoder .* Protecting"):
        LearnedInverter(TASK, Protecting())
