"""Section 4.3's files and Figures 6 to 9, from linear classifiers before a linear generator."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from benchmark import figures, history, latent_figures, latent_report, reproduce
from benchmark.artefact import Kind
from benchmark.latent_cells import Step
from benchmark.latent_figures import Pair
from benchmark.latent_report import Wanted
from benchmark.progress import Progress
from benchmark.runner import Plan
from benchmark.workers import Workers
from tests.latent import SHELF, TINY, Images, answered, arm, file_of

TABLE = ("robust-manifold", "section 4.3")
PLAN = Plan(
    dataset="images",
    defenses=("inc", "soft"),
    attacks=("overpowered-pairs", "overpowered-pairs[mean_square=0.0002]"),
    preset=TINY,
    samples=8,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that no pair is searched twice."""
    return tmp_path_factory.mktemp("results")


def made(kind, results, plan=PLAN, shelf=SHELF, title="A title"):
    wanted = Wanted(kind, title, f"stem-{kind}", TABLE, plan, Images())
    with Progress(silent=True) as progress:
        return latent_report.write(wanted, Workers(1, "cpu"), results, progress, shelf)


def endings(written):
    return [path.name.removeprefix("stem-") for path in written.files]


def inked(path):
    """Whether a picture shows more than its background, in more than one tone."""
    pixels = imread(path)[..., :3]
    return len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20 and pixels.min() < 0.5


def test_the_section_is_a_table_of_own_and_old_pairs_and_their_transfer(results):
    written = made(Kind.LATENT_PAIRS, results)
    assert endings(written) == [f"latent_pairs.{suffix}" for suffix in ("md", "csv", "tex")]
    frame = pd.read_csv(written.files[1], keep_default_na=False)
    blocks = list(dict.fromkeys(zip(frame["defense"], frame["found_on"], strict=True)))
    assert blocks == [("inc", "inc"), ("inc", ""), ("soft", "soft"), ("soft", ""), ("soft", "inc")]
    assert set(frame["attack"]) == {"overpowered-pairs", ""}  # the first attack alone
    by = frame.set_index(["defense", "found_on", "metric"])["value"].astype(float)
    assert by["inc", "inc", "transferred"] == 100
    assert by["soft", "inc", "mean_kl"] < by["inc", "inc", "mean_kl"]
    assert by["inc", "", "accuracy"] == 75
    text = written.files[0].read_text()
    assert "# A title" in text and "Preset tiny, 8 pairs, seed 0." in text
    assert " pairs, 10 runs per image" in text
    assert written.table.columns == ("inc", "soft")
    assert "₂" not in written.files[2].read_text()


def test_the_grid_shows_pairs_of_the_first_defense(results):
    plan = replace(PLAN, defenses=("inc",))
    written = made(Kind.LATENT_GRID, results, plan)
    assert endings(written)[-3:] == [f"latent_grid-figure.{s}" for s in ("csv", "png", "svg")]
    assert inked(written.files[-2])
    drawn = pd.read_csv(written.files[-3])
    for _, pair in drawn.groupby("pair"):
        one, other = pair[["class_0", "class_1"]].to_numpy()
        assert one.argmax() != other.argmax()
        np.testing.assert_allclose([one.sum(), other.sum()], 1, atol=1e-5)


def test_the_trace_has_a_line_per_defense_and_budget(results):
    written = made(Kind.LATENT_TRACE, results)
    assert endings(written)[0] == "latent_trace.md" and written.table is None
    assert inked(written.files[-2])
    drawn = pd.read_csv(written.files[1])
    lines = drawn.groupby(["defense", "attack"])
    assert len(lines) == 4
    assert (drawn["n"] == 8).all()
    assert (lines["steps"].max() == 300).all() and (lines["distance"].first() == 0).all()
    assert (drawn["low"] <= drawn["distance"] + 1e-6).all()
    end = drawn[drawn["steps"] == 300].set_index(["defense", "attack"])["distance"]
    near, far = PLAN.attacks[0], "overpowered-pairs[mean_square=0.0002]"
    assert end["inc", far] > end["inc", near] > end["soft", near]


def test_outputs_are_those_of_every_defense_for_the_first_ones_pairs(results):
    written = made(Kind.LATENT_OUTPUTS, results)
    assert inked(written.files[-2])
    drawn = pd.read_csv(written.files[-3])
    assert set(drawn["defense"]) == {"inc", "soft"}
    assert drawn.groupby(["pair", "defense"]).size().eq(2).all()
    assert drawn["pair"].nunique() <= latent_figures.OUTPUT_COLUMNS


