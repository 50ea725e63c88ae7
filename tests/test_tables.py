"""Tables from records whose outcomes are known by construction."""

import csv
import io
import subprocess
import sys

import pytest
from rich.console import Console

from benchmark import accuracy, footer, groups, scores, sheet, significance, statistics, tables
from benchmark.accuracy import Layout
from tests.synthetic_records import letters, write_cell


@pytest.fixture
def cells(tmp_path):
    """Two defenses, two L2 attacks and one Linf attack on ten samples of MNIST."""
    return [
        write_cell(tmp_path, "cnn", "clean", letters(9, 1)),
        write_cell(tmp_path, "cnn", "pgd-linf", {0.3: letters(0, 10)}),
        write_cell(tmp_path, "cnn", "pgd-l2", {1.5: "cccccccwww"}),
        write_cell(tmp_path, "cnn", "ddn", {1.5: "wwccccccww"}),
        write_cell(tmp_path, "eabs", "clean", letters(10, 0)),
        write_cell(tmp_path, "eabs", "pgd-linf", {0.3: letters(2, 8)}),
        write_cell(tmp_path, "eabs", "pgd-l2", {1.5: letters(9, 1)}),
        write_cell(tmp_path, "eabs", "ddn", {1.5: letters(10, 0)}),
    ]


def _fields(path):
    """(defense, attack@surrogate, norm, epsilon) -> the line of a CSV table."""
    found = {}
    for line in csv.DictReader(io.StringIO(path.read_text())):
        attack = line["attack"] + (f"@{line['surrogate']}" if line["surrogate"] else "")
        found[line["defense"], attack, line["norm"], float(line["epsilon"])] = line
    return found


def _written(cells, folder, **options):
    files = tables.write(cells, folder, "stem", "A title", **options)
    return {path.name: path for path in files}


def _markdown_rows(text):
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): [field.strip() for field in row[1:]] for row in lines}


def test_a_cell_reads_accuracy_interval_and_published_number(cells, tmp_path):
    low, high = statistics.wilson(9, 10)
    row = _markdown_rows(_written(cells, tmp_path)["stem.md"].read_text())["Clean"]
    assert row[0] == f"90.0 [{100 * low:.1f}, {100 * high:.1f}] (paper 99.5)"


def test_rows_run_from_clean_over_each_norm_to_its_worst_case(cells, tmp_path):
    rows = _markdown_rows(_written(cells, tmp_path)["stem.md"].read_text())
    expected = ["Clean", "**Linf, epsilon = 0.3**", "pgd-linf", "All Linf"]
    expected += ["**L2, epsilon = 1.5**", "pgd-l2", "ddn", "All L2"]
    assert [label for label in rows if label in expected] == expected


def test_the_worst_case_is_taken_per_sample_and_not_per_attack(cells, tmp_path):
    fields = _fields(_written(cells, tmp_path)["stem.csv"])
    assert float(fields["cnn", "pgd-l2", "l2", 1.5]["accuracy"]) == 70
    assert float(fields["cnn", "ddn", "l2", 1.5]["accuracy"]) == 60
    assert float(fields["cnn", "all", "l2", 1.5]["accuracy"]) == 50


def test_every_attack_row_is_between_clean_and_all(cells, tmp_path):
    fields = _fields(_written(cells, tmp_path)["stem.csv"])
    for (defense, attack, norm, epsilon), line in fields.items():
        if attack not in ("clean", "all"):
            accuracy_ = float(line["accuracy"])
            assert accuracy_ <= float(fields[defense, "clean", "", 0.0]["accuracy"])
            assert accuracy_ >= float(fields[defense, "all", norm, epsilon]["accuracy"])


def test_the_csv_has_the_promised_columns(cells, tmp_path):
    header = _written(cells, tmp_path)["stem.csv"].read_text().splitlines()[0]
    assert header == (
        "dataset,defense,attack,surrogate,norm,epsilon,n,accuracy,low,high,published,note"
    )


