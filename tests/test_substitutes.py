"""Substitutes: the layers of Table 6, and training on a target's answers alone."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from benchmark.catalog import recipe_for
from benchmark.presets import PRESETS
from benchmark.schedule import Schedule
from defenses import DEFENSES
from defenses.base import Task
from defenses.cnn import FeedForward, network_of
from defenses.randomness import generator
from defenses.substitutes import (
    TABLE_6,
    AugmentingImitation,
    Imitation,
    Substitute,
    answers,
    network,
)
from tests.linear import Linear

TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)


def parts(letter: str, kind: type[nn.Module]) -> list[nn.Module]:
    layers = TABLE_6[letter]  # type: ignore[index]
    return [each for each in network((1, 28, 28), layers, 10) if isinstance(each, kind)]


@pytest.mark.parametrize(
    ("letter", "kernels", "dense", "dropout"),
    [
        ("A", [(64, 5, 1), (64, 5, 2)], [128, 10], [0.25, 0.5]),
        ("B", [(64, 8, 2), (128, 6, 2), (128, 5, 1)], [10], [0.2, 0.5]),
        ("C", [(128, 3, 1), (64, 3, 2)], [128, 10], [0.25, 0.5]),
        ("D", [], [200, 200, 10], [0.5, 0.5]),
        ("E", [], [200, 200, 10], []),
    ],
)
def test_networks_are_those_of_table_6(letter, kernels, dense, dropout):
    convolutions = cast(list[nn.Conv2d], parts(letter, nn.Conv2d))
    found = [(each.out_channels, each.kernel_size[0], each.stride[0]) for each in convolutions]
    assert found == kernels
    linear = cast(list[nn.Linear], parts(letter, nn.Linear))
    assert [each.out_features for each in linear] == dense
    chances = [each.p for each in cast(list[nn.Dropout], parts(letter, nn.Dropout))]
    assert [chance for chance in chances if chance] == dropout


@pytest.mark.parametrize("letter", TABLE_6)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_networks_take_images_of_any_size(letter, shape):
    assert network(shape, TABLE_6[letter], 10)(torch.rand(2, *shape)).shape == (2, 10)


class Target(Linear):
    """A linear target; like every defense it counts how many images it was asked about."""

    def __init__(self) -> None:
        weight = torch.randn((10, 64), generator=generator(0))
        super().__init__(weight - weight.mean(), -(weight - weight.mean()).sum(dim=1) / 2)


def built(spec: str) -> tuple[FeedForward, Imitation | AugmentingImitation]:
    recipe = cast(Substitute, recipe_for(spec, PRESETS["smoke"], "digits"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = recipe.build(TASK)
        learner = recipe.learner(defense, TASK, None)
    assert isinstance(learner, Imitation | AugmentingImitation)
    learner.queried = {"target": Target()}
    return defense, learner


def images(count: int) -> Tensor:
    return torch.rand((count, 1, 8, 8), generator=generator(1))


def test_a_substitute_learns_the_targets_answers_and_never_the_labels():
    defense, learner = built("substitute_e")
    x, wrong = images(256), torch.zeros(256, dtype=torch.long)
    for step in range(60):
        learner.update(x, wrong, generator(step))
    asked = answers(learner.queried["target"], x, generator(0))
    agreement = (defense.decide(x, generator(0)).classes == asked).float().mean()
    assert float(agreement) > 0.95
    assert torch.equal(learner.validate(x, wrong), defense.decide(x, generator(0)).classes == 0)


def test_the_target_is_queried_and_not_contained():
    recipe = recipe_for("substitute_a[target=cnn]", PRESETS["smoke"], "digits")
    assert set(recipe.queries()) == {"target"} and not recipe.wraps()
    assert recipe.queries()["target"].name == "cnn"
    defense = recipe.build(TASK)
    assert not any("target" in name for name, _ in defense.named_parameters())


def test_every_round_of_the_augmentation_asks_about_as_many_points_again():
    _, learner = built("substitute_e[seed_images=20,epochs_per_round=2]")
    assert isinstance(learner, AugmentingImitation)
    x, y, target = images(20), torch.zeros(20, dtype=torch.long), learner.queried["target"]
    for round_, asked in enumerate((20, 40, 80)):
        learner.update(x, y, generator(round_))
        assert target.cost.forward == asked
        assert learner.points is not None and len(learner.points) == asked
    assert torch.equal(learner.points[:20], x)
    assert torch.equal(learner.asked, answers(target, learner.points, generator(9)))


def test_points_move_along_the_sign_of_the_answers_gradient():
    network_ = Linear(torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.zeros(2))
    student = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    cast(nn.Linear, student[1]).weight.data = network_.weight.data
    adam = torch.optim.Adam(student.parameters())
    learner = AugmentingImitation(student, network_, adam, step=0.1, epochs=1, batch_size=2)
    x = torch.tensor([0.5, 0.05]).reshape(1, 1, 1, 2)
    # d log p_0 / dx = p_1 (w_0 - w_1), of sign (+, -); the second pixel stops at black.
    moved = learner.outward(x, torch.tensor([0]))
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.6, 0.0]))
    moved = learner.outward(x, torch.tensor([1]))
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.4, 0.15]))


def test_a_round_goes_on_from_what_a_checkpoint_remembers():
    _, learner = built("substitute_e[seed_images=20,epochs_per_round=2]")
    assert learner.memory() == {}
    learner.update(images(20), torch.zeros(20, dtype=torch.long), generator(0))
    _, other = built("substitute_e[seed_images=20,epochs_per_round=2]")
    other.recall(learner.memory())
    assert isinstance(other, AugmentingImitation) and isinstance(learner, AugmentingImitation)
    assert torch.equal(cast(Tensor, other.points), cast(Tensor, learner.points))


def test_seed_images_are_the_same_in_every_round_and_no_more_than_there_are():
    recipe = replace(cast(Substitute, DEFENSES["substitute_a"]), seed_images=15)
    labels = torch.zeros(50, dtype=torch.long)
    (first,), (second,) = (list(recipe.batches(labels, generator(seed))) for seed in (0, 1))
    assert torch.equal(first, second) and len(first.unique()) == 15
    with pytest.raises(ValueError, match="seed_images must be at most the 10 training images"):
        list(recipe.batches(labels[:10], generator(0)))


def test_a_network_is_its_own_surrogate():
    defense, _ = built("substitute_d")
    x = images(3)
    defense.eval()
    logits, _ = defense.surrogate(None, generator(0))(x)
    torch.testing.assert_close(logits, network_of(defense)(x))


def test_rounds_are_not_stretched_where_images_are_few():
    recipe = replace(cast(Substitute, DEFENSES["substitute_a"]), epochs=6, least_updates=500)
    assert Schedule.of(recipe, 1000) == Schedule(epochs=168, batches=3, halve_every=0, stretch=28)
    rounds = replace(recipe, seed_images=150)
    assert Schedule.of(rounds, 1000) == Schedule(epochs=6, batches=1, halve_every=0)
