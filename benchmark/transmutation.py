"""Pairs that left their class: what an independent classifier sees in adversarial images.

A search on a decoder's latents moves along the images that the decoder can draw; within an L2
budget that makes a 4 look like a 9, another class may really be there, and a defense that says so
is not fooled (MAD-VAE, section 3.6, calls it transmutation). Asking people does not scale, so the
question goes to a classifier that the attack knew nothing of. It can be fooled too: by transfer,
which its confidence makes rarer. So a flag is a hint, and the numbers stand with and without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmark import examples, overpowered, records, scores
from benchmark.datasets import Dataset
from benchmark.judge import Floats, Ints
from benchmark.overpowered import KEYS, Flags
from benchmark.records import Outcome
from benchmark.scores import split_key
from benchmark.work import calm
from defenses.base import Defense
from defenses.randomness import generator, seed_from

INDEPENDENT = "cnn"
"""The undefended network is in every preset, and no purifier here contains it by default."""

_DECIMALS = 6
"""Probabilities are rounded: below this they depend on how many images share a batch."""


@dataclass(frozen=True)
class Independent:
    """A classifier that nobody attacked.

    Args:
        name: registered name.
        defense: trained, in evaluation mode.
        confidence: softmax probability from which it counts as sure; ours, no paper states one.
    """

    name: str
    defense: Defense
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise ValueError(
                f"confidence must be in (0, 1], got {self.confidence}; it is a probability"
            )

    def flags(self, paths: Sequence[Path], dataset: Dataset) -> Flags:
        """Its opinion on every success of the Overpowered attack.

        A pair is flagged where it is sure of a class that is not the label.

        Args:
            paths: records of one group; those of other attacks are passed over.
            dataset: whose test images were attacked.

        Raises:
            ValueError: a defense that is, or contains, this classifier.
            OSError: records or adversarial examples are missing or damaged.
        """
        found = []
        for path, known in zip(paths, scores.read(paths).metadata, strict=True):
            if _attacked(known):
                self._require_stranger(known)
                found.append(self._seen(path, known, dataset))
        columns = [*KEYS, "label", "shown", "confidence", "flagged"]
        pairs = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)
        return Flags(self.name, self.confidence, pairs[columns])

    def _seen(self, path: Path, known: Mapping[str, Any], dataset: Dataset) -> pd.DataFrame:
        """One row per success of one record."""
        frame, metadata = records.load(path)
        cell = records.cell_of(metadata)
        right = (frame["clean_class"] == frame["label"]) & ~frame["clean_rejected"]
        won = frame[right & (frame["outcome"] == Outcome.WRONG)]
        found = []
        for block in examples.blocks(cell, dataset.test.images):
            place = {int(sample): i for i, sample in enumerate(block.samples)}
            for number, epsilon in enumerate(cell.epsilons):
                rows = won[(won["epsilon"] == epsilon) & won["sample"].isin(list(place))]
                if not rows.empty:
                    points = block.points[number, [place[int(s)] for s in rows["sample"]]]
                    shown, sure = self._opinion(points)
                    pairs = rows[["norm", "epsilon", "sample", "label"]]
                    found.append(pairs.assign(shown=shown, confidence=sure))
        empty = pd.DataFrame(columns=["norm", "epsilon", "sample", "label", "shown", "confidence"])
        seen = pd.concat(found, ignore_index=True) if found else empty
        is_sure = seen["confidence"] >= self.confidence
        return seen.assign(
            defense=known["defense_key"],
            attack=known["attack_key"],
            flagged=is_sure & (seen["shown"] != seen["label"]),
        )

    def _opinion(self, points: NDArray[np.float32]) -> tuple[Ints, Floats]:
        """Class and softmax probability of images (n, C, H, W)."""
        with calm():
            x = torch.from_numpy(points)
            decision = self.defense.decide(x, generator(seed_from("independent", self.name)))
            sure, shown = decision.logits.double().softmax(dim=1).max(dim=1)
        return shown.numpy(), np.round(sure.numpy(), _DECIMALS)

    def _require_stranger(self, known: Mapping[str, Any]) -> None:
        if self.name in (known["reference"], split_key(known["defense_key"])[0]):
            raise ValueError(
                f"independent classifier must be none that {known['defense']} is or contains, got "
                f"{self.name}; name another"
            )


def _attacked(known: Mapping[str, Any]) -> bool:
    """Whether a record holds judged points of the Overpowered attack."""
    is_ours = str(known["attack"]).startswith(overpowered.NAME)
    return is_ours and not known["not_applicable"] and not known["error"]
