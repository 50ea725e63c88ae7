"""Rules on records and probes whose outcomes are known by construction."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from benchmark import accuracy, diagnose, diagnostics, probes, records, scores, tables
from benchmark.accuracy import Layout
from benchmark.diagnostics import RULES, Finding, Severity
from benchmark.diagnostics.evidence import KINDS, Kind, kind
from benchmark.probes import MASKED, UNDEFENDED, CellProbe, DefenseProbe, Share
from benchmark.statistics import wilson
from tests.synthetic_records import letters, write_cell

NONE = Share(0, 0)
FINE = Share(0, 8)


def probe_of_defense(cell: Path, **changes: Any) -> None:
    """Keep the probe of a record's defense, in order but for the changes."""
    found = records.cell_of(records.provenance(cell))
    names = ("defense", "defense_repr", "weights_digest", "dataset_digest", "seed")
    asked = {name: getattr(found, name) for name in names}
    answers = dict.fromkeys(("repeats", "batches", "orders", "devices", "refused"), FINE)
    probe = DefenseProbe(**{**asked, "stochastic": False, **answers, **changes})
    probes.write(cell.parent, probe)


def probe_of_cell(cell: Path, **changes: Any) -> None:
    """Keep the probe of a record's cell, in order but for the changes."""
    found = records.cell_of(records.provenance(cell))
    shares = dict.fromkeys(("rounded", "untransferred", "unbounded"), FINE)
    values = {"cell": found.id, "epsilon": found.epsilons[0], **shares, **changes}
    probes.write(cell.parent, CellProbe(**values))


def diagnosed(*cells: Path) -> diagnostics.Diagnosis:
    found = scores.read(cells)
    layout = Layout(accuracy.choose_radii(found))
    return diagnostics.examine(found, layout, diagnostics.gather(found, cells[0].parent))


def named(name: str, *cells: Path) -> tuple[Finding, ...]:
    assert name in RULES
    return tuple(finding for finding in diagnosed(*cells).findings if finding.name == name)


def linf(folder: Path, defense: str = "cnn", **outcomes: str) -> list[Path]:
    """Clean and Linf cells at 0.3; underscores are hyphens, double ones an at sign."""
    return [
        write_cell(
            folder,
            defense,
            attack.replace("__", "@").replace("_", "-"),
            text if attack == "clean" else {0.3: text},
            **({} if attack == "clean" else {"norm": "linf"}),
        )
        for attack, text in outcomes.items()
    ]


@pytest.mark.parametrize(
    ("single", "iterative", "fires"),
    [
        ("wwwwcccccc", "cccccccccc", True),
        ("wwwccccccc", "cccccccccc", True),
        ("wwcccccccc", "cccccccccc", False),  # luck
        ("wwwccccccc", "cccwwwcccc", False),  # as many the other way
        ("wwwwcccccc", "ccccwwwccc", True),
        ("wwwwcccccc", "wwwwcccccc", False),
        ("rrrrcccccc", "cccccccccc", False),  # refusals are no breaks
        ("wwwwcccccc", "iiiicccccc", False),  # nobody knows
    ],
)
def test_an_iterative_attack_is_compared_with_a_single_step_sample_by_sample(
    tmp_path, single, iterative, fires
):
    cells = linf(tmp_path, clean=letters(10, 0), fgsm=single, pgd_linf=iterative)
    found = named("iterative-weaker-than-single-step", *cells)
    assert len(found) == fires
    if fires:
        assert (found[0].attack, found[0].norm, found[0].epsilon) == ("pgd-linf", "linf", 0.3)
        assert found[0].text.startswith(f"fgsm alone breaks {single.count('w')} samples")


def test_a_single_step_on_another_surrogate_is_no_rival(tmp_path):
    cells = linf(tmp_path, fgsm__other=letters(2, 8), pgd_linf=letters(10, 0))
    assert diagnosed(*cells).asked["iterative-weaker-than-single-step"] == 0


