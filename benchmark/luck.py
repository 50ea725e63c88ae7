"""How much of a stochastic defense's robustness is luck: what fresh seeds change, sample by sample.

The table decides by a majority of a few votes. Whoever attacks a deployed defense meets one draw of
its noise at a time, and may try again. So three accuracies are told apart, over all attacks of a
row:

    mean case    mean over samples of 1 - the largest share of wrong answers that an attack reaches:
                 what an attacker achieves who gets one try
    majority     the table's number
    worst case   samples with no wrong answer under any seed and any attack: what is left of one who
                 tries as often as we asked

A share is that of the answers that are wrong and accepted: refusals do not count as the attack's
success, so where a defense refuses the mean case may be above the table's accuracy. Shares come
from fresh seeds where a `CellProbe` asked them, else from the judge's own votes, which are few. The
largest of several estimated shares is too large rather than too small, and the worst case sinks
with the number of seeds: it is an upper limit of what many tries would leave.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import probes, records, selective, statistics
from benchmark.accuracy import Layout, Row
from benchmark.probes import CellProbe
from benchmark.published import ALL
from benchmark.scores import Score, Scores, split_key
from benchmark.sheet import Entry, Line, Sheet

SEEDS, VOTES = "fresh seeds", "votes"
"""Where shares come from."""

NOTE = (
    "*Mean case*: the mean over samples of the chance that a fresh seed's answer is not wrong, "
    "under the attack that is best at the sample; *worst case*: the samples with no wrong answer "
    "under any seed and any attack; *majority* is the table's number. Each in percent with its "
    "95 % Wilson interval. *Chance of success* counts the samples by the attack's chance: 0, below "
    "one half, one half or more, 1. Refused answers are not wrong. The worst case sinks with the "
    "number of seeds that were asked, which the last line gives: with few, it flatters the defense."
)


@dataclass(frozen=True)
class Luck:
    """A stochastic defense in one row of the table, over its samples.

    Args:
        success: share of wrong answers per sample, the largest over attacks; ascending samples.
        majority: the table's score.
        asked: answers per sample and attack, the fewest and the most.
        sources: `SEEDS`, `VOTES` or both.
    """

    success: "pd.Series[float]"
    majority: Score
    asked: tuple[int, int]
    sources: tuple[str, ...]

    @property
    def mean_case(self) -> float:
        """Samples that stand, each counted by its chance."""
        return float((1 - self.success).sum())

    @property
    def worst_case(self) -> int:
        """Samples that were never wrong."""
        return int((self.success == 0).sum())

    @property
    def histogram(self) -> tuple[int, int, int, int]:
        """Samples with a chance of success of 0, in (0, 1/2), in [1/2, 1), and of 1."""
        edges = [self.success == 0, self.success < 0.5, self.success < 1]
        place = np.select(edges, [0, 1, 2], default=3)
        never, seldom, often, always = np.bincount(place, minlength=4).tolist()
        return never, seldom, often, always


def read(paths: Sequence[Path]) -> dict[str, CellProbe]:
    """The probes beside record files that asked a stochastic defense again, by cell id.

    Raises:
        ValueError: a probe is damaged.
    """
    found = (probes.of_cell(path.parent, path.stem) for path in paths)
    return {probe.cell: probe for probe in found if probe is not None and probe.asked > 1}


def stochastic(scores: Scores, asked: Mapping[str, CellProbe]) -> tuple[str, ...]:
    """The defenses whose answers to some point differ, or that were asked with fresh seeds."""
    outcomes = scores.outcomes
    split = outcomes.loc[(outcomes["wrong_share"] > 0) & (outcomes["wrong_share"] < 1), "defense"]
    found = {*split, *(m["defense_key"] for m in scores.metadata if _id(m) in asked)}
    return tuple(defense for defense in scores.defenses if defense in found)


def luck(scores: Scores, row: Row, defense: str, asked: Mapping[str, CellProbe]) -> Luck | None:
    """What seeds change for one defense in one row; None where the row has no number."""
    majority = row.score(scores, defense)
    if not majority.measured:
        return None
    attacks = scores.attacks[row.norm] if row.attack == ALL else (row.attack,)
    shares = _shares(scores, row, defense, attacks, asked)
    return Luck(
        shares.groupby("sample")["share"].max(),
        majority,
        (int(shares["asked"].min()), int(shares["asked"].max())),
        tuple(source for source in (SEEDS, VOTES) if (shares["source"] == source).any()),
    )


def tidy(scores: Scores, layout: Layout, asked: Mapping[str, CellProbe]) -> pd.DataFrame:
    """One row per stochastic defense and row of the table; accuracies in percent.

    ``never`` to ``always`` are `Luck.histogram`, ``success_q50`` to ``success_q95`` quantiles of
    the samples' chances.
    """
    found = []
    for row, defense, here in _all(scores, layout, asked):
        attack, surrogate, configuration = split_key(row.attack)
        n = len(here.success)
        cases = {
            "mean": here.mean_case,
            "worst": here.worst_case,
            "majority": here.majority.correct,
        }
        percent: dict[str, float] = {}
        for name, successes in cases.items():
            low, high = statistics.wilson(successes, n)
            percent |= {name: successes / n, f"{name}_low": low, f"{name}_high": high}
        found.append(
            {
                "dataset": scores.dataset,
                "defense": defense,
                "attack": f"{attack} ({configuration})" if configuration else attack,
                "surrogate": surrogate,
                "norm": row.norm,
                "epsilon": row.epsilon,
                "n": n,
                "asked_least": here.asked[0],
                "asked_most": here.asked[1],
                "source": " and ".join(here.sources),
                **{name: round(100 * share, 4) for name, share in percent.items()},
                **dict(zip(("never", "seldom", "often", "always"), here.histogram, strict=True)),
                **{
                    f"success_q{q}": round(float(here.success.quantile(q / 100)), 4)
                    for q in (50, 75, 90, 95)
                },
            }
        )
    return pd.DataFrame(found)


def luck_sheet(scores: Scores, layout: Layout, title: str, asked: Mapping[str, CellProbe]) -> Sheet:
    """A column per stochastic defense; no columns where there is none."""
    names = stochastic(scores, asked)
    lines = []
    for row in selective.shown(scores, layout):
        here = [luck(scores, row, name, asked) for name in names]
        lines.append(Line(selective.where(row)))
        lines += [
            Line(label, tuple(Entry("—") if one is None else entry(one) for one in here))
            for label, entry in _LINES.items()
        ]
    return Sheet(title, names, tuple(lines))


def _all(
    scores: Scores, layout: Layout, asked: Mapping[str, CellProbe]
) -> Iterator[tuple[Row, str, Luck]]:
    for row in selective.shown(scores, layout):
        for defense in stochastic(scores, asked):
            here = luck(scores, row, defense, asked)
            if here is not None:
                yield row, defense, here


def _shares(
    scores: Scores,
    row: Row,
    defense: str,
    attacks: Sequence[str],
    asked: Mapping[str, CellProbe],
) -> pd.DataFrame:
    """Columns sample, share, asked, source: one row per attack and sample, fresh seeds first."""
    outcomes = scores.outcomes
    here = (outcomes["norm"] == row.norm) & (outcomes["epsilon"] == row.epsilon)
    rows = outcomes[here & (outcomes["defense"] == defense) & outcomes["attack"].isin(attacks)]
    frames = []
    for attack, own in rows.groupby("attack", sort=False):
        fresh, seeds = _fresh(scores, defense, str(attack), row.epsilon, asked)
        probed = own["sample"].isin(list(fresh))
        votes = int(scores.metadata[0]["votes"])
        frames.append(
            pd.DataFrame(
                {
                    "sample": own["sample"],
                    "share": own["wrong_share"].where(~probed, own["sample"].map(fresh)),
                    "asked": np.where(probed, seeds, votes),
                    "source": np.where(probed, SEEDS, VOTES),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _fresh(
    scores: Scores, defense: str, attack: str, epsilon: float, asked: Mapping[str, CellProbe]
) -> tuple[dict[int, float], int]:
    """Sample -> share of wrong answers among fresh seeds, and how many were asked; no probe: 0."""
    shares: dict[int, float] = {}
    seeds = 0
    for metadata in scores.metadata:
        probe = asked.get(_id(metadata))
        own = (metadata["defense_key"], metadata["attack_key"]) == (defense, attack)
        if own and probe is not None and np.isclose(probe.epsilon, epsilon, rtol=1e-6, atol=0):
            seeds = probe.asked
            for sample, wrong in probe.wrong.items():
                shares[sample] = max(wrong / probe.asked, shares.get(sample, 0.0))
    return shares, seeds


def _id(metadata: Mapping[str, object]) -> str:
    return records.cell_of(metadata).id


def _share(successes: float, n: int) -> Entry:
    low, high = (100 * limit for limit in statistics.wilson(successes, n))
    share = f"{100 * successes / n:.1f}"
    return Entry(share, f"[{low:.1f}, {high:.1f}]", f"{low:.0f}–{high:.0f}")


def _asked(here: Luck) -> Entry:
    least, most = here.asked
    count = str(least) if least == most else f"{least} to {most}"
    return Entry(count, " and ".join(here.sources))


_LINES = {
    "mean case": lambda here: _share(here.mean_case, len(here.success)),
    "majority": lambda here: _share(here.majority.correct, here.majority.n),
    "worst case": lambda here: _share(here.worst_case, len(here.success)),
    "chance of success": lambda here: Entry(" / ".join(map(str, here.histogram))),
    "asked": _asked,
}
"""Label of a line -> what it says of a `Luck`."""
