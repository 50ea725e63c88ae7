"""Sweeps with fakes whose answers are known: outcomes, caching, invariance, failures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from attacks.eot import View
from attacks.threat import Norm
from benchmark import bank, examples, records, runner, seeding, tables, verify
from benchmark.progress import Progress
from benchmark.records import Outcome
from benchmark.runner import Plan
from tests.fakes import (
    DEFENSES,
    TINY,
    Anywhere,
    Cheat,
    Crash,
    Images,
    Informed,
    Vandal,
    Walk,
    shelf,
)
from tests.test_cells import CELL

PLAN = Plan(dataset="images", defenses=("brightness",), attacks=("walk",), preset=TINY)
COSTS = {"wall_seconds", "cost", "calls", "device", "command"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def sweep(plan, folder, *, jobs=1, **attacks):
    with Progress(silent=True) as progress:
        return runner.sweep(
            plan, results=folder, jobs=jobs, progress=progress, shelf=shelf(**attacks)
        )


def settled(frame):
    """Rows without the cell's id, which names the configuration."""
    return frame.drop(columns="cell")


def test_a_sweep_agrees_with_the_exact_distances(tmp_path):
    radii = (0.1, 0.3, 0.5)
    plan = replace(PLAN, epsilons={Norm.L2: radii}, samples=40)
    frame = records.read(sweep(plan, tmp_path))
    images = Images().load().test
    mean = images.images.mean(axis=(1, 2, 3)) / 255
    correct = (mean > 0.5) == (images.labels == 1)
    clean = frame[frame["attack"] == "clean"].set_index("sample")
    assert ((clean["outcome"] == Outcome.CORRECT) == correct[clean.index]).all()
    pixels = images.images.reshape(40, 4) / 255
    toward = np.where(images.labels == 1, -1, 1)[:, None]
    for epsilon in radii:
        rows = frame[(frame["attack"] == "walk") & (frame["epsilon"] == epsilon)]
        walked = np.clip(pixels + toward * epsilon / 2, 0, 1).mean(axis=1)
        robust = correct & ((walked > 0.5) == (images.labels == 1))
        assert ((rows["outcome"] == Outcome.CORRECT) == robust[rows["sample"]]).all()
        assert 0 < robust.sum() < correct.sum()


def test_every_row_of_a_rejecting_defense_keeps_the_score_that_decided(tmp_path):
    plan = replace(PLAN, defenses=("cautious", "brightness"), samples=40)
    frame = records.read(sweep(plan, tmp_path))
    cautious = frame[frame["defense"] == "cautious"]
    assert ((cautious["rejection_score"] > 1) == cautious["rejected"]).all()
    assert 0 < cautious["rejected"].sum() < len(cautious)
    assert frame.loc[frame["defense"] == "brightness", "rejection_score"].isna().all()


def test_the_paths_are_the_clean_cell_and_the_attacks_of_each_defense_in_turn(tmp_path):
    plan = replace(PLAN, defenses=("cautious", "brightness"), attacks=("walk-linf", "walk"))
    known = [records.provenance(path) for path in sweep(plan, tmp_path)]
    assert [(told["defense"], told["attack"]) for told in known] == [
        (defense, attack) for defense in plan.defenses for attack in ("clean", "walk-linf", "walk")
    ]


def test_metadata_tells_what_was_run(tmp_path):
    clean, walk = (records.provenance(path) for path in sweep(PLAN, tmp_path))
    assert (walk["preset"], walk["dataset_caveat"], walk["error"]) == ("tiny", "", None)
    assert walk["attack_repr"] == repr(Walk())
    assert walk["not_applicable"] is None
    assert walk["versions"]["torch"] == torch.__version__
    assert walk["wall_seconds"] > 0
    assert clean["cost"] == {"forward": 12, "backward": 0, "decoder": 0}
    assert {"commit", "command", "device"} <= set(walk)


