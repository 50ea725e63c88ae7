"""Which pairs left their class, with a classifier whose opinion is known."""

import math

import pytest

from attacks.threat import Norm
from benchmark import overpowered, records, runner, scores
from benchmark.progress import Progress
from benchmark.runner import Plan
from benchmark.transmutation import Independent
from tests.fakes import TINY, Brightness, Images, Loud, shelf

FAR = "overpowered-l2[noise_norm=2.5]"
HARD, SURE = 0.5, 0.9


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    plan = Plan(
        dataset="images",
        defenses=("noisy", "brightness"),
        attacks=("walk", "overpowered-l2[noise_norm=1.0]", FAR),
        preset=TINY,
        epsilons={Norm.L2: (0.1, 0.5)},
    )
    with Progress(silent=True) as progress:
        return runner.sweep(
            plan, results=tmp_path, jobs=1, progress=progress, shelf=shelf(overpowered_l2=Loud())
        )


def flags(paths, confidence, name="other"):
    return Independent(name, Brightness().eval(), confidence).flags(paths, Images().load())


def test_every_success_of_the_overpowered_attack_is_asked_about_and_nothing_else(paths):
    found = flags(paths, HARD)
    assert (found.by, found.confidence) == ("other", HARD)
    frame = records.read(paths)
    won = (frame["outcome"] == "wrong") & (frame["clean_class"] == frame["label"])
    wrong = frame[won & frame["attack"].str.startswith("overpowered")]
    asked = found.pairs[list(overpowered.KEYS)]
    assert sorted(map(tuple, asked.to_numpy())) == sorted(
        map(tuple, wrong[list(overpowered.KEYS)].to_numpy())
    )


def test_a_pair_is_flagged_where_another_class_is_seen_surely_enough(paths):
    pairs = flags(paths, HARD).pairs
    assert (pairs["flagged"] == (pairs["shown"] != pairs["label"])).all()
    own = pairs[pairs["defense"] == "brightness"]
    assert own["flagged"].all()  # the classifier is the one that was fooled
    # Logits are 1/2 - mean and its negative, so the softmax is a logistic of their distance.
    assert own["confidence"].max() < 1 / (1 + math.exp(-1))
    assert not flags(paths, SURE).pairs["flagged"].any()


def test_the_flags_fit_the_table_they_are_made_for(paths):
    found = scores.read(paths)
    flagged = overpowered.result(found, "brightness", "l2", 0.1, flags(paths, HARD))
    assert flagged.successes == flagged.flagged > 0
    # Only images that no walk of this length breaks are left.
    left = flagged.share("original_accuracy_without_flagged")
    held = found.score("brightness", FAR, "l2", 0.1)
    assert (left.total, left.n) == (held.correct, held.correct + found.clean("brightness").wrong)
    doubted = overpowered.result(found, "brightness", "l2", 0.1, flags(paths, SURE))
    assert (doubted.successes, doubted.flagged) == (flagged.successes, 0)


def test_nobody_judges_an_attack_on_himself(paths):
    with pytest.raises(ValueError, match="must be none that brightness is or contains, got bright"):
        flags(paths, HARD, "brightness")


def test_a_confidence_is_a_probability():
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\], got 90"):
        Independent("other", Brightness(), 90)
