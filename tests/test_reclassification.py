"""Reclassification: a slow search per class as reference, and what stays the base's."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from defenses import DEFENSES
from defenses.base import Task
from defenses.gmvae import Reclassification, Reclassifying
from defenses.randomness import generator
from tests.test_gmvae import images

TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)


def built(**fields: object) -> Reclassifying:
    """An untrained one that refuses about half of noise images."""
    recipe = DEFENSES["gmvae_reclassify"]
    assert isinstance(recipe, Reclassification)
    recipe = replace(recipe, **{"steps": 15, **fields})  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = recipe.build(TASK).eval().requires_grad_(False)
    base, held = defense.base, images(200, 2)
    z = base.encoder(held)
    base.rejection.measure_covariances(z, torch.arange(200) % 10)
    base.rejection.measure_scores(
        base.rejection.distances(z, base.logits(z).argmax(dim=1)), base.errors(held, z)
    )
    base.rejection.default.copy_(base.rejection.levels[1000])
    return defense


def latents_one_by_one(defense: Reclassifying, x: Tensor, steps: int) -> Tensor:
    """Eq. 9 as one would write it first: one optimiser per image and class."""
    found = []
    for image in x:
        for mean in defense.rejection.means:
            z = mean[None].clone().requires_grad_()
            adam = torch.optim.Adam([z], lr=0.01)
            for _ in range(steps):
                adam.zero_grad()
                (defense.decoder(z) - image).square().sum().backward()
                adam.step()
            found.append(z.detach()[0])
    return torch.stack(found).reshape(len(x), 10, -1)


def test_latents_are_those_of_one_search_per_image_and_class() -> None:
    # In double precision: Adam's steps blow up the rounding of gradients that are nearly 0.
    defense, x = built().double(), images(3).double()
    together = defense.search.run(defense.base, x, defense.means(3), 15)
    torch.testing.assert_close(together, latents_one_by_one(defense, x, 15), rtol=1e-4, atol=1e-5)
    chunked = replace(defense.search, at_once=7).run(defense.base, x, defense.means(3), 15)
    torch.testing.assert_close(chunked, together, rtol=1e-5, atol=1e-6)


def test_refused_images_get_the_class_whose_latent_explains_them_best() -> None:
    defense, x = built(refuses_fooling=False), images(30)
    first, second = defense.base.decide(x, generator(0)), defense.decide(x, generator(0))
    assert 5 < first.rejected.sum() < 28
    kept = ~first.rejected
    assert torch.equal(first.logits[kept], second.logits[kept])
    assert not second.rejected.any()
    rows = first.rejected.nonzero().squeeze(1)[:4]
    z = latents_one_by_one(defense, x[rows], 15)
    errors = (defense.decoder(z.flatten(0, 1)).reshape(4, 10, 1, 8, 8) - x[rows, None]).square()
    best = z[torch.arange(4), errors.flatten(2).sum(dim=2).argmin(dim=1)]
    nearest = torch.cdist(best, defense.rejection.means).argmin(dim=1)
    assert torch.equal(second.classes[rows], nearest)


def test_fooling_images_are_refused_again_unless_told_not_to() -> None:
    noise = torch.ones(4, 1, 8, 8)
    noise[:, :, ::2] = 0
    strict, open_ = built(), built(refuses_fooling=False)
    for defense in (strict, open_):
        defense.rejection.default.copy_(torch.tensor([1e-6, 1e-6]))
    assert strict.decide(noise, generator(0)).rejected.all()
    assert not open_.decide(noise, generator(0)).rejected.any()


def test_fixed_latent_view_answers_as_deployed_on_its_first_query() -> None:
    defense, x = built(), images(12)
    decision = defense.decide(x, generator(0))
    logits, margin = defense.surrogate("fixed_latent", generator(0))(x)
    assert torch.equal(logits.argmax(dim=1), decision.classes)
    assert torch.equal(margin > 0, decision.rejected)


def test_fixed_latent_gradient_is_that_of_the_error_with_the_latent_held() -> None:
    defense = built(refuses_fooling=False)
    x = images(12)
    rows = defense.base.decide(x, generator(0)).rejected.nonzero().squeeze(1)
    z = defense.search.run(defense.base, x[rows], defense.means(len(rows)), 15)
    view = defense.surrogate("fixed_latent", generator(0))
    point = x.clone().requires_grad_()
    best = view(point)[0][rows].amax(dim=1)
    (gradient,) = torch.autograd.grad(best.sum(), point)
    decoded = defense.decoder(z.flatten(0, 1)).reshape(len(rows), 10, 1, 8, 8)
    errors = (decoded - x[rows, None]).square().flatten(2).sum(dim=2)
    nearest = decoded[torch.arange(len(rows)), errors.argmin(dim=1)]
    torch.testing.assert_close(gradient[rows], -2 * (x[rows] - nearest), rtol=1e-3, atol=1e-4)


def test_unrolled_steps_are_the_searches_own_and_exactly_differentiated() -> None:
    defense, x = built().double(), images(3).double()
    start = defense.means(3)
    search, base = defense.search, defense.base
    unrolled = search.unroll(base, x, start, 6)
    torch.testing.assert_close(unrolled, search.run(base, x, start, 6), rtol=1e-6, atol=1e-8)
    point, weight = x.clone().requires_grad_(), torch.randn(start.shape, generator=generator(0))
    (gradient,) = torch.autograd.grad((weight * search.unroll(base, point, start, 6)).sum(), point)
    direction = torch.randn(x.shape, generator=generator(1)).double()
    ends = [search.run(base, x + h * direction, start, 6) for h in (1e-6, -1e-6)]
    exact = (weight * (ends[0] - ends[1])).sum() / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), exact, rtol=1e-4, atol=1e-6)


def test_the_unrolled_view_alone_sees_the_encoders_threshold_on_refused_images() -> None:
    """Beyond tau_enc the margin is a distance of latents, which Eq. 9's image moves."""
    defense = built()
    defense.rejection.default.copy_(torch.tensor([1e-6, 1e6]))
    slopes = {}
    for name in ("fixed_latent", "unrolled"):
        x = images(6).requires_grad_()
        _, margin = defense.surrogate(name, generator(0))(x)
        assert (margin > 0).all()
        (slopes[name],) = torch.autograd.grad(margin.sum(), x, materialize_grads=True)
    assert torch.equal(slopes["fixed_latent"], torch.zeros_like(x))
    assert (slopes["unrolled"].flatten(1).norm(dim=1) > 0).all()


def test_weights_are_the_bases() -> None:
    names = set(built().state_dict())
    assert names == set(DEFENSES["gmvae"].build(TASK).state_dict())


def test_nothing_is_trained() -> None:
    defense = built()
    with pytest.raises(ValueError, match="train gmvae"):
        DEFENSES["gmvae_reclassify"].learner(defense, TASK, None)
