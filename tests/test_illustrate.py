"""Pictures from a sweep with fakes: which files, what is on them, who has nothing to show."""

import numpy as np
import pytest

from attacks.threat import Norm
from benchmark import grids, illustrate, records, runner
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


def test_a_defense_that_has_nothing_to_show_is_named(show):
    with pytest.raises(ValueError, match="must generate images, got brightness"):
        show.generated(["brightness"])
    with pytest.raises(ValueError, match="must hold reconstructions, got brightness"):
        show.reconstructed(swept(show, "brightness", "walk"))
