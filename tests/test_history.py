"""The losses of a training: means over stretches of updates, kept with the checkpoint."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmark import history
from benchmark.history import ROWS, UPDATE, History


def seen(past: History, updates: int, first: int = 1) -> History:
    for number in range(first, first + updates):
        past.see({"loss": torch.tensor(float(number))})
    return past


def kept(past: History, folder: Path) -> pd.DataFrame:
    past.write(folder / "weights.safetensors")
    return history.read(folder / "weights.csv")


def test_rows_are_means_over_as_many_updates_and_end_with_the_epoch(tmp_path: Path) -> None:
    past = History(epochs=100, updates=7)  # 700 updates in rows of 4, and of 3 at an epoch's end
    for first in (1, 8):
        seen(past, 7, first).close()
    frame = kept(past, tmp_path)
    assert frame[UPDATE].tolist() == [4, 7, 11, 14]
    assert frame["loss"].tolist() == [2.5, 6, 9.5, 13]


@pytest.mark.parametrize(("epochs", "updates"), [(1, 1000), (75, 540), (500, 9), (1, 3)])
def test_a_curve_is_short_and_has_a_row_per_epoch_at_least(epochs: int, updates: int) -> None:
    past = History(epochs, updates)
    for _ in range(epochs):
        seen(past, updates).close()
    rows = len(past.tensors()[UPDATE])
    assert min(epochs, epochs * updates) <= rows <= max(2 * ROWS, epochs)


def test_a_loss_that_comes_later_is_missing_before(tmp_path: Path) -> None:
    past = History(epochs=1, updates=2)
    past.see({"first": torch.tensor(1.0)})
    past.see({"first": torch.tensor(2.0), "second": torch.tensor(3.0)})
    past.close()
    frame = kept(past, tmp_path)
    assert frame["first"].tolist() == [1, 2]
    assert frame["second"].isna().tolist() == [True, False]


def test_a_recalled_curve_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, again = (History(epochs=2, updates=5) for _ in range(2))
    seen(whole, 5).close()
    again.recall(whole.tensors())
    for past in (whole, again):
        seen(past, 5, 6).close()
    pd.testing.assert_frame_equal(kept(whole, tmp_path), kept(again, tmp_path / "again"))
    assert kept(again, tmp_path)[UPDATE].tolist() == list(range(1, 11))


def test_a_missing_or_damaged_curve_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cnn\.csv are missing; delete the weights"):
        history.read(tmp_path / "cnn.csv")
    (tmp_path / "cnn.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OSError, match="must have a column 'update', got a, b"):
        history.read(tmp_path / "cnn.csv")
    (tmp_path / "cnn.csv").write_text("")
    with pytest.raises(OSError, match="must be losses as CSV"):
        history.read(tmp_path / "cnn.csv")
