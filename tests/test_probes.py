"""Probes: what is written is what is read."""

from pathlib import Path

import pytest

from benchmark import probes
from benchmark.probes import CellProbe, DefenseProbe, Share

DEFENSE = DefenseProbe(
    defense="cnn",
    defense_repr="CNN()",
    weights_digest="ab",
    dataset_digest="cd",
    seed=0,
    stochastic=False,
    repeats=Share(0, 8),
    batches=Share(0, 8),
    orders=Share(1, 8),
    devices=Share(0, 0),
    refused=Share(0, 8),
    zero_gradients={"exact": Share(8, 8)},
)
CELL = CellProbe(
    cell="0123456789abcdef",
    epsilon=0.1,
    rounded=Share(1, 5),
    untransferred=Share(0, 5),
    unbounded=Share(0, 8),
    doubled={"steps": Share(1, 3)},
    asked=10,
    wrong={4: 10, 7: 0},
    self_test={"undefended": Share(16, 16)},
)


def test_probe_of_a_defense_survives_the_file(tmp_path: Path) -> None:
    probes.write(tmp_path, DEFENSE)
    assert probes.of_defense(tmp_path, DEFENSE.id) == DEFENSE


def test_probe_of_a_cell_survives_the_file(tmp_path: Path) -> None:
    probes.write(tmp_path, CELL)
    assert probes.of_cell(tmp_path, CELL.cell) == CELL


def test_probe_that_nobody_made_is_none(tmp_path: Path) -> None:
    assert probes.of_cell(tmp_path, CELL.cell) is None


def test_damaged_probe_is_named(tmp_path: Path) -> None:
    probes.write(tmp_path, CELL).write_text("{")
    with pytest.raises(ValueError, match=f"probe .*cell-{CELL.cell}.json must be JSON"):
        probes.of_cell(tmp_path, CELL.cell)
