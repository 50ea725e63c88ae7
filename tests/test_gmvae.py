"""GMVAE: losses against their definitions, thresholds against closed forms, refusals."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from benchmark import catalog, overrides
from benchmark.datasets import DATASETS
from benchmark.presets import PRESETS
from defenses import DEFENSES
from defenses.base import UNLABELLED, Decodes, Explains, Generates, Task, Thresholded
from defenses.gmvae import GMVAE, GaussianMixtureVAE
from defenses.gmvae.networks import LAYERS, Decoder, Encoder
from defenses.gmvae.recipe import GMVAELearner
from defenses.gmvae.rejection import Rejection, Spread
from defenses.randomness import generator

TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)
RECIPE = DEFENSES["gmvae"]
NAMES = ("gmvae", "gmvae_semi", "gmvae_variable_entropy")


def images(count: int, seed: int = 1) -> Tensor:
    return torch.rand((count, 1, 8, 8), generator=generator(seed))


def built(name: str = "gmvae", **fields: object) -> tuple[GMVAE, GMVAELearner]:
    recipe = DEFENSES[name]
    assert isinstance(recipe, GaussianMixtureVAE)
    recipe = replace(recipe, **fields)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = recipe.build(TASK).eval()
    learner = recipe.learner(defense, TASK, None)
    assert isinstance(learner, GMVAELearner)
    return defense, learner


@pytest.fixture
def measured() -> GMVAE:
    """An untrained GMVAE whose thresholds fit its own encodings."""
    defense, learner = built()
    x = images(400)
    y = torch.arange(400) % 10
    learner.finish([(x, y)], [(images(200, 2), y[:200])])
    return defense.requires_grad_(False)


@pytest.mark.parametrize("side", LAYERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_map_images_to_latents_and_back(side: int, channels: int) -> None:
    shape = (channels, side, side)
    x = torch.rand((2, *shape), generator=generator(0))
    z = Encoder(shape, 12)(x)
    decoded = Decoder(shape, 12)(z)
    assert z.shape == (2, 12)
    assert decoded.shape == x.shape
    assert decoded.min() > 0 and decoded.max() < 1


def test_other_image_sizes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="8x8, 28x28, 32x32, 64x64, 128x128, got 17x17"):
        Encoder((1, 17, 17), 10)


def test_means_are_one_hot_and_padded_with_zeros_for_small_colour_images() -> None:
    colour = Task((3, 32, 32), 10, "svhn", 0.1, 0.1, 0.5)
    means = RECIPE.build(colour).rejection.means
    assert means.shape == (10, 32)
    assert torch.equal(means[:, :10], torch.eye(10))
    assert not means[:, 10:].any()
    assert built()[0].rejection.means.shape == (10, 10)


def test_class_is_the_nearest_mean(measured: GMVAE) -> None:
    x = images(50)
    z = measured.encoder(x)
    nearest = torch.cdist(z, measured.rejection.means).argmin(dim=1)
    assert torch.equal(measured.decide(x, generator(0)).classes, nearest)


def loss_of(learner: GMVAELearner, x: Tensor, y: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in learner.update(x, y, generator(7)).items()}


def test_supervised_loss_is_equation_7() -> None:
    defense, learner = built()
    x, y = images(6), torch.arange(6)
    noise = torch.randn((6, 10), generator=generator(7))
    with torch.no_grad():
        z = defense.encoder(x)
        decoded = defense.decoder(z + (1 / 3000) ** 0.5 * noise)
    error = sum(((x[i] - decoded[i]) ** 2).sum() for i in range(6)) / 6
    prior = sum(30 * ((z[i] - torch.eye(10)[y[i]]) ** 2).sum() for i in range(6)) / 6
    told = loss_of(learner, x, y)
    assert told["error"] == pytest.approx(float(error), rel=1e-5)
    assert told["prior"] == pytest.approx(float(prior), rel=1e-5)


def test_unlabelled_images_are_charged_for_the_mixture_once_the_labelled_had_their_time() -> None:
    defense, learner = built("gmvae_semi", labelled_alone=1)
    x = images(4)
    state = {name: value.clone() for name, value in defense.state_dict().items()}
    assert loss_of(learner, x, torch.full((4,), UNLABELLED))["prior"] == 0
    defense.load_state_dict(state)
    z = defense.encoder(x).detach().double()
    energies = 30 * (z[:, None] - torch.eye(10)).square().sum(dim=2)
    mixture = -torch.log(torch.exp(-energies).mean(dim=1)).mean()
    told = loss_of(learner, x, torch.full((4,), UNLABELLED))
    assert told["prior"] == pytest.approx(float(mixture), rel=1e-4)


def test_learned_variance_costs_least_at_the_fixed_one() -> None:
    """Without a reconstruction, alpha (s - v log s) has its minimum at s = v."""
    defense, learner = built("gmvae_variable_entropy")
    head = defense.encoder.log_variance
    assert head is not None
    x, y = images(4), torch.arange(4)
    torch.nn.init.zeros_(head.weight)
    prices = {}
    for variance in (1 / 6000, 1 / 3000, 1 / 1500):
        torch.nn.init.constant_(head.bias, float(torch.tensor(variance).log()))
        state = {name: value.clone() for name, value in defense.state_dict().items()}
        prices[variance] = loss_of(learner, x, y)["prior"]
        defense.load_state_dict(state)
    assert min(prices, key=lambda variance: prices[variance]) == 1 / 3000


def test_a_hundred_labels_per_class_are_visible_and_join_every_batch() -> None:
    recipe = DEFENSES["gmvae_semi"]
    labels = torch.arange(3000) % 10
    seen = recipe.visible(labels, generator(0))
    known = seen != UNLABELLED
    assert torch.equal(seen[known], labels[known])
    assert torch.bincount(seen[known]).tolist() == [100] * 10
    for index in recipe.batches(seen, generator(1)):
        assert len(index) == 128 + 32
        assert known[index[-32:]].all()
    with pytest.raises(ValueError, match="at most the 5 training images of class 0, got 100"):
        recipe.visible(torch.arange(50) % 10, generator(0))


def test_a_tenth_of_the_labels_teaches_the_classes_of_digits() -> None:
    """With the mixture term from the first update on, every image gathers at one mean: 17 %."""
    digits = DATASETS["digits"].load()
    recipe = DEFENSES["gmvae_semi"]
    assert isinstance(recipe, GaussianMixtureVAE)
    recipe = replace(recipe, labels_per_class=10, labelled_alone=100)
    rng = generator(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = recipe.build(digits.task)
    learner = recipe.learner(defense, digits.task, None)
    seen = recipe.visible(torch.from_numpy(digits.train.labels), rng)
    for index in islice(cycle(list(recipe.batches(seen, rng))), 250):
        learner.update(digits.train.batch(index.numpy()).x, seen[index], rng)
    held_out = digits.validation.batch(np.arange(len(digits.validation)))
    assert learner.validate(held_out.x, held_out.y).float().mean() > 0.8


# thresholds


def gaussian_rejection(scale: float = 0.3) -> tuple[Rejection, Tensor, Tensor]:
    """Encodings normal around two means with a known covariance."""
    rejection = Rejection(torch.eye(4)[:2])
    mixing = scale * torch.tensor([[1.0, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0.3, 0.1]])
    y = torch.arange(20_000) % 2
    noise = torch.randn((20_000, 4), generator=generator(3))
    z = rejection.means[y] + noise @ mixing.T
    rejection.measure_covariances(z, y)
    return rejection, z, y


def test_distances_are_squared_mahalanobis_and_reject_as_chi_square_says() -> None:
    rejection, z, y = gaussian_rejection()
    distances = rejection.distances(z, y)
    offset = (z - rejection.means[y])[:50].double()
    slow = [
        o @ torch.linalg.inv(torch.cov(z[y == k].double().T)) @ o
        for o, k in zip(offset, y[:50], strict=True)
    ]
    assert torch.allclose(distances[:50].double(), torch.stack(slow), rtol=1e-3)
    beyond = (distances > chi2.ppf(0.9, 4)).float().mean()
    assert float(beyond) == pytest.approx(0.1, abs=0.01)


def test_printed_metric_is_the_covariance_itself() -> None:
    rejection, z, y = gaussian_rejection()
    offset = z[:20] - rejection.means[y[:20]]
    slow = torch.stack(
        [o @ rejection.covariance[k] @ o for o, k in zip(offset, y[:20], strict=True)]
    )
    assert torch.allclose(rejection.distances(z[:20], y[:20], printed=True), slow, rtol=1e-4)


def test_default_thresholds_are_the_papers() -> None:
    rejection, _, _ = gaussian_rejection()
    errors = 5 + torch.randn(5000, generator=generator(4))
    rejection.measure_scores(torch.rand(5000, generator=generator(5)), errors)
    tau_enc, tau_dec = rejection.thresholds().tolist()
    assert tau_enc == pytest.approx(float(chi2.ppf(0.9973, 4)), rel=1e-6)
    assert tau_dec == pytest.approx(float(errors.mean() + 3 * errors.std()), rel=1e-5)


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.98, 0.995, 1.0])
def test_thresholds_reach_any_coverage_of_the_held_out_images(coverage: float) -> None:
    rejection = Rejection(torch.eye(3))
    scores = torch.rand((4000, 2), generator=generator(6)) ** 2
    scores[:, 1] += 0.3 * scores[:, 0]
    rejection.measure_scores(scores[:, 0], scores[:, 1])
    within = (scores <= rejection.thresholds(coverage)).all(dim=1).float().mean()
    assert coverage - 1e-3 <= float(within) <= coverage + 3e-3


def test_higher_coverage_never_lowers_a_threshold() -> None:
    rejection = Rejection(torch.eye(3))
    scores = torch.rand((500, 2), generator=generator(6))
    rejection.measure_scores(scores[:, 0], scores[:, 1])
    found = torch.stack([rejection.thresholds(c / 100) for c in range(1, 101)])
    assert (found[1:] >= found[:-1]).all()


@pytest.mark.parametrize("coverage", [0.0, -0.1, 1.01, float("nan")])
def test_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(ValueError, match=r"coverage must be in \(0, 1\]"):
        built(coverage=coverage)


def test_a_class_with_too_few_images_for_a_covariance_is_named() -> None:
    rejection = Rejection(torch.eye(3))
    with pytest.raises(ValueError, match=r"images of class 1 must be more than 3 .*got 2"):
        rejection.measure_covariances(torch.rand(12, 3), torch.tensor([0] * 5 + [1] * 2 + [2] * 5))


def test_a_pooled_covariance_is_that_of_all_encodings_around_their_class_means() -> None:
    rejection = Rejection(torch.eye(4)[:3])
    z = torch.randn((30, 4), generator=generator(0)) + 5 * torch.arange(3)[:, None].repeat(10, 1)
    y = torch.arange(3).repeat_interleave(10)
    rejection.measure_covariances(z, y, Spread.POOLED)
    offsets = z.reshape(3, 10, 4) - z.reshape(3, 10, 4).mean(dim=1, keepdim=True)
    expected = torch.cov(offsets.reshape(30, 4).T)
    assert torch.allclose(rejection.covariance, expected.expand(3, 4, 4), atol=1e-5)
    with pytest.raises(ValueError, match=r"training images must be more than 4 .*got 3"):
        rejection.measure_covariances(z[::10], y[::10], Spread.POOLED)


# refusals


def test_far_encodings_bad_reconstructions_and_nan_are_refused(measured: GMVAE) -> None:
    x = images(60)
    decision = measured.decide(x, generator(0))
    z = measured.encoder(x)
    tau_enc, tau_dec = measured.rejection.thresholds()
    far = measured.rejection.distances(z, decision.classes) > tau_enc
    bad = (x - measured.decoder(z)).flatten(1).square().sum(dim=1) > tau_dec
    assert torch.equal(decision.rejected, far | bad)
    noise = torch.full((1, 1, 8, 8), float("nan"))
    assert measured.decide(noise, generator(0)).rejected.all()


def test_coverage_chooses_how_many_held_out_images_are_accepted() -> None:
    held = images(300, 2)
    for coverage in (0.6, 0.9, 1.0):
        defense, learner = built(coverage=coverage)
        learner.finish([(images(400), torch.arange(400) % 10)], [(held, torch.zeros(300))])
        accepted = (~defense.decide(held, generator(0)).rejected).float().mean()
        assert float(accepted) == pytest.approx(coverage, abs=0.02)


def test_end_to_end_margin_says_what_is_refused(measured: GMVAE) -> None:
    x = images(60)
    _, margin = measured.surrogate("end_to_end", generator(0))(x)
    assert torch.equal(margin > 0, measured.decide(x, generator(0)).rejected)
    _, blind = measured.surrogate("encoder", generator(0))(x)
    assert (blind == -torch.inf).all()


def test_terms_decide_wanted_and_accepted_exactly(measured: GMVAE) -> None:
    assert isinstance(measured, Thresholded)
    x = torch.cat([images(60), torch.rand(60, 1, 8, 8) * 0.2])
    decision = measured.decide(x, generator(0))
    for k in range(10):
        gap, scores = measured.terms(x, torch.full((120,), k))
        reached = (gap < 0) & (scores <= 1).all(dim=1)
        assert torch.equal(reached, (decision.classes == k) & ~decision.rejected)


def test_explanation_is_what_the_decoder_threshold_compares(measured: GMVAE) -> None:
    assert isinstance(measured, Explains)
    x = images(20)
    explained = measured.explain(x, generator(0))
    errors = (x - explained).flatten(1).square().sum(dim=1)
    scores = measured.decide(x, generator(0)).scores["decoder"]
    _, tau_dec = measured.rejection.thresholds()
    torch.testing.assert_close(errors / tau_dec, scores)


def test_latent_attacks_search_the_decoder_and_ask_for_classes_without_thresholds(
    measured: GMVAE,
) -> None:
    assert isinstance(measured, Decodes)
    x, before = images(5), measured.cost.decoder
    assert torch.equal(measured.decode(measured.encode(x)), measured.explain(x, generator(0)))
    assert torch.equal(measured.classify(x), measured.decide(x, generator(0)).logits)
    assert measured.cost.decoder - before == 5


def test_generated_images_are_decoded_means_with_noise_of_the_fixed_variance() -> None:
    defense, _ = built(encoder_variance=0.25)
    assert isinstance(defense, Generates)
    latents: list[Tensor] = []
    defense.decoder.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
    classes = torch.arange(10).repeat_interleave(200)
    made = defense.generate(classes, generator(3))
    assert made.shape == (2000, 1, 8, 8)
    noise = latents[0] - defense.rejection.means[classes]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert torch.equal(made, defense.generate(classes, generator(3)))
    assert not torch.equal(made, defense.generate(classes, generator(4)))


def test_terms_are_counted(measured: GMVAE) -> None:
    before = measured.cost.copy()
    x = images(5).requires_grad_()
    terms = measured.terms(x, torch.zeros(5).long())
    (terms.gap.sum() + terms.scores.sum()).backward()
    spent = measured.cost - before
    assert (spent.forward, spent.backward) == (5, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: catalog.recipe_for("gmvae[coverage=2]", PRESETS["smoke"], "digits"),
        lambda: overrides.with_coverage(["cnn"], 0.9),
        lambda: catalog.recipe_for("gmvae@encoder", PRESETS["smoke"], "digits"),
    ],
)
def test_specifications_that_make_no_sense(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]|that can refuse|must look like"):
        wrong()


def test_coverage_reaches_only_defenses_that_can_refuse() -> None:
    assert overrides.with_coverage(["cnn", "gmvae"], 0.98) == ("cnn", "gmvae[coverage=0.98]")
    recipe = catalog.recipe_for("gmvae[coverage=0.98]", PRESETS["smoke"], "digits")
    assert isinstance(recipe, GaussianMixtureVAE)
    assert recipe.coverage == 0.98
    assert recipe.training() == catalog.recipe_for("gmvae", PRESETS["smoke"], "digits").training()
