"""Certificates held against attacks."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Generator, Tensor

from benchmark import bounds
from benchmark.certify import attacks_on, certify, main, write
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
    found = bounds.attacked(attacks_on(folder, own, seed=0))
    assert found["attack"].notna().tolist() == [True, True, False]
    assert not attacks_on(folder, own, seed=1)
    assert not attacks_on(folder, replace(own, digest="other"), seed=0)
    assert bounds.attacked([]).empty


def test_a_certificate_above_an_attack_is_counted(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "defense": "eabs",
            "sample": [0, 1, 2],
            "label": [0, 0, 0],
            "certificate": [0.5, 0.1, 0.9],
            "attack": [0.4, 0.2, float("nan")],
            "right": [True, True, True],
            "weights": "0" * 12,
        }
    )
    markdown, by_sample, *drawn = write(frame, tmp_path, "certificate", "Radii", radius=0.5)
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
    names = [f"certificate-bounds.{suffix}" for suffix in ("csv", "png", "svg")]
    assert [path.name for path in drawn] == names
    assert "![certificate-bounds.svg](certificate-bounds.svg)" in markdown.read_text()


def test_defenses_that_cannot_be_drawn_are_named_with_the_reason(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "defense": ["eabs"],
            "sample": [0],
            "label": [0],
            "certificate": [0.5],
            "attack": [float("nan")],
            "right": pd.array([None], dtype="boolean"),
            "weights": "0" * 12,
        }
    )
    markdown, _ = write(frame, tmp_path, "certificate", "Radii", radius=0.5, others=("cnn",))
    assert "for want of records: eabs" in markdown.read_text()
    assert "Left out: cnn. Without a certificate the lower bound is 0" in markdown.read_text()


def test_redrawing_needs_the_radii_and_the_records_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = {"dataset": "digits", "attack_repr": "A()"}
    write_cell(tmp_path, "eabs", "pgd-l2", {0.5: "wcw"}, distances=[0.4, 0.0, 0.3], **attack)
    folder = tmp_path / "digits"
    (folder / "certificate-quick.csv").write_text(
        "defense,sample,label,certificate,attack\neabs,0,0,0.2,\neabs,1,0,0.1,\neabs,2,0,0.4,0.9\n"
    )
    assert main(["--dataset", "digits", "--redraw", "--results", str(tmp_path)]) == 0
    assert "certificate-quick-bounds.svg" in capsys.readouterr().out
    again = bounds.load(folder / "certificate-quick.csv")
    assert again["attack"].tolist() == pytest.approx([0.4, float("nan"), 0.3], nan_ok=True)
    assert again["certificate"].tolist() == [0.2, 0.1, 0.4]
    assert again["weights"].tolist() == ["eabs00000000"] * 3
    written = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert main(["--dataset", "digits", "--redraw", "--results", str(tmp_path)]) == 0
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == written


@pytest.mark.parametrize("option", [["--defense", "abs"], ["--samples", "5"]])
def test_redrawing_takes_no_options_that_it_would_ignore(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dataset", "digits", "--redraw", *option]) == 2
    assert "--redraw must stand without --defense and --samples" in capsys.readouterr().err


def test_redrawing_without_an_earlier_run_names_the_missing_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dataset", "digits", "--redraw", "--results", str(tmp_path)]) == 2
    assert "certificate-quick.csv" in capsys.readouterr().err


def test_certify_command_refuses_an_unknown_defense(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "digits", "--defense", "eaps"]) == 2
    assert "did you mean 'eabs'" in capsys.readouterr().err