def test_another_surrogate_has_a_row_of_its_own_and_counts_in_the_worst_case(cells, tmp_path):
    for defense in ("cnn", "eabs"):
        cells.append(write_cell(tmp_path, defense, "pgd-l2@classifier", {1.5: "w" * 2 + "c" * 8}))
    fields = _fields(_written(cells, tmp_path)["stem.csv"])
    assert float(fields["eabs", "pgd-l2@classifier", "l2", 1.5]["accuracy"]) == 80
    assert fields["eabs", "pgd-l2@classifier", "l2", 1.5]["published"] == ""
    assert float(fields["eabs", "all", "l2", 1.5]["accuracy"]) == 70  # samples 0, 1 and 9


@pytest.mark.parametrize(("letter", "state"), [("e", "error (2)"), ("i", "invalid (2)")])
def test_an_unresolved_sample_leaves_no_number_in_its_row_and_in_all(
    cells, tmp_path, letter, state
):
    for defense in ("cnn", "eabs"):
        outcomes = letter * 2 + "c" * 8 if defense == "cnn" else "c" * 10
        cells.append(write_cell(tmp_path, defense, "noise-l2", {1.5: outcomes}))
    files = _written(cells, tmp_path)
    rows = _markdown_rows(files["stem.md"].read_text())
    assert rows["noise-l2"][0].startswith(state) and rows["All L2"][0].startswith(state)
    assert rows["All L2"][1][0].isdigit()
    fields = _fields(files["stem.csv"])
    assert fields["cnn", "all", "l2", 1.5]["accuracy"] == ""
    assert state in fields["cnn", "all", "l2", 1.5]["note"]
    assert "cnn under All L2" in files["stem.md"].read_text()


def test_an_error_counts_even_where_another_attack_broke_the_sample(tmp_path):
    found = scores.read(
        [
            write_cell(tmp_path, "cnn", "pgd-l2", {1.5: "ww"}),
            write_cell(tmp_path, "cnn", "ddn", {1.5: "ec"}),
        ]
    )
    assert found.worst("cnn", "l2", 1.5).state == "error (1)"


def test_a_crash_without_rows_counts_as_an_error_of_every_sample(tmp_path):
    path = write_cell(
        tmp_path, "cnn", "ddn", {1.5: ""}, samples=range(4), error="Traceback\nRuntimeError: boom"
    )
    found = scores.read([write_cell(tmp_path, "cnn", "clean", "cccc"), path])
    assert found.score("cnn", "ddn", "l2", 1.5).state == "error (4)"
    assert "error in `cnn` under `ddn`: RuntimeError: boom" in footer.markdown(found)


def test_an_attack_that_does_not_apply_is_explained_and_left_out_of_all(cells, tmp_path):
    reason = "it has no class reconstructions"
    cells += [
        write_cell(
            tmp_path, "cnn", "latent-descent", {1.5: ""}, samples=range(10), not_applicable=reason
        ),
        write_cell(tmp_path, "eabs", "latent-descent", {1.5: letters(7, 3)}),
    ]
    files = _written(cells, tmp_path)
    text = files["stem.md"].read_text()
    rows = _markdown_rows(text)
    assert rows["latent-descent"][0].startswith("n/a²")
    assert f"² not applicable: {reason}" in text
    fields = _fields(files["stem.csv"])
    assert float(fields["cnn", "all", "l2", 1.5]["accuracy"]) == 50
    assert "without latent-descent" in fields["cnn", "all", "l2", 1.5]["note"]
    assert float(fields["eabs", "all", "l2", 1.5]["accuracy"]) == 70


def test_a_missing_cell_is_a_dash_and_no_worst_case_is_made_without_it(cells, tmp_path):
    cells.append(write_cell(tmp_path, "eabs", "cw-l2", {1.5: letters(9, 1)}))
    text = _written(cells, tmp_path)["stem.md"].read_text()
    rows = _markdown_rows(text)
    assert rows["cw-l2"][0].startswith("— (paper 86.8)")
    assert rows["All L2"][0].startswith("—")
    assert "no number: cw-l2 not run" in text


