"""ImageNet's validation images on tiny files in the official layouts."""

import hashlib
import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from benchmark.datasets.base import Dataset
from benchmark.datasets.imagenet import IMAGENET, Framing, framed
from benchmark.datasets.synsets import GROUND_TRUTH, META

COUNT = 24
SYNSETS = (
    (1, "n03000003", "drake", 0),
    (2, "n01000001", "tench, Tinca tinca", 0),
    (3, "n02000002", "crane", 0),
    (4, "n00000009", "animal, beast", 2),
)
"""Numbered otherwise than by wnid; the last is a kind of animals, not a class."""

SHOWN = [1 + (7 * number) % 3 for number in range(1, COUNT + 1)]
"""ILSVRC2012_ID of each picture."""

BY_WNID = {1: 2, 2: 0, 3: 1}
"""ILSVRC2012_ID -> label: drake is the third of the wnids, tench the first, crane the second."""

TINY = replace(
    IMAGENET, task=replace(IMAGENET.task, num_classes=3), count=COUNT, images=8, others=3
)
DRAWN = (
    "8 test, 3 training and 3 validation images are drawn by this project from the 24 official "
    "validation images"
)


def name_of(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


def jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=100, subsampling=0)
    return stream.getvalue()


def photographs() -> dict[str, bytes]:
    """Photographs of different sizes, grey that tells the number, every fourth without colours."""
    return {
        name_of(number): jpeg(
            Image.new("L", (40 + number, 30), 10 * number)
            if number % 4 == 0
            else Image.new("RGB", (40 + number, 30), (10 * number,) * 3)
        )
        for number in range(1, COUNT + 1)
    }


def meta(synsets: tuple[tuple[int, str, str, int], ...] = SYNSETS) -> bytes:
    """meta.mat in the official layout."""
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object)]
    kinds += [("num_children", object), ("children", object), ("wordnet_height", object)]
    table = np.zeros((len(synsets), 1), kinds)
    for row, (number, wnid, words, children) in zip(table, synsets, strict=True):
        row[0] = (number, wnid, words, "what it is", children, np.arange(1, children + 1), 0)
    stream = io.BytesIO()
    savemat(stream, {"synsets": table})
    return stream.getvalue()


def devkit_files(**changed: bytes | None) -> dict[str, bytes]:
    """The development kit; ``changed`` are its files by the last word before the ending."""
    files: dict[str, bytes | None] = {
        META: meta(),
        GROUND_TRUTH: "".join(f"{shown}\n" for shown in SHOWN).encode(),
    }
    files = {name: changed.get(Path(name).stem.rpartition("_")[2], files[name]) for name in files}
    return {
        f"ILSVRC2012_devkit_t12/data/{name}": data
        for name, data in files.items()
        if data is not None
    } | {"ILSVRC2012_devkit_t12/readme.txt": b"read me"}


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write_official(
    folder: Path, pictures: Mapping[str, bytes] | None = None, **changed: bytes | None
) -> Path:
    place = folder / "imagenet"
    write_tar(
        place / "ILSVRC2012_img_val.tar",
        photographs() if pictures is None else pictures,
    )
    write_tar(place / "ILSVRC2012_devkit_t12.tar.gz", devkit_files(**changed), "w:gz")
    return place


def write_folders(folder: Path) -> Path:
    place = folder / "imagenet"
    wnids = {number: wnid for number, wnid, _, _ in SYNSETS}
    for (name, data), shown in zip(photographs().items(), SHOWN, strict=True):
        path = place / "val" / wnids[shown] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place


def numbers(data: Dataset) -> list[list[int]]:
    """The number of each split's images, by their grey."""
    splits = (data.train, data.validation, data.test)
    return [[round(int(image[0, 99, 99]) / 10) for image in split.images] for split in splits]


def test_imagenet_labels_are_places_among_the_sorted_wnids_not_the_devkits_numbers(tmp_path):
    write_official(tmp_path)
    data = TINY.load(tmp_path)
    assert data.classes == ("tench (n01000001)", "crane (n02000002)", "drake (n03000003)")
    shown = numbers(data)
    for split, own in zip((data.train, data.validation, data.test), shown, strict=True):
        assert split.labels.tolist() == [BY_WNID[SHOWN[number - 1]] for number in own]
    assert set(data.test.labels.tolist()) == {0, 1, 2}


