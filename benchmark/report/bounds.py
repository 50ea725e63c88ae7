"""The picture of certificates below and attacks above, as another command has drawn it."""

import base64
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bounds:
    """One picture as a data URI, in which nothing of it can run or load."""

    name: str
    uri: str
    alt: str


def bounds(folder: Path, preset: str = "") -> tuple[Bounds, ...]:
    """Every ``certificate-<preset>...-bounds.svg`` of a data set's results.

    Args:
        folder: ``results/<dataset>``.
        preset: empty for all.

    Raises:
        OSError: a file can't be read.
    """
    return tuple(
        Bounds(
            path.stem,
            f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}",
            "Accuracy against the L2 radius: below the estimated certificate, above the best "
            f"attack, between them the unknown ({path.stem})",
        )
        for path in sorted(folder.glob(f"certificate-{preset}*bounds*.svg"))
    )
