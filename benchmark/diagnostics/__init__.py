"""Diagnostics: what tells a weak attack from a strong defense.

    probes = diagnostics.gather(scores, Path("results/mnist/records"))
    for finding in diagnostics.diagnose(scores, layout, probes):
        print(finding.footnote)

Some rules compare attacks with each other and need records alone; others read the probes that a
sweep keeps beside them (`benchmark.probes`). A rule that had nothing to look at says so: silence
is not a clean bill.
"""

from benchmark.diagnostics.diagnosis import Diagnosis, diagnose, examine
from benchmark.diagnostics.evidence import Probes, gather
from benchmark.diagnostics.finding import EVERY_RADIUS, Finding, Severity
from benchmark.diagnostics.marks import doubts
from benchmark.diagnostics.rules import RULES

__all__ = [
    "EVERY_RADIUS",
    "RULES",
    "Diagnosis",
    "Finding",
    "Probes",
    "Severity",
    "diagnose",
    "doubts",
    "examine",
    "gather",
]
