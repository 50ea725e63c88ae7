"""Names become objects, or a sentence that suggests what was meant."""

import re
from dataclasses import replace

import pytest

import attacks
from attacks import ATTACKS, SUITES
from attacks.eot import View
from benchmark import catalog
from benchmark.presets import PRESETS
from defenses import DEFENSES
from tests.fakes import ATTACKS as FAKES
from tests.fakes import TINY


def test_an_unknown_name_gets_the_nearest_one_and_the_list():
    registry = {"pgd-l2": 1, "ddn": 2}
    with pytest.raises(LookupError) as caught:
        catalog.lookup("attack", "pdg-l2", registry)
    assert str(caught.value) == (
        "unknown attack 'pdg-l2'; did you mean 'pgd-l2'? available: pgd-l2, ddn"
    )


def test_a_name_like_no_other_gets_the_list_alone():
    with pytest.raises(LookupError) as caught:
        catalog.lookup("data set", "xyz", {"digits": 1})
    assert str(caught.value) == "unknown data set 'xyz'; available: digits"


def test_names_are_split_at_commas_outside_brackets_and_kept_once():
    texts = ["cnn, eabs", "pgd-l2[steps=3,restarts=2]@exact,cnn", ""]
    assert catalog.split_names(texts) == ("cnn", "eabs", "pgd-l2[steps=3,restarts=2]@exact")


def test_suites_expand_in_order_each_attack_once_with_their_surrogate():
    suites = {"two": ("a", "b")}
    assert catalog.expand(["b", "two", "c"], suites) == ("b", "a", "c")
    assert catalog.expand(["two@exact", "a"], suites) == ("a@exact", "b@exact", "a")


@pytest.mark.parametrize("name", ATTACKS)
def test_every_registered_attack_is_its_own_specification(name):
    assert catalog.parse_attack(name, None, 1) == (name, ATTACKS[name])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_field_that_a_preset_names_exists(preset, channels):
    for name in ATTACKS:
        catalog.parse_attack(name, preset, channels)
    for name in DEFENSES:
        catalog.recipe_for(name, preset, "digits")
    assert set(preset.attacks) <= set(ATTACKS)
    assert set(preset.defenses) <= set(DEFENSES)


@pytest.mark.parametrize("suite", SUITES)
def test_every_member_of_a_suite_is_registered(suite):
    assert set(SUITES[suite]) <= set(ATTACKS)


def test_a_specification_sets_fields_by_their_type_and_sorts_its_label():
    spec = "pgd-l2[steps=007,restarts=2,eot=4,relative_step=1e-1]@classifier"
    label, attack = catalog.parse_attack(spec, None, 1)
    assert label == "pgd-l2[eot=4,relative_step=0.1,restarts=2,steps=7]"
    assert attack == replace(
        ATTACKS["pgd-l2"],
        steps=7,
        restarts=2,
        relative_step=0.1,
        view=View(surrogate="classifier", samples=4),
    )


def test_the_settings_of_mad_vae_can_be_spelled_out_over_any_preset():
    quick = catalog.PRESETS["quick"]
    _, mim = catalog.parse_attack("mim-linf[relative_step=0.033333,steps=40]", quick, 1)
    assert (mim.steps, mim.relative_step, mim.decay) == (40, 0.033333, 1.0)
    _, pgd = catalog.parse_attack("pgd-linf[relative_step=0.033333,restarts=1,steps=40]", quick, 1)
    assert (pgd.steps, pgd.relative_step, pgd.restarts) == (40, 0.033333, 1)
    spec = "cw-l2[binary_search_steps=9,confidence=10,initial_const=0.001,steps=1500,stepsize=0.01]"
    _, cw = catalog.parse_attack(spec + "@classifier", quick, 1)
    assert (cw.binary_search_steps, cw.confidence, cw.initial_const) == (9, 10.0, 1e-3)
    assert (cw.steps, cw.stepsize, cw.view.surrogate) == (1500, 0.01, "classifier")
    _, pixel = catalog.parse_attack("single-pixel[max_pixels=100]", quick, 1)
    assert (pixel.max_pixels, str(pixel.norm)) == (100, "l0")
    _, transfer = catalog.parse_attack("transfer-fgsm[source=adv_l2]", quick, 1)
    assert transfer.source == "adv_l2"
    _, latent = catalog.parse_attack("overpowered-l2[noise_norm=2.5]", quick, 1)
    assert latent.noise_norm == 2.5


def test_the_settings_of_robust_manifold_can_be_spelled_out_over_any_preset():
    quick = catalog.PRESETS["quick"]
    for step in (2.0, 0.1):
        _, bim = catalog.parse_attack(f"bim[relative_step={step:g},steps=20]", quick, 1)
        assert (bim.relative_step, bim.steps) == (step, 20)


