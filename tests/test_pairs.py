"""Training pairs: made once, block by block, and only of what they say they are of."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks import ATTACKS
from attacks.from_foolbox import CarliniWagner
from attacks.threat import Norm
from benchmark import catalog, pairs, train
from benchmark.datasets import DATASETS
from benchmark.datasets.base import Dataset
from benchmark.pair_store import Pairs
from benchmark.pairs import Victim
from benchmark.presets import PRESETS
from benchmark.progress import Bar, Progress
from benchmark.weights import Stored
from defenses.base import Wrapped
from defenses.pairing import Attacked, Pairing
from defenses.randomness import generator

SMOKE = PRESETS["smoke"]
PAIRING = Pairing(
    "classifier",
    (
        Attacked("fgsm", 0.3),
        Attacked("fgsm", 0.1),
        Attacked("cw-l2[confidence=2,binary_search_steps=1,steps=20,stepsize=0.3,initial_const=5]"),
    ),
    images=40,
)


class KilledError(Exception):
    """Stands for the end of the process."""


class KillingProgress(Progress):
    """Ends the process after some blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__(silent=True)
        self.left = blocks

    def start(self, label: str, total: int) -> Bar:
        return _KillingBar(self, label, total)


class _KillingBar(Bar):
    def __init__(self, progress: KillingProgress, label: str, total: int) -> None:
        super().__init__(progress, label, total)
        self.owner = progress

    def advance(self, n: int = 1, note: str = "") -> None:
        super().advance(n, note)
        self.owner.left -= 1
        if self.owner.left < 0:
            raise KilledError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return DATASETS["digits"].load()


@pytest.fixture(scope="module")
def victim(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Victim:
    with pytest.MonkeyPatch.context() as patch, Progress(silent=True) as progress:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("weights")))
        preset = replace(SMOKE, defenses={"magnet": {"epochs": 4, "learning_rate": 3e-3}})
        stored = train.ensure(digits, "magnet", preset, progress=progress)
    recipe = catalog.recipe_for("magnet", preset, "digits")
    return Victim(Wrapped("magnet", recipe), Stored(stored, recipe, digits.task))


@pytest.fixture
def make(
    digits: Dataset, victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Pairs]:
    monkeypatch.setattr(pairs, "BLOCK", 16)

    def run(
        pairing: Pairing = PAIRING,
        progress: Progress | None = None,
        cache: str = "cache",
        jobs: int = 1,
    ) -> Pairs:
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / cache))
        with progress or Progress(silent=True) as shown:
            return pairs.ensure(
                digits, pairing, victim, seed=0, device="cpu", jobs=jobs, progress=shown
            )

    return run


def test_pairs_are_what_the_attack_makes_of_other_images_for_each_attack(
    make: Callable[..., Pairs], digits: Dataset, victim: Victim
) -> None:
    made = make()
    assert len(made) == 120
    first, second, third = (set(made.index[start : start + 40]) for start in (0, 40, 80))
    assert len(first) == 40 and first != second != third
    places = np.arange(120)
    adversarial, clean = made.batch(places, "cpu")
    torch.testing.assert_close(clean, digits.train.batch(made.index).x)
    assert np.array_equal(made.labels, digits.train.labels[made.index])
    moved = Norm.LINF.distance(clean, adversarial)
    half = 0.5 / 255
    assert (moved[:40] - 0.3).abs().max() < half + 1e-6
    assert (moved[40:80] - 0.1).abs().max() < half + 1e-6
    defense = victim.stored("cpu")
    y = torch.from_numpy(made.labels)
    wrong = defense.decide(adversarial, generator(0)).classes != y
    for store, start in zip(made.stores, (0, 40, 80), strict=True):
        fooled = float(wrong[start : start + 40].float().mean())
        assert store.card.fooled == pytest.approx(fooled)
        assert store.card.fooled_unrounded == pytest.approx(fooled, abs=0.06)
    assert made.stores[0].card.fooled > 0.5 and made.stores[2].card.fooled > 0.9


def test_pairs_come_in_the_order_asked_for(make: Callable[..., Pairs]) -> None:
    made = make()
    whole, clean = made.batch(np.arange(120), "cpu")
    places = np.array([119, 3, 50, 3])
    adversarial, own = made.batch(places, "cpu")
    assert torch.equal(adversarial, whole[places]) and torch.equal(own, clean[places])


