"""COIL-100 and CelebA on tiny files in the official layouts."""

import hashlib
import io
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.datasets.base import Dataset, Split
from benchmark.datasets.celeba import CELEBA
from benchmark.datasets.coil100 import COIL_100

COIL = replace(COIL_100, url="http://127.0.0.1:9/coil-100.zip")
ANGLES = range(0, 100, 5)
SPLIT = "random split over the views of each object, half of them for testing, is this project's"


def encoded(picture: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))
    return stream.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def coil_files(objects: Sequence[int] = (1, 2, 100)) -> dict[str, bytes]:
    """Red tells the object, green the angle; the upper left pixel is white. Names are not in order
    of angles, as "5" stands behind "10"."""
    files = {"coil-100/convertGroupppm2png.pl": b"#!/usr/bin/perl"}
    for number in objects:
        for angle in ANGLES:
            picture = Image.new("RGB", (128, 128), (number, angle, 0))
            picture.putpixel((0, 0), (255, 255, 255))
            files[f"coil-100/obj{number}__{angle}.png"] = encoded(picture, "PNG")
    return files


def write_coil(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    path = folder / "coil100" / "coil-100.zip"
    write_zip(path, coil_files() if files is None else files)
    return path


def views(split: Split) -> list[tuple[int, int]]:
    """Object and angle of each image, by its colour."""
    return [(int(image[0, 9, 9]), int(image[1, 9, 9])) for image in split.images]


def parts(data: Dataset) -> tuple[Split, Split, Split]:
    return data.train, data.validation, data.test


def test_coil100_labels_are_the_objects_numbers_and_pixels_stay_in_place(tmp_path):
    write_coil(tmp_path)
    data = COIL.load(tmp_path)
    assert len(data.classes) == 100 and data.classes[99] == "object 100"
    for split in parts(data):
        assert split.labels.tolist() == [number - 1 for number, _ in views(split)]
        assert (split.images[:, :, 0, 0] == 255).all() and (split.images[:, 2, 1:] == 0).all()


def test_coil100_tests_half_the_views_of_each_object_and_every_view_is_in_one_split(tmp_path):
    write_coil(tmp_path)
    data = COIL.load(tmp_path)
    counts = np.bincount(data.test.labels, minlength=100)
    assert counts[[0, 1, 99]].tolist() == [10, 10, 10] and counts.sum() == 30
    assert len(data.validation) == 3
    assert all(views(split) == sorted(views(split)) for split in parts(data))
    every = [view for split in parts(data) for view in views(split)]
    assert sorted(every) == [(number, angle) for number in (1, 2, 100) for angle in ANGLES]


def test_coil100_tests_random_views_that_differ_between_objects(tmp_path):
    write_coil(tmp_path)
    tested = views(COIL.load(tmp_path).test)
    angles = [{angle for of, angle in tested if of == number} for number in (1, 2, 100)]
    assert angles[0] != angles[1] != angles[2] != angles[0]
    assert all(chosen != set(list(ANGLES)[:10]) for chosen in angles)


def test_coil100_splits_do_not_depend_on_the_archives_order_or_on_other_objects(tmp_path):
    write_coil(tmp_path / "one")
    write_coil(tmp_path / "two", dict(reversed(coil_files().items())))
    write_coil(tmp_path / "few", coil_files((2,)))
    one, two, few = (COIL.load(tmp_path / name) for name in ("one", "two", "few"))
    assert one.digest == two.digest == COIL.load(tmp_path / "one").digest
    assert views(few.test) == [view for view in views(one.test) if view[0] == 2]


def test_coil100_names_its_split_and_how_many_images_are_missing(tmp_path):
    write_coil(tmp_path)
    assert COIL.load(tmp_path).caveat == (
        f"{SPLIT}: not comparable with other splits; "
        "coil-100.zip has 60 of the official 7200 images"
    )


def test_coil100_reads_the_extracted_folder(tmp_path):
    path = write_coil(tmp_path)
    digest = COIL.load(tmp_path).digest
    shutil.unpack_archive(path, path.parent)
    path.unlink()
    assert COIL.load(tmp_path).digest == digest


def test_coil100_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as caught:
        COIL.load(tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "coil100" / "coil-100.zip") in message and COIL.url in message
    assert "\n" not in message


def test_coil100_names_a_broken_archive(tmp_path):
    path = write_coil(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match=r"coil-100\.zip must be a complete archive"):
        COIL.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("obj3__0", encoded(Image.new("RGB", (128, 96)), "PNG"), "128x128 pixels, got 128x96"),
        ("obj3__0", b"no picture", r"coil-100/obj3__0\.png must be a readable picture"),
        ("obj3__0", encoded(Image.new("RGB", (128, 128)), "PNG")[:70], "a readable picture"),
        ("obj101__0", b"", r"once each, got coil-100/obj101__0\.png"),
        ("obj0__0", b"", r"once each, got coil-100/obj0__0\.png"),
        ("obj3__7", b"", r"once each, got coil-100/obj3__7\.png"),
        ("obj3__360", b"", r"once each, got coil-100/obj3__360\.png"),
        (
            "obj1__00",
            encoded(Image.new("RGB", (128, 128)), "PNG"),
            r"once each, got coil-100/obj1__00\.png",
        ),
    ],
)
def test_coil100_names_a_picture_that_does_not_belong(tmp_path, name, data, message):
    write_coil(tmp_path, {**coil_files(), f"coil-100/{name}.png": data})
    with pytest.raises(OSError, match=message):
        COIL.load(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b""}, r"must hold pictures obj<object>__<angle>\.png, got none"),
        (
            {"obj7__0.png": encoded(Image.new("RGB", (128, 128)), "PNG")},
            "must hold 2 views of an object or more",
        ),
    ],
)
def test_coil100_names_an_archive_without_views(tmp_path, files, message):
    write_coil(tmp_path, files)
    with pytest.raises(OSError, match=message):
        COIL.load(tmp_path)