@pytest.mark.parametrize("attack", ["square-linf", "pgd-estimated-linf", "transfer-fgsm"])
@pytest.mark.parametrize(("broken", "fires"), [(2, False), (3, True)])
def test_black_box_attacks_must_not_break_what_gradients_leave(tmp_path, attack, broken, fires):
    cells = linf(tmp_path, pgd_linf="w" + "c" * 9, bim="cw" + "c" * 8)
    text = "ww" + "w" * broken + "c" * (8 - broken)
    cells.append(write_cell(tmp_path, "cnn", attack, {0.3: text}, norm="linf"))
    found = named("white-box-weaker-than-black-box", *cells)
    assert len(found) == fires
    if fires:
        assert found[0].attack == "all"
        assert f"{attack} breaks 3 samples that" in found[0].text


def test_attacks_on_the_inner_classifier_count_as_black_box(tmp_path):
    assert kind("pgd-linf@classifier") is Kind.TRANSFER
    cells = linf(tmp_path, pgd_linf=letters(10, 0), pgd_linf__classifier=letters(6, 4))
    assert len(named("white-box-weaker-than-black-box", *cells)) == 1


@pytest.mark.parametrize(
    ("noise", "attack", "fires"),
    [
        ("wwwwcccccc", "wwwwcccccc", True),
        ("wwwwcccccc", "wwwwwccccc", False),  # the attack is stronger
        ("wwcccccccc", "wwcccccccc", False),  # both break next to nothing
        ("wwwwwwwwcc", "wwwwwwwwcc", False),  # the radius breaks nearly everything
    ],
)
def test_noise_that_is_as_strong_as_the_attack_is_seen_where_it_says_something(
    tmp_path, noise, attack, fires
):
    cells = linf(tmp_path, clean=letters(10, 0), pgd_linf=attack, noise_linf=noise)
    assert len(named("noise-as-strong-as-attack", *cells)) == fires


def test_images_wrong_when_clean_are_no_breaks_of_noise(tmp_path):
    wrong = "wwwwcccccc"
    cells = linf(tmp_path, clean=wrong, pgd_linf=wrong, noise_linf=wrong)
    found = diagnosed(*cells)
    assert found.asked["noise-as-strong-as-attack"] == 1 and not found.findings


def test_a_doubled_budget_that_breaks_more_says_how_much_lower(tmp_path):
    (cell,) = linf(tmp_path, pgd_linf=letters(5, 5))
    probe_of_cell(cell, doubled={"steps": Share(2, 8), "restarts": Share(0, 8)})
    (found,) = named("budget-not-converged", cell)
    low, high = (50 * limit for limit in wilson(2, 8))
    expected = f"broke 2 of 8 survivors; about 12.5 points lower [{low:.1f}, {high:.1f}]"
    assert found.text == f"doubling steps {expected}"
    assert (found.defense, found.attack, found.epsilon) == ("cnn", "pgd-linf", 0.3)


def test_a_converged_budget_is_no_finding_and_one_without_survivors_no_case(tmp_path):
    cells = linf(tmp_path, pgd_linf=letters(5, 5), bim=letters(0, 10))
    probe_of_cell(cells[0], doubled={"steps": Share(0, 8)})
    probe_of_cell(cells[1], doubled={"steps": NONE})
    found = diagnosed(*cells)
    assert found.asked["budget-not-converged"] == 1 and not found.findings


@pytest.mark.parametrize(
    ("rule", "field", "last_silent", "first_loud"),
    [
        ("robust-at-unbounded-epsilon", "unbounded", Share(0, 8), Share(1, 8)),
        ("surrogate-does-not-transfer", "untransferred", Share(4, 8), Share(5, 8)),
        ("surrogate-does-not-transfer", "untransferred", Share(3, 3), Share(4, 4)),
        ("rounding-undoes-the-attack", "rounded", Share(1, 8), Share(2, 8)),
        ("rounding-undoes-the-attack", "rounded", Share(3, 3), Share(1, 4)),
    ],
)
def test_a_share_of_a_cell_is_seen_from_its_limit_on(
    tmp_path, rule, field, last_silent, first_loud
):
    (cell,) = linf(tmp_path, pgd_linf=letters(5, 5))
    probe_of_cell(cell, **{field: last_silent})
    assert not diagnosed(cell).findings
    probe_of_cell(cell, **{field: first_loud})
    (found,) = diagnosed(cell).findings
    assert (found.name, found.attack, found.severity) == (rule, "pgd-linf", Severity.SUSPECT)
    assert f"{first_loud.hits} of {first_loud.of}" in found.text


