"""The Overpowered attack's two accuracies (MAD-VAE, Table 3), with and without pairs that left
their class.

The attack is run once per length of the noise it must survive, which its rows name. At one radius

    accuracy            right answers among all images and noise lengths
    original accuracy   images that are right under every noise length (Jalal et al. 2017)

An L2 budget admits images that show another class (MAD-VAE, section 3.6): that the defense sees
that class is then no failure. Where an independent classifier was asked
(`benchmark.transmutation`), the successes that it takes for another class are counted, and both
accuracies are given again without these pairs: neither right nor wrong.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import pandas as pd

from benchmark import published, statistics
from benchmark.accuracy import Layout, ball_name
from benchmark.cells import CLEAN
from benchmark.records import Outcome
from benchmark.scores import SEVERITY, Scores, split_key
from benchmark.sheet import Entry, Footnotes, Line, Sheet

NAME = "overpowered"
NOISE_NORM = "noise_norm"
KEYS = ("defense", "attack", "norm", "epsilon", "sample")
"""What names one pair: of an image and what an attack made of it."""

NOTE = (
    "*Accuracy* is the mean over images and noise lengths, *original accuracy* the share of images "
    "right under every noise length, in percent with 95 % Wilson intervals for the number of "
    "images. *L2* enforces the budget, *unrestricted* does not, which is what the paper tabulates. "
    "A success is *flagged* where an independent classifier is sure that the adversarial image "
    "shows another class than the label; *unflagged* accuracies leave such pairs out."
)


@dataclass(frozen=True)
class Flags:
    """Which pairs an independent classifier takes for another class.

    Args:
        by: the classifier's registered name.
        confidence: softmax probability from which it is sure enough.
        pairs: one row per pair that was asked about: `KEYS` and ``flagged``.
    """

    by: str
    confidence: float
    pairs: pd.DataFrame


@dataclass(frozen=True)
class Share:
    """A mean over images of numbers in [0, 1].

    Args:
        total: their sum.
        n: images.
    """

    total: float
    n: int

    @property
    def percent(self) -> float:
        """The mean."""
        return 100 * self.total / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % Wilson interval, in percent."""
        low, high = statistics.wilson(self.total, self.n)
        return 100 * low, 100 * high


@dataclass(frozen=True)
class Result:
    """One defense at one radius.

    Args:
        noise_norms: those that were run, ascending.
        state: what stands in place of numbers; empty where there are some.
        accuracies: metric -> share; a metric without images is missing.
        successes: pairs that are wrong although the clean image is answered correctly.
        flagged: of these, those that show another class; None where nobody was asked.
    """

    noise_norms: tuple[float, ...]
    state: str = ""
    accuracies: Mapping[str, Share] | None = None
    successes: int = 0
    flagged: int | None = None

    def share(self, metric: str) -> Share | None:
        """One accuracy; None where there is no number."""
        return (self.accuracies or {}).get(metric)


def series(scores: Scores, norm: str) -> dict[float, str]:
    """Noise length -> key of the attack, ascending; empty where the attack was not run."""
    found = {}
    for attack in scores.attacks.get(norm, ()):
        label, surrogate, _ = split_key(attack)
        name, fields = published.specification(label)
        length = fields.get(NOISE_NORM)
        if name.startswith(NAME) and not surrogate and isinstance(length, float):
            found[length] = attack
    return dict(sorted(found.items()))


def result(
    scores: Scores, defense: str, norm: str, epsilon: float, flags: Flags | None = None
) -> Result:
    """Both accuracies of a defense at a radius; a missing or failed attack leaves no number."""
    attacks = series(scores, norm)
    for attack in attacks.values():
        score = scores.score(defense, attack, norm, epsilon)
        if not score.measured:
            return Result(tuple(attacks), score.state)
    rows = scores.outcomes[scores.outcomes["defense"] == defense]
    here = (rows["norm"] == norm) & (rows["epsilon"] == epsilon)
    pairs = rows[here & rows["attack"].isin(list(attacks.values()))]
    clean = rows[(rows["attack"] == CLEAN) & (rows["severity"] == SEVERITY[Outcome.CORRECT])]
    broken = pairs["severity"] == SEVERITY[Outcome.WRONG]
    won = broken & pairs["sample"].isin(clean["sample"])
    found = _accuracies(pairs, "")
    flagged = None if flags is None else _flagged(flags, pairs, won)
    if flagged is None:
        return Result(tuple(attacks), "", found, int(won.sum()))
    found |= _accuracies(pairs[~flagged], _WITHOUT)
    return Result(tuple(attacks), "", found, int(won.sum()), int(flagged.sum()))


_WITHOUT = "_without_flagged"
_METRICS = {
    published.MEAN_ACCURACY: "Accuracy",
    published.ORIGINAL_ACCURACY: "Original accuracy",
}


