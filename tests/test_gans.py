"""The two adversarial generators: their losses, and that they learn."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses.projection.began import BEGAN
from defenses.projection.wgan import WGAN, gradient_penalty
from defenses.randomness import generator
from tests.generators import SHAPE, begun, built, halves, images, parameters, tones
from tests.reference import generators as reference

SMALL_WGAN = WGAN(width=4, latent=3, critic_steps=3)
SMALL_BEGAN = BEGAN(width=4, latent=3)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten().clone() for each in network.parameters()])


def slopes(network: nn.Module) -> list[Tensor | None]:
    return [each.grad for each in network.parameters()]


def smooth_critic() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)).double()


def test_the_penalty_of_a_linear_critic_is_that_of_its_weights():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    expected = (critic[1].weight.norm() - 1).square()
    torch.testing.assert_close(gradient_penalty(critic, images(3)), expected)


def test_the_penalty_is_that_of_slopes_by_differences():
    critic, x = smooth_critic(), images(2, (1, 4, 4)).double()
    found = float(gradient_penalty(critic, x).detach())
    assert found == pytest.approx(reference.penalty(critic, x), rel=1e-5)


def test_the_penalty_tells_the_critic_how_to_change():
    critic, x = smooth_critic(), images(2, (1, 4, 4)).double()
    weight = critic[0].weight
    (found,) = torch.autograd.grad(gradient_penalty(critic, x), weight)
    for place in (0, 5, 20):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight.view(-1)[place] += step
            values.append(float(gradient_penalty(critic, x).detach()))
            with torch.no_grad():
                weight.view(-1)[place] -= step
        expected = (values[0] - values[1]) / 2e-5
        assert float(found.view(-1)[place]) == pytest.approx(expected, rel=1e-4)


def test_a_critic_without_any_slope_has_penalty_one_and_finite_gradients():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    nn.init.zeros_(critic[1].weight)
    penalty = gradient_penalty(critic, images(2))
    (slope,) = torch.autograd.grad(penalty, critic[1].weight)
    assert float(penalty.detach()) == 1
    assert slope.isfinite().all()


def test_the_generator_for_mnist_is_defense_gans():
    model = built(WGAN(), (1, 28, 28))
    assert parameters(model) == 1_554_177
    doublings = [each for each in model.modules() if isinstance(each, nn.ConvTranspose2d)]
    assert [each.in_channels for each in doublings] == [256, 128, 64]
    critic = begun(WGAN(), model).critic
    widths = [each.out_channels for each in critic if isinstance(each, nn.Conv2d)]
    assert widths == [64, 128, 256]
    assert critic[-1].in_features == 4 * 4 * 256


def test_the_critics_step_descends_algorithm_one():
    x, model = images(4), built(SMALL_WGAN)
    fitting = begun(SMALL_WGAN, model)
    rng = generator(3)
    drawn = model.decode(torch.randn((4, 3), generator=rng)).detach()
    between = torch.rand((4, 1, 1, 1), generator=rng)
    mixed = (1 - between) * x + between * drawn
    distance = fitting.critic(x).mean() - fitting.critic(drawn).mean()
    penalty = gradient_penalty(fitting.critic, mixed)
    expected = torch.autograd.grad(10 * penalty - distance, list(fitting.critic.parameters()))
    losses = fitting.update(x, generator(3))
    torch.testing.assert_close(losses["wasserstein"], distance.detach())
    torch.testing.assert_close(losses["penalty"], penalty.detach())
    for found, slope in zip(slopes(fitting.critic), expected, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-6)


def test_the_generator_steps_after_every_third_batch_only():
    model = built(SMALL_WGAN)
    fitting, moved, last = begun(SMALL_WGAN, model), [], weights(model)
    for step in range(7):
        fitting.update(images(4), generator(step))
        moved.append(not torch.equal(weights(model), last))
        last = weights(model)
    assert moved == [False, False, True, False, False, True, False]


def test_the_generators_step_raises_scores_and_leaves_the_critic_alone():
    every, never = WGAN(4, 3, critic_steps=1), WGAN(4, 3, critic_steps=9)
    model = built(every)
    fitting, other = (begun(each, built(each), rate=1e-4) for each in (every, never))
    fitting.update(images(64), generator(0))
    other.update(images(64), generator(0))
    assert torch.equal(weights(fitting.critic), weights(other.critic))
    z = torch.randn((256, 3), generator=generator(1))
    before, after = (fitting.critic(each.decode(z)).mean() for each in (model, fitting.model))
    assert after > before


def test_a_wgan_learns_to_draw_both_kinds_of_its_data():
    family = WGAN(width=8, latent=2, critic_steps=3)
    model, x = built(family), halves(32)
    fitting, rng = begun(family, model, rate=5e-3), generator(0)
    z = torch.randn((64, 2), generator=generator(1))

    def nearest() -> tuple[float, float]:
        """Mean distance to the nearer kind, and the share of images that are near the second."""
        with torch.no_grad():
            apart = torch.cdist(model.decode(z).flatten(1), x[:2].flatten(1)).min(dim=1)
        return float(apart.values.mean()), float(apart.indices.float().mean())

    before, _ = nearest()
    for _ in range(300):
        fitting.update(x, rng)
    after, share = nearest()
    assert after < before / 2
    assert 0.25 < share < 0.75


def test_critic_steps_must_be_positive():
    with pytest.raises(ValueError, match="critic_steps must be at least 1, got 0; raise it"):
        WGAN(critic_steps=0)


@pytest.mark.parametrize(("per_scale", "count"), [(1, 1_650_563), (2, 2_240_899)])
def test_the_generator_of_faces_is_the_papers(per_scale, count):
    model = built(BEGAN(per_scale=per_scale), (3, 64, 64))
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [128] * 4 * per_scale + [3]
    assert sum(isinstance(each, nn.Upsample) for each in model.modules()) == 3
    assert parameters(model) == count


def test_the_discriminator_is_an_autoencoder_whose_channels_grow_by_size():
    family = BEGAN(width=2, latent=3, per_scale=2)
    model = built(family, (3, 32, 32))
    encoder, decoder = begun(family, model).discriminator
    widths = [each.out_channels for each in encoder if isinstance(each, nn.Conv2d)]
    assert widths == [2, 2, 2, 2, 4, 4, 4, 6, 6]
    assert encoder(images(2, (3, 32, 32))).shape == (2, 3)
    assert str(decoder) == str(model.network)


def test_latents_of_a_began_have_variance_four():
    assert built(SMALL_BEGAN).prior_std == 2
    assert built(SMALL_WGAN).prior_std == 1


def test_what_exceeds_the_range_is_clipped():
    model = built(SMALL_BEGAN)
    with torch.no_grad():
        model.network[-1].bias.fill_(0.5)
        model.network[-1].weight.zero_()
    z = torch.zeros((1, 3))
    assert torch.equal(model.decode(z), torch.full((1, *SHAPE), 0.75))
    with torch.no_grad():
        model.network[-1].bias.fill_(-1.5)
    assert torch.equal(model.decode(z), torch.zeros((1, *SHAPE)))


def test_an_update_of_a_began_descends_both_of_its_losses():
    x, model = images(4), built(SMALL_BEGAN)
    fitting = begun(SMALL_BEGAN, model)
    fitting.k = torch.tensor(0.3)
    its, ours = list(fitting.discriminator.parameters()), list(model.parameters())
    v, drawn = 2 * x - 1, model.draw(2 * torch.randn((4, 3), generator=generator(3)))
    real = (v - fitting.discriminator(v)).abs().mean()
    fixed = drawn.detach()
    fake = (fixed - fitting.discriminator(fixed)).abs().mean()
    expected = torch.autograd.grad(real - 0.3 * fake, its)
    generated = (drawn - fitting.discriminator(drawn)).abs().mean()
    expected_ours = torch.autograd.grad(generated, ours)
    fitting.update(x, generator(3))
    for found, slope in zip(
        slopes(fitting.discriminator) + slopes(model), expected + expected_ours, strict=True
    ):
        torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-7)


def test_began_balances_its_losses_as_the_paper_writes_it():
    x, model = images(4), built(SMALL_BEGAN)
    fitting = begun(SMALL_BEGAN, model, rate=0.0)
    k = 0.0
    for step in range(3):
        z = 2 * torch.randn((4, 3), generator=generator(step))
        real = reference.restoring(fitting.discriminator, 2 * x - 1)
        drawn = reference.restoring(fitting.discriminator, model.draw(z))
        k = min(1.0, max(0.0, k + 0.001 * (0.5 * real - drawn)))
        losses = fitting.update(x, generator(step))
        assert float(losses["real"]) == pytest.approx(real, rel=1e-5)
        assert float(losses["drawn"]) == pytest.approx(drawn, rel=1e-5)
        convergence = real + abs(0.5 * real - drawn)
        assert float(losses["convergence"]) == pytest.approx(convergence, rel=1e-5)
        assert float(losses["k"]) == pytest.approx(k, rel=1e-4)
    assert k > 0


@pytest.mark.parametrize(("diversity", "end"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_balance_stays_between_zero_and_one(diversity, end):
    family = BEGAN(width=4, latent=3, diversity=diversity, balance_rate=1e6)
    fitting = begun(family, built(family))
    fitting.k = torch.tensor(0.5)
    assert float(fitting.update(images(4), generator(0))["k"]) == end


def test_a_began_converges_and_its_balance_holds_the_ratio_of_losses():
    ratios = []
    for rate in (0.0, 0.05):
        family = BEGAN(width=4, latent=4, diversity=0.8, balance_rate=rate)
        fitting, x, rng = begun(family, built(family), rate=2e-3), tones(16), generator(0)
        history: list[Any] = [fitting.update(x, rng) for _ in range(120)]
        convergence = [float(each["convergence"]) for each in history]
        assert sum(convergence[-10:]) < sum(convergence[:10]) / 8
        late = history[60:]
        real, drawn = (sum(float(each[name]) for each in late) for name in ("real", "drawn"))
        ratios.append(drawn / real)
    free, held = ratios
    assert abs(held - 0.8) < 0.1 < abs(free - 0.8)


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 64, 32), (3, 4, 4), (3, 24, 24)])
def test_sizes_that_are_no_doublings_of_eight_are_refused(shape):
    _, height, width = shape
    with pytest.raises(ValueError, match=f"must be 8x8, .*, got {height}x{width}; use another"):
        SMALL_BEGAN.build(shape)


@pytest.mark.parametrize(
    ("field", "rule"),
    [({"per_scale": 0}, "at least 1, got 0"), ({"diversity": 1.5}, r"in \[0, 1\], got 1.5")],
)
def test_constants_of_a_began_must_make_sense(field, rule):
    with pytest.raises(ValueError, match=rule):
        BEGAN(**field)
