"""Maps of points whose places in the plane are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmark import maps
from benchmark.maps import Panel

CLASSES = tuple("0123456789")


def panel(points, name="clean", labels=None, predictions=None):
    count = len(points)
    labels = np.arange(count) % 10 if labels is None else np.asarray(labels)
    predictions = labels if predictions is None else np.asarray(predictions)
    return Panel(name, points, np.arange(count), labels, predictions)


@pytest.fixture
def pca(monkeypatch):
    monkeypatch.setattr(maps, "find_spec", lambda name: None)


@pytest.fixture
def cloud():
    """Thirty points of a plane, and where they are in seven dimensions."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(30, 2)) * [3, 1]
    directions, _ = np.linalg.qr(rng.normal(size=(7, 2)))
    return plane, plane @ directions.T + 5


def gaps(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_points_of_a_plane_keep_their_distances_without_umap(pca, cloud):
    plane, points = cloud
    found = maps.embed([panel(points)])
    assert found.method == "PCA (100 % of the variance; UMAP is not installed)"
    np.testing.assert_allclose(gaps(found.coordinates[0]), gaps(plane), atol=1e-9)


def test_panels_share_one_plane(pca, cloud):
    _, points = cloud
    first, second = maps.embed([panel(points), panel(points[::-1])]).coordinates
    np.testing.assert_allclose(first, second[::-1], atol=1e-9)


def test_images_are_flattened(pca, cloud):
    _, points = cloud
    padded = np.pad(points, ((0, 0), (0, 1)))
    images = padded.reshape(30, 2, 2, 2)
    flat, square = (maps.embed([panel(each)]).coordinates[0] for each in (padded, images))
    np.testing.assert_allclose(gaps(flat), gaps(square), atol=1e-9)


def test_umap_is_seeded_and_named_where_it_is_installed(monkeypatch, cloud):
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, points):
            return points[:, :2]

    monkeypatch.setattr(maps, "find_spec", lambda name: name == "umap" or None)
    monkeypatch.setattr(maps, "import_module", lambda name: SimpleNamespace(UMAP=UMAP))
    assert maps.embed([panel(cloud[1])]).method == "UMAP (15 neighbours)"
    assert asked == {"n_neighbors": 15, "random_state": 0, "n_jobs": 1}
    assert maps.embed([panel(cloud[1][:6])]).method == "UMAP (5 neighbours)"


@pytest.mark.parametrize("points", [np.zeros((2, 7)), np.zeros((30, 1)), np.zeros((0, 7))])
def test_what_spans_no_plane_is_refused(pca, points):
    with pytest.raises(ValueError, match="points must be 3 or more of 2 dimensions or more, got"):
        maps.embed([panel(points)])


def test_a_map_names_every_class_and_its_method(pca, cloud):
    found = maps.embed([panel(cloud[1]), panel(cloud[1], "attacked", predictions=[-1] * 30)])
    figure = maps.draw([panel(cloud[1])] * 2, found, CLASSES, "A title")
    assert "PCA" in figure.get_suptitle()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(CLASSES)
    assert len(figure.axes) == 4


def test_files_come_out_the_same_again_and_the_table_holds_every_point(pca, cloud, tmp_path):
    panels = [panel(cloud[1]), panel(cloud[1] + 1, "attacked", predictions=[-1] * 30)]
    first, again = (
        maps.write(panels, CLASSES, tmp_path / name, "stem", "A title") for name in "ab"
    )
    assert [path.name for path in first] == ["stem.csv", "stem.png", "stem.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    table = pd.read_csv(first[0])
    assert table.groupby("panel").size().to_dict() == {"attacked": 30, "clean": 30}
    assert table[table["panel"] == "attacked"]["prediction"].isna().all()


def test_no_two_of_ten_classes_share_a_colour_or_a_marker():
    assert len(set(maps._TOL_MUTED)) == len(set(maps._MARKERS)) == 10
