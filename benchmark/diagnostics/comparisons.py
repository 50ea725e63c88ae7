"""Rules that compare attacks, or defenses, with each other: records are all they need."""

import math
from collections.abc import Iterator

import pandas as pd

from benchmark import published
from benchmark.accuracy import NORM_NAMES, radius_text
from benchmark.diagnostics.evidence import BLIND, WHITE_BOX, Ball, Evidence, Kind, kind, only
from benchmark.diagnostics.finding import Seen, Severity
from benchmark.records import Outcome
from benchmark.scores import split_key

TOLERATED = 2
"""Samples by which the weaker attack may win by luck."""


def iterative_weaker(evidence: Evidence) -> Iterator[Seen | None]:
    """An iterative attack that breaks less than a single step of the same ball and surrogate.

    The single step is one of the points an iterative attack may reach, so that losing to it means
    that the iterations get lost: masked gradients, or a step size that does not fit (Athalye et al.
    2018, section 3.1; the sanity tests of Carlini et al. 2019). Each is compared with the strongest
    single step, sample by sample.
    """
    for ball in evidence.balls:
        for attack in evidence.attacks(ball, Kind.ITERATIVE):
            rivals = [
                (*only(evidence.broken(ball, single), evidence.broken(ball, attack)), single)
                for single in evidence.attacks(ball, Kind.SINGLE_STEP)
                if split_key(single)[1] == split_key(attack)[1]
            ]
            if not rivals:
                continue
            lost, won, single = max(rivals, key=lambda rival: rival[0] - rival[1])
            if lost <= TOLERATED or lost <= won:
                yield None
                continue
            yield Seen(
                **ball._asdict(),
                attack=attack,
                text=f"{single} alone breaks {lost} samples, {attack} alone {won}",
            )


def white_box_weaker(evidence: Evidence) -> Iterator[Seen | None]:
    """Black-box attacks that break samples which all gradient attacks together leave standing.

    Who sees the gradient can do whatever those can who don't. If the gradient attacks do less,
    their gradients mislead, and the worst case is that of an attack not yet found. Attacks on
    another network, or on the classifier inside the defense, count as black-box (Athalye et al.
    2018, section 3.1; AutoAttack's flag for Square). In an ensemble the black-box attacks see only
    what the others left, so whatever they break there counts.
    """
    for ball in evidence.balls:
        yield from _within_ensembles(evidence, ball)
        white = evidence.broken_by_any(ball, *WHITE_BOX)
        black = evidence.broken_by_any(ball, *BLIND)
        if white is None or black is None:
            continue
        missed, _ = only(black, white)
        if missed <= TOLERATED:
            yield None
            continue
        names = ", ".join(
            attack
            for attack in evidence.attacks(ball, *BLIND)
            if only(evidence.broken(ball, attack), white)[0]
        )
        yield Seen(
            **ball._asdict(),
            attack=published.ALL,
            text=f"{names} break{'' if ',' in names else 's'} {missed} samples that the gradient "
            "attacks leave standing",
        )


def _within_ensembles(evidence: Evidence, ball: Ball) -> Iterator[Seen | None]:
    for attack in evidence.attacks(ball, Kind.GRADIENT):
        members = evidence.members(ball, attack)
        blind = members[[kind(member) in BLIND for member in members]]
        if len(blind) > TOLERATED:
            names = ", ".join(dict.fromkeys(blind))
            yield Seen(
                **ball._asdict(),
                attack=attack,
                text=f"within the ensemble {names} broke {len(blind)} samples that its gradient "
                "attacks had left standing",
            )
        elif len(members):
            yield None


