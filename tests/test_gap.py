"""Defenses whose paper counts accuracy, beside purifiers, from outcomes known by construction."""

import pandas as pd
import pytest

from benchmark import accuracy, agreement, gap, published, scores, tables
from benchmark.accuracy import Layout
from benchmark.catalog import recipe_for
from benchmark.presets import PRESETS
from defenses import DEFENSES
from defenses.counting import Counts
from tests.synthetic_records import letters, write_cell

GUARDED = {"reference": "inc_classifier", "counts": "accuracy"}
PURIFIER = {"reference": "magnet"}
ON_CLASSIFIER = "fgsm@classifier"


def cell(folder, defense, attack, outcomes, metadata=None, **options):
    norm = {} if attack == "clean" else {"norm": options.pop("norm", "linf")}
    return write_cell(folder, defense, attack, outcomes, metadata=metadata, **norm, **options)


@pytest.fixture
def cells(tmp_path):
    """Ten images: inverted, two are wrong when clean, three oblivious, seven adaptively."""
    return [
        cell(tmp_path, "inc_classifier", "clean", letters(9, 1), {"reference": "", "counts": ""}),
        cell(
            tmp_path,
            "inc_classifier",
            "fgsm",
            {0.3: letters(0, 10)},
            {"reference": "", "counts": ""},
        ),
        cell(tmp_path, "inc", "clean", letters(8, 2), GUARDED),
        cell(tmp_path, "inc", ON_CLASSIFIER, {0.3: letters(7, 3)}, GUARDED),
        cell(tmp_path, "inc", "fgsm", {0.3: letters(5, 5)}, GUARDED),
        cell(tmp_path, "inc", "pgd-linf@identity_bpda", {0.3: letters(3, 7)}, GUARDED),
        cell(
            tmp_path, "inc", "transfer-bim[source=inc_substitute]", {0.3: letters(0, 10)}, GUARDED
        ),
    ]


@pytest.fixture
def purified(tmp_path):
    """One purifier that agrees about nine of ten and keeps four."""
    return [
        cell(tmp_path, "magnet", "clean", letters(9, 1)),
        cell(tmp_path, "magnet", "fgsm", {0.3: letters(1, 9)}),
        cell(tmp_path, "defense_vae", "clean", letters(9, 1), PURIFIER),
        cell(tmp_path, "defense_vae", ON_CLASSIFIER, {0.3: letters(8, 2)}, PURIFIER),
        cell(tmp_path, "defense_vae", "fgsm", {0.3: letters(4, 6)}, PURIFIER),
    ]


def layout(found):
    return Layout(accuracy.choose_radii(found))


def texts(paths):
    """Label -> texts of the gap sheet's lines."""
    found = scores.read(paths)
    sheet = gap.gap_sheet(found, layout(found), "t")
    return {line.label: [e.text for e in line.entries] for line in sheet.lines if line.entries}


def without_bpda(paths):
    """The cells under the attacks that purifiers were given too."""
    labels = ("clean", "fgsm")
    return [p for p in paths if scores.read([p]).metadata[0]["attack"] in labels]


def test_the_published_protocol_of_an_inverting_defense_is_accuracy(cells):
    found = scores.read(cells)
    (both,) = gap.sides(found, layout(found))
    assert (both.defense, both.agreement) == ("inc", None)
    assert both.oblivious == (ON_CLASSIFIER,)
    assert both.adaptive == ("fgsm", "pgd-linf@identity_bpda")
    assert (both.published.accuracy, both.adapted.accuracy, both.gap) == (70, 30, 40)
    assert texts(cells) == {
        "Published: accuracy": ["70.0"],
        "Adaptive: accuracy": ["30.0"],
        "Gap, points": ["40.0"],
    }


def test_accuracy_needs_no_column_of_the_bare_classifier(cells):
    assert texts(cells[2:])["Gap, points"] == ["40.0"]


def test_no_agreement_is_tabulated_where_the_paper_counts_accuracy(cells, tmp_path):
    found = scores.read(cells)
    assert agreement.companies(found) == ()
    written = {p.name: p for p in tables.write(cells, tmp_path / "out", "stem", "A title")}
    assert "stem-agreement.csv" not in written
    line = pd.read_csv(written["stem-gap.csv"]).iloc[0]
    assert (line["oblivious_accuracy"], line["adaptive_accuracy"], line["gap"]) == (70, 30, 40)
    assert pd.isna(line["oblivious_agreement"])
    text = written["stem.md"].read_text()
    assert "Published: accuracy" in text and "agreement" not in text.lower()


