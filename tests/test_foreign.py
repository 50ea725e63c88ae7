"""Defenses and attacks from modules outside the project, by their names."""

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from attacks.threat import Norm
from benchmark import catalog, groups, overrides, records, run, tables, train, weights, workers
from benchmark.datasets import DATASETS
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.weights import Stored
from defenses.base import Task
from defenses.cnn import FeedForward
from defenses.foreign import Foreign
from defenses.randomness import generator
from tests import own

SMOKE = PRESETS["smoke"]
TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of ``my_package``, forgotten afterwards."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    home = own.write(tmp_path / "work")
    monkeypatch.syspath_prepend(home.parent)
    forget()
    yield home
    forget()


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == own.PACKAGE:
            del sys.modules[name]


def recipe(name: str) -> Foreign:
    found = catalog.recipe_for(f"my_package.{name}", SMOKE, "digits")
    assert isinstance(found, Foreign)
    return found


def ensured(name: str) -> tuple[str, torch.Tensor]:
    """The digest of a defense's weights, and its loaded answers to two images."""
    digits = DATASETS["digits"].load()
    with Progress(silent=True) as progress:
        stored = train.ensure(digits, name, SMOKE, progress=progress)
    load = pickle.loads(pickle.dumps(Stored(stored, recipe(name.split(".", 1)[1]), digits.task)))
    x = digits.test.batch(range(2)).x
    return stored.digest, load("cpu").decide(x, generator(0)).logits


@pytest.mark.parametrize("name", ["plain:build", "plain:Net", "plain:instance"])
def test_a_function_a_class_and_an_instance_give_the_same_network(name: str) -> None:
    defense = recipe(name).build(TASK)
    assert isinstance(defense, FeedForward)
    assert not defense.training
    x = torch.rand((3, 1, 8, 8), generator=generator(0))
    expected = sys.modules["my_package.plain"].instance(x)
    assert torch.equal(defense.surrogate("exact", generator(0))(x)[0], expected)


def test_a_function_with_a_parameter_is_given_the_task() -> None:
    assert recipe("plain:for_task").build(TASK).num_classes == 10


def test_a_defense_stays_what_it_is() -> None:
    defense = recipe("guarded:Guard").build(TASK)
    assert type(defense).__name__ == "Guard"
    assert defense.stochastic and defense.can_reject


