"""Scores: what records say about each defense under each attack, and under the worst of them.

Rows and columns of a table are *keys*: an attack's or defense's name, followed by six digits of its
configuration's hash where the records hold several configurations of one name, so that runs with
other weights or other budgets stand beside each other and are never mixed.
"""

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import records, statistics
from benchmark.cells import CLEAN
from benchmark.records import Outcome

SEVERITY = {
    Outcome.CORRECT: 0,
    Outcome.REJECTED: 1,
    Outcome.WRONG: 2,
    Outcome.INVALID: 3,
    Outcome.ERROR: 4,
}
"""The worst case of several attacks is the outcome of the highest severity.

INVALID and ERROR are above WRONG: one unresolved sample must show, whatever else was found.
"""

ACCURACY, AGREEMENT = "accuracy", "agreement"
"""What papers count: the label's class, or the bare classifier's for the clean image."""

_FORMERLY = {"reference": "", "counts": AGREEMENT}
"""Metadata of files from before there was such a thing; those with a reference are of purifiers."""

_MUST_AGREE = ("dataset", "dataset_digest", "seed", "votes", "samples")
_KEYS = ["defense", "attack", "norm", "epsilon", "sample"]
_COLUMNS = [*_KEYS, "severity", "answer", "right", "score", "wrong_share", "member"]


