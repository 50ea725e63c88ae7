"""What stands under a table: preset, samples, seed, versions, time and every configuration."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.cells import CLEAN
from benchmark.scores import Scores

_DIGITS_OF_A_DIGEST = 12


def caveat(scores: Scores) -> str:
    """What differs from the official data set; empty for nothing."""
    return _joined(str(m["dataset_caveat"]) for m in scores.metadata if m["dataset_caveat"])


def summary(scores: Scores) -> str:
    """One line: preset, samples, seed, votes."""
    first = scores.metadata[0]
    presets = _joined(str(m["preset"]) for m in scores.metadata)
    return (
        f"Preset {presets}, {scores.n} samples, seed {first['seed']}, "
        f"{first['votes']} votes of stochastic defenses"
    )


def markdown(scores: Scores) -> str:
    """The whole account; times are here and in no CSV."""
    cells = scores.metadata
    seconds = sum(float(m["wall_seconds"]) for m in cells)
    versions = _joined(
        ", ".join(f"{name} {value}" for name, value in m["versions"].items()) for m in cells
    )
    facts = [
        f"{summary(scores)}.",
        f"Data set {scores.dataset}, digest `{_short(cells[0]['dataset_digest'])}`.",
        f"Computing time {duration(seconds)}, summed over {len(cells)} cells; "
        f"device {_joined(str(m['device']) for m in cells)}.",
        f"Commit {_joined(str(m['commit']) for m in cells)}; {versions}.",
        f"Command `{_joined(str(m['command']) for m in cells)}`.",
    ]
    defenses = [
        f"`{defense}`: {_defense(next(m for m in cells if m['defense_key'] == defense))}; "
        f"{_work([m for m in cells if m['defense_key'] == defense])}"
        for defense in scores.defenses
    ]
    configurations = {
        str(m["attack_key"]): str(m["attack_repr"]) for m in cells if m["attack"] != CLEAN
    }
    attacks = [f"`{key}`: `{value}`" for key, value in configurations.items()]
    failures = [
        f"error in `{m['defense_key']}` under `{m['attack_key']}`: "
        f"{str(m['error']).strip().splitlines()[-1]}"
        for m in cells
        if m["error"]
    ]
    parts = (facts, defenses, attacks, failures)
    return "\n\n".join("\n".join(f"- {line}" for line in lines) for lines in parts if lines)


def duration(seconds: float) -> str:
    """``42 s``, ``12 min 3 s``, ``5 h 20 min``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _defense(metadata: Mapping[str, Any]) -> str:
    return f"weights `{_short(metadata['weights_digest'])}`, `{metadata['defense_repr']}`"


def _work(cells: Iterable[Mapping[str, Any]]) -> str:
    """Images that went through the defense, counted on its side."""
    totals: dict[str, int] = {}
    for metadata in cells:
        for name, count in metadata["cost"].items():
            totals[name] = totals.get(name, 0) + int(count)
    stated = ", ".join(f"{count:,} {name}" for name, count in totals.items() if count)
    return f"images computed: {stated or 'none'}"


def _short(digest: str) -> str:
    return digest[:_DIGITS_OF_A_DIGEST]


def _joined(values: Iterable[str]) -> str:
    """Each different value once, in order."""
    return "; ".join(dict.fromkeys(values))
