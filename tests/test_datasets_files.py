"""Finding, downloading and recognising official files; MNIST's format and SVHN's."""

import gzip
import hashlib
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy.io import savemat

from benchmark.datasets.files import OfficialFile, data_folder, note, obtain
from benchmark.datasets.idx import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    IdxSource,
    parse_idx,
)
from benchmark.datasets.mnist import MNIST
from benchmark.datasets.svhn import SVHN_CROPPED


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist_content(train: int = 40, test: int = 12) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {
        TRAIN_IMAGES: idx_bytes(rng.integers(0, 256, (train, 28, 28))),
        TRAIN_LABELS: idx_bytes(np.arange(train) % 10),
        TEST_IMAGES: idx_bytes(rng.integers(0, 256, (test, 28, 28))),
        TEST_LABELS: idx_bytes(np.arange(test) % 10),
    }


CONTENT = mnist_content()
SOURCE: IdxSource = replace(
    MNIST,
    base_url="http://127.0.0.1:9/",
    digests={name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()},
)


def write_mnist(folder: Path, level: int = 9, **changed: bytes) -> None:
    (folder / "mnist").mkdir()
    for name, data in {**CONTENT, **changed}.items():
        (folder / "mnist" / f"{name}.gz").write_bytes(gzip.compress(data, level))


@dataclass
class Reply:
    """What the server says to a path."""

    body: bytes
    status: int = 200
    claimed: int | None = None


@dataclass
class Server:
    """A local server with fixed replies; it counts what it was asked."""

    url: str
    replies: dict[str, Reply]
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            reply = state.replies.get(self.path, Reply(b"nothing here", 404))
            self.send_response(reply.status)
            self.send_header("Content-Length", str(reply.claimed or len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Server(
            f"http://127.0.0.1:{http.server_address[1]}/",
            {f"/{name}.gz": Reply(gzip.compress(data)) for name, data in CONTENT.items()},
        )
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "mnist").iterdir())


def test_missing_files_are_downloaded_once(server, tmp_path):
    source = replace(SOURCE, base_url=server.url)
    data = source.load(tmp_path)
    assert data.caveat == ""
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 12)
    assert source.load(tmp_path).digest == data.digest
    assert len(server.asked) == 4
    assert leftovers(tmp_path) == sorted(f"{name}.gz" for name in CONTENT)


def test_a_download_compressed_in_another_way_is_the_official_content(server, tmp_path):
    server.replies[f"/{TRAIN_IMAGES}.gz"] = Reply(gzip.compress(CONTENT[TRAIN_IMAGES], 1))
    assert replace(SOURCE, base_url=server.url).load(tmp_path).caveat == ""


def changed_pixel() -> bytes:
    data = bytearray(CONTENT[TRAIN_IMAGES])
    data[-1] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(gzip.compress(changed_pixel())), "differs from the official file"),
        (Reply(b"<html>moved</html>"), "must be a complete gzip file"),
        (Reply(gzip.compress(CONTENT[TRAIN_IMAGES])[:1000], claimed=20000), "was cut off"),
        (Reply(b"out of order", 500), "the server answered 500"),
        (Reply(b"gone", 404), "the server answered 404"),
    ],
    ids=["wrong digest", "no gzip", "cut off", "server error", "not found"],
)
def test_a_bad_download_is_one_sentence_and_leaves_nothing_behind(server, tmp_path, reply, reason):
    server.replies[f"/{TRAIN_IMAGES}.gz"] = reply
    with pytest.raises(FileNotFoundError) as caught:
        replace(SOURCE, base_url=server.url).load(tmp_path)
    message = str(caught.value)
    assert reason in message and "\n" not in message
    assert str(tmp_path / "mnist" / f"{TRAIN_IMAGES}.gz") in message
    assert f"it comes from {server.url}{TRAIN_IMAGES}.gz" in message
    assert leftovers(tmp_path) == []


