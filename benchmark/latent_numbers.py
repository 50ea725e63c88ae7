"""What is measured on pairs of latents (Jalal et al. 2017, section 4.3), and its table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import published, statistics
from benchmark.latent_cells import NOBODY, PairFile
from benchmark.published import Published
from benchmark.sheet import Entry, Footnotes, Line, Sheet

VALID = 5e-4 / 4
"""A pair is valid below this mean squared difference per value ("< 0.0005" of pixels in [-1, 1],
section 4.3, where the search's own budget is 2e-4; a quarter of that in [0, 1])."""

CONSISTENT = 0.9
"""Share of fresh runs that must tell a pair's images apart before it counts as transferred: Athalye
et al. (2018) keep what fools 9 of 10; the paper says nothing of runs."""

NOTE = (
    "A pair is z, from the prior, whose image keeps its class, and z', begun there, whose image is "
    f"to leave it; *valid* below a mean squared difference of {VALID:g} per value in [0, 1]. The "
    "search keeps the best pair inside its budget, so only rounding could make one invalid; the "
    "paper takes the last iterate. KL divergence, in nats, is from the softmax output of G(z) to "
    "that of G(z'), and like the distance of these outputs a mean over valid pairs with a 95 % "
    "bootstrap interval. Shares have 95 % Wilson intervals. *Transferred* pairs, of the valid ones "
    "of different classes, are those whose images the deployed defense, inversion and all, puts "
    f"into two classes in at least {100 * CONSISTENT:g} % of fresh runs (the paper: none, of how "
    "many runs it does not say). Numbers in parentheses are the paper's, with its own budget."
)

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measure:
    """One number and its 95 % interval.

    Args:
        metric: name among the published metrics, where a paper printed it.
        value: percent, nats, or a distance.
        n: pairs or images.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int


VALID_PAIRS, MEAN_KL, REVERSE_KL = "valid_pairs", "mean_kl", "mean_reverse_kl"
DIFFERENT, DISTANCE, TRANSFERRED = "different_class", "mean_softmax_distance", "transferred"
ACCURACY = "accuracy"

LABELS: Mapping[str, str] = {
    VALID_PAIRS: "Valid pairs, %",
    MEAN_KL: "Mean KL divergence, nats",
    DIFFERENT: "Different classes, % of valid",
    DISTANCE: "Mean L2 distance of outputs",
    TRANSFERRED: "Transferred to the deployed defense, %",
}
"""Rows of the table, in its order."""


@dataclass(frozen=True, eq=False)
class Answered:
    """What one defense says of pairs that were found on it or on another.

    Args:
        searched: the pairs.
        answers: of its bare classifier, to the same pairs.
        transfer: of the defense as deployed, to some of them; None where it was not asked.
    """

    searched: PairFile
    answers: PairFile
    transfer: PairFile | None = None

    @property
    def defense(self) -> str:
        """Who answers."""
        return self.answers.cell.defense

    @property
    def found_on(self) -> str:
        """Whose pairs these are."""
        return self.searched.cell.defense

    @property
    def is_own(self) -> bool:
        """The pairs were found on the very weights that answer."""
        ours, theirs = self.answers.cell, self.searched.cell
        return (ours.defense, ours.weights_digest) == (theirs.defense, theirs.weights_digest)

    @cached_property
    def kept(self) -> Values:
        """(n, K) log-probabilities of G(z)."""
        return _stacked(self.answers.rows["kept"])

    @cached_property
    def left(self) -> Values:
        """(n, K) log-probabilities of G(z')."""
        return _stacked(self.answers.rows["left"])

    @property
    def valid(self) -> Mask:
        """(n,) near enough to each other; whoever answers."""
        near: Mask = self.searched.rows["mean_square"].to_numpy() < VALID
        return near

    @property
    def different(self) -> Mask:
        """(n,) of two classes."""
        apart: Mask = self.kept.argmax(axis=1) != self.left.argmax(axis=1)
        return apart

    @property
    def distance(self) -> Values:
        """(n,) ||C(G(z)) - C(G(z'))||_2 of the softmax outputs."""
        between: Values = np.linalg.norm(np.exp(self.kept) - np.exp(self.left), axis=1)
        return between

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """Every metric that there are pairs for."""
        valid = self.valid
        found = [_share(VALID_PAIRS, valid)]
        if valid.any():
            found += [
                _mean(MEAN_KL, divergence(self.kept, self.left)[valid]),
                _mean(REVERSE_KL, divergence(self.left, self.kept)[valid]),
                _share(DIFFERENT, self.different[valid]),
                _mean(DISTANCE, self.distance[valid]),
            ]
        if self.transfer is not None and len(self.transfer.rows):
            rows = self.transfer.rows
            told = transferred(_stacked(rows["kept"]), _stacked(rows["left"]))
            found.append(_share(TRANSFERRED, told))
        return {measure.metric: measure for measure in found}

    def accuracy(self) -> Measure:
        """Of the bare classifier on clean test images."""
        known = self.answers.metadata
        right, n = int(known["clean_correct"]), int(known["clean_images"])
        return _percentage(ACCURACY, right, n)


def divergence(log_p: Values, log_q: Values) -> Values:
    """KL(P || Q) (n,) in nats, from log-probabilities (n, K); finite where these are."""
    nats: Values = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).clip(min=0)
    return nats


def transferred(kept: Values, left: Values) -> Mask:
    """(n,) pairs that are told apart in enough of R runs, from classes (n, R) of both images.

    A run that refused either image tells nothing apart.
    """
    answered = (kept != NOBODY) & (left != NOBODY)
    apart = ((kept != left) & answered).sum(axis=1)
    enough: Mask = apart >= math.ceil(CONSISTENT * kept.shape[1])
    return enough


def latent_sheet(answered: Sequence[Answered], title: str, table: tuple[str, str]) -> Sheet:
    """A column per defense: its own pairs, those of others, and clean images.

    Args:
        answered: each defense's to its own pairs, then to others'.
        table: paper and table among the published numbers.
    """
    columns = tuple(dict.fromkeys(each.defense for each in answered))
    notes, lines = Footnotes(), []
    own = {each.defense: each for each in answered if each.is_own}
    blocks = [("Pairs found on the defense itself", own)] if own else []
    for source in dict.fromkeys(each.found_on for each in answered):
        others = {e.defense: e for e in answered if e.found_on == source and not e.is_own}
        if others:
            blocks.append((f"Pairs found on {source}", others))
    for heading, found in blocks:
        lines.append(Line(heading))
        for metric, label in LABELS.items():
            row = [_entry(found.get(name), metric, table, notes) for name in columns]
            if any(entry.text for entry in row):
                lines.append(Line(label, tuple(row)))
    lines.append(Line("Clean test images"))
    first = {name: next(e for e in answered if e.defense == name) for name in columns}
    entries = [_entry(first[name], ACCURACY, table, notes) for name in columns]
    lines.append(Line("Accuracy of the bare classifier, %", tuple(entries)))
    return Sheet(title, columns, tuple(lines), tuple(notes.texts))


def tidy(answered: Sequence[Answered], table: tuple[str, str]) -> pd.DataFrame:
    """One row per defense, origin of the pairs and metric; shares in percent."""
    return pd.DataFrame(
        {
            "dataset": each.answers.cell.dataset,
            "defense": each.defense,
            "found_on": "" if measure.metric == ACCURACY else each.found_on,
            "attack": "" if measure.metric == ACCURACY else each.searched.cell.attack,
            "metric": measure.metric,
            "n": measure.n,
            "value": round(measure.value, 4),
            "low": round(measure.low, 4),
            "high": round(measure.high, 4),
            "published": " ".join(f"{number.value:g}" for number in printed),
            "published_on": " ".join(number.dataset for number in printed),
        }
        for each in answered
        for measure in _measured(each)
        for printed in [_printed(each, measure.metric, table)]
    )


def _measured(answered: Answered) -> Iterator[Measure]:
    yield from answered.measures.values()
    if answered.is_own:
        yield answered.accuracy()


def _entry(
    answered: Answered | None, metric: str, table: tuple[str, str], notes: Footnotes
) -> Entry:
    """One field; empty where there is nothing to say."""
    if answered is None:
        return Entry("")
    printed = _printed(answered, metric, table)
    dataset = answered.answers.cell.dataset
    aside = ", ".join(
        f"paper {number.value:g}"
        if number.dataset == dataset
        else f"paper, on {number.dataset}: {number.value:g}"
        for number in printed
    )
    marks = tuple(
        notes.mark(f"{number.source}: {number.caveat}") for number in printed if number.caveat
    )
    measured = {**answered.measures, ACCURACY: answered.accuracy()}.get(metric)
    was_asked = metric == TRANSFERRED and answered.transfer is not None
    if measured is None:
        return Entry("—", aside=aside, marks=marks) if printed or was_asked else Entry("")
    if was_asked:
        aside = f"of {measured.n} pairs"
    digits = 3 if metric in (MEAN_KL, DISTANCE) else 1
    low, high = (f"{end:.{digits}f}" for end in (measured.low, measured.high))
    return Entry(f"{measured.value:.{digits}f}", f"[{low}, {high}]", f"{low}–{high}", aside, marks)


def _printed(answered: Answered, metric: str, table: tuple[str, str]) -> tuple[Published, ...]:
    """What the artefact's own table says of the same defense and metric."""
    attack = published.CLEAN if metric == ACCURACY else "overpowered"
    if not (answered.is_own or metric == ACCURACY):
        attack = "overpowered_transfer"
    return published.of_table(table, defense=answered.defense, attack=attack, metric=metric)


def _percentage(metric: str, count: float, n: int) -> Measure:
    low, high = statistics.wilson(count, n)
    return Measure(metric, 100 * count / n, 100 * low, 100 * high, n)


def _share(metric: str, mask: Mask) -> Measure:
    return _percentage(metric, int(mask.sum()), len(mask))


def _mean(metric: str, values: Values) -> Measure:
    low, high = statistics.bootstrapped_mean(values.tolist())
    return Measure(metric, float(values.mean()), low, high, len(values))


def _stacked(column: "pd.Series[Any]") -> Values:
    """(n, ...) of a column of lists."""
    return np.stack(column.to_list()) if len(column) else np.zeros((0, 0))