def test_a_caveat_about_a_published_number_becomes_a_footnote(tmp_path):
    cells = [
        write_cell(tmp_path, "abs", "clean", letters(9, 1)),
        write_cell(tmp_path, "abs", "noise-l2", {1.5: letters(9, 1)}),
    ]
    text = _written(cells, tmp_path)["stem.md"].read_text()
    assert "(paper 74.4)¹" in text
    assert "¹ e-abs, table 1: very likely swapped with the neighbouring row" in text


def test_all_over_other_attacks_than_the_papers_is_said_to_be(cells, tmp_path):
    text = _written(cells, tmp_path)["stem.md"].read_text()
    assert "the paper's All L2 is over cw, ddn, deepfool, noise, pgd" in text
    complete = [
        write_cell(tmp_path, "abs", name, {0.3: letters(3, 7)})
        for name in ("pgd-linf", "deepfool-linf", "noise-linf")
    ]
    full = _written([write_cell(tmp_path, "abs", "clean", letters(9, 1)), *complete], tmp_path)
    assert "the paper's All Linf is over" not in full["stem.md"].read_text()


def test_a_rejecting_defense_adds_a_table_in_which_rates_sum_to_one_hundred(cells, tmp_path):
    assert "stem-rejection.csv" not in _written(cells, tmp_path)
    cells += [
        write_cell(tmp_path, "gmvae", "clean", letters(7, 1, 2)),
        write_cell(tmp_path, "gmvae", "pgd-linf", {0.3: letters(3, 2, 5)}),
        write_cell(tmp_path, "gmvae", "pgd-l2", {1.5: letters(5, 0, 5)}),
        write_cell(tmp_path, "gmvae", "ddn", {1.5: letters(4, 3, 3)}),
    ]
    files = _written(cells, tmp_path)
    line = _fields(files["stem-rejection.csv"])["gmvae", "clean", "", 0.0]
    assert [float(line[k]) for k in ("accuracy", "error", "rejection")] == [70.0, 10.0, 20.0]
    assert "70.0 / 10.0 / 20.0" in files["stem.md"].read_text()
    # Worst case over pgd-l2 (ccccc rrrrr) and ddn (cccc www rrr): wrong beats rejected.
    line = _fields(files["stem-rejection.csv"])["gmvae", "all", "l2", 1.5]
    assert [float(line[k]) for k in ("accuracy", "error", "rejection")] == [40.0, 30.0, 30.0]


def test_mcnemar_compares_the_worst_cases_pair_by_pair(cells, tmp_path):
    files = _written(cells, tmp_path)
    lines = list(csv.DictReader(io.StringIO(files["stem-mcnemar.csv"].read_text())))
    linf, l2 = lines
    assert (l2["first_only"], l2["second_only"]) == ("0", "4")
    assert float(l2["p_value"]) == statistics.exact(0, 4)
    assert (linf["first_only"], linf["second_only"]) == ("0", "2")
    adjusted = statistics.holm([float(linf["p_value"]), float(l2["p_value"])])
    assert [float(linf["p_holm"]), float(l2["p_holm"])] == adjusted


def test_only_differences_that_survive_holm_are_marked(tmp_path):
    cells = []
    # Nine one-sided pairs give p = 0.0039; over six pairs Holm needs 0.0017 for the smallest.
    for defense, correct in (("a", 40), ("b", 40), ("c", 31), ("d", 0)):
        cells.append(write_cell(tmp_path, defense, "clean", letters(40, 0)))
        cells.append(write_cell(tmp_path, defense, "pgd-l2", {1.5: letters(correct, 40 - correct)}))
    found = scores.read(cells)
    layout = Layout(accuracy.choose_radii(found))
    (verdict,) = significance.verdicts(found, layout)
    rows = _markdown_rows(sheet.markdown(significance.matrix(verdict)))
    assert rows["b"][0] == "1.000"
    assert rows["c"][0] == "0.004"
    assert rows["d"] == ["< 0.001 *"] * 3


