"""What stands under a table of pairs of latents: preset, seed, versions, time, configurations."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.footer import duration
from benchmark.latent_cells import PairFile
from benchmark.latent_numbers import Answered

_DIGITS_OF_A_DIGEST = 12


def summary(metadata: Sequence[Mapping[str, Any]]) -> str:
    """One line: preset, pairs, seed."""
    presets = _joined(str(each["preset"]) for each in metadata)
    pairs = _joined(str(each["count"]) for each in metadata)
    return f"Preset {presets}, {pairs} pairs, seed {metadata[0]['seed']}"


def account(searches: Sequence[PairFile], answered: Sequence[Answered]) -> str:
    """The whole account, as a list; a sentence where nothing was searched."""
    found = [*searches, *(each.searched for each in answered)]
    asked = [each.answers for each in answered]
    sent = [each.transfer for each in answered if each.transfer is not None]
    files = {each.cell.id: each for each in (*found, *asked, *sent)}
    known = [each.metadata for each in files.values()]
    if not found:
        return "Nothing was searched for this figure."
    cost = {
        kind: sum(int(each["cost"][kind]) for each in known)
        for kind in ("forward", "backward", "decoder")
    }
    images = ", ".join(f"{count:,} {kind}" for kind, count in cost.items() if count)
    versions = _joined(
        ", ".join(f"{name} {value}" for name, value in each["versions"].items()) for each in known
    )
    facts = [
        f"{summary([each.metadata for each in found])}.",
        f"Data set {found[0].cell.dataset}, digest "
        f"`{found[0].cell.dataset_digest[:_DIGITS_OF_A_DIGEST]}`.",
        f"Computing time {duration(sum(float(each['wall_seconds']) for each in known))}, summed "
        f"over {len(files)} files; images computed: {images or 'none'}; device "
        f"{_joined(str(each['device']) for each in known)}.",
        f"Commit {_joined(str(each['commit']) for each in known)}; {versions}.",
        f"Command `{_joined(str(each['command']) for each in known)}`.",
    ]
    if sent:
        runs = _joined(str(each.cell.runs) for each in sent)
        pairs = _joined(str(len(each.rows)) for each in sent)
        facts.append(f"Deployed defenses were asked about {pairs} pairs, {runs} runs per image.")
    cells = [each.cell for each in files.values()]
    defenses = {
        cell.defense: f"`{cell.defense}`: weights `{cell.weights_digest[:_DIGITS_OF_A_DIGEST]}`, "
        f"`{cell.defense_repr}`"
        for cell in cells
    }
    attacks = {cell.attack: f"`{cell.attack}`: `{cell.attack_repr}`" for cell in cells}
    parts = (facts, [*defenses.values()], [*attacks.values()])
    return "\n\n".join("\n".join(f"- {line}" for line in lines) for lines in parts)


def _joined(values: Iterable[str]) -> str:
    """Each different value once, in order."""
    return "; ".join(dict.fromkeys(values))
