"""Purifiers judged both ways, from records whose outcomes are known by construction."""

import math

import pandas as pd
import pytest

from benchmark import accuracy, agreement, gap, overpowered, published, scores, tables
from benchmark.accuracy import Layout
from benchmark.overpowered import Flags
from tests.synthetic_records import letters, write_cell

MAGNET = {"reference": "magnet"}
ON_CLASSIFIER = "fgsm@classifier"


def purifier(folder, attack, outcomes, name="defense_vae", **options):
    reference = options.pop("reference", "magnet")
    norm = {} if attack == "clean" else {"norm": options.pop("norm", "linf")}
    return write_cell(
        folder, name, attack, outcomes, metadata={"reference": reference}, **norm, **options
    )


def bare(folder, attack, outcomes, name="magnet", **options):
    norm = {} if attack == "clean" else {"norm": options.pop("norm", "linf")}
    return write_cell(folder, name, attack, outcomes, **norm, **options)


@pytest.fixture
def cells(tmp_path):
    """Ten images: the classifier is wrong about the last, the purifier about the last two."""
    return [
        bare(tmp_path, "clean", letters(9, 1)),
        bare(tmp_path, "fgsm", {0.3: letters(1, 9)}),
        bare(tmp_path, "pgd-linf", {0.3: letters(0, 10)}),
        bare(
            tmp_path,
            ON_CLASSIFIER,
            {0.3: ""},
            samples=range(10),
            not_applicable="no such surrogate",
        ),
        purifier(tmp_path, "clean", letters(8, 2)),
        purifier(tmp_path, ON_CLASSIFIER, {0.3: "cccccccwww"}),
        purifier(tmp_path, "mim-linf@classifier", {0.3: "wcccccccww"}),
        purifier(tmp_path, "fgsm", {0.3: "wwwwcccwww"}),
        purifier(tmp_path, "pgd-linf", {0.3: "wwwwwccwww"}),
    ]


@pytest.fixture
def found(cells):
    return scores.read(cells)


def layout(found):
    return Layout(accuracy.choose_radii(found))


def rows_of(sheet):
    return {line.label: line.entries for line in sheet.lines if line.entries}


def files(cells, folder, **options):
    return {p.name: p for p in tables.write(cells, folder, "stem", "A title", **options)}


def test_agreement_is_with_the_bare_classifiers_clean_class_and_not_with_the_label(found):
    # Class 1 is wrong everywhere: sample 9 is wrong when clean by both, and so agrees.
    score = agreement.agreement(found, "defense_vae", [ON_CLASSIFIER], "linf", 0.3)
    assert (score.correct, score.wrong) == (8, 2)
    assert found.score("defense_vae", ON_CLASSIFIER, "linf", 0.3).correct == 7
    assert agreement.agreement(found, "defense_vae", ["clean"], "", 0.0).correct == 9


def test_agreement_under_several_attacks_is_that_of_their_worst_per_sample(found):
    both = [ON_CLASSIFIER, "mim-linf@classifier"]
    assert agreement.agreement(found, "defense_vae", both, "linf", 0.3).correct == 7


def test_the_bare_classifiers_column_is_the_same_attack_on_itself(found):
    sheet = agreement.agreement_sheet(found, layout(found), "t")
    assert sheet.columns == ("no defense", "defense_vae")
    own, purified = rows_of(sheet)[ON_CLASSIFIER]
    assert (own.text, purified.text) == ("20.0", "80.0")  # samples 0 and 9 keep their class
    assert rows_of(sheet)["Clean"][0].text == "100.0"


def test_agreements_stand_beside_the_published_ones_of_the_same_view(found):
    rows = rows_of(agreement.agreement_sheet(found, layout(found), "t"))
    assert [entry.aside for entry in rows[ON_CLASSIFIER]] == ["paper 13.16", "paper 96.75"]
    assert [entry.aside for entry in rows["mim-linf@classifier"]][1] == "paper 96.3"
    assert [entry.aside for entry in rows["fgsm"]] == ["", ""]


