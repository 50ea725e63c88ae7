"""Pictures from a sweep with fakes: which files, what is on them, who has nothing to show."""

import numpy as np
import pandas as pd
import pytest

from attacks.threat import Norm
from benchmark import grids, illustrate, maps, records, runner
from benchmark.artefact import Shown
from benchmark.illustrate import Illustration
from benchmark.progress import Progress
from benchmark.runner import Plan
from tests.fakes import TINY, Images, shelf


@pytest.fixture
def show(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(illustrate, "REGISTERED", shelf())
    return Illustration(Images(), TINY, tmp_path, "stem", "A title")


@pytest.fixture
def drawn(monkeypatch):
    """The pictures of every grid that was drawn."""
    found = []
    draw = grids.draw
    monkeypatch.setattr(grids, "draw", lambda each, title: found.append(each) or draw(each, title))
    return found


def swept(show, defense, *attacks):
    plan = Plan(
        dataset="images",
        defenses=(defense,),
        attacks=attacks,
        preset=TINY,
        epsilons={Norm.L2: (0.1, 0.5), Norm.LINF: (0.3,)},
    )
    with Progress(silent=True) as progress:
        return runner.sweep(plan, results=show.folder, jobs=1, progress=progress, shelf=shelf())


def names(paths):
    return [path.name for path in paths]


def test_reconstructions_stand_below_each_attack_with_scores_and_verdict(show, drawn):
    paths = swept(show, "painter", "walk", "walk-linf", "crash", "needy")
    written = show.reconstructed(paths)
    assert names(written) == [
        f"stem-examples{number}.{suffix}" for number in ("", "-2") for suffix in ("png", "svg")
    ]
    frame = records.read([paths[1]]).query("epsilon == 0.5").set_index("sample")
    shown = grids.choose(frame.reset_index())["sample"]
    for picture, sample in zip(drawn[0], shown, strict=True):
        assert np.ptp(picture.reconstruction) == 0
        assert picture.reconstruction.mean() == pytest.approx(picture.adversarial.mean())
        score = 0.05 / abs(float(picture.adversarial.mean()) - 0.5)
        assert score == pytest.approx(frame.loc[sample, "rejection_score"], rel=1e-3)
        assert f"\nboundary {score:.2g} τ\n" in picture.caption
        assert picture.caption.splitlines()[-1].startswith(frame.loc[sample, "outcome"])


def test_a_plain_grid_asks_no_defense(show, drawn, monkeypatch):
    paths = swept(show, "brightness", "walk")
    monkeypatch.setattr(illustrate, "_armed", None)
    assert names(show.attacked(paths)) == ["stem-examples.png", "stem-examples.svg"]
    assert all(picture.reconstruction is None for picture in drawn[0])


def test_generated_images_have_a_row_per_class_and_come_out_the_same_again(show, monkeypatch):
    drawn = []
    draw = grids.draw_samples
    monkeypatch.setattr(
        grids, "draw_samples", lambda rows, title: drawn.append(rows) or draw(rows, title)
    )
    first = [path.read_bytes() for path in show.generated(["painter"])]
    assert first == [path.read_bytes() for path in show.generated(["painter"])]
    (rows, _) = drawn
    assert list(rows) == ["dark", "bright"]
    assert {len(images) for images in rows.values()} == {illustrate.SAMPLES_PER_CLASS}
    assert max(image.max() for image in rows["dark"]) < min(i.min() for i in rows["bright"])


@pytest.fixture
def mapped(monkeypatch):
    """The panels of every map that was written."""
    found = []
    write = maps.write
    monkeypatch.setattr(
        maps, "write", lambda panels, *rest: found.append(panels) or write(panels, *rest)
    )
    return found


def test_maps_show_images_what_becomes_of_them_and_latents(show, mapped):
    paths = swept(show, "leveller", "walk", "crash", "needy")
    written = show.mapped(paths, (Shown.INPUTS, Shown.PURIFIED, Shown.LATENTS))
    whats = ("inputs", "purified", "latents")
    assert names(written) == [
        f"stem-map-{what}.{suffix}" for what in whats for suffix in ("csv", "png", "svg")
    ]
    inputs, purified, latents = mapped
    assert [panel.name for panel in inputs] == ["clean", "walk\nL2 at most 0.5"]
    frames = [records.read([path]) for path in paths[:2]]
    for position, frame in enumerate(frames):
        last = frame[frame["epsilon"] == frame["epsilon"].max()].set_index("sample")
        mean = inputs[position].points.mean(axis=(1, 2, 3))
        assert latents[position].points[:, 0] == pytest.approx(mean)
        assert purified[position].points[:, 0, 1, 1] == pytest.approx(mean)
        assert inputs[position].labels.tolist() == last["label"].tolist()
        classes = last.loc[inputs[position].samples, "adversarial_class"].tolist()
        assert inputs[position].predictions.tolist() == classes


def test_several_defenses_have_maps_of_their_own(show, mapped):
    paths = [*swept(show, "leveller"), *swept(show, "brightness")]
    written = show.mapped(paths, (Shown.INPUTS,))
    assert names(written)[0::3] == [
        "stem-map-inputs-leveller.csv",
        "stem-map-inputs-brightness.csv",
    ]


def test_the_successes_that_moved_farthest_come_first(show, drawn):
    paths = swept(show, "brightness", "walk")
    assert names(show.farthest(paths)) == ["stem-examples.png", "stem-examples.svg"]
    distances = [np.linalg.norm(picture.adversarial - picture.clean) for picture in drawn[0]]
    moved = [round(float(distance), 4) for distance in distances]
    assert moved == sorted(moved, reverse=True)
    frame = records.read([paths[1]]).query("epsilon == 0.5 and outcome == 'wrong'")
    assert len(moved) == min(grids.COLUMNS, (frame["clean_class"] == frame["label"]).sum())


def test_of_many_successes_the_farthest_are_chosen():
    frame = pd.DataFrame({"sample": range(6), "distance_l2": [3.0, 9.0, 5.0, 9.0, 8.0, 7.0]})
    frame = frame.assign(label=0, clean_class=[0, 0, 0, 0, 1, 0], clean_rejected=False)
    frame["outcome"] = ["wrong", "wrong", "wrong", "wrong", "wrong", "correct"]
    assert grids.farthest(frame, 3)["sample"].tolist() == [1, 3, 2]


def test_a_defense_that_has_nothing_to_show_is_named(show):
    with pytest.raises(ValueError, match="must have latents, got brightness"):
        show.mapped(swept(show, "brightness"), (Shown.LATENTS,))
    with pytest.raises(ValueError, match="must hold reconstructions, got brightness"):
        show.mapped(swept(show, "brightness"), (Shown.PURIFIED,))
    with pytest.raises(ValueError, match="must generate images, got brightness"):
        show.generated(["brightness"])
    with pytest.raises(ValueError, match="must hold reconstructions, got brightness"):
        show.reconstructed(swept(show, "brightness", "walk"))