def test_carlini_and_wagner_hands_over_what_leads_by_its_confidence_and_else_the_image(
    digits: Dataset, victim: Victim
) -> None:
    attack = ATTACKS["cw-l2"]
    assert isinstance(attack, CarliniWagner)
    sure = replace(attack, confidence=3, steps=40, stepsize=0.3, initial_const=10)
    defense, batch = victim.stored("cpu"), digits.train.batch(np.arange(12))
    found = sure.nearest(defense, batch.x, batch.y, generator(0))
    logits = defense.decide(found, generator(0)).logits
    true = logits.gather(1, batch.y[:, None]).squeeze(1)
    others = logits.scatter(1, batch.y[:, None], -torch.inf).amax(dim=1)
    assert bool((others - true >= 3 - 1e-3).all())
    hopeless = replace(sure, confidence=1e6, steps=2)
    assert torch.equal(hopeless.nearest(defense, batch.x, batch.y, generator(0)), batch.x)


def test_a_kill_loses_only_blocks_that_were_being_made(
    make: Callable[..., Pairs], tmp_path: Path
) -> None:
    whole = make(cache="whole")
    with pytest.raises(KilledError):
        make(progress=KillingProgress(blocks=4), cache="cut")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("block-*.npz")}
    assert len(kept) == 5
    seen: list[str] = []

    class Watching(KillingProgress):
        def start(self, label: str, total: int) -> Bar:
            seen.append(f"{total // 16} blocks")
            assert {path: path.stat().st_mtime_ns for path in kept} == kept
            return super().start(label, total)

    resumed = make(progress=Watching(blocks=100), cache="cut")
    assert seen == ["4 blocks"]
    assert resumed.digest == whole.digest
    assert not list((tmp_path / "cut").rglob("block-*.npz"))


def test_finished_pairs_are_not_made_again(make: Callable[..., Pairs]) -> None:
    first = make()
    assert make(progress=KillingProgress(blocks=0)).digest == first.digest


def test_pairs_do_not_depend_on_the_number_of_processes(make: Callable[..., Pairs]) -> None:
    pairing = replace(PAIRING, attacks=PAIRING.attacks[:1])
    assert make(pairing, jobs=2, cache="two").digest == make(pairing, jobs=1, cache="one").digest


def test_fewer_images_than_wanted_are_all_attacked(
    make: Callable[..., Pairs], digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "BLOCK", 600)
    made = make(Pairing("classifier", (Attacked("fgsm", 0.3),), images=5000))
    assert sorted(made.index) == list(range(len(digits.train)))


@pytest.mark.parametrize(
    ("entry", "other"),
    [("victim_digest", "0" * 64), ("dataset_digest", "0" * 32), ("seed", 7)],
)
def test_pairs_of_another_classifier_or_data_set_are_refused(
    entry: str, other: object, make: Callable[..., Pairs], tmp_path: Path
) -> None:
    make()
    card = next(tmp_path.rglob("card.json"))
    card.write_text(json.dumps({**json.loads(card.read_text()), entry: other}))
    with pytest.raises(OSError, match=rf"must hold pairs of {entry} .* delete the folder"):
        make()


@pytest.mark.parametrize("name", ["card.json", "adversarial.npy"])
def test_damaged_pairs_are_refused_by_name(
    name: str, make: Callable[..., Pairs], tmp_path: Path
) -> None:
    make()
    damaged = next(tmp_path.rglob(name))
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 0xFF
    damaged.write_bytes(data)
    with pytest.raises(OSError, match=rf"{damaged.parent.name}.* delete the folder"):
        make()


def test_a_damaged_block_is_refused_by_name(make: Callable[..., Pairs], tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        make(progress=KillingProgress(blocks=4))
    block = sorted(tmp_path.rglob("block-*.npz"))[0]
    block.write_bytes(b"nothing")
    with pytest.raises(OSError, match=rf"{block.name} must be a block of pairs.* delete it"):
        make()


@pytest.mark.parametrize("wanted", [Attacked("fgsm"), Attacked("cw-l2", 0.3), Attacked("boundary")])
def test_an_attack_that_makes_no_pairs_is_refused(
    wanted: Attacked, make: Callable[..., Pairs]
) -> None:
    with pytest.raises(ValueError, match="attack of pairs must have an epsilon and fill its ball"):
        make(replace(PAIRING, attacks=(wanted,)))
