"""Imitations of a slow target: who is asked what, once, and what a killed training keeps."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.from_foolbox import BIM
from attacks.threat import Norm
from benchmark.schedule import Schedule
from defenses import DEFENSES
from defenses.base import InnerAttack, Task, Wrapped
from defenses.cnn import FeedForward, network_of
from defenses.informed_substitute import InformedImitation, InformedSubstitute
from defenses.inquiry import to_bytes, to_pixels
from defenses.randomness import generator
from tests.asked import Protecting, Shift, images, quarters
from tests.linear import labels

TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)
EPSILONS = (10 / 255, 20 / 255, 30 / 255)
VAE = Wrapped("defense_vae", DEFENSES["defense_vae"])
BRIGHTER = Shift()
NOBODY_KNOWS = torch.zeros(1000, dtype=torch.long)


def recipe(**fields: object) -> InformedSubstitute:
    small = {"asked": 80, "asked_per_epoch": 32, "batch_size": 32, "epsilons": EPSILONS}
    return replace(InformedSubstitute(summary="", target=VAE), **{**small, **fields})


def made(
    target: Protecting, attack: InnerAttack | None = BRIGHTER, **fields: object
) -> tuple[FeedForward, InformedImitation]:
    configured = recipe(**fields)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defense = configured.build(TASK)
        learner = configured.learner(defense, TASK, attack)
    assert isinstance(learner, InformedImitation)
    learner.queried = {"target": target}
    return defense, learner


def rounds(learner: InformedImitation, x: Tensor, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        learner.update(x, NOBODY_KNOWS[: len(x)], generator(number))


def test_the_target_is_asked_as_often_as_allowed_and_no_more():
    target = Protecting()
    _, learner = made(target)
    x = images(40)
    counts = []
    for number in range(5):
        rounds(learner, x, 1, number)
        counts.append(target.cost.forward)
    assert counts == [32, 64, 80, 80, 80]


def test_half_of_what_is_asked_are_the_images_and_half_the_images_attacked_in_turns():
    _, learner = made(Protecting())
    x = images(40)
    rounds(learner, x, 3)
    kept = learner.transcript.points
    assert kept is not None and kept.dtype == torch.uint8
    places = (range(16), range(16, 32), range(32, 40))
    blocks = kept.split([16, 16, 16, 16, 8, 8])
    for block, (clean, attacked) in zip(
        places, zip(blocks[::2], blocks[1::2], strict=True), strict=True
    ):
        rows = list(block)
        assert torch.equal(to_pixels(clean), x[rows])
        moved = (attacked.int() - clean.int()).abs().flatten(1)
        expected = torch.tensor([(10, 20, 30)[row % 3] for row in rows])
        assert torch.equal(moved, expected[:, None].expand_as(moved).int())


def test_answers_are_those_of_the_deployed_target():
    target = Protecting()
    _, learner = made(target)
    rounds(learner, images(40), 3)
    points, answers = learner.transcript.points, learner.transcript.answers
    assert points is not None and answers is not None
    assert torch.equal(answers, labels(target.answering, to_pixels(points)))


def test_the_classifier_inside_is_attacked_away_from_its_own_answers():
    target = Protecting()
    attack = Shift()
    _, learner = made(target, attack)
    rounds(learner, images(40), 3)
    assert sum(len(x) for _, x, _ in attack.seen) == 40
    for victim, x, y in attack.seen:
        assert victim is target.classifier
        assert torch.equal(y, labels(target.classifier, x))


def test_adversarial_questions_fool_the_classifier_inside():
    target = Protecting()
    bim = BIM(norm=Norm.LINF, steps=20, relative_step=0.1)
    _, learner = made(target, bim, epsilons=(0.2,), asked_per_epoch=80)
    rounds(learner, images(40), 1)
    assert learner.transcript.points is not None
    clean, attacked = to_pixels(learner.transcript.points).chunk(2)
    before, after = (labels(target.classifier, x) for x in (clean, attacked))
    assert (before != after).float().mean() > 0.9
    assert (clean - attacked).abs().max() < 0.2 + 1 / 255


def test_what_the_target_refuses_is_asked_and_left_out():
    target = Protecting(refuses=lambda x: x[:, 0, 0, 0] > 0.5)
    _, learner = made(target)
    rounds(learner, images(40), 3)
    points, answers = learner.transcript.points, learner.transcript.answers
    assert points is not None and answers is not None
    assert target.cost.forward == 80
    assert 10 < len(points) == len(answers) < 70
    assert bool((to_pixels(points)[:, 0, 0, 0] <= 0.5).all())
    assert torch.equal(answers, labels(target.answering, to_pixels(points)))


def test_a_target_that_refuses_everything_teaches_nothing():
    defense, learner = made(Protecting(refuses=lambda x: x[:, 0, 0, 0] >= 0))
    before = {key: value.clone() for key, value in defense.state_dict().items()}
    rounds(learner, images(40), 3)
    assert all(torch.equal(value, before[key]) for key, value in defense.state_dict().items())


def test_a_resumed_training_does_not_ask_again():
    _, learner = made(Protecting())
    x = images(40)
    rounds(learner, x, 4)
    _, killed = made(Protecting())
    rounds(killed, x, 2)
    target = Protecting()
    _, resumed = made(target)
    resumed.recall({key: value.clone() for key, value in killed.memory().items()})
    rounds(resumed, x, 2, first=2)
    assert target.cost.forward == 16
    kept, expected = resumed.memory(), learner.memory()
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[key], expected[key]) for key in kept)


def test_nothing_asked_is_nothing_to_remember():
    assert made(Protecting())[1].memory() == {}


def test_a_pass_shows_every_question_once_in_batches_of_nearly_one_size():
    _, learner = made(Protecting(), asked=70, asked_per_epoch=70)
    rounds(learner, images(35), 1)
    device = torch.device("cpu")
    batches = list(learner.transcript.batches(32, device, generator(0)))
    assert [len(points) for points, _ in batches] == [24, 23, 23]
    shown = to_bytes(torch.cat([points for points, _ in batches])).flatten(1)
    kept = learner.transcript.points
    assert kept is not None
    order = [row.tolist() for row in shown]
    assert order != [row.tolist() for row in kept.flatten(1)]
    assert sorted(order) == sorted(row.tolist() for row in kept.flatten(1))


def test_a_substitute_learns_the_targets_answers_and_not_the_inner_classifiers():
    target = Protecting()
    defense, learner = made(target, asked=512, asked_per_epoch=512, batch_size=32)
    rounds(learner, quarters(256, seed=1), 15)
    fresh = quarters(500, seed=2)
    asked = target.decide(fresh, generator(0)).classes
    answered = defense.decide(fresh, generator(0)).classes
    inner = labels(target.classifier, fresh)
    assert (answered == asked).float().mean() > 0.8
    assert (answered == inner).float().mean() < 0.3
    assert torch.equal(learner.validate(fresh, inner), answered == inner)


def test_labels_play_no_part():
    states = []
    for y in (NOBODY_KNOWS[:40], (torch.arange(40) + 1) % 10):
        defense, learner = made(Protecting())
        for number in range(3):
            learner.update(images(40), y, generator(number))
        states.append(defense.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_substitute_has_the_architecture_of_the_classifier_inside():
    built = network_of(recipe().build(TASK))
    magnet = network_of(DEFENSES["magnet"].build(TASK))
    assert str(built) == str(magnet)
    other = Wrapped(
        "defense_vae", replace(DEFENSES["defense_vae"], classifier=Wrapped("cnn", DEFENSES["cnn"]))
    )
    assert str(network_of(recipe(target=other).build(TASK))) == str(
        network_of(DEFENSES["cnn"].build(TASK))
    )


def test_the_target_is_queried_and_not_contained():
    assert set(recipe().queries()) == {"target"} and not recipe().wraps()
    assert not any("target" in name for name, _ in recipe().build(TASK).named_parameters())


def test_always_the_same_images_are_asked_about():
    labels_ = torch.zeros(100, dtype=torch.long)
    (first,), (second,) = (list(recipe().batches(labels_, generator(seed))) for seed in (0, 1))
    assert torch.equal(first, second) and len(first.unique()) == 40
    with pytest.raises(ValueError, match="asked must be at most twice the 30 training images, got"):
        list(recipe().batches(labels_[:30], generator(0)))


def test_an_epoch_is_one_update_and_small_data_sets_are_passed_more_often():
    small = recipe(epochs=3, least_updates=90)
    assert Schedule.of(small, 1000) == Schedule(epochs=30, batches=1, halve_every=0, stretch=10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"asked": 81}, "asked must be even and positive, got 81"),
        ({"asked_per_epoch": 0}, "asked_per_epoch must be even and positive, got 0"),
        ({"epochs": 2}, "epochs must be at least 3 to ask about 80 images, 32 in each, got 2"),
        ({"epsilons": ()}, r"epsilons must be positive and at least one, got \(\)"),
        ({"epsilons": (0.1, 0.0)}, r"epsilons must be positive .* got \(0.1, 0.0\)"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        recipe(**fields)


def test_a_target_without_a_classifier_inside_is_refused():
    magnet = Wrapped("magnet", DEFENSES["magnet"])
    with pytest.raises(ValueError, match=r"must contain the classifier .* got 'magnet'"):
        recipe(target=magnet).build(TASK)


def test_an_inner_attack_is_needed():
    with pytest.raises(ValueError, match="inner_attack must have a fixed epsilon, got None"):
        made(Protecting(), None, inner_attack=None)