def test_the_explanation_names_cochrans_q_and_the_smallest_difference(tmp_path):
    cells = []
    for defense, correct in (("a", 90), ("b", 40)):
        cells.append(write_cell(tmp_path, defense, "clean", letters(100, 0)))
        outcomes = letters(correct, 100 - correct)
        cells.append(write_cell(tmp_path, defense, "pgd-l2", {1.5: outcomes}))
    text = _written(cells, tmp_path)["stem.md"].read_text()
    assert "n = 100 cannot tell apart differences below 8.0 points" in text
    assert "Cochran's Q over all defenses: All L2 at 1.5: Q = 50.0, p < 0.001." in text


def test_different_weights_of_one_defense_are_different_columns(cells, tmp_path):
    other = {"weights_digest": "f" * 40}
    cells += [
        write_cell(tmp_path, "eabs", "clean", letters(5, 5), **other),
        write_cell(tmp_path, "eabs", "pgd-linf", {0.3: letters(1, 9)}, **other),
        write_cell(tmp_path, "eabs", "pgd-l2", {1.5: letters(1, 9)}, **other),
        write_cell(tmp_path, "eabs", "ddn", {1.5: letters(1, 9)}, **other),
    ]
    found = scores.read(cells)
    assert found.defenses[0] == "cnn"
    assert len(found.defenses) == 3
    assert all(key.startswith("eabs (") for key in found.defenses[1:])
    files = _written(cells, tmp_path)
    first, second = found.defenses[1:]
    fields = _fields(files["stem.csv"])
    assert float(fields[first, "clean", "", 0.0]["accuracy"]) == 100
    assert float(fields[second, "clean", "", 0.0]["accuracy"]) == 50
    assert fields[second, "clean", "", 0.0]["published"] == "99.4"


def test_different_budgets_of_one_attack_are_different_rows(tmp_path):
    found = scores.read(
        [
            write_cell(tmp_path, "cnn", "ddn", {1.5: "cc"}, attack_repr="DDN(steps=1)"),
            write_cell(tmp_path, "cnn", "ddn", {1.5: "cw"}, attack_repr="DDN(steps=9)"),
        ]
    )
    weak, strong = found.attacks["l2"]
    assert found.score("cnn", weak, "l2", 1.5).accuracy == 100
    assert found.score("cnn", strong, "l2", 1.5).accuracy == 50
    assert scores.split_key(weak)[:2] == ("ddn", "")


def test_two_sweeps_of_one_attack_meet_in_the_worst_case(tmp_path):
    found = scores.read(
        [
            write_cell(tmp_path, "cnn", "ddn", {1.5: "ccw"}),
            write_cell(tmp_path, "cnn", "ddn", {1.0: "ccc", 1.5: "wcc"}),
        ]
    )
    assert found.score("cnn", "ddn", "l2", 1.5).correct == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"dataset": "digits"}, {"votes": 10}])
def test_records_of_different_runs_are_refused_in_one_table(cells, tmp_path, change):
    cells.append(write_cell(tmp_path, "abs", "clean", letters(9, 1), **change))
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must be the same in all records of one table"):
        tables.write(cells, tmp_path, "stem", "A title")


def test_records_of_different_samples_are_refused_in_one_table(cells, tmp_path):
    cells.append(write_cell(tmp_path, "abs", "clean", letters(9, 1), samples=range(1, 11)))
    with pytest.raises(ValueError, match=r"samples must be the same .* got 2 different sets"):
        tables.write(cells, tmp_path, "stem", "A title")


def test_no_records_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError, match="records must hold at least one cell"):
        tables.write([], tmp_path, "stem", "A title")


