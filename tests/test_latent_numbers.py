"""What is counted and averaged over pairs of latents, on pairs made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import latent_numbers
from benchmark.latent_numbers import (
    ACCURACY,
    DIFFERENT,
    DISTANCE,
    MEAN_KL,
    REVERSE_KL,
    TRANSFERRED,
    VALID,
    VALID_PAIRS,
    Answered,
    divergence,
    transferred,
)
from tests.latent import answered

TABLE = ("robust-manifold", "section 4.3")

KEPT = [[0.9, 0.1], [0.5, 0.5], [0.75, 0.25], [0.6, 0.4]]
LEFT = [[0.1, 0.9], [0.5, 0.5], [0.25, 0.75], [0.8, 0.2]]
NEAR, FAR = VALID / 2, 2 * VALID


def four(**options: object) -> Answered:
    """Two classes, the same, two classes but too far apart, one class."""
    return answered(KEPT, LEFT, [NEAR, NEAR, FAR, NEAR], **options)


def test_the_divergence_of_two_outputs_is_that_of_the_textbook():
    p, q = np.log([[0.9, 0.1], [0.5, 0.5]]), np.log([[0.1, 0.9], [0.25, 0.75]])
    expected = [0.8 * math.log(9), 0.5 * math.log(2) + 0.5 * math.log(2 / 3)]
    np.testing.assert_allclose(divergence(p, q), expected)
    assert divergence(q, p)[1] != pytest.approx(expected[1])


@given(st.lists(st.floats(-1e4, 0), min_size=2, max_size=5), st.integers(0, 4))
def test_a_divergence_is_finite_and_never_negative(logits, turn):
    log_p = np.array([logits]) - np.logaddexp.reduce(logits)
    log_q = np.roll(log_p, turn, axis=1)
    assert 0 <= divergence(log_p, log_q)[0] < math.inf
    assert divergence(log_p, log_p)[0] == 0


def test_a_pair_is_valid_below_the_papers_mean_square_and_not_at_it():
    found = answered(KEPT[:3], LEFT[:3], [VALID * 0.999, VALID, VALID * 1.001])
    assert found.valid.tolist() == [True, False, False]
    assert pytest.approx(5e-4) == VALID * 4  # pixels in [-1, 1] are twice as far apart


def test_means_and_shares_are_over_valid_pairs_alone():
    found = four().measures
    assert (found[VALID_PAIRS].value, found[VALID_PAIRS].n) == (75, 4)
    assert (found[DIFFERENT].value, found[DIFFERENT].n) == (pytest.approx(100 / 3), 3)
    forward = [0.8 * math.log(9), 0, 0.6 * math.log(0.75) + 0.4 * math.log(2)]
    backward = [0.8 * math.log(9), 0, 0.8 * math.log(4 / 3) + 0.2 * math.log(0.5)]
    assert found[MEAN_KL].value == pytest.approx(np.mean(forward))
    assert found[REVERSE_KL].value == pytest.approx(np.mean(backward))
    distances = [0.8 * math.sqrt(2), 0, 0.2 * math.sqrt(2)]
    assert found[DISTANCE].value == pytest.approx(np.mean(distances))
    assert found[MEAN_KL].low <= found[MEAN_KL].value <= found[MEAN_KL].high


def test_without_valid_pairs_there_is_a_share_and_no_mean():
    found = answered(KEPT[:1], LEFT[:1], [FAR]).measures
    assert list(found) == [VALID_PAIRS]
    assert found[VALID_PAIRS].value == 0


@pytest.mark.parametrize(
    ("apart", "runs", "enough"), [(9, 10, True), (8, 10, False), (2, 2, True), (1, 2, False)]
)
def test_a_pair_is_transferred_when_nine_of_ten_runs_tell_it_apart(apart, runs, enough):
    kept = np.zeros((1, runs))
    left = np.array([[1] * apart + [0] * (runs - apart)])
    assert transferred(kept, left).tolist() == [enough]


def test_a_run_that_refuses_an_image_tells_nothing_apart():
    kept = np.zeros((2, 10))
    left = np.ones((2, 10))
    left[0, :2] = latent_numbers.NOBODY
    kept[1, :1] = latent_numbers.NOBODY
    assert transferred(kept, left).tolist() == [False, True]


def test_the_transfer_is_a_share_of_the_pairs_that_were_asked_about():
    runs = ([[0] * 10, [0] * 10], [[1] * 10, [1] * 5 + [0] * 5])
    share = four(runs=runs).measures[TRANSFERRED]
    assert (share.value, share.n) == (50, 2)
    assert TRANSFERRED not in four().measures


def test_the_table_sets_the_papers_numbers_and_its_data_set_beside_ours():
    own, soft = four(), four(defense="inc_overpowered_training")
    sheet = latent_numbers.latent_sheet([own, soft], "T", TABLE)
    assert sheet.columns == ("inc", "inc_overpowered_training")
    rows = {line.label: line.entries for line in sheet.lines}
    assert rows["Mean KL divergence, nats"][1].aside == "paper, on celeba: 0.007"
    assert rows["Mean KL divergence, nats"][0].text == ""  # the last block is of others' pairs
    assert rows["Accuracy of the bare classifier, %"][0].text == "98.0"
    assert rows["Accuracy of the bare classifier, %"][1].aside == "paper, on celeba: 97"
    headings = [line.label for line in sheet.lines if not line.entries]
    assert headings == [
        "Pairs found on the defense itself",
        "Pairs found on inc",
        "Clean test images",
    ]


def test_every_published_number_of_the_section_stands_in_the_table():
    robust = "inc_overpowered_training"
    found = [four(), four(defense=robust, found_on=robust), four(defense=robust)]
    frame = latent_numbers.tidy(found, TABLE)
    printed = frame[frame["published"] != ""]["published"].astype(float)
    assert sorted(printed) == sorted([93, 2.47, 57, 100, 0.08, 22, 97, 18, 0.007])
    assert set(frame[frame["published"] != ""]["published_on"]) == {"celeba"}


def test_an_accuracy_is_told_once_per_defense():
    robust = "inc_overpowered_training"
    found = [four(), four(defense=robust, found_on=robust), four(defense=robust)]
    frame = latent_numbers.tidy(found, TABLE)
    assert frame[frame["metric"] == ACCURACY]["defense"].tolist() == ["inc", robust]
    assert (frame[frame["metric"] == ACCURACY]["value"] == 98).all()
