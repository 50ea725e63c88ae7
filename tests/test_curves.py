"""Curves and image grids from records whose outcomes are known."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmark import curves, figures, grids, scores, statistics
from tests.synthetic_records import letters, write_cell


@pytest.fixture
def found(tmp_path):
    sweep = {0.1: letters(8, 2), 0.2: letters(5, 5), 0.3: letters(0, 10)}
    return scores.read(
        [
            write_cell(tmp_path, "cnn", "clean", letters(9, 1)),
            write_cell(tmp_path, "cnn", "pgd-linf", sweep),
            write_cell(tmp_path, "cnn", "noise-linf", dict.fromkeys(sweep, "w" + "c" * 9)),
            write_cell(tmp_path, "eabs", "clean", letters(10, 0)),
            write_cell(tmp_path, "eabs", "pgd-linf", {e: letters(9, 1) for e in sweep}),
            write_cell(tmp_path, "eabs", "noise-linf", {e: letters(10, 0) for e in sweep}),
            write_cell(tmp_path, "cnn", "ddn", {1.5: letters(1, 9)}),
        ]
    )


def test_a_curve_is_the_worst_case_from_the_clean_accuracy_on(found):
    points = curves.points(found)
    cnn = points[points["defense"] == "cnn"]
    assert cnn["epsilon"].tolist() == [0.0, 0.1, 0.2, 0.3]
    # noise breaks sample 0, which PGD breaks last: at 0.1 the union of both is 3 samples.
    assert cnn["accuracy"].tolist() == [90.0, 70.0, 40.0, 0.0]


def test_a_curves_band_is_the_wilson_interval(found):
    first = curves.points(found).iloc[0]
    low, high = statistics.wilson(9, 10)
    assert (first["low"], first["high"]) == pytest.approx((100 * low, 100 * high), abs=1e-4)


def test_a_norm_with_one_radius_has_no_curve(found):
    assert set(curves.points(found)["norm"]) == {"linf"}


def test_curves_per_attack_are_optional(found):
    assert set(curves.points(found)["attack"]) == {"all"}
    every = curves.points(found, per_attack=True)
    assert set(every["attack"]) == {"all", "pgd-linf", "noise-linf"}


def test_a_point_with_an_error_stays_empty(tmp_path):
    found = scores.read(
        [
            write_cell(tmp_path, "cnn", "clean", "cc"),
            write_cell(tmp_path, "cnn", "pgd-linf", {0.1: "cc", 0.2: "ec", 0.3: "ww"}),
        ]
    )
    points = curves.points(found)
    assert points["accuracy"].isna().tolist() == [False, False, True, False]
    figures.rendered(curves.draw(points, "linf", "title", curves.styles(["cnn"])), "png")


def test_written_curves_are_readable_files_and_the_same_bytes_again(found, tmp_path):
    first = curves.write(found, tmp_path / "a", "stem", "title")
    again = curves.write(found, tmp_path / "b", "stem", "title")
    names = ["stem-curves.csv", "stem-linf.png", "stem-linf.svg"]
    assert [path.name for path in first] == names
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert pd.read_csv(first[0])["accuracy"].between(0, 100).all()
    assert Image.open(io.BytesIO(first[1].read_bytes())).size[0] > 800


def test_a_figure_names_its_lines_and_axes(found):
    looks = curves.styles(found.defenses)
    figure = curves.draw(curves.points(found), "linf", "title", looks)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["cnn", "eabs"]
    assert axes.get_xlabel() == "Linf perturbation size, pixels in [0, 1]"
    assert axes.get_ylabel() == "accuracy, %"


def test_up_to_twenty_eight_defenses_look_different():
    looks = curves.styles([f"d{i}" for i in range(28)])
    assert len(set(looks.values())) == 28


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12).map(sorted))
def test_line_names_keep_their_distance_and_stay_on_the_page(heights):
    moved = curves.spread(heights, 5.0, 101.0)
    assert all(b - a >= 5 - 1e-9 for a, b in itertools.pairwise(moved))
    assert moved[-1] <= 101


def test_line_names_that_are_apart_already_stay():
    assert curves.spread([10.0, 50.0, 90.0], 5.0, 101.0) == [10.0, 50.0, 90.0]


def _attacked(labels, outcomes, clean=None):
    count = len(labels)
    return pd.DataFrame(
        {
            "sample": range(count),
            "label": labels,
            "clean_class": labels if clean is None else clean,
            "clean_rejected": [False] * count,
            "outcome": outcomes,
        }
    )


def test_a_grid_shows_one_broken_sample_of_each_class_before_a_second():
    frame = _attacked([0, 0, 1, 2, 2], ["wrong", "wrong", "correct", "correct", "wrong"])
    assert grids.choose(frame, 2)["sample"].tolist() == [0, 4]
    assert grids.choose(frame, 3)["sample"].tolist() == [0, 1, 4]
    assert grids.choose(frame, 4)["sample"].tolist() == [0, 1, 2, 4]


def test_a_grid_shows_only_what_was_attacked_and_judged():
    frame = _attacked([0, 1, 2], ["wrong", "error", "wrong"], clean=[5, 1, 2])
    assert grids.choose(frame)["sample"].tolist() == [2]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_draws_three_rows_and_a_caption_per_picture(channels):
    clean = np.linspace(0, 1, channels * 64).reshape(channels, 8, 8)
    pictures = [grids.Picture(clean, 1 - clean, grids.caption("3", "5", "wrong", 1.234))] * 2
    figure = grids.draw(pictures, "a title")
    assert len(figure.axes) == 6
    assert figure.axes[-1].get_xlabel() == "3 → 5\n1.23"
    image = Image.open(io.BytesIO(figures.rendered(figure, "png")))
    assert min(image.size) > 300


def test_a_reconstruction_takes_the_place_of_the_difference():
    clean = np.zeros((1, 8, 8))
    words = grids.verdict("2", "6", "rejected", 1.5, {"encoder": 0.234, "decoder": 1234.5})
    picture = grids.Picture(clean, clean + 0.5, words, clean + 0.25)
    assert list(picture.rows) == ["clean", "adversarial", "reconstruction"]
    figure = grids.draw([picture] * 3, "a title")
    assert len(figure.axes) == 9
    expected = "2 → 6\nmoved 1.50\nencoder 0.23 τ\ndecoder 1.2e+03 τ\nrejected"
    assert figure.axes[-1].get_xlabel() == expected
    figures.rendered(figure, "png")


@pytest.mark.parametrize(
    ("outcome", "said"), [("wrong", "wrong, accepted"), ("correct", "correct")]
)
def test_a_verdict_always_names_the_outcome(outcome, said):
    assert grids.verdict("2", "6", outcome, 0.0, {}).endswith(f"\n{said}")


def test_samples_have_a_row_per_class():
    images = [np.zeros((3, 8, 8))] * 4
    figure = grids.draw_samples({"0": images, "1": images}, "a title")
    assert [axes.get_ylabel() for axes in figure.axes] == ["0", "1"]
    (shown,) = figure.axes[0].get_images()
    assert shown.get_array().shape == (8, 4 * 8 + 3, 3)
    with pytest.raises(ValueError, match="must hold an image per class"):
        grids.draw_samples({}, "a title")


def test_a_caption_says_when_the_sample_held():
    assert grids.caption("3", "3", "correct", 0.5) == "3 → 3\n0.50\ncorrect"


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="pictures must hold at least one"):
        grids.draw([], "a title")
