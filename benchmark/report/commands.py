"""The command line that computes one cell again, to the last digit."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from benchmark.cells import CLEAN
from benchmark.scores import Scores

_FALLBACK = "noise-l2"
"""Every run judges the clean images first; an attack must be named, and this one is cheap."""


def of_cell(metadata: Mapping[str, Any], scores: Scores) -> str:
    """``python -m benchmark.run --dataset ... --attack ...``; of a clean cell with any attack.

    Args:
        metadata: of the cell's record.
        scores: of its group, which say what else was run on the defense.
    """
    if metadata["attack"] != CLEAN:
        return line(metadata)
    attacked = [
        each
        for each in scores.metadata
        if each["defense_key"] == metadata["defense_key"]
        and each["attack"] != CLEAN
        and not each["not_applicable"]
    ]
    cheapest = min(attacked, key=lambda each: float(each["wall_seconds"]), default=None)
    return line(cheapest or {**metadata, "attack": _FALLBACK, "epsilons": ()})


def line(metadata: Mapping[str, Any]) -> str:
    """The command of a cell with an attack; radii are exact, infinite ones are the default."""
    view = f"@{metadata['surrogate']}" if metadata["surrogate"] else ""
    radii = [float(e) for e in metadata["epsilons"] if math.isfinite(float(e))]
    options = {
        "dataset": metadata["dataset"],
        "defense": metadata["defense"],
        "attack": f"{metadata['attack']}{view}",
        "epsilons": ",".join(f"{radius!r}".removesuffix(".0") for radius in radii),
        "samples": len(metadata["samples"]),
        "seed": metadata["seed"],
        "preset": metadata["preset"],
    }
    words = [
        f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value != ""
    ]
    return f"python -m benchmark.run {' '.join(words)}"
