"""Faults while a sweep runs: a kill, a full disk, damaged or unwritable files."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmark import records, run, runner, storage
from benchmark.progress import Progress
from benchmark.runner import Plan
from tests.fakes import TINY, Die, Walk, shelf

ROOT = Path(__file__).parents[1]
PLAN = Plan(dataset="images", defenses=("noisy",), attacks=("logged", "walk-linf"), preset=TINY)
COMMAND = [
    *("--dataset", "digits", "--preset", "smoke", "--samples", "48", "--jobs", "1"),
    *("--defense", "cnn", "--attack", "pgd-l2[steps=100],ddn,noise-l2,pgd-linf"),
    *("--epsilons", "0.2,0.4"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def sweep(folder, log):
    with Progress(silent=True) as progress:
        return runner.sweep(
            PLAN, results=folder, jobs=1, progress=progress, shelf=shelf(logged=Walk(log=log))
        )


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*.parquet")}


def test_a_killed_sweep_goes_on_and_writes_the_same_tables(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run.main([*COMMAND, "--results", str(whole)]) == 0

    folder = cut / "digits" / "records"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark.run", *COMMAND, "--results", str(cut)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(folder.glob("*.parquet"))) >= 2 and list(folder.glob("parts/*/*.parquet")):
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert 2 <= len(finished) < 5

    assert run.main([*COMMAND, "--results", str(cut)]) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(folder.glob("*.parquet"))) == 5
    tables = sorted((whole / "digits").glob("*.csv"))
    assert tables
    for table in tables:
        assert (cut / "digits" / table.name).read_bytes() == table.read_bytes()


class FullDisk:
    """A disk that takes some files more; each file is synced twice, itself and its folder."""

    def __init__(self, files):
        self.left = 2 * files
        self.sync = os.fsync

    def __call__(self, descriptor):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.sync(descriptor)


@pytest.mark.parametrize("files", [0, 1, 3, 4, 8, 10, 15])
def test_a_full_disk_stops_with_a_sentence_and_loses_nothing_that_was_finished(
    tmp_path, log, files, monkeypatch
):
    results = tmp_path / "results"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(files))
        with pytest.raises(
            OSError, match=r"could not be written .no space left on device."
        ) as caught:
            sweep(results, log)
    assert caught.value.errno == errno.ENOSPC
    assert "everything finished before it is kept" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    kept = contents(results)
    assert not list(results.rglob("*.tmp"))

    calls = len(list(log.iterdir()))
    paths = sweep(results, log)
    unfinished = 1
    assert 3 <= len(list(log.iterdir())) <= 3 + unfinished
    assert len(list(log.iterdir())) - calls <= 3
    assert all(path.read_bytes() == data for path, data in kept.items() if path.exists())
    reference = sweep(tmp_path / "reference", log)
    pd.testing.assert_frame_equal(records.read(paths), records.read(reference))


def test_blocks_that_were_finished_before_a_fault_are_not_computed_again(
    tmp_path, log, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(9))
        with pytest.raises(OSError, match="no space left"):
            sweep(tmp_path / "results", log)
    computed, kept, blocks = 3, 2, 3
    assert len(list(log.iterdir())) == computed
    sweep(tmp_path / "results", log)
    assert len(list(log.iterdir())) == computed + blocks - kept


def test_a_changed_block_size_goes_on_from_the_blocks_of_the_old_one(tmp_path, log, monkeypatch):
    results = tmp_path / "results"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(10))
        with pytest.raises(OSError, match="no space left"):
            sweep(results, log)
    plan = replace(PLAN, preset=replace(TINY, block=7))
    with Progress(silent=True) as progress:
        arguments = {"results": results, "jobs": 1, "progress": progress}
        paths = runner.sweep(plan, **arguments, shelf=shelf(logged=Walk(log=log)))
    reference = sweep(tmp_path / "reference", log)
    pd.testing.assert_frame_equal(records.read(paths), records.read(reference))


def test_a_full_disk_in_a_worker_process_reaches_the_user_as_the_same_sentence(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with (
        Progress(silent=True) as progress,
        pytest.raises(OSError, match=r"could not be written .*run the same command again"),
    ):
        runner.sweep(
            replace(PLAN, attacks=("walk",)),
            results=tmp_path / "results",
            jobs=2,
            progress=progress,
            shelf=shelf(),
        )


def test_a_worker_that_dies_is_a_sentence_and_finished_cells_stay(tmp_path):
    with (
        Progress(silent=True) as progress,
        pytest.raises(OSError, match=r"a worker process died, .* with fewer --jobs"),
    ):
        runner.sweep(
            replace(PLAN, attacks=("die",)),
            results=tmp_path,
            jobs=2,
            progress=progress,
            shelf=shelf(die=Die()),
        )
    assert len(list((tmp_path / "images" / "records").glob("*.parquet"))) == 1


def test_a_file_is_whole_or_absent_whatever_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.keep(path, b"old")
    monkeypatch.setattr(os, "fsync", FullDisk(0))
    with pytest.raises(OSError, match="file could not be written"):
        storage.keep(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("part", [False, True], ids=["record", "part"])
def test_a_damaged_record_or_part_is_named_and_nothing_is_overwritten(
    tmp_path, log, part, monkeypatch
):
    results = tmp_path / "results"
    if part:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", FullDisk(9))
            with pytest.raises(OSError, match="no space left"):
                sweep(results, log)
        damaged = next((results / "images" / "records" / "parts").glob("*/*.parquet"))
    else:
        damaged = sweep(results, log)[1]
    damaged.write_bytes(damaged.read_bytes()[:-40])
    before = contents(results)
    with pytest.raises(OSError, match=f"{damaged.name} is damaged or not ours; .* delete it"):
        sweep(results, log)
    assert contents(results) == before
    damaged.unlink()
    paths = sweep(results, log)
    reference = sweep(tmp_path / "reference", log)
    pd.testing.assert_frame_equal(records.read(paths), records.read(reference))


def test_a_results_folder_that_cannot_be_made_is_noticed_before_any_work(tmp_path, log):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"could not be written .not a directory."):
        sweep(tmp_path / "file" / "results", log)
    assert not list(log.iterdir())


def test_parts_of_a_finished_cell_that_a_kill_left_behind_are_removed(tmp_path, log):
    results = tmp_path / "results"
    path = sweep(results, log)[1]
    parts = records.parts_folder(results, records.cell_of(records.provenance(path)))
    parts.mkdir(parents=True)
    shutil.copy(path, parts / "000000.parquet")
    sweep(results, log)
    assert not parts.exists()


def test_a_cell_whose_blocks_were_all_finished_is_only_merged(tmp_path, log):
    results = tmp_path / "results"
    path = sweep(results, log)[1]
    frame, metadata = records.load(path)
    parts = records.parts_folder(results, records.cell_of(metadata))
    records.write(parts / "000000.parquet", frame, metadata)
    path.unlink()
    calls = len(list(log.iterdir()))
    sweep(results, log)
    assert len(list(log.iterdir())) == calls
    pd.testing.assert_frame_equal(records.read([path]), frame)
