"""Pairs of a decoder's images: the search, its transfer, and training against it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.evasion import lead
from attacks.overpowered_pairs import OverpoweredPairs
from attacks.threat import Norm
from defenses.base import Decision, FindsPairs, accepts_all
from defenses.cnn import FeedForward
from defenses.projection.descent import Adam
from defenses.projection.inversion import Inversion
from defenses.projection.inverting import Inverting, Views
from defenses.projection.robust_training import PairsLearner
from defenses.randomness import generator
from tests.linear import SIZE, Linear, images, labels, random_linear
from tests.manifold import LinearModel

ETA = 0.2
ATTACK = OverpoweredPairs(
    mean_square=ETA**2 / SIZE, starts=2, steps=300, asks=10, margin=0.05, rate=0.02
)


def linear_defense(model: LinearModel | None = None) -> Inverting:
    return deployed(Linear(*random_linear(2)), LinearModel() if model is None else model)


def deployed(classifier: Any, model: LinearModel, **changes: Any) -> Inverting:
    settings: dict[str, Any] = {
        "inversion": Inversion(steps=400, descent=Adam(0.05)),
        "restarts": 1,
        "start_std": 1.0,
        "eta": None,
        "views": Views(),
    }
    return Inverting(classifier, model, **{**settings, **changes}).eval()


def starts(count: int) -> Tensor:
    return torch.randn((count, 5), generator=generator(5))


def test_pairs_lie_in_the_budget_on_both_sides_of_the_boundary() -> None:
    defense = linear_defense()
    kept, left = ATTACK.pairs(defense, starts(6), generator(0))
    near, far = defense.decode(kept), defense.decode(left)
    assert bool(((near - far).flatten(1).norm(dim=1) <= ETA * 1.001).all())
    own = defense.classify(defense.decode(starts(6))).argmax(dim=1)
    assert torch.equal(defense.classify(near).argmax(dim=1), own)
    assert torch.equal(defense.classify(far).argmax(dim=1), 1 - own)


def test_pairs_part_as_far_as_a_linear_classifier_allows() -> None:
    model = LinearModel()
    defense = linear_defense(model)
    endless = replace(ATTACK, margin=100.0, steps=1200)
    kept, left = endless.pairs(defense, starts(6), generator(0))
    own = defense.classify(defense.decode(starts(6))).argmax(dim=1)
    leaving = lead(defense.classify(defense.decode(left)), own)
    keeping = -lead(defense.classify(defense.decode(kept)), own)
    gained = leaving + keeping
    basis = torch.linalg.qr(model.columns)[0]
    normal = defense.classifier.weight[0] - defense.classifier.weight[1]
    best = ETA * (basis.T @ normal).norm()
    assert bool((gained <= best * 1.01).all())
    assert bool((gained >= best * 0.94).all())
    assert bool((torch.minimum(leaving, keeping) >= best / 2 * 0.94).all())


@pytest.mark.parametrize("margin", [0.05, 100.0])
def test_pairs_end_on_two_sides_whether_the_margin_is_in_reach_or_not(margin: float) -> None:
    defense = linear_defense()
    pairs = replace(ATTACK, margin=margin).pairs(defense, starts(6), generator(0))
    near, far = (defense.classify(defense.decode(z)).argmax(dim=1) for z in pairs)
    assert bool((near != far).all())


def test_candidates_transfer_to_the_real_inversion_of_a_linear_generator() -> None:
    defense, x = linear_defense(), LinearModel().projected(images(5))
    y = labels(Linear(*random_linear(2)), x)
    points = ATTACK(defense, x, y, [float("inf")], generator(0))[0]
    for run in range(3):
        answered = defense.decide(points, generator(100 + run)).classes
        assert bool((answered != y).all())


class Forgetful(Linear):
    """Fooled only in one run of so many, by points brighter than the image it is shown first."""

    stochastic = True

    def __init__(self, often: Tensor) -> None:
        super().__init__(*random_linear(2))
        self.often = often
        self.runs = 0

    def encode(self, x: Tensor) -> Tensor:
        return torch.zeros((len(x), 5))

    def decode(self, z: Tensor) -> Tensor:
        return LinearModel().decode(z)

    def classify(self, x: Tensor) -> Tensor:
        return self.logits(x)

    def _decide(self, x: Tensor, rng: torch.Generator) -> Decision:
        self.runs += 1
        wrong = self.runs % 10 < self.often[: len(x)]
        return accepts_all(torch.stack([~wrong, wrong], dim=1).float())


def test_of_several_starts_the_one_that_fools_most_runs_is_handed_over() -> None:
    defense = Forgetful(torch.tensor([3.0, 9.0]))
    attack = OverpoweredPairs(starts=2, steps=2, asks=10, spread=1.0)
    x, y = images(1), torch.zeros(1, dtype=torch.long)
    found = attack.perturb(defense, x, y, torch.tensor([float("inf")]), generator(0))
    best = attack.saddle(
        defense,
        *_both_starts(attack, defense, x),
        classes=y.repeat(2),
        keys=x.repeat(2, 1, 1, 1),
        rng=generator(1),
    )
    assert defense.runs == 10
    torch.testing.assert_close(found[0], best.images[1, 0].clamp(0, 1), atol=0.1, rtol=0)


def _both_starts(attack: OverpoweredPairs, defense: Any, x: Tensor) -> tuple[Tensor]:
    from attacks.latent_search import near_encodings
    from defenses.randomness import child

    return (
        near_encodings(defense, x, 2, attack.spread, chunk=500, rng=child(generator(0), "starts")),
    )


def test_pairs_apply_where_there_is_a_decoder() -> None:
    assert ATTACK.norm is Norm.UNRESTRICTED
    assert ATTACK.needs(linear_defense()) is None
    assert "no decoder" in str(ATTACK.needs(Linear(*random_linear())))
    assert isinstance(ATTACK, FindsPairs)


def small_network() -> FeedForward:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 32), nn.ReLU(), nn.Linear(32, 2))
    with torch.no_grad():
        network[3].weight.mul_(8)
    return FeedForward(network, 2)


def trained(updates: int, mixing: float) -> tuple[Inverting, PairsLearner]:
    defense = deployed(small_network(), LinearModel())
    attack = OverpoweredPairs(mean_square=ETA**2 / SIZE, steps=30, rate=0.05)
    learner = PairsLearner(defense, attack, 0.01, mixing=mixing, every=2, count=16)
    x = images(64)
    y = (x.mean(dim=(1, 2, 3)) > 0.5).long()
    for number in range(updates):
        learner.update(x, y, generator(number))
    return defense, learner


def apart(defense: Inverting) -> float:
    attack = OverpoweredPairs(mean_square=ETA**2 / SIZE, steps=100, rate=0.05)
    defense.eval().requires_grad_(False)
    pairs = attack.pairs(defense, starts(32), generator(9))
    first, second = (defense.classify(defense.decode(z)).softmax(dim=1) for z in pairs)
    return float((first - second).square().sum(dim=1).mean())


def test_training_against_pairs_brings_their_answers_together() -> None:
    plain, robust = trained(40, 0.01)[0], trained(40, 0.9)[0]
    assert apart(robust) < 0.5 * apart(plain)


def test_training_against_pairs_moves_the_classifier_alone() -> None:
    before = deployed(small_network(), LinearModel()).state_dict()
    after = trained(2, 0.5)[0].state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("classifier.") for name in moved)


def test_pairs_are_attacked_at_every_nth_update_also_after_a_resume() -> None:
    defense, learner = trained(3, 0.5)
    again = PairsLearner(defense, learner.attack, 0.01, mixing=0.5, every=2, count=16)
    again.recall(learner.memory())
    x = images(4)
    before = defense.cost.decoder
    again.update(x, torch.zeros(4, dtype=torch.long), generator(3))  # the fourth
    assert defense.cost.decoder == before
    again.update(x, torch.zeros(4, dtype=torch.long), generator(4))
    assert defense.cost.decoder > before


def test_impossible_pairs_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="asks must be at least 1, got 0"):
        OverpoweredPairs(asks=0)


def test_every_update_trains_with_the_classifier_in_training_mode() -> None:
    defense, learner = trained(1, 0.5)
    for number in range(1, 4):  # also between attacks, and after an epoch began in evaluation mode
        defense.classifier.eval()
        learner.update(images(4), torch.zeros(4, dtype=torch.long), generator(number))
        assert defense.classifier.training