def test_a_rejection_agrees_with_nobody(tmp_path):
    found = scores.read(
        [
            bare(tmp_path, "clean", "ww"),
            purifier(tmp_path, "clean", "xw"),
        ]
    )
    assert agreement.agreement(found, "defense_vae", ["clean"], "", 0.0).correct == 1


@pytest.mark.parametrize(("letter", "state"), [("e", "error (1)"), ("i", "invalid (1)")])
def test_an_unresolved_sample_leaves_no_agreement(tmp_path, letter, state):
    found = scores.read(
        [
            bare(tmp_path, "clean", "cc"),
            purifier(tmp_path, "clean", "cc"),
            purifier(tmp_path, ON_CLASSIFIER, {0.3: f"{letter}c"}),
        ]
    )
    score = agreement.agreement(found, "defense_vae", [ON_CLASSIFIER], "linf", 0.3)
    assert score.state == state


def test_both_protocols_and_their_gap_stand_side_by_side(found):
    (both,) = gap.sides(found, layout(found))
    assert both.defense == "defense_vae"
    assert both.oblivious == (ON_CLASSIFIER, "mim-linf@classifier")
    assert both.adaptive == ("fgsm", "pgd-linf")
    assert (both.agreement.accuracy, both.accuracy.accuracy, both.adapted.accuracy) == (70, 60, 20)
    assert both.gap == 50
    rows = rows_of(gap.gap_sheet(found, layout(found), "t"))
    assert [entries[0].text for entries in rows.values()] == ["70.0", "60.0", "20.0", "50.0"]
    assert rows["Published: agreement"][0].aside == "paper 96.3 to 96.75"


def test_a_transferred_attack_is_neither_oblivious_nor_adaptive(cells, tmp_path):
    cells.append(purifier(tmp_path, "transfer-fgsm[source=substitute_a]", {0.3: "w" * 10}))
    found = scores.read(cells)
    assert gap.sides(found, layout(found))[0].adapted.accuracy == 20


def test_no_gap_is_made_without_a_missing_cell(cells, tmp_path):
    cells.append(bare(tmp_path, "bim", {0.3: letters(0, 10)}))
    found = scores.read(cells)
    (both,) = gap.sides(found, layout(found))
    assert both.adapted.reason == "bim not run"
    assert both.gap is None
    assert rows_of(gap.gap_sheet(found, layout(found), "t"))["Gap, points"][0].text == "—"


def test_the_files_of_a_purifier_hold_agreements_and_gaps(cells, tmp_path):
    written = files(cells, tmp_path / "out")
    line = pd.read_csv(written["stem-gap.csv"]).iloc[0]
    assert (line["oblivious_agreement"], line["adaptive_accuracy"], line["gap"]) == (70, 20, 50)
    low, high = found_interval(7, 10)
    assert (line["oblivious_agreement_low"], line["oblivious_agreement_high"]) == (low, high)
    numbers = pd.read_csv(written["stem-agreement.csv"])
    own = numbers[(numbers["defense"] == "defense_vae") & (numbers["surrogate"] == "classifier")]
    assert own[["agreement", "accuracy"]].values.tolist() == [[80, 70], [80, 70]]
    text = written["stem.md"].read_text()
    assert "Agreement is not accuracy" in text and "is not attacked" in text
    assert text.index("## Published protocol") < text.index("## Agreement")


def found_interval(successes, n):
    return tuple(round(100 * limit, 4) for limit in scores.statistics.wilson(successes, n))


def test_defenses_that_contain_nobody_have_none_of_these_tables(tmp_path):
    written = files([write_cell(tmp_path, "cnn", "clean", letters(9, 1))], tmp_path / "out")
    assert not {"stem-gap.csv", "stem-agreement.csv", "stem-overpowered.csv"} & set(written)
    assert "Agreement" not in written["stem.md"].read_text()


def test_records_from_before_references_have_none(cells):
    found = scores.read(cells[:1])
    assert found.reference("magnet") is None


def test_a_reference_with_two_trainings_is_ambiguous(cells, tmp_path):
    cells.append(bare(tmp_path, "clean", letters(9, 1), weights_digest="f" * 40))
    assert scores.read(cells).reference("defense_vae") is None


