"""The contract that every registered defense keeps."""

from dataclasses import replace

import pytest
import torch

from benchmark.catalog import recipe_for
from benchmark.presets import PRESETS
from defenses import DEFENSES
from defenses.base import Defense, Surrogate, Task
from defenses.randomness import generator

TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)


def built(name: str) -> Defense:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return recipe_for(name, PRESETS["smoke"], "digits").build(TASK).eval().requires_grad_(False)


def images(count: int) -> torch.Tensor:
    return torch.rand((count, 1, 8, 8), generator=generator(1))


@pytest.fixture(params=list(DEFENSES))
def defense(request: pytest.FixtureRequest) -> Defense:
    return built(request.param)


def test_defense_decides_alike_in_any_batch_and_order(defense: Defense) -> None:
    x = images(5)
    together = defense.decide(x, generator(3)).logits
    reversed_order = defense.decide(x.flip(0), generator(3)).logits.flip(0)
    alone = torch.cat([defense.decide(row, generator(3)).logits for row in x.split(1)])
    torch.testing.assert_close(reversed_order, together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


def test_defense_is_stochastic_exactly_where_it_says_so(defense: Defense) -> None:
    x = images(3)
    first, second = (defense.decide(x, generator(seed)).logits for seed in (1, 2))
    assert torch.equal(first, second) is not defense.stochastic
    assert torch.equal(first, defense.decide(x, generator(1)).logits)


def test_defense_leaves_images_and_global_randomness_alone(defense: Defense) -> None:
    x = images(3)
    before, state = x.clone(), torch.get_rng_state()
    defense.decide(x, generator(0))
    defense.surrogate(None, generator(0))(x)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_defense_answers_in_its_own_classes_and_counts_the_call(defense: Defense) -> None:
    decision = defense.decide(images(4), generator(0))
    assert decision.logits.shape == (4, defense.num_classes)
    assert decision.logits.isfinite().all()
    assert defense.can_reject or not decision.rejected.any()
    assert defense.cost.forward == 4


@pytest.mark.parametrize("name", DEFENSES)
def test_surrogates_give_gradients_and_count_them(name: str) -> None:
    defense = built(name)
    for surrogate_name in defense.surrogate_names:
        surrogate = defense.surrogate(surrogate_name, generator(0))
        assert isinstance(surrogate, Surrogate)
        x = images(2).requires_grad_()
        logits, margin = surrogate(x)
        (gradient,) = torch.autograd.grad(logits.sum(), x)
        assert gradient.abs().sum() > 0
        assert bool((margin <= 0).all()) or defense.can_reject
    assert defense.cost.backward == 2 * len(defense.surrogate_names)


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
