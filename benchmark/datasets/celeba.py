"""CelebA, aligned and cropped: 202599 faces with 40 attributes (Liu, Luo, Wang, Tang 2015).

Of the 178x218 photographs a box is cut out and resized bilinearly to 64x64 RGB; Pillow's filter
widens with the reduction, so every pixel of the box counts. The box is a field of the source: by
default the robust-manifold paper's (Jalal et al. 2017, section 4.1), 128x128 pixels with the upper
left corner "at coordinate (50, 25)". The paper does not say which of the two is the row: read as
row 50, the box is central from left to right and five pixels below the middle; read as column 50,
it would lie at the photograph's right border and the faces, which are aligned, in its left half.
The paper's [-1, 1] is the business of its defenses: pixels are bytes here, [0, 1] to all others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.datasets.archives import members
from benchmark.datasets.base import Dataset, Images, Source, Split
from benchmark.datasets.decoding import decode
from benchmark.datasets.files import OfficialFile, caveat, data_folder, note, obtain_by_hand
from benchmark.datasets.prepared import restore, store
from defenses.base import Task

SIDE = 64
"""Width and height of every image."""

_PHOTOGRAPH = (178, 218)
_PARTS = ("train", "validation", "test")
"""By the numbers of list_eval_partition.txt."""

_VALUES = {"-1": False, "1": True}

Answers = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Faces:
    """All faces with all attributes, as they are kept in one npz file.

    Args:
        attributes: names, in the official order.
        images: of each part, uint8 (N, 3, 64, 64).
        answers: of each part, (N, 40): which attributes a face has.
        caveat: what is unofficial about the files it was made from.
    """

    attributes: tuple[str, ...]
    images: Mapping[str, Images]
    answers: Mapping[str, Answers]
    caveat: str

    def split(self, part: str, attribute: str) -> Split:
        """One part, labelled 1 where a face has the attribute."""
        answers = self.answers[part][:, self.attributes.index(attribute)]
        return Split(self.images[part], answers.astype(np.int64))


def attribute_rows(path: Path) -> tuple[tuple[str, ...], dict[str, list[bool]]]:
    """The attributes' names, and what each picture has: list_attr_celeba.txt.

    First the number of pictures, then the names, then a row ``000001.jpg -1 1 ...`` for each.

    Raises:
        OSError: another content, or fewer rows than the first line says.
    """
    lines = _lines(path)
    count = " ".join(next(lines, []))
    names = tuple(next(lines, []))
    rows: dict[str, list[bool]] = {}
    for file, *values in lines:
        if len(values) != len(names) or not _VALUES.keys() >= set(values):
            raise OSError(
                f"{path} must give {len(names)} values -1 or 1 in every row, "
                f"got {file} with {' '.join(values)!r}; replace it with the official file"
            )
        rows[file] = [_VALUES[value] for value in values]
    if count != str(len(rows)) or not rows:
        raise OSError(
            f"{path} must have as many rows as its first line says, "
            f"got {len(rows)} after {count!r}; replace it with the official file"
        )
    return names, rows


def partition_rows(path: Path) -> dict[str, str]:
    """The part of each picture: list_eval_partition.txt, rows ``000001.jpg 0``.

    Raises:
        OSError: another content, or a part without pictures.
    """
    parts: dict[str, str] = {}
    numbers = {str(number): part for number, part in enumerate(_PARTS)}
    for row in _lines(path):
        if len(row) != 2 or row[1] not in numbers:
            raise OSError(
                f"{path} must give a picture and 0, 1 or 2 in every row, got {' '.join(row)!r}; "
                "replace it with the official file"
            )
        parts[row[0]] = numbers[row[1]]
    empty = [part for part in _PARTS if part not in parts.values()]
    if empty:
        raise OSError(
            f"{path} must name {', '.join(_PARTS)} pictures, got no {empty[0]} picture; "
            "replace it with the official file"
        )
    return parts


def read_faces(path: Path) -> Faces:
    """What `keep_faces` wrote.

    Raises:
        OSError: another content.
    """
    of_parts = [f"{kind}_{part}" for kind in ("images", "answers") for part in _PARTS]
    arrays = restore(path, ["attributes", "caveat", *of_parts])
    return Faces(
        attributes=tuple(str(name) for name in arrays["attributes"]),
        images={part: arrays[f"images_{part}"] for part in _PARTS},
        answers={part: arrays[f"answers_{part}"] for part in _PARTS},
        caveat=str(arrays["caveat"]),
    )


def keep_faces(faces: Faces, path: Path) -> None:
    """Write the prepared file (2.5 GB) for the next time, where that is possible."""
    store(
        path,
        attributes=np.array(faces.attributes),
        caveat=np.array(faces.caveat),
        **{f"images_{part}": images for part, images in faces.images.items()},
        **{f"answers_{part}": answers for part, answers in faces.answers.items()},
    )


@final
@dataclass(frozen=True, kw_only=True)
class CelebA(Source):
    """Aligned faces, labelled by one attribute, in the official partition.

    The files lie on Google Drive, which gives them to people alone.

    Args:
        page: the official page, which links to the files.
        digests: of the pictures' archive, the attributes and the partition.
        count: pictures in the official files; fewer are usable and named in the caveat.
        attribute: one of the 40; who has it is of class 1.
        crop: left, top, right and bottom of the box that is resized, in pixels.

    Raises:
        ValueError: a box that is empty or reaches out of the photograph.
    """

    page: str
    digests: tuple[str | None, str | None, str | None]
    count: int
    attribute: str = "Male"
    crop: tuple[int, int, int, int] = (25, 50, 153, 178)

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop
        wide, high = _PHOTOGRAPH
        if not (0 <= left < right <= wide and 0 <= top < bottom <= high):
            raise ValueError(f"crop must lie within {wide}x{high} pixels, got {self.crop}")

    def load(self, folder: Path | None = None) -> Dataset:
        """Read the prepared file, or prepare it, which decodes every picture once.

        Raises:
            OSError: a file is missing, unreadable or not what its name says.
            ValueError: no such attribute.
        """
        place = data_folder(self.name, folder)
        prepared = place / f"celeba-{'-'.join(map(str, self.crop))}.npz"
        if prepared.is_file():
            faces = read_faces(prepared)
            self._check(faces.attributes)
        else:
            faces = self._prepare(place)
            keep_faces(faces, prepared)
        train, validation, test = (faces.split(part, self.attribute) for part in _PARTS)
        return Dataset(
            name=self.name,
            classes=(f"not {self.attribute}", self.attribute),
            task=self.task,
            train=train,
            validation=validation,
            test=test,
            caveat=faces.caveat,
        )

    def _check(self, attributes: tuple[str, ...]) -> None:
        if self.attribute not in attributes:
            raise ValueError(
                f"attribute of {self.name} must be one of {', '.join(attributes)}, "
                f"got {self.attribute!r}"
            )

    def _prepare(self, place: Path) -> Faces:
        pictures, attributes, partition = (
            OfficialFile(name, self.page, digest, extracted)
            for (name, extracted), digest in zip(
                (
                    ("img_align_celeba.zip", "img_align_celeba"),
                    ("list_attr_celeba.txt", None),
                    ("list_eval_partition.txt", None),
                ),
                self.digests,
                strict=True,
            )
        )
        paths = obtain_by_hand((pictures, attributes, partition), place)
        names, answers = attribute_rows(paths[attributes])
        self._check(names)
        parts = partition_rows(paths[partition])
        different = sorted(answers.keys() ^ parts.keys())
        if different:
            raise OSError(
                f"{paths[attributes]} and {partition.name} must name the same pictures, got "
                f"{different[0]} and {len(different) - 1} others in one alone; "
                "replace both with the official files"
            )
        named = {part: [file for file in parts if parts[file] == part] for part in _PARTS}
        count = f"{partition.name} names {len(parts)} of the official {self.count} pictures"
        return Faces(
            attributes=names,
            images=self._images(paths[pictures], named),
            answers={
                part: np.array([answers[file] for file in files], np.bool_)
                for part, files in named.items()
            },
            caveat=caveat(
                [
                    *(note(file, path) for file, path in paths.items()),
                    "" if len(parts) == self.count else count,
                ]
            ),
        )

    def _images(self, archive: Path, named: Mapping[str, list[str]]) -> Mapping[str, Images]:
        """Every part's pictures; one is decoded at a time, so memory holds the results alone."""
        images = {
            part: np.empty((len(files), 3, SIDE, SIDE), np.uint8) for part, files in named.items()
        }
        places = {file: images[part][k] for part in _PARTS for k, file in enumerate(named[part])}
        for path, data in members(archive, lambda path: PurePosixPath(path).name in places):
            picture = decode(data, f"{archive}:{path}", _PHOTOGRAPH)
            small = picture.crop(self.crop).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            place = places.pop(PurePosixPath(path).name)
            place[...] = np.asarray(small, np.uint8).transpose(2, 0, 1)
        if places:
            raise OSError(
                f"{archive} must hold every listed picture, got no {min(places)} "
                f"and {len(places) - 1} others; replace it with the official archive"
            )
        return images


def _lines(path: Path) -> Iterator[list[str]]:
    """The words of every line that has some."""
    with path.open(encoding="ascii", errors="replace") as stream:
        for line in stream:
            if words := line.split():
                yield words


CELEBA = CelebA(
    name="celeba",
    summary="64x64 RGB faces, male or not, 162770 + 19867 + 19962 images, to be fetched by hand",
    task=Task(
        shape=(3, SIDE, SIDE),
        num_classes=2,
        architecture="celeba",
        noise_std=0.01,
        epsilon_linf=8 / 255,
        epsilon_l2=3.0,
    ),
    page="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    digests=(
        "sha256:46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
        "sha256:f0e5da289d5ccf75ffe8811132694922b60f2af59256ed362afa03fefba324d0",
        "sha256:fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7",
    ),
    count=202599,
)
"""Digests as recorded by TensorFlow Datasets (url_checksums/celeb_a.txt), by the Drive identifiers
that torchvision gives these files. No paper states noise and an L2 epsilon: these are SVHN's, the
latter times sqrt(64^2 / 32^2) for the pixels; so is the Linf one (the robust-manifold paper attacks
with 0.05, 0.1 and 0.2)."""
