"""All rules asked about one table, and how their findings read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from benchmark import published
from benchmark.accuracy import NORM_NAMES, Layout, ball_name
from benchmark.diagnostics.evidence import Evidence, Probes
from benchmark.diagnostics.finding import Finding
from benchmark.diagnostics.rules import RULES
from benchmark.scores import Scores, split_key
from benchmark.sheet import Entry, Footnotes, Line, Sheet

_COLUMNS = [
    *("dataset", "finding", "severity", "defense", "attack", "surrogate", "norm", "epsilon"),
    *("seen", "advice"),
]
_UNPROBED = "Not probed: {what}; the same benchmark.run command, given again, asks what is missing."


@dataclass(frozen=True)
class Diagnosis:
    """What all rules say about one table.

    Args:
        asked: rule -> how many cases it could look at.
    """

    findings: tuple[Finding, ...]
    asked: Mapping[str, int]
    probes: Probes
    dataset: str

    @property
    def doubtful(self) -> bool:
        """Whether any number is in doubt."""
        return any(finding.counts for finding in self.findings)

    @property
    def note(self) -> str:
        """Which rules saw nothing, which had nothing to look at, and what was not probed."""
        fired = {finding.name for finding in self.findings}
        quiet = [name for name, cases in self.asked.items() if cases and name not in fired]
        blind = [name for name, cases in self.asked.items() if not cases]
        sentences = [f"Nothing fired: {', '.join(quiet)}."] if quiet else []
        sentences += [f"Nothing to look at: {', '.join(blind)}."] if blind and quiet else []
        return " ".join([*sentences, *self._unprobed()])

    def sheet(self, title: str) -> Sheet:
        """One line per finding; without lines where there is none."""
        notes = Footnotes()
        lines = [
            Line(
                finding.name,
                (
                    Entry(str(finding.severity)),
                    Entry(where(finding)),
                    Entry(finding.text, marks=(notes.mark(f"{finding.name}: {finding.advice}"),)),
                ),
            )
            for finding in self.findings
        ]
        columns = ("Severity", "Where", "What was seen")
        texts = tuple(notes.texts)
        return Sheet(title, columns, tuple(lines), texts, widths=(0.0, 0.25, 0.4))

    def tidy(self) -> pd.DataFrame:
        """One row per finding; the columns are there without any."""
        rows = []
        for finding in self.findings:
            attack, surrogate, configuration = split_key(finding.attack)
            rows.append(
                {
                    "dataset": self.dataset,
                    "finding": finding.name,
                    "severity": str(finding.severity),
                    "defense": finding.defense,
                    "attack": f"{attack} ({configuration})" if configuration else attack,
                    "surrogate": surrogate,
                    "norm": finding.norm,
                    "epsilon": finding.epsilon,
                    "seen": finding.text,
                    "advice": finding.advice,
                }
            )
        return pd.DataFrame(rows, columns=_COLUMNS)

    def _unprobed(self) -> list[str]:
        """What no probe was made of, in one sentence; nothing where all were."""
        cells = self.probes.cells_unasked
        parts = [f"defenses {', '.join(self.probes.unasked)}"] if self.probes.unasked else []
        if cells:
            parts.append(f"{cells} of {cells + len(self.probes.cells)} cells")
        return [_UNPROBED.format(what=" and ".join(parts))] if parts else []


def examine(scores: Scores, layout: Layout, probes: Probes) -> Diagnosis:
    """Ask every rule.

    Args:
        scores: as in the table.
        layout: the radii at which attacks are compared.
        probes: of the same records, from `gather`.
    """
    evidence = Evidence(scores, layout, probes)
    findings: list[Finding] = []
    asked: dict[str, int] = {}
    for name, rule in RULES.items():
        cases = list(rule.ask(evidence))
        asked[name] = len(cases)
        findings += [
            Finding(
                name=name,
                defense=seen.defense,
                attack=seen.attack,
                norm=seen.norm,
                epsilon=seen.epsilon,
                text=seen.text,
                advice=rule.advice,
                severity=seen.severity,
            )
            for seen in cases
            if seen is not None
        ]
    return Diagnosis(tuple(findings), asked, probes, scores.dataset)


def diagnose(scores: Scores, layout: Layout, probes: Probes) -> tuple[Finding, ...]:
    """What the rules found, in their order; arguments as `examine`."""
    return examine(scores, layout, probes).findings


def where(finding: Finding) -> str:
    """``eabs, pgd-linf, Linf, epsilon = 0.1``; the norm alone where the finding has no radius."""
    parts = [finding.defense or "every defense"]
    if finding.attack and finding.attack != published.ALL:
        parts.append(finding.attack)
    if finding.norm:
        finite = math.isfinite(finding.epsilon)
        ball = ball_name(finding.norm, finding.epsilon) if finite else NORM_NAMES[finding.norm]
        parts.append(f"All {ball}" if finding.attack == published.ALL else ball)
    return ", ".join(parts)
