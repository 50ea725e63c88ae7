"""Groups: which record files of a folder may stand in one table."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import published, records
from benchmark.cells import CLEAN


@dataclass(frozen=True)
class Group:
    """Records with one preset, seed, set of samples and digest of the data, in table order.

    Args:
        stem: names the group among those found: the preset, and what else tells groups apart.
    """

    preset: str
    stem: str
    records: tuple[Path, ...]


@dataclass(frozen=True)
class Found:
    """The groups in a folder, and the labels of attacks that were left out."""

    groups: tuple[Group, ...]
    left_out: tuple[str, ...]


def names(listed: str) -> tuple[str, ...]:
    """Names separated by commas outside brackets: ``pgd-l2[steps=5,eot=2],ddn`` holds two."""
    found, depth = [""], 0
    for character in listed:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return tuple(name.strip() for name in found if name.strip())


def find(
    folder: Path,
    *,
    preset: str = "",
    defenses: Sequence[str] = (),
    attacks: Sequence[str] = (),
) -> Found:
    """Sort the record files of a folder into groups.

    Args:
        folder: ``results/<dataset>/records``.
        preset: only this one; empty for all.
        defenses: only these; empty for all.
        attacks: only these labels, with ``@surrogate`` where they have one; empty for all whose
            label names no fields of its own (the others belong to single experiments). A group in
            which nobody ran one that is asked for is left out.

    Raises:
        FileNotFoundError: no records there.
        LookupError: no record fits what was asked for; the message lists what there is.
    """
    everything = [(path, records.provenance(path)) for path in sorted(folder.glob("*.parquet"))]
    if not everything:
        raise FileNotFoundError(
            f"records in {folder} are missing; run python -m benchmark.run first, "
            "or name another folder with --results"
        )
    _require("preset", (preset,) if preset else (), {m["preset"] for _, m in everything})
    _require("defense", defenses, {m["defense"] for _, m in everything})
    _require("attack", attacks, {_label(m) for _, m in everything})
    fitting = [
        (path, m)
        for path, m in everything
        if (not preset or m["preset"] == preset) and (not defenses or m["defense"] in defenses)
    ]
    kept = [(path, m) for path, m in fitting if m["attack"] == CLEAN or _wanted(m, attacks)]
    attacked = {_distinction(m) for _, m in kept if m["attack"] != CLEAN}
    if attacks:
        kept = [(path, m) for path, m in kept if _distinction(m) in attacked]
    left_out = {_label(m) for _, m in fitting} - {_label(m) for _, m in kept}
    return Found(_grouped(kept), () if attacks else tuple(sorted(left_out)))


def _grouped(kept: Sequence[tuple[Path, dict[str, Any]]]) -> tuple[Group, ...]:
    found: dict[tuple[str, ...], list[tuple[Path, dict[str, Any]]]] = {}
    for path, metadata in kept:
        found.setdefault(_distinction(metadata), []).append((path, metadata))
    ordered = sorted(found)
    return tuple(
        Group(key[0], _stem(key, ordered), tuple(path for path, _ in sorted(found[key], key=_rank)))
        for key in ordered
    )


def _distinction(metadata: dict[str, Any]) -> tuple[str, ...]:
    """What must agree within a group; the first is the preset."""
    samples = metadata["samples"]
    return (
        str(metadata["preset"]),
        f"n{len(samples)}",
        f"seed{metadata['seed']}",
        f"votes{metadata['votes']}",
        f"samples-{_hash(repr(samples))}",
        f"data-{_hash(str(metadata['dataset_digest']))}",
    )


def _stem(key: tuple[str, ...], everything: Sequence[tuple[str, ...]]) -> str:
    """The preset, and the parts in which another group of the same preset differs."""
    rivals = [other for other in everything if other[0] == key[0]]
    differing = [
        part for i, part in enumerate(key[1:], start=1) if len({other[i] for other in rivals}) > 1
    ]
    return "-".join([key[0], *differing])


def _rank(item: tuple[Path, dict[str, Any]]) -> tuple[object, ...]:
    """The papers' order of defenses and attacks; others follow by name."""
    path, metadata = item
    return (
        published.defense_rank(metadata["defense"]),
        metadata["defense"],
        metadata["attack"] != CLEAN,
        metadata["norm"],
        published.attack_rank(metadata["attack"]),
        metadata["attack"],
        metadata["surrogate"],
        path.name,
    )


def _wanted(metadata: dict[str, Any], attacks: Sequence[str]) -> bool:
    return _label(metadata) in attacks if attacks else "[" not in metadata["attack"]


def _label(metadata: dict[str, Any]) -> str:
    surrogate = f"@{metadata['surrogate']}" if metadata["surrogate"] else ""
    return f"{metadata['attack']}{surrogate}"


def _require(kind: str, asked: Sequence[str], present: set[str]) -> None:
    unknown = [name for name in asked if name not in present]
    if unknown:
        raise LookupError(
            f"no records of {kind} {', '.join(map(repr, unknown))}; "
            f"there are records of: {', '.join(sorted(present))}"
        )


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
