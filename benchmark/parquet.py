"""Rows and where they come from in one Parquet file, whole or absent, with checksums."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.storage import keep

_KEY = b"benchmark"
_DIGEST = b"benchmark-digest"
_ROWS = b"benchmark-rows"
"""Pages have checksums of their own, metadata and the number of rows have these; older files lack
them."""


def write(path: Path, frame: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    """One file.

    Args:
        metadata: JSON values, kept under the file's key ``benchmark``.

    Raises:
        OSError: the file can't be written.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    text = json.dumps(metadata, sort_keys=True).encode()
    own = {_KEY: text, _DIGEST: _digest(text), _ROWS: _count(table)}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **own})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    keep(path, buffer.getvalue())


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and metadata of one file.

    Raises:
        FileNotFoundError: it is missing.
        OSError: it is damaged; the sentence names it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"record {path} is missing; run the benchmark that makes it, or name another folder"
        )
    data = io.BytesIO(path.read_bytes())
    try:
        table = pq.read_table(data, page_checksum_verification=True, use_threads=False)
        kept = table.schema.metadata or {}
        metadata: dict[str, Any] = json.loads(kept[_KEY])
        if _DIGEST in kept and kept[_DIGEST] != _digest(kept[_KEY]):
            raise ValueError("the metadata are not what was written")
        if _ROWS in kept and kept[_ROWS] != _count(table):
            raise ValueError("the rows are not all that were written")
        return table.to_pandas(), metadata
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise damaged(path) from error


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()


def _count(table: pa.Table) -> bytes:
    return str(table.num_rows).encode()


def damaged(path: Path) -> OSError:
    """What to raise where a file is not what was written."""
    return OSError(
        f"record {path} is damaged or not ours; nothing was overwritten: delete it and run the "
        "same command again"
    )
