"""The papers' numbers are found for what they were measured on, and for nothing else."""

import csv

import pytest

from benchmark import published

EPSILON = 8 / 255


def _values(**query):
    return [number.value for number in published.lookup(**query)]


def test_every_line_of_the_file_is_a_published_number():
    with published.RESULTS.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(published.results()) == len(lines) > 300
    assert [n.value for n in published.results()] == [float(line["value"]) for line in lines]


@pytest.mark.parametrize(
    ("dataset", "defense", "attack", "ball", "value"),
    [  # Ju & Wagner 2020, Tables 1 to 5 and section 5, copied from the paper
        ("mnist", "eabs", "clean", ("", 0.0), 99.4),
        ("mnist", "eabs", "pgd-linf", ("linf", 0.3), 17.1),
        ("mnist", "adv_l2", "cw-l2", ("l2", 1.5), 94.7),
        ("fashion_mnist", "abs", "all", ("linf", 0.1), 45.8),
        ("supertraffic10", "cnn", "deepfool-linf", ("linf", EPSILON), 48.1),
        ("svhn", "eabs", "noise-l2", ("l2", 1.5), 88.8),
        ("svhn", "dv_abs", "pgd-l2", ("l2", 1.5), 14.0),
        ("svhn", "eabs", "all", ("l2", 1.5), 36.0),
        ("svhn", "eabs", "pgd-estimated-linf", ("linf", EPSILON), 88.0),
        ("gtsrb10", "eabs", "pgd-l2", ("l2", 0.2), 85.0),
    ],
)
def test_lookup_finds_the_printed_number(dataset, defense, attack, ball, value):
    query = {"dataset": dataset, "defense": defense, "attack": attack}
    assert _values(**query, norm=ball[0], epsilon=ball[1]) == [value]


def test_carlini_wagner_in_another_norm_is_another_attack():
    for name in ("cw_l2", "cw_l0", "cw_linf"):
        assert published.covers(name.replace("_", "-"), name)
    for name in ("cw-l0", "cw-linf"):
        assert not published.covers(name, "cw")
        assert published.attack_rank(name) > published.attack_rank("cw-l2")


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "digits"},
        {"defense": "gmvae"},
        {"attack": "latent-descent"},
        {"norm": "l2"},
        {"epsilon": 0.03},
        {"surrogate": "classifier"},
        {"metric": "rejection"},
        {"attack": "pgd-linf[steps=100]"},
    ],
)
def test_lookup_finds_nothing_for_another_measurement(change):
    query = {"dataset": "svhn", "defense": "eabs", "attack": "pgd-linf"}
    query |= {"norm": "linf", "epsilon": EPSILON}
    assert _values(**query) == [57.0]
    assert _values(**{**query, **change}) == []


@pytest.mark.parametrize(
    ("attack", "value"),
    [
        ("pgd-linf[eot=10,restarts=5]", 58.6),
        ("pgd-linf[restarts=50,eot=3,steps=100]", 56.0),
        ("pgd-linf[steps=0,restarts=20,eot=3]", 87.5),
    ],
)
def test_numbers_with_parameters_are_found_by_exactly_these_in_any_order(attack, value):
    query = {"dataset": "svhn", "defense": "eabs", "norm": "linf", "epsilon": EPSILON}
    assert _values(attack=attack, **query) == [value]


def test_of_two_tables_with_different_numbers_the_preferred_one_is_taken():
    query = {"dataset": "svhn", "defense": "eabs", "norm": "linf", "epsilon": EPSILON}
    query |= {"attack": "pgd-linf[steps=100,restarts=20,eot=3]"}
    assert _values(**query) == [56.0, 51.5]
    assert _values(**query, preferred=("e-abs", "8")) == [51.5]
    assert _values(**query, preferred=("e-abs", "1")) == [56.0, 51.5]


def test_an_epsilon_kept_in_single_precision_still_matches():
    query = {"dataset": "svhn", "defense": "eabs", "attack": "pgd-linf", "norm": "linf"}
    assert _values(**query, epsilon=0.03137255087494850) == [57.0]


def test_known_misprints_carry_a_caveat_and_sound_numbers_none():
    noise = {"dataset": "fashion_mnist", "attack": "noise-linf", "norm": "linf", "epsilon": 0.1}
    (misprint,) = published.lookup(defense="eabs", **noise)
    (sound,) = published.lookup(defense="abs", **noise)
    assert "impossible as printed" in misprint.caveat
    assert sound.caveat == ""


