"""Records come back as they were written; a damaged one is named and never overwritten."""

import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark import examples, records
from benchmark.examples import Examples
from benchmark.records import COLUMNS, Outcome
from tests.test_cells import CELL

METADATA = {**records.describe(CELL), "error": None, "wall_seconds": 1.5, "preset": "smoke"}


def rows():
    return pd.DataFrame(
        [
            {
                "dataset": "digits",
                "defense": "cnn",
                "attack": "pgd-l2",
                "surrogate": "",
                "norm": "l2",
                "epsilon": epsilon,
                "sample": sample,
                "label": 3,
                "clean_class": 3,
                "clean_rejected": False,
                "adversarial_class": 5,
                "rejected": False,
                "outcome": Outcome.WRONG,
                "wrong_vote_share": 1.0,
                "rejection_score": 0.25,
                "distance_l2": 0.1 + 0.2,
                "distance_linf": np.nan,
                "broken_by": "",
                "seed": 2**62,
                "cell": CELL.id,
            }
            for sample in (4, 1)
            for epsilon in (1.0, 0.5)
        ]
    )


@pytest.fixture
def record(tmp_path):
    path = records.record_path(tmp_path, CELL)
    records.write(path, rows(), METADATA)
    return path


def test_a_record_comes_back_as_it_was_written_sorted_by_epsilon_then_sample(record):
    frame = records.read([record])
    expected = rows().sort_values(["epsilon", "sample"], ignore_index=True).astype(COLUMNS)
    pd.testing.assert_frame_equal(frame, expected)
    assert list(frame.columns) == list(COLUMNS)


def test_provenance_and_cell_come_back_exactly(record):
    assert records.provenance(record) == METADATA
    assert records.cell_of(records.provenance(record)) == CELL


def test_a_record_lies_under_its_data_set_and_is_called_like_its_cell(tmp_path):
    path = records.record_path(tmp_path, CELL)
    assert path == tmp_path / "digits" / "records" / f"{CELL.id}.parquet"


def test_several_records_are_read_in_the_given_order(tmp_path, record):
    none = tmp_path / "digits" / "records" / "parts" / CELL.id / "000000.parquet"
    records.write(none, records.no_rows(), METADATA)
    frame = records.read([none, record, record])
    assert len(frame) == 8
    assert dict(frame.dtypes) == dict(records.read([record]).dtypes)
    assert dict(records.read([none]).dtypes) == dict(frame.dtypes)


def _without(path, column):
    """The file as it was before it had a column."""
    table = pq.read_table(path)
    pq.write_table(table.drop_columns([column]), path, write_page_checksum=True)


def test_a_record_from_before_rejection_scores_reads_with_none(record):
    _without(record, "rejection_score")
    frame = records.read([record])
    assert frame["rejection_score"].isna().all()
    expected = rows().sort_values(["epsilon", "sample"], ignore_index=True).astype(COLUMNS)
    pd.testing.assert_frame_equal(
        frame.drop(columns="rejection_score"), expected.drop(columns="rejection_score")
    )


def test_a_record_without_any_other_column_is_damaged(record):
    _without(record, "outcome")
    with pytest.raises(OSError, match="is damaged or not ours"):
        records.read([record])


@pytest.mark.parametrize("column", ["rejection_score", "outcome"])
def test_a_record_with_a_damaged_column_name_is_not_taken_for_an_older_one(record, column):
    table = pq.read_table(record)
    names = [f"{name}~" if name == column else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), record, write_page_checksum=True)
    with pytest.raises(OSError, match="is damaged or not ours"):
        records.read([record])


def test_a_record_that_lost_its_rows_is_not_taken_for_a_cell_that_does_not_apply(record):
    table = pq.read_table(record)
    pq.write_table(table.slice(0, 0), record, write_page_checksum=True)
    with pytest.raises(OSError, match="is damaged or not ours"):
        records.read([record])


def test_scores_are_rounded_to_significant_digits():
    scores = np.array([123456.7, 1.0000049, 0.000123456, 0.0, np.inf, np.nan])
    expected = [123460.0, 1.0, 0.00012346, 0.0, np.inf, np.nan]
    np.testing.assert_allclose(records.rounded(scores), expected, rtol=1e-12)


def test_a_missing_record_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"record .*nowhere.parquet is missing; run the"):
        records.read([tmp_path / "nowhere.parquet"])


def test_a_record_under_another_cells_name_is_not_ours(record):
    other = record.with_name("0123456789abcdef.parquet")
    record.rename(other)
    with pytest.raises(OSError, match="is damaged or not ours"):
        records.read([other])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, position, bit):
    path = records.record_path(tmp_path, CELL)
    records.write(path, rows(), METADATA)
    frame, metadata = records.load(path)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        found, told = records.load(path)
    except OSError as error:
        assert re.search(r"is damaged or not ours; nothing was overwritten", str(error))
    else:
        pd.testing.assert_frame_equal(found, frame)
        assert told == metadata


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_cut_off_record_is_damaged(record, length):
    record.write_bytes(record.read_bytes()[:length])
    with pytest.raises(OSError, match="is damaged or not ours"):
        records.load(record)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 1, 2, 2), dtype=np.uint8)


@pytest.fixture
def block(images, monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    samples = np.array(CELL.samples)
    clean = images[samples].astype(np.float32) / np.float32(255)
    points = np.stack([clean, clean])
    points[1, 0] = 0.25
    points[:, 1] = 0.75
    return Examples(samples, clean, points)


def test_judged_points_come_back_exactly(block, images):
    examples.store(examples.examples_folder(CELL), 0, block)
    (found,) = examples.blocks(CELL, images)
    assert np.array_equal(found.samples, block.samples)
    assert np.array_equal(found.images, block.images)
    assert np.array_equal(found.points, block.points)


def test_points_that_repeat_or_are_the_image_take_no_room(block):
    examples.store(examples.examples_folder(CELL), 0, block)
    (path,) = examples.examples_folder(CELL).iterdir()
    assert examples.read_file(path)["points"].shape == (2, 1, 2, 2)


def test_missing_points_are_named_with_the_remedy(block, images):
    with pytest.raises(FileNotFoundError, match=r"adversarial examples of cnn, pgd-l2 are missing"):
        list(examples.blocks(CELL, images))


def test_damaged_points_are_named(block, images):
    examples.store(examples.examples_folder(CELL), 0, block)
    (path,) = examples.examples_folder(CELL).iterdir()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(OSError, match=r"adversarial examples .*000000.safetensors are damaged"):
        list(examples.blocks(CELL, images))
