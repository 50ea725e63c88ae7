"""Training: resumable, reproducible, kept under a key that names what it depends on."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from benchmark import history, weights
from benchmark.catalog import recipe_for
from benchmark.datasets import DATASETS
from benchmark.datasets.base import Dataset
from benchmark.presets import PRESETS, Preset
from benchmark.progress import Bar, Progress
from benchmark.train import Schedule, ensure, main
from benchmark.weights import Weights
from defenses import DEFENSES
from defenses.base import Defense, Wrapped
from defenses.informed_substitute import InformedSubstitute
from defenses.inquiry import Inquiry
from defenses.pairing import Attacked
from defenses.projection.learned_inverter import InverterImitation
from defenses.purification import Purifier
from defenses.randomness import generator

_VAE = Wrapped("identity_vae", DEFENSES["identity_vae"])

TINY: Preset = replace(
    PRESETS["smoke"],
    defenses={
        **PRESETS["smoke"].defenses,
        "cnn": {"epochs": 3, "batch_size": 256},
        "eabs": {"epochs": 2, "batch_size": 256, "candidates": 5, "latent_steps": 1},
        "magnet": {"epochs": 1, "batch_size": 512},
        "mad_vae_combined": {
            "epochs": 3,
            "batch_size": 32,
            "pairs": (Attacked("fgsm", 0.3), Attacked("rand-fgsm", 0.3)),
            "pairs_per_attack": 64,
        },
    },
)

ASKING = {
    "asking_substitute": InformedSubstitute(
        summary="", target=_VAE, epochs=4, asked=60, asked_per_epoch=20
    ),
    "asking_inverter": InverterImitation(
        summary="", target=_VAE, epochs=4, asked=60, asked_per_epoch=20
    ),
}
"""Registered for these tests alone."""

KILLS = {
    "mad_vae_combined": 2 + 128 + 6,  # magnet's updates, the pairs, one epoch and a half
    "substitute_e[seed_images=30,epochs=3]": 2 + 2,
}
"""Units of progress after which a training is killed before its last epoch."""


class KilledError(Exception):
    """Stands for the end of the process."""


class KillingProgress(Progress):
    """Ends the process after some updates."""

    def __init__(self, updates: int) -> None:
        super().__init__(silent=True)
        self.left = updates

    def start(self, label: str, total: int) -> Bar:
        return _KillingBar(self, label, total)


class _KillingBar(Bar):
    def __init__(self, progress: KillingProgress, label: str, total: int) -> None:
        super().__init__(progress, label, total)
        self.owner = progress

    def advance(self, n: int = 1, note: str = "") -> None:
        super().advance(n, note)
        self.owner.left -= n
        if self.owner.left < 0:
            raise KilledError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return DATASETS["digits"].load()


@pytest.fixture
def train(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Weights]:
    def run(name: str, cache: str = "cache", progress: Progress | None = None) -> Weights:
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / cache))
        with progress or Progress(silent=True) as shown:
            return ensure(digits, name, TINY, progress=shown)

    return run


@pytest.mark.parametrize(
    "name", ["cnn", "eabs", "mad_vae_combined", "substitute_e[seed_images=30,epochs=3]"]
)
def test_training_killed_and_resumed_ends_at_the_same_weights(
    name: str, train: Callable[..., Weights]
) -> None:
    whole = train(name, "whole")
    with pytest.raises(KilledError):
        train(name, "cut", KillingProgress(updates=KILLS.get(name, 6)))
    resumed = train(name, "cut")
    assert resumed.digest == whole.digest
    losses = [history.path_beside(each.path).read_text() for each in (whole, resumed)]
    assert losses[0] == losses[1]
    assert losses[0].startswith("update,")
    assert not list(resumed.path.parent.glob("*.checkpoint"))


@pytest.mark.parametrize("name", ASKING)
def test_a_killed_training_asks_about_nothing_that_a_checkpoint_remembers(
    name: str, train: Callable[..., Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    kind = type(ASKING[name])
    ask = kind.ask

    def counting(self: Inquiry, target: Defense, x: Tensor, rng: Generator) -> tuple[Tensor, ...]:
        asked.append(len(x))
        return ask(self, target, x, rng)

    monkeypatch.setattr(kind, "ask", counting)
    monkeypatch.setitem(DEFENSES, name, ASKING[name])
    target = train("identity_vae", "cut")
    shutil.copytree(tmp_path / "cut", tmp_path / "whole")
    whole = train(name, "whole")
    assert sum(asked) == 60
    asked.clear()
    with pytest.raises(KilledError):
        train(name, "cut", KillingProgress(updates=1))  # the second is not in the checkpoint
    resumed = train(name, "cut")
    assert asked == [20, 20, 20, 20]
    assert resumed.digest == whole.digest
    assert resumed.card["parts"] == {"target": target.digest}
    expected = {"InformedSubstitute": False, "InverterImitation": True}[kind.__name__]
    assert any(key.startswith("target.") for key in load_file(resumed.path)) is expected


def test_checkpoint_of_other_networks_is_refused(
    train: Callable[..., Weights], tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        train("cnn", progress=KillingProgress(updates=6))
    (checkpoint,) = tmp_path.rglob("*.checkpoint")
    tensors = load_file(checkpoint)
    save_file(
        {name.replace("network", "network.other"): value for name, value in tensors.items()},
        checkpoint,
    )
    with pytest.raises(ValueError, match=r"networks of cnn as they are now.*delete it"):
        train("cnn")


def test_weights_are_trained_once(train: Callable[..., Weights]) -> None:
    first = train("cnn")
    second = train("cnn", progress=KillingProgress(updates=0))
    assert second.digest == first.digest


def test_training_leaves_global_randomness_alone(train: Callable[..., Weights]) -> None:
    state = torch.get_rng_state()
    train("cnn")
    assert torch.equal(torch.get_rng_state(), state)


def test_adversarial_training_starts_from_the_trained_cnn(train: Callable[..., Weights]) -> None:
    adversarial = train("adv_l2")
    assert adversarial.card["starts_from"] == train("cnn").digest


def test_card_says_what_the_weights_are(train: Callable[..., Weights], digits: Dataset) -> None:
    card = train("cnn").card
    assert card["dataset_digest"] == digits.digest
    assert card["recipe"] == recipe_for("cnn", TINY, "digits").training()
    assert card["epochs"] == 3
    assert card["seconds"] > 0
    assert 0 <= card["deployed_accuracy"] <= 1


def test_loaded_defense_answers_as_when_it_was_stored(
    train: Callable[..., Weights], digits: Dataset
) -> None:
    stored = train("eabs")
    recipe = recipe_for("eabs", TINY, "digits")
    defense = weights.load_defense(stored, recipe, digits.task, "cpu")
    assert not defense.training
    assert not any(parameter.requires_grad for parameter in defense.parameters())
    x = digits.test.batch(torch.arange(4).numpy()).x
    again = weights.load_defense(stored, replace(recipe, latent_rate=0.05), digits.task, "cpu")
    expected = defense.decide(x, generator(0)).logits
    assert torch.equal(again.decide(x, generator(0)).logits, expected)


def test_damaged_weights_are_refused_by_name(
    train: Callable[..., Weights], digits: Dataset
) -> None:
    stored = train("cnn")
    data = bytearray(stored.path.read_bytes())
    data[-1] ^= 1
    stored.path.write_bytes(bytes(data))
    with pytest.raises(OSError, match=f"{stored.path.name} must have digest .* train again"):
        weights.load_defense(stored, recipe_for("cnn", TINY, "digits"), digits.task, "cpu")


def test_weights_of_another_defense_are_refused(
    train: Callable[..., Weights], digits: Dataset
) -> None:
    with pytest.raises(OSError, match="must fit SynthesisClassifier"):
        weights.load_defense(train("cnn"), DEFENSES["abs"], digits.task, "cpu")


def test_diverging_training_stops_with_the_loss_and_a_remedy(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    wild = replace(TINY, defenses={"cnn": {"epochs": 3, "learning_rate": 1e30}})
    with (
        Progress(silent=True) as progress,
        pytest.raises(ValueError, match=r"cross-entropy of cnn must stay finite.*lower"),
    ):
        ensure(digits, "cnn", wild, progress=progress)


def test_small_data_sets_take_more_epochs_until_there_are_enough_updates() -> None:
    recipe = replace(DEFENSES["cnn"], epochs=4, batch_size=128, halve_every=1, least_updates=100)
    assert Schedule.of(recipe, 1167) == Schedule(epochs=12, batches=9, halve_every=3, stretch=3)
    assert Schedule.of(recipe, 54000) == Schedule(epochs=4, batches=421, halve_every=1)
    assert [Schedule(12, 9, 3).rate(epoch) for epoch in (0, 2, 3, 9)] == [1, 1, 0.5, 0.125]


def test_train_command_names_an_unknown_defense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--defense", "eaps"]) == 2
    assert "did you mean 'eabs'?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}"])
def test_a_damaged_card_is_refused_by_name(text: str, train: Callable[..., Weights]) -> None:
    card = train("cnn").path.with_suffix(".json")
    card.write_text(text)
    with pytest.raises(OSError, match=rf"{card.name} must .* train again"):
        train("cnn")


def test_weights_and_thresholds_from_another_data_set_are_refused(
    train: Callable[..., Weights],
) -> None:
    card = train("gmvae").path.with_suffix(".json")
    card.write_text(card.read_text().replace('"dataset": "digits"', '"dataset": "mnist"'))
    with pytest.raises(OSError, match="weights and thresholds from digits, got those from mnist"):
        train("gmvae")


def test_train_command_names_a_missing_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "nowhere"]) == 2
    assert "device must be available here, got 'nowhere'" in capsys.readouterr().err


def test_contained_and_queried_defenses_are_trained_first_and_name_their_digests(
    train: Callable[..., Weights],
) -> None:
    purifier, substitute = train("mad_vae_combined"), train("substitute_e")
    magnet = train("magnet", progress=KillingProgress(updates=0))
    assert purifier.card["parts"] == {"classifier": magnet.digest}
    assert substitute.card["parts"] == {"target": magnet.digest}
    assert purifier.card["train_pairs"] == 128 and len(purifier.card["pairs"]) == 64
    assert purifier.path.name != train("mad_vae_combined[classifier=cnn]").path.name
    tensors, inner = load_file(purifier.path), load_file(magnet.path)
    assert all(torch.equal(tensors[f"classifier.{key}"], inner[key]) for key in inner)
    assert not any("target" in key for key in load_file(substitute.path))


def test_another_classifier_below_gives_other_weights(
    train: Callable[..., Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train("identity_vae")
    longer = {**TINY.defenses, "magnet": {"epochs": 2, "batch_size": 512}}
    monkeypatch.setitem(globals(), "TINY", replace(TINY, defenses=longer))
    second = train("identity_vae")
    assert second.path.name != first.path.name
    assert second.card["parts"] != first.card["parts"]


def test_what_joins_after_training_leaves_the_trained_weights_alone(
    train: Callable[..., Weights], digits: Dataset
) -> None:
    alone, name = train("mad_vae_combined"), "mad_vae_combined[answered_by=substitute_e]"
    joined = train(name)
    assert joined.path == alone.path and joined.digest != alone.digest
    substitute = train("substitute_e", progress=KillingProgress(updates=0))
    defense = weights.load_defense(joined, recipe_for(name, TINY, "digits"), digits.task, "cpu")
    inner = weights.load_defense(
        substitute, recipe_for("substitute_e", TINY, "digits"), digits.task, "cpu"
    )
    assert isinstance(defense, Purifier)
    x = digits.test.batch(torch.arange(4).numpy()).x
    expected = inner.decide(defense.purify(x), generator(0)).logits
    assert torch.equal(defense.decide(x, generator(0)).logits, expected)


@pytest.mark.parametrize("name", ["defense_vae[classifier=gmvae]", "substitute_a[target=gmvae]"])
def test_a_rejecting_defense_inside_another_is_refused_before_it_is_trained(
    name: str, train: Callable[..., Weights]
) -> None:
    with pytest.raises(ValueError, match="got 'gmvae', which may reject"):
        train(name, progress=KillingProgress(updates=0))


def test_rates_follow_the_recipe_or_the_groups_own_decay() -> None:
    schedule = Schedule(epochs=6, batches=1, halve_every=2, stretch=2)
    weight = torch.nn.Parameter(torch.zeros(1))
    halved = torch.optim.SGD([weight], lr=1.0)
    decayed = torch.optim.SGD([{"params": [weight], "decay": 0.1, "least": 0.05}], lr=1.0)
    rates = []
    for epoch in range(6):
        for optimizer in (halved, decayed):
            schedule.apply(optimizer, epoch)
        rates.append([each.param_groups[0]["lr"] for each in (halved, decayed)])
    assert rates == [[1, 1], [1, 1], [0.5, 0.1], [0.5, 0.1], [0.25, 0.05], [0.25, 0.05]]


def test_train_command_makes_pairs_and_trains_a_purifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    arguments = ["--dataset", "digits", "--defense", "mad_vae_combined", "--preset", "smoke"]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert "mad_vae_combined: " in capsys.readouterr().err
    assert len(list(tmp_path.rglob("adversarial.npy"))) == 9
