"""What each cell cost, and the command that computes it again."""

from benchmark import footer, records
from benchmark.accuracy import radius_text
from benchmark.report import commands
from benchmark.report.grid import Column, Field, Row, Table, count, heading
from benchmark.scores import Scores

_COUNTED = ("forward", "backward", "decoder")


def costs(scores: Scores) -> Table:
    """A row per cell: images that went through the defense, counted on its side, and seconds."""
    columns = (
        Column("Defense", numeric=False),
        Column("Attack", numeric=False),
        *(Column(name.capitalize()) for name in _COUNTED),
        Column("Seconds"),
    )
    rows = tuple(
        Row(
            (
                heading(metadata["defense_key"]),
                heading(metadata["attack_key"]),
                *(count(int(metadata["cost"].get(name, 0))) for name in _COUNTED),
                count(float(metadata["wall_seconds"]), 1),
            )
        )
        for metadata in scores.metadata
    )
    seconds = sum(float(metadata["wall_seconds"]) for metadata in scores.metadata)
    caption = (
        f"Images computed per cell, and seconds; {footer.duration(seconds)} over "
        f"{len(scores.metadata)} cells"
    )
    return Table("costs", caption, columns, rows)


def reproduction(scores: Scores) -> Table:
    """A row per cell with its command."""
    columns = tuple(
        Column(name, numeric=False) for name in ("Defense", "Attack", "Radii", "Cell", "Command")
    )
    rows = []
    for metadata in scores.metadata:
        radii = ", ".join(radius_text(float(e)) for e in metadata["epsilons"])
        command = commands.of_cell(metadata, scores)
        rows.append(
            Row(
                (
                    heading(metadata["defense_key"]),
                    heading(metadata["attack_key"]),
                    Field(radii if metadata["norm"] else "", order=radii),
                    heading(records.cell_of(metadata).id),
                    Field("", command=command, order=command),
                )
            )
        )
    caption = "The command that computes each cell again"
    return Table("reproduction", caption, columns, tuple(rows))
