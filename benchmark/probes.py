"""Probes: what a sweep asks beside the accuracy, so that a weak attack shows. JSON files.

    results/<dataset>/records/probes/defense-<id>.json   how a defense behaves: `DefenseProbe`
    results/<dataset>/records/probes/cell-<id>.json      how far a cell's number can be trusted

They are small, are kept beside the records and are read by `benchmark.diagnostics`, which has the
rules. `benchmark.probing` makes them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.cells import digest
from benchmark.storage import keep

UNDEFENDED, MASKED = "undefended", "masked"
"""The planted networks of the self-test."""

ENOUGH = 0.5
"""Share of their images that a valid attack breaks. DeepFool, which knows no box, misses a third of
digits' images within twice the distance; attacks that do not work miss nearly all."""


class Share(NamedTuple):
    """A number of cases among all that were tried.

    Args:
        hits: how many.
        of: how many were tried; 0 where the question does not arise.
    """

    hits: int
    of: int


@dataclass(frozen=True, kw_only=True)
class DefenseProbe:
    """How a defense answers to some of the clean test images.

    Args:
        defense, defense_repr, weights_digest, dataset_digest, seed: whom was asked about what.
        stochastic: what the defense declares.
        repeats: images whose answer differs between two generators.
        batches: images whose answer differs, with one generator, alone and in a batch.
        orders: images whose answer differs, with one generator, in another order.
        devices: images whose answer differs between the CPU and the accelerator.
        refused: images that are refused.
        zero_gradients: by surrogate, images at which, or beside which, the lead's gradient is zero.
        odd_gradients: by surrogate, those at which it is not finite.
        flat: by surrogate, images along whose gradient the lead rises no more than along random
            directions of the same length (the loss landscape's probe).
        jagged: by surrogate, images at which the lead's rise along the gradient's direction, a
            short step long, is less than half of what the gradient promises.
        strongest: the surrogate that attacks climb where they name none; empty where nobody said.
    """

    defense: str
    defense_repr: str
    weights_digest: str
    dataset_digest: str
    seed: int
    stochastic: bool
    repeats: Share
    batches: Share
    orders: Share
    devices: Share
    refused: Share
    zero_gradients: Mapping[str, Share] = field(default_factory=dict)
    odd_gradients: Mapping[str, Share] = field(default_factory=dict)
    flat: Mapping[str, Share] = field(default_factory=dict)
    jagged: Mapping[str, Share] = field(default_factory=dict)
    strongest: str = ""

    @property
    def id(self) -> str:
        """16 hexadecimal digits of a hash of what was asked."""
        return defense_id(
            self.defense, self.defense_repr, self.weights_digest, self.dataset_digest, self.seed
        )


@dataclass(frozen=True, kw_only=True)
class CellProbe:
    """How one cell's number holds when something about its attack changes.

    Args:
        cell: id of the cell.
        epsilon: radius at which everything but ``unbounded`` was asked: the cell's middle one.
        rounded: of the points that break the defense, those that no longer do once their pixels
            are rounded to 8 bits.
        untransferred: of the points that break the attack's own surrogate, those that do not break
            the deployed defense.
        unbounded: of the images, those that stand although distances no longer count.
        doubled: by attack field (``steps``, ``restarts``, ``queries``, ``eot``; for ensembles
            ``every budget``), of the surviving images, those that the attack breaks once that field
            is twice as large.
        asked: fresh seeds with which a stochastic defense was asked about each point; 1 else.
        wrong: sample -> answers among them that were wrong and accepted.
        self_test: planted network -> images of it that the attack broke; empty where the attack
            needs what a plain network has not.
    """

    cell: str
    epsilon: float
    rounded: Share
    untransferred: Share
    unbounded: Share
    doubled: Mapping[str, Share] = field(default_factory=dict)
    asked: int = 1
    wrong: Mapping[int, int] = field(default_factory=dict)
    self_test: Mapping[str, Share] = field(default_factory=dict)


def defense_id(
    defense: str, defense_repr: str, weights_digest: str, dataset_digest: str, seed: int
) -> str:
    """The id of a defense's probe, from what its records hold."""
    return digest(defense, defense_repr, weights_digest, dataset_digest, seed)


def write(folder: Path, probe: DefenseProbe | CellProbe) -> Path:
    """Keep a probe.

    Args:
        folder: ``results/<dataset>/records``.

    Raises:
        OSError: the file can't be written.
    """
    path = _path(folder, probe.id if isinstance(probe, DefenseProbe) else probe.cell, type(probe))
    keep(path, json.dumps(asdict(probe), indent=1, sort_keys=True).encode())
    return path


def of_defense(folder: Path, id_: str) -> DefenseProbe | None:
    """The probe of a defense by `defense_id`; None where nobody asked.

    Raises:
        ValueError: the file is damaged.
    """
    found = _read(_path(folder, id_, DefenseProbe))
    if found is None:
        return None
    views = ("zero_gradients", "odd_gradients", "flat", "jagged")
    shares = ("repeats", "batches", "orders", "devices", "refused")
    return DefenseProbe(
        **{
            **found,
            **{name: Share(*found[name]) for name in shares},
            **{name: _shares(found[name]) for name in views},
        }
    )


def of_cell(folder: Path, cell: str) -> CellProbe | None:
    """The probe of a cell by its id; None where nobody asked.

    Raises:
        ValueError: the file is damaged.
    """
    found = _read(_path(folder, cell, CellProbe))
    if found is None:
        return None
    return CellProbe(
        **{
            **found,
            **{name: Share(*found[name]) for name in ("rounded", "untransferred", "unbounded")},
            **{name: _shares(found[name]) for name in ("doubled", "self_test")},
            "wrong": {int(sample): answers for sample, answers in found["wrong"].items()},
        }
    )


def _path(folder: Path, id_: str, kind: type[DefenseProbe] | type[CellProbe]) -> Path:
    prefix = "defense" if kind is DefenseProbe else "cell"
    return folder / "probes" / f"{prefix}-{id_}.json"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"probe {path} must be JSON as this project writes it, got something else; delete it "
            "and run the same command again"
        ) from error
    return found


def _shares(found: Mapping[str, Any]) -> dict[str, Share]:
    return {name: Share(*value) for name, value in found.items()}