def test_csv_tables_know_neither_times_nor_places(cells, tmp_path):
    first = _written(cells, tmp_path / "a")
    slower = {"wall_seconds": 9999.0, "commit": "fedcba", "device": "other", "command": "other"}
    again = [
        write_cell(tmp_path / "slow", "cnn", "clean", letters(9, 1), metadata=slower),
        *cells[1:],
    ]
    second = _written(again, tmp_path / "b")
    for name, path in first.items():
        if name.endswith((".csv", ".tex", ".svg", ".png")):
            assert path.read_bytes() == second[name].read_bytes()
    assert first["stem.md"].read_text() != second["stem.md"].read_text()


def test_the_markdown_says_how_the_numbers_were_made(cells, tmp_path):
    text = _written(cells, tmp_path)["stem.md"].read_text()
    for fact in (
        "Preset quick, 10 samples, seed 0, 3 votes",
        "python 3.12.1, torch 2.13.0",
        "Computing time 8 min 12 s",
        "Commit 0123456",
        "device CPU",
        "`pgd-l2`: `Attack(name='pgd-l2')`",
        "`EABS(epochs=1)`",
    ):
        assert fact in text


def test_what_is_wrong_with_the_data_stands_right_below_the_title(tmp_path):
    caveat = {"dataset_caveat": "first 1000 images only"}
    path = write_cell(tmp_path, "cnn", "clean", letters(9, 1), metadata=caveat)
    files = _written([path], tmp_path)
    assert files["stem.md"].read_text().startswith("# A title\n\n**first 1000 images only**\n")
    assert "first 1000 images only" in files["stem.tex"].read_text()


def test_latex_is_a_booktabs_table_with_every_special_character_escaped():
    line = sheet.Line("a_b & 100%", (sheet.Entry("x_1", marks=(1,)),))
    text = sheet.latex(sheet.Sheet("50% of $x", ("adv_l2",), (line,), ("c#1 {d} ~ ^ \\",)), "t")
    assert r"\toprule" in text and r"\bottomrule" in text
    assert r"a\_b \& 100\% & x\_1\textsuperscript{1} \\" in text
    assert r"\caption{50\% of \$x.}" in text
    assert r"c\#1 \{d\} \textasciitilde{} \textasciicircum{} \textbackslash{}" in text


def test_markdown_escapes_the_character_that_ends_a_field():
    line = sheet.Line("a|b", (sheet.Entry("c"),))
    assert r"a\|b" in sheet.markdown(sheet.Sheet("t", ("d",), (line,)))


def test_a_sweep_shows_the_papers_radius_in_the_table(tmp_path):
    radii = {0.1: "cc", 0.2: "cc", 0.3: "cw", 0.4: "ww"}
    found = scores.read([write_cell(tmp_path, "cnn", "pgd-linf", radii)])
    assert accuracy.choose_radii(found) == {"linf": (0.3,)}
    assert accuracy.choose_radii(found, {"linf": (0.1, 0.2)}) == {"linf": (0.1, 0.2)}
    with pytest.raises(ValueError, match=r"epsilon of linf must be one of 0.1, .*, got 0.5"):
        accuracy.choose_radii(found, {"linf": (0.5,)})


def test_a_sweep_without_a_papers_radius_shows_the_middle_one(tmp_path):
    radii = {e / 10: "cc" for e in range(1, 6)}
    found = scores.read([write_cell(tmp_path, "cnn", "pgd-linf", radii, dataset="digits")])
    assert accuracy.choose_radii(found) == {"linf": (0.3,)}


@pytest.mark.parametrize(
    ("epsilon", "text"), [(0.3, "0.3"), (8 / 255, "8/255"), (1.5, "1.5"), (0.2, "0.2"), (2, "2")]
)
def test_radii_read_as_papers_print_them(epsilon, text):
    assert accuracy.radius_text(epsilon) == text