def test_answers_of_a_substitute_form_a_block_of_their_own(cells, tmp_path):
    name = "defense_vae[answered_by=substitute_a]"
    cells += [
        bare(tmp_path, "clean", letters(10, 0), name="substitute_a"),
        bare(tmp_path, "fgsm", {0.3: letters(1, 9)}, name="substitute_a"),
        purifier(tmp_path, "clean", letters(10, 0), name, reference="substitute_a"),
        purifier(tmp_path, ON_CLASSIFIER, {0.3: letters(6, 4)}, name, reference="substitute_a"),
    ]
    found = scores.read(cells)
    sheet = agreement.agreement_sheet(found, layout(found), "t")
    assert sheet.columns == ("no defense", "defense_vae")
    headings = [line.label for line in sheet.lines if not line.entries]
    assert headings[0] == "magnet classifies" and "substitute_a classifies" in headings
    entries = [line.entries for line in sheet.lines if line.label == ON_CLASSIFIER][-1]
    assert [entry.text for entry in entries] == ["10.0", "60.0"]
    assert [entry.aside for entry in entries] == ["paper 4.87", "paper 96.15"]
    header = files(cells, tmp_path / "out")["stem.md"].read_text().split("\n\n")[1]
    assert "answered_by" not in header and "substitute_a" in header


def test_without_what_a_substitute_answers_the_attacks_on_it_alone_leave_too(tmp_path):
    name = "defense_vae[answered_by=substitute_a]"
    cells = [
        bare(tmp_path, "clean", "cc", name="substitute_a"),
        bare(tmp_path, "fgsm", {0.3: "cw"}, name="substitute_a"),
        bare(
            tmp_path,
            ON_CLASSIFIER,
            {0.3: ""},
            name="substitute_a",
            samples=range(2),
            not_applicable="no such surrogate",
        ),
        purifier(tmp_path, ON_CLASSIFIER, {0.3: "cc"}, name, reference="substitute_a"),
    ]
    found = agreement.deployed(scores.read(cells))
    assert (found.defenses, found.attacks) == (("substitute_a",), {"linf": ("fgsm",)})
    alone = scores.read(cells[3:])
    assert agreement.deployed(alone) is alone


@pytest.mark.parametrize(
    ("defense", "attack", "norm", "epsilon", "value"),
    [  # Morlock & Wang 2020, Tables 1 and 2, copied from the paper, in percent
        ("magnet", "pgd-linf", "linf", 0.3, 0.73),
        ("mad_vae_classification", "rand-fgsm", "linf", 0.3, 99.14),
        ("mad_vae_combined", "cw-l2", "l2", 1.5, 99.14),
        ("mad_vae_proximity_distance", "single-pixel", "l0", 1.0, 98.77),
        ("defense_vae[answered_by=substitute_e]", "fgsm", "linf", 0.3, 93.05),
        ("substitute_d", "fgsm", "linf", 0.3, 1.73),
    ],
)
def test_published_agreements_are_found_under_our_names(defense, attack, norm, epsilon, value):
    query = {"dataset": "mnist", "defense": defense, "attack": attack, "norm": norm}
    query |= {"epsilon": epsilon, "surrogate": "classifier"}
    assert [n.value for n in published.lookup(**query, metric="agreement")] == [value]
    assert published.lookup(**query) == ()


def test_published_clean_accuracies_are_those_of_the_classifier_named():
    clean = {"dataset": "mnist", "attack": "clean"}
    for defense, value in (("magnet", 99.31), ("substitute_a", 99.39), ("substitute_e", 98.07)):
        assert [n.value for n in published.lookup(**clean, defense=defense)] == [value]


NOISE = (1.0, 2.5)


@pytest.fixture
def pairs(tmp_path):
    """Four images under two noise lengths: (c c w w) and (c w w w), with and without a budget."""
    return [
        purifier(tmp_path, "clean", "cccc"),
        *(
            purifier(tmp_path, f"overpowered-l2[noise_norm={v}]", {4.0: text}, norm="l2")
            for v, text in zip(NOISE, ("ccww", "cwww"), strict=True)
        ),
        *(
            purifier(
                tmp_path,
                f"overpowered-unrestricted[noise_norm={v}]",
                {math.inf: text},
                norm="unrestricted",
            )
            for v, text in zip(NOISE, ("wwww", "cwww"), strict=True)
        ),
    ]


