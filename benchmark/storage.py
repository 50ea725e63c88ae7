"""Files that are either whole or absent: temporary name, fsync, rename. And where caches lie."""

import os
from pathlib import Path

import pooch

APPLICATION = "benchmark-of-refused-defenses"


def cache_folder() -> Path:
    """$BENCH_CACHE, else the user's cache folder: what can be made again."""
    chosen = os.environ.get("BENCH_CACHE")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache(APPLICATION))


def keep(path: Path, data: bytes) -> None:
    """Write a file at once; a killed process or a full disk leaves the old one, or none.

    Raises:
        OSError: the folder can't be made or the disk is full; the sentence says what was kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_through(temporary, data)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        reason = (error.strerror or str(error)).lower()
        raise OSError(
            error.errno,
            f"{path} could not be written ({reason}); everything finished before it is kept, "
            "so make room or name another folder and run the same command again",
        ) from error


def require_writable(folder: Path) -> None:
    """Make the folder and try it, before hours go into what could not be kept.

    Raises:
        OSError: nothing can be written there.
    """
    probe = folder / ".writable"
    keep(probe, b"")
    _discard(probe)


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _discard(path: Path) -> None:
    """Remove what was half written, if it got that far and the disk lets us."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
