"""Risk against coverage: closed forms, and the tables of defenses that may refuse."""

import csv
import io
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import accuracy, scores, selective, significance, tables
from benchmark.accuracy import Layout
from benchmark.scores import Answers
from tests.synthetic_records import letters, write_cell

N = 200


def answers(score, wrong):
    return Answers(np.asarray(score, dtype=float), np.asarray(wrong, dtype=bool))


def harmonic(first, last):
    return sum(1 / i for i in range(first, last + 1))


# curves and areas


@pytest.mark.parametrize("errors", [0, 1, 20, N])
def test_a_perfect_ranking_errs_only_beyond_the_right_answers(errors):
    right = N - errors
    ranked = answers(range(N), [False] * right + [True] * errors)
    expected = [max(0, i - right) / i for i in range(1, N + 1)]
    assert selective.curve(ranked)["risk"].tolist() == pytest.approx(expected)
    # mean of 1 - r/i over i > r, in closed form
    closed = (errors - right * harmonic(right + 1, N)) / N
    assert selective.area(ranked) == pytest.approx(closed)


def test_the_worst_ranking_errs_first():
    errors = 20
    ranked = answers(range(N), [True] * errors + [False] * (N - errors))
    closed = (errors + errors * harmonic(errors + 1, N)) / N
    assert selective.area(ranked) == pytest.approx(closed)


def test_a_random_ranking_has_the_error_rate_as_its_expected_area():
    rng = np.random.default_rng(0)
    wrong = np.arange(N) < 30
    areas = [selective.area(answers(rng.random(N), wrong)) for _ in range(400)]
    assert np.mean(areas) == pytest.approx(30 / N, abs=3 * np.std(areas) / 20)


def test_equal_scores_are_accepted_together_and_their_area_is_the_error_rate():
    tied = answers([0.5] * N, np.arange(N) < 30)
    assert selective.curve(tied).to_dict("list") == {
        "threshold": [0.5],
        "coverage": [1.0],
        "risk": [30 / N],
    }
    assert selective.area(tied) == pytest.approx(30 / N)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_area_and_curve_depend_neither_on_order_nor_on_scale(pairs, random):
    score, wrong = zip(*pairs, strict=True)
    shuffled = random.sample(pairs, len(pairs))
    one = answers(score, wrong)
    other = answers([7 * s for s, _ in shuffled], [w for _, w in shuffled])
    assert selective.area(one) == pytest.approx(selective.area(other))
    assert selective.curve(one)["risk"].tolist() == selective.curve(other)["risk"].tolist()
    assert selective.curve(one)["risk"].iloc[-1] == pytest.approx(np.mean(wrong))
    assert selective.curve(one)["coverage"].iloc[-1] == 1


def test_what_refuses_everything_has_no_coverage_and_no_risk_but_a_curve():
    refused = answers([2.0, 3.0, 4.0, np.inf], [False, False, True, True])
    point = selective.at(refused, selective.DEPLOYED_THRESHOLD)
    assert point.coverage == 0
    assert math.isnan(point.risk) and all(map(math.isnan, point.interval))
    assert selective.curve(refused)["risk"].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])


# thresholds


@pytest.mark.parametrize(
    ("coverage", "threshold"), [(0.95, 95), (0.951, 96), (0.995, 100), (1.0, 100), (0.001, 1)]
)
def test_the_threshold_is_the_lowest_that_reaches_the_coverage(coverage, threshold):
    clean = answers(np.random.default_rng(0).permutation(np.arange(1, 101)), [False] * 100)
    assert selective.threshold_for(clean, coverage) == threshold


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=50),
    st.sampled_from([*selective.COVERAGES, 0.5, 1.0]),
)
def test_the_threshold_reaches_the_coverage_and_none_below_does(score, coverage):
    clean = answers(score, [False] * len(score))
    threshold = selective.threshold_for(clean, coverage)
    assert selective.at(clean, threshold).coverage >= coverage - 1e-9
    assert selective.at(clean, threshold - 0.5).coverage < coverage


@pytest.mark.parametrize("coverage", [0.0, 1.5, math.nan])
def test_a_coverage_is_a_share(coverage):
    with pytest.raises(ValueError, match=r"coverage must be in \(0, 1\]"):
        selective.threshold_for(answers([1.0], [False]), coverage)


def test_nothing_has_neither_threshold_nor_area():
    nothing = answers([], [])
    with pytest.raises(ValueError, match="clean must hold images"):
        selective.threshold_for(nothing, 0.9)
    with pytest.raises(ValueError, match="answers must hold samples"):
        selective.area(nothing)