def overpowered_sheet(
    scores: Scores, layout: Layout, title: str, flags: Flags | None = None
) -> Sheet:
    """A column per defense, a block per radius; without columns where the attack was not run."""
    notes, lines = Footnotes(), []
    for norm, epsilon in _balls(scores, layout):
        row = {
            defense: result(scores, defense, norm, epsilon, flags) for defense in scores.defenses
        }
        lengths = ", ".join(f"{length:g}" for length in series(scores, norm))
        brief = ball_name(norm, epsilon, before_radius=" ")
        lines.append(Line(f"{ball_name(norm, epsilon)}; noise of length {lengths}", brief=brief))
        for metric, label in _METRICS.items():
            entries = [
                _entry(found, metric, _printed(scores, layout, defense, norm, metric), notes)
                for defense, found in row.items()
            ]
            lines.append(Line(label, tuple(entries)))
        if flags is None:
            continue
        shares = tuple(_flagged_share(found) for found in row.values())
        lines.append(Line("Flagged successes", shares))
        for metric, label in _METRICS.items():
            entries = [_entry(found, metric + _WITHOUT, (), notes) for found in row.values()]
            lines.append(Line(f"{label}, unflagged", tuple(entries)))
    if flags is not None:
        title += f"; flagged where {flags.by} is {100 * flags.confidence:g} % sure of another class"
    return Sheet(title, scores.defenses if lines else (), tuple(lines), tuple(notes.texts))


def tidy(scores: Scores, layout: Layout, flags: Flags | None = None) -> pd.DataFrame:
    """One row per defense, radius and metric; percentages."""
    rows = []
    for (norm, epsilon), defense in product(_balls(scores, layout), scores.defenses):
        found = result(scores, defense, norm, epsilon, flags)
        for metric in (*_METRICS, *(f"{name}{_WITHOUT}" for name in _METRICS if flags)):
            share = found.share(metric)
            low, high = share.interval if share else (None, None)
            printed = _printed(scores, layout, defense, norm, metric)
            rows.append(
                {
                    "dataset": scores.dataset,
                    "defense": defense,
                    "norm": norm,
                    "epsilon": epsilon,
                    "noise_norms": " ".join(f"{length:g}" for length in found.noise_norms),
                    "metric": metric,
                    "n": share.n if share else 0,
                    "percent": share.percent if share else None,
                    "low": low,
                    "high": high,
                    "successes": found.successes,
                    "flagged": found.flagged,
                    "flagged_by": flags.by if flags and found.flagged is not None else "",
                    "published": " ".join(f"{number.value:g}" for number in printed),
                    "note": found.state,
                }
            )
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    shares = ["percent", "low", "high"]
    whole = frame.assign(**frame[shares].astype(float).round(4))
    return whole.assign(flagged=whole["flagged"].astype("Int64"))


def _balls(scores: Scores, layout: Layout) -> Iterator[tuple[str, float]]:
    for norm, radii in layout.radii.items():
        if series(scores, norm):
            yield from ((norm, epsilon) for epsilon in radii)


def _accuracies(pairs: pd.DataFrame, ending: str) -> dict[str, Share]:
    """Both metrics of pairs, over the images that have any."""
    if pairs.empty:
        return {}
    right = (pairs["severity"] == SEVERITY[Outcome.CORRECT]).groupby(pairs["sample"])
    mean, every = right.mean(), right.all()
    return {
        published.MEAN_ACCURACY + ending: Share(float(mean.sum()), len(mean)),
        published.ORIGINAL_ACCURACY + ending: Share(float(every.sum()), len(every)),
    }


def _flagged(flags: Flags, pairs: pd.DataFrame, won: "pd.Series[bool]") -> "pd.Series[bool] | None":
    """Which pairs are flagged successes; None where the classifier did not see every success."""
    seen = pairs[list(KEYS)].merge(flags.pairs, on=list(KEYS), how="left")["flagged"]
    known = seen.set_axis(pairs.index)
    return None if known[won].isna().any() else known.eq(True) & won


def _entry(
    found: Result, metric: str, printed: tuple[published.Published, ...], notes: Footnotes
) -> Entry:
    aside = f"paper {', '.join(f'{number.value:g}' for number in printed)}" if printed else ""
    marks = tuple(
        notes.mark(f"{number.source}: {number.caveat}") for number in printed if number.caveat
    )
    share = found.share(metric)
    if share is None:
        return Entry(found.state or "—", aside=aside, marks=marks)
    low, high = share.interval
    wide, brief = f"[{low:.1f}, {high:.1f}]", f"{low:.0f}–{high:.0f}"
    return Entry(f"{share.percent:.1f}", wide, brief, aside, marks)


def _flagged_share(found: Result) -> Entry:
    """The share of the successes that were flagged."""
    if found.state or found.flagged is None:
        return Entry(found.state or "—")
    aside = f"{found.flagged} of {found.successes}"
    share = 100 * found.flagged / found.successes if found.successes else None
    return Entry("—" if share is None else f"{share:.1f}", aside=aside)


def _printed(
    scores: Scores, layout: Layout, defense: str, norm: str, metric: str
) -> tuple[published.Published, ...]:
    return published.lookup(
        dataset=scores.dataset,
        defense=split_key(defense)[0],
        attack=f"{NAME}-{norm}",
        norm=norm,
        epsilon=float("inf"),
        metric=metric,
        preferred=layout.counterpart.table,
    )
