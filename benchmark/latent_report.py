"""Section 4.3 of the robust-manifold paper as files: its numbers, and Figures 6 to 9.

results/<dataset>/<stem>.md, .csv, .tex                 the numbers
results/<dataset>/<stem>-figure.png, .svg, .csv         the figure, and what it draws
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from attacks.overpowered_pairs import OverpoweredPairs
from benchmark import (
    catalog,
    figures,
    history,
    latent_figures,
    latent_numbers,
    latent_work,
    sheet,
)
from benchmark.artefact import Kind
from benchmark.datasets import Dataset, Source
from benchmark.latent_account import account, summary
from benchmark.latent_cells import PairFile
from benchmark.latent_figures import Pair
from benchmark.latent_numbers import Answered
from benchmark.latent_pairs import Hunt
from benchmark.progress import Progress
from benchmark.runner import Plan
from benchmark.sheet import Sheet
from benchmark.shelf import REGISTERED, Armed, Shelf
from benchmark.storage import keep
from benchmark.work import calm
from benchmark.workers import Workers


@dataclass(frozen=True)
class Wanted:
    """One artefact about pairs of latents.

    Args:
        kind: one of `KINDS`.
        title: of table and figure.
        stem: of the files' names.
        table: paper and table of the published numbers.
        plan: its defenses, the one whose pairs all others are asked about first; attacks that find
            pairs; how many pairs (``samples``; None takes the preset's).
        source: of the clean images.
    """

    kind: Kind
    title: str
    stem: str
    table: tuple[str, str]
    plan: Plan
    source: Source


@dataclass(frozen=True, eq=False)
class Content:
    """What is written of an artefact.

    Args:
        answered: what the table is made of; none for no table.
        searches: what else was searched.
        figure: what is drawn, if anything.
        drawn: the numbers in the figure.
        remark: what a reader must know besides.
    """

    answered: Sequence[Answered] = ()
    searches: Sequence[PairFile] = ()
    figure: Figure | None = None
    drawn: pd.DataFrame | None = None
    remark: str = ""


@dataclass(frozen=True, eq=False)
class Written:
    """The files of an artefact, the Markdown first, and its table where it has one."""

    files: tuple[Path, ...]
    table: Sheet | None


def write(
    wanted: Wanted, workers: Workers, results: Path, progress: Progress, shelf: Shelf = REGISTERED
) -> Written:
    """Measure what is missing and write the files of an artefact.

    Raises:
        LookupError: unknown names.
        ValueError: an attack that finds no pairs, a defense without a prior, no pair to show.
        OSError: damaged files, an unwritable folder, losses that were not kept.
    """
    maker = Maker(wanted, workers, results, progress, shelf)
    content = KINDS[wanted.kind](maker)
    folder, stem = results / wanted.source.name, wanted.stem
    known = [each.metadata for each in (*content.searches, *(a.searched for a in content.answered))]
    caveat = maker.dataset.caveat
    parts = [f"# {wanted.title}", f"**{caveat}**" if caveat else ""]
    texts: dict[str, str] = {}
    table = None
    if content.answered:
        table = latent_numbers.latent_sheet(content.answered, wanted.title, wanted.table)
        parts += [sheet.markdown(table), latent_numbers.NOTE]
        texts[f"{stem}.csv"] = _csv(latent_numbers.tidy(content.answered, wanted.table))
        texts[f"{stem}.tex"] = sheet.latex(table, stem, f"{caveat} {summary(known)}".strip())
    if content.drawn is not None:
        texts[f"{stem}-figure.csv"] = _csv(content.drawn)
    pictures: list[Path] = []
    if content.figure is not None:
        pictures = figures.save(content.figure, folder, f"{stem}-figure")
        parts += [f"![{stem}-figure.svg]({stem}-figure.svg)"]
    parts += [content.remark, "## How this was made", account(content.searches, content.answered)]
    markdown = "\n\n".join(part for part in parts if part) + "\n"
    for name, text in {f"{stem}.md": markdown, **texts}.items():
        keep(folder / name, text.encode())
    return Written((folder / f"{stem}.md", *(folder / name for name in texts), *pictures), table)


@dataclass(frozen=True, eq=False)
class Maker:
    """Measures and draws one artefact.

    Args:
        wanted: see there.
        workers, results, progress: as `Hunt`.
        shelf: where names are looked up.
    """

    wanted: Wanted
    workers: Workers
    results: Path
    progress: Progress
    shelf: Shelf

    @cached_property
    def dataset(self) -> Dataset:
        """Of the clean images."""
        return self.wanted.source.load()

    @cached_property
    def armed(self) -> tuple[Armed, ...]:
        """The trained defenses, in the plan's order."""
        plan, device = self.wanted.plan, self.workers.device
        return tuple(
            self.shelf.arm(self.dataset, name, plan.preset, device, self.progress)
            for name in dict.fromkeys(plan.defenses)
        )

    @cached_property
    def attacks(self) -> Mapping[str, OverpoweredPairs]:
        """By label, in the plan's order.

        Raises:
            ValueError: none, or one that finds no pairs.
        """
        plan, channels = self.wanted.plan, self.wanted.source.task.shape[0]
        found = {}
        for spec in plan.attacks:
            label, attack = catalog.parse_attack(spec, plan.preset, channels, self.shelf.attacks)
            if not isinstance(attack, OverpoweredPairs):
                raise ValueError(
                    f"attacks must find pairs of latents, got {spec!r}; use 'overpowered-pairs'"
                )
            found[label] = attack
        if not found:
            raise ValueError("attacks must name one that finds pairs, got none; correct the file")
        return found

    def section(self) -> Content:
        """The table: each defense's own pairs, the first one's put to the others, the transfer."""
        (label, attack), first = next(iter(self.attacks.items())), self.armed[0]
        own = [self._answered(armed, armed, label) for armed in self.armed]
        old = [self._hunt.ask(armed, first, own[0].searched) for armed in self.armed[1:]]
        asked = [
            *((armed, armed, found) for armed, found in zip(self.armed, own, strict=True)),
            *((armed, first, found) for armed, found in zip(self.armed[1:], old, strict=True)),
        ]
        return Content([self._hunt.transfer(*each, runs=attack.asks) for each in asked])

    def grid(self) -> Content:
        """Figure 6: the first defense's pairs with classes and confidences."""
        first = self.armed[0]
        found = self._answered(first, first, next(iter(self.attacks)))
        chosen = latent_figures.striking(found)
        figure = latent_figures.draw_pairs(
            self._pairs([found], chosen), first.name, self.dataset.classes, self.wanted.title
        )
        remark = (
            "Shown are the valid pairs of two classes whose softmax outputs are farthest apart, "
            "one of each class before a second of any; the paper shows random ones. Below each "
            "image are the bare classifier's class and its probability."
        )
        return Content([found], figure=figure, drawn=_listed([found], chosen), remark=remark)

    def trace(self) -> Content:
        """Figure 8: how far apart the outputs are after so many steps."""
        searches = [
            self._search(armed, label) for armed, label in product(self.armed, self.attacks)
        ]
        drawn = latent_figures.traced(searches)
        names = {
            label: f"η² = {attack.mean_square:g} per value"
            for label, attack in self.attacks.items()
        }
        figure = latent_figures.draw_trace(drawn, names, self.wanted.title)
        remark = (
            "Each line is the mean over all pairs of the best one inside the budget so far, with "
            "its 95 % bootstrap interval; two outputs can be √2 apart."
        )
        return Content(searches=searches, figure=figure, drawn=drawn, remark=remark)

    def outputs(self) -> Content:
        """Figure 9: what every defense's classifier says of the first one's pairs."""
        first = self.armed[0]
        found = [self._answered(first, first, next(iter(self.attacks)))]
        found += [self._hunt.ask(armed, first, found[0].searched) for armed in self.armed[1:]]
        chosen = latent_figures.first(found[0])
        figure = latent_figures.draw_outputs(
            self._pairs(found, chosen), self.dataset.classes, self.wanted.title
        )
        remark = (
            f"Pairs found on {first.name}: the first valid ones of two classes, a random choice, "
            "as their starts are random. Bars are the softmax outputs of the bare classifiers."
        )
        return Content(found, figure=figure, drawn=_listed(found, chosen), remark=remark)

    def losses(self) -> Content:
        """Figure 7: the losses of the first defense's training."""
        first = self.armed[0]
        if first.losses is None:
            raise FileNotFoundError(f"losses of {first.name} are not kept; train it with them")
        drawn = history.read(first.losses)
        figure = latent_figures.draw_losses(drawn, self.wanted.title)
        remark = (
            f"`{first.name}`: weights `{first.digest[:12]}`, `{first.repr}`. Each point is the "
            "mean over the updates since the one before."
        )
        return Content(figure=figure, drawn=drawn, remark=remark)

    @cached_property
    def _hunt(self) -> Hunt:
        plan = self.wanted.plan
        return Hunt(self.dataset, plan.preset, plan.seed, self.results, self.workers, self.progress)

    def _search(self, armed: Armed, label: str) -> PairFile:
        plan = self.wanted.plan
        count = plan.preset.samples if plan.samples is None else plan.samples
        return self._hunt.search(armed, label, self.attacks[label], count)

    def _answered(self, armed: Armed, source: Armed, label: str) -> Answered:
        return self._hunt.ask(armed, source, self._search(source, label))

    def _pairs(self, answered: Sequence[Answered], chosen: Sequence[int]) -> list[Pair]:
        """Some pairs of one search, drawn again."""
        rows = answered[0].searched.rows.iloc[list(chosen)]
        if rows.empty:
            return []
        with calm():
            images = latent_work.drawn(self.armed[0].load, rows, "cpu")
        kept, left = images["kept"].numpy(), images["left"].numpy()
        return [
            Pair(
                (kept[row], left[row]),
                {each.defense: (np.exp(each.kept[i]), np.exp(each.left[i])) for each in answered},
            )
            for row, i in enumerate(chosen)
        ]


KINDS: Mapping[Kind, Callable[[Maker], Content]] = {
    Kind.LATENT_PAIRS: Maker.section,
    Kind.LATENT_GRID: Maker.grid,
    Kind.LATENT_TRACE: Maker.trace,
    Kind.LATENT_OUTPUTS: Maker.outputs,
    Kind.LOSSES: Maker.losses,
}


def _listed(answered: Sequence[Answered], chosen: Sequence[int]) -> pd.DataFrame:
    """One row per pair, defense and image that is shown: the softmax output of each class."""
    return pd.DataFrame(
        {
            "pair": pair,
            "defense": each.defense,
            "image": image,
            "mean_square": float(each.searched.rows["mean_square"].iloc[pair]),
            **{f"class_{k}": round(float(p), 6) for k, p in enumerate(np.exp(logs[pair]))},
        }
        for pair in chosen
        for each in answered
        for image, logs in (("z", each.kept), ("z'", each.left))
    )


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, lineterminator="\n"))
