"""Bounds on robust accuracy: closed forms, and what the picture says."""

import numpy as np
import pandas as pd
import pytest

from benchmark import bounds, bounds_figure, statistics
from tests.synthetic_records import write_cell


def _radii(defense, certificate, attack, right=None):
    n = len(certificate)
    return pd.DataFrame(
        {
            "defense": defense,
            "sample": range(n),
            "label": 0,
            "certificate": certificate,
            "attack": attack,
            "right": [True] * n if right is None else right,
            "weights": "0" * bounds.WEIGHTS_DIGITS,
        }
    )


@pytest.fixture
def linear():
    """A linear classifier: the distance to its plane is the certificate and the best attack."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(200, 5)), rng.normal(size=5)
    margin = x @ w + 0.3
    label = rng.random(200) < np.where(margin > 0, 0.9, 0.1)
    distance = np.abs(margin) / np.linalg.norm(w)
    right = (margin > 0) == label
    return _radii("linear", np.where(right, distance, 0), np.where(right, distance, np.nan), right)


def test_the_band_of_a_linear_classifier_has_no_width(linear):
    found = bounds.bands(linear)
    assert (found["unknown"] == 0).all()
    assert found["certified"].equals(found["attacked"])
    assert bounds.defects(bounds.known(linear)) == 0
    for row in found.itertuples():
        standing = (linear["right"] & (linear["certificate"] > row.epsilon)).mean()
        assert row.certified == pytest.approx(100 * standing)


def test_a_weaker_attack_and_a_looser_certificate_widen_the_band_and_never_cross(linear):
    loose = linear.assign(certificate=0.5 * linear["certificate"], attack=2 * linear["attack"])
    found = bounds.bands(loose)
    assert (found["certified"] <= found["attacked"]).all()
    assert found["unknown"].max() > 30
    for name in ("certified", "attacked"):
        assert (found[name].diff().dropna() <= 0).all()
        assert (
            (found[f"{name}_low"] <= found[name]) & (found[name] <= found[f"{name}_high"])
        ).all()


def test_bands_by_hand():
    nan = float("nan")
    radii = _radii("d", [0.5, 0.0, 1.0, 0.7], [1.5, 0.5, nan, nan], right=[True, True, True, False])
    found = bounds.bands(radii).set_index("epsilon")
    assert found.index.tolist() == [0.0, 0.5, 1.0, 1.5]
    assert found["certified"].tolist() == [50, 25, 0, 0]
    assert found["attacked"].tolist() == [75, 50, 50, 25]
    assert found["unknown"].tolist() == [25, 25, 50, 25]
    assert found["n"].tolist() == [4] * 4
    low, high = statistics.wilson(3, 4)
    assert found.loc[0.0, "attacked_low"] == pytest.approx(100 * low, abs=1e-3)
    assert found.loc[0.0, "attacked_high"] == pytest.approx(100 * high, abs=1e-3)


def test_a_certificate_beyond_an_attack_is_a_defect_and_nothing_is_unknown_there():
    radii = _radii("d", [1.0, 0.1], [0.5, 2.0])
    assert bounds.defects(radii) == 1
    found = bounds.bands(radii).set_index("epsilon")
    assert found.loc[0.5, "certified"] == found.loc[0.5, "attacked"] == 50
    assert found.loc[0.1, "unknown"] == 50
    both = bounds.bands(_radii("d", [1.0, 1.0], [0.5, 2.0])).set_index("epsilon")
    assert (both.loc[0.5, "certified"], both.loc[0.5, "attacked"]) == (100, 50)
    assert both.loc[0.5, "unknown"] == 0


def test_samples_whose_clean_answer_is_not_on_record_do_not_count():
    radii = _radii("d", [0.5, 0.5], [1.0, float("nan")])
    radii["right"] = pd.array([True, None], dtype="boolean")
    assert bounds.bands(radii)["n"].unique().tolist() == [1]


def test_the_best_attack_is_the_nearest_wrong_point_of_all_records(tmp_path):
    near = {1.5: [0.9, 1.2, 0.2, 0.3]}
    far = {1.5: [1.1, 0.7, 0.1, 0.4]}
    paths = [
        write_cell(tmp_path, "d", "pgd-l2", {1.5: "wwcr"}, distances=near),
        write_cell(tmp_path, "d", "ddn", {1.5: "wwcr"}, distances=far),
    ]
    found = bounds.attacked(paths)
    assert found["attack"].tolist() == pytest.approx([0.9, 0.7, np.nan, np.nan], nan_ok=True)
    assert found["right"].tolist() == [True] * 4


def test_attacks_added_later_lower_the_upper_bound_without_a_model(tmp_path):
    radii = _radii("d", [0.1, 0.1], [np.nan, np.nan]).drop(columns=["right", "weights"])
    write_cell(tmp_path, "d", "pgd-l2", {1.5: "wc"}, distances=[1.4, 0.0])
    folder = tmp_path / "mnist" / "records"
    first = bounds.again(radii, folder, preset="quick", seed=0)
    write_cell(tmp_path, "d", "ddn", {1.5: "ww"}, distances=[0.6, 0.9])
    write_cell(tmp_path, "cnn", "ddn", {1.5: "ww"}, distances=[0.1, 0.1])
    second = bounds.again(first, folder, preset="quick", seed=0)
    assert first["attack"].tolist() == pytest.approx([1.4, np.nan], nan_ok=True)
    assert second["attack"].tolist() == [0.6, 0.9]
    assert bounds.uncertified(second, folder, preset="quick", seed=0) == ("cnn",)


def test_radii_of_other_weights_are_refused(tmp_path):
    radii = _radii("d", [0.1], [np.nan])
    write_cell(tmp_path, "d", "pgd-l2", {1.5: "w"})
    write_cell(tmp_path, "d", "ddn", {1.5: "w"}, weights_digest="f" * 40)
    folder = tmp_path / "mnist" / "records"
    with pytest.raises(ValueError, match="got 0 versions; certify it again"):
        bounds.again(radii, folder, preset="quick", seed=0)
    with pytest.raises(ValueError, match="got 2 versions"):
        bounds.again(radii.drop(columns="weights"), folder, preset="quick", seed=0)
    mine = radii.assign(weights="f" * bounds.WEIGHTS_DIGITS)
    assert len(bounds.again(mine, folder, preset="quick", seed=0)) == 1


def test_the_picture_names_what_is_unknown_where_anything_is(linear):
    loose = linear.assign(defense="loose", certificate=0.3 * linear["certificate"])
    figure = bounds_figure.draw(pd.concat([linear, loose]), "A title")
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels[::2]] == [
        "linear, n = 200",
        "loose, n = 200",
    ]
    assert [[text.get_text() for text in axes.texts] for axes in panels[::2]] == [[], ["unknown"]]
    right = int(linear["right"].sum())
    expected = f"{right} right without an attack, 0 never broken, 0 defects"
    assert panels[1].get_title(loc="left") == expected


def test_the_picture_counts_defects_and_samples_that_stand():
    figure = bounds_figure.draw(_radii("d", [1.0, 0.1], [0.5, float("nan")]), "A title")
    text = figure.axes[1].get_title(loc="left")
    assert text == "2 right without an attack, 1 never broken, 1 defect"
    assert "a sample that no attack broke" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_files_are_the_curves_and_one_picture_in_two_formats(linear, tmp_path):
    written = bounds_figure.write(linear, tmp_path, "certificate-quick", "A title")
    assert [path.name for path in written] == [
        f"certificate-quick-bounds.{suffix}" for suffix in ("csv", "png", "svg")
    ]
    table = pd.read_csv(written[0])
    assert table["certified"].tolist() == bounds.bands(linear)["certified"].tolist()


def test_nothing_is_drawn_of_defenses_without_records(tmp_path):
    radii = _radii("d", [0.5], [float("nan")], right=pd.array([None], dtype="boolean"))
    assert bounds_figure.write(radii, tmp_path, "certificate", "A title") == []
    with pytest.raises(ValueError, match="radii must be of samples whose clean answers"):
        bounds_figure.draw(radii, "A title")
