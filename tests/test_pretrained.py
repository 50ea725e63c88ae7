"""Classifiers of other libraries, with small packages in place of timm, torchvision, RobustBench.

The stand-ins answer as the public interfaces of timm 1.0, torchvision 0.28 and RobustBench 1.1 do,
on 8x8 images (RobustBench's on those of its own data sets).
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmark import artefact, catalog, overrides, reproduce, run, train, weights
from benchmark.datasets import DATASETS
from benchmark.datasets.base import Dataset
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.schedule import Schedule
from benchmark.weights import Weights
from defenses.base import Task, Wrapped
from defenses.pretrained import LIBRARIES, Pretrained
from defenses.randomness import generator

SMOKE = replace(
    PRESETS["smoke"],
    defenses={**PRESETS["smoke"].defenses, "identity_vae": {"epochs": 1, "batch_size": 512}},
)

NETWORK = '''
"""{name} has 10 classes and weights 0, 1, 2, ... after a download."""
import torch
from torch import nn

DOWNLOADS = []


class Network(nn.Module):
    def __init__(self, inputs=64, classes=10, extra=False):
        super().__init__()
        self.num_classes = classes
        self.head = nn.Linear(inputs, classes)
        if extra:
            self.auxiliary = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(x.flatten(1))


def fetch(name, network):
    DOWNLOADS.append(name)
    if name == "offline":
        raise OSError("no route to host")
    if name == "withdrawn":
        raise RuntimeError("No pretrained weights exist for withdrawn.")
    with torch.no_grad():
        head = network.head
        head.weight.copy_(torch.arange(head.weight.numel()).reshape(head.weight.shape) % 97)
        head.bias.zero_()
'''

TIMM = """
from timm.network import Network, fetch

__version__ = "1.0.31"
TAGGED = ["many.a", "offline.a", "tiny.a", "tiny.b", "uneven.a", "wide.a", "withdrawn.a"]


def list_models(filter="", module="", pretrained=False, exclude_filters="",
                name_matches_cfg=False, include_tags=None):
    bare = sorted({name.partition(".")[0] for name in TAGGED})
    if not pretrained:
        bare.append("unpublished")
    return TAGGED if (pretrained if include_tags is None else include_tags) else bare


def create_model(model_name, pretrained=False, pretrained_cfg=None, **kwargs):
    name, _, tag = model_name.partition(".")
    network = Network(
        inputs=256 if name == "wide" else 64,
        classes=1000 if name == "many" else 10,
        extra=name == "uneven" and not pretrained,
    )
    side = 16 if name == "wide" else 8
    network.pretrained_cfg = {"architecture": name, "tag": tag or "a", "side": side}
    if pretrained:
        fetch(name, network)
    return network
"""

TIMM_DATA = """
def resolve_model_data_config(model, args=None, pretrained_cfg=None, use_test_size=False,
                              verbose=False):
    side = model.pretrained_cfg["side"]
    return {"input_size": (1, side, side), "interpolation": "bicubic", "mean": (0.25,),
            "std": (0.5,), "crop_pct": 0.95, "crop_mode": "center"}
"""

TORCHVISION_MODELS = """
import sys
from enum import Enum

from torchvision.network import Network, fetch


class ImageClassification:
    crop_size, resize_size, mean, std = [8], [9], [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]


class Weights:
    meta = {"categories": [str(k) for k in range(10)]}
    transforms = ImageClassification


class Tiny_Weights(Enum):
    IMAGENET1K_V1 = Weights()
    DEFAULT = IMAGENET1K_V1

    @property
    def meta(self):
        return self.value.meta

    @property
    def transforms(self):
        return self.value.transforms

    def __repr__(self):
        return f"{self.__class__.__name__}.{self._name_}"


def list_models(module=None):
    return ["tiny"] if module is sys.modules[__name__] else ["detector", "tiny"]


def get_model_weights(name):
    return Tiny_Weights