def noise_as_strong(evidence: Evidence) -> Iterator[Seen | None]:
    """Random noise that breaks as many samples as the best gradient attack.

    In many dimensions a random direction is nearly always a bad one, so an attack that does no
    better found nothing (random sampling in Athalye et al. 2018, section 3.1; Carlini et al. 2019).
    Where the attack breaks all but two of the samples the radius is large enough for anything, and
    where noise breaks no more than two there is nothing to compare.
    """
    for ball in evidence.balls:
        right = evidence.clean_right(ball.defense)
        noises = evidence.attacks(ball, Kind.NOISE)
        rivals = evidence.attacks(ball, *WHITE_BOX)
        if right is None or not noises or not rivals:
            continue
        noise = max(_breaks(evidence, ball, name, right)[0] for name in noises)
        counted = {name: _breaks(evidence, ball, name, right) for name in rivals}
        best = max(counted, key=lambda name: counted[name][0])
        breaks, standing = counted[best]
        if noise <= TOLERATED or noise < breaks or standing <= TOLERATED:
            yield None
            continue
        yield Seen(
            **ball._asdict(),
            attack=published.ALL,
            text=f"noise breaks {noise} samples, {best} breaks {breaks} and leaves {standing}",
        )


def implied_classifier(evidence: Evidence) -> Iterator[Seen | None]:
    """What a rejecting defense's robustness would mean for classifiers at half the radius.

    A detector that is right, or refuses, within epsilon, and answers the clean image correctly,
    can be turned into a classifier that is right within epsilon / 2: answer with the class of any
    accepted point that near (Tramèr, "Detecting adversarial examples is (nearly) as hard as
    classifying them", ICML 2022, arXiv 2107.11630). It takes far too long to compute, but a claim
    that exceeds what plain classifiers are known to reach there deserves doubt before belief. They
    are those of the same records; one that was not attacked at epsilon / 2 is credited with its
    accuracy at the next smaller radius, or without an attack, which is no less.
    """
    scores = evidence.scores
    plain = [defense for defense in scores.defenses if defense not in scores.rejecting]
    for ball in evidence.balls:
        right = evidence.clean_right(ball.defense)
        if ball.defense not in scores.rejecting or right is None or not math.isfinite(ball.epsilon):
            continue
        unbroken = scores.under_all(ball.norm, ball.epsilon, (Outcome.CORRECT, Outcome.REJECTED))
        if ball.defense not in unbroken:
            continue
        implied = int((unbroken[ball.defense] & right).sum())
        claim = (
            f"correct or rejected on {_percent(implied, scores.n)} % of the samples, which implies "
            f"a classifier of that robust accuracy at {NORM_NAMES[ball.norm]}, epsilon = "
            f"{radius_text(ball.epsilon / 2)}"
        )
        known = [_at_most(evidence, defense, ball) for defense in plain]
        best = max((count for count in known if count is not None), default=None)
        if best is None:
            beside, severity = "no plain defense is here to compare", Severity.NOTE
        else:
            beside = f"the best plain defense here has at most {_percent(best, scores.n)} %"
            doubtful = implied > best + TOLERATED
            severity = Severity.SUSPECT if doubtful else Severity.NOTE
        yield Seen(
            **ball._asdict(), attack=published.ALL, severity=severity, text=f"{claim}; {beside}"
        )


def _breaks(
    evidence: Evidence, ball: Ball, attack: str, right: "pd.Series[bool]"
) -> tuple[int, int]:
    """Of the samples that are right when clean: how many the attack breaks, and how many not."""
    broken = evidence.broken(ball, attack)
    tried = broken[right.reindex(broken.index, fill_value=False)]
    return int(tried.sum()), int((~tried).sum())


def _at_most(evidence: Evidence, defense: str, ball: Ball) -> int | None:
    """An upper limit of the samples that a plain defense gets right at half the ball's radius."""
    scores = evidence.scores
    half = ball.epsilon / 2
    nearer = [
        scores.worst(defense, ball.norm, radius)
        for radius in scores.radii(ball.norm)
        if radius <= half or math.isclose(radius, half, rel_tol=1e-6)
    ]
    found = [score.correct for score in (scores.clean(defense), *nearer) if score.measured]
    return min(found, default=None)


def _percent(count: int, n: int) -> str:
    return f"{100 * count / n:.1f}"
