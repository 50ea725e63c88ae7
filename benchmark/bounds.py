"""What is known of robust accuracy at an L2 radius: at least the certified, at most the attacked.

A certificate says how far the nearest adversarial example is at least, an attack's best point how
far at most. Over the samples that are answered correctly without an attack,

    certified(epsilon) = share of samples with certificate > epsilon
    attacked(epsilon)  = share of samples that no attack broke within epsilon

and the robust accuracy at epsilon lies between the two. What lies between them is unknown: neither
proved nor disproved. Both fall as epsilon grows. An example at exactly the certificate's distance
contradicts nothing, so a radius of 0 certifies nothing. A certificate beyond an attack is a defect
of one of the two; there the curves may cross.

The attacks are those on record, of every norm: the L2 distance of any broken point counts. They
were aimed at the radii of their runs, so the upper curve may fall in steps at these. A refused
point is no break here: where a defense refuses, the upper curve is higher than need be, and still
a bound.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import records, statistics
from benchmark.cells import Cell
from benchmark.records import Outcome

COLUMNS = ("defense", "sample", "label", "certificate", "attack", "right", "weights")
"""Of a table of radii, one row per defense and sample.

``certificate``: certified L2 radius; ``attack``: smallest L2 distance of a broken point, empty
where no attack broke the sample or where it was wrong before; ``right``: answered correctly without
an attack, empty where no record says; ``weights``: the beginning of the weights' digest.
"""

WEIGHTS_DIGITS = 12

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def load(path: Path) -> pd.DataFrame:
    """A table of radii as `benchmark.certify` keeps it.

    Raises:
        OSError: there is none.
    """
    return pd.read_csv(path, dtype={"weights": "string", "right": "boolean"})


def attacked(paths: Iterable[Path]) -> pd.DataFrame:
    """What the records of one trained defense say about each sample.

    Returns: by sample, columns ``attack`` and ``right`` of `COLUMNS`; empty without records.
    """
    frame = records.read(paths)
    right = (frame["clean_class"] == frame["label"]) & ~frame["clean_rejected"]
    broken = frame[right & (frame["outcome"] == Outcome.WRONG)]
    found = pd.DataFrame({"right": right.groupby(frame["sample"]).all()})
    return found.assign(attack=broken.groupby("sample")["distance_l2"].min())


def with_attacks(radii: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """One defense's radii with the columns of `attacked`, in the order of `COLUMNS`."""
    filled = radii.assign(
        attack=radii["sample"].map(found["attack"]).astype(float),
        right=radii["sample"].map(found["right"]).astype("boolean"),
    )
    return filled[list(COLUMNS)]


def again(radii: pd.DataFrame, folder: Path, *, preset: str, seed: int) -> pd.DataFrame:
    """Radii of an earlier run with the attacks that are on record now; no model is asked.

    Args:
        radii: columns of `COLUMNS`; ``weights`` may be missing, as in older files.
        folder: ``results/<dataset>/records``.

    Raises:
        ValueError: the records hold several versions of a defense, or none with its weights.
    """
    cells = _recorded(folder, preset, seed)
    frames = []
    for defense, own in radii.groupby("defense", sort=False):
        weights = own["weights"].iloc[0] if "weights" in own else ""
        mine = {
            path: cell
            for path, cell in cells.items()
            if cell.defense == defense and cell.weights_digest.startswith(weights)
        }
        versions = {(cell.weights_digest, cell.defense_repr) for cell in mine.values()}
        if len(versions) != 1:
            raise ValueError(
                f"records of {defense} at preset {preset} and seed {seed} must be of the one "
                f"version that was certified, got {len(versions)} versions; certify it again"
            )
        ((digest, _),) = versions
        named = own.assign(weights=digest[:WEIGHTS_DIGITS])
        frames.append(with_attacks(named, attacked(mine)))
    return pd.concat(frames, ignore_index=True)


def uncertified(radii: pd.DataFrame, folder: Path, *, preset: str, seed: int) -> tuple[str, ...]:
    """The defenses on record that have no radii, by name."""
    recorded = {cell.defense for cell in _recorded(folder, preset, seed).values()}
    return tuple(sorted(recorded - set(radii["defense"])))


def known(radii: pd.DataFrame) -> pd.DataFrame:
    """The samples whose clean answer is on record, without which there is no upper bound.

    ``attack`` is 0 where the answer was wrong before, infinite where no attack broke the sample;
    ``certificate`` is 0 where the answer was wrong.
    """
    own = radii[radii["right"].notna()]
    right = own["right"].astype(bool)
    return own.assign(
        right=right,
        attack=own["attack"].fillna(np.inf).where(right, 0.0),
        certificate=own["certificate"].where(right, 0.0),
    )


def defects(radii: pd.DataFrame) -> int:
    """Samples whose certificate is larger than an attack's distance."""
    return int((radii["certificate"] > radii["attack"]).sum())


def bands(radii: pd.DataFrame) -> pd.DataFrame:
    """Both accuracies, in percent, with Wilson intervals: one row per defense and change of either.

    Each row holds from its epsilon up to the next row's. ``unknown`` is the distance between the
    two, never below 0.
    """
    found = []
    for defense, own in known(radii).groupby("defense", sort=False):
        distances = [own["certificate"], own["attack"][np.isfinite(own["attack"])], [0.0]]
        epsilon = np.unique(np.concatenate(distances))
        frame = pd.DataFrame({"defense": defense, "epsilon": epsilon, "n": len(own)})
        for name, column in (("certified", "certificate"), ("attacked", "attack")):
            standing = _beyond(own[column].to_numpy(dtype=np.float64), epsilon)
            limits = [statistics.wilson(int(count), len(own)) for count in standing]
            frame[name] = 100 * standing / len(own)
            frame[[f"{name}_low", f"{name}_high"]] = 100 * np.array(limits)
        frame["unknown"] = (frame["attacked"] - frame["certified"]).clip(lower=0)
        found.append(frame.round(4).assign(epsilon=epsilon))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _beyond(distances: Floats, epsilon: Floats) -> Ints:
    """How many distances are larger than each epsilon."""
    return len(distances) - np.searchsorted(np.sort(distances), epsilon, side="right")


def _recorded(folder: Path, preset: str, seed: int) -> dict[Path, Cell]:
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        metadata = records.provenance(path)
        if (metadata["preset"], metadata["seed"]) == (preset, seed):
            found[path] = records.cell_of(metadata)
    return found
