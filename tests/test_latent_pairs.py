"""Pairs of latents from search to files, on linear classifiers before a linear generator."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import latent_cells, latent_work
from benchmark.latent_cells import PairCell, Step
from benchmark.latent_numbers import TRANSFERRED, Answered
from benchmark.latent_pairs import Hunt
from benchmark.progress import Progress
from benchmark.shelf import Armed
from benchmark.workers import Workers
from defenses.randomness import generator
from tests import fakes
from tests.latent import ATTACK, CELL, MADE, TINY, Images, arm, file_of

DATASET = Images().load()
COUNT = 6


def armed(name: str) -> Armed:
    return arm(DATASET, name, TINY, "cpu", Progress(silent=True))


def hunt(folder: Path, jobs: int = 1, seed: int = 0) -> Hunt:
    return Hunt(DATASET, TINY, seed, folder, Workers(jobs, "cpu"), Progress(silent=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hunt, Answered]:
    """Pairs found on the sure classifier, with its own answers and the transfer."""
    bench, inc = hunt(tmp_path_factory.mktemp("results")), armed("inc")
    found = bench.ask(inc, inc, bench.search(inc, "overpowered-pairs", ATTACK, COUNT))
    return bench, bench.transfer(inc, inc, found, runs=4)


def test_pairs_begin_from_the_prior_and_stay_in_the_budget(whole):
    _, found = whole
    rows = found.searched.rows
    assert rows["pair"].tolist() == list(range(COUNT))
    assert (rows["mean_square"] <= ATTACK.mean_square * (1 + 1e-4)).all()
    assert found.valid.all()
    images = latent_work.drawn(MADE["inc"], rows, "cpu")
    squares = (images["kept"] - images["left"]).flatten(1).square().mean(dim=1)
    np.testing.assert_allclose(rows["mean_square"], squares, rtol=1e-3)


def test_answers_are_the_bare_classifiers_log_softmax(whole):
    _, found = whole
    images = latent_work.drawn(MADE["inc"], found.searched.rows, "cpu")
    with torch.no_grad():
        logits = MADE["inc"]("cpu").classify(images["left"])
    np.testing.assert_allclose(found.left, logits.double().log_softmax(dim=1), atol=1e-5)
    assert found.different.any()


def test_a_trace_ends_where_the_search_ends_and_begins_at_nothing(whole):
    _, found = whole
    marks = found.searched.metadata["marks"]
    traces = np.stack(found.searched.rows["trace"].to_list())
    assert marks == list(latent_work.marks_of(ATTACK.steps))
    assert marks[0] == 0 and marks[-1] == ATTACK.steps
    assert (traces[:, 0] == 0).all()
    np.testing.assert_allclose(traces[:, -1], found.distance, atol=1e-4)


def test_clean_images_are_put_to_the_bare_classifier(whole):
    measure = whole[1].accuracy()
    assert (measure.value, measure.n) == (75, 40)


def test_only_valid_pairs_of_two_classes_are_put_to_the_deployed_defense(whole):
    _, found = whole
    asked = found.transfer.rows
    told = np.flatnonzero(found.valid & found.different)
    assert asked["pair"].tolist() == told[: TINY.transfers].tolist()
    assert found.measures[TRANSFERRED].n == len(asked) == TINY.transfers
    # A linear inversion is exact, so every run answers as the bare classifier.
    for name, logs in (("kept", found.kept), ("left", found.left)):
        classes = np.stack(asked[name].to_list())
        assert classes.shape == (TINY.transfers, 4)
        assert (classes == logs[asked["pair"]].argmax(axis=1)[:, None]).all()


def test_pairs_of_one_defense_are_put_to_another(whole):
    bench, found = whole
    old = bench.ask(armed("soft"), armed("inc"), found.searched)
    assert (old.defense, old.found_on) == ("soft", "inc")
    assert not old.is_own and found.is_own
    np.testing.assert_array_equal(old.different, found.different)
    apart = found.different
    assert (old.distance[apart] < 0.5 * found.distance[apart]).all()


def test_two_defenses_are_searched_from_the_same_latents(tmp_path):
    bench, still = hunt(tmp_path), replace(ATTACK, mean_square=0.0)
    starts = [
        np.stack(bench.search(armed(name), "still", still, 3).rows["kept"].to_list())
        for name in ("inc", "soft")
    ]
    assert np.abs(starts[0] - starts[1]).max() == 0
    assert np.abs(starts[0][0] - starts[0][1]).max() > 0.1


def test_what_is_there_is_not_computed_again(whole, monkeypatch):
    bench, found = whole
    inc = armed("inc")
    monkeypatch.setattr(Workers, "each", None)
    again = bench.ask(inc, inc, bench.search(inc, "overpowered-pairs", ATTACK, COUNT))
    again = bench.transfer(inc, inc, again, runs=4)
    assert again.measures == found.measures


def test_a_killed_search_goes_on_and_blocks_change_nothing(whole, tmp_path, monkeypatch):
    _, found = whole
    monkeypatch.setattr("benchmark.latent_pairs.SEARCHED", 2)
    bench, inc = hunt(tmp_path), armed("inc")
    each = Workers.each

    def cut(self, function, tasks):
        yield from each(self, function, tasks[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Workers, "each", cut)
    with pytest.raises(KeyboardInterrupt):
        bench.search(inc, "overpowered-pairs", ATTACK, COUNT)
    computed = []

    def rest(self, function, tasks):
        computed.extend(tasks)
        yield from each(self, function, tasks)

    monkeypatch.setattr(Workers, "each", rest)
    rows = bench.search(inc, "overpowered-pairs", ATTACK, COUNT).rows
    assert [task.pairs.tolist() for task in computed] == [[4, 5]]
    for column in ("kept", "left"):
        ours, theirs = (np.stack(r[column].to_list()) for r in (rows, found.searched.rows))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert not list(tmp_path.rglob("parts/*/*"))


def test_blocks_travel_to_other_processes(tmp_path, monkeypatch):
    each = Workers.each

    def sent(self, function, tasks):
        yield from each(
            self, pickle.loads(pickle.dumps(function)), pickle.loads(pickle.dumps(tasks))
        )

    monkeypatch.setattr(Workers, "each", sent)
    bench, inc = hunt(tmp_path), armed("inc")
    found = bench.ask(inc, inc, bench.search(inc, "overpowered-pairs", ATTACK, 2))
    assert len(bench.transfer(inc, inc, found, runs=1).answers.rows) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_digest": "other"},
        {"defense_repr": "inc(steps=1)"},
        {"weights_digest": "other"},
        {"attack_repr": "OverpoweredPairs(steps=1)"},
        {"count": 3},
        {"seed": 1},
        {"step": Step.ANSWERS},
        {"pairs": "0123"},
        {"runs": 10},
    ],
)
def test_a_file_is_named_by_everything_it_depends_on(change):
    assert replace(CELL, **change).id != CELL.id
    assert PairCell(**vars(CELL)).id == CELL.id


def test_another_seed_finds_other_pairs(whole, tmp_path):
    rows = hunt(tmp_path, seed=1).search(armed("inc"), "overpowered-pairs", ATTACK, 2).rows
    assert rows["kept"][0].tolist() != whole[1].searched.rows["kept"][0].tolist()


def test_a_damaged_file_is_named(whole, tmp_path):
    bench, found = whole
    path = found.searched.cell.path(bench.results)
    renamed = tmp_path / "0123456789abcdef.parquet"
    renamed.write_bytes(path.read_bytes())
    with pytest.raises(OSError, match=r"0123456789abcdef\.parquet is damaged or not ours"):
        latent_cells.load(renamed)
    renamed.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OSError, match="is damaged"):
        latent_cells.load(renamed)


def test_files_come_back_as_they_were_written(tmp_path):
    nothing = [[0.25, -1.5]] * 2
    found = file_of(Step.ANSWERS, kept=nothing, left=nothing)
    path = found.cell.path(tmp_path)
    latent_cells.write(path, found)
    again = latent_cells.load(path)
    assert again.cell == found.cell
    assert path.parent == tmp_path / "images" / "records" / "latent"
    assert [list(row) for row in again.rows["kept"]] == nothing
    assert again.metadata["clean_correct"] == 49


def test_a_defense_without_a_prior_is_refused(tmp_path):
    stranger = Armed("brightness", "brightness()", "w", fakes.Make(fakes.Brightness))
    with pytest.raises(ValueError, match=r"must project onto a generator.*got brightness"):
        hunt(tmp_path).search(stranger, "overpowered-pairs", ATTACK, 2)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        hunt(tmp_path).search(armed("inc"), "overpowered-pairs", ATTACK, 0)


# the trace of the search itself


def test_marks_change_nothing_and_the_trace_is_a_shorter_searchs_best(whole):
    defense = MADE["inc"]("cpu")
    starts = torch.randn((4, 5), generator=generator(3))
    plain = ATTACK.searched(defense, starts, generator(0))
    traced = ATTACK.searched(defense, starts, generator(0), (0, 7, 25, ATTACK.steps))
    for name in ("leads", "latents", "images", "last"):
        assert torch.equal(getattr(plain, name), getattr(traced, name))
    assert plain.trace.shape == (4, 0, 2, 5)
    assert torch.equal(traced.trace[:, 0], torch.stack([starts, starts], dim=1))
    for place, steps in ((1, 7), (2, 25)):
        shorter = replace(ATTACK, steps=steps).searched(defense, starts, generator(0))
        assert torch.equal(traced.trace[:, place], shorter.latents)
    assert torch.equal(traced.trace[:, -1], traced.latents)


def test_a_search_that_is_over_early_has_its_end_at_every_later_mark(whole):
    defense = MADE["inc"]("cpu")
    starts = torch.randn((4, 5), generator=generator(3))
    easy = replace(ATTACK, mean_square=0.05, margin=0.1, steps=500)
    found = easy.searched(defense, starts, generator(0), (400, 450))
    assert torch.equal(found.trace[:, 0], found.latents)
    assert torch.equal(found.trace[:, 1], found.latents)