# from records to tables

CLEAN_SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 2.0, 3.0]


@pytest.fixture
def cells(tmp_path):
    """A plain network and one that refuses two clean images, one of which it would get wrong."""
    return [
        write_cell(tmp_path, "cnn", "clean", letters(9, 1)),
        write_cell(tmp_path, "cnn", "pgd-linf", {0.3: letters(2, 8)}),
        write_cell(tmp_path, "cnn", "fgsm", {0.3: letters(4, 6)}, norm="linf"),
        write_cell(tmp_path, "gmvae", "clean", "ccccccccrx", scores=CLEAN_SCORES),
        write_cell(
            tmp_path,
            "gmvae",
            "pgd-linf",
            {0.3: "wcccccccrx"},
            scores={0.3: [0.9, *CLEAN_SCORES[1:]]},
        ),
        write_cell(
            tmp_path,
            "gmvae",
            "fgsm",
            {0.3: "wxccccccrx"},
            norm="linf",
            scores={0.3: [0.4, 1.5, *CLEAN_SCORES[2:]]},
        ),
    ]


def _written(cells, folder):
    return {path.name: path for path in tables.write(cells, folder, "stem", "A title")}


def _lines(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def _rows(text):
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): [field.strip() for field in row[1:]] for row in lines[::-1]}


def test_coverage_and_accuracy_without_thresholds_stand_below_the_clean_accuracy(cells, tmp_path):
    files = _written(cells, tmp_path)
    rows = _rows(files["stem.md"].read_text())
    assert rows["Clean coverage"][0].startswith("100.0")
    assert rows["Clean coverage"][1].startswith("80.0 [49.0, 94.3] (paper 98.19)")
    assert rows["Clean, without thresholds"][0].startswith("90.0")
    assert rows["Clean, without thresholds"][1].startswith("90.0 [59.6, 98.2] (paper 99.67)")
    assert "(paper 97.97 / 0.22 / 1.81)" in files["stem.md"].read_text()
    for line in _lines(files["stem-rejection.csv"]):
        assert float(line["clean_coverage"]) == (80 if line["defense"] == "gmvae" else 100)
        assert sum(float(line[rate]) for rate in ("accuracy", "error", "rejection")) == 100
        assert (line["accuracy_without_rejection"] == "90.0") == (line["attack"] == "clean")
    clean = _lines(files["stem-rejection.csv"])[1]
    assert clean["published_accuracy_without_rejection"] == "99.67"
    assert (clean["published"], clean["published_error"]) == ("97.97", "0.22")
    assert "clean_coverage" in _lines(files["stem.csv"])[0]


def test_tables_without_a_rejecting_defense_say_nothing_of_coverage(cells, tmp_path):
    files = _written(cells[:3], tmp_path)
    assert not [name for name in files if "risk" in name or "rejection" in name or "err" in name]
    text = files["stem.md"].read_text()
    assert "overage" not in text and "accepted errors" not in text
    assert "clean_coverage" not in _lines(files["stem.csv"])[0]


def test_the_worst_case_accepts_the_first_of_the_wrong_answers(cells):
    found = scores.read(cells)
    worst = found.answers("gmvae", found.attacks["linf"], "linf", 0.3)
    # Sample 0 is wrong at 0.9 and at 0.4, sample 1 only at 1.5: deployed it is refused there.
    assert worst.score[:3].tolist() == [0.4, 1.5, 0.3]
    assert worst.wrong.tolist() == [True, True] + [False] * 7 + [True]
    assert selective.at(worst, 1.0) == selective.Point(n=10, accepted=7, errors=1)
    assert found.worst("gmvae", "linf", 0.3).rejected == 3


def test_robust_risk_is_measured_at_the_threshold_of_the_clean_images(tmp_path):
    clean = list(range(1, 101))
    attacked = [0.5 if i < 10 else float(score) for i, score in enumerate(clean)]
    cells = [
        write_cell(tmp_path, "gmvae", "clean", letters(100, 0), scores=clean),
        write_cell(
            tmp_path, "gmvae", "pgd-linf", {0.3: "w" * 10 + "c" * 90}, scores={0.3: attacked}
        ),
    ]
    frame = pd.read_csv(_written(cells, tmp_path)["stem-risk-coverage.csv"])
    attack = frame[frame["attack"] == "pgd-linf"].set_index("at")
    assert attack.loc["95 %", "threshold"] == 95
    assert attack.loc["95 %", "clean_coverage"] == 95
    assert attack.loc["95 %", "risk"] == pytest.approx(1000 / 95, abs=1e-4)
    assert attack.loc["99.5 %", "risk"] == 10
    assert attack.loc["deployed", ["accepted", "errors"]].tolist() == [100, 10]
    assert attack.loc["deployed", "clean_coverage"] == 100