@dataclass(frozen=True)
class Score:
    """Counts of outcomes over the samples of one table cell.

    Args:
        reason: why there are no counts: the attack is not applicable or was not run.
        applicable: False where the attack does not apply to the defense.
    """

    correct: int = 0
    rejected: int = 0
    wrong: int = 0
    invalid: int = 0
    error: int = 0
    reason: str = ""
    applicable: bool = True

    @property
    def n(self) -> int:
        """Samples."""
        return self.correct + self.rejected + self.wrong + self.invalid + self.error

    @property
    def measured(self) -> bool:
        """Every sample has a verdict, so that a number may be shown."""
        return self.n > 0 and self.invalid == 0 and self.error == 0

    @property
    def accuracy(self) -> float:
        """Percent correct; a rejected sample is not correct."""
        return 100 * self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95 % Wilson interval, in percent."""
        low, high = statistics.wilson(self.correct, self.n)
        return 100 * low, 100 * high

    @property
    def state(self) -> str:
        """What stands in place of a number; empty where there is one."""
        if self.measured:
            return ""
        if self.error:
            return f"error ({self.error})"
        if self.invalid:
            return f"invalid ({self.invalid})"
        return "—" if self.applicable else "n/a"


@dataclass(frozen=True, eq=False)
class Answers:
    """What a defense that may refuse would answer without thresholds.

    Args:
        score: (n,) a sample is accepted at thresholds from its score on.
        wrong: (n,) its class is not the label.
    """

    score: NDArray[np.float64]
    wrong: NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """All that a table needs from one group of records.

    Args:
        defenses: column keys, in order of appearance.
        attacks: per norm, row keys in order of appearance.
        outcomes: one row per defense, attack, norm, epsilon and sample; the clean rows have the
            attack ``clean``, an empty norm and epsilon 0; ``answer`` is the class, ``right``
            whether it is the label, rejected or not, ``score`` the rejection score,
            ``wrong_share`` the share of the judge's votes that were wrong and accepted, ``member``
            the attack of an ensemble that broke it.
        not_applicable: (defense, attack) -> reason.
        metadata: of every record file, in order, with the row and column keys added as
            ``defense_key`` and ``attack_key``; older files have an empty ``reference``, and
            count agreements.
    """

    defenses: tuple[str, ...]
    attacks: dict[str, tuple[str, ...]]
    outcomes: pd.DataFrame
    not_applicable: dict[tuple[str, str], str]
    metadata: tuple[dict[str, Any], ...]

    @property
    def dataset(self) -> str:
        """Its name."""
        return str(self.metadata[0]["dataset"])

    @property
    def n(self) -> int:
        """Samples per cell."""
        return len(self.metadata[0]["samples"])

    @property
    def rejecting(self) -> tuple[str, ...]:
        """The defenses that can reject: those that keep rejection scores, or rejected a sample."""
        able = (self.outcomes["severity"] == SEVERITY[Outcome.REJECTED]) | (
            self.outcomes["score"].notna()
        )
        found = set(self.outcomes.loc[able, "defense"])
        return tuple(defense for defense in self.defenses if defense in found)

    def reference(self, defense: str) -> str | None:
        """The column of the bare classifier that a defense contains.

        None where it contains none, or where that has no column, or several, in these records.
        """
        name = next(m["reference"] for m in self.metadata if m["defense_key"] == defense)
        found = [key for key in self.defenses if name and split_key(key)[0] == name]
        return found[0] if len(found) == 1 else None

    def counts(self, defense: str) -> str:
        """What a defense's paper counts under attacks on the classifier that it contains.

        `AGREEMENT`, `ACCURACY`, or empty where it contains none.
        """
        return next(str(m["counts"]) for m in self.metadata if m["defense_key"] == defense)

    def radii(self, norm: str) -> tuple[float, ...]:
        """Epsilons that were asked for, ascending; also where no attack applied."""
        asked = {float(e) for m in self.metadata if m["norm"] == norm for e in m["epsilons"]}
        return tuple(sorted(asked))

    def clean(self, defense: str) -> Score:
        """Accuracy without an attack."""
        return self.score(defense, CLEAN, "", 0.0)

    def without_thresholds(self, defense: str) -> Score:
        """Accuracy without an attack had nothing been rejected."""
        score = self.clean(defense)
        if not score.measured:
            return score
        rows = self._rows(defense, "", 0.0)
        right = int(rows.loc[rows["attack"] == CLEAN, "right"].sum())
        return Score(correct=right, wrong=score.n - right)

    def score(self, defense: str, attack: str, norm: str, epsilon: float) -> Score:
        """One attack's cell."""
        if reason := self.not_applicable.get((defense, attack)):
            return Score(reason=reason, applicable=False)
        rows = self._rows(defense, norm, epsilon)
        severities = rows.loc[rows["attack"] == attack, "severity"]
        return _count(severities) if len(severities) else Score(reason="not run")

    def lost(self, defense: str, attack: str, norm: str, epsilon: float) -> tuple[int, ...]:
        """Samples that are right on the clean images and not right under an attack."""
        clean, attacked = self._rows(defense, "", 0.0), self._rows(defense, norm, epsilon)
        right = clean.loc[clean["severity"] == SEVERITY[Outcome.CORRECT], "sample"]
        own = attacked[(attacked["attack"] == attack) & (attacked["severity"] > 0)]
        return tuple(int(sample) for sample in own["sample"] if sample in set(right))

    def worst(
        self, defense: str, norm: str, epsilon: float, attacks: Sequence[str] | None = None
    ) -> Score:
        """The per-sample worst case over the norm's attacks that apply to the defense.

        A missing attack leaves no number: over fewer attacks it would flatter the defense.

        Args:
            attacks: only these; None for all of the norm.
        """
        asked = self.attacks[norm] if attacks is None else attacks
        applicable = [a for a in asked if (defense, a) not in self.not_applicable]
        if not applicable:
            return Score(reason="no attack applies", applicable=False)
        rows = self._rows(defense, norm, epsilon)
        rows = rows[rows["attack"].isin(applicable)]
        missing = [attack for attack in applicable if not (rows["attack"] == attack).any()]
        if missing:
            return Score(reason=f"{', '.join(missing)} not run")
        return _count(self._worst_severity(rows))

    def under_all(
        self, norm: str, epsilon: float, outcomes: Sequence[Outcome]
    ) -> "dict[str, pd.Series[bool]]":
        """Per defense whose worst case is measured, for which samples it is one of these."""
        wanted = [SEVERITY[outcome] for outcome in outcomes]
        return {
            defense: self._worst_severity(self._rows(defense, norm, epsilon)).isin(wanted)
            for defense in self.defenses
            if self.worst(defense, norm, epsilon).measured
        }

    def answers(
        self, defense: str, attacks: Sequence[str], norm: str, epsilon: float
    ) -> Answers | None:
        """The worst case over some attacks at every threshold; None where scores are missing.

        A sample is answered wrongly from the threshold on at which the first of its wrong answers
        is accepted; a sample that no attack makes wrong is answered from the threshold on at which
        the last of its points is accepted.
        """
        rows = self._rows(defense, norm, epsilon)
        rows = rows[rows["attack"].isin(list(attacks))]
        if rows.empty or rows["score"].isna().any():
            return None
        wrong = rows[~rows["right"]].groupby("sample")["score"].min()
        right = rows.groupby("sample")["score"].max()
        is_wrong = right.index.isin(wrong.index)
        score = right.where(~is_wrong, wrong.reindex(right.index))
        return Answers(score.to_numpy(dtype=np.float64), np.asarray(is_wrong, dtype=bool))

    def _rows(self, defense: str, norm: str, epsilon: float) -> pd.DataFrame:
        return self._by_ball.get((defense, norm, epsilon), self.outcomes.iloc[:0])

    @cached_property
    def _by_ball(self) -> dict[Hashable, pd.DataFrame]:
        """The outcomes apart by defense, norm and epsilon: a table asks for them many times."""
        apart = self.outcomes.groupby(["defense", "norm", "epsilon"], sort=False)
        return dict(iter(apart))

    def _worst_severity(self, rows: pd.DataFrame) -> "pd.Series[int]":
        per_attack = rows.groupby("attack", sort=False)["sample"]
        statistics.require_same_samples({str(name): pd.Index(s) for name, s in per_attack})
        return rows.groupby("sample")["severity"].max()


