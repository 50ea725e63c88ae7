"""Purifiers: networks, losses against slow references, updates, what is deployed."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.catalog import recipe_for
from benchmark.presets import PRESETS
from defenses import DEFENSES
from defenses.base import Decodes, Explains, Task, Wrapped
from defenses.cnn import FeedForward, network_of
from defenses.pairing import Restores
from defenses.purification import DEFENSE_VAE_PAIRS, MAD_PAIRS, Purification, Purifier
from defenses.purification.learner import Clusters, PurifierLearner, Reduction
from defenses.purification.losses import (
    distance,
    divergence,
    draw_centres,
    proximity,
    reconstruction,
)
from defenses.purification.networks import Decoder, Encoder, Spread, bottom
from defenses.randomness import generator
from tests.reference import purification as reference

TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)
NAMES = [name for name, recipe in DEFENSES.items() if isinstance(recipe, Purification)]


def images(count: int, seed: int = 1) -> Tensor:
    return torch.rand((count, 1, 8, 8), generator=generator(seed))


def made(name: str = "defense_vae", **fields: object) -> tuple[Purifier, PurifierLearner]:
    recipe = cast(Purification, recipe_for(name, PRESETS["smoke"], "digits"))
    recipe = replace(recipe, **fields)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = recipe.build(TASK)
        defense.classifier.eval().requires_grad_(False)
        learner = recipe.learner(defense, TASK, None)
    assert isinstance(learner, PurifierLearner)
    return defense, learner


@pytest.mark.parametrize(("side", "rows"), [(8, 1), (28, 4), (32, 4), (64, 8)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_map_images_of_any_size_to_latents_and_back(side, rows, channels):
    shape = (channels, side, side)
    assert bottom(shape) == (256, rows, rows)
    x = torch.rand((2, *shape), generator=generator(0))
    z = Encoder(shape)(x)
    image = Decoder(shape)(z)
    assert z.shape == (2, 128)
    assert image.shape == x.shape
    assert image.min() > 0 and image.max() < 1


def test_networks_for_mnist_have_as_many_parameters_as_the_published_ones():
    networks = (Encoder((1, 28, 28)), Decoder((1, 28, 28)))
    assert sum(each.numel() for net in networks for each in net.parameters()) == 3_023_744
    magnet = DEFENSES["magnet"].build(Task((1, 28, 28), 10, "mnist", 0.2, 0.3, 1.5))
    assert sum(each.numel() for each in magnet.parameters()) == 694_402


def test_convolutions_begin_as_the_public_code_draws_them():
    weights = torch.cat(
        [
            each.weight.detach().flatten()
            for each in Encoder((1, 28, 28)).modules()
            if isinstance(each, nn.Conv2d)
        ]
    )
    assert weights.std() == pytest.approx(0.02, rel=0.05)
    assert abs(weights.mean()) < 1e-3


def test_images_of_odd_sides_are_refused():
    with pytest.raises(ValueError, match="must be even, got 17"):
        Encoder((1, 17, 17))


def test_a_classifier_with_two_poolings_refuses_sides_they_do_not_divide():
    task = Task((1, 10, 10), 10, "digits", 0.1, 0.1, 0.5)
    with pytest.raises(ValueError, match="divisible by 4, got 10x10"):
        DEFENSES["magnet"].build(task)


def test_magnet_has_as_many_dense_layers_as_it_is_told():
    def dense(count: int) -> int:
        network = network_of(replace(DEFENSES["magnet"], dense=count).build(TASK))
        return sum(isinstance(each, nn.Linear) for each in network.modules())

    assert (dense(1), dense(2)) == (2, 3)
    with pytest.raises(ValueError, match="dense must be at least 1, got 0"):
        replace(DEFENSES["magnet"], dense=0)


def test_reconstruction_is_the_cross_entropy_of_the_decoded_image():
    drawn, clean = torch.randn((2, 1, 3, 3), generator=generator(0)), images(2)[..., :3, :3]
    expected = reference.cross_entropy(torch.sigmoid(drawn), clean)
    assert float(Reduction.SUM.of(reconstruction(drawn, clean))) == pytest.approx(expected)
    assert float(Reduction.MEAN.of(reconstruction(drawn, clean))) == pytest.approx(expected / 18)


def test_divergence_is_that_of_two_normals():
    mean = torch.randn((4, 5), generator=generator(0))
    deviation = torch.rand((4, 5), generator=generator(1)) + 0.1
    torch.testing.assert_close(divergence(mean, deviation), reference.divergence(mean, deviation))


def test_a_head_that_is_a_deviation_may_be_negative_and_one_that_is_a_log_variance_too():
    head = torch.tensor([[-2.0, 0.5]])
    assert Spread.ABSOLUTE.deviation(head).tolist() == [[2.0, 0.5]]
    torch.testing.assert_close(Spread.LOG_VARIANCE.deviation(head).square().log(), head)


@pytest.mark.parametrize("among_centres", [True, False])
def test_cluster_losses_are_the_papers_sums(among_centres):
    z = torch.randn((6, 3), generator=generator(0))
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    centres = torch.randn((4, 3), generator=generator(1))
    assert float(proximity(z, y, centres)) == pytest.approx(reference.proximity(z, y, centres))
    found = float(distance(z, y, centres, among_centres=among_centres))
    assert found == pytest.approx(reference.distance(z, y, centres, among_centres=among_centres))


def test_a_latent_on_its_centre_has_a_finite_gradient():
    z = torch.zeros((1, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(proximity(z, torch.tensor([0]), torch.zeros((2, 3))), z)
    assert torch.equal(gradient, torch.zeros((1, 3)))


def test_shared_centres_are_attracted_and_separate_ones_only_pushed():
    z, y = torch.randn((8, 3), generator=generator(0)), torch.arange(8) % 4
    shared, separate = (draw_centres(4, 3, shared=each) for each in (True, False))
    assert len(list(shared.parameters())) == 1
    assert len(list(separate.parameters())) == 2
    separate.proximity(z, y).backward()
    assert separate.attracting.grad is not None and separate.repelling.grad is None


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("identity_vae", {"reconstruction", "divergence"}),
        ("defense_vae", {"reconstruction", "divergence"}),
        ("defense_vae_official", {"reconstruction"}),
        ("mad_vae_classification", {"reconstruction", "divergence", "classification"}),
        (
            "mad_vae_proximity_distance",
            {"reconstruction", "divergence", "proximity", "distance"},
        ),
        (
            "mad_vae_combined",
            {"reconstruction", "divergence", "classification", "proximity", "distance"},
        ),
    ],
)
def test_each_variant_has_its_terms(name, terms):
    _, learner = made(name)
    x, y = images(8), torch.arange(8) % 10
    assert set(learner.restore(x, images(8, 2), y, generator(0))) == terms


def test_an_update_adds_the_terms_up_with_their_weights(monkeypatch):
    defense, learner = made("mad_vae_combined", distance=0.2)  # the paper's 1e-5 would drown
    seen: list[Tensor] = []
    monkeypatch.setattr(learner, "_step", seen.append)
    x, clean, y = images(8), images(8, 2), torch.arange(8) % 10
    told = learner.restore(x, clean, y, generator(3))
    mean, head = defense.encoder.heads(x)
    z = mean + head.abs() * torch.randn(mean.shape, generator=generator(3))
    assert learner.centres is not None
    image = defense.decoder(z)
    logits = network_of(defense.classifier)(image)
    centres = learner.centres.attracting
    expected = (
        functional.binary_cross_entropy(image, clean)
        + 0.1 * reference.divergence(mean, head.abs()).mean()
        + 0.1 * functional.cross_entropy(logits, y)
        + 0.01 * reference.proximity(z, y, centres)
        - 0.2 * reference.distance(z, y, centres, among_centres=True)
    )
    assert float(seen[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(told["proximity"]) == pytest.approx(reference.proximity(z, y, centres), rel=1e-4)


def test_an_update_moves_everything_but_the_classifier():
    separate = {"centres": Clusters.SEPARATE, "distance": 1e-4, "repelling_rate": 1.0}
    defense, learner = made("mad_vae_combined", **separate)
    assert learner.centres is not None
    before = {key: value.clone() for key, value in defense.state_dict().items()}
    centres = [each.detach().clone() for each in learner.centres.parameters()]
    learner.restore(images(8), images(8, 2), torch.arange(8) % 10, generator(0))
    moved = {key for key, value in defense.state_dict().items() if not value.equal(before[key])}
    assert {key.partition(".")[0] for key in moved} == {"encoder", "decoder"}
    assert {f"encoder.{head}.weight" for head in ("mean", "spread")} <= moved
    for was, now in zip(centres, learner.centres.parameters(), strict=True):
        assert not was.equal(now)


def test_clipping_bounds_the_gradient():
    def longest(clip: float) -> float:
        _, learner = made("defense_vae_official", clip=clip)
        learner.restore(images(8), images(8, 2), torch.arange(8) % 10, generator(0))
        (networks,) = learner.clipped
        return float(torch.cat([each.grad.flatten() for each in networks]).norm())

    assert longest(1.0) == pytest.approx(1.0, rel=1e-3)
    assert longest(0.0) > 2.0


def test_a_purifier_learns_to_restore_what_was_changed_always_in_the_same_way():
    defense, learner = made("defense_vae", divergence=0.0, learning_rate=3e-3)
    clean = (images(16) > 0.7).float()
    adversarial = (clean + 0.3 * torch.randn(clean.shape, generator=generator(5))).clamp(0, 1)
    defense.train()
    losses = [
        float(
            learner.restore(adversarial, clean, torch.arange(16) % 10, generator(step))[
                "reconstruction"
            ]
        )
        for step in range(25)
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_an_identity_is_trained_on_clean_images_and_the_others_on_pairs():
    identity = cast(Purification, DEFENSES["identity_vae"])
    assert identity.pairing() is None
    wanted = cast(Purification, DEFENSES["mad_vae_combined"]).pairing()
    assert wanted is not None and wanted.attacks == MAD_PAIRS and wanted.victim == "classifier"
    assert len(MAD_PAIRS) == 9 and len(DEFENSE_VAE_PAIRS) == 12
    assert isinstance(made()[1], Restores)


@pytest.mark.parametrize("name", NAMES)
def test_a_purifier_decides_by_its_classifier_on_what_it_decodes(name):
    defense, _ = made(name)
    defense.eval()
    x = images(4)
    assert isinstance(defense, Decodes) and isinstance(defense, Explains)
    z = defense.encode(x)
    image = defense.decode(z)
    logits = defense.decide(x, generator(0)).logits
    torch.testing.assert_close(defense.explain(x, generator(0)), image)
    torch.testing.assert_close(defense.classify(image), logits)
    torch.testing.assert_close(defense.surrogate("end_to_end", generator(0))(x)[0], logits)
    bare = network_of(defense.classifier)(x)
    torch.testing.assert_close(defense.surrogate("classifier", generator(0))(x)[0], bare)
    assert not torch.allclose(bare, logits)
    assert defense.cost.decoder == 4


def test_another_defense_may_answer_for_the_classifier():
    plain = cast(Purification, recipe_for("defense_vae", PRESETS["smoke"], "digits"))
    recipe = recipe_for("defense_vae[answered_by=substitute_d]", PRESETS["smoke"], "digits")
    assert recipe.training() == plain.training() and repr(recipe) != repr(plain)
    assert recipe.as_trained() == plain
    assert set(recipe.wraps()) == {"classifier", "answered_by"}
    assert recipe.joins() == {"answered_by"}
    defense = cast(Purifier, recipe.build(TASK)).eval()
    substitute = defense.answered_by
    assert isinstance(substitute, FeedForward)
    x = images(4)
    purified = defense.purify(x)
    expected = network_of(substitute)(purified)
    torch.testing.assert_close(defense.decide(x, generator(0)).logits, expected)
    torch.testing.assert_close(defense.classify(purified), expected)
    view = defense.surrogate("classifier", generator(0))
    torch.testing.assert_close(view(x)[0], network_of(substitute)(x))


def test_a_defense_that_may_reject_cannot_be_inside_another():
    recipe = recipe_for("defense_vae[classifier=gmvae]", PRESETS["smoke"], "digits")
    with pytest.raises(ValueError, match="must answer every image, got 'gmvae', which may reject"):
        recipe.build(TASK)
    with pytest.raises(ValueError, match="got 'gmvae', which may reject; name one"):
        Wrapped("gmvae", DEFENSES["gmvae"]).build(TASK)