@pytest.mark.parametrize("attack", ["noise-linf", "fgsm", "single-pixel", "pgd-linf@classifier"])
def test_attacks_that_may_fail_at_any_distance_are_not_asked_to_succeed(tmp_path, attack):
    cell = write_cell(tmp_path, "cnn", attack, {0.3: letters(5, 5)}, norm="linf")
    probe_of_cell(cell, unbounded=Share(8, 8))
    assert not diagnosed(cell).findings


def test_points_for_the_inner_classifier_need_not_break_the_defense_around_it(tmp_path):
    cell = write_cell(tmp_path, "defense_vae", "pgd-linf@classifier", {0.3: letters(5, 5)})
    probe_of_cell(cell, untransferred=Share(8, 8))
    assert not diagnosed(cell).findings


@pytest.mark.parametrize(
    ("rule", "change", "severity"),
    [
        ("declared-deterministic-but-is-not", {"repeats": Share(1, 8)}, Severity.SUSPECT),
        ("depends-on-batch", {"batches": Share(1, 8)}, Severity.SUSPECT),
        ("depends-on-order", {"orders": Share(1, 8)}, Severity.SUSPECT),
        ("depends-on-device", {"devices": Share(1, 8)}, Severity.NOTE),
        ("depends-on-device", {"devices": Share(2, 8)}, Severity.SUSPECT),
        ("zero-gradients", {"zero_gradients": {"exact": Share(1, 8)}}, Severity.NOTE),
        ("zero-gradients", {"zero_gradients": {"exact": Share(2, 8)}}, Severity.SUSPECT),
        ("non-finite-gradients", {"odd_gradients": {"exact": Share(1, 8)}}, Severity.SUSPECT),
        ("flat-landscape", {"flat": {"exact": Share(2, 8)}}, Severity.SUSPECT),
        ("jagged-landscape", {"jagged": {"exact": Share(2, 8)}}, Severity.SUSPECT),
    ],
)
def test_a_defense_that_misbehaves_is_seen_by_name(tmp_path, rule, change, severity):
    cells = linf(tmp_path, clean=letters(10, 0), pgd_linf=letters(5, 5))
    probe_of_defense(cells[0], **change)
    (found,) = diagnosed(*cells).findings
    assert (found.name, found.defense, found.attack) == (rule, "cnn", "")
    assert found.severity is severity


def test_a_well_behaved_defense_is_asked_by_every_rule_and_none_fires(tmp_path):
    cells = linf(tmp_path, clean=letters(10, 0), pgd_linf=letters(5, 5))
    views = {"exact": Share(1, 8)}
    probe_of_defense(
        cells[0], zero_gradients={"exact": FINE}, odd_gradients={"exact": FINE}, flat=views,
        jagged=views,
    )  # fmt: skip
    found = diagnosed(*cells)
    assert not found.findings
    behavior = list(RULES)[list(RULES).index("zero-gradients") : -1]
    assert len(behavior) == 9 and all(found.asked[name] == 1 for name in behavior)


def test_a_stochastic_defense_may_answer_differently(tmp_path):
    cells = linf(tmp_path, clean=letters(10, 0))
    probe_of_defense(cells[0], stochastic=True, repeats=Share(8, 8))
    assert not diagnosed(*cells).findings


@pytest.mark.parametrize(
    ("strongest", "attack", "severity"),
    [
        ("", "pgd-linf", Severity.SUSPECT),
        ("masked", "pgd-linf", Severity.SUSPECT),
        ("smooth", "pgd-linf", Severity.NOTE),
        ("smooth", "pgd-linf@masked", Severity.SUSPECT),
    ],
)
def test_a_bad_surrogate_matters_where_an_attack_climbs_it(tmp_path, strongest, attack, severity):
    cell = write_cell(tmp_path, "cnn", attack, {0.3: letters(5, 5)})
    zero = {"masked": Share(8, 8), "smooth": FINE}
    probe_of_defense(cell, zero_gradients=zero, strongest=strongest)
    (found,) = diagnosed(cell).findings
    assert found.severity is severity and "surrogate masked" in found.text


