"""The judge: measures every candidate itself and asks the deployed defense with its own seeds.

Rules, none of which ever favours the defense:

* a stochastic defense answers ``votes`` times; CORRECT needs more than half of the votes, and of
  the other answers REJECTED needs more votes than WRONG: every tie counts as broken;
* a candidate outside the ball or the box, or one that is not finite, is INVALID, nobody is asked;
* logits that are not numbers are an ERROR;
* a point that breaks the defense at one epsilon breaks it at every larger one, being the same
  point in a larger ball; so does a rejected one where the larger ball's candidate is CORRECT;
* a candidate equal to the image keeps the image's own verdict, equal candidates are judged once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from attacks.threat import Norm
from benchmark.records import Outcome
from defenses.base import Decision, Defense
from defenses.randomness import child

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-6
"""A distance may exceed epsilon by 1e-4 epsilon + 1e-6: the rounding of float32 sums."""

NOBODY = -1
"""The class of a candidate that nobody was asked about; the index of the image among candidates."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Outcomes = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the defense answers to n points.

    Args:
        outcome: (n,) of `Outcome`.
        classes: (n,) the class most often given among the votes for that outcome; -1 for none.
        rejected: (n,) the outcome is REJECTED.
        wrong_share: (n,) share of votes that were wrong and accepted; NaN for none.
        score: (n,) largest of `Decision.scores`, the median over votes; NaN where there are none.
    """

    outcome: Outcomes
    classes: Ints
    rejected: Bools
    wrong_share: Floats
    score: Floats

    def take(self, rows: Any) -> "Verdict":
        """Some of the points, copied."""
        return Verdict(
            self.outcome[rows].copy(),
            self.classes[rows].copy(),
            self.rejected[rows].copy(),
            self.wrong_share[rows].copy(),
            self.score[rows].copy(),
        )

    def copy(self) -> "Verdict":
        """All of the points, copied."""
        return self.take(slice(None))

    def put(self, rows: Any, other: "Verdict") -> None:
        """Write another verdict over some of the points."""
        self.outcome[rows] = other.outcome
        self.classes[rows] = other.classes
        self.rejected[rows] = other.rejected
        self.wrong_share[rows] = other.wrong_share
        self.score[rows] = other.score

    def found(self, outcome: Outcome) -> Bools:
        """(n,) this is the outcome."""
        return np.asarray(self.outcome == outcome, dtype=bool)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What stands after the judge, for E epsilons and N samples.

    Args:
        verdicts: one per epsilon.
        points: (E, N, C, H, W) the judged points: a break stands at all larger epsilons.
        distances: norm -> (E, N) between image and judged point.
    """

    verdicts: tuple[Verdict, ...]
    points: Tensor
    distances: dict[Norm, Floats]


def nobody(count: int, outcome: Outcome) -> Verdict:
    """The verdict on points that nobody could be asked about."""
    return Verdict(
        np.full(count, outcome, dtype=object),
        np.full(count, NOBODY, dtype=np.int64),
        np.zeros(count, dtype=bool),
        np.full(count, np.nan),
        np.full(count, np.nan),
    )


def ask(defense: Defense, x: Tensor, y: Tensor, rng: Generator, votes: int) -> Verdict:
    """The deployed defense's answer to points (n, C, H, W) with labels (n,).

    Args:
        rng: names the votes' seeds; consumed by nothing else.
        votes: for stochastic defenses; a deterministic one is asked once.

    Raises:
        ValueError: pixels outside [0, 1].
    """
    require_pixels(x)
    if not len(x):
        return nobody(0, Outcome.ERROR)
    count = votes if defense.stochastic else 1
    labels = y.cpu().numpy()
    rows = np.arange(len(labels))
    ballots: dict[Outcome, Ints] = {
        outcome: np.zeros((len(labels), defense.num_classes), dtype=np.int64)
        for outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.REJECTED)
    }
    failed = np.zeros(len(labels), dtype=bool)
    scores = np.full((count, len(labels)), np.nan)
    for vote in range(count):
        decision = defense.decide(x, child(rng, "vote", vote))
        failed |= decision.logits.isnan().any(dim=1).cpu().numpy()
        classes = decision.classes.cpu().numpy()
        rejected = decision.rejected.cpu().numpy()
        scores[vote] = largest_score(decision)
        right = classes == labels
        ballots[Outcome.CORRECT][rows, classes] += right & ~rejected
        ballots[Outcome.WRONG][rows, classes] += ~right & ~rejected
        ballots[Outcome.REJECTED][rows, classes] += rejected
    totals = {outcome: ballot.sum(axis=1) for outcome, ballot in ballots.items()}
    outcome = np.full(len(labels), Outcome.WRONG, dtype=object)
    outcome[totals[Outcome.REJECTED] > totals[Outcome.WRONG]] = Outcome.REJECTED
    outcome[2 * totals[Outcome.CORRECT] > count] = Outcome.CORRECT
    verdict = Verdict(
        outcome,
        np.array([ballots[which][row].argmax() for row, which in enumerate(outcome)]),
        outcome == Outcome.REJECTED,
        totals[Outcome.WRONG] / count,
        np.median(scores, axis=0),
    )
    verdict.put(failed, nobody(int(failed.sum()), Outcome.ERROR))
    return verdict


