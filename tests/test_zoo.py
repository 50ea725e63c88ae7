"""The weights that ship with the package."""

import hashlib
import json
from pathlib import Path

import pytest

import defenses
from benchmark.catalog import recipe_for
from benchmark.presets import PRESETS

ZOO = Path(defenses.__file__).parent / "zoo"
CARDS = sorted(ZOO.glob("*/*.json"))
MEGABYTE = 1_000_000


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_shipped_weights_are_what_their_card_says_and_what_the_registry_would_train(
    path: Path,
) -> None:
    card = json.loads(path.read_text())
    data = path.with_suffix(".safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == card["digest"]
    recipe = recipe_for(card["defense"], PRESETS[card["preset"]], card["dataset"])
    assert card["recipe"] == recipe.training()
    assert card["dataset_caveat"] == ""
    assert path.name.startswith(f"{card['defense']}-{card['preset']}-")
    assert len(data) <= 2 * MEGABYTE


def test_the_zoo_stays_small() -> None:
    assert CARDS
    assert sum(file.stat().st_size for file in ZOO.rglob("*")) <= 20 * MEGABYTE