@pytest.mark.parametrize(("refused", "fires"), [(5, False), (6, True)])
def test_a_defense_that_refuses_most_clean_images_is_seen(tmp_path, refused, fires):
    cell = write_cell(tmp_path, "cnn", "clean", letters(10 - refused, 0, refused))
    found = named("refuses-nearly-everything", cell)
    assert len(found) == fires
    if fires:
        assert found[0].text == "6 of 10 clean images are refused"


def test_refusals_are_read_from_the_probe_where_no_record_tells(tmp_path):
    (cell,) = linf(tmp_path, pgd_linf=letters(5, 5))
    probe_of_defense(cell, refused=Share(8, 8))
    assert len(named("refuses-nearly-everything", cell)) == 1


@pytest.mark.parametrize(
    ("plain", "severity", "stated"),
    [
        ({0.15: letters(4, 6), 0.3: letters(0, 10)}, Severity.SUSPECT, "at most 40.0 %"),
        ({0.1: letters(5, 5), 0.2: letters(0, 10)}, Severity.SUSPECT, "at most 50.0 %"),
        ({0.15: letters(6, 4), 0.3: letters(0, 10)}, Severity.NOTE, "at most 60.0 %"),
        ({0.3: letters(0, 10)}, Severity.NOTE, "at most 100.0 %"),  # clean
        (None, Severity.NOTE, "no plain defense"),
    ],
)
def test_a_detector_implies_a_classifier_at_half_the_radius(tmp_path, plain, severity, stated):
    cells = [
        write_cell(tmp_path, "gmvae", "clean", letters(9, 0, 1)),
        write_cell(tmp_path, "gmvae", "pgd-linf", {0.3: "ccccrrrrwr"}),  # the last is refused clean
    ]
    if plain:
        cells.append(write_cell(tmp_path, "cnn", "clean", letters(10, 0)))
        cells.append(write_cell(tmp_path, "cnn", "pgd-linf", plain))
    found = scores.read(cells)
    layout = Layout({"linf": (0.3,)})
    findings = diagnostics.diagnose(found, layout, diagnostics.gather(found, cells[0].parent))
    (finding,) = [f for f in findings if f.name == "detector-implies-robust-classifier"]
    assert finding.severity is severity and stated in finding.text
    assert "correct or rejected on 80.0 %" in finding.text
    assert "Linf, epsilon = 0.15" in finding.text


@pytest.mark.parametrize(
    ("member", "fires"), [("square-linf", True), ("hopskipjump-linf", True), ("fmn-linf", False)]
)
def test_black_box_member_that_breaks_what_gradients_left_puts_an_ensemble_in_doubt(
    tmp_path, member, fires
):
    members = ["apgd-ce-linf"] * 2 + [member] * 3 + [""] * 5
    cells = linf(tmp_path, clean=letters(10, 0))
    cells.append(
        write_cell(
            tmp_path, "cnn", "strongest-linf", {0.3: letters(0, 5) + letters(5, 0)}, members=members
        )
    )
    found = named("white-box-weaker-than-black-box", *cells)
    assert bool(found) == fires
    if fires:
        assert f"{member} broke 3 samples" in found[0].text


@pytest.mark.parametrize(
    ("tested", "seen"),
    [
        ({UNDEFENDED: Share(7, 16)}, "7 of 16 images of an undefended network"),
        ({UNDEFENDED: Share(16, 16), MASKED: Share(0, 16)}, "with masked gradients"),
        ({UNDEFENDED: Share(15, 16), MASKED: Share(16, 16)}, ""),  # over 90 %
        ({UNDEFENDED: NONE}, ""),
        ({}, ""),
    ],
)
def test_an_attack_that_fails_its_self_test_is_invalid(tmp_path, tested, seen):
    (cell,) = linf(tmp_path, pgd_linf=letters(5, 5))
    probe_of_cell(cell, self_test=tested)
    found = named("attack-invalid", cell)
    assert bool(found) == bool(seen)
    if seen:
        assert seen in found[0].text and found[0].severity is Severity.INVALID
        assert found[0].defense == ""


