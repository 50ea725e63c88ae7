"""One way to read members of a zip, a tar or an extracted folder."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of an archive, one at a time.

    Args:
        path: a zip file, a tar file (any compression), a folder, or a single plain file.
        wanted: decides by the member's path, with forward slashes.

    Yields:
        Path and content; in the order of paths, except that a tar keeps its own order (it can
        only be read from front to back).

    Raises:
        OSError: a broken archive.
    """
    try:
        if path.is_dir():
            yield from _folder(path, wanted)
        elif zipfile.is_zipfile(path):
            yield from _zip(path, wanted)
        elif tarfile.is_tarfile(path):
            yield from _tar(path, wanted)
        elif path.suffix in (".zip", ".bz2"):
            raise zipfile.BadZipFile("neither a zip nor a tar file")
        elif wanted(path.name):
            yield path.name, path.read_bytes()
    except (zipfile.BadZipFile, tarfile.ReadError, EOFError, zlib.error) as error:
        raise OSError(
            f"{path} must be a complete archive, got a broken one ({error}); "
            "remove it to download it again"
        ) from error


def _folder(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    names = sorted(item.relative_to(path).as_posix() for item in path.rglob("*"))
    for name in names:
        if wanted(name) and (path / name).is_file():
            yield name, (path / name).read_bytes()


def _zip(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if wanted(name) and not name.endswith("/"):
                yield name, archive.read(name)


def _tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            stream = (
                archive.extractfile(member) if member.isfile() and wanted(member.name) else None
            )
            if stream is not None:
                yield member.name, stream.read()