def test_risks_are_written_drawn_and_explained(cells, tmp_path):
    files = _written(cells, tmp_path)
    for suffix in (".csv", "-curves.csv", ".png", ".svg"):
        assert files[f"stem-risk-coverage{suffix}"].stat().st_size > 0
    text = files["stem.md"].read_text()
    assert "attacks were aimed at the deployed thresholds" in text
    assert "![stem-risk-coverage.svg](stem-risk-coverage.svg)" in text
    rows = _rows(text.split("## Risk at a clean coverage")[1])
    assert rows["deployed"] == ["0.0 [0.0, 32.4] (accepts 80.0)"]
    again = _written(cells, tmp_path / "again")
    assert all(path.read_bytes() == again[name].read_bytes() for name, path in files.items())


def test_records_without_scores_have_rates_but_no_risk(tmp_path):
    cells = [write_cell(tmp_path, "gmvae", "clean", letters(7, 1, 2))]
    files = _written(cells, tmp_path)
    assert "stem-rejection.csv" in files
    assert "stem-risk-coverage.csv" not in files
    assert "## Risk" not in files["stem.md"].read_text()


def test_a_defense_that_refuses_everything_does_not_look_robust(cells, tmp_path):
    for attack in ("clean", "pgd-linf", "fgsm"):
        outcome = "r" * 10 if attack == "clean" else {0.3: "r" * 10}
        norm = {} if attack == "clean" else {"norm": "linf"}
        cells.append(write_cell(tmp_path, "wall", attack, outcome, scores=[5.0] * 10, **norm))
    files = _written(cells, tmp_path)
    rows = _rows(files["stem.md"].read_text())
    for label in ("Clean", "Clean coverage", "All Linf"):
        assert rows[label][2].startswith("0.0 [")
    assert "0.0 / 0.0 / 100.0" in files["stem.md"].read_text()
    risks = _rows(files["stem.md"].read_text().split("## Risk at a clean coverage")[1])
    assert risks["deployed"][1] == "— (accepts 0.0)"
    found = scores.read(cells)
    verdicts = significance.verdicts(found, Layout(accuracy.choose_radii(found)))
    pairs = {
        (verdict.compared, pair.first, pair.second): (pair.first_only, pair.second_only)
        for verdict in verdicts
        for pair in verdict.comparisons
    }
    assert pairs["correct answers", "cnn", "wall"] == (2, 0)
    assert pairs["accepted errors", "cnn", "wall"] == (0, 8)


def test_deployed_is_what_the_judge_saw_even_where_high_scores_are_accepted(tmp_path):
    # A defense that reclassifies what it refuses may answer at scores above 1.
    cells = [write_cell(tmp_path, "gmvae", "clean", "ccccccccww", scores=CLEAN_SCORES)]
    frame = pd.read_csv(_written(cells, tmp_path)["stem-risk-coverage.csv"]).set_index("at")
    assert frame.loc["deployed", ["accepted", "errors"]].tolist() == [10, 2]
    assert frame.loc["deployed", "clean_coverage"] == 100


def test_both_tests_are_named_and_corrected_together(cells, tmp_path):
    files = _written(cells, tmp_path)
    text = files["stem.md"].read_text()
    for what in ("correct answers", "accepted errors"):
        assert f"McNemar p-values of {what}, All Linf, epsilon = 0.3:" in text
    assert "over 2 pairs" in text and "read both tests together" in text
    (right,) = _lines(files["stem-mcnemar.csv"])
    (wrong,) = _lines(files["stem-mcnemar-accepted-errors.csv"])
    # Correct: cnn the first two samples, gmvae samples 2 to 7. Accepted errors: 8 against 1.
    assert (right["first_only"], right["second_only"]) == ("2", "6")
    assert (wrong["first_only"], wrong["second_only"]) == ("1", "8")


def test_a_defense_with_scores_that_refused_nothing_is_shown_with_its_coverage(tmp_path):
    cells = [write_cell(tmp_path, "gmvae", "clean", letters(9, 1), scores=[0.5] * 10)]
    rows = _rows(_written(cells, tmp_path)["stem.md"].read_text())
    assert rows["Clean coverage"][0].startswith("100.0")
