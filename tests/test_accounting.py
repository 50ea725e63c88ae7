"""Accounting: calls per image and the accuracy they bought, from records with known breaks."""

import pytest

from benchmark import accounting, accuracy, scores
from benchmark.accuracy import Layout
from tests.synthetic_records import write_cell

COST = {"forward": 800, "backward": 400, "decoder": 80}


def read(folder, *, calls, cost=COST):
    """Ten images, eight of them right; an attack breaks four: 100 + 50 calls for each of eight."""
    metadata = {"calls": calls, "cost": cost}
    records = [
        write_cell(folder, "cnn", outcomes="c" * 8 + "w" * 2),
        write_cell(folder, "cnn", "pgd-l2", {1.5: "wwwwccccww"}, metadata=metadata),
    ]
    found = scores.read(records)
    return found, Layout(accuracy.choose_radii(found))


def test_calls_are_per_image_that_was_attacked(tmp_path):
    (account,) = accounting.accounts(*read(tmp_path, calls=[]))
    assert (account.forward, account.backward, account.decoder) == (100, 50, 10)
    assert account.attacked == 8 and account.spent == 150


def test_accuracy_falls_at_the_calls_at_which_images_were_broken(tmp_path):
    calls = [[1.5, 0, 10.0], [1.5, 1, 60.0], [1.5, 2, 80.0], [1.5, 3, 140.0]]
    (account,) = accounting.accounts(*read(tmp_path, calls=calls))
    assert [account.after(c) for c in (0, 10, 75, 150)] == [80, 70, 60, 40]
    assert account.second_half == pytest.approx(20)
    assert accounting.steps(account) == ([0, 10, 60, 80, 140, 150], [80, 70, 60, 50, 40, 40])


def test_break_that_nobody_traced_counts_at_the_end(tmp_path):
    (account,) = accounting.accounts(*read(tmp_path, calls=[[1.5, 0, 10.0]]))
    assert account.after(149.9) == 70 and account.after(150) == 40


def test_trace_of_a_sample_that_the_judge_did_not_find_broken_counts_nothing(tmp_path):
    (account,) = accounting.accounts(*read(tmp_path, calls=[[1.5, 7, 10.0]]))
    assert account.after(100) == 80


def test_table_names_calls_and_both_accuracies(tmp_path):
    found, layout = read(tmp_path, calls=[[1.5, 0, 10.0]])
    sheet = accounting.calls_sheet(found, layout, "calls")
    (entry,) = sheet.lines[-1].entries
    assert entry.text == "100 + 50 + 10" and entry.detail == "70 → 40"


def test_old_records_have_no_account(tmp_path):
    records = [
        write_cell(tmp_path, "cnn", outcomes="c" * 10),
        write_cell(tmp_path, "cnn", "pgd-l2", {1.5: "w" * 10}),
    ]
    found = scores.read(records)
    layout = Layout(accuracy.choose_radii(found))
    assert list(accounting.accounts(found, layout)) == []
    assert accounting.calls_sheet(found, layout, "calls").columns == ()
    assert accounting.write(found, layout, tmp_path, "stem", "title") == []


def test_figure_and_table_are_written(tmp_path):
    written = accounting.write(*read(tmp_path, calls=[[1.5, 0, 10.0]]), tmp_path, "stem", "title")
    assert [path.name for path in written] == [
        "stem-calls.csv",
        "stem-calls-l2.png",
        "stem-calls-l2.svg",
    ]
    assert "accuracy_at_half" in written[0].read_text().splitlines()[0]
