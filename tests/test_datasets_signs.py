"""GTSRB, DFG and BelgiumTSC on tiny archives in the official layouts."""

import io
import json
import shutil
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.datasets.base import Dataset
from benchmark.datasets.gtsrb10 import GTSRB10_SIGNS, GTSRB_CLASSES, GTSRBFiles
from benchmark.datasets.supertraffic10 import BELGIAN_KINDS, DFG_KINDS, SAME_SIGN, SUPERTRAFFIC10

COLUMNS = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
NOWHERE = GTSRBFiles("http://127.0.0.1:9/", (None, None, None))
GTSRB = replace(GTSRB10_SIGNS, files=NOWHERE)
SUPERTRAFFIC = replace(
    SUPERTRAFFIC10,
    gtsrb=NOWHERE,
    dfg_url="http://127.0.0.1:9/",
    belgian_url="http://127.0.0.1:9/",
)


@dataclass(frozen=True)
class Shot:
    """One picture: its class, the colour that fills it, and its size."""

    number: int
    colour: tuple[int, int, int]
    size: tuple[int, int] = (40, 36)
    track: int = 0
    frame: int = 0


def encoded(picture: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))
    return stream.getvalue()


def ppm(shot: Shot) -> bytes:
    return encoded(Image.new("RGB", shot.size, shot.colour), "PPM")


def row(name: str, shot: Shot) -> str:
    width, height = shot.size
    return f"{name};{width};{height};5;5;{width - 5};{height - 5};{shot.number}"


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def folders(shots: list[Shot], top: str) -> dict[str, bytes]:
    """Folders of pictures with their annotations, as GTSRB and BelgiumTSC train on them."""
    files: dict[str, bytes] = {f"{top}/Readme.txt": b"a;b"}
    for number in sorted({shot.number for shot in shots}):
        lines = [COLUMNS]
        for shot in (shot for shot in shots if shot.number == number):
            name = f"{shot.track:05d}_{shot.frame:05d}.ppm"
            files[f"{top}/{number:05d}/{name}"] = ppm(shot)
            lines.append(row(name, shot))
        files[f"{top}/{number:05d}/GT-{number:05d}.csv"] = "\r\n".join(lines).encode()
    return files


def write_gtsrb(folder: Path, train: list[Shot], test: list[Shot]) -> None:
    place = folder / "gtsrb10"
    write_zip(
        place / "GTSRB_Final_Training_Images.zip", folders(train, "GTSRB/Final_Training/Images")
    )
    names = [f"{number:05d}.ppm" for number in range(len(test))]
    unlabelled = "\n".join(row(n, s).rpartition(";")[0] for n, s in zip(names, test, strict=True))
    write_zip(
        place / "GTSRB_Final_Test_Images.zip",
        {f"GTSRB/Final_Test/Images/{n}": ppm(s) for n, s in zip(names, test, strict=True)}
        | {"GTSRB/Final_Test/Images/GT-final_test.test.csv": unlabelled.encode()},
    )
    lines = [COLUMNS, *(row(n, s) for n, s in zip(names, test, strict=True))]
    write_zip(place / "GTSRB_Final_Test_GT.zip", {"GT-final_test.csv": "\n".join(lines).encode()})


def colour(*values: int) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue


def gtsrb_shots() -> tuple[list[Shot], list[Shot]]:
    """Classes 0..11; class k has k + 2 tracks of 3 frames, the red channel tells class and track.

    Class 11 is the largest but for its small pictures, so it must not survive.
    """
    train = [
        Shot(k, colour(20 * k, 10 * track, frame), track=track, frame=frame)
        for k in range(11)
        for track in range(k + 2)
        for frame in range(3)
    ]
    train += [Shot(11, colour(255, 0, 0), (40, 31), track=t) for t in range(99)]
    test = [Shot(k, colour(20 * k, 200, 200)) for k in (10, 4, 7, 0, 4)]
    test.append(Shot(10, colour(255, 255, 255), (31, 40)))
    return train, test