def test_building_leaves_global_randomness_alone_and_always_draws_the_same_weights() -> None:
    before = torch.get_rng_state()
    one, two = (recipe("plain:for_task").build(TASK).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_package.net:build", r"module 'no_package.net' must be found .*no module 'no_package'"),
        ("my_package.plan:build", r"got no module 'my_package.plan'; start in the folder that"),
        ("my_package.halting:build", "must be importable .* No module named 'no_such_library'"),
        ("my_package.plain:biuld", "unknown name 'biuld' .*did you mean 'my_package.plain:build'"),
        ("my_package.plain:", "must look like my_package.my_module:build"),
        (":build", "must look like my_package.my_module:build"),
        ("trochvision:resnet50", "unknown library of classifiers 'trochvision'; did you mean"),
    ],
)
def test_a_name_that_leads_nowhere_is_a_sentence(name: str, message: str) -> None:
    with pytest.raises((LookupError, ValueError), match=message):
        catalog.recipe_for(name, SMOKE, "digits")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain:number", "must be a function, a class or a torch.nn.Module, got int; name"),
        ("plain:nothing", "must give a Defense or a torch.nn.Module, got NoneType; return"),
        ("plain:greedy", "must take nothing or the Task, got the parameters width, depth; give"),
        ("broken:Wide", r"shape \(2, 10\) for 2 images of 10 classes, got \(2, 20\); return one"),
        ("broken:Pair", "must be a tensor|must take images"),
        ("broken:Void", r"must be finite, got NaN or infinity for images \(N, 1, 8, 8\)"),
        ("broken:Colour", r"must take images \(N, 1, 8, 8\) with pixels in \[0, 1\], got Runtime"),
    ],
)
def test_what_is_no_network_for_these_images_is_refused_in_words(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(name).build(TASK)


def test_another_number_of_classes_is_refused() -> None:
    other = Task((1, 8, 8), 7, "digits", 0.1, 0.1, 0.5)
    with pytest.raises(ValueError, match=r"images of 7 classes, got \(2, 10\)"):
        recipe("plain:build").build(other)


def test_it_is_not_trained_here() -> None:
    with pytest.raises(ValueError, match=r"epochs must be 0 for my_package.plain:build, got 3"):
        recipe("plain:build[epochs=3]")


def test_a_changed_file_is_another_defense(package: Path) -> None:
    before = recipe("plain:build")
    path = package / "plain.py"
    path.write_text(path.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    forget()
    after = recipe("plain:build")
    assert after != before
    assert repr(after) != repr(before)


def test_a_changed_file_beside_it_is_another_defense_and_one_elsewhere_is_not(
    package: Path,
) -> None:
    (package / "helper.py").write_text("WIDTH = 3\n\n\ndef width():\n    return WIDTH\n")
    path = package / "plain.py"
    path.write_text(f"from my_package.helper import width\n{path.read_text()}")
    forget()
    before = recipe("plain:build").sources
    (package / "helper.py").write_text("WIDTH = 4\n\n\ndef width():\n    return WIDTH\n")
    forget()
    changed = recipe("plain:build").sources
    (package / "guarded.py").write_text("")
    forget()
    assert before != changed == recipe("plain:build").sources


def test_weights_that_its_module_reads_are_part_of_what_it_is(package: Path) -> None:
    path = package / "reads.py"
    path.write_text(
        "from pathlib import Path\nimport torch\nfrom torch import nn\n\n\ndef build():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "    with torch.no_grad():\n"
        "        net[1].bias.fill_(float((Path(__file__).parent / 'bias.txt').read_text()))\n"
        "    return net\n"
    )
    (package / "bias.txt").write_text("1")
    digest, logits = ensured("my_package.reads:build")
    assert ensured("my_package.reads:build")[0] == digest
    (package / "bias.txt").write_text("2")
    other, moved = ensured("my_package.reads:build")
    assert other != digest
    torch.testing.assert_close(moved, logits + 1)


def test_tied_weights_are_kept(package: Path) -> None:
    (package / "tied.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    one, two = nn.Linear(64, 64), nn.Linear(64, 64)\n    two.weight = one.weight\n"
        "    return nn.Sequential(nn.Flatten(), one, two, nn.Linear(64, 10))\n"
    )
    _, logits = ensured("my_package.tied:build")
    x = DATASETS["digits"].load().test.batch(range(2)).x
    expected = recipe("tied:build").build(TASK).decide(x, generator(0)).logits
    assert torch.equal(logits, expected)


def test_a_defense_protects_a_classifier_from_outside() -> None:
    specs = overrides.with_classifier(["identity_vae", "cnn"], "my_package.plain:build")
    assert specs == ("identity_vae[classifier=my_package.plain:build]", "cnn")
    wrapped = catalog.recipe_for(specs[0], SMOKE, "digits").wraps()["classifier"]
    assert wrapped.name == "my_package.plain:build"
    assert wrapped.recipe == recipe("plain:build")
    with pytest.raises(ValueError, match="must answer every image"):
        catalog.recipe_for(
            "identity_vae[classifier=my_package.guarded:Guard]", SMOKE, "digits"
        ).build(TASK)


def test_file_names_hold_neither_colon_nor_slash() -> None:
    name = weights.file_name("digits", "robustbench:cifar10/Linf/Carmon2019", "smoke", "ab")
    assert str(name) == "digits/robustbench-cifar10-Linf-Carmon2019-smoke-ab.safetensors"


@pytest.mark.parametrize(
    ("spec", "label", "steps"),
    [
        ("my_package.attack:Sign", "my_package.attack:Sign", 5),
        (
            "my_package.attack:Sign[steps=3,norm=linf]@exact",
            "my_package.attack:Sign[norm=linf,steps=3]",
            3,
        ),
        ("my_package.attack:instance", "my_package.attack:instance", 2),
    ],
)
def test_an_attack_is_a_class_or_an_instance_with_fields_in_brackets(
    spec: str, label: str, steps: int
) -> None:
    found, attack = catalog.parse_attack(spec, SMOKE, 1)
    assert (found, attack.norm, attack.steps) == (label, Norm.LINF, steps)
    assert attack.view.surrogate == ("exact" if "@" in spec else None)


def test_an_attack_without_a_norm_of_its_own_takes_the_one_in_brackets() -> None:
    label, attack = catalog.parse_attack("my_package.attack:Bare[norm=l2]", None, 1)
    assert (label, attack.norm) == ("my_package.attack:Bare[norm=l2]", Norm.L2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_package.attack:Bare", r"norm must be given .*\[norm=l2\] \(it knows l2, linf\)"),
        ("my_package.attack:Sign[norm=l2]", "norm must be one of linf for Sign, got l2"),
        ("my_package.attack:Sign[norm=l3]", "unknown norm of attack .* 'l3'; available: l0, l1"),
        ("my_package.attack:Sign[step=3]", "unknown field of attack .* did you mean 'steps'"),
        ("my_package.attack:number", "must be a class or an instance of .*Attack, got int"),
        ("my_package.plain:Net", "must be a class or an instance of .*Attack, got Net"),
        ("my_package.attack:Greedy", "fields of .* must have defaults, got none for budget"),
        ("my_package.attack:Sing", "did you mean 'my_package.attack:Sign'"),
        ("pgd-l2[norm=linf]", "unknown field of attack 'pgd-l2': 'norm'"),
    ],
)
def test_an_attack_that_cannot_be_had_is_a_sentence(spec: str, message: str) -> None:
    with pytest.raises((LookupError, ValueError), match=message):
        catalog.parse_attack(spec, None, 1)


def test_a_sweep_on_two_processes_measures_both_and_tells_a_changed_attack(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("--dataset", "digits", "--preset", "smoke", "--samples", "4", "--device", "cpu"),
        *("--defense", "my_package.plain:build,my_package.guarded:Guard", "--epsilons", "0.2"),
        *("--attack", "my_package.attack:Sign,my_package.attack:instance@noisy", "--jobs", "2"),
        *("--results", str(tmp_path / "results")),
    ]
    assert run.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "my_package.plain:build" in printed and "my_package.attack:Sign" in printed
    folder = tmp_path / "results" / "digits" / "records"
    names = {path.name for path in folder.glob("*.parquet")}
    assert len(names) == 6
    known = [records.provenance(path) for path in folder.glob("*.parquet")]
    assert all(metadata["error"] is None for metadata in known)
    assert {metadata["not_applicable"] for metadata in known} == {
        None,
        "my_package.plain:build has no surrogate 'noisy'",
    }
    found = groups.find(folder, defenses=groups.names("my_package.plain:build"))
    assert len(found.groups[0].records) == 3
    written = tables.write(found.groups[0].records, tmp_path, "own", "Own")
    latex = next(path for path in written if path.suffix == ".tex").read_text()
    assert r"my\_package.plain:build" in latex
    path = package / "attack.py"
    path.write_text(path.read_text() + "\n# another version\n")
    forget()
    assert run.main(arguments) == 0
    added = {path.name for path in folder.glob("*.parquet")} - names
    assert len(added) == 4, "every attack's cell, and no clean one"


def test_a_worker_that_knew_nothing_of_the_folder_unpickles_its_attack(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, attack = catalog.parse_attack("my_package.attack:instance", None, 1)
    here = workers._Here(tuple(sys.path), repr)
    sent = pickle.dumps((here, attack))
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(package.parent)])
    forget()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("my_package")
    function, found = pickle.loads(sent)
    assert function(found) == repr(attack)


def test_commands_train_nothing_and_tell_how_good_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataset", "digits", "--defense", "my_package.plain:build", "--device", "cpu"]
    assert train.main([*arguments, "--preset", "smoke"]) == 0
    assert "validation images right as deployed, 0 epochs" in capsys.readouterr().err