def test_conditions_are_no_caveats():
    (number,) = published.lookup(
        dataset="svhn",
        defense="eabs",
        attack="pgd-linf[eot=3,restarts=20,steps=500]",
        norm="linf",
        epsilon=EPSILON,
    )
    assert number.caveat == "200 samples"
    assert number.parameters == {"steps": 500, "restarts": 20, "eot": 3}


def test_radii_for_pixels_between_minus_one_and_one_are_halved():
    query = {"dataset": "celeba", "defense": "inc", "attack": "fgsm", "norm": "linf"}
    assert _values(**query, surrogate="classifier", epsilon=0.05) == [80.0]
    assert _values(**query, epsilon=0.05) == []


def test_the_papers_all_row_names_its_attacks():
    assert published.attacks_under_all("svhn", "linf", "eabs") == {"pgd", "deepfool", "noise"}
    assert published.attacks_under_all("digits", "linf", "eabs") == set()


@pytest.mark.parametrize(
    ("dataset", "defense", "values"),
    [  # Ghosh et al. 2019, Table 1: accuracy, error, rejection; accuracy without thresholds
        ("mnist", "gmvae", [97.97, 0.22, 1.81, 99.67]),
        ("mnist", "gmvae_semi", [98.17, 0.52, 1.31, 99.1]),
        ("svhn", "gmvae", [92.8, 4.58, 2.62, 95.06]),
        ("svhn", "gmvae_semi", [83.54, 13.64, 2.82, 86.42]),
        ("coil100", "gmvae", [98.4, 0, 1.6, 99.89]),
    ],
)
def test_every_rate_of_a_rejecting_defense_is_found(dataset, defense, values):
    metrics = ("accuracy", "error", "rejection", "accuracy_without_rejection")
    query = {"dataset": dataset, "defense": defense, "attack": "clean"}
    assert [_values(**query, metric=metric) for metric in metrics] == [[v] for v in values]
    assert sum(values[:3]) == pytest.approx(100)


@pytest.mark.parametrize(("epsilon", "value"), [(0.06, 97), (0.12, 93), (0.18, 91), (0.3, 87)])
def test_reclassification_is_the_accuracy_of_the_defense_that_does_it(epsilon, value):
    query = {"dataset": "mnist", "attack": "fgsm", "norm": "linf", "epsilon": epsilon}
    query["surrogate"] = "encoder"
    (number,) = published.lookup(defense="gmvae_reclassify", **query)
    assert number.value == value
    assert "encoder alone" in number.caveat
    assert _values(defense="gmvae", **query) == []
    assert _values(dataset="mnist", defense="gmvae_reclassify", attack="clean") == [99.07]


def test_the_largest_error_of_a_sweep_has_no_radius():
    query = {"dataset": "mnist", "defense": "gmvae", "attack": "fgsm", "surrogate": "encoder"}
    query["metric"] = published.LARGEST_ERROR
    assert _values(**query, norm="linf") == [3.89]
    assert _values(**query, norm="l2") == []


def test_an_attack_printed_without_a_ball_is_shown_beside_any_with_a_caveat():
    query = {"dataset": "svhn", "defense": "gmvae", "attack": "threshold-aware-l2", "norm": "l2"}
    (number,) = published.lookup(**query, epsilon=1.5, metric="error")
    assert number.value == 0
    assert "instead of bounding it" in number.caveat


def test_a_table_is_asked_for_its_own_numbers_whatever_the_data_set():
    query = {"defense": "inc", "attack": "overpowered", "metric": "mean_kl"}
    (number,) = published.of_table(("robust-manifold", "section 4.3"), **query)
    assert (number.value, number.dataset, number.caveat) == (2.47, "celeba", "")
    assert published.of_table(("robust-manifold", "1"), **query) == ()


def test_a_label_that_is_no_specification_is_refused():
    with pytest.raises(ValueError, match=r"attack label must be name\[field=value,...\]"):
        published.specification("pgd-l2[steps]")


def test_ranks_follow_the_papers_tables_and_unknown_names_come_last():
    defenses = ["zebra", "eabs", "adv_l2", "cnn"]
    assert sorted(defenses, key=published.defense_rank) == ["cnn", "adv_l2", "eabs", "zebra"]
    attacks = ["zebra-l2", "noise-l2", "cw-l2", "pgd-l2"]
    assert sorted(attacks, key=published.attack_rank)[0] == "pgd-l2"
    assert sorted(attacks, key=published.attack_rank)[-1] == "zebra-l2"