def test_imagenet_splits_are_disjoint_and_a_smaller_one_is_part_of_a_larger_one(tmp_path):
    write_official(tmp_path)
    train, validation, test = numbers(TINY.load(tmp_path))
    assert [len(train), len(validation), len(test)] == [3, 3, 8]
    assert len({*train, *validation, *test}) == 14
    assert all(part == sorted(part) for part in (train, validation, test))
    fewer = numbers(replace(TINY, images=5).load(tmp_path))
    assert fewer[:2] == [train, validation] and set(fewer[2]) < set(test)


def test_imagenet_draws_its_images_from_the_whole_archive():
    parts = IMAGENET.division()
    assert [len(part) for part in parts.values()] == [100, 100, 5000]
    assert len(np.unique(np.concatenate(list(parts.values())))) == 5200
    counts, _ = np.histogram(parts["test"], bins=10, range=(1, 50001))
    assert counts.min() > 430 and counts.max() < 570  # binomial: 500 +- 3.3 sigma


def test_imagenet_reads_folders_by_wnid_without_the_devkit_as_the_archives(tmp_path):
    write_official(tmp_path / "archives")
    write_folders(tmp_path / "folders")
    one, other = (TINY.load(tmp_path / name) for name in ("archives", "folders"))
    assert one.digest == other.digest
    assert other.classes == ("n01000001", "n02000002", "n03000003")
    assert other.caveat == (
        f"{DRAWN}; ILSVRC2012_img_val.tar was extracted beforehand, unverified; "
        "labels are the folders' names"
    )


def test_imagenet_labels_extracted_pictures_by_the_devkit_where_it_is_there(tmp_path):
    digest = TINY.load(write_official(tmp_path).parent).digest
    place = write_official(tmp_path / "flat")
    with tarfile.open(place / "ILSVRC2012_img_val.tar") as archive:
        archive.extractall(place / "val", filter="data")
    (place / "ILSVRC2012_img_val.tar").unlink()
    assert TINY.load(tmp_path / "flat").digest == digest


def test_imagenet_is_prepared_once_for_each_kind_of_picture(tmp_path):
    place = write_official(tmp_path)
    first = TINY.load(tmp_path)
    replace(TINY, framing=Framing.CENTRE).load(tmp_path)
    for path in place.glob("*.tar*"):
        path.unlink()
    again = TINY.load(tmp_path)
    assert (again.digest, again.classes, again.caveat) == (
        first.digest,
        first.classes,
        first.caveat,
    )
    assert sorted(path.name for path in place.iterdir()) == [
        "imagenet-centre-bilinear-8-3.npz",
        "imagenet-whole-bilinear-8-3.npz",
    ]


def striped() -> Image.Image:
    """448x112 pixels: a quarter red, a half green, a quarter blue."""
    picture = Image.new("RGB", (448, 112), (0, 255, 0))
    picture.paste((255, 0, 0), (0, 0, 112, 112))
    picture.paste((0, 0, 255), (336, 0, 448, 112))
    return picture


def test_imagenet_resizes_the_whole_photograph_or_cuts_out_its_centre():
    resampling = Image.Resampling.BILINEAR
    whole = framed(striped(), Framing.WHOLE, resampling)
    assert whole.shape == (3, 224, 224)
    assert whole[:, 111, 20].tolist() == [255, 0, 0] and whole[:, 111, 203].tolist() == [0, 0, 255]
    assert whole[:, 111, [59, 164]].T.tolist() == [[0, 255, 0]] * 2
    centre = framed(striped(), Framing.CENTRE, resampling)
    assert centre.shape == (3, 224, 224)
    assert centre.reshape(3, -1).T.tolist() == [[0, 255, 0]] * 224**2


def test_imagenet_cuts_out_the_centre_of_256_pixels_from_edge_to_edge():
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    centre = framed(ramp.convert("RGB"), Framing.CENTRE, Image.Resampling.BILINEAR)
    assert centre[0, 0].tolist() == list(range(16, 240))


def test_imagenet_has_no_caveat_but_its_division_where_the_files_are_the_official_ones(tmp_path):
    place = write_official(tmp_path)
    official = tuple(
        f"md5:{hashlib.md5((place / name).read_bytes()).hexdigest()}"
        for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")
    )
    assert replace(TINY, digests=official).load(tmp_path).caveat == DRAWN