def reds(data: Dataset) -> dict[str, set[tuple[int, int]]]:
    """By split, pairs of label and red channel."""
    return {
        part: set(zip(split.labels.tolist(), split.images[:, 0, 0, 0].tolist(), strict=True))
        for part, split in (("train", data.train), ("held", data.validation), ("test", data.test))
    }


def test_gtsrb10_keeps_the_ten_largest_classes_of_large_images(tmp_path):
    write_gtsrb(tmp_path, *gtsrb_shots())
    data = GTSRB.load(tmp_path)
    # Class 0 is the smallest and class 11 has only small images; most images first.
    assert data.classes == tuple(GTSRB_CLASSES[k] for k in range(10, 0, -1))
    assert len(data.train) + len(data.validation) == sum(3 * (k + 2) for k in range(1, 11))
    assert data.test.labels.tolist() == [0, 6, 3, 6]
    for pairs in reds(data).values():
        assert all(red == 20 * (10 - label) for label, red in pairs)
    assert data.test.images[0, :, 16, 16].tolist() == [200, 200, 200]


def test_gtsrb10_tracks_never_straddle_train_and_validation(tmp_path):
    write_gtsrb(tmp_path, *gtsrb_shots())
    data = GTSRB.load(tmp_path)
    train, held = (
        {(int(label), int(image[1, 0, 0])) for image, label in zip(s.images, s.labels, strict=True)}
        for s in (data.train, data.validation)
    )
    assert len(held) > 1 and not train & held
    assert len(data.validation) == 3 * len(held)


def test_gtsrb10_is_prepared_once_and_read_the_same_ever_after(tmp_path):
    write_gtsrb(tmp_path, *gtsrb_shots())
    first = GTSRB.load(tmp_path)
    for archive in (tmp_path / "gtsrb10").glob("*.zip"):
        archive.unlink()
    again = GTSRB.load(tmp_path)
    assert again.digest == first.digest
    assert (again.classes, again.caveat) == (first.classes, first.caveat)
    assert [path.name for path in (tmp_path / "gtsrb10").iterdir()] == ["gtsrb10.npz"]


def test_gtsrb10_reads_extracted_folders_and_says_so(tmp_path):
    write_gtsrb(tmp_path, *gtsrb_shots())
    digest = GTSRB.load(tmp_path).digest
    place = tmp_path / "gtsrb10"
    (place / "gtsrb10.npz").unlink()
    for archive in list(place.glob("*.zip")):
        shutil.unpack_archive(archive, place)
        archive.unlink()
    data = GTSRB.load(tmp_path)
    assert data.digest == digest
    assert "GTSRB_Final_Training_Images.zip was extracted beforehand, unverified" in data.caveat


def test_gtsrb10_archives_that_differ_are_named(tmp_path):
    write_gtsrb(tmp_path, *gtsrb_shots())
    caveat = GTSRB10_SIGNS.load(tmp_path).caveat
    assert caveat.count("differs from the official file") == 3


def test_gtsrb10_reads_a_prepared_file_with_numbers_for_classes(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "images_train": rng.integers(0, 256, (40, 32, 32, 3), np.uint8),
        "labels_train": (np.arange(40) % 10).astype(np.uint8),
        "track_train": np.arange(40, dtype=np.int32) // 4,
        "images_test": rng.integers(0, 256, (5, 32, 32, 3), np.uint8),
        "labels_test": np.arange(5, dtype=np.uint8),
        "class_ids": np.array([13, 1, 12, 2, 38, 4, 10, 5, 25, 9], np.uint8),
    }
    (tmp_path / "gtsrb10").mkdir()
    np.savez(tmp_path / "gtsrb10" / "gtsrb10.npz", **arrays)
    data = GTSRB.load(tmp_path)
    assert data.classes[:2] == ("yield", "speed limit 30") and data.classes[4] == "keep right"
    assert np.array_equal(data.test.images, arrays["images_test"].transpose(0, 3, 1, 2))
    assert "prepared" in data.caveat and "unverified" in data.caveat


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_a_broken_prepared_file_is_named(tmp_path, content):
    (tmp_path / "gtsrb10").mkdir()
    path = tmp_path / "gtsrb10" / "gtsrb10.npz"
    path.write_bytes(content)
    with pytest.raises(OSError, match="must be a prepared npz file") as caught:
        GTSRB.load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_broken_archive_is_named(tmp_path):
    write_gtsrb(tmp_path, *gtsrb_shots())
    path = tmp_path / "gtsrb10" / "GTSRB_Final_Training_Images.zip"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(OSError, match=f"{path.name} must be a complete archive"):
        GTSRB.load(tmp_path)