NAMES = ("Smiling", "Male", "Young")
PARTITION = (0, 0, 0, 0, 1, 1, 2, 2, 2)
MALE = (1, -1, -1, 1, 1, -1, -1, 1, 1)


def face(number: int) -> Image.Image:
    """Grey that tells the number inside the paper's box of 128x128 pixels, red around it."""
    picture = Image.new("RGB", (178, 218), (255, 0, 0))
    picture.paste((20 * number,) * 3, (25, 50, 153, 178))
    return picture


def celeba_files() -> dict[str, bytes]:
    """Nine faces, with three attributes each; all are young, none smiles."""
    files = {
        f"img_align_celeba/{number:06d}.jpg": encoded(face(number), "JPEG")
        for number in range(1, 10)
    }
    rows = [f"{k:06d}.jpg -1 {male:2d}  1" for k, male in enumerate(MALE, 1)]
    files["list_attr_celeba.txt"] = "\r\n".join(["9", " ".join(NAMES) + " ", *rows, ""]).encode()
    lines = [f"{k:06d}.jpg {part}" for k, part in enumerate(PARTITION, 1)]
    files["list_eval_partition.txt"] = "\n".join([*lines, ""]).encode()
    return files


def write_celeba(folder: Path, **changed: bytes | None) -> None:
    """The archive and both lists; ``changed`` are files by the last word before the ending."""
    place = folder / "celeba"
    place.mkdir(parents=True)
    files = celeba_files()
    for path in list(files):
        word = Path(path).stem.rpartition("_")[2]
        data = changed.get(word, files[path])
        if data is None:
            del files[path]
        else:
            files[path] = data
    write_zip(
        place / "img_align_celeba.zip",
        {path: data for path, data in files.items() if path.endswith(".jpg")},
    )
    for path, data in files.items():
        if path.endswith(".txt"):
            (place / path).write_bytes(data)


def faces(split: Split) -> list[int]:
    """The number of each face, by its grey."""
    return [round(int(image[0, 32, 32]) / 20) for image in split.images]


def test_celeba_follows_the_official_partition_and_labels_men(tmp_path):
    write_celeba(tmp_path)
    data = CELEBA.load(tmp_path)
    assert data.classes == ("not Male", "Male")
    assert [faces(split) for split in parts(data)] == [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
    assert [s.labels.tolist() for s in parts(data)] == [[1, 0, 0, 1], [1, 0], [0, 1, 1]]


def test_celeba_sees_the_box_at_row_50_and_column_25_alone(tmp_path):
    write_celeba(tmp_path)
    image = CELEBA.load(tmp_path).test.images[0].astype(int)
    assert image.shape == (3, 64, 64) and abs(image - 140).max() <= 3


def test_celeba_cuts_where_its_source_says_and_prepares_every_crop_apart(tmp_path):
    write_celeba(tmp_path)
    CELEBA.load(tmp_path)
    image = replace(CELEBA, crop=(0, 20, 178, 198)).load(tmp_path).test.images[0].astype(int)
    assert image[0, :4].min() > 200 and image[1, :4].max() < 60
    assert sorted(path.name for path in (tmp_path / "celeba").glob("*.npz")) == [
        "celeba-0-20-178-198.npz",
        "celeba-25-50-153-178.npz",
    ]


@pytest.mark.parametrize("crop", [(-1, 0, 64, 64), (0, 0, 179, 64), (9, 0, 9, 64), (0, 0, 9, 219)])
def test_celeba_refuses_a_box_that_is_not_in_the_photograph(crop):
    with pytest.raises(ValueError, match="crop must lie within 178x218 pixels, got"):
        replace(CELEBA, crop=crop)


def test_celeba_is_prepared_once_and_read_the_same_for_every_attribute(tmp_path):
    write_celeba(tmp_path)
    first = CELEBA.load(tmp_path)
    for path in (tmp_path / "celeba").glob("*_*"):
        path.unlink()
    again = CELEBA.load(tmp_path)
    assert (again.digest, again.classes, again.caveat) == (
        first.digest,
        first.classes,
        first.caveat,
    )
    young = replace(CELEBA, attribute="Young").load(tmp_path)
    assert young.classes == ("not Young", "Young") and young.test.labels.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"attribute of celeba must be one of .*, got 'Gender'"):
        replace(CELEBA, attribute="Gender").load(tmp_path)