def test_every_attack_kind_is_that_of_its_longest_known_beginning():
    assert kind("pgd-linf[steps=5]") is Kind.ITERATIVE
    assert kind("pgd-estimated-linf (abc123)") is Kind.BLACK_BOX
    assert kind("apgd-true-class-linf") is Kind.GRADIENT
    assert kind("refusal-linf") is None and kind("pgdx-linf") is None
    assert set(KINDS.values()) == set(Kind)


def _written(cells: list[Path], folder: Path) -> Mapping[str, str]:
    files = tables.write(cells, folder, "stem", "A title")
    return {path.name: path.read_text() for path in files if path.suffix in (".md", ".csv", ".tex")}


def _row(text: str, name: str) -> list[str]:
    """The fields of the first table row of a name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [field.strip() for field in line.split("|")[2:-1]]


@pytest.fixture
def doubtful(tmp_path: Path) -> list[Path]:
    """Two defenses; one of them has a budget that has not converged and gradients that are zero."""
    cells = [
        *linf(tmp_path, "cnn", clean=letters(10, 0), pgd_linf=letters(5, 5), bim=letters(4, 6)),
        *linf(tmp_path, "abs", clean=letters(10, 0), pgd_linf=letters(6, 4), bim=letters(6, 4)),
    ]
    probe_of_defense(cells[0], zero_gradients={"exact": Share(8, 8)})
    probe_of_cell(cells[1], doubled={"steps": Share(2, 8)})
    return cells


def test_marks_stand_in_the_fields_that_are_in_doubt(doubtful, tmp_path):
    text = _written(doubtful, tmp_path / "out")["stem.md"]
    table = text.split("## Which")[0]
    note = table.splitlines()
    zero = next(line[0] for line in note if "zero-gradients: on surrogate exact" in line)
    more = next(line[0] for line in note if "budget-not-converged: doubling steps" in line)
    assert _row(table, "Clean")[0].endswith(zero) and _row(table, "All Linf")[0].endswith(zero)
    assert _row(table, "pgd-linf")[0].endswith(more)
    assert not _row(table, "bim")[0].endswith((zero, more))
    for name in ("Clean", "pgd-linf", "bim", "All Linf"):
        assert not _row(table, name)[1].endswith((zero, more))


def test_what_concerns_every_attack_marks_the_worst_case(doubtful, tmp_path):
    probe_of_cell(doubtful[2], doubled={"steps": Share(3, 8)})
    text = _written(doubtful, tmp_path / "out")["stem.md"]
    assert "budget-not-converged: seen under every attack above; read the number" in text


def test_a_finding_at_a_radius_that_is_not_shown_marks_those_that_are(tmp_path):
    (cell,) = linf(tmp_path, pgd_linf=letters(5, 5))
    probe_of_cell(cell, epsilon=0.2, doubled={"steps": Share(2, 8)})
    text = _written([cell], tmp_path / "out")["stem.md"]
    mark = next(line[0] for line in text.splitlines() if line[2:].startswith("budget-not"))
    assert _row(text, "pgd-linf")[0].endswith(mark)


def test_an_invalid_attack_has_no_number_under_any_defense(doubtful, tmp_path):
    probe_of_cell(doubtful[1], self_test={UNDEFENDED: Share(3, 16)})
    written = _written(doubtful, tmp_path / "out")
    fields = _row(written["stem.md"], "pgd-linf")
    assert all(field.startswith("attack invalid") for field in fields)
    assert _row(written["stem.md"], "All Linf")[0].startswith("40.0")
    lines = [line for line in written["stem.csv"].splitlines() if ",pgd-linf," in line]
    assert len(lines) == 2
    for line in lines:
        assert ",linf,0.3,10,,,," in line and "attack invalid; attack-invalid" in line
    assert "attack invalid" in written["stem.tex"]


def test_a_worst_case_of_invalid_attacks_alone_has_no_number(tmp_path):
    cells = linf(tmp_path, clean=letters(10, 0), pgd_linf=letters(10, 0))
    probe_of_cell(cells[1], self_test={UNDEFENDED: Share(0, 16)})
    text = _written(cells, tmp_path / "out")["stem.md"]
    assert _row(text, "All Linf")[0].startswith("attack invalid")


def test_refusal_tables_withhold_the_same_numbers(tmp_path):
    cells = linf(tmp_path, "gmvae", clean=letters(9, 0, 1), pgd_linf=letters(5, 0, 5))
    probe_of_cell(cells[1], self_test={UNDEFENDED: Share(0, 16)})
    text = _written(cells, tmp_path / "out")["stem.md"].split("## Accuracy / error")[1]
    assert _row(text, "pgd-linf") == ["attack invalid"]


def test_the_markdown_lists_findings_silent_rules_and_what_was_not_probed(doubtful, tmp_path):
    text = _written(doubtful, tmp_path / "out")["stem.md"].split("## Diagnostics")[1]
    assert _row(text, "zero-gradients")[:2] == ["suspect", "cnn"]
    assert _row(text, "budget-not-converged")[1] == "cnn, pgd-linf, Linf, epsilon = 0.3"
    assert "Nothing fired: robust-at-unbounded-epsilon, surrogate-does-not-transfer" in text
    assert "Not probed: defenses abs and 3 of 4 cells; the same benchmark.run command" in text


def test_records_without_probes_gain_one_paragraph_and_no_mark(tmp_path):
    cells = linf(tmp_path, clean=letters(10, 0), pgd_linf=letters(5, 5))
    text = _written(cells, tmp_path / "out")["stem.md"]
    assert not any(name in text.split("## Diagnostics")[0] for name in RULES)
    section = text.split("## Diagnostics")[1].split("##")[0].strip()
    assert "|" not in section and "Not probed: defenses cnn and 1 of 1 cells" in section


def test_the_csv_has_a_line_per_finding_and_its_heading_without_any(doubtful, tmp_path):
    lines = _written(doubtful, tmp_path / "a")["stem-diagnostics.csv"].splitlines()
    heading = "dataset,finding,severity,defense,attack,surrogate,norm,epsilon,seen,advice"
    assert lines[0] == heading and len(lines) == 3
    assert lines[1].startswith("mnist,budget-not-converged,suspect,cnn,pgd-linf,,linf,0.3,")
    assert lines[2].startswith("mnist,zero-gradients,suspect,cnn,,,,0.0,")
    alone = _written(doubtful[3:], tmp_path / "b")["stem-diagnostics.csv"]
    assert alone.splitlines() == [heading]


def test_long_texts_wrap_in_latex(doubtful, tmp_path):
    text = _written(doubtful, tmp_path / "out")["stem.tex"]
    assert r"\begin{tabular}{llp{0.25\linewidth}p{0.4\linewidth}}" in text


def test_the_command_prints_findings_and_fails_only_when_strict(doubtful, tmp_path, capsys):
    where = ["--dataset", "mnist", "--results", str(tmp_path)]
    assert diagnose.main(where) == 0
    printed = capsys.readouterr().out
    assert "cnn\n  suspect: budget-not-converged (cnn, pgd-linf, Linf, epsilon = 0.3)" in printed
    assert diagnose.main([*where, "--strict"]) == 1
    assert diagnose.main([*where, "--strict", "--defense", "abs"]) == 0
    assert "no findings" in capsys.readouterr().out


def test_notes_alone_do_not_fail_a_strict_run(tmp_path, capsys):
    cells = linf(tmp_path, clean=letters(10, 0), pgd_linf=letters(5, 5))
    probe_of_defense(cells[0], devices=Share(1, 8))
    assert diagnose.main(["--dataset", "mnist", "--results", str(tmp_path), "--strict"]) == 0
    assert "note: depends-on-device" in capsys.readouterr().out


def test_a_damaged_probe_is_named_by_the_command(doubtful, tmp_path, capsys):
    cell = records.cell_of(records.provenance(doubtful[1]))
    (doubtful[1].parent / "probes" / f"cell-{cell.id}.json").write_text("{")
    assert diagnose.main(["--dataset", "mnist", "--results", str(tmp_path)]) == 2
    assert cell.id in capsys.readouterr().err


def test_findings_say_all_that_their_readers_are_promised():
    promised = {"name", "defense", "attack", "norm", "epsilon", "text", "advice", "severity"}
    assert {field.name for field in fields(Finding)} == promised
    assert all(rule.ask.__doc__ and rule.advice for rule in RULES.values())