def read(paths: Iterable[Path]) -> Scores:
    """The scores in record files, in the files' order.

    Raises:
        ValueError: no files, or files that do not belong into one table.
        OSError: a file is missing or damaged.
    """
    loaded = [records.load(path) for path in paths]
    if not loaded:
        raise ValueError("records must hold at least one cell, got none; run the benchmark first")
    _check([metadata for _, metadata in loaded])
    defense_keys = _keys(
        (m["defense"], f"{m['defense_repr']} {m['weights_digest']}") for _, m in loaded
    )
    attack_keys = _keys((_label(m), str(m["attack_repr"])) for _, m in loaded)
    frames, described, not_applicable = [], [], {}
    for position, (frame, metadata) in enumerate(loaded):
        defense, attack = defense_keys[position], attack_keys[position]
        described.append({**_FORMERLY, **metadata, "defense_key": defense, "attack_key": attack})
        if metadata["not_applicable"]:
            not_applicable[defense, attack] = str(metadata["not_applicable"])
        else:
            frames.append(_severities(frame, metadata).assign(defense=defense, attack=attack))
    outcomes = pd.concat(frames or [pd.DataFrame(columns=_COLUMNS)])[_COLUMNS]
    outcomes = (
        outcomes.reset_index(drop=True)
        .sort_values("severity", ascending=False, kind="stable")
        .drop_duplicates(_KEYS)
        .sort_index()
    )
    norms = _unique(str(m["norm"]) for m in described if m["norm"])
    return Scores(
        defenses=_unique(m["defense_key"] for m in described),
        attacks={
            norm: _unique(m["attack_key"] for m in described if m["norm"] == norm) for norm in norms
        },
        outcomes=outcomes,
        not_applicable=not_applicable,
        metadata=tuple(described),
    )


def split_key(key: str) -> tuple[str, str, str]:
    """A key's name, surrogate and configuration hash; the last two may be empty."""
    label, _, configuration = key.partition(" (")
    name, _, surrogate = label.partition("@")
    return name, surrogate, configuration.rstrip(")")


def _severities(frame: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
    """What `Scores.outcomes` needs of one file; a crash without rows failed everywhere."""
    if frame.empty and metadata["error"]:
        frame = pd.DataFrame(
            [
                {"norm": metadata["norm"], "epsilon": epsilon, "sample": sample}
                for epsilon in metadata["epsilons"]
                for sample in metadata["samples"]
            ]
        ).assign(outcome=str(Outcome.ERROR), label=0, adversarial_class=-1)
        frame = frame.assign(rejection_score=np.nan, wrong_vote_share=np.nan, broken_by="")
    severity = frame["outcome"].map({str(k): v for k, v in SEVERITY.items()})
    if severity.isna().any():
        unknown = sorted(set(frame.loc[severity.isna(), "outcome"]))
        raise ValueError(
            f"outcome must be one of {', '.join(SEVERITY)}, got {', '.join(unknown)}; "
            "delete the record file and run again"
        )
    return frame[["norm", "epsilon", "sample"]].assign(
        severity=severity.astype("int64"),
        answer=frame["adversarial_class"],
        right=frame["adversarial_class"] == frame["label"],
        score=frame["rejection_score"],
        wrong_share=frame["wrong_vote_share"],
        member=frame["broken_by"],
    )


def _label(metadata: dict[str, Any]) -> str:
    surrogate = f"@{metadata['surrogate']}" if metadata["surrogate"] else ""
    return f"{metadata['attack']}{surrogate}"


def _keys(named: Iterable[tuple[str, str]]) -> list[str]:
    """One key per (name, configuration): the name, told apart where configurations differ."""
    pairs = list(named)
    configurations: dict[str, set[str]] = {}
    for name, configuration in pairs:
        configurations.setdefault(name, set()).add(configuration)
    return [
        name if len(configurations[name]) == 1 else f"{name} ({_short_hash(configuration)})"
        for name, configuration in pairs
    ]


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _count(severities: "pd.Series[int]") -> Score:
    found = severities.value_counts()
    counts = {outcome: int(found.get(severity, 0)) for outcome, severity in SEVERITY.items()}
    return Score(
        correct=counts[Outcome.CORRECT],
        rejected=counts[Outcome.REJECTED],
        wrong=counts[Outcome.WRONG],
        invalid=counts[Outcome.INVALID],
        error=counts[Outcome.ERROR],
    )


def _check(metadata: Sequence[dict[str, Any]]) -> None:
    """A table compares like with like."""
    for name in _MUST_AGREE:
        values = {repr(entry[name]) for entry in metadata}
        if len(values) > 1:
            shown = (
                f"{len(values)} different sets" if name == "samples" else ", ".join(sorted(values))
            )
            raise ValueError(
                f"{name} must be the same in all records of one table, got {shown}; "
                "make one table per group"
            )
