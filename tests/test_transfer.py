"""True transfer: what is made on the source is handed over whatever the target says."""

import pickle
from dataclasses import replace

import pytest
import torch

from attacks import ATTACKS
from attacks.from_foolbox import PGD
from attacks.sources import InformedByDefense, Trained
from attacks.threat import Norm
from attacks.transfer import Transfer
from benchmark import records
from benchmark.catalog import parse_attack
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.records import Outcome
from benchmark.shelf import REGISTERED, Armed
from benchmark.sources import equip
from defenses.randomness import generator
from tests.fakes import TINY, Broken, Cautious, arm
from tests.linear import Linear, exact_distance, images, labels, random_linear
from tests.test_runner import PLAN, cache, sweep  # noqa: F401 (cache is a fixture)

EPSILONS = (0.02, 0.1)


def source() -> Linear:
    return Linear(*random_linear(seed=1))


def transfer(**fields: object) -> Transfer:
    trained = Trained("source", "Linear()", "digest", lambda device: source())
    return replace(ATTACKS["transfer-fgsm"], trained=trained, **fields)


def test_candidates_are_those_of_the_source():
    target = Linear(*random_linear(seed=2))
    x = images(6)
    y = labels(target, x)
    points = transfer()(target, x, y, EPSILONS, generator(0))
    for epsilon, each in zip(EPSILONS, points, strict=True):
        radii = torch.full((6,), epsilon)
        fgsm = ATTACKS["fgsm"].perturb(source(), x, y, radii, generator(1))
        assert torch.equal(each, fgsm)


def test_the_target_is_never_asked():
    target = Broken()
    target.num_classes = 4
    x = images(4)
    transfer()(target, x, torch.zeros(4).long(), EPSILONS, generator(0))
    assert target.cost.forward == 0


def test_any_attack_with_a_ball_may_make_the_candidates():
    target = Linear(*random_linear(seed=2))
    x = images(6)
    y = labels(source(), x)
    pgd = PGD(norm=Norm.L2, steps=10, relative_step=0.2)
    (points,) = transfer(norm=Norm.L2, crafting=pgd)(target, x, y, (2.0,), generator(0))
    assert (labels(source(), points) != y).all()


@pytest.mark.parametrize("name", ["transfer-bim", "transfer-pgd-linf", "transfer-pgd-l2"])
def test_candidates_cross_the_sources_boundary_wherever_it_is_within_reach(name):
    attack = replace(ATTACKS[name], trained=transfer().trained)
    x = images(12)
    y = labels(source(), x)
    distance = exact_distance(source(), x, y, attack.norm)
    epsilons = (0.7 * float(distance.min()), 1.3 * float(distance.max()))
    near, far = attack(Linear(*random_linear(seed=2)), x, y, epsilons, generator(0))
    assert torch.equal(labels(source(), near), y)
    assert (labels(source(), far) != y).all()


def test_bim_ends_in_a_corner_of_the_ball():
    weight = torch.randn((2, 16), generator=generator(4))
    linear = Linear(weight, torch.zeros(2))
    attack = replace(ATTACKS["transfer-bim"], trained=Trained("", "", "", lambda device: linear))
    x = images(6)
    y = labels(linear, x)
    (points,) = attack(linear, x, y, (0.1,), generator(0))
    away = (weight[1 - y] - weight[y]).sign().reshape(x.shape)
    torch.testing.assert_close(points, x + 0.1 * away)


def test_crafting_with_restarts_is_refused():
    with pytest.raises(ValueError, match=r"restarts of the crafting attack must be 1, .* got 20"):
        transfer(crafting=ATTACKS["pgd-linf"])


def test_presets_shorten_what_makes_the_candidates():
    steps = {
        preset: parse_attack("transfer-pgd-linf[source=adv_linf]", PRESETS[preset], 1)[1]
        for preset in ("smoke", "quick", "paper")
    }
    assert [each.crafting.steps for each in steps.values()] == [3, 40, 80]
    assert all(each.source == "adv_linf" for each in steps.values())


def test_a_norm_other_than_the_crafting_attacks_is_refused():
    with pytest.raises(ValueError, match="norm must be that of the crafting attack, linf, got l2"):
        transfer(norm=Norm.L2)


def test_a_source_that_nobody_handed_over_is_missed_by_name():
    x = images(2)
    target = Linear(*random_linear())
    attack = replace(ATTACKS["transfer-fgsm"], source="eabs")
    with pytest.raises(ValueError, match="source must be trained and handed over, got the name 'e"):
        attack(target, x, labels(target, x), EPSILONS, generator(0))


def test_a_source_of_other_classes_is_refused():
    x = images(2)
    target = Linear(*random_linear(num_classes=3))
    with pytest.raises(ValueError, match="source must know 3 classes, got 4"):
        transfer()(target, x, labels(target, x), EPSILONS, generator(0))


def test_the_repr_names_the_sources_weights_and_not_how_they_are_loaded():
    assert isinstance(transfer(), InformedByDefense)
    assert "trained=Trained(name='source', recipe='Linear()', digest='digest')" in repr(transfer())


def test_an_unknown_source_is_an_error_that_lists_those_that_exist():
    attack = replace(ATTACKS["transfer-fgsm"], source="eabbs")

    def train(name: str) -> Armed:
        data = REGISTERED.sources["digits"].load()
        return REGISTERED.arm(data, name, PRESETS["smoke"], "cpu", Progress(silent=True))

    with pytest.raises(LookupError, match="unknown defense 'eabbs'; did you mean 'eabs'"):
        equip([("transfer-fgsm", attack)], train)


def test_an_attack_with_its_source_travels_to_other_processes():
    named = replace(ATTACKS["transfer-fgsm"], source="cautious")
    ((_, equipped),) = equip([("transfer", named)], lambda name: arm(None, name, TINY, "cpu", None))
    again = pickle.loads(pickle.dumps(equipped))
    assert again == equipped
    assert isinstance(again.trained.load("cpu"), Cautious)


def test_a_sweep_trains_the_source_and_its_digest_is_part_of_the_cell(tmp_path):
    plan = replace(PLAN, attacks=("transfer",), epsilons={Norm.LINF: (0.05, 0.5)})
    named = replace(ATTACKS["transfer-fgsm"], source="cautious")
    paths = sweep(plan, tmp_path, transfer=named)
    told = records.provenance(paths[1])
    assert "digest='weights of cautious'" in told["attack_repr"]
    assert told["error"] is None
    assert told["cost"]["backward"] == 0
    frame = records.read(paths)
    attacked = frame[(frame["attack"] == "transfer") & (frame["epsilon"] == 0.5)]
    assert set(attacked["outcome"]) == {Outcome.WRONG}
    other = sweep(plan, tmp_path, transfer=replace(named, source="brightness"))
    assert other[1] != paths[1]
