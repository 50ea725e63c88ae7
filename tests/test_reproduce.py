"""Artefact files and their plans; whole sweeps belong to the runner's tests."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from attacks.threat import Norm
from benchmark import artefact, catalog, projections, published, reproduce
from benchmark.artefact import Kind
from benchmark.datasets import DATASETS
from benchmark.presets import PRESETS
from benchmark.runner import Plan
from defenses import DEFENSES
from tests.synthetic_records import letters, write_cell

NAMES = artefact.names()
WHITE_BOX = "gmvae-text-white-box"
MANIFOLD = {f"robust-manifold-figure-{number}" for number in (3, 4, 5, 10, 12, 13, 14, 15)}
MANIFOLD |= {f"robust-manifold-{name}" for name in ("table-1", "table-2", "combined", "adaptive")}


def _prepare(name, preset="paper", dataset="", **options):
    wanted = artefact.load(name)
    source = DATASETS[dataset or wanted.dataset]
    return reproduce.prepare(wanted, PRESETS[preset], source, **options)


def test_every_table_and_figure_of_the_issue_has_a_file():
    tables = {f"e-abs-table-{number}" for number in range(1, 9)}
    figures = {f"e-abs-figure-{number}" for number in (3, 4, 5)}
    eabs = tables | figures | {"e-abs-text-gradient-free", "e-abs-text-gtsrb"}
    gmvae = {"gmvae-table-1", "gmvae-table-1-svhn", "gmvae-figure-2", "gmvae-figure-2-svhn"}
    gmvae |= {"gmvae-table-2"} | {
        f"gmvae-{shown}-coil100" for shown in ("table-1", "figure-2", "figure-4")
    }
    gmvae |= {WHITE_BOX}
    gmvae |= {f"gmvae-figure-{number}" for number in (3, 4, 5)}
    mad = {f"mad-vae-table-{table}" for table in ("1", "2", "2-transfer", "3")}
    mad |= {f"mad-vae-figure-{number}" for number in range(1, 14)}
    latent = {f"robust-manifold-{each}" for each in ("section-4.3", *LATENT_FIGURES)}
    assert set(NAMES) == eabs | gmvae | mad | MANIFOLD | latent


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_artefact_names_only_what_is_registered(name, preset):
    wanted = artefact.load(name)
    assert wanted.dataset in DATASETS
    assert {catalog.base_name(spec) for spec in wanted.defenses} <= set(DEFENSES)
    for spec in wanted.defenses:
        catalog.recipe_for(spec, PRESETS[preset], wanted.dataset)
    channels = DATASETS[wanted.dataset].task.shape[0]
    for spec in wanted.attacks_at(preset):
        _, attack = catalog.parse_attack(spec, PRESETS[preset], channels)
        assert str(attack.norm) in wanted.epsilons


LATENT_FIGURES = tuple(f"figure-{number}" for number in (6, 7, 8, 9))
UNPRINTED = ("figure", "mad-vae", "robust-manifold", WHITE_BOX)
PRINTED = [name for name in NAMES if not any(part in name for part in UNPRINTED)]


@pytest.mark.parametrize("name", PRINTED)
def test_every_published_table_finds_its_numbers(name):
    made = _prepare(name)
    dataset, epsilons = made.plan.dataset, made.plan.epsilons
    defenses = made.plan.defenses
    if name == "gmvae-table-2":  # it prints what becomes of the samples that the first refuses
        defenses = defenses[1:]
    for defense in defenses:
        for spec in made.plan.attacks:
            label, attack = catalog.parse_attack(spec, PRESETS["paper"], 3)
            numbers = published.lookup(
                dataset=dataset,
                defense=defense,
                attack=made.counterpart.attacks[label],
                surrogate=attack.view.surrogate or "",
                norm=str(attack.norm),
                epsilon=epsilons[attack.norm][0],
                preferred=made.counterpart.table,
            )
            assert len(numbers) == 1, (defense, spec)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize(("name", "oblivious"), [("mad-vae-table-1", 6), ("mad-vae-table-2", 1)])
def test_every_published_agreement_is_found_at_every_preset(name, oblivious, preset):
    made = _prepare(name, preset)
    specs = [spec for spec in made.plan.attacks if spec.endswith("@classifier")]
    assert len(specs) == oblivious
    for defense in made.plan.defenses:
        for spec in specs:
            label, attack = catalog.parse_attack(spec, PRESETS[preset], 1)
            numbers = published.lookup(
                dataset="mnist",
                defense=defense,
                attack=made.counterpart.attacks[label],
                surrogate="classifier",
                norm=str(attack.norm),
                epsilon=made.plan.epsilons[attack.norm][-1],
                metric="agreement",
                preferred=made.counterpart.table,
            )
            assert len(numbers) == 1, (defense, spec)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("name", ["robust-manifold-table-1", "robust-manifold-table-2"])
def test_every_number_of_the_robust_manifold_tables_stands_beside_one_of_ours(
    monkeypatch, name, preset
):
    library = SimpleNamespace(names=lambda: ("resnet152",))
    monkeypatch.setitem(catalog.LIBRARIES, "torchvision", library)
    made = _prepare(name, preset)
    (paper, table), channels = made.counterpart.table, 3
    rows = [("clean", "", "", 0.0)]
    for spec in made.plan.attacks:
        label, attack = catalog.parse_attack(spec, PRESETS[preset], channels)
        theirs, view = made.counterpart.attacks[label], attack.view.surrogate or ""
        rows += [(theirs, view, str(attack.norm), r) for r in made.plan.epsilons[attack.norm]]
    found = {
        (number.defense, number.attack, number.epsilon, number.value)
        for defense in made.plan.defenses
        for attack, view, norm, radius in rows
        for number in published.lookup(
            dataset=made.plan.dataset,
            defense=defense,
            attack=attack,
            surrogate=view,
            norm=norm,
            epsilon=radius,
            preferred=made.counterpart.table,
        )
    }
    assert found == {
        (number.defense, number.attack, number.epsilon, number.value)
        for number in published.results()
        if (number.paper, number.table) == (paper, table)
    }


def test_every_published_overpowered_accuracy_is_found():
    made = _prepare("mad-vae-table-3")
    for defense in made.plan.defenses:
        for metric in (published.MEAN_ACCURACY, published.ORIGINAL_ACCURACY):
            query = {"dataset": "mnist", "defense": defense, "metric": metric}
            query |= {"attack": "overpowered-unrestricted", "norm": "unrestricted"}
            assert len(published.lookup(**query, epsilon=float("inf"))) == 1


def test_fields_that_make_another_attack_survive_every_preset():
    wanted = artefact.load("mad-vae-table-1")
    assert "cw-l2[confidence=10]@classifier" in wanted.attacks_at("quick")
    assert "pgd-linf@classifier" in wanted.attacks_at("quick")
    assert set(wanted.attacks_at("paper")) == set(wanted.attacks)


@pytest.mark.parametrize("name", ["gmvae-table-1", "gmvae-table-1-svhn", "gmvae-table-1-coil100"])
def test_every_published_clean_rate_is_found(name):
    made = _prepare(name)
    assert made.plan.attacks == ()
    for defense in made.plan.defenses:
        for metric in ("accuracy", "error", "rejection", "accuracy_without_rejection"):
            numbers = published.lookup(
                dataset=made.plan.dataset,
                defense=defense,
                attack="clean",
                metric=metric,
                preferred=made.counterpart.table,
            )
            assert len(numbers) == 1, (defense, metric)


def test_the_published_white_box_error_stands_beside_the_papers_attack_alone():
    made = _prepare(WHITE_BOX)
    query = {"dataset": "mnist", "defense": "gmvae", "metric": "error"}
    found = {
        spec: [number.value for number in published.lookup(**query, attack=spec, norm="l2")]
        for spec in made.plan.attacks
    }
    assert found.pop("threshold-aware-l2") == [0]
    assert set(map(tuple, found.values())) == {()}


def test_a_surrogate_survives_every_preset():
    for preset in PRESETS:
        plan = _prepare("gmvae-figure-3", preset).plan
        assert plan.attacks == ("fgsm@encoder",)
        assert len(plan.epsilons[Norm.LINF]) == 5


def test_the_paper_preset_runs_the_papers_fields_and_samples():
    plan = _prepare("e-abs-table-8").plan
    assert plan.samples == 200
    assert plan.attacks[0] == "pgd-linf[eot=3,restarts=20,steps=0]"
    assert plan.epsilons == {Norm.LINF: (8 / 255,)}


def test_other_presets_keep_the_row_and_spend_their_own_budgets():
    made = _prepare("e-abs-table-8", "quick")
    assert made.plan.samples is None
    assert made.plan.attacks[1] == "pgd-linf[steps=10]"
    _, attack = catalog.parse_attack(made.plan.attacks[1], PRESETS["quick"], 3)
    assert attack.steps == 10
    assert attack.restarts == PRESETS["quick"].attacks["pgd-linf"]["restarts"]
    assert made.counterpart.attacks["pgd-linf[steps=10]"] == "pgd-linf[eot=3,restarts=20,steps=10]"


def test_rows_named_by_a_field_stay_different_at_every_preset():
    for name in ("e-abs-table-6", "e-abs-table-7", "e-abs-table-8"):
        for preset in PRESETS:
            assert len(set(_prepare(name, preset).plan.attacks)) == len(artefact.load(name).attacks)


def test_a_substituted_data_set_is_named_in_the_title_and_brings_its_epsilons():
    made = _prepare("e-abs-table-4", "quick", "mnist")
    assert "on mnist instead of svhn, with the epsilons of mnist" in made.title
    assert made.plan.epsilons == {Norm.LINF: (0.3,), Norm.L2: (1.5,)}
    assert made.plan.dataset == "mnist"
    assert "instead of" not in _prepare("e-abs-table-4", "quick", "svhn").title


def test_a_substituted_curve_follows_the_substitutes_sweep():
    made = _prepare("e-abs-figure-3", "quick", "mnist")
    for norm, radii in made.plan.epsilons.items():
        assert tuple(radii) == tuple(DATASETS["mnist"].curve[norm])


def test_a_substitute_that_the_artefact_names_has_the_artefacts_radii():
    made = _prepare("robust-manifold-figure-4", "quick", "mnist")
    assert "on mnist instead of celeba, with epsilons for mnist" in made.title
    assert made.plan.epsilons == {Norm.LINF: (0.2,)}
    assert _prepare("robust-manifold-figure-4", "quick").plan.epsilons == {Norm.LINF: (0.025,)}
    other = _prepare("robust-manifold-figure-4", "quick", "digits")
    assert "with the epsilons of digits" in other.title
    assert other.plan.epsilons == {Norm.LINF: (0.1,)}


AROUND = artefact.parse(
    "around",
    """
    title = "t"
    source = "s"
    paper = "mad-vae"
    table = "1"
    kind = "table"
    dataset = "mnist"
    defenses = ["magnet", "defense_vae", "mad_vae_combined[centres=separate]"]
    attacks = ["fgsm"]
    classifier = "cnn"
    samples = 10
    [epsilons]
    linf = ["0.3"]
    """,
)


@pytest.mark.parametrize(
    ("dataset", "asked", "protected"),
    [("mnist", "", "cnn"), ("digits", "", ""), ("digits", "substitute_a", "substitute_a")],
)
def test_an_artefacts_classifier_is_protected_on_its_own_data_set_unless_another_is_asked_for(
    dataset, asked, protected
):
    made = reproduce.prepare(AROUND, PRESETS["quick"], DATASETS[dataset], classifier=asked)
    assert made.plan.defenses == (
        (
            protected,
            f"defense_vae[classifier={protected}]",
            f"mad_vae_combined[centres=separate,classifier={protected}]",
        )
        if protected
        else AROUND.defenses
    )
    assert ("the defenses protect" in made.title) == bool(asked)
    assert made.stem.endswith(asked)


def test_file_names_hold_preset_samples_and_seed_where_they_differ():
    assert _prepare("e-abs-table-1").stem == "e-abs-table-1-paper"
    stem = _prepare("e-abs-table-1", "quick", samples=20, seed=3).stem
    assert stem == "e-abs-table-1-quick-n20-seed3"


@pytest.fixture
def swept(monkeypatch, tmp_path):
    """The plan that the command made, its cells faked: the attack breaks more at more steps."""
    plans = []

    def sweep(plan: Plan, *, results: Path, **_: object) -> list[Path]:
        plans.append(plan)
        channels = DATASETS[plan.dataset].task.shape[0]
        paths = []
        for defense in plan.defenses:
            paths.append(write_cell(results, defense, "clean", letters(9, 1), dataset=plan.dataset))
            for count, spec in enumerate(plan.attacks):
                label, attack = catalog.parse_attack(spec, plan.preset, channels)
                radii = plan.epsilons[attack.norm]
                outcomes = {radius: letters(9 - count, 1 + count) for radius in radii}
                paths.append(write_cell(results, defense, label, outcomes, dataset=plan.dataset))
        return paths

    monkeypatch.setattr(reproduce, "sweep", sweep)
    return plans


def test_the_command_writes_a_table_with_one_row_per_value(swept, tmp_path, capsys):
    arguments = ["e-abs-table-8", "--preset", "smoke", "--results", str(tmp_path)]
    assert reproduce.main(arguments) == 0
    text = (tmp_path / "svhn" / "e-abs-table-8-smoke.md").read_text()
    assert "| steps = 0 " in text and "| steps = 500 " in text
    assert "All Linf" not in text.split("## How")[0].replace("*All*", "")
    assert "(paper 87.5)" in text and "published with" in text
    numbers = pd.read_csv(tmp_path / "svhn" / "e-abs-table-8-smoke.csv")
    assert numbers["published"].tolist() == [89.2, 87.5, 78, 63.5, 51.5, 51.5, 52, 51.5]
    assert "steps = 500" in capsys.readouterr().out


def test_the_command_draws_a_curve_per_norm(swept, tmp_path):
    arguments = ["e-abs-figure-3", "--results", str(tmp_path), "--dataset", "mnist"]
    assert reproduce.main(arguments) == 0
    for suffix in ("linf.png", "linf.svg", "l2.png", "l2.svg", "curves.csv"):
        assert (tmp_path / "mnist" / f"e-abs-figure-3-quick-{suffix}").stat().st_size > 0


def test_the_command_draws_rates_and_shows_every_published_one(swept, tmp_path):
    assert reproduce.main(["gmvae-figure-3", "--results", str(tmp_path)]) == 0
    for suffix in ("rates.csv", "rates.png", "rates.svg"):
        assert (tmp_path / "mnist" / f"gmvae-figure-3-quick-{suffix}").stat().st_size > 0
    text = (tmp_path / "mnist" / "gmvae-figure-3-quick.md").read_text()
    assert "![gmvae-figure-3-quick-rates.svg]" in text


def test_the_command_draws_curves_by_what_attacks_saw(swept, tmp_path):
    assert reproduce.main(["robust-manifold-figure-3", "--results", str(tmp_path)]) == 0
    for suffix in ("protocols.csv", "protocols-linf.png", "protocols-linf.svg"):
        assert (tmp_path / "mnist" / f"robust-manifold-figure-3-quick-{suffix}").stat().st_size > 0
    text = (tmp_path / "mnist" / "robust-manifold-figure-3-quick.md").read_text()
    assert "![robust-manifold-figure-3-quick-protocols-linf.svg]" in text
    assert "epsilon = 0.15" in text and "epsilon = 0.3" in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("robust-manifold-figure-4", "compared"),
        ("robust-manifold-figure-13", "measured"),
        ("robust-manifold-figure-14", "scattered"),
    ],
)
def test_the_command_shows_what_an_artefacts_kind_shows(swept, monkeypatch, tmp_path, name, shown):
    asked = []
    monkeypatch.setattr(
        projections, shown, lambda show, paths: asked.append((show.stem, len(paths))) or []
    )
    assert reproduce.main([name, "--results", str(tmp_path), "--dataset", "digits"]) == 0
    wanted = artefact.load(name)
    cells = len(wanted.defenses) * (1 + len(wanted.attacks))
    assert asked == [(f"{name}-quick", cells)]


def test_the_command_lists_every_artefact(capsys):
    assert reproduce.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == list(NAMES)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "artefact must be named; available: e-abs-figure-3"),
        (["e-abs-tabel-4"], "unknown artefact 'e-abs-tabel-4'; did you mean 'e-abs-table-4'?"),
        (["e-abs-table-4", "--dataset", "minst"], "did you mean 'mnist'?"),
        (["e-abs-table-4", "--preset", "papr"], "did you mean 'paper'?"),
    ],
)
def test_the_command_suggests_the_nearest_name(capsys, arguments, sentence):
    assert reproduce.main(arguments) == 2
    assert sentence in capsys.readouterr().err


GOOD = """
title = "t"
source = "s"
paper = "p"
table = "1"
kind = "table"
dataset = "mnist"
defenses = ["cnn"]
attacks = ["ddn"]
samples = 10
[epsilons]
l2 = ["3/2"]
"""


def test_an_artefact_file_is_read_field_by_field():
    parsed = artefact.parse("name", GOOD)
    assert (parsed.kind, parsed.samples, parsed.epsilons) == (Kind.TABLE, 10, {"l2": (1.5,)})


def test_an_attack_without_a_ball_has_an_infinite_radius():
    parsed = artefact.parse("name", GOOD.replace('l2 = ["3/2"]', 'unrestricted = ["inf"]'))
    assert parsed.epsilons == {"unrestricted": (float("inf"),)}


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("kind", "kynd", "missing: kind; unknown: kynd"),
        ('"table"', '"chair"', "must be table, curve, rates, .*, got 'chair'"),
        ('"3/2"', '"big"', "epsilon must be like 0.3, 8/255 or inf, got 'big'"),
        ("samples = 10", 'samples = 10\nrow_by = "steps"', "must name 'steps', got 'ddn'"),
        ("samples = 10", "samples =", "must be TOML"),
        (
            "[epsilons]",
            "[substitutes.mnist]\n[epsilons]",
            "epsilons for mnist in .* norms l2, got none",
        ),
        ('"table"', '"map"', "shows of artefact name must be some of inputs, .*, got none"),
        ("samples = 10", 'shows = ["inputs"]\nsamples = 10', "absent for other kinds"),
    ],
)
def test_a_wrong_artefact_file_is_explained(before, after, sentence):
    with pytest.raises(ValueError, match=sentence):
        artefact.parse("name", GOOD.replace(before, after, 1))