def get_model(name, **config):
    network = Network(inputs=192)
    if config["weights"] is not None:
        assert isinstance(config["weights"], Tiny_Weights)
        fetch(name, network)
    return network
"""


ROBUSTBENCH_ZOO = """
from enum import Enum

from robustbench.network import Network


class BenchmarkDataset(Enum):
    cifar_10 = "cifar10"
    imagenet = "imagenet"


class ThreatModel(Enum):
    Linf = "Linf"
    L2 = "L2"


def entry(name, **arguments):
    return {"model": lambda: Network(**arguments), "gdrive_id": name}


model_dicts = {
    BenchmarkDataset.cifar_10: {
        ThreatModel.Linf: {"Tiny2020": entry("tiny", inputs=3072)},
        ThreatModel.L2: {"Tiny2020": entry("tiny-l2", inputs=3072)},
    },
    BenchmarkDataset.imagenet: {ThreatModel.Linf: {"Big2021": entry("big", classes=1000)}},
}
"""

ROBUSTBENCH_UTILS = """
from robustbench.model_zoo import BenchmarkDataset, ThreatModel, model_dicts
from robustbench.network import fetch


def load_model(model_name, model_dir="./models", dataset="cifar10", threat_model="Linf",
               custom_checkpoint="", norm=None):
    entry = model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat_model)][model_name]
    network = entry["model"]()
    fetch(entry["gdrive_id"], network)
    fetch.folder = str(model_dir)
    return network.eval()
"""


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the stand-ins, which are forgotten afterwards."""
    files = {
        "timm/__init__.py": TIMM,
        "timm/data.py": TIMM_DATA,
        "timm/network.py": NETWORK,
        "torchvision/__init__.py": '__version__ = "0.28.0"\n',
        "torchvision/models.py": TORCHVISION_MODELS,
        "torchvision/network.py": NETWORK,
        "robustbench/__init__.py": "",
        "robustbench/model_zoo.py": ROBUSTBENCH_ZOO,
        "robustbench/network.py": NETWORK,
        "robustbench/utils.py": ROBUSTBENCH_UTILS,
        "robustbench-1.1.1.dist-info/METADATA": "Name: robustbench\nVersion: 1.1.1\n",
    }
    for name, text in files.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    forget()
    yield tmp_path / "site"
    forget()


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in LIBRARIES:
            del sys.modules[name]


def downloads(library: str) -> list[str]:
    module = sys.modules.get(f"{library}.network")
    return list(module.DOWNLOADS) if module else []


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return DATASETS["digits"].load()


@pytest.fixture
def stored(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))

    def ensure(name: str) -> Weights:
        with Progress(silent=True) as progress:
            return train.ensure(digits, name, SMOKE, progress=progress)

    return ensure