def test_samples_that_were_wrong_before_are_not_attacked_and_stay_wrong(tmp_path):
    frame = records.read(sweep(replace(PLAN, samples=40), tmp_path))
    clean = frame[frame["attack"] == "clean"].set_index("sample")
    attacked = frame[frame["attack"] == "walk"].set_index("sample")
    wrong = clean.index[clean["outcome"] == Outcome.WRONG]
    assert len(wrong) >= 4
    assert (attacked.loc[wrong, "outcome"] == Outcome.WRONG).all()
    assert (attacked.loc[wrong, "distance_l2"] == 0).all()
    assert (attacked.loc[wrong, "adversarial_class"] == clean.loc[wrong, "clean_class"]).all()


@pytest.mark.parametrize("defense", ["brightness", "noisy", "cautious"])
def test_every_row_repeats_the_clean_answer(tmp_path, defense):
    plan = replace(PLAN, defenses=(defense,), epsilons={Norm.L2: (0.1, 0.8)}, samples=40)
    frame = records.read(sweep(plan, tmp_path))
    clean = frame[frame["attack"] == "clean"].set_index("sample")
    for _, rows in frame.groupby(["attack", "epsilon"]):
        same = clean.loc[rows["sample"]]
        assert (rows["clean_class"].to_numpy() == same["adversarial_class"].to_numpy()).all()
        assert (rows["clean_rejected"].to_numpy() == same["rejected"].to_numpy()).all()


@pytest.mark.parametrize("defense", ["brightness", "noisy", "cautious"])
def test_block_size_does_not_change_a_single_row(tmp_path, defense):
    plan = replace(PLAN, defenses=(defense,), epsilons={Norm.L2: (0.1, 0.4)})
    frames = [
        records.read(sweep(replace(plan, preset=replace(TINY, block=block)), tmp_path / str(block)))
        for block in (1, 5, 12)
    ]
    for other in frames[1:]:
        pd.testing.assert_frame_equal(frames[0], other)


def test_several_processes_write_the_same_bytes_of_rows_as_one(tmp_path):
    plan = replace(PLAN, defenses=("brightness", "noisy"), attacks=("walk", "walk-linf"))
    one = sweep(plan, tmp_path / "one")
    two = sweep(plan, tmp_path / "two", jobs=2)
    assert [path.name for path in one] == [path.name for path in two]
    pd.testing.assert_frame_equal(records.read(one), records.read(two))
    for first, second in zip(one, two, strict=True):
        known = [records.provenance(path) for path in (first, second)]
        assert {key: known[0][key] for key in known[0].keys() - COSTS} == {
            key: known[1][key] for key in known[1].keys() - COSTS
        }


def test_the_order_of_defenses_and_attacks_does_not_change_a_row(tmp_path):
    plan = replace(PLAN, defenses=("noisy", "cautious"), attacks=("walk", "walk-linf"))
    turned = replace(plan, defenses=plan.defenses[::-1], attacks=plan.attacks[::-1])
    frames = [
        records.read(sweep(each, tmp_path / str(i))).sort_values(["cell", "epsilon", "sample"])
        for i, each in enumerate((plan, turned))
    ]
    pd.testing.assert_frame_equal(
        frames[0].reset_index(drop=True), frames[1].reset_index(drop=True)
    )


