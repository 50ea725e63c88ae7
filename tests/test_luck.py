"""What fresh seeds change: records and probes with chosen shares of wrong answers."""

import numpy as np
import pandas as pd
import pytest

from benchmark import accuracy, luck, probes, scores, tables
from benchmark.accuracy import Layout, Row
from benchmark.probes import CellProbe, Share
from benchmark.published import ALL
from tests.synthetic_records import write_cell

ALL_L2 = Row("All L2", ALL, "l2", 1.5)
NONE = Share(0, 0)


@pytest.fixture
def cells(tmp_path):
    """A stochastic and a deterministic defense on five samples under two attacks."""
    return [
        write_cell(tmp_path, "noisy", "clean", "ccccc"),
        write_cell(
            tmp_path, "noisy", "pgd-l2", {1.5: "ccwcc"}, shares={1.5: [0, 1 / 3, 2 / 3, 0, 0]}
        ),
        write_cell(tmp_path, "noisy", "ddn", {1.5: "ccwwc"}, shares={1.5: [0, 0, 1, 1, 1 / 3]}),
        write_cell(tmp_path, "plain", "clean", "ccccc"),
        write_cell(tmp_path, "plain", "pgd-l2", {1.5: "ccwcw"}),
        write_cell(tmp_path, "plain", "ddn", {1.5: "ccccw"}),
    ]


def _probe(cells, place, wrong, asked=10, epsilon=1.5):
    path = cells[place]
    probe = CellProbe(
        cell=path.stem,
        epsilon=epsilon,
        rounded=NONE,
        untransferred=NONE,
        unbounded=NONE,
        asked=asked,
        wrong=dict(enumerate(wrong)),
    )
    probes.write(path.parent, probe)


def test_cases_by_hand_from_the_votes(cells):
    found = luck.luck(scores.read(cells), ALL_L2, "noisy", {})
    assert found.success.tolist() == pytest.approx([0, 1 / 3, 1, 1, 1 / 3])
    assert found.mean_case == pytest.approx(1 + 2 / 3 + 2 / 3)
    assert found.worst_case == 1
    assert found.majority.correct == 3
    assert found.histogram == (1, 2, 0, 2)
    assert (found.asked, found.sources) == ((3, 3), (luck.VOTES,))


def test_fresh_seeds_take_the_place_of_votes_where_they_were_asked(cells):
    _probe(cells, 1, [0, 5, 6, 1, 0])
    found = luck.luck(scores.read(cells), ALL_L2, "noisy", luck.read(cells))
    assert found.success.tolist() == pytest.approx([0, 0.5, 1, 1, 1 / 3])
    assert found.histogram == (1, 1, 1, 2)
    assert (found.asked, found.sources) == ((3, 10), (luck.SEEDS, luck.VOTES))


def test_fresh_seeds_count_at_their_own_radius_only(cells):
    _probe(cells, 1, [10] * 5, epsilon=0.75)
    found = luck.luck(scores.read(cells), ALL_L2, "noisy", luck.read(cells))
    assert (found.worst_case, found.sources) == (1, (luck.VOTES,))


def test_samples_that_were_not_probed_keep_their_votes(cells):
    _probe(cells, 1, [2])
    found = luck.luck(scores.read(cells), ALL_L2, "noisy", luck.read(cells))
    assert found.success.tolist() == pytest.approx([0.2, 1 / 3, 1, 1, 1 / 3])


def test_the_mean_case_is_the_expectation_of_a_single_try(tmp_path):
    rng = np.random.default_rng(0)
    chance = rng.random(400)
    votes = 20_000
    shares = (rng.binomial(votes, chance) / votes).tolist()
    outcomes = "".join("w" if share >= 0.5 else "c" for share in shares)
    cells = [
        write_cell(tmp_path, "noisy", "clean", "c" * 400, votes=votes),
        write_cell(tmp_path, "noisy", "ddn", {1.5: outcomes}, shares={1.5: shares}, votes=votes),
    ]
    found = luck.luck(scores.read(cells), ALL_L2, "noisy", {})
    tries = np.array([(rng.random(400) >= chance).sum() for _ in range(2000)])
    assert found.mean_case == pytest.approx(tries.mean(), abs=5 * tries.std() / 2000**0.5 + 0.5)
    assert found.worst_case <= found.majority.correct


def test_only_defenses_whose_answers_differ_have_a_column(cells, tmp_path):
    read = scores.read(cells)
    assert luck.stochastic(read, {}) == ("noisy",)
    assert luck.stochastic(scores.read(cells[3:]), {}) == ()
    _probe(cells, 4, [0] * 5)
    assert luck.stochastic(read, luck.read(cells)) == ("noisy", "plain")


def test_a_probe_that_asked_once_says_nothing_of_luck(cells):
    _probe(cells, 4, [0] * 5, asked=1)
    assert luck.read(cells) == {}


def test_a_row_without_a_number_has_none_here_either(cells):
    without = scores.read([cells[0], cells[1], *cells[3:]])
    assert luck.luck(without, ALL_L2, "noisy", {}) is None
    found = scores.read([cells[0], cells[1], *cells[3:]])
    sheet = luck.luck_sheet(found, Layout(accuracy.choose_radii(found)), "T", {})
    rows = [line.entries[0].text for line in sheet.lines if line.label == "mean case"]
    assert rows == ["100.0", "—"]


def test_the_tables_have_a_section_and_a_file_where_something_is_stochastic(cells, tmp_path):
    _probe(cells, 1, [0, 5, 6, 1, 0])
    written = {p.name: p for p in tables.write(cells, tmp_path / "out", "stem", "A title")}
    text = written["stem.md"].read_text()
    section = text.split("## Stochastic defenses: worst and mean case")[1].split("\n## ")[0]
    assert "| 3 to 10 fresh seeds and votes" in section
    assert "1 / 1 / 1 / 2" in section
    frame = pd.read_csv(written["stem-seeds.csv"])
    assert frame["defense"].unique().tolist() == ["noisy"]
    attacked = frame[frame["attack"] == "all"].iloc[0]
    assert attacked[["never", "seldom", "often", "always"]].tolist() == [1, 1, 1, 2]
    assert attacked["mean"] == pytest.approx(100 * (1 + 0.5 + 2 / 3) / 5, abs=1e-3)
    assert attacked["mean_low"] < attacked["mean"] < attacked["mean_high"]
    assert attacked["worst"] <= attacked["majority"]


def test_the_tables_of_deterministic_defenses_say_nothing_of_seeds(cells, tmp_path):
    written = {p.name: p for p in tables.write(cells[3:], tmp_path / "out", "stem", "A title")}
    assert "stem-seeds.csv" not in written
    assert "Stochastic" not in written["stem.md"].read_text()