def test_losses_are_drawn_from_what_the_training_kept(results, tmp_path):
    path = tmp_path / "weights.csv"
    pd.DataFrame({history.UPDATE: [1, 2, 3], "pairs": [3, 2, 1.0]}).to_csv(path, index=False)

    def trained(*arguments):
        return replace(arm(*arguments), losses=path)

    written = made(Kind.LOSSES, results, shelf=replace(SHELF, arm=trained))
    assert inked(written.files[-2])
    assert pd.read_csv(written.files[1])["pairs"].tolist() == [3, 2, 1]
    assert "weights `weights of i" in written.files[0].read_text()
    with pytest.raises(FileNotFoundError, match="losses of inc are not kept"):
        made(Kind.LOSSES, results)


@pytest.mark.parametrize(
    ("attacks", "sentence"),
    [
        ((), "must name one that finds pairs, got none"),
        (("walk",), "find pairs of latents.*'walk'"),
    ],
)
def test_an_attack_that_finds_no_pairs_is_refused(results, attacks, sentence):
    with pytest.raises(ValueError, match=sentence):
        made(Kind.LATENT_PAIRS, results, replace(PLAN, attacks=attacks))


def test_a_grid_without_any_pair_says_so(results):
    still = replace(PLAN, attacks=("overpowered-pairs[mean_square=0.0]",))
    with pytest.raises(ValueError, match="must hold at least one of two classes, got none"):
        made(Kind.LATENT_GRID, results, still)


# which pairs are shown, and how

SURE, UNSURE, BARELY = [0.99, 0.01], [0.7, 0.3], [0.51, 0.49]


def flipped(output):
    return output[::-1]


def test_striking_pairs_are_the_farthest_apart_one_of_each_class_before_a_second():
    kept = [UNSURE, SURE, BARELY, flipped(UNSURE), SURE, SURE]
    left = [flipped(each) for each in kept]
    left[4] = kept[4]
    near = [1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1.0]
    found = answered(kept, left, near)  # the fifth has one class, the sixth is too far apart
    assert latent_figures.striking(found) == [1, 3, 0, 2]
    assert latent_figures.striking(found, 2) == [1, 3]
    assert latent_figures.first(found, 3) == [0, 1, 2]


def pair(classes=2):
    images = np.random.default_rng(0).random((2, 1, 8, 8))
    output = np.full(classes, 0.1 / (classes - 1))
    output[0] = 0.9
    return Pair((images[0], images[1]), {"inc": (output, output[::-1])})


def test_captions_say_class_and_confidence():
    figure = latent_figures.draw_pairs([pair()], "inc", ("dark", "a very bright one"), "T")
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["dark\n90.0 %", "a very\nbright one\n90.0 %"]


def test_bars_are_drawn_for_the_classes_with_the_largest_outputs():
    names = [f"class {k}" for k in range(30)]
    figure = latent_figures.draw_outputs([pair(30)], names, "T")
    ticks = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert len(ticks) == latent_figures.MOST_CLASSES and {"0", "29"} <= set(ticks)
    heights = [patch.get_height() for patch in figure.axes[-1].patches]
    assert sorted(heights)[-2:] == [0.9, 0.9]
    assert len(imread(io.BytesIO(figures.rendered(figure, "png")))) > 100


def test_the_mean_of_a_trace_is_over_all_pairs():
    nothing = [[0.0]] * 2
    found = file_of(
        Step.SEARCH, kept=nothing, left=nothing, mean_square=[0, 0], trace=[[0, 1], [0, 0.5]]
    )
    found = replace(found, metadata={**found.metadata, "marks": [0, 10]})
    frame = latent_figures.traced([found])
    assert frame["distance"].tolist() == [0, 0.75]
    assert frame["steps"].tolist() == [0, 10]


# the command


def test_the_command_names_the_substitute_and_prints_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    arguments = ["robust-manifold-section-4.3", "--dataset", "digits", "--preset", "smoke"]
    assert reproduce.main([*arguments, "--jobs", "1", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "on digits instead of celeba" in out and "with the epsilons" not in out
    assert "Pairs found on inc" in out
    text = (tmp_path / "digits" / "robust-manifold-section-4.3-smoke.md").read_text()
    assert "(paper, on celeba: 2.47)" in text
    arguments[0] = "robust-manifold-figure-7"
    assert reproduce.main([*arguments, "--results", str(tmp_path)]) == 0
    drawn = tmp_path / "digits" / "robust-manifold-figure-7-smoke-figure.csv"
    assert list(pd.read_csv(drawn)) == ["update", "cross-entropy", "pairs"]
