"""Accuracy, error and rejection against epsilon, from records whose outcomes are known."""

import io

import pytest
from PIL import Image

from benchmark import figures, rates, scores, statistics
from tests.synthetic_records import letters, write_cell

SWEEP = {0.1: letters(6, 2, 2), 0.2: letters(3, 3, 4), 0.3: letters(0, 2, 8)}


@pytest.fixture
def found(tmp_path):
    return scores.read(
        [
            write_cell(tmp_path, "gmvae", "clean", letters(8, 1, 1)),
            write_cell(tmp_path, "gmvae", "fgsm@encoder", SWEEP, norm="linf"),
            write_cell(tmp_path, "gmvae_semi", "clean", letters(9, 1)),
            write_cell(tmp_path, "gmvae_semi", "fgsm@encoder", SWEEP, norm="linf"),
            write_cell(tmp_path, "gmvae", "ddn", {1.5: letters(1, 9)}),
        ]
    )


def test_the_three_rates_start_clean_and_sum_to_one_hundred(found):
    whole = rates.points(found)
    gmvae = whole[whole["defense"] == "gmvae"]
    table = gmvae.pivot(index="epsilon", columns="rate", values="percent")
    assert table.index.tolist() == [0, 0.1, 0.2, 0.3]
    assert table["accuracy"].tolist() == [80, 60, 30, 0]
    assert table["rejection"].tolist() == [10, 20, 40, 80]
    assert (table.sum(axis=1) == 100).all()
    first = gmvae.iloc[0]
    low, high = statistics.wilson(8, 10)
    assert (first["low"], first["high"]) == pytest.approx((100 * low, 100 * high), abs=1e-4)
    assert set(whole["attack"]) == {"fgsm@encoder"}


def test_an_epsilon_without_a_number_is_left_out(tmp_path):
    sweep = {0.1: "cc", 0.2: "ec", 0.3: "ww"}
    found = scores.read([write_cell(tmp_path, "gmvae", "pgd-linf", sweep)])
    assert rates.points(found)["epsilon"].unique().tolist() == [0.1, 0.3]


def test_a_figure_has_a_panel_per_defense_and_three_named_lines_in_each(found):
    figure = rates.draw(rates.points(found), "title")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "gmvae: error at most 30.0 % (paper 3.89)",
        "gmvae_semi: error at most 30.0 %",
    ]
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["accuracy", "error", "rejection"]
    image = Image.open(io.BytesIO(figures.rendered(figure, "png")))
    assert min(image.size) > 300


def test_written_rates_are_the_same_bytes_again(found, tmp_path):
    first = rates.write(found, tmp_path / "a", "stem", "title")
    again = rates.write(found, tmp_path / "b", "stem", "title")
    names = ["stem-rates.csv", "stem-rates.png", "stem-rates.svg"]
    assert [path.name for path in first] == names
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_nothing_is_drawn_of_single_epsilons(tmp_path):
    found = scores.read([write_cell(tmp_path, "gmvae", "ddn", {1.5: "cw"})])
    assert rates.write(found, tmp_path, "stem", "title") == []
    with pytest.raises(ValueError, match="must hold an attack at two epsilons"):
        rates.draw(rates.points(found), "title")