def test_a_download_cut_off_at_a_gzip_border_is_noticed(server, tmp_path):
    # Without a digest only the promised length can tell.
    server.replies["/a.zip"] = Reply(b"half", claimed=8)
    with pytest.raises(FileNotFoundError, match="was cut off"):
        obtain(OfficialFile("a.zip", f"{server.url}a.zip"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_after_a_bad_download_the_next_run_starts_clean(server, tmp_path):
    good = server.replies[f"/{TEST_LABELS}.gz"]
    server.replies[f"/{TEST_LABELS}.gz"] = Reply(b"busy", 503)
    source = replace(SOURCE, base_url=server.url)
    with pytest.raises(FileNotFoundError, match="503"):
        source.load(tmp_path)
    server.replies[f"/{TEST_LABELS}.gz"] = good
    assert source.load(tmp_path).caveat == ""
    assert len(server.asked) == 5


def test_an_unreachable_server_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"could not be reached\); put the file there"):
        SOURCE.load(tmp_path)


def test_a_place_that_is_no_folder_is_one_sentence(server, tmp_path):
    (tmp_path / "mnist").write_text("not a folder")
    with pytest.raises(
        FileNotFoundError, match=r"could not be downloaded \(.*exists.*\); put"
    ) as e:
        replace(SOURCE, base_url=server.url).load(tmp_path)
    assert "\n" not in str(e.value)
    assert server.asked == []


@pytest.mark.parametrize("level", [0, 9])
def test_local_files_are_recognised_however_they_are_compressed(tmp_path, level):
    write_mnist(tmp_path, level)
    assert SOURCE.load(tmp_path).caveat == ""


def test_plain_files_are_read_like_compressed_ones(tmp_path):
    write_mnist(tmp_path)
    digest = SOURCE.load(tmp_path).digest
    for path in list((tmp_path / "mnist").iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    data = SOURCE.load(tmp_path)
    assert data.digest == digest and data.caveat == ""


def test_a_local_file_that_differs_is_used_and_named(tmp_path):
    write_mnist(tmp_path, **{TRAIN_IMAGES: changed_pixel()})
    assert SOURCE.load(tmp_path).caveat == f"{TRAIN_IMAGES}.gz differs from the official file"


def test_a_file_without_a_known_digest_is_unverified(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    file = OfficialFile("a.zip", "http://127.0.0.1:9/a.zip")
    assert "unverified" in note(file, path)
    assert note(replace(file, digest=f"md5:{hashlib.md5(b'x').hexdigest()}"), path) == ""


def test_files_are_sought_in_the_folder_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "env"))
    assert data_folder("mnist", tmp_path / "given") == tmp_path / "given" / "mnist"
    assert data_folder("mnist") == tmp_path / "env" / "mnist"
    monkeypatch.delenv("BENCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder("mnist").parent.name == "benchmark-of-refused-defenses"


@settings(max_examples=50, deadline=None)
@given(st_numpy.arrays(np.uint8, st_numpy.array_shapes(max_dims=4, min_side=0, max_side=5)))
def test_idx_gives_back_the_array_that_was_written(array):
    again = parse_idx(idx_bytes(array), "any")
    assert again.shape == array.shape and np.array_equal(again, array)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40))
def test_idx_refuses_anything_else_with_a_sentence(data):
    try:
        array = parse_idx(data, "file")
    except OSError as error:
        assert str(error).startswith("file must ")
    else:
        assert idx_bytes(array) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be an idx file of unsigned bytes"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "must be an idx file of unsigned bytes"),
        (b"\x00\x00\x08\x03\x00\x00", "must have a header of 16 bytes, got 6"),
        (CONTENT[TRAIN_LABELS][:-1], "must be 48 bytes long, as its header says, got 47"),
        (CONTENT[TRAIN_LABELS] + b"\x00", "must be 48 bytes long, as its header says, got 49"),
    ],
)
def test_idx_names_what_is_wrong(data, message):
    with pytest.raises(OSError, match=message):
        parse_idx(data, "file")


def test_a_corrupted_local_file_is_named(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "mnist" / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match=f"{TRAIN_IMAGES}.gz must be a complete gzip file"):
        SOURCE.load(tmp_path)


def test_images_without_as_many_labels_are_refused(tmp_path):
    write_mnist(tmp_path, **{TRAIN_LABELS: idx_bytes(np.zeros(39))})
    with pytest.raises(ValueError, match="one for each image"):
        SOURCE.load(tmp_path)


def write_svhn(folder: Path, train: int = 30, test: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    (folder / "svhn").mkdir()
    for name, count in (("train", train), ("test", test)):
        images = rng.integers(0, 256, (32, 32, 3, count), np.uint8)
        labels = (np.arange(count, dtype=np.uint8)[:, None] % 10) + 1
        path = folder / "svhn" / f"{name}_32x32.mat"
        savemat(path, {"X": images, "y": labels}, do_compression=True)
    return images, labels


def test_svhn_keeps_pixels_in_place_and_calls_label_ten_zero(tmp_path):
    images, labels = write_svhn(tmp_path)
    data = SVHN_CROPPED.load(tmp_path)
    assert data.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert labels[9] == 10
    assert np.array_equal(data.test.images[4], images[..., 4].transpose(2, 0, 1))


def test_svhn_says_how_many_images_are_missing(tmp_path):
    write_svhn(tmp_path)
    data = SVHN_CROPPED.load(tmp_path)
    assert data.caveat == (
        "train_32x32.mat has 30 of the official 73257 images; "
        "test_32x32.mat has 10 of the official 26032 images"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a MATLAB file with X and y"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "must be a MATLAB file with X and y"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))}, "must hold X"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((3, 1))}, "must hold X"),
        (
            {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[0], [11]])},
            r"1\.\.10, got 0\.\.11",
        ),
    ],
)
def test_svhn_names_a_file_of_another_content(tmp_path, content, message):
    write_svhn(tmp_path)
    path = tmp_path / "svhn" / "test_32x32.mat"
    if content is None:
        path.write_bytes(path.read_bytes()[:200])
    else:
        savemat(path, content)
    with pytest.raises(OSError, match=message) as caught:
        SVHN_CROPPED.load(tmp_path)
    assert "test_32x32.mat" in str(caught.value)
