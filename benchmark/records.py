"""Records: what the judge decided, one Parquet file per finished cell, provenance in its metadata.

    results/<dataset>/records/<cell id>.parquet                  a finished cell
    results/<dataset>/records/parts/<cell id>/<first>.parquet    blocks of an unfinished one

Rows are sorted by epsilon, then by sample. The metadata (`provenance`) is JSON with these keys:

    cell fields      as in `benchmark.cells.Cell`
    dataset_caveat   what differs from the official data set; "" for nothing
    preset           its name
    reference        the bare classifier inside the defense; "" for none, and in old files
    counts           what its paper counts under attacks on that one (`defenses.counting`), or ""
    versions         of Python and the packages that compute
    commit           of the source tree, or "unknown"
    device           name of the processor or accelerator
    command          the command line, without folders
    wall_seconds     computing time, summed over blocks
    cost             {"forward", "backward", "decoder"} images, summed over blocks
    calls            [[epsilon, sample, calls], ...]: images that had gone forward or backward
                     through the defense, per image attacked in the block, when this one was broken
                     first; absent in old files
    not_applicable   why this attack does not apply to this defense, or null
    error            traceback of what failed, or null; such a cell is computed again
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import parquet
from benchmark.cells import Cell

DISTANCE_DECIMALS = 5
"""Distances are rounded: below this, float32 sums depend on how many images share a batch."""

SCORE_DIGITS = 5
"""Significant digits of rejection scores, which span orders of magnitude; for the same reason."""


class Outcome(StrEnum):
    """What became of one sample at one epsilon; only CORRECT counts for the defense."""

    CORRECT = "correct"
    WRONG = "wrong"
    REJECTED = "rejected"
    INVALID = "invalid"
    ERROR = "error"


COLUMNS: dict[str, str] = {
    "dataset": "str",
    "defense": "str",
    "attack": "str",  # as asked for, without the surrogate; "clean"
    "surrogate": "str",  # as asked for; "" is the defense's strongest
    "norm": "str",  # "" for clean
    "epsilon": "float64",  # 0.0 for clean
    "sample": "int64",  # index into the test split
    "label": "int64",
    "clean_class": "int64",
    "clean_rejected": "bool",
    "adversarial_class": "int64",  # -1 where nobody could be asked (invalid, error)
    "rejected": "bool",
    "outcome": "str",  # of `Outcome`
    "wrong_vote_share": "float64",  # share of votes that were wrong and accepted
    "rejection_score": "float64",  # largest of `Decision.scores`; above 1 rejects, NaN for none
    "distance_l2": "float64",  # between the sample and the judged point; NaN for errors
    "distance_linf": "float64",
    "broken_by": "str",  # member of an ensemble that broke it; "" for none
    "seed": "int64",
    "cell": "str",
}
"""Column -> pandas dtype, in the order of the files."""

_LATER: dict[str, Any] = {"rejection_score": np.nan, "broken_by": ""}
"""Columns that older files lack, and as what they are read there."""


def record_path(results: Path, cell: Cell) -> Path:
    """Where a finished cell is kept."""
    return results / cell.dataset / "records" / f"{cell.id}.parquet"


def parts_folder(results: Path, cell: Cell) -> Path:
    """Where the finished blocks of an unfinished cell are kept."""
    return results / cell.dataset / "records" / "parts" / cell.id


def write(path: Path, frame: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    """One file, whole or absent.

    Args:
        frame: rows with exactly `COLUMNS`.
        metadata: JSON values, kept under the file's key ``benchmark``.

    Raises:
        OSError: the file can't be written.
    """
    ordered = frame[list(COLUMNS)].astype(COLUMNS).sort_values(["epsilon", "sample"])
    parquet.write(path, ordered, metadata)


def read(paths: Iterable[Path]) -> pd.DataFrame:
    """The rows of many files, in the order of the files.

    Raises:
        FileNotFoundError: a file is missing.
        OSError: a file is damaged; the sentence names it.
    """
    frames = [load(path)[0] for path in paths]
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled or [no_rows()], ignore_index=True)


def provenance(path: Path) -> dict[str, Any]:
    """The metadata of one file; raises as `read`."""
    return load(path)[1]


def load(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and metadata of one file; raises as `read`."""
    whole, metadata = parquet.read(path)
    try:
        frame = _complete(whole)[list(COLUMNS)].astype(COLUMNS)
        cell = cell_of(metadata)
    except (ValueError, KeyError, TypeError) as error:
        raise parquet.damaged(path) from error
    if not ((frame["cell"] == cell.id).all() and cell.id in (path.stem, path.parent.name)):
        raise parquet.damaged(path)
    return frame, metadata


def cell_of(metadata: Mapping[str, Any]) -> Cell:
    """The cell that a file's metadata describes."""
    values = {field.name: metadata[field.name] for field in fields(Cell)}
    values["epsilons"] = tuple(values["epsilons"])
    values["samples"] = tuple(values["samples"])
    return Cell(**values)


def describe(cell: Cell) -> dict[str, Any]:
    """The cell's fields as metadata."""
    return {**asdict(cell), "epsilons": list(cell.epsilons), "samples": list(cell.samples)}


def no_rows() -> pd.DataFrame:
    """What a cell that does not apply holds."""
    return pd.DataFrame({column: [] for column in COLUMNS}).astype(COLUMNS)


def rounded(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rejection scores to `SCORE_DIGITS` significant digits; 0, infinity and NaN stay."""
    plain = np.isfinite(scores) & (scores != 0)
    size = np.floor(np.log10(np.abs(scores), where=plain, out=np.zeros_like(scores)))
    unit = 10.0 ** (size - SCORE_DIGITS + 1)
    near = np.round(np.divide(scores, unit, where=plain, out=np.zeros_like(scores))) * unit
    return np.where(plain, near, scores)


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame from before some of `_LATER` with these columns empty; any other as it is.

    Raises:
        ValueError: a column that no version wrote, such as one whose name was damaged.
    """
    if unknown := set(frame) - set(COLUMNS):
        raise ValueError(f"columns must be ours, got {sorted(map(str, unknown))}")
    missing = {column: empty for column, empty in _LATER.items() if column not in frame}
    return frame.assign(**missing)