def expected(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Weights 0, 1, 2, ... modulo 97 times normalised pixels, added one by one."""
    pixels = ((x - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)).flatten(1)
    weight = torch.arange(10 * pixels.shape[1]).reshape(10, -1) % 97
    return (weight[None].double() * pixels[:, None].double()).sum(dim=2)


def test_a_pretrained_classifier_answers_as_its_library_on_normalised_pixels(
    libraries, digits, stored
):
    recipe = catalog.recipe_for("timm:tiny", SMOKE, "digits")
    defense = weights.load_defense(stored("timm:tiny"), recipe, digits.task, "cpu")
    x = digits.test.batch(torch.arange(5).numpy()).x
    wanted = expected(x, torch.tensor([0.25]), torch.tensor([0.5]))
    logits = defense.decide(x, generator(0)).logits
    torch.testing.assert_close(logits.double(), wanted, rtol=1e-5, atol=1e-2)
    seen, _ = defense.surrogate(None, generator(0))(x)
    torch.testing.assert_close(seen, logits)
    assert not any(parameter.requires_grad for parameter in defense.parameters())


def test_channels_are_normalised_by_torchvisions_own_preset(libraries):
    task = Task((3, 8, 8), 10, "digits", 0.0, 0.1, 0.5)
    recipe = catalog.registered("torchvision:tiny")
    defense = recipe.build(task)
    assert downloads("torchvision") == []
    assert recipe.adopt(defense) == "torchvision 0.28.0: Tiny_Weights.IMAGENET1K_V1"
    assert downloads("torchvision") == ["tiny"]
    x = torch.rand((4, 3, 8, 8), generator=generator(0))
    wanted = expected(x, torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0]))
    logits = defense.eval().decide(x, generator(0)).logits
    torch.testing.assert_close(logits.double(), wanted, rtol=1e-5, atol=1e-2)


def test_robustbenchs_models_take_pixels_as_they_are(libraries):
    task = Task((3, 32, 32), 10, "svhn", 0.0, 0.1, 0.5)
    recipe = catalog.registered("robustbench:cifar10/Linf/Tiny2020")
    defense = recipe.build(task)
    assert downloads("robustbench") == []
    assert recipe.adopt(defense) == "robustbench 1.1.1: cifar10/Linf/Tiny2020"
    assert downloads("robustbench") == ["tiny"]
    x = torch.rand((4, 3, 32, 32), generator=generator(0))
    wanted = expected(x, torch.zeros(3), torch.ones(3))
    logits = defense.eval().decide(x, generator(0)).logits
    torch.testing.assert_close(logits.double(), wanted, rtol=1e-5, atol=1e-1)


def test_robustbench_names_tell_data_set_and_threat_model(libraries):
    recipe = catalog.registered("robustbench:cifar10/L2/Tiny2020")
    recipe.adopt(recipe.build(Task((3, 32, 32), 10, "svhn", 0.0, 0.1, 0.5)))
    assert downloads("robustbench") == ["tiny-l2"]
    assert sys.modules["robustbench.network"].fetch.folder.endswith("hub/robustbench")
    with pytest.raises(LookupError, match=r"did you mean 'robustbench:cifar10/L\w+/Tiny2020' or "):
        catalog.registered("robustbench:cifar10/Linf/Tiny2021")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10/Linf/Tiny2020", "images of robustbench:.* must be .* 1x8x8, got 3x32x32; name a"),
        ("imagenet/Linf/Big2021", "classes of robustbench:.* must be the data set's, 10, got 1000"),
    ],
)
def test_a_robustbench_model_for_other_images_is_refused_in_words(libraries, stored, name, message):
    with pytest.raises(ValueError, match=message):
        stored(f"robustbench:{name}")
    assert downloads("robustbench") == []


def test_weights_are_downloaded_once_and_kept_with_a_card(libraries, digits, stored):
    first = stored("timm:tiny.b")
    assert downloads("timm") == ["tiny"]
    again = stored("timm:tiny.b")
    weights.load_defense(
        again, catalog.recipe_for("timm:tiny.b", SMOKE, "digits"), digits.task, "cpu"
    )
    assert downloads("timm") == ["tiny"]
    assert again.digest == first.digest
    assert first.card["adopted"] == "timm 1.0.31: tiny.b"
    assert (first.card["defense"], first.card["epochs"]) == ("timm:tiny.b", 0)
    assert first.card["updates"] == 0 and 0 <= first.card["deployed_accuracy"] <= 1
    assert first.path.name.startswith("timm-tiny.b-smoke-")


def test_trained_defenses_adopt_nothing(stored):
    assert stored("cnn").card["adopted"] is None


def test_two_weights_of_one_model_have_two_keys(libraries, stored):
    assert stored("timm:tiny.a").path != stored("timm:tiny.b").path


def test_a_defense_protects_the_librarys_classifier_with_exactly_its_weights(libraries, stored):
    around, bare = stored("identity_vae[classifier=timm:tiny]"), stored("timm:tiny")
    assert downloads("timm") == ["tiny"]
    assert around.card["parts"] == {"classifier": bare.digest}
    whole, own = weights.load_tensors(around.path), weights.load_tensors(bare.path)
    assert own.keys() == {"network.0.mean", "network.0.std", "network.1.head.weight"} | {
        "network.1.head.bias"
    }
    for name, tensor in own.items():
        assert torch.equal(whole[f"classifier.{name}"], tensor)


def test_epochs_train_the_librarys_weights_on(libraries, stored):
    more = stored("timm:tiny[epochs=1,batch_size=512,learning_rate=0.5]")
    assert (more.card["adopted"], more.card["epochs"]) == ("timm 1.0.31: tiny.a", 1)
    plain = weights.load_tensors(stored("timm:tiny").path)["network.1.head.weight"]
    tuned = weights.load_tensors(more.path)["network.1.head.weight"]
    moved = (tuned - plain).abs().max()
    assert 0 < moved <= 0.5 * more.card["updates"] + 1e-3


@pytest.mark.parametrize("least_updates", [0, 50])
def test_a_recipe_of_no_epochs_has_a_schedule_of_none(least_updates):
    recipe = Pretrained(summary="s", library="timm", model="tiny", least_updates=least_updates)
    assert Schedule.of(recipe, 1000).epochs == 0


def test_no_library_is_imported_before_one_of_its_models_is_asked_for(libraries):
    catalog.recipe_for("defense_vae[classifier=cnn]", SMOKE, "digits")
    assert not set(LIBRARIES) & set(sys.modules)
    catalog.registered("timm:tiny")
    assert set(LIBRARIES) & set(sys.modules) == {"timm"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tim:tiny", "unknown library of classifiers 'tim'; did you mean 'timm'? available: timm"),
        ("foo:bar", "module 'foo' must be found for foo:bar, got no module 'foo'"),
        (
            "timm:tniy",
            "unknown model 'tniy' of timm; did you mean 'timm:tiny' or 'timm:tiny.b' or "
            "'timm:tiny.a'? it has trained weights under 13 names",
        ),
        ("timm:xxxx", "unknown model 'xxxx' of timm; it has trained weights under 13 names"),
        ("timm:unpublished", "unknown model 'unpublished' of timm; "),
        ("torchvision:detector", "unknown model 'detector' of torchvision; it has trained weights"),
    ],
)
@pytest.mark.parametrize("form", ["{}", "defense_vae[classifier={}]"])
def test_an_unknown_library_or_model_is_a_sentence_with_near_names(libraries, form, name, message):
    with pytest.raises(LookupError) as caught:
        catalog.recipe_for(form.format(name), SMOKE, "digits")
    assert message in str(caught.value)


@pytest.mark.parametrize("library", list(LIBRARIES))
def test_a_missing_library_is_one_sentence_with_its_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LookupError) as caught:
        catalog.registered(f"{library}:resnet50")
    message = str(caught.value)
    assert message.startswith(f"package {library} must be there for {library}:<model>, got ")
    assert message.endswith(f"install it with pip install '.[{library}]'") and "\n" not in message


def test_a_library_that_cannot_be_imported_says_why(libraries):
    (libraries / "timm" / "__init__.py").write_text("raise RuntimeError('operator missing')")
    with pytest.raises(LookupError, match=r"must be there for timm:<model>, got operator missing"):
        catalog.registered("timm:tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("many", "classes of timm:many must be the data set's, 10, got 1000; name a model or"),
        ("wide", "images of timm:wide must be the data set's, 1x8x8, got 1x16x16; name a model or"),
    ],
)
def test_a_model_that_does_not_fit_the_data_set_is_refused(libraries, stored, name, message):
    for spec in (f"timm:{name}", f"identity_vae[classifier=timm:{name}]"):
        with pytest.raises(ValueError, match=message):
            stored(spec)
    assert downloads("timm") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("offline", r"weights of timm:offline must come from timm and fit, got: no route to host"),
        ("withdrawn", r"got: No pretrained weights exist for withdrawn\.; see whether"),
        ("uneven", r"weights of timm:uneven must come from timm and fit, got: .*auxiliary"),
    ],
)
def test_weights_that_cannot_be_had_or_do_not_fit_are_named(
    libraries, stored, tmp_path, name, message
):
    with pytest.raises(OSError, match=r"(?s)" + message):
        stored(f"timm:{name}")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_classifier_option_reaches_only_defenses_that_protect_one():
    specs = ("magnet", "defense_vae", "mad_vae_combined[centres=separate]", "identity_vae[a=1]")
    assert overrides.with_classifier(specs, "cnn") == (
        "magnet",
        "defense_vae[classifier=cnn]",
        "mad_vae_combined[centres=separate,classifier=cnn]",
        "identity_vae[a=1,classifier=cnn]",
    )


def test_a_defense_that_names_its_classifier_keeps_it():
    specs = ("defense_vae[classifier=magnet]", "defense_vae")
    assert overrides.with_classifier(specs, "cnn") == (specs[0], "defense_vae[classifier=cnn]")


def test_coverage_joins_the_fields_that_a_defense_names_already():
    assert overrides.with_coverage(["gmvae[learns_variance=true]"], 0.9) == (
        "gmvae[learns_variance=true,coverage=0.9]",
    )


def test_the_classifier_option_without_a_defense_that_protects_one_is_refused():
    with pytest.raises(ValueError, match=r"protect one, such as identity_vae, .*got only cnn, abs"):
        overrides.with_classifier(("cnn", "abs"), "cnn")


@pytest.mark.parametrize("classifier", ["cnnn", "cnn[epochs=3]"])
def test_the_classifier_option_names_a_classifier_by_its_name_alone(classifier):
    with pytest.raises(LookupError, match=f"unknown defense {re.escape(repr(classifier))}; "):
        overrides.with_classifier(["defense_vae"], classifier)


def test_a_specification_resolves_to_the_librarys_recipe(libraries):
    wrapped = catalog.recipe_for("defense_vae[classifier=timm:tiny]", SMOKE, "digits").wraps()
    recipe = catalog.recipe_for("timm:tiny", SMOKE, "digits")
    assert wrapped == {"classifier": Wrapped("timm:tiny", recipe)}
    assert recipe == catalog.registered("timm:tiny")


def test_reproduced_artefacts_name_another_classifier_in_title_and_file(libraries):
    wanted = artefact.load("mad-vae-table-1")
    made = reproduce.prepare(
        wanted, PRESETS["quick"], DATASETS["mnist"], classifier="torchvision:tiny"
    )
    assert made.plan.defenses[0] == "torchvision:tiny"  # what is undefended, in place of magnet
    assert "defense_vae[classifier=torchvision:tiny]" in made.plan.defenses
    assert made.title.endswith("; the defenses protect torchvision:tiny")
    assert made.stem == "mad-vae-table-1-quick-torchvision-tiny"


def test_commands_attack_the_librarys_classifier_bare_and_protected(
    libraries, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    defenses = ["--dataset", "digits", "--defense", "timm:tiny,identity_vae", "--preset", "smoke"]
    chosen = [*defenses, "--classifier", "timm:tiny", "--device", "cpu"]
    assert train.main(chosen) == 0
    told = capsys.readouterr().err
    assert "timm:tiny: " in told and "identity_vae[classifier=timm:tiny]: " in told
    attack = ["--attack", "fgsm", "--jobs", "1", "--results", str(tmp_path / "results")]
    assert run.main([*chosen, *attack]) == 0
    printed = capsys.readouterr().out
    assert "timm:tiny" in printed and "identity_vae[classifier=timm:tiny]" in printed
    assert downloads("timm") == ["tiny"]


@pytest.mark.parametrize("main", [run.main, train.main])
def test_commands_name_an_unknown_classifier(main, capsys):
    arguments = ["--dataset", "digits", "--defense", "defense_vae", "--classifier", "tim:tiny"]
    assert main(arguments) == 2
    assert "unknown library of classifiers 'tim'; did you mean" in capsys.readouterr().err