def test_the_terminal_shows_every_row_in_eighty_columns(cells):
    out = io.StringIO()
    tables.show(cells, "A title", console=Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for expected in (
        "A title",
        "Clean",
        "pgd-linf",
        "All L2",
        "paper 99.5",
        "McNemar",
        "Preset quick",
    ):
        assert expected in text


def test_the_command_line_makes_one_table_per_preset(cells, tmp_path, capsys):
    for defense in ("cnn", "eabs"):
        write_cell(tmp_path, defense, "clean", letters(1, 1), metadata={"preset": "smoke"})
    assert tables.main(["--dataset", "mnist", "--results", str(tmp_path)]) == 0
    written = {path.name for path in (tmp_path / "mnist").glob("*.md")}
    assert written == {"accuracy-quick.md", "accuracy-smoke.md"}
    assert "Robust accuracy on mnist, preset quick" in capsys.readouterr().out


def test_groups_of_one_preset_are_told_apart_by_what_differs(tmp_path):
    write_cell(tmp_path, "cnn", "clean", letters(5, 5))
    write_cell(tmp_path, "cnn", "clean", letters(5, 5), seed=3)
    found = groups.find(tmp_path / "mnist" / "records")
    assert [group.stem for group in found.groups] == ["quick-seed0", "quick-seed3"]
    write_cell(tmp_path, "cnn", "clean", letters(5, 0), seed=3)
    stems = [group.stem for group in groups.find(tmp_path / "mnist" / "records").groups]
    assert len(set(stems)) == 3


def test_groups_order_columns_and_rows_as_the_papers_do(tmp_path):
    for defense in ("zebra", "eabs", "cnn"):
        for attack in ("noise-l2", "pgd-l2"):
            write_cell(tmp_path, defense, attack, {1.5: "cc"})
        write_cell(tmp_path, defense, "clean", "cc")
    (group,) = groups.find(tmp_path / "mnist" / "records").groups
    found = scores.read(group.records)
    assert found.defenses == ("cnn", "eabs", "zebra")
    assert found.attacks["l2"] == ("pgd-l2", "noise-l2")


def test_attacks_with_fields_of_their_own_are_left_out_unless_named(tmp_path):
    write_cell(tmp_path, "cnn", "clean", "cc")
    write_cell(tmp_path, "cnn", "pgd-l2[steps=5]", {1.5: "cc"})
    folder = tmp_path / "mnist" / "records"
    assert groups.find(folder).left_out == ("pgd-l2[steps=5]",)
    named = groups.find(folder, attacks=groups.names("pgd-l2[steps=5]"))
    assert named.left_out == ()
    assert len(named.groups[0].records) == 2


def test_names_are_split_at_commas_outside_brackets():
    assert groups.names("pgd-l2[steps=5,eot=2], ddn") == ("pgd-l2[steps=5,eot=2]", "ddn")
    assert groups.names("") == ()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "svhn"], "are missing; run python -m benchmark.run first"),
        (["--dataset", "mnist", "--preset", "papr"], "no records of preset 'papr'; there are"),
        (["--dataset", "mnist", "--defense", "eab"], "no records of defense 'eab'; there are"),
    ],
)
def test_the_command_line_explains_what_it_lacks(cells, tmp_path, capsys, arguments, sentence):
    assert tables.main([*arguments, "--results", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_damaged_record_is_named(cells, tmp_path, capsys):
    cells[0].write_bytes(cells[0].read_bytes()[:-7])
    assert tables.main(["--dataset", "mnist", "--results", str(tmp_path)]) == 2
    assert cells[0].name in capsys.readouterr().err


def test_reading_records_never_loads_torch():
    modules = "statistics, published, scores, accuracy, significance, tables, curves, grids"
    code = f"import sys; from benchmark import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_group_without_an_attack_that_is_asked_for_is_left_out(tmp_path):
    write_cell(tmp_path, "cnn", outcomes="c" * 10)
    write_cell(tmp_path, "cnn", "pgd-l2", {1.5: "w" * 10})
    write_cell(tmp_path, "cnn", outcomes="c" * 5)
    write_cell(tmp_path, "cnn", "ddn", {1.5: "w" * 5})
    folder = tmp_path / "mnist" / "records"
    assert len(groups.find(folder).groups) == 2
    (one,) = groups.find(folder, attacks=("pgd-l2",)).groups
    assert one.stem == "quick" and len(one.records) == 2
