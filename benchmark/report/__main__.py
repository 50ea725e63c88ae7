"""Records -> one HTML page: ``python -m benchmark.report --dataset mnist``.

    results/<dataset>/report.html     one file that loads nothing

Reads what earlier runs kept, attacks nothing.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmark import catalog, groups
from benchmark.command import command
from benchmark.datasets import DATASETS, Dataset, test_sample
from benchmark.report import page
from benchmark.report.gallery import Pool
from benchmark.report.page import Sources
from benchmark.storage import keep


def run(
    *,
    dataset: Annotated[str, typer.Option(help="Data set whose records are shown.")],
    preset: Annotated[str, typer.Option(help="Only records of this preset.")] = "",
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
) -> None:
    """Make one self-contained HTML page from the records of earlier runs."""
    folder = results / dataset
    found = groups.find(folder / "records", preset=preset)
    text = page.render(found, dataset, sources(dataset, folder), preset)
    path, data = folder / "report.html", text.encode()
    keep(path, data)
    print(f"wrote {path} ({len(data) / 1e6:.1f} MB)")
    if len(data) > page.LARGEST:
        print(f"the page is larger than {page.LARGEST / 1e6:g} MB; name one preset with --preset")


def sources(dataset: str, folder: Path) -> Sources:
    """With the data set's images, or without them where they are not on this machine."""
    source = catalog.lookup("data set", dataset, DATASETS)
    try:
        data = source.load()
    except OSError as error:
        print(f"no gallery: {error}")
        return Sources(folder)

    def draw(count: int, seed: int) -> list[int]:
        return [int(place) for place in test_sample(data, count, seed)]

    return Sources(folder, _pool(data), draw)


def _pool(data: Dataset) -> Pool:
    return Pool(data.test.images, data.classes, data.digest)


main = command(run)

if __name__ == "__main__":
    sys.exit(main())