def test_an_archive_without_an_annotated_picture_is_named(tmp_path):
    train, test = gtsrb_shots()
    write_gtsrb(tmp_path, train, test)
    files = {name: data for name, data in folders(train, "a").items() if "00005_00001" not in name}
    write_zip(tmp_path / "gtsrb10" / "GTSRB_Final_Training_Images.zip", files)
    with pytest.raises(OSError, match=r"got no a/00004/00005_00001\.ppm and 6 others"):
        GTSRB.load(tmp_path)
    assert not (tmp_path / "gtsrb10" / "gtsrb10.npz").exists()


def test_annotations_without_numbers_are_named(tmp_path):
    train, test = gtsrb_shots()
    write_gtsrb(tmp_path, train, test)
    files = folders(train, "a") | {"a/00000/GT-00000.csv": f"{COLUMNS}\nx.ppm;wide".encode()}
    write_zip(tmp_path / "gtsrb10" / "GTSRB_Final_Training_Images.zip", files)
    with pytest.raises(OSError, match="must give Filename, Width, Height and ClassId"):
        GTSRB.load(tmp_path)


def photograph() -> Image.Image:
    """100x80: a green sign of 40x36 at (10, 20), a blue one of 33x33 at (60, 5), red elsewhere."""
    picture = Image.new("RGB", (100, 80), (255, 0, 0))
    picture.paste((0, 255, 0), (10, 20, 50, 56))
    picture.paste((0, 0, 255), (60, 5, 93, 38))
    return picture


def coco(files: dict[int, str], signs: list[tuple[int, int, list[float], bool]]) -> bytes:
    return json.dumps(
        {
            "images": [
                {"id": number, "file_name": name, "width": 100, "height": 80}
                for number, name in files.items()
            ],
            "categories": [
                {"id": 1, "name": "II-1"},
                {"id": 2, "name": "II-4"},
                {"id": 3, "name": "VI-8"},
            ],
            "annotations": [
                {"id": k, "image_id": image, "category_id": kind, "bbox": box, "ignore": ignore}
                for k, (image, kind, box, ignore) in enumerate(signs)
            ],
        }
    ).encode()


