"""How the losses went while a defense was trained: ``<weights>.csv``, beside weights and card.

A row is the mean of each loss over some consecutive updates of one epoch; a training has about
`ROWS` rows, and at least one per epoch.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmark.storage import keep

ROWS = 200
UPDATE = "update"
"""The column that says after how many updates a row ends."""


class History:
    """The losses of a training so far.

    Args:
        epochs: of the whole training.
        updates: of each.
    """

    def __init__(self, epochs: int, updates: int) -> None:
        self._stride = min(updates, max(1, math.ceil(epochs * updates / ROWS)))
        self._rows: list[tuple[int, dict[str, Tensor]]] = []
        self._updates = 0
        self._sums: dict[str, Tensor] = {}
        self._summed = 0

    def see(self, losses: Mapping[str, Tensor]) -> None:
        """The losses of one update; they stay on their device until `tensors`."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._updates += 1
        self._summed += 1
        if self._summed == self._stride:
            self.close()

    def close(self) -> None:
        """An epoch is over: what was seen since the last row becomes one."""
        if self._summed:
            means = {name: total / self._summed for name, total in self._sums.items()}
            self._rows.append((self._updates, means))
        self._sums, self._summed = {}, 0

    def tensors(self) -> dict[str, Tensor]:
        """The rows, a column (n,) each on the CPU; NaN where an update had no such loss.

        Losses come by name, as a checkpoint does not keep their order.
        """
        names = sorted({name for _, means in self._rows for name in means})
        columns = {UPDATE: torch.tensor([update for update, _ in self._rows])}
        for name in names:
            values = [means.get(name, torch.tensor(torch.nan)).cpu() for _, means in self._rows]
            columns[name] = torch.stack(values)
        return columns

    def recall(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` returned; nothing where a checkpoint has no rows."""
        updates = tensors.get(UPDATE, torch.zeros(0)).tolist()
        names = [name for name in tensors if name != UPDATE]
        self._rows = [
            (int(update), {name: tensors[name][row] for name in names})
            for row, update in enumerate(updates)
        ]
        self._updates = int(updates[-1]) if updates else 0

    def write(self, weights: Path) -> None:
        """Keep the rows beside these weights.

        Raises:
            OSError: the file can't be written.
        """
        frame = pd.DataFrame({name: column.numpy() for name, column in self.tensors().items()})
        text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        keep(path_beside(weights), text.encode())


def path_beside(weights: Path) -> Path:
    """Where the losses of some weights are."""
    return weights.with_suffix(".csv")


def read(path: Path) -> pd.DataFrame:
    """One row per stretch of updates: `UPDATE`, and a column per loss.

    Raises:
        FileNotFoundError: weights that were trained before their losses were kept.
        OSError: a damaged file.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"losses {path} are missing; delete the weights beside it and their card, and run the "
            "same command again"
        )
    try:
        frame = pd.read_csv(path)
    except ValueError as error:
        raise OSError(f"{path} must be losses as CSV, got something else; delete it") from error
    if UPDATE not in frame:
        raise OSError(
            f"{path} must have a column {UPDATE!r}, got {', '.join(map(str, frame))}; delete it "
            "with the weights beside it and train again"
        )
    return frame
