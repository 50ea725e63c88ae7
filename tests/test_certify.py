"""Certificates held against attacks."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Generator, Tensor

from benchmark.certify import certify, main, smallest_attacks, write
from benchmark.datasets import DATASETS
from benchmark.progress import Progress
from benchmark.shelf import Armed
from defenses import DEFENSES
from defenses.base import Defense
from tests.synthetic_records import write_cell

DIGITS = DATASETS["digits"].load()


class Certified(torch.nn.Module):
    """Its radius is a hundredth of the label."""

    def certificate(self, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        return y / 100


def armed(defense: object) -> Armed:
    return Armed("eabs", "EABS(epochs=1)", "eabs" + "0" * 32, lambda device: defense)  # type: ignore[arg-type, return-value]


def test_certificates_come_by_sample() -> None:
    with Progress(silent=True) as progress:
        frame = certify(
            DIGITS,
            armed(Certified()),
            torch.arange(30).numpy(),
            seed=0,
            progress=progress,
            device="cpu",
        )
    assert frame["sample"].tolist() == list(range(30))
    assert frame["certificate"].tolist() == pytest.approx((frame["label"] / 100).tolist())


def test_a_defense_without_certificate_is_named() -> None:
    plain: Defense = DEFENSES["cnn"].build(DIGITS.task)
    with (
        Progress(silent=True) as progress,
        pytest.raises(ValueError, match=r"defense must have a certificate, got 'eabs'"),
    ):
        index = torch.arange(2).numpy()
        certify(DIGITS, armed(plain), index, seed=0, progress=progress, device="cpu")


def test_only_attacks_on_the_same_weights_and_seed_count(tmp_path: Path) -> None:
    folder = tmp_path / "mnist" / "records"
    write_cell(tmp_path, "eabs", "pgd-l2", {1.5: "wwc"})
    own = armed(Certified())
    assert smallest_attacks(folder, own, seed=0).index.tolist() == [0, 1]
    assert smallest_attacks(folder, own, seed=1).empty
    assert smallest_attacks(folder, replace(own, digest="other"), seed=0).empty


def test_a_certificate_above_an_attack_is_counted(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "defense": "eabs",
            "sample": [0, 1, 2],
            "label": [0, 0, 0],
            "certificate": [0.5, 0.1, 0.9],
            "attack": [0.4, 0.2, float("nan")],
        }
    )
    markdown, by_sample = write(frame, tmp_path, "certificate", "Radii", 0.5)
    header, _, row = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.read_text().splitlines()
        if line.startswith("|")
    ]
    values = dict(zip(header, row, strict=True))
    assert values["certificate above attack"] == "1"
    assert values["samples broken by an attack"] == "2"
    assert values["certified at 0.5"] == "66.7%"
    assert pd.read_csv(by_sample)["certificate"].tolist() == [0.5, 0.1, 0.9]


def test_certify_command_refuses_an_unknown_defense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "digits", "--defense", "eaps"]) == 2
    assert "did you mean 'eabs'" in capsys.readouterr().err
