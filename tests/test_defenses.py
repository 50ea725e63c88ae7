"""The contract that every registered defense keeps."""

from dataclasses import replace

import pytest
import torch

from benchmark.catalog import recipe_for
from benchmark.conform import Built
from benchmark.contracts import DEFENSE_CHECKS, DefenseTrial
from benchmark.presets import PRESETS
from defenses import DEFENSES
from defenses.base import Defense, Task
from defenses.randomness import generator

TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)


def loaded(name: str) -> Built:
    return Built(recipe_for(name, PRESETS["smoke"], "digits"), TASK)


def images(count: int) -> torch.Tensor:
    return torch.rand((count, 1, 8, 8), generator=generator(1))


@pytest.fixture(params=list(DEFENSES))
def defense(request: pytest.FixtureRequest) -> Defense:
    return loaded(request.param)("cpu")


@pytest.mark.parametrize("promise", DEFENSE_CHECKS)
@pytest.mark.parametrize("name", DEFENSES)
def test_defense_keeps_its_promise(name: str, promise: str) -> None:
    finding = DEFENSE_CHECKS[promise](DefenseTrial(loaded(name), images(5)))
    assert not isinstance(finding, str), finding


def test_an_unknown_surrogate_is_named_with_those_that_exist(defense: Defense) -> None:
    with pytest.raises(LookupError, match=f"available: {defense.surrogate_names[0]}"):
        defense.surrogate("no_such_view", generator(0))


@pytest.mark.parametrize("name", DEFENSES)
def test_recipe_text_names_what_weights_depend_on(name: str) -> None:
    recipe = DEFENSES[name]
    assert replace(recipe, epochs=recipe.epochs + 1).training() != recipe.training()
    assert replace(recipe, summary="another").training() == recipe.training()
    for field in recipe.inference_fields:
        changed = replace(recipe, **{field: 0.5 if field == "coverage" else 7})
        assert changed.training() == recipe.training()
