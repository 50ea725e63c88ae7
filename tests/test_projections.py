"""What defenses make of images, clean and attacked, from a sweep with fakes of known answers."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from attacks.threat import Norm
from benchmark import confidence_grid, histograms, projections, records, runner, scatter
from benchmark.confidence_grid import Row
from benchmark.histograms import Moved
from benchmark.illustrate import Illustration
from benchmark.maps import Panel
from benchmark.progress import Progress
from benchmark.runner import Plan
from tests.fakes import TINY, Images, shelf

DATASET = Images().load()


@pytest.fixture
def show(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(projections, "REGISTERED", shelf())
    return Illustration(Images(), TINY, tmp_path, "stem", "A title")


def swept(show, *defenses, attacks=("walk",)):
    plan = Plan(
        dataset="images",
        defenses=defenses,
        attacks=attacks,
        preset=TINY,
        epsilons={Norm.L2: (0.1, 0.5), Norm.LINF: (0.3,)},
    )
    with Progress(silent=True) as progress:
        return runner.sweep(plan, results=show.folder, jobs=1, progress=progress, shelf=shelf())


@pytest.fixture
def written(monkeypatch):
    """What every picture was drawn from."""
    found = []
    for module in (confidence_grid, histograms, scatter):
        draw = module.draw
        monkeypatch.setattr(
            module,
            "draw",
            lambda first, *rest, draw=draw: found.append(first) or draw(first, *rest),
        )
    return found


def names(paths):
    return [path.name for path in paths]


def means(images):
    return images.mean(axis=(1, 2, 3))


def given(path):
    """The samples of a record that the attack was given, at its last epsilon."""
    frame = records.read([path])
    last = frame[frame["epsilon"] == frame["epsilon"].max()]
    return last[(last["clean_class"] == last["label"]) & ~last["clean_rejected"]]


def test_only_images_that_an_attack_was_given_are_shown(show):
    paths = swept(show, "guarded", attacks=("walk", "crash", "needy"))
    (found,) = projections.attacked(paths, DATASET)
    assert found.attack == "walk\nL2 at most 0.5"
    expected = given(paths[1])
    assert 0 < len(expected) < len(records.read([paths[0]]))
    assert sorted(found.rows["sample"]) == sorted(expected["sample"])
    clean = DATASET.test.images[found.rows["sample"]].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(found.clean, clean)
    moved = np.linalg.norm((found.adversarial - clean).reshape(len(clean), -1), axis=1)
    np.testing.assert_allclose(moved, found.rows["distance_l2"], atol=1e-4)


def test_a_grid_shows_both_images_and_what_each_defense_makes_of_them(show, written):
    paths = swept(show, "guarded", "brightness")
    files = projections.compared(show, paths)
    assert names(files) == ["stem-projections.png", "stem-projections.svg"]
    (rows,) = written
    heads = [row.name for row in rows]
    assert heads == ["image", "image,\nguarded", "attacked", "attacked,\nguarded"]
    for before, after in ((rows[0], rows[1]), (rows[2], rows[3])):
        np.testing.assert_allclose(means(after.images), means(before.images), atol=1e-6)
        assert np.ptp(after.images[0]) == 0


def test_a_grids_confidences_are_the_inner_classifiers_in_the_label(show, written):
    projections.compared(show, swept(show, "guarded"))
    (rows,) = written
    images = DATASET.test.images.astype(np.float32) / np.float32(255)
    for row in rows:
        for image, clean, confidence in zip(
            row.images, rows[0].images, row.confidences, strict=True
        ):
            place = np.flatnonzero((images == clean).all(axis=(1, 2, 3)))[0]
            sign = 2 * DATASET.test.labels[place] - 1
            expected = 1 / (1 + np.exp(-sign * (2 * image.mean() - 1)))
            assert confidence == pytest.approx(expected, abs=1e-5)


def test_each_attack_has_a_grid_of_its_own_on_the_first_defense(show, written):
    paths = swept(show, "guarded", "leveller", attacks=("walk", "walk-linf"))
    with pytest.raises(
        ValueError, match="must show the classifier inside as 'classifier', got lev"
    ):
        projections.compared(show, paths)
    written.clear()
    files = projections.compared(show, paths[:3])
    assert [name for name in names(files) if name.endswith("png")] == [
        "stem-projections.png",
        "stem-projections-2.png",
    ]


def test_distances_are_between_images_and_their_reconstructions(show, written):
    paths = swept(show, "guarded", "brightness")
    files = projections.measured(show, paths)
    assert names(files) == [f"stem-distances.{suffix}" for suffix in ("csv", "png", "svg")]
    ((moved,),) = written
    assert (moved.defense, moved.attack) == ("guarded", "walk\nL2 at most 0.5")
    (found,) = projections.attacked(paths[:2], DATASET)
    for distances, images in ((moved.clean, found.clean), (moved.adversarial, found.adversarial)):
        spread = images.reshape(len(images), -1)
        expected = np.sqrt(((spread - spread.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
        np.testing.assert_allclose(distances, expected, atol=1e-5)
    table = pd.read_csv(files[0])
    assert table["sample"].tolist() == found.rows["sample"].tolist()
    assert set(table["attack"]) == {"walk, L2 at most 0.5"}


def test_a_scatter_is_of_the_encodings_clean_and_attacked(show, written):
    paths = swept(show, "guarded", "brightness")
    files = projections.scattered(show, paths)
    assert names(files)[0] == "stem-scatter-guarded.csv"
    (panels,) = written
    (found,) = projections.attacked(paths[:2], DATASET)
    for panel, images in zip(panels, (found.clean, found.adversarial), strict=True):
        expected = np.stack([means(images), 1 - means(images)], axis=1)
        np.testing.assert_allclose(panel.points, expected, atol=1e-6)
    assert panels[0].predictions.tolist() == found.rows["label"].tolist()
    assert panels[1].predictions.tolist() == found.rows["adversarial_class"].tolist()
    alone = projections.scattered(show, paths[:2])
    assert names(alone) == [f"stem-scatter.{suffix}" for suffix in ("csv", "png", "svg")]


def test_defenses_that_make_nothing_of_images_are_named(show):
    paths = swept(show, "brightness")
    for picture in (projections.compared, projections.measured):
        with pytest.raises(ValueError, match="must hold reconstructions, got brightness"):
            picture(show, paths)
    with pytest.raises(ValueError, match="must have latents and be attacked, got brightness"):
        projections.scattered(show, paths)


@pytest.mark.parametrize(
    ("confidence", "text"),
    [
        (1.0, "100 %"),
        (0.9999, "> 99 %"),
        (0.98, "98 %"),
        (0.5, "50 %"),
        (1e-4, "< 1 %"),
        (0, "0 %"),
    ],
)
def test_a_confidence_is_not_rounded_to_certainty(confidence, text):
    assert confidence_grid.percent(confidence) == text


def test_a_confidence_grid_says_each_number_and_caption():
    rows = [Row(name, np.zeros((2, 1, 2, 2)), np.array([0.25, 1.0])) for name in ("image", "made")]
    figure = confidence_grid.draw(rows, ["three", "four"], "A title")
    assert [[t.get_text() for t in axes.texts] for axes in figure.axes] == [["25 %"], ["100 %"]] * 2
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "three", "four"]
    with pytest.raises(ValueError, match="rows must hold at least one image, got none"):
        confidence_grid.draw(rows, [], "A title")


def moved(clean, adversarial):
    return Moved("d", "a", np.arange(len(clean)), np.array(clean), np.array(adversarial))


@pytest.mark.parametrize(
    ("clean", "adversarial", "area"),
    [([1, 2], [3, 4], 1.0), ([1, 2], [1, 2], 0.5), ([3, 4], [1, 2], 0.0), ([1, 4], [2, 3], 0.5)],
)
def test_detection_is_the_chance_that_the_attacked_image_was_moved_farther(
    clean, adversarial, area
):
    assert moved(clean, adversarial).detection == pytest.approx(area)


def test_histograms_share_bins_that_hold_every_distance():
    figure = histograms.draw([moved([1.0, 2.0], [3.0, 4.0]), moved([0.5], [9.0])], "A title")
    filled = [
        [patch for patch in axes.patches if isinstance(patch, Rectangle)] for axes in figure.axes
    ]
    assert [sum(patch.get_height() for patch in bars) for bars in filled] == [4, 2]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert "area under ROC 1.00" in figure.axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="distances must be of at least one image each, got none"):
        histograms.draw([moved([], [])], "A title")


def panel(points, name="clean"):
    return Panel(name, points, np.arange(len(points)), *np.zeros((2, len(points)), dtype=np.int64))


def test_a_scatter_draws_the_latents_themselves():
    points = np.array([[0.0, 1.0], [2.0, -3.0]])
    figure = scatter.draw([panel(points), panel(points + 1, "attacked")], "A title")
    (axes,) = figure.axes
    drawn = [np.asarray(each.get_offsets()) for each in axes.collections]
    np.testing.assert_array_equal(drawn[0], points)
    np.testing.assert_array_equal(drawn[1], points + 1)
    radius = np.linalg.norm(axes.lines[0].get_xydata(), axis=1)
    inside = np.linalg.norm(np.random.default_rng(0).normal(size=(20_000, 2)), axis=1) < radius[0]
    assert np.ptp(radius) < 1e-9
    assert inside.mean() == pytest.approx(0.95, abs=0.005)


def test_latents_that_need_an_embedding_are_refused():
    with pytest.raises(ValueError, match=r"latents must have 2 dimensions .*, got 3; train with"):
        scatter.draw([panel(np.zeros((4, 3)))] * 2, "A title")
    with pytest.raises(ValueError, match="panels must hold an attack, got 1"):
        scatter.draw([panel(np.zeros((4, 2)))], "A title")