def test_finished_cells_are_neither_computed_nor_written_again(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    attack = {"logged": Walk(log=log)}
    plan = replace(PLAN, attacks=("logged",))
    first = sweep(plan, tmp_path, **attack)
    times = [path.stat().st_mtime_ns for path in first]
    calls = len(list(log.iterdir()))
    assert sweep(plan, tmp_path, **attack) == first
    assert [path.stat().st_mtime_ns for path in first] == times
    assert len(list(log.iterdir())) == calls == 3


def test_another_seed_chooses_other_samples_and_other_cells(tmp_path):
    first = sweep(PLAN, tmp_path)
    second = sweep(replace(PLAN, seed=1), tmp_path)
    assert set(first).isdisjoint(second)
    assert set(records.read(first)["sample"]) != set(records.read(second)["sample"])


def test_fewer_samples_are_a_subset_of_more(tmp_path):
    few = records.read(sweep(replace(PLAN, samples=5), tmp_path))
    many = records.read(sweep(replace(PLAN, samples=30), tmp_path))
    assert set(few["sample"]) < set(many["sample"])


def test_an_attack_named_twice_is_one_cell(tmp_path):
    paths = sweep(replace(PLAN, attacks=("walk", "walk", "walk[confirmations=3]")), tmp_path)
    assert len(paths) == len(set(paths)) == 3


def test_parts_are_gone_when_their_cell_is_finished(tmp_path):
    sweep(PLAN, tmp_path)
    assert not list((tmp_path / "images" / "records" / "parts").glob("*/*"))


def test_judged_points_are_kept_for_every_sample(tmp_path):
    path = sweep(PLAN, tmp_path)[1]
    cell = records.cell_of(records.provenance(path))
    dataset = Images().load()
    rows = records.read([path]).set_index("sample")
    blocks = list(examples.blocks(cell, dataset.test.images))
    assert sum(len(block.samples) for block in blocks) == 12
    for block in blocks:
        moved = np.linalg.norm(
            (block.points[0] - block.images).reshape(len(block.samples), -1), axis=1
        )
        assert moved == pytest.approx(rows.loc[block.samples, "distance_l2"].to_numpy(), abs=1e-5)


def test_an_attack_that_does_not_apply_is_neither_error_nor_zero(tmp_path):
    path = sweep(replace(PLAN, attacks=("needy",)), tmp_path)[1]
    told = records.provenance(path)
    assert told["not_applicable"] == "it needs a decoder"
    assert told["error"] is None
    assert records.read([path]).empty


def test_a_surrogate_that_a_defense_lacks_does_not_apply_but_a_typo_is_unknown(tmp_path):
    with pytest.raises(LookupError, match="unknown surrogate 'exat'; did you mean 'exact'"):
        sweep(replace(PLAN, attacks=("walk@exat",)), tmp_path)
    path = sweep(replace(PLAN, attacks=("walk@exact",)), tmp_path)[1]
    told = records.provenance(path)
    assert (told["attack"], told["surrogate"], told["not_applicable"]) == ("walk", "exact", None)
    assert repr(View(surrogate="exact")) in told["attack_repr"]


@pytest.mark.parametrize("how", ["far", "box", "nan"])
def test_a_cheating_attack_yields_invalid_rows_never_breaks(tmp_path, how):
    path = sweep(replace(PLAN, attacks=("cheater",)), tmp_path, cheater=Cheat(how=how))[1]
    frame = records.read([path])
    attacked = frame[frame["distance_l2"] != 0]
    assert len(attacked) >= 8
    assert (attacked["outcome"] == Outcome.INVALID).all()


def test_a_crash_is_an_error_with_its_traceback_in_its_block_only(tmp_path):
    plan = replace(PLAN, attacks=("crasher",), samples=40)
    path = sweep(plan, tmp_path, crasher=Crash(threshold=0.95))[1]
    frame = records.read([path])
    told = records.provenance(path)
    assert told["error"].splitlines()[-1] == "RuntimeError: no gradient"
    assert "fakes.py" in told["error"]
    assert "/" not in told["error"]
    failed = frame["outcome"] == Outcome.ERROR
    assert failed.any()
    assert (frame["outcome"] == Outcome.CORRECT).any()
    assert (frame.loc[failed, "adversarial_class"] == -1).all()
    assert frame.loc[failed, "distance_l2"].isna().all()


def test_candidates_of_a_wrong_shape_are_an_error(tmp_path):
    path = sweep(replace(PLAN, attacks=("cheater",)), tmp_path, cheater=Cheat(how="shape"))[1]
    assert "candidates must have shape" in records.provenance(path)["error"]


def test_a_failed_cell_is_tried_again_in_its_failed_blocks_only(tmp_path):
    plan = replace(PLAN, attacks=("crasher",), samples=40)
    crash = Crash(threshold=0.95)
    path = sweep(plan, tmp_path, crasher=crash)[1]
    told = records.provenance(path)
    parts = records.parts_folder(tmp_path, records.cell_of(told))
    kept = {part: part.stat().st_mtime_ns for part in parts.iterdir()}
    assert sweep(plan, tmp_path, crasher=crash)[1] == path
    again = {part: part.stat().st_mtime_ns for part in parts.iterdir()}
    same = [part for part in kept if kept[part] == again[part]]
    errors = [part for part in kept if records.provenance(part)["error"]]
    assert set(same) == set(kept) - set(errors)
    assert errors
    assert same


def test_a_failed_cell_is_healed_by_a_later_run(tmp_path):
    plan = replace(PLAN, attacks=("sometimes",))
    switch = tmp_path / "switch"
    switch.mkdir()
    missing = Walk(log=switch / "not there")
    path = sweep(plan, tmp_path, sometimes=missing)[1]
    assert "FileNotFoundError" in records.provenance(path)["error"]
    healed = sweep(plan, tmp_path, sometimes=Walk(log=switch))[1]
    assert healed == path
    assert records.provenance(path)["error"] is None
    reference = sweep(plan, tmp_path / "reference", sometimes=Walk(log=switch))[1]
    pd.testing.assert_frame_equal(records.read([path]), records.read([reference]))


def test_a_failed_cell_is_healed_with_another_block_size_too(tmp_path):
    plan = replace(PLAN, attacks=("sometimes",))
    switch = tmp_path / "switch"
    switch.mkdir()
    path = sweep(plan, tmp_path, sometimes=Walk(log=switch / "not there"))[1]
    assert records.provenance(path)["error"] is not None
    other = replace(plan, preset=replace(TINY, block=7))
    assert sweep(other, tmp_path, sometimes=Walk(log=switch))[1] == path
    frame = records.read([path])
    assert list(frame["sample"]) == records.provenance(path)["samples"]
    assert Outcome.ERROR not in set(frame["outcome"])


def test_an_attack_that_writes_into_its_images_fools_nobody(tmp_path):
    plan = replace(PLAN, attacks=("vandal",))
    frame = records.read(sweep(plan, tmp_path, vandal=Vandal())[1:])
    moved = frame[frame["distance_linf"] > 0]
    assert len(moved) >= 8
    assert (moved["outcome"] == Outcome.INVALID).all()


def test_a_defense_that_answers_nan_gives_errors_for_these_images_in_every_cell(tmp_path):
    plan = replace(PLAN, defenses=("nan",), samples=40)
    paths = sweep(plan, tmp_path)
    frame = records.read(paths)
    first_pixel = Images().load().test.images[:, 0, 0, 0]
    clean = frame[frame["attack"] == "clean"]
    expected = first_pixel[clean["sample"]] > 127
    assert ((clean["outcome"] == Outcome.ERROR).to_numpy() == expected).all()
    walked = frame[frame["attack"] == "walk"].set_index("sample")
    assert (walked.loc[clean["sample"][expected], "outcome"] == Outcome.ERROR).all()
    assert "must be numbers, got NaN" in records.provenance(paths[0])["error"]
    assert "see its clean cell" in records.provenance(paths[1])["error"]


def test_a_defense_that_crashes_gives_errors_not_robustness(tmp_path):
    paths = sweep(replace(PLAN, defenses=("broken",)), tmp_path)
    assert (records.read(paths)["outcome"] == Outcome.ERROR).all()
    assert "RuntimeError: the network is gone" in records.provenance(paths[0])["error"]


@pytest.mark.parametrize("value", [0.0, -0.5, float("nan"), float("inf"), 2.01])
def test_an_epsilon_outside_the_box_is_refused(tmp_path, value):
    plan = replace(PLAN, epsilons={Norm.L2: (0.1, value)})
    with pytest.raises(ValueError, match="epsilon must be above 0 and at most 2, the l2 diagonal"):
        sweep(plan, tmp_path)


def test_epsilons_are_sorted_and_kept_once(tmp_path):
    plan = replace(PLAN, epsilons={Norm.L2: (0.3, 0.1, 0.3)})
    assert records.provenance(sweep(plan, tmp_path)[1])["epsilons"] == [0.1, 0.3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"defenses": ()}, "defenses must name at least one, got none"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"samples": 41}, "samples must be at most 40 for images, got 41"),
        ({"epsilons": {Norm.L2: ()}}, "epsilons must be given for norm l2, got none"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        sweep(replace(PLAN, **change), tmp_path)


def test_a_preset_with_more_samples_than_there_are_takes_all(tmp_path):
    paths = sweep(replace(PLAN, preset=replace(TINY, samples=1000)), tmp_path)
    assert len(records.provenance(paths[0])["samples"]) == 40


def test_one_process_leaves_the_callers_threads_and_random_state_alone(tmp_path):
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sweep(PLAN, tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_stream_of_randomness_has_a_name_of_its_own():
    changes = [
        {},
        {"attack": "ddn"},
        {"surrogate": "exact"},
        {"defense": "eabs"},
        {"dataset": "mnist"},
        {"seed": 1},
    ]
    attacks = {seeding.for_attack(replace(CELL, **change)).initial_seed() for change in changes}
    assert len(attacks) == len(changes)
    others = {seeding.for_judge(CELL).initial_seed()}
    others |= {seeding.for_verification(CELL, i).initial_seed() for i in range(3)}
    assert len(others) == 4
    assert attacks.isdisjoint(others)


def test_the_clean_images_meet_the_same_judge_under_every_attack():
    for change in ({"attack": "clean"}, {"attack": "ddn"}, {"surrogate": "exact"}):
        changed = seeding.for_judge(replace(CELL, **change))
        assert changed.initial_seed() == seeding.for_judge(CELL).initial_seed()


def test_an_attack_without_a_budget_has_one_infinite_radius_and_stands_in_the_tables(tmp_path):
    plan = replace(PLAN, attacks=("walk", "anywhere"), epsilons={Norm.L2: (0.1, 0.3)})
    paths = sweep(plan, tmp_path, anywhere=Anywhere())
    frame = records.read(paths)
    rows = frame[frame["attack"] == "anywhere"]
    assert rows["epsilon"].unique().tolist() == [np.inf]
    assert set(rows["outcome"]) == {Outcome.WRONG}
    clean = rows["clean_class"] == rows["label"]
    assert (rows.loc[clean, "distance_l2"] > 0).all()
    assert records.provenance(paths[-1])["epsilons"] == [np.inf]
    markdown = tables.write(paths, tmp_path, "all", "Title")[0].read_text()
    assert "unrestricted" in markdown
    assert "epsilon = inf" not in markdown


def test_points_without_a_budget_are_judged_again_alike(tmp_path):
    named = shelf(anywhere=Anywhere())
    paths = sweep(replace(PLAN, attacks=("anywhere",)), tmp_path, anywhere=Anywhere())
    source, made = named.sources["images"].load(), DEFENSES["brightness"]("cpu")
    (again,) = verify.recount(paths[1], source, made, "cpu")
    assert again.epsilon == np.inf
    assert (again.recorded == again.found).all()


def test_radii_must_be_finite_where_distances_count():
    assert runner.checked_epsilons(Norm.UNRESTRICTED, (np.inf,), (1, 2, 2)) == (np.inf,)
    with pytest.raises(ValueError, match=r"epsilon must be above 0 and at most 2, .* got inf"):
        runner.checked_epsilons(Norm.L2, (np.inf,), (1, 2, 2))


def test_attacks_that_use_training_images_get_a_bank_that_their_records_name(tmp_path):
    paths = sweep(replace(PLAN, attacks=("informed", "walk")), tmp_path, informed=Informed())
    told = [records.provenance(path)["attack_repr"] for path in paths]
    assert "bank=Bank(per_class=100, seed=0)" in told[1]
    assert told[2] == repr(Walk())


def test_a_bank_is_a_seeded_choice_of_each_class_in_few_bytes(monkeypatch):
    dataset = Images().load()
    chosen, same, other = (bank.draw(dataset, seed) for seed in (0, 0, 1))
    assert torch.equal(chosen.images, same.images)
    assert not torch.equal(chosen.images, other.images)
    shown = {tuple(image.ravel()) for image in dataset.train.images}
    assert all(tuple(image.numpy().ravel()) in shown for image in chosen.images)
    counts = np.bincount(dataset.train.labels)
    assert torch.bincount(chosen.labels).tolist() == counts.tolist()
    monkeypatch.setattr(bank, "MOST_BYTES", 24)
    few = bank.draw(dataset, 0)
    assert few.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert few.per_class == 3
    monkeypatch.setattr(bank, "MOST_BYTES", 1)
    assert bank.draw(dataset, 0).labels.tolist() == [0, 1]