def largest_score(decision: Decision) -> Floats:
    """(n,) how far from being refused: above 1 is; NaN where the defense keeps no scores.

    A score that is not a number refuses, whatever the threshold: infinity.
    """
    if not decision.scores:
        return np.full(len(decision.logits), np.nan)
    worst = torch.stack(list(decision.scores.values())).double().amax(dim=0)
    found: Floats = worst.nan_to_num(nan=np.inf, posinf=np.inf).cpu().numpy()
    return found


def judge(
    defense: Defense,
    x: Tensor,
    y: Tensor,
    candidates: Tensor,
    *,
    norm: Norm,
    epsilons: tuple[float, ...],
    clean: Verdict,
    rng: Generator,
    votes: int,
) -> Judgement:
    """The outcome of every sample at every epsilon.

    Args:
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        candidates: (E, N, C, H, W), as the attack proposed them.
        norm: what the epsilons limit.
        epsilons: ascending.
        clean: the verdict on ``x``.
        rng: the judge's own.
        votes: see `ask`.

    Raises:
        ValueError: candidates of another shape.
    """
    if candidates.shape != (len(epsilons), *x.shape):
        raise ValueError(
            f"candidates must have shape {(len(epsilons), *x.shape)}, got "
            f"{tuple(candidates.shape)}; the attack must answer for every epsilon and image"
        )
    points = candidates.detach().clone()
    verdicts: list[Verdict] = []
    for i, epsilon in enumerate(epsilons):
        verdict = nobody(len(x), Outcome.INVALID)
        broken = verdicts[-1].found(Outcome.WRONG) if i else np.zeros(len(x), dtype=bool)
        unknown = ~broken & valid(x, points[i], norm, epsilon)
        for other, known in [(x, clean), *((points[j], verdicts[j]) for j in range(i))]:
            same = unknown & _equal(points[i], other) & ~known.found(Outcome.INVALID)
            verdict.put(same, known.take(same))
            unknown &= ~same
        rows = _where(unknown)
        verdict.put(unknown, ask(defense, points[i, rows], y[rows], rng, votes))
        if i:
            worse = broken | (verdicts[-1].found(Outcome.REJECTED) & verdict.found(Outcome.CORRECT))
            verdict.put(worse, verdicts[-1].take(worse))
            points[i, _where(worse)] = points[i - 1, _where(worse)]
        verdicts.append(verdict)
    distances = {
        which: np.stack([_measure(which, x, point) for point in points])
        for which in (Norm.L2, Norm.LINF)
    }
    return Judgement(tuple(verdicts), points, distances)


def valid(x: Tensor, point: Tensor, norm: Norm, epsilon: float) -> Bools:
    """(N,) finite, inside the box, and within epsilon up to rounding."""
    inside = ((point >= 0) & (point <= 1)).flatten(1).all(dim=1).cpu().numpy()
    limit = epsilon * (1 + RELATIVE_TOLERANCE) + ABSOLUTE_TOLERANCE
    return np.asarray(inside & (_measure(norm, x, point) <= limit), dtype=bool)


def require_pixels(x: Tensor) -> None:
    """Images lie in the box.

    Raises:
        ValueError: some pixel is outside [0, 1] or not a number.
    """
    if len(x) and not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(
            f"pixels must be in [0, 1], got {float(x.min()):g} to {float(x.max()):g}; "
            "scale the images"
        )


def _measure(norm: Norm, x: Tensor, point: Tensor) -> Floats:
    """Distances (N,), in double precision; NaN or infinite for points that are not finite."""
    return np.asarray(norm.distance(x.double(), point.double()).cpu().numpy(), dtype=np.float64)


def _equal(point: Tensor, other: Tensor) -> Bools:
    return np.asarray((point == other).flatten(1).all(dim=1).cpu().numpy(), dtype=bool)


def _where(rows: Bools) -> Tensor:
    return torch.from_numpy(np.flatnonzero(rows))
