"""Traffic sign photographs: annotated crops in, the largest classes at 32x32 out."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from benchmark.datasets.archives import members
from benchmark.datasets.base import Images, Indices
from defenses.base import Task

SIDE = 32
"""Width and height of every image; native images with a smaller side are dropped (E-ABS 4.1)."""

NUM_CLASSES = 10

SIGN_TASK = Task(
    shape=(3, SIDE, SIDE),
    num_classes=NUM_CLASSES,
    architecture="traffic",
    noise_std=0.01,
    epsilon_linf=8 / 255,
    epsilon_l2=1.5,
)


@dataclass(frozen=True)
class Sign:
    """One annotated sign.

    Args:
        kind: the class's name.
        group: what must stay in one split: a track, or a photograph.
        archive: where its picture is.
        file: the picture's path in the archive, or its bare name wherever it lies.
        width, height: native size in pixels, of the box where there is one.
        box: (left, top, right, bottom) to cut out; None keeps the whole picture.
    """

    kind: str
    group: str
    archive: Path
    file: str
    width: int
    height: int
    box: tuple[float, float, float, float] | None = None


def annotated_folders(archive: Path, group: str, kinds: Sequence[str]) -> list[Sign]:
    """Annotations of a GTSRB-like archive: folders 000xx of .ppm, each with GT-000xx.csv.

    Args:
        archive: the zip, or the folder it was extracted to.
        group: prefix of the groups; the rest is the class and the file name's first number, which
            counts physical signs.
        kinds: the class names, by ClassId.

    Raises:
        OSError: no or unreadable annotations.
    """
    signs: list[Sign] = []
    for name, data in members(archive, lambda path: path.endswith(".csv") and "/GT-" in f"/{path}"):
        for row in annotation_rows(data, f"{archive}:{name}"):
            number = int(row["ClassId"])
            track = row["Filename"].partition("_")[0]
            signs.append(
                Sign(
                    kind=kind_of(kinds, number, f"{archive}:{name}"),
                    group=f"{group} {number} {track}",
                    archive=archive,
                    file=str(PurePosixPath(name).with_name(row["Filename"])),
                    width=int(row["Width"]),
                    height=int(row["Height"]),
                )
            )
    if not signs:
        raise OSError(f"{archive} must hold GT-*.csv annotations, got none; replace it")
    return signs


def annotation_rows(data: bytes, name: str) -> Iterator[dict[str, str]]:
    """Rows of a semicolon-separated annotation file.

    Raises:
        OSError: a column is missing or not a number.
    """
    columns = ("Width", "Height", "ClassId")
    for row in csv.DictReader(io.StringIO(data.decode("ascii", "replace")), delimiter=";"):
        broken = [c for c in columns if not (row.get(c) or "").strip().isdigit()]
        if broken or not row.get("Filename"):
            raise OSError(
                f"{name} must give Filename, Width, Height and ClassId in every row, "
                f"got {row}; replace it with the official file"
            )
        yield row


def kind_of(kinds: Sequence[str], number: int, name: str) -> str:
    """The name of a numbered class.

    Raises:
        OSError: there is no such class.
    """
    if number >= len(kinds):
        raise OSError(
            f"ClassId in {name} must be below {len(kinds)}, got {number}; "
            "replace it with the official file"
        )
    return kinds[number]


def choose(
    train: Sequence[Sign], test: Sequence[Sign]
) -> tuple[tuple[str, ...], list[Sign], list[Sign]]:
    """The ten largest classes, and the signs of these classes whose sides both reach `SIDE`.

    Classes are counted after small images are dropped, training and test together; most images
    first, equal counts in alphabetical order.

    Raises:
        OSError: fewer than ten classes.
    """
    large = [sign for sign in (*train, *test) if min(sign.width, sign.height) >= SIDE]
    counts = Counter(sign.kind for sign in large)
    if len(counts) < NUM_CLASSES:
        raise OSError(
            f"annotations must name at least {NUM_CLASSES} classes of {SIDE}x{SIDE} pixels or "
            f"more, got {len(counts)}; the archives are incomplete"
        )
    classes = tuple(sorted(counts, key=lambda kind: (-counts[kind], kind))[:NUM_CLASSES])
    chosen = {sign for sign in large if sign.kind in classes}
    return (
        classes,
        [sign for sign in train if sign in chosen],
        [sign for sign in test if sign in chosen],
    )


def pictures(signs: Sequence[Sign]) -> Images:
    """The signs' images, uint8 (N, 3, 32, 32), resized bilinearly without regard to aspect.

    Every archive is read once, from front to back.

    Raises:
        OSError: a picture is missing or unreadable.
    """
    images = np.empty((len(signs), 3, SIDE, SIDE), np.uint8)
    for archive in dict.fromkeys(sign.archive for sign in signs):
        places: dict[str, list[int]] = {}
        for place, sign in enumerate(signs):
            if sign.archive == archive:
                places.setdefault(sign.file, []).append(place)
        found: set[str] = set()
        for path, data in members(archive, partial(_annotated, places)):
            key = path if path in places else PurePosixPath(path).name
            found.add(key)
            for place in places[key]:
                images[place] = _decode(data, signs[place], f"{archive}:{path}")
        missing = sorted(places.keys() - found)
        if missing:
            raise OSError(
                f"{archive} must hold every annotated picture, got no {missing[0]} "
                f"and {len(missing) - 1} others; replace it with the official archive"
            )
    return images


def _annotated(places: Mapping[str, list[int]], path: str) -> bool:
    return path in places or PurePosixPath(path).name in places


def _decode(data: bytes, sign: Sign, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            resized = picture.convert("RGB").resize(
                (SIDE, SIDE), Image.Resampling.BILINEAR, box=sign.box
            )
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise OSError(f"{name} must be a readable picture, got {error}; replace it") from error
    return np.asarray(resized, np.uint8).transpose(2, 0, 1)


def labels_of(signs: Iterable[Sign], classes: Sequence[str]) -> Indices:
    """(N,) the labels of the signs."""
    return np.array([classes.index(sign.kind) for sign in signs], np.int64)


def groups_of(signs: Iterable[Sign]) -> Indices:
    """(N,) one number per group."""
    _, numbers = np.unique([sign.group for sign in signs], return_inverse=True)
    return numbers.astype(np.int64)