def test_celeba_reads_the_extracted_folder_and_says_so(tmp_path):
    write_celeba(tmp_path)
    place = tmp_path / "celeba"
    digest = CELEBA.load(tmp_path).digest
    shutil.unpack_archive(place / "img_align_celeba.zip", place)
    for path in (*place.glob("*.npz"), place / "img_align_celeba.zip"):
        path.unlink()
    data = CELEBA.load(tmp_path)
    assert data.digest == digest
    assert "img_align_celeba.zip was extracted beforehand, unverified" in data.caveat


def test_celeba_names_files_that_differ_and_missing_pictures(tmp_path):
    write_celeba(tmp_path)
    assert CELEBA.load(tmp_path).caveat == (
        "img_align_celeba.zip differs from the official file; "
        "list_attr_celeba.txt differs from the official file; "
        "list_eval_partition.txt differs from the official file; "
        "list_eval_partition.txt names 9 of the official 202599 pictures"
    )


def test_celeba_has_no_caveat_where_the_files_are_the_official_ones(tmp_path):
    write_celeba(tmp_path)
    digests = [
        f"sha256:{hashlib.sha256((tmp_path / 'celeba' / name).read_bytes()).hexdigest()}"
        for name in ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
    ]
    assert replace(CELEBA, digests=tuple(digests), count=9).load(tmp_path).caveat == ""


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ((), "img_align_celeba.zip (or the folder img_align_celeba) and list_attr_celeba.txt and "),
        (("img_align_celeba.zip", "list_eval_partition.txt"), "list_attr_celeba.txt must lie in"),
    ],
)
def test_celeba_that_is_missing_is_one_sentence(tmp_path, there, missing):
    (tmp_path / "celeba").mkdir()
    for name in there:
        (tmp_path / "celeba" / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError) as caught:
        CELEBA.load(tmp_path)
    message = str(caught.value)
    assert message.startswith(missing) and "\n" not in message
    assert f"must lie in {tmp_path / 'celeba'}" in message and CELEBA.page in message


def test_celeba_refuses_an_attribute_that_is_not_there_before_it_decodes(tmp_path):
    write_celeba(tmp_path)
    (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="must be one of Smiling, Male, Young, got 'Gender'"):
        replace(CELEBA, attribute="Gender").load(tmp_path)


def test_celeba_names_a_broken_archive_and_prepares_nothing(tmp_path):
    write_celeba(tmp_path)
    path = tmp_path / "celeba" / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(OSError, match=r"img_align_celeba\.zip must be a complete archive"):
        CELEBA.load(tmp_path)
    assert not list((tmp_path / "celeba").glob("*.npz"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_celeba_names_a_broken_prepared_file(tmp_path, content):
    write_celeba(tmp_path)
    path = tmp_path / "celeba" / "celeba-25-50-153-178.npz"
    path.write_bytes(content)
    with pytest.raises(OSError, match=f"{path.name} must be a prepared npz file"):
        CELEBA.load(tmp_path)


LISTS = celeba_files()
ATTRIBUTES = LISTS["list_attr_celeba.txt"]
PARTS = LISTS["list_eval_partition.txt"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"000005": encoded(Image.new("RGB", (218, 178)), "JPEG")},
            r"000005\.jpg must be 178x218 pixels, got 218x178",
        ),
        ({"000005": encoded(face(5), "JPEG")[:900]}, r"000005\.jpg must be a readable picture"),
        ({"000005": None}, r"must hold every listed picture, got no 000005\.jpg and 0 others"),
        ({"celeba": b""}, r"as many rows as its first line says, got 0 after ''"),
        ({"celeba": ATTRIBUTES[:-21]}, r"as many rows as its first line says, got 8 after '9'"),
        ({"celeba": ATTRIBUTES[:-6]}, r"3 values -1 or 1 in every row, got 000009\.jpg with '-1'"),
        ({"celeba": ATTRIBUTES.replace(b" -1  1", b" 0  1")}, "3 values -1 or 1 in every row"),
        ({"partition": PARTS[:-13]}, r"the same pictures, got 000009\.jpg and 0 others"),
        ({"partition": PARTS + b"000010.jpg 2"}, r"same pictures, got 000010\.jpg and 0 others"),
        ({"partition": PARTS.replace(b" 1", b" 3")}, r"0, 1 or 2 in every row, got '000005.jpg 3'"),
        ({"partition": PARTS[:-3]}, r"0, 1 or 2 in every row, got '000009\.jpg'"),
        ({"partition": PARTS.replace(b" 1", b" 2")}, "got no validation picture"),
        ({"partition": b""}, "got no train picture"),
    ],
)
def test_celeba_names_what_is_wrong(tmp_path, changed, message):
    write_celeba(tmp_path, **changed)
    with pytest.raises(OSError, match=message):
        CELEBA.load(tmp_path)