def test_the_preset_comes_after_the_registry_and_before_the_specification():
    preset = replace(TINY, attacks={"pgd-l2": {"steps": 11, "eot": 2}}, restarts={1: 5, 3: 20})
    _, attack = catalog.parse_attack("pgd-l2", preset, 1)
    assert (attack.steps, attack.restarts, attack.view.samples) == (11, 5, 2)
    _, attack = catalog.parse_attack("pgd-l2[steps=3,restarts=1]", preset, 3)
    assert (attack.steps, attack.restarts) == (3, 1)
    assert catalog.parse_attack("pgd-l2", preset, 3)[1].restarts == 20


def test_a_presets_restarts_concern_attacks_that_restart_only():
    preset = replace(TINY, restarts={1: 5})
    assert catalog.parse_attack("fgsm", preset, 1)[1] == ATTACKS["fgsm"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pgd-l2[steps=3", "attack must look like name[field=value,...]@surrogate, got"),
        ("pgd-l2[steps]", "field of attack 'pgd-l2[steps]' must look like steps=100, got 'steps'"),
        ("pgd-l2[steps=x]", "steps of attack 'pgd-l2' must be an integer, got 'x'"),
        ("pgd-l2[relative_step=x]", "relative_step of attack 'pgd-l2' must be a number, got 'x'"),
        ("pgd-l2[restarts=0]", "restarts must be at least 1, got 0"),
        ("pgd-l2[eot=0]", "eot of attack 'pgd-l2' must be at least 1, got 0"),
        ("all_l2", "attack must be a single one here, got the suite 'all_l2'"),
    ],
)
def test_a_specification_that_makes_no_sense_says_why(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        catalog.parse_attack(spec, None, 1)


@pytest.mark.parametrize("field", ["norm", "view", "stesp"])
def test_a_field_that_cannot_be_set_is_unknown(field):
    with pytest.raises(LookupError, match=f"unknown field of attack 'pgd-l2': '{field}'; .*steps"):
        catalog.parse_attack(f"pgd-l2[{field}=1]", None, 1)


def test_a_switch_is_true_or_false():
    fields = {"flag": bool}
    assert catalog.value_of("attack", "a", "flag", "True", fields) is True
    with pytest.raises(ValueError, match="flag of attack 'a' must be true or false, got '1'"):
        catalog.value_of("attack", "a", "flag", "1", fields)


def test_an_optional_number_is_a_number_and_an_object_is_refused():
    fields = {"count": int | None, "folder": type(None), "name": str}
    assert catalog.value_of("attack", "a", "count", "3", fields) == 3
    assert catalog.value_of("attack", "a", "name", "x", fields) == "x"
    with pytest.raises(ValueError, match="folder of attack 'a' must be set in Python"):
        catalog.value_of("attack", "a", "folder", "x", fields)


def test_a_recipe_takes_the_presets_fields():
    preset = replace(TINY, defenses={"cnn": {"epochs": 2}})
    assert catalog.recipe_for("cnn", preset, "digits") == replace(DEFENSES["cnn"], epochs=2)
    with pytest.raises(LookupError, match="unknown field of defense 'cnn': 'epoch'; did you mean"):
        catalog.recipe_for("cnn", replace(TINY, defenses={"cnn": {"epoch": 2}}), "digits")


def test_the_listing_has_one_line_for_everything():
    lines = catalog.listing().splitlines()
    for name in (*DEFENSES, *attacks.ATTACKS, *SUITES, *PRESETS):
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 1


def test_other_registries_may_be_given():
    assert catalog.parse_attack("walk", None, 1, FAKES) == ("walk", FAKES["walk"])


def test_paper_trains_abs_and_eabs_longer_on_svhn() -> None:
    """E-ABS, section 4.3."""
    paper = PRESETS["paper"]
    epochs = {
        (name, dataset): catalog.recipe_for(name, paper, dataset).epochs
        for name in ("cnn", "abs", "eabs")
        for dataset in ("mnist", "svhn")
    }
    assert epochs[("eabs", "svhn")] == epochs[("abs", "svhn")] == 800
    assert epochs[("eabs", "mnist")] == epochs[("cnn", "svhn")] == 500


def test_a_field_that_holds_a_defense_takes_a_registered_name_with_the_presets_fields() -> None:
    preset = replace(TINY, defenses={"cnn": {"epochs": 2}, "magnet": {"epochs": 3}})
    plain = catalog.recipe_for("defense_vae", preset, "digits")
    assert plain.wraps()["classifier"].recipe.epochs == 3
    other = catalog.recipe_for("defense_vae[classifier=cnn]", preset, "digits")
    assert other.wraps()["classifier"].name == "cnn"
    assert other.wraps()["classifier"].recipe == replace(DEFENSES["cnn"], epochs=2)
    with pytest.raises(LookupError, match="unknown defense 'cnnn'; did you mean 'cnn'"):
        catalog.recipe_for("defense_vae[classifier=cnnn]", preset, "digits")


def test_a_choice_among_words_takes_one_of_them() -> None:
    recipe = catalog.recipe_for("mad_vae_combined[centres=separate]", TINY, "digits")
    assert recipe == replace(DEFENSES["mad_vae_combined"], centres="separate")
    with pytest.raises(LookupError, match=r"centres of defense .* 'seperate'; did you mean"):
        catalog.recipe_for("mad_vae_combined[centres=seperate]", TINY, "digits")
