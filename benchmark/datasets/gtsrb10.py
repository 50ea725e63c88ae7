"""The ten largest classes of the German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012).

A stand-in for SuperTraffic-10 that needs GTSRB alone, made by the same recipe (E-ABS, section 4.1):
images with a native side below 32 are dropped, the ten classes with most images (training and test
together) are kept, and whole images, sign and border, are resized bilinearly to 32x32 RGB.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from benchmark.datasets.archives import members
from benchmark.datasets.base import Dataset, Source
from benchmark.datasets.files import OfficialFile, caveat, data_folder, note, obtain
from benchmark.datasets.prepared import keep, prepare, read_prepared
from benchmark.datasets.signs import (
    SIGN_TASK,
    Sign,
    annotated_folders,
    annotation_rows,
    kind_of,
)

GTSRB_CLASSES = (
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "speed limit 80",
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no passing",
    "no passing for trucks",
    "priority at next crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "bend to the left",
    "bend to the right",
    "double bend",
    "uneven road",
    "slippery road",
    "road narrows on the right",
    "road work",
    "traffic signals",
    "pedestrians",
    "children",
    "cyclists",
    "ice or snow",
    "wild animals",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "straight ahead",
    "straight or right",
    "straight or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for trucks",
)
"""The 43 signs, by ClassId."""


@dataclass(frozen=True)
class GTSRBFiles:
    """The three official archives.

    Args:
        base_url: their address, ending in a slash.
        digests: of the archives, in the order training images, test images, test annotations.
    """

    base_url: str
    digests: tuple[str | None, str | None, str | None]

    def signs(self, folder: Path) -> tuple[list[Sign], list[Sign], list[str]]:
        """Training and test annotations, and notes on the files.

        Args:
            folder: holds the archives, or what was extracted from them.
        """
        training, test, truth = (
            OfficialFile(name, f"{self.base_url}{name}", digest, extracted)
            for (name, extracted), digest in zip(
                (
                    ("GTSRB_Final_Training_Images.zip", "GTSRB/Final_Training"),
                    ("GTSRB_Final_Test_Images.zip", "GTSRB/Final_Test"),
                    ("GTSRB_Final_Test_GT.zip", "GT-final_test.csv"),
                ),
                self.digests,
                strict=True,
            )
        )
        paths = {file: obtain(file, folder) for file in (training, test, truth)}
        return (
            annotated_folders(paths[training], "gtsrb", GTSRB_CLASSES),
            final_test_signs(paths[truth], paths[test]),
            [note(file, path) for file, path in paths.items()],
        )


GTSRB_FILES = GTSRBFiles(
    base_url="https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",
    digests=(
        "md5:f33fd80ac59bff73c82d25ab499e03a3",
        "md5:c7e4e6327067d32654124b0fe9e82185",
        "md5:fe31e9c9270bbcd7b84b7f21a9d9d9e5",
    ),
)
"""The archives of the competition's final phase: 39209 + 12630 images. MD5 as torchvision checks
them (test) and as several public loaders agree on (training)."""


def final_test_signs(truth: Path, archive: Path) -> list[Sign]:
    """GTSRB's test annotations; every image is a group of its own, as its track is not published.

    Args:
        truth: the archive with GT-final_test.csv.
        archive: the archive with the pictures.

    Raises:
        OSError: no or unreadable annotations.
    """
    signs = [
        Sign(
            kind=kind_of(GTSRB_CLASSES, int(row["ClassId"]), str(truth)),
            group=row["Filename"],
            archive=archive,
            file=row["Filename"],
            width=int(row["Width"]),
            height=int(row["Height"]),
        )
        for name, data in members(truth, lambda path: path.endswith("GT-final_test.csv"))
        for row in annotation_rows(data, f"{truth}:{name}")
    ]
    if not signs:
        raise OSError(f"{truth} must hold GT-final_test.csv, got no such file; replace it")
    return signs


@final
@dataclass(frozen=True, kw_only=True)
class GTSRB10(Source):
    """GTSRB alone, from a prepared gtsrb10.npz or from the official archives.

    Args:
        files: the official archives.
    """

    files: GTSRBFiles

    def load(self, folder: Path | None = None) -> Dataset:
        """Read the prepared file, or prepare it; validation tracks show other signs than training.

        Thirty frames of a track show one physical sign, so tracks are never torn apart.
        """
        place = data_folder(self.name, folder)
        prepared = place / "gtsrb10.npz"
        if prepared.is_file():
            return read_prepared(prepared, GTSRB_CLASSES).dataset(self.name)
        train, test, notes = self.files.signs(place)
        arrays = prepare(train, test, caveat(notes))
        keep(arrays, prepared)
        return arrays.dataset(self.name)


GTSRB10_SIGNS = GTSRB10(
    name="gtsrb10",
    summary="32x32 RGB German traffic signs, ten largest classes (not SuperTraffic-10)",
    task=SIGN_TASK,
    files=GTSRB_FILES,
)
