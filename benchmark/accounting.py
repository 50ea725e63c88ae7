"""What a number cost: calls counted on the defense's side, and what they bought.

    forward, backward, decoder      images that went through the defense, per image attacked
    at a quarter, half, all         accuracy had the attack stopped after that share of its calls
    second half                     points of accuracy that the second half of the calls took

Every doubling of an attack's budget tends to buy less than the one before, so what the second half
took is what a doubling may still take, at most; that is a rule of thumb and no bound, and where a
probe ran the attack at twice its budget (`benchmark.probes`) its answer stands in the diagnostics.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmark import curves, figures
from benchmark.accuracy import Layout, ball_name
from benchmark.scores import Scores
from benchmark.sheet import Entry, Line, Sheet
from benchmark.storage import keep

NOTE = (
    "Images that went through the defense per image attacked, counted on its side: forward + "
    "backward (+ decoder). The arrow is the accuracy after half of the calls and after all of "
    "them, at the radius named; what the second half took is about what doubling the budget may "
    "still take. A minimum-norm attack settles at its end which points count, so its halves say "
    "little."
)
_SHARES = {"quarter": 0.25, "half": 0.5, "all": 1.0}
_PANELS_ABREAST = 3
_PANEL = 3.1


@dataclass(frozen=True, eq=False)
class Account:
    """One defense under one attack in one ball.

    Args:
        attacked: images that the attack began with.
        forward, backward, decoder: per image attacked, over all radii of the cell.
        calls: forward and backward calls per image at which images were broken, ascending; those
            that nobody traced count as broken at the end.
        clean: percent right before the attack.
        n: samples.
    """

    defense: str
    attack: str
    norm: str
    epsilon: float
    attacked: int
    forward: float
    backward: float
    decoder: float
    calls: tuple[float, ...]
    clean: float
    n: int

    @property
    def spent(self) -> float:
        """Forward and backward calls per image."""
        return self.forward + self.backward

    def after(self, calls: float) -> float:
        """Accuracy in percent had the attack stopped after so many calls per image."""
        broken = int(np.searchsorted(self.calls, calls, side="right"))
        return self.clean - 100 * broken / self.n

    @property
    def second_half(self) -> float:
        """Points of accuracy that the second half of the calls took."""
        return self.after(self.spent / 2) - self.after(self.spent)


def accounts(scores: Scores, layout: Layout) -> Iterator[Account]:
    """Every cell with a number, at every radius of the table, in the table's order.

    None where no record of the table says when its images were broken, as in old files.
    """
    if not any("calls" in metadata for metadata in scores.metadata):
        return
    by_keys = {(m["defense_key"], m["attack_key"]): m for m in scores.metadata}
    for norm, radii in layout.radii.items():
        for attack, defense, epsilon in product(scores.attacks[norm], scores.defenses, radii):
            metadata = by_keys.get((defense, attack))
            score, clean = scores.score(defense, attack, norm, epsilon), scores.clean(defense)
            if metadata is None or not score.measured or not clean.correct:
                continue
            cost = metadata["cost"]
            per_image = {kind: count / clean.correct for kind, count in cost.items()}
            spent = per_image["forward"] + per_image["backward"]
            yield Account(
                defense=defense,
                attack=attack,
                norm=norm,
                epsilon=epsilon,
                attacked=clean.correct,
                calls=_calls(scores, metadata, (defense, attack, norm, epsilon), spent),
                clean=clean.accuracy,
                n=clean.n,
                **per_image,
            )


def _calls(
    scores: Scores, metadata: dict[str, Any], key: tuple[str, str, str, float], spent: float
) -> tuple[float, ...]:
    epsilon = key[3]
    traced = {
        int(sample): min(float(calls), spent)
        for radius, sample, calls in metadata.get("calls", [])
        if np.isclose(radius, epsilon, rtol=1e-6)
    }
    return tuple(sorted(traced.get(sample, spent) for sample in scores.lost(*key)))


def calls_sheet(scores: Scores, layout: Layout, title: str) -> Sheet:
    """Calls per image, and the accuracy after half and all of them."""
    found = {(a.attack, a.norm, a.epsilon, a.defense): a for a in accounts(scores, layout)}
    lines = []
    for norm, radii in layout.radii.items():
        for epsilon in radii:
            lines.append(Line(ball_name(norm, epsilon), brief=ball_name(norm, epsilon)))
            for attack in scores.attacks[norm]:
                row = [found.get((attack, norm, epsilon, name)) for name in scores.defenses]
                if any(row):
                    lines.append(Line(layout.row_name(attack), tuple(map(_entry, row))))
    return Sheet(title, scores.defenses if found else (), tuple(lines))


def _entry(account: Account | None) -> Entry:
    if account is None:
        return Entry("—")
    decoder = f" + {account.decoder:,.0f}" if account.decoder else ""
    halves = f"{account.after(account.spent / 2):.0f} → {account.after(account.spent):.0f}"
    return Entry(f"{account.forward:,.0f} + {account.backward:,.0f}{decoder}", halves, halves)


def tidy(scores: Scores, layout: Layout) -> pd.DataFrame:
    """One row per account."""
    return pd.DataFrame(
        [
            {
                "dataset": scores.dataset,
                "defense": account.defense,
                "attack": account.attack,
                "norm": account.norm,
                "epsilon": account.epsilon,
                "n": account.n,
                "forward_per_image": round(account.forward, 1),
                "backward_per_image": round(account.backward, 1),
                "decoder_per_image": round(account.decoder, 1),
                **{
                    f"accuracy_at_{name}": round(account.after(share * account.spent), 4)
                    for name, share in _SHARES.items()
                },
                "second_half": round(account.second_half, 4),
            }
            for account in accounts(scores, layout)
        ]
    )


def steps(account: Account) -> tuple[list[float], list[float]]:
    """The curve of accuracy (percent) against calls per image, as corners from left to right."""
    calls = [0.0, *account.calls, account.spent]
    return calls, [account.clean, *map(account.after, account.calls), account.after(account.spent)]


def draw(found: list[Account], title: str) -> Figure:
    """Accuracy against calls: a panel per defense, a line per attack.

    Args:
        found: accounts at one norm and radius.
    """
    defenses = list(dict.fromkeys(account.defense for account in found))
    looks = curves.styles(list(dict.fromkeys(account.attack for account in found)))
    columns = min(_PANELS_ABREAST, len(defenses))
    rows = -(-len(defenses) // columns)
    width = max(_PANEL * columns, 2 * _PANEL)
    figure = figures.blank(width, 2.6 * rows + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat:
        axes.set_visible(False)
    for axes, defense in zip(panels.flat, defenses, strict=False):
        axes.set_visible(True)
        for account in (each for each in found if each.defense == defense):
            look, (calls, accuracy) = looks[account.attack], steps(account)
            axes.step(
                np.maximum(calls, 1.0),
                accuracy,
                where="post",
                color=look.color,
                linestyle=look.dash,
                label=account.attack,
            )
        axes.set(xscale="log", ylim=(-3, 103), xlabel="calls per image")
        axes.set_title(defense, loc="left", fontsize="small")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %")
    lines = {line.get_label(): line for axes in panels.flat for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(figures.wrapped(title, width), x=0.01, ha="left", fontsize="medium")
    return figure


def write(scores: Scores, layout: Layout, folder: Path, stem: str, title: str) -> list[Path]:
    """``<stem>-calls.csv``, and at the (lower) middle radius ``<stem>-calls-<norm>.png``, ``.svg``.

    Raises:
        OSError: a file can't be written.
    """
    found = list(accounts(scores, layout))
    if not found:
        return []
    table = folder / f"{stem}-calls.csv"
    keep(table, tidy(scores, layout).to_csv(index=False, lineterminator="\n").encode())
    written = [table]
    for norm, radii in layout.radii.items():
        middle = radii[(len(radii) - 1) // 2]  # the largest often leaves nothing to see
        own = [each for each in found if (each.norm, each.epsilon) == (norm, middle)]
        if own:
            figure = draw(own, f"{title}\naccuracy against calls, {ball_name(norm, middle)}")
            written += figures.save(figure, folder, f"{stem}-calls-{norm}")
    return written
