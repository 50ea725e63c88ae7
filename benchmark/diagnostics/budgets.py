"""Rules about one attack: does it work at all, and what would more of it find?"""

import math
from collections.abc import Iterator

from benchmark.diagnostics.evidence import Evidence, Kind, ProbedCell, kind
from benchmark.diagnostics.finding import EVERY_RADIUS, Seen, Severity
from benchmark.probes import ENOUGH, MASKED, UNDEFENDED, Share
from benchmark.statistics import wilson

FEWEST_POINTS = 4
"""A share of fewer points says nothing."""
MANY_ROUNDED = 0.25
LOST_IN_TRANSFER = 0.5

_WITHOUT_A_SURROGATE = (Kind.TRANSFER, Kind.BLACK_BOX, Kind.NOISE)
_LIMITLESS = (Kind.ITERATIVE, Kind.GRADIENT, Kind.BLACK_BOX)


def attack_invalid(evidence: Evidence) -> Iterator[Seen | None]:
    """An attack that fails on a planted network that is known not to be robust.

    The self-test of every sweep: an undefended linear classifier and the same behind vanishing
    gradients, at a radius at which a point is known to exist (the advice to test attacks where the
    answer is known: Carlini et al. 2019; Carlini & Wagner 2016 for saturated logits). One failure
    concerns the attack under every defense: its numbers would be read as robustness.
    """
    attacks: dict[tuple[str, str], dict[str, Share]] = {}
    for cell in evidence.probes.cells:
        known = attacks.setdefault((cell.attack, cell.norm), {})
        for planted, share in cell.probe.self_test.items():
            known[planted] = min(share, known.get(planted, share), key=_rate)
    for (attack, norm), tested in attacks.items():
        failed = [
            f"{share.hits} of {share.of} images of {_PLANTED.get(planted, planted)}"
            for planted, share in tested.items()
            if share.of and _rate(share) < ENOUGH
        ]
        if not any(share.of for share in tested.values()):
            continue
        if not failed:
            yield None
            continue
        yield Seen(
            attack=attack,
            norm=norm,
            epsilon=EVERY_RADIUS,
            severity=Severity.INVALID,
            text=f"breaks only {' and '.join(failed)}",
        )


def not_converged(evidence: Evidence) -> Iterator[Seen | None]:
    """An attack that breaks further samples once its budget is doubled.

    A number is that of the defense only where more steps, restarts or averaged samples change
    nothing (Carlini et al. 2019: verify that attacks converge; Tramèr et al. 2020; Croce & Hein
    2020). The estimate multiplies the share of the probed survivors that broke, with its Wilson
    interval, by the share of samples that survived.
    """
    for cell in evidence.probes.cells:
        asked = {name: share for name, share in cell.probe.doubled.items() if share.of}
        if not asked:
            continue
        broke = {name: share for name, share in asked.items() if share.hits}
        if not broke:
            yield None
            continue
        said = [
            f"doubling {name} broke {share.hits} of {share.of} survivors"
            for name, share in broke.items()
        ]
        most = max(broke.values(), key=_rate)
        yield _of_cell(cell, "; ".join([*said, *_lower(evidence, cell, most)]))


def robust_unbounded(evidence: Evidence) -> Iterator[Seen | None]:
    """Samples that stand although the attack may change the image into any other.

    Then there is no robustness, only an attack that fails (Athalye et al. 2018, section 3.1:
    unbounded attacks must reach 100 %; Carlini et al. 2019). Noise, attacks on a single pixel and
    single steps are not asked: those may fail without the defense's doing. Nor are transfers and
    attacks on the classifier inside a defense.
    """
    for cell in evidence.probes.cells:
        share = cell.probe.unbounded
        if share.of and kind(cell.attack) in _LIMITLESS:
            text = f"{share.hits} of {share.of} images stand at whatever distance"
            yield _of_cell(cell, text, EVERY_RADIUS) if share.hits else None


def does_not_transfer(evidence: Evidence) -> Iterator[Seen | None]:
    """A surrogate whose adversarial points mostly leave the deployed defense standing.

    The attack solves another problem than the one that is measured (Athalye et al. 2018, section
    4.1, on approximated gradients; Tramèr et al. 2020). An attack on the classifier inside a
    defense is meant to be one on another problem, and is not asked; neither are those that ask the
    deployed defense alone, and so trust no surrogate.
    """
    for cell in evidence.probes.cells:
        share = cell.probe.untransferred
        if share.of >= FEWEST_POINTS and kind(cell.attack) not in _WITHOUT_A_SURROGATE:
            text = (
                f"{share.hits} of {share.of} points that break the surrogate do not break the "
                "deployed defense"
            )
            yield _of_cell(cell, text) if share.hits > LOST_IN_TRANSFER * share.of else None


def rounding(evidence: Evidence) -> Iterator[Seen | None]:
    """Adversarial points that no image file of 8 bits per channel can hold.

    Such breaks count in the threat model of real-valued pixels and not in that of image files
    (Carlini & Wagner 2017 round their images for this reason); here the number may be
    too low rather than too high.
    """
    for cell in evidence.probes.cells:
        share = cell.probe.rounded
        if share.of >= FEWEST_POINTS:
            text = f"{share.hits} of {share.of} breaking points are harmless in 8 bits per channel"
            yield _of_cell(cell, text) if share.hits >= MANY_ROUNDED * share.of else None


_PLANTED = {
    UNDEFENDED: "an undefended network",
    MASKED: "an undefended network with masked gradients",
}


def _of_cell(cell: ProbedCell, text: str, epsilon: float | None = None) -> Seen:
    return Seen(
        defense=cell.defense,
        attack=cell.attack,
        norm=cell.norm,
        epsilon=cell.probe.epsilon if epsilon is None else epsilon,
        text=text,
    )


def _lower(evidence: Evidence, cell: ProbedCell, share: Share) -> Iterator[str]:
    """How many points that is, where the records hold the cell's radius."""
    score = evidence.scores.score(cell.defense, cell.attack, cell.norm, cell.probe.epsilon)
    if score.measured:
        low, high = (score.accuracy * limit for limit in wilson(share.hits, share.of))
        drop = score.accuracy * _rate(share)
        yield f"about {drop:.1f} points lower [{low:.1f}, {high:.1f}]"


def _rate(share: Share) -> float:
    return share.hits / share.of if share.of else math.inf