def test_imagenet_names_files_that_differ(tmp_path):
    write_official(tmp_path)
    assert TINY.load(tmp_path).caveat == (
        f"{DRAWN}; ILSVRC2012_img_val.tar differs from the official file; "
        "ILSVRC2012_devkit_t12.tar.gz differs from the official file"
    )


def test_imagenet_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        TINY.load(tmp_path)
    message = str(caught.value)
    assert message.startswith("ILSVRC2012_img_val.tar (or the folder val) and ILSVRC2012_devkit")
    assert f"must lie in {tmp_path / 'imagenet'}" in message and TINY.page in message
    assert "\n" not in message


def test_imagenet_without_the_devkit_asks_for_it(tmp_path):
    (write_official(tmp_path) / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"^ILSVRC2012_devkit_t12\.tar\.gz .* must lie in"):
        TINY.load(tmp_path)


NEEDED = int(TINY.division()["test"][0])
TRUTH = devkit_files()[f"ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"meta": None}, "must hold data/meta.mat, got no such file"),
        ({"truth": None}, f"must hold data/{GROUND_TRUTH}, got no such file"),
        ({"meta": b"no matrix"}, "must be a MATLAB file with synsets, got an unreadable one"),
        ({"meta": meta()[:300]}, "must be a MATLAB file with synsets, got an unreadable one"),
        ({"meta": meta(SYNSETS[1:])}, "must describe 3 classes without children, numbered from 1"),
        ({"meta": meta((*SYNSETS, (5, "n04000004", "ship", 0)))}, "numbered from 1, got 4"),
        ({"meta": meta((*SYNSETS[:2], (3, *SYNSETS[0][1:])))}, "numbered from 1, got 3"),
        ({"truth": TRUTH[:-2]}, f"must give {COUNT} numbers from 1 to 3, got 23 numbers"),
        ({"truth": b"4" + TRUTH[1:]}, f"must give {COUNT} numbers from 1 to 3, got 24 with '4'"),
        ({"truth": b"x" + TRUTH[1:]}, f"must give {COUNT} numbers from 1 to 3, got 24 with 'x'"),
    ],
)
def test_imagenet_names_what_is_wrong_with_the_devkit(tmp_path, changed, message):
    place = write_official(tmp_path, **changed)
    with pytest.raises(OSError, match=re.escape(message)):
        TINY.load(tmp_path)
    assert not list(place.glob("*.npz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop(name_of(NEEDED)), f"got no {name_of(NEEDED)} and 0 others"),
        (lambda files: files.update({name_of(NEEDED): b"x"}), "must be a readable picture"),
        (lambda files: files.clear(), "and 13 others that are needed"),
    ],
)
def test_imagenet_names_what_is_wrong_with_the_pictures(tmp_path, change, message):
    files = photographs()
    change(files)
    place = write_official(tmp_path, files)
    with pytest.raises(OSError, match=re.escape(message)):
        TINY.load(tmp_path)
    assert not list(place.glob("*.npz"))


def test_imagenet_names_a_broken_archive(tmp_path):
    path = write_official(tmp_path) / "ILSVRC2012_img_val.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(OSError, match=r"ILSVRC2012_img_val\.tar must be a complete archive"):
        TINY.load(tmp_path)


def test_imagenet_names_a_missing_folder_as_it_would_shift_all_labels_behind_it(tmp_path):
    place = write_folders(tmp_path)
    (place / "val" / "n02000002").rename(place / "val" / "crane")
    with pytest.raises(OSError, match="must hold 3 folders named by wnids, got 2"):
        TINY.load(tmp_path)


def test_imagenet_names_a_broken_prepared_file(tmp_path):
    path = write_official(tmp_path) / "imagenet-whole-bilinear-8-3.npz"
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(OSError, match=f"{path.name} must be a prepared npz file"):
        TINY.load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": 0}, "images and others must be at least 1, got 0 and 3"),
        ({"others": 0}, "images and others must be at least 1, got 8 and 0"),
        ({"images": 19}, "images and twice others must be at most 24, got 19 and 3"),
    ],
)
def test_imagenet_refuses_splits_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **fields)
