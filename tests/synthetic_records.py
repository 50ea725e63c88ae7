"""Record files with chosen outcomes, as the runner would write them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import records
from benchmark.cells import CLEAN, Cell
from benchmark.records import COLUMNS

LETTERS = {"c": "correct", "w": "wrong", "r": "rejected", "i": "invalid", "e": "error"}
CLASSES = {"w": 1, "x": 1, "i": -1, "e": -1}
"""The class answered, where it is not the label 0; ``x`` is rejected, and wrong if it were not."""


def write_cell(
    results: Path,
    defense: str,
    attack: str = CLEAN,
    outcomes: Mapping[float, str] | str = "",
    *,
    samples: Sequence[int] | None = None,
    scores: Mapping[float, Sequence[float]] | Sequence[float] = (),
    shares: Mapping[float, Sequence[float]] | Sequence[float] = (),
    distances: Mapping[float, Sequence[float]] | Sequence[float] = (),
    members: Sequence[str] = (),
    not_applicable: str | None = None,
    error: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """One record file; outcomes are letters per sample (c, w, r, x, i, e), per epsilon if attacked.

    Rejection scores likewise; without any, the defense has none. ``shares`` are those of the votes
    that were wrong and accepted; without any, all votes were for the outcome. ``distances`` are L2.
    """
    per_epsilon = {0.0: outcomes} if isinstance(outcomes, str) else dict(outcomes)
    scored = dict(scores) if isinstance(scores, Mapping) else dict.fromkeys(per_epsilon, scores)
    shared = dict(shares) if isinstance(shares, Mapping) else dict.fromkeys(per_epsilon, shares)
    far = (
        dict(distances) if isinstance(distances, Mapping) else dict.fromkeys(per_epsilon, distances)
    )
    label, _, surrogate = attack.partition("@")
    count = max(len(text) for text in per_epsilon.values())
    fields: dict[str, Any] = {
        "dataset": "mnist",
        "dataset_digest": "d" * 32,
        "defense": defense,
        "defense_repr": f"{defense.upper()}(epochs=1)",
        "weights_digest": f"{defense}{'0' * 32}",
        "attack": label,
        "attack_repr": "" if attack == CLEAN else f"Attack(name='{label}')",
        "surrogate": surrogate,
        "norm": "" if attack == CLEAN else ("linf" if "linf" in label else "l2"),
        "epsilons": tuple(sorted(per_epsilon)),
        "samples": tuple(range(count) if samples is None else samples),
        "seed": 0,
        "votes": 3,
    }
    cell = Cell(**{**fields, **changes})
    rows = [
        {
            **dict.fromkeys(COLUMNS, 0),
            "broken_by": members[place] if members else "",
            "dataset": cell.dataset,
            "defense": cell.defense,
            "attack": cell.attack,
            "surrogate": cell.surrogate,
            "norm": cell.norm,
            "epsilon": epsilon,
            "sample": sample,
            "adversarial_class": CLASSES.get(letter, 0),
            "wrong_vote_share": shared[epsilon][place] if len(shared[epsilon]) else letter == "w",
            "outcome": LETTERS["r" if letter == "x" else letter],
            "rejected": letter in "rx",
            "rejection_score": scored[epsilon][place] if len(scored[epsilon]) else float("nan"),
            "distance_l2": far[epsilon][place] if len(far[epsilon]) else 0,
            "seed": cell.seed,
            "cell": cell.id,
        }
        for epsilon, text in per_epsilon.items()
        for place, (sample, letter) in enumerate(zip(cell.samples, text, strict=False))
    ]
    description = {
        **records.describe(cell),
        "dataset_caveat": "",
        "preset": "quick",
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
        "commit": "0123456",
        "device": "CPU",
        "command": "python -m benchmark.run",
        "wall_seconds": 61.5,
        "cost": {"forward": 100, "backward": 50, "decoder": 0},
        "not_applicable": not_applicable,
        "error": error,
        **(metadata or {}),
    }
    path = records.record_path(results, cell)
    records.write(path, pd.DataFrame(rows, columns=list(COLUMNS)), description)
    return path


def letters(correct: int, wrong: int, rejected: int = 0) -> str:
    """So many samples of each outcome, the correct ones first."""
    return "c" * correct + "w" * wrong + "r" * rejected
