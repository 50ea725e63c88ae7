"""Curves by what the attacks saw, from outcomes known by construction."""

import numpy as np
import pandas as pd
import pytest

from benchmark import protocols, scores
from benchmark.protocols import Seen
from tests.synthetic_records import letters, write_cell

RADII = (0.1, 0.2)
BARE = {"reference": "", "counts": ""}
GUARDED = {"reference": "inc_classifier", "counts": "accuracy"}


def cell(folder, defense, attack, right, metadata, **options):
    """Ten images, so many of them right at each radius."""
    norm = {} if attack == "clean" else {"norm": "linf"}
    outcomes = (
        letters(right, 10 - right)
        if attack == "clean"
        else {r: letters(n, 10 - n) for r, n in zip(RADII, right, strict=True)}
    )
    return write_cell(folder, defense, attack, outcomes, metadata=metadata, **norm, **options)


@pytest.fixture
def paths(tmp_path):
    view = "no such view"
    return [
        cell(tmp_path, "inc_classifier", "clean", 10, BARE),
        cell(tmp_path, "inc_classifier", "fgsm", (5, 2), BARE),
        cell(tmp_path, "inc_classifier", "fgsm@classifier", (0, 0), BARE, not_applicable=view),
        cell(tmp_path, "inc_classifier", "transfer-fgsm[source=a]", (9, 8), BARE),
        cell(tmp_path, "inc", "clean", 9, GUARDED),
        cell(tmp_path, "inc", "fgsm", (4, 3), GUARDED),
        cell(tmp_path, "inc", "pgd-linf@unrolled", (6, 1), GUARDED),
        cell(tmp_path, "inc", "fgsm@classifier", (8, 7), GUARDED),
        cell(tmp_path, "inc", "transfer-fgsm[source=a]", (7, 6), GUARDED),
    ]


def lines(frame):
    return {name: rows["accuracy"].tolist() for name, rows in frame.groupby("series", sort=False)}


def test_a_defense_has_a_line_per_kind_of_attack_from_its_clean_accuracy(paths):
    attacks = [path for path in paths if "unrolled" not in str(scores.read([path]).attacks)]
    found = lines(protocols.points(scores.read(attacks)))
    assert found == {
        "inc_classifier": [100, 50, 20],
        "inc_classifier: transfer-fgsm": [100, 90, 80],
        "inc: adaptive": [90, 40, 30],
        "inc: on its classifier": [90, 80, 70],
        "inc: transfer-fgsm": [90, 70, 60],
    }


def test_an_adaptive_line_is_the_worst_case_of_its_attacks(paths):
    assert lines(protocols.points(scores.read(paths[4:])))["inc: adaptive"] == [90, 40, 10]


def test_a_line_without_a_cell_that_was_asked_for_has_no_points(paths):
    # inc_classifier was not attacked by pgd-linf, so its worst case is unknown and not drawn.
    assert "inc_classifier" not in lines(protocols.points(scores.read(paths)))


def test_transfers_from_several_sources_are_told_apart(paths, tmp_path):
    paths = paths[4:]
    paths.append(cell(tmp_path, "inc", "transfer-fgsm[source=b]", (1, 0), GUARDED))
    found = lines(protocols.points(scores.read(paths)))
    assert found["inc: transfer-fgsm[source=b]"] == [90, 10, 0]
    assert found["inc: transfer-fgsm[source=a]"] == [90, 70, 60]


def test_colours_say_the_defense_and_dashes_what_was_seen(paths):
    frame = protocols.points(scores.read(paths))
    looks = protocols.styles(frame)
    inc = [looks[name] for name in frame["series"].unique() if name.startswith("inc:")]
    assert len({look.color for look in inc}) == 1
    assert len({look.dash for look in inc}) == len(Seen)
    assert looks["inc_classifier: transfer-fgsm"].color != inc[0].color
    assert looks["inc_classifier: transfer-fgsm"].dash == looks["inc: transfer-fgsm"].dash


def test_the_files_hold_every_point_and_a_figure_per_norm(paths, tmp_path):
    written = protocols.write(scores.read(paths), tmp_path / "out", "stem", "A title")
    names = ["stem-protocols.csv", "stem-protocols-linf.png", "stem-protocols-linf.svg"]
    assert [path.name for path in written] == names
    table = pd.read_csv(written[0])
    assert table.groupby("series").size().eq(1 + len(RADII)).all()
    assert set(table["seen"]) == {str(each) for each in Seen}
    again = protocols.write(scores.read(paths), tmp_path / "again", "stem", "A title")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]


def test_one_radius_makes_no_curve(tmp_path):
    path = write_cell(tmp_path, "cnn", "fgsm", {0.1: "cw"}, norm="linf")
    clean = write_cell(tmp_path, "cnn", "clean", "cc")
    found = scores.read([clean, path])
    assert protocols.points(found).empty
    assert protocols.write(found, tmp_path / "out", "stem", "A title") == []


def test_an_unresolved_sample_leaves_a_gap_in_the_line(tmp_path):
    clean = write_cell(tmp_path, "cnn", "clean", "cc")
    path = write_cell(tmp_path, "cnn", "fgsm", {0.1: "cw", 0.2: "ce"}, norm="linf")
    accuracy = protocols.points(scores.read([clean, path]))["accuracy"].tolist()
    assert accuracy[:2] == [100, 50]
    assert np.isnan(accuracy[2])
