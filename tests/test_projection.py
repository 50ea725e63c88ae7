"""Inversion, Invert-and-Classify and its views, on generators with known projections."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses.base import Decodes, Explains
from defenses.projection.descent import Adam, Descent, Momentum
from defenses.projection.generator import GenerativeModel
from defenses.projection.inversion import Inversion
from defenses.projection.inverting import DISTANCE, Inverting, Views
from defenses.projection.projecting import Autoencoding
from defenses.projection.tangent import Tangent, jacobian
from defenses.projection.unrolling import Unrolling
from defenses.randomness import generator
from tests.linear import Linear, images, random_linear
from tests.manifold import BrokenModel, CurvedModel, LinearModel

EXACT = Inversion(steps=1500, descent=Adam(0.02), tolerance=0.0)


def classifier() -> Linear:
    return Linear(*random_linear())


def inverting(model: GenerativeModel | None = None, **changes: Any) -> Inverting:
    settings: dict[str, Any] = {
        "inversion": EXACT,
        "restarts": 2,
        "start_std": 1.0,
        "eta": None,
        "views": Views(damping=0.0),
    }
    defense = Inverting(
        classifier(), LinearModel() if model is None else model, **{**settings, **changes}
    )
    return defense.eval().requires_grad_(False)


def starts(count: int, restarts: int = 2, latent: int = 5) -> Tensor:
    return torch.randn((count, restarts, latent), generator=generator(7))


@pytest.mark.parametrize("descent", [Adam(0.02), Momentum(rate=4.0, momentum=0.9)])
def test_inversion_of_a_linear_generator_is_the_least_squares_projection(descent: Descent) -> None:
    model, x = LinearModel(), images(6)
    found = Inversion(steps=2000, descent=descent, tolerance=0.0).run(model, x, starts(6), 2000)
    torch.testing.assert_close(model.decode(found.latents), model.projected(x), atol=1e-4, rtol=0)
    exact = (model.projected(x) - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(found.errors, exact, atol=1e-5, rtol=0)


def test_inversion_keeps_the_best_restart_and_its_best_iterate() -> None:
    model, x = CurvedModel(), images(4)
    own = starts(4, restarts=3)
    inversion = Inversion(steps=30, descent=Adam(0.3), tolerance=0.0)
    together = inversion.run(model, x, own, 30)
    alone = [inversion.run(model, x, own[:, r : r + 1], 30) for r in range(3)]
    errors = torch.stack([each.errors for each in alone])
    torch.testing.assert_close(together.errors, errors.amin(dim=0))
    at = (model.decode(together.latents) - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(at, together.errors)
    last = (model.decode(together.last) - x).flatten(1).norm(dim=1)
    assert bool((at <= last + 1e-6).all())


def test_inversion_of_an_image_does_not_depend_on_its_batch() -> None:
    model, x, own = CurvedModel(), images(5), starts(5)
    inversion = Inversion(steps=200, descent=Adam(0.05), patience=20)
    together = inversion.run(model, x, own, 200)
    for row in range(5):
        alone = inversion.run(model, x[row : row + 1], own[row : row + 1], 200)
        torch.testing.assert_close(alone.latents[0], together.latents[row], atol=1e-4, rtol=0)


def test_momentum_steps_do_not_shorten_with_the_batch() -> None:
    model, x, own = LinearModel(), images(8), starts(8)
    inversion = Inversion(steps=3, descent=Momentum(rate=1.0), tolerance=0.0)
    one = inversion.run(model, x[:1], own[:1], 3)
    many = inversion.run(model, x, own, 3)
    torch.testing.assert_close(one.last[0], many.last[0])


def test_rows_that_stopped_falling_leave_early_at_nearly_the_same_error() -> None:
    model, x, own = LinearModel(), images(6), starts(6)
    whole = Inversion(steps=2000, descent=Adam(0.05), tolerance=0.0).run(model, x, own, 2000)
    short = Inversion(steps=2000, descent=Adam(0.05), tolerance=1e-3, patience=50).run(
        model, x, own, 2000
    )
    assert short.decoded < whole.decoded / 3
    torch.testing.assert_close(short.errors, whole.errors, rtol=2e-3, atol=1e-5)


def test_an_inversion_without_a_finite_number_rejects_that_image_and_no_other() -> None:
    model = BrokenModel(above=-math.inf)
    decision = inverting(model).decide(images(3), generator(0))
    assert bool(decision.rejected.all())
    assert bool((decision.logits == 0).all())
    some = inverting(BrokenModel(above=1.0), restarts=1, inversion=Inversion(steps=1))
    decision = some.decide(images(40), generator(0))
    assert 0 < int(decision.rejected.sum()) < 20
    assert bool(decision.logits.isfinite().all())


def test_an_image_is_rejected_exactly_where_its_projection_is_far() -> None:
    model, x = LinearModel(), images(20)
    exact = (model.projected(x) - x).flatten(1).norm(dim=1)
    eta = float(exact.median())
    decision = inverting(eta=eta).decide(x, generator(0))
    clear = (exact - eta).abs() > 1e-3
    assert torch.equal(decision.rejected[clear], (exact > eta)[clear])
    torch.testing.assert_close(decision.scores[DISTANCE], exact / eta, rtol=1e-3, atol=0)


def test_the_margin_of_views_crosses_zero_at_eta() -> None:
    model, x = LinearModel(), images(20)
    exact = (model.projected(x) - x).flatten(1).norm(dim=1)
    defense = inverting(eta=float(exact.median()))
    _, margin = defense.surrogate("identity_bpda", generator(0))(x)
    torch.testing.assert_close(margin, (exact / exact.median()).log(), rtol=0, atol=1e-3)


def test_tangent_gradient_is_exact_on_a_linear_generator() -> None:
    defense, x = inverting(), images(6).requires_grad_()
    weights = torch.randn((6, 4), generator=generator(3))
    model = LinearModel()
    exact_logits = classifier().logits(model.projected(x))
    (exact,) = torch.autograd.grad((weights * exact_logits).sum(), x)
    logits, _ = defense.surrogate("tangent_bpda", generator(0))(x)
    (found,) = torch.autograd.grad((weights * logits).sum(), x)
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, exact_logits, atol=1e-3, rtol=0)


def test_tangent_gradient_meets_finite_differences_near_a_curved_range() -> None:
    model = CurvedModel().double()
    z = 0.3 * torch.randn((1, 5), generator=generator(0), dtype=torch.float64)
    x = model.decode(z)
    change = torch.randn(x.shape, generator=generator(1), dtype=torch.float64)
    step = 1e-4

    def projected(point: Tensor) -> Tensor:
        inversion = Inversion(steps=6000, descent=Adam(0.003), tolerance=0.0)
        return model.decode(inversion.run(model, point, z[:, None], 6000).latents)

    numeric = (projected(x + step * change) - projected(x - step * change)) / (2 * step)
    torch.testing.assert_close(Tangent(model, z, 0.0)(change), numeric, rtol=2e-2, atol=2e-3)


def test_one_broken_drawing_leaves_the_tangents_of_the_others() -> None:
    z = torch.tensor([[2.0, 0, 0, 0, 0], [0.0, 1, 0, 0, 0]])
    change = images(2)
    moved = Tangent(BrokenModel(above=1.0), z, 0.0)(change)
    assert bool((moved[0] == 0).all())
    torch.testing.assert_close(moved[1:], Tangent(LinearModel(), z[1:], 0.0)(change[1:]))


def test_jacobian_is_that_of_reverse_mode() -> None:
    model, z = CurvedModel(), starts(2, 1)[:, 0]
    rows = [
        torch.autograd.functional.jacobian(lambda one: model.decode(one[None]).flatten(), each)
        for each in z
    ]
    torch.testing.assert_close(jacobian(model, z), torch.stack(rows))


@pytest.mark.parametrize("descent", [Adam(0.05), Momentum(rate=2.0, momentum=0.5)])
def test_unrolled_steps_meet_those_of_the_inversion_and_finite_differences(
    descent: Descent,
) -> None:
    model = CurvedModel().double()
    x = images(2).double()
    own = starts(2, 1).double()
    inversion = Inversion(steps=12, descent=descent, tolerance=0.0)
    before = inversion.run(model, x, own, 8)
    # Of a descent cut short: the whole would drop its rate after as many steps.
    ending = Unrolling(descent, 9, 12)
    whole = inversion.run(model, x, own, 12)
    point = x.clone().requires_grad_()
    z = ending.run(model, point, before.last, before.state)
    if isinstance(descent, Adam):
        torch.testing.assert_close(z, whole.last)
    (gradient,) = torch.autograd.grad(z.sum(), point)
    change = torch.randn(x.shape, generator=generator(2), dtype=torch.float64)
    step = 1e-5
    ends = [
        ending.run(model, x + sign * step * change, before.last, before.state).sum()
        for sign in (1, -1)
    ]
    numeric = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((gradient * change).sum(), numeric, rtol=1e-4, atol=1e-7)


def test_unrolling_a_whole_inversion_approaches_the_exact_gradient() -> None:
    inversion = Inversion(steps=400, descent=Momentum(rate=4.0, momentum=0.5, drop=1.0))
    defense = inverting(inversion=inversion, views=Views(unrolled_steps=400), restarts=1)
    x = images(3).requires_grad_()
    logits, _ = defense.surrogate("unrolled", generator(0))(x)
    (found,) = torch.autograd.grad(logits[:, 0].sum(), x)
    exact_logits = classifier().logits(LinearModel().projected(x))
    (exact,) = torch.autograd.grad(exact_logits[:, 0].sum(), x)
    cosine = torch.cosine_similarity(found.flatten(1), exact.flatten(1))
    assert bool((cosine > 0.99).all())


def test_identity_view_passes_the_classifier_s_gradient_at_the_projection() -> None:
    defense, x = inverting(), images(3).requires_grad_()
    logits, _ = defense.surrogate("identity_bpda", generator(0))(x)
    (found,) = torch.autograd.grad(logits[:, 1].sum(), x)
    expected = classifier().weight[1].reshape(1, *x.shape[1:]).expand_as(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        logits, classifier().logits(LinearModel().projected(x)), atol=1e-3, rtol=0
    )


def test_views_that_refine_cost_fewer_drawings_and_follow_the_image() -> None:
    fresh, warm = (inverting(views=Views(refine_steps=steps)) for steps in (0, 200))
    x = images(4)
    for defense in (fresh, warm):
        view = defense.surrogate("identity_bpda", generator(0))
        view(x)
        before = defense.cost.decoder
        logits, _ = view(x + 0.05)
        exact = classifier().logits(LinearModel().projected(x + 0.05))
        torch.testing.assert_close(logits, exact, atol=2e-2, rtol=0)
        spent = defense.cost.decoder - before
        assert spent <= 4 * 210 if defense is warm else spent > 4 * 2 * 1000


def test_autoencoding_is_its_parts_one_after_the_other() -> None:
    model, x = LinearModel(), images(4)
    defense = Autoencoding(classifier(), model).eval()
    expected = classifier().logits(model.projected(x))
    torch.testing.assert_close(defense.decide(x, generator(0)).logits, expected)
    torch.testing.assert_close(defense.surrogate(None, generator(0))(x)[0], expected)
    assert isinstance(defense, Decodes) and isinstance(defense, Explains)
    assert len(list(defense.parameters())) == 3


def test_projections_explain_by_the_image_that_is_classified() -> None:
    defense, x = inverting(), images(3)
    assert isinstance(defense, Decodes)
    torch.testing.assert_close(
        defense.explain(x, generator(0)), LinearModel().projected(x), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta": 0.0}, "eta must be finite and above 0, got 0"),
        ({"eta": -1.0}, "eta must be finite and above 0, got -1"),
        ({"eta": math.nan}, "eta must be finite and above 0, got nan"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"start_std": 0.0}, "start_std must be finite and above 0"),
    ],
)
def test_impossible_inversions_are_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inverting(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inversion(steps=0), "steps must be at least 1, got 0"),
        (lambda: Inversion(tolerance=1.0), "tolerance must be in"),
        (lambda: Adam(0.0), "rate must be finite and above 0"),
        (lambda: Momentum(momentum=1.5), "momentum must be in"),
        (lambda: Views(refine_steps=-1), "refine_steps must be at least 0, got -1"),
        (lambda: Views(damping=math.nan), "damping must be at least 0"),
    ],
)
def test_impossible_settings_are_refused_in_words(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_batch_is_answered_by_nothing() -> None:
    decision = inverting().decide(images(2)[:0], generator(0))
    assert decision.logits.shape == (0, 4)
