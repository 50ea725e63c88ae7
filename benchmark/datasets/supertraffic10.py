"""SuperTraffic-10: German, Slovenian and Belgian traffic signs merged (E-ABS, section 4.1).

The authors never released the data, only the recipe: merge GTSRB, the DFG traffic sign data set
and BelgiumTSC, drop images smaller than 32x32, keep the ten classes with most images, resize to
32x32 RGB. Which sign of one data set is which of another is not published: `SAME_SIGN` is this
project's choice, and so is everything below that the recipe leaves open.

- Training and test images are the three official divisions, each merged with its like.
- GTSRB and BelgiumTSC images are whole (sign and border); DFG signs are cut out of photographs at
  their annotated box, without a border; annotations that DFG marks "ignore" are skipped.
- A class without a counterpart competes on its own.
- Tracks (GTSRB), physical signs (BelgiumTSC) and photographs (DFG) are never torn between training
  and validation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

from benchmark.datasets.archives import members
from benchmark.datasets.base import Dataset, Source
from benchmark.datasets.files import OfficialFile, caveat, data_folder, note, obtain
from benchmark.datasets.gtsrb10 import GTSRB_FILES, GTSRBFiles
from benchmark.datasets.prepared import SignArrays, keep, prepare, read_prepared
from benchmark.datasets.signs import SIGN_TASK, Sign, annotated_folders

SAME_SIGN: Mapping[str, tuple[str, int | None]] = {
    "speed limit 30": ("II-30-30", None),
    "speed limit 50": ("II-30-50", None),
    "speed limit 60": ("II-30-60", None),
    "speed limit 70": ("II-30-70", None),
    "no passing": ("II-28", 31),
    "priority at next crossing": ("I-27", 17),
    "priority road": ("III-3", 61),
    "yield": ("II-1", 19),
    "stop": ("II-2", 21),
    "no vehicles": ("II-3", 28),
    "no trucks": ("II-7", 25),
    "no entry": ("II-4", 22),
    "danger": ("I-25", 13),
    "bend to the left": ("I-1", 3),
    "bend to the right": ("I-1.1", 4),
    "double bend": ("I-2", 5),
    "uneven road": ("I-10", 0),
    "slippery road": ("I-11", 2),
    "road work": ("I-19", 10),
    "traffic signals": ("I-20", 11),
    "children": ("I-15", 7),
    "cyclists": ("I-16", 8),
    "wild animals": ("I-18", None),
    "keep right": ("II-47", None),
    "roundabout": ("II-48", 37),
}
"""GTSRB class -> (DFG category, BelgiumTSC class): this project's correspondence.

BelgiumTSC has one class for all speed limits (32) and one for arrows in several directions (34),
so these have no counterpart.
"""

_BELGIAN_CLASSES = 62
_OUR_CHOICE = "classes of the three data sets were matched by this project, not by the authors"


DFG_KINDS: Mapping[str, str] = {dfg: kind for kind, (dfg, _) in SAME_SIGN.items()}

BELGIAN_KINDS: Sequence[str] = [
    {belgian: kind for kind, (_, belgian) in SAME_SIGN.items()}.get(number, f"BelgiumTSC {number}")
    for number in range(_BELGIAN_CLASSES)
]


def photographed_signs(annotations: Path, part: str, archive: Path) -> list[Sign]:
    """The signs of one DFG annotation file, train.json or test.json in COCO's layout.

    images: id, file_name; categories: id, name; annotations: image_id, category_id,
    bbox [left, top, width, height] in pixels, ignore.

    Args:
        annotations: the archive with the annotation files.
        part: name of the annotation file.
        archive: the archive with the photographs.

    Raises:
        OSError: no such file, or another layout.
    """
    found = list(members(annotations, lambda path: PurePosixPath(path).name == part))
    if len(found) != 1:
        raise OSError(f"{annotations} must hold one {part}, got {len(found)}; replace it")
    try:
        content = json.loads(found[0][1])
        files = {image["id"]: PurePosixPath(image["file_name"]).name for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        return sorted(
            (
                _cut(
                    archive,
                    files[item["image_id"]],
                    names[item["category_id"]],
                    item["bbox"],
                )
                for item in content["annotations"]
                if not item.get("ignore")
            ),
            key=lambda sign: (sign.file, sign.box or ()),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(
            f"{annotations}:{part} must be a COCO annotation file, got an unreadable one "
            f"({type(error).__name__}: {error}); replace it with the official file"
        ) from error


def _cut(archive: Path, file: str, category: str, box: Sequence[float]) -> Sign:
    left, top, width, height = box
    return Sign(
        kind=DFG_KINDS.get(category, f"DFG {category}"),
        group=f"dfg {file}",
        archive=archive,
        file=file,
        width=int(width),
        height=int(height),
        box=(left, top, left + width, top + height),
    )


@final
@dataclass(frozen=True, kw_only=True)
class SuperTraffic10(Source):
    """The merged data set, from the official archives of all three.

    GTSRB's archives are shared with `gtsrb10` and lie in its folder.

    Args:
        gtsrb: GTSRB's archives.
        dfg_url, belgian_url: addresses of the other two, ending in a slash.
    """

    gtsrb: GTSRBFiles
    dfg_url: str
    belgian_url: str

    def load(self, folder: Path | None = None) -> Dataset:
        """Read the prepared file, or prepare it from the archives (8 GB)."""
        prepared = data_folder(self.name, folder) / "supertraffic10.npz"
        if prepared.is_file():
            return read_prepared(prepared).dataset(self.name)
        arrays = self._prepare(data_folder("gtsrb10", folder), prepared.parent)
        keep(arrays, prepared)
        return arrays.dataset(self.name)

    def _prepare(self, gtsrb_folder: Path, place: Path) -> SignArrays:
        train, test, notes = self.gtsrb.signs(gtsrb_folder)
        annotations, photographs, belgian_training, belgian_test = (
            OfficialFile(name, f"{address}{name}", None, extracted)
            for name, address, extracted in (
                ("DFG-tsd-annot-json.zip", self.dfg_url, "DFG-tsd-annot-json"),
                ("JPEGImages.tar.bz2", self.dfg_url, "JPEGImages"),
                ("BelgiumTSC_Training.zip", self.belgian_url, "Training"),
                ("BelgiumTSC_Testing.zip", self.belgian_url, "Testing"),
            )
        )
        paths = {
            file: obtain(file, place)
            for file in (annotations, photographs, belgian_training, belgian_test)
        }
        notes += [note(file, path) for file, path in paths.items()]
        train += photographed_signs(paths[annotations], "train.json", paths[photographs])
        test += photographed_signs(paths[annotations], "test.json", paths[photographs])
        train += annotated_folders(paths[belgian_training], "btsc", BELGIAN_KINDS)
        test += annotated_folders(paths[belgian_test], "btsc", BELGIAN_KINDS)
        return prepare(train, test, caveat([_OUR_CHOICE, *notes]))


SUPERTRAFFIC10 = SuperTraffic10(
    name="supertraffic10",
    summary="32x32 RGB European traffic signs, GTSRB + DFG + BelgiumTSC, ten largest classes",
    task=SIGN_TASK,
    gtsrb=GTSRB_FILES,
    dfg_url="https://data.vicos.si/skokec/villard/",
    belgian_url="https://btsd.ethz.ch/shareddata/BelgiumTSC/",
)