def test_each_defense_is_counted_as_its_own_paper_counts(cells, purified):
    lines = texts([*purified, *without_bpda(cells)])
    assert list(lines) == [
        "Published: agreement",
        "Published: accuracy",
        "Same attacks: accuracy",
        "Adaptive: accuracy",
        "Gap, points",
    ]
    assert lines["Published: agreement"] == ["90.0", "—"]
    assert lines["Published: accuracy"] == ["—", "70.0"]
    assert lines["Same attacks: accuracy"] == ["80.0", "—"]
    assert lines["Gap, points"] == ["50.0", "20.0"]


def test_the_note_says_what_is_counted(cells, purified):
    notes = []
    for paths in (purified, cells, [*purified, *without_bpda(cells)]):
        found = scores.read(paths)
        notes.append(gap.note(found, layout(found)))
    assert len(set(notes)) == 3
    assert "agreement" in notes[0] and "agreement" not in notes[1]
    assert all("the gap is published minus adaptive" in note for note in notes)


@pytest.mark.parametrize("name", [n for n, r in DEFENSES.items() if "classifier" in r.wraps()])
def test_purifiers_alone_count_agreements(name):
    recipe = recipe_for(name, PRESETS["smoke"], "digits")
    purifies = name == "identity_vae" or name.startswith(("defense_vae", "mad_vae"))
    assert (recipe.counts is Counts.AGREEMENT) is purifies


@pytest.mark.parametrize(
    ("defense", "attack", "norm", "epsilon", "value"),
    [  # Jalal et al. 2017, Tables 1 and 2; epsilons of pixels in [-1, 1], halved
        ("inc_classifier", "clean", "", 0.0, 97),
        ("inc", "clean", "", 0.0, 84),
        ("inc_classifier", "fgsm", "linf", 0.025, 1),
        ("inc_classifier", "fgsm@exact", "linf", 0.025, 1),
        ("inc", "fgsm@classifier", "linf", 0.1, 73),
        ("inc", "cw-l2[confidence=5]@classifier", "l2", 3.0, None),
        ("inc", "cw-l2@classifier", "l2", 3.0, 77),
        ("inc", "cw-l0@classifier", "l0", 100.0, 65),
        ("inc", "cw-linf@classifier", "linf", 0.05, 66),
        ("inc", "fgsm", "linf", 0.025, None),
    ],
)
def test_published_accuracies_are_found_in_our_pixels(defense, attack, norm, epsilon, value):
    label, _, surrogate = attack.partition("@")
    query = {"dataset": "celeba", "defense": defense, "attack": label, "surrogate": surrogate}
    numbers = published.lookup(**query, norm=norm, epsilon=epsilon)
    assert [number.value for number in numbers] == ([] if value is None else [value])


def test_a_number_for_wider_pixels_says_so():
    query = {"dataset": "celeba", "defense": "inc", "attack": "fgsm", "surrogate": "classifier"}
    (number,) = published.lookup(**query, norm="linf", epsilon=0.025)
    assert number.caveat == "epsilon 0.05 for pixels in [-1, 1]"
    (clean,) = published.lookup(dataset="celeba", defense="inc", attack="clean")
    assert clean.caveat == ""


RESNET = "torchvision:resnet152"


@pytest.mark.parametrize(
    ("defense", "attack", "epsilon", "value", "caveat"),
    [  # Jalal et al. 2017, Table 2
        (RESNET, "clean", 0.0, 71, ""),
        (RESNET, "bim", 0.005, 5, "0.01 for pixels"),
        (f"dip_inc_paper[classifier={RESNET}]", "clean", 0.0, 52, "tuned for epsilon 0.0"),
        (f"dip_inc_paper[classifier={RESNET}]", "bim", 0.025, 40, "0.05 for pixels"),
        (
            f"dip_inc_paper[steps=100,classifier={RESNET}]",
            "clean",
            0.0,
            35,
            "tuned for epsilon 0.1",
        ),
        (f"dip_inc_paper[steps=100,classifier={RESNET}]", "bim", 0.05, 30, "0.1 for pixels"),
    ],
)
def test_numbers_of_a_defense_tuned_for_an_epsilon_are_those_of_that_tuning(
    defense, attack, epsilon, value, caveat
):
    surrogate = "classifier" if "dip" in defense and attack != "clean" else ""
    numbers = published.lookup(
        dataset="imagenet",
        defense=defense,
        attack=attack,
        surrogate=surrogate,
        norm="" if attack == "clean" else "linf",
        epsilon=epsilon,
    )
    assert [number.value for number in numbers] == [value]
    assert caveat in numbers[0].caveat
