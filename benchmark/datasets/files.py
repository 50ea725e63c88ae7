"""Finding the official files: a folder, $BENCH_DATA, the user's cache, else a verified download."""

import gzip
import hashlib
import io
import logging
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from rich.console import Console

from benchmark.storage import APPLICATION

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class OfficialFile:
    """One file as its authors publish it.

    Args:
        name: the published file name; a ``.gz`` may lie decompressed, without the ending.
        url: where it is published.
        digest: ``algorithm:hex`` of the *decompressed* content, so that recompressing does not
            matter; None where no official digest is known, and the data are then "unverified".
        extracted: the path that extracting an archive leaves behind, accepted in its place.
    """

    name: str
    url: str
    digest: str | None = None
    extracted: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which it may lie in a folder."""
        plain = self.name.removesuffix(".gz")
        accepted = (self.name, plain, self.extracted or self.name)
        return tuple(dict.fromkeys(accepted))


def data_folder(dataset: str, folder: Path | None = None) -> Path:
    """Where a data set's files are looked up and downloaded to.

    Args:
        dataset: name of the data set.
        folder: the parent of the answer; by default $BENCH_DATA, else the user's cache.
    """
    if folder is None:
        chosen = os.environ.get("BENCH_DATA")
        folder = Path(chosen).expanduser() if chosen else Path(pooch.os_cache(APPLICATION))
    return folder / dataset


def obtain(file: OfficialFile, folder: Path) -> Path:
    """The path of the file in ``folder``, downloaded if it is not there.

    Raises:
        OSError: it is neither there nor to be had; says what, where to put it, and its URL.
    """
    return _present(file, folder) or _download(file, folder)


def obtain_by_hand(files: Sequence[OfficialFile], folder: Path) -> dict[OfficialFile, Path]:
    """The paths of files in ``folder`` that no program can download, by file.

    Args:
        files: their urls are pages on which a person finds them.
        folder: where they must lie.

    Raises:
        OSError: some are not there; says which, where to put them, and their page.
    """
    paths = {file: path for file in files if (path := _present(file, folder))}
    missing = [file for file in files if file not in paths]
    if missing:
        names = " and ".join(
            f"{file.name} (or the folder {file.extracted})" if file.extracted else file.name
            for file in missing
        )
        raise FileNotFoundError(
            f"{names} must lie in {folder}, got no such file; "
            f"a browser can fetch it from {missing[0].url}, this program can't"
        )
    return paths


def _present(file: OfficialFile, folder: Path) -> Path | None:
    return next((folder / name for name in file.names if (folder / name).exists()), None)


def content(path: Path) -> bytes:
    """The bytes of a file, decompressed where its name ends in .gz.

    Raises:
        OSError: the file is cut off or no gzip file.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OSError(
            f"{path} must be a complete gzip file, got a broken one ({error}); "
            "remove it to download it again"
        ) from error


def note(file: OfficialFile, data: bytes | Path) -> str:
    """What a caveat must say about a file: "" where its content is the official one.

    Args:
        file: what it should be.
        data: its decompressed bytes, or the path of an uncompressed file.
    """
    if isinstance(data, Path) and data.name != file.name:
        return f"{file.name} was extracted beforehand, unverified"
    if file.digest is None:
        return f"{file.name} unverified, as no official digest is known"
    if isinstance(data, bytes):
        same = _matches(file.digest, io.BytesIO(data))
    else:
        with data.open("rb") as stream:
            same = _matches(file.digest, stream)
    return "" if same else f"{file.name} differs from the official file"


def caveat(notes: Sequence[str]) -> str:
    """One line from the notes that say something."""
    return "; ".join(text for text in notes if text)


def _matches(digest: str, stream: io.BytesIO | io.BufferedReader) -> bool:
    algorithm, _, expected = digest.partition(":")
    return hashlib.file_digest(stream, algorithm).hexdigest() == expected


def _download(file: OfficialFile, folder: Path) -> Path:
    target = folder / file.name
    Console(stderr=True).print(f"downloading {file.url}", highlight=False, soft_wrap=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as draft, _quiet_pooch():
            got = Path(
                pooch.retrieve(
                    file.url,
                    known_hash=None,
                    fname=file.name,
                    path=draft,
                    downloader=_stream,
                )
            )
            if file.digest is not None and note(file, content(got) if got.suffix == ".gz" else got):
                raise OSError("what came differs from the official file and was discarded")
            got.replace(target)
    except OSError as error:
        raise FileNotFoundError(
            f"{target} is missing and could not be downloaded ({_reason(error)}); "
            f"put the file there, it comes from {file.url}"
        ) from error
    return target


def _stream(url: str, output: str, _: pooch.Pooch | None) -> None:
    """Pooch's downloader that closes the connection whatever happens (pooch's own does not)."""
    with (
        requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response,
        Path(output).open("wb") as file,
    ):
        response.raise_for_status()
        for chunk in response.iter_content(_CHUNK_BYTES):
            file.write(chunk)


def _reason(error: OSError) -> str:
    match error:
        case requests.HTTPError() if error.response is not None:
            return f"the server answered {error.response.status_code}"
        case requests.exceptions.ChunkedEncodingError():
            return "the transfer was cut off"
        case requests.Timeout():
            return f"the server was silent for {_TIMEOUT_SECONDS} seconds"
        case requests.ConnectionError():
            return "the server could not be reached"
        case _:
            return str(error)


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Pooch suggests on stderr to pin the digest of what came; ours is of its content."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
