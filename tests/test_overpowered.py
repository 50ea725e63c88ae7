"""The Overpowered attack on linear decoders, whose optimum is known in closed form."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks import ATTACKS
from attacks.evasion import evades, evasion_lead
from attacks.latent_search import Found, LatentProblems, LatentSearch, ascended, near_encodings
from attacks.threat import Norm
from defenses.randomness import generator
from tests.linear import Decoding, images, labels, random_linear

ENDLESS = 1e6
"""A margin that no lead reaches, so that the search goes on for the largest one."""
SEARCH = LatentSearch(
    steps=200,
    rate=0.05,
    multiplier=1.0,
    ascent=0.2,
    margin=ENDLESS,
    noise_norm=0.0,
    noise_samples=1,
    chunk=100,
)
ATTACK = replace(ATTACKS["overpowered-l2"], steps=200, starts=2, noise_norm=0.0)


def decoding(num_classes: int = 2, seed: int = 0) -> Decoding:
    defense = Decoding(*random_linear(num_classes, seed), seed=seed)
    return defense.requires_grad_(False)


def near_the_plane(defense: Decoding, count: int, apart: float = 0.2) -> torch.Tensor:
    """Images a little outside the range of the decoder."""
    x = images(count)
    plane = defense.decode(defense.encode(x))
    return plane + apart * (x - plane)


def problems(defense: Decoding, x: torch.Tensor, epsilon: float) -> LatentProblems:
    with torch.no_grad():
        starts = defense.encode(x)[:, None]
    radii = torch.full((len(x),), epsilon)
    return LatentProblems(starts, x, labels(defense, x), radii, keys=x)


def geometry(defense: Decoding, x: torch.Tensor, y: torch.Tensor):
    """Of two classes: lead on the plane at its nearest point, slope in it, distance to it (N,)."""
    plane = defense.decode(defense.encode(x))
    logits = defense.classify(plane)
    own = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.gather(1, 1 - y[:, None]).squeeze(1)
    normals = defense.weight[1 - y] - defense.weight[y]
    return other - own, (normals @ defense.columns).norm(dim=1), Norm.L2.distance(x, plane)


def largest_lead(defense: Decoding, x: torch.Tensor, y: torch.Tensor, epsilon: float):
    """max w . (G(z') - x) for ||G(z') - x|| <= epsilon: along the projection of w on the plane."""
    at_foot, slope, apart = geometry(defense, x, y)
    return at_foot + slope * (epsilon**2 - apart.square()).sqrt()


# the optimum


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("epsilon", [0.15, 0.3])
def test_largest_lead_in_the_ball_is_reached_within_five_percent(epsilon, scale):
    defense = decoding()
    defense.weight.mul_(scale)
    defense.bias.mul_(scale)
    x = near_the_plane(defense, 10)
    wanted = problems(defense, x, epsilon)
    found = SEARCH.run(defense, wanted, generator(0))
    before = geometry(defense, x, wanted.classes)[0]
    gained = found.leads - before
    possible = largest_lead(defense, x, wanted.classes, epsilon) - before
    assert (gained <= possible * 1.001).all()
    assert (gained >= possible * 0.95).all()


def test_smallest_ball_that_breaks_is_found_within_five_percent():
    defense = decoding()
    x = near_the_plane(defense, 8)
    y = labels(defense, x)
    at_foot, slope, apart = geometry(defense, x, y)
    smallest = ((-at_foot / slope).square() + apart.square()).sqrt()
    for factor, broken in ((0.99, False), (1.05, True)):
        points = ATTACK.perturb(defense, x, y, factor * smallest, generator(0))
        assert (evades(defense, points, y, generator(1)) == broken).all()


def test_a_pair_of_free_latents_uses_the_whole_budget_along_the_slope():
    defense, eta = decoding(), 0.3
    with torch.no_grad():
        z = defense.encode(images(6))
    y = labels(defense, defense.decode(z))
    starts = torch.stack([z, z], dim=1)
    wanted = LatentProblems(starts, None, y, torch.full((6,), eta), keys=z)
    _, slope, _ = geometry(defense, defense.decode(z), y)
    # Both leads add up to slope * eta at most; with this margin neither can be without the other.
    search = replace(SEARCH, margin=0.95 * float(slope[0]) * eta / 2, steps=400)
    found = search.run(defense, wanted, generator(0))
    first, second = found.images.unbind(dim=1)
    assert (Norm.L2.distance(first, second) <= eta * (1 + 1e-5)).all()
    assert (found.leads >= 0.95 * search.margin).all()
    assert (defense.classify(second).argmax(dim=1) == y).all()
    assert (defense.classify(first).argmax(dim=1) == 1 - y).all()
    assert torch.equal(defense.decode(found.latents[:, 0]), first)


# the budget


@given(st.floats(0, 1e3), st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_multipliers_are_never_negative(multiplier, excess, rate):
    after = ascended(torch.tensor([multiplier]), torch.tensor([excess]), rate)
    assert after >= 0
    assert torch.allclose(after, torch.tensor([max(0.0, multiplier + rate * excess)]), atol=1e-3)


def test_no_iterate_outside_the_ball_is_handed_over():
    defense = decoding()
    x = images(6, spread=0.4)
    y = labels(defense, x)
    apart = geometry(defense, x, y)[2]
    assert (apart > 0.2).all(), "no image of the decoder is that near"
    points = ATTACK.perturb(defense, x, y, torch.full((6,), 0.2), generator(0))
    assert torch.equal(points, x)
    assert (SEARCH.run(defense, problems(defense, x, 0.2), generator(0)).leads == -math.inf).all()


def test_unrestricted_the_last_iterate_counts_where_none_inside_evades():
    defense = decoding()
    x = images(6, spread=0.4)
    y = labels(defense, x)
    free = replace(ATTACK, norm=Norm.UNRESTRICTED, budget=0.2, steps=20)
    points = free.perturb(defense, x, y, torch.full((6,), math.inf), generator(0))
    assert (Norm.L2.distance(x, points) > 0.2).all()


def test_unrestricted_another_class_leads_by_no_less_than_within_the_budget():
    defense = decoding()
    x = torch.cat([near_the_plane(defense, 6), images(6, spread=0.4)])
    y = labels(defense, x)
    free = replace(ATTACK, norm=Norm.UNRESTRICTED, budget=1.0)
    leads = [
        evasion_lead(defense.decide(points, generator(0)), y)
        for points in (
            ATTACK.perturb(defense, x, y, torch.full((12,), 1.0), generator(0)),
            free.perturb(defense, x, y, torch.full((12,), math.inf), generator(0)),
        )
    ]
    assert (leads[1] >= leads[0]).all()
    assert (leads[1] > 0).all()


# problems side by side


def found_of(defense: Decoding, wanted: LatentProblems, **fields: float) -> Found:
    search = replace(SEARCH, noise_norm=0.1, noise_samples=3, steps=30, **fields)
    return search.run(defense, wanted, generator(0))


def test_each_row_masks_its_own_class_alone():
    defense = decoding(num_classes=4)
    x = images(12)
    wanted = problems(defense, x, 0.4)
    assert len(wanted.classes.unique()) == 4
    together = found_of(defense, wanted)
    for row, alone in enumerate(wanted.split(1)):
        apart = found_of(defense, alone)
        assert torch.allclose(apart.leads, together.leads[row : row + 1], atol=1e-5)
        assert torch.allclose(apart.images, together.images[row : row + 1], atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_no_result(chunk):
    defense = decoding(num_classes=4)
    wanted = problems(defense, images(5), 0.4)
    found = found_of(defense, wanted), found_of(defense, wanted, chunk=chunk)
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_chunks_bound_the_copies_that_are_classified_at_once():
    defense, asked = decoding(), []
    classify = defense.classify
    defense.classify = lambda x: (asked.append(len(x)), classify(x))[1]
    found_of(defense, problems(defense, images(9), 0.4), chunk=12)
    assert max(asked) == 12
    found_of(defense, problems(defense, images(2), 0.4), chunk=1)
    assert max(asked[-10:]) == 3, "the copies of one problem at least"


def test_solved_problems_leave_and_others_go_on():
    defense = decoding()
    x = near_the_plane(defense, 8)
    wanted = problems(defense, x, 2.0)
    found = replace(SEARCH, margin=0.1).run(defense, wanted, generator(0))
    assert (found.leads >= 0.1).all()
    assert defense.cost.decoder < len(x) * SEARCH.steps
    before = defense.cost.decoder
    SEARCH.run(defense, wanted, generator(0))
    assert defense.cost.decoder - before == len(x) * (SEARCH.steps + 2)


# the noise


def test_noise_has_its_length_is_fresh_at_each_step_and_an_images_own():
    defense, clean, asked = decoding(), [], []
    classify, decode = defense.classify, defense.decode
    defense.decode = lambda z: (clean.append(decode(z)), clean[-1])[1]
    defense.classify = lambda x: (asked.append(x), classify(x))[1]
    search = replace(SEARCH, noise_norm=0.7, noise_samples=4, steps=1)

    def noise(x: torch.Tensor) -> list[torch.Tensor]:
        clean.clear()
        asked.clear()
        search.run(defense, problems(defense, x, 0.5), generator(0))
        # The first decoded are the starts, of which nobody is asked; labels come before both.
        pairs = zip(asked[-2:], clean[-2:], strict=True)
        return [(many.unflatten(0, (len(x), 4)) - one[:, None]).detach() for many, one in pairs]

    x = images(2)
    first, second = noise(x)
    assert torch.allclose(first.flatten(2).norm(dim=2), torch.tensor(0.7), atol=1e-5)
    assert torch.pdist(torch.cat([first, second], dim=1).flatten(0, 1).flatten(1)).min() > 0.1
    assert torch.allclose(noise(x[1:])[0], first[1:], atol=1e-6)


def test_the_first_start_is_the_encoding_and_the_others_lie_around_it():
    defense = decoding()
    x = images(3)
    starts = near_encodings(defense, x, 400, 0.2, chunk=250, rng=generator(0)).unflatten(
        0, (400, 3)
    )
    assert torch.equal(starts[0], defense.encode(x))
    assert (starts[1:] - starts[0]).std().item() == pytest.approx(0.2, rel=0.05)
    alone = near_encodings(defense, x[2:], 400, 0.2, chunk=250, rng=generator(0))
    assert torch.equal(alone, starts[:, 2])


def test_of_an_images_starts_the_deployed_defenses_answer_chooses():
    defense = decoding()
    x = near_the_plane(defense, 5)
    y = labels(defense, x)
    one, many = (
        replace(ATTACK, starts=count, steps=15).perturb(
            defense, x, y, torch.full((5,), 0.3), generator(0)
        )
        for count in (1, 6)
    )
    leads = [(geometry(defense, points, y)[0]) for points in (one, many)]
    assert (leads[1] >= leads[0] - 1e-6).all()