def write_supertraffic(folder: Path) -> None:
    """Nine GTSRB classes with two images each; "yield" is the largest, by all three sources."""
    numbers = (13, 1, 12, 2, 38, 4, 10, 5, 25)
    train = [Shot(k, colour(50, k, 0), track=t) for k in numbers for t in range(4)]
    write_gtsrb(folder, train, [Shot(13, colour(50, 13, 0)), Shot(25, colour(50, 25, 0))])
    place = folder / "supertraffic10"
    green, blue = [10.0, 20.0, 40.0, 36.0], [60.0, 5.0, 33.0, 33.0]
    small, hidden = [0.0, 0.0, 31.5, 60.0], [10.0, 20.0, 40.0, 36.0]
    write_zip(
        place / "DFG-tsd-annot-json.zip",
        {
            "DFG-tsd-annot-json/train.json": coco(
                {7: "0000007.jpg", 8: "0000008.jpg"},
                [
                    (7, 1, green, False),
                    (7, 2, blue, False),
                    (8, 1, small, False),
                    (8, 1, hidden, True),
                    (8, 3, green, False),
                ],
            ),
            "DFG-tsd-annot-json/test.json": coco({9: "0000009.jpg"}, [(9, 2, blue, False)]),
        },
    )
    with tarfile.open(place / "JPEGImages.tar.bz2", "w:bz2") as archive:
        for number in (9, 8, 7):
            data = encoded(photograph(), "JPEG")
            member = tarfile.TarInfo(f"JPEGImages/{number:07d}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    belgian = [Shot(19, colour(60, 13, 0), track=t) for t in range(3)]
    belgian += [Shot(22, colour(60, 17, 0), track=t) for t in range(2)]
    belgian += [Shot(32, colour(60, 99, 0))]
    write_zip(place / "BelgiumTSC_Training.zip", folders(belgian, "Training"))
    write_zip(place / "BelgiumTSC_Testing.zip", folders(belgian[:1], "Testing"))


def test_supertraffic10_merges_same_signs_of_three_countries(tmp_path):
    write_supertraffic(tmp_path)
    data = SUPERTRAFFIC.load(tmp_path)
    # yield: 5 German, 1 Slovenian, 4 Belgian; no entry: 2 Slovenian and 2 Belgian reach the tenth
    # place; the Belgian speed limits and the Slovenian VI-8 stand alone and do not.
    assert data.classes[0] == "yield" and set(data.classes) == {
        *(GTSRB_CLASSES[k] for k in (13, 1, 12, 2, 38, 4, 10, 5, 25)),
        "no entry",
    }
    assert len(data.train) + len(data.validation) == 9 * 4 + 2 + 5
    counts = np.bincount(np.concatenate([data.train.labels, data.validation.labels]))
    assert counts[0] == 4 + 1 + 3
    assert counts[data.classes.index("no entry")] == 1 + 2
    names = [data.classes[label] for label in data.test.labels]
    assert names == ["yield", "road work", "no entry", "yield"]


def test_supertraffic10_cuts_signs_out_of_photographs(tmp_path):
    write_supertraffic(tmp_path)
    data = SUPERTRAFFIC.load(tmp_path)
    blue = data.test.images[2].reshape(3, -1).astype(int)
    assert blue[2].min() > 200 and blue[0].max() < 60
    both = np.concatenate([data.train.images, data.validation.images]).astype(int)
    green = both[both[:, 1].mean(axis=(1, 2)) > 200]
    assert len(green) == 1 and green[0, 0].max() < 60


def test_supertraffic10_says_what_is_its_own_choice_and_what_is_unverified(tmp_path):
    write_supertraffic(tmp_path)
    caveat = SUPERTRAFFIC.load(tmp_path).caveat
    assert caveat.startswith("classes of the three data sets were matched by this project")
    for name in ("DFG-tsd-annot-json.zip", "JPEGImages.tar.bz2", "BelgiumTSC_Testing.zip"):
        assert f"{name} unverified" in caveat


def test_supertraffic10_is_prepared_once_and_read_the_same_ever_after(tmp_path):
    write_supertraffic(tmp_path)
    first = SUPERTRAFFIC.load(tmp_path)
    (tmp_path / "supertraffic10" / "JPEGImages.tar.bz2").unlink()
    again = SUPERTRAFFIC.load(tmp_path)
    assert (again.digest, again.classes, again.caveat) == (
        first.digest,
        first.classes,
        first.caveat,
    )


def test_supertraffic10_names_a_broken_annotation_file(tmp_path):
    write_supertraffic(tmp_path)
    write_zip(
        tmp_path / "supertraffic10" / "DFG-tsd-annot-json.zip",
        {"train.json": b'{"images": []}', "test.json": b"{}"},
    )
    with pytest.raises(OSError, match=r"train\.json must be a COCO annotation file"):
        SUPERTRAFFIC.load(tmp_path)


def test_no_sign_has_two_counterparts():
    assert set(SAME_SIGN) <= set(GTSRB_CLASSES)
    assert len(DFG_KINDS) == len(SAME_SIGN)
    assert len(BELGIAN_KINDS) == len(set(BELGIAN_KINDS)) == 62
    belgian = [number for _, number in SAME_SIGN.values() if number is not None]
    assert len(set(belgian)) == len(belgian)
    assert all(BELGIAN_KINDS[n] == kind for kind, (_, n) in SAME_SIGN.items() if n is not None)