def flags(found, flagged):
    """Every success was looked at; those of the given (attack, sample) show another class."""
    wrong = found.outcomes[found.outcomes["severity"] == 2]
    asked = wrong[list(overpowered.KEYS)].copy()
    asked["flagged"] = [
        pair in flagged for pair in zip(asked["attack"], asked["sample"], strict=True)
    ]
    return Flags("cnn", 0.9, asked)


def test_overpowered_accuracies_are_over_all_points_and_over_samples_right_everywhere(pairs):
    found = overpowered.result(scores.read(pairs), "defense_vae", "l2", 4.0)
    assert found.noise_norms == NOISE
    assert found.share("mean_accuracy").percent == 37.5  # 3 of 8
    assert found.share("original_accuracy").percent == 25  # image 0 alone
    assert (found.successes, found.flagged) == (5, None)
    assert found.share("mean_accuracy").n == 4


def test_pairs_of_another_class_are_counted_and_left_out(pairs):
    found = scores.read(pairs)
    strong = "overpowered-l2[noise_norm=2.5]"
    known = flags(found, {(strong, 1), (strong, 2), ("overpowered-l2[noise_norm=1.0]", 2)})
    result = overpowered.result(found, "defense_vae", "l2", 4.0, known)
    assert (result.successes, result.flagged) == (5, 3)
    # Left: image 0 right twice, image 1 right once, image 3 wrong twice; image 2 has no pair left.
    assert result.share("mean_accuracy_without_flagged").percent == pytest.approx(200 / 3)
    assert result.share("original_accuracy_without_flagged").percent == pytest.approx(200 / 3)
    assert result.share("mean_accuracy_without_flagged").n == 3


def test_successes_that_nobody_looked_at_leave_no_share(pairs):
    found = scores.read(pairs)
    known = flags(found, set())
    short = Flags("cnn", 0.9, known.pairs.iloc[1:])
    assert overpowered.result(found, "defense_vae", "l2", 4.0, short).flagged is None
    assert overpowered.result(found, "defense_vae", "l2", 4.0, known).flagged == 0


def test_the_published_accuracies_stand_beside_the_unrestricted_ones_alone(pairs):
    found = scores.read(pairs)
    sheet = overpowered.overpowered_sheet(found, layout(found), "t", flags(found, set()))
    asides = [line.entries[0].aside for line in sheet.lines if line.label == "Accuracy"]
    assert asides == ["", "paper 44.43"]
    asides = [line.entries[0].aside for line in sheet.lines if line.label == "Original accuracy"]
    assert asides == ["", "paper 33.5"]
    assert any("outside its budget" in note for note in sheet.footnotes)
    assert sheet.title == "t; flagged where cnn is 90 % sure of another class"
    assert "Flagged successes" in {line.label for line in sheet.lines}


def test_a_missing_noise_length_leaves_no_overpowered_number(pairs, tmp_path):
    one = "overpowered-l2[noise_norm=1.0]"
    pairs.append(purifier(tmp_path, one, {4.0: "cccc"}, "identity_vae", norm="l2"))
    result = overpowered.result(scores.read(pairs), "identity_vae", "l2", 4.0)
    assert (result.state, result.share("mean_accuracy")) == ("—", None)


def test_the_overpowered_file_holds_one_line_per_metric(pairs, tmp_path):
    found = scores.read(pairs)
    written = files(pairs, tmp_path / "out", flags=flags(found, set()))
    numbers = pd.read_csv(written["stem-overpowered.csv"])
    assert numbers["metric"].tolist()[:2] == ["mean_accuracy", "original_accuracy"]
    assert len(numbers) == 8
    assert numbers["published"].dropna().tolist() == [44.43, 33.5]
    assert "## Overpowered attack" in written["stem.md"].read_text()
