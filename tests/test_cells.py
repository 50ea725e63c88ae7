"""A cell's name depends on what decides its rows, on nothing else, and never changes by itself."""

import re
from dataclasses import fields, replace

import pytest

from benchmark.cells import Cell

CELL = Cell(
    dataset="digits",
    dataset_digest="d1",
    defense="cnn",
    defense_repr="CNN()",
    weights_digest="w1",
    attack="pgd-l2",
    attack_repr="PGD(steps=3)",
    surrogate="",
    norm="l2",
    epsilons=(0.5, 1.0),
    samples=(1, 4),
    seed=0,
    votes=3,
)
OTHER = {"epsilons": (0.5,), "samples": (1, 5), "seed": 1, "votes": 4}


@pytest.mark.parametrize("name", [field.name for field in fields(Cell)])
def test_every_field_changes_the_id(name):
    assert replace(CELL, **{name: OTHER.get(name, "other")}).id != CELL.id


def test_the_id_is_the_same_for_equal_cells_and_in_every_release():
    assert re.fullmatch("[0-9a-f]{16}", CELL.id)
    assert replace(CELL).id == CELL.id == "0719404ab5b69192"


def test_a_title_names_defense_attack_and_surrogate():
    assert replace(CELL, surrogate="classifier").title == "cnn, pgd-l2@classifier"
    assert CELL.title == "cnn, pgd-l2"
