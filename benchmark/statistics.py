"""How sure a number is: intervals for one accuracy, paired tests between several.

The protocol is that of E-ABS (Ju & Wagner 2020, section 4.5): McNemar's test for every pair of
defenses on the same samples, alpha = 0.01. Holm's correction, Wilson intervals, Cochran's Q and the
smallest detectable difference are ours. statsmodels computes; the pairing by sample is done here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import cochrans_q as _cochrans_q
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

ALPHA = 0.01
CONFIDENCE = 0.95
POWER = 0.8
FEWEST_FOR_CHI_SQUARE = 25
_SAMPLES_NAMED_IN_ERRORS = 5

PairedTest = Callable[[int, int], float]
"""(samples only the first got right, samples only the second got right) -> two-sided p-value."""


def wilson(successes: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927) for ``successes`` among ``n``.

    A sample that was tried several times may count in part, as the share of its successes: a mean
    of such shares varies no more than one of single tries, so the interval is on the safe side.

    Returns: lower and upper limit, shares in [0, 1].

    Raises:
        ValueError: no samples, or a count outside 0 to n.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}; an accuracy needs samples")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be between 0 and {n}, got {successes}; count again")
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


def bootstrapped_mean(
    values: Sequence[float], confidence: float = CONFIDENCE, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap (Efron 1979) of a mean, always with the same resamples.

    Means of divergences are skewed and never negative, which a symmetric interval would be.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("values must be at least one, got none; a mean needs samples")
    rng, array = np.random.default_rng(0), np.asarray(values, dtype=np.float64)
    means = [rng.choice(array, len(array)).mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def exact(first_only: int, second_only: int) -> float:
    """McNemar, exact: the discordant pairs against a fair coin, two-sided."""
    return float(_mcnemar([[0, first_only], [second_only, 0]], exact=True).pvalue)


def mid_p(first_only: int, second_only: int) -> float:
    """McNemar, mid-p (Fagerland, Lydersen & Laake 2013): the observed split counts half.

    Less conservative than `exact`; offered, never chosen by `standard`.
    """
    discordant, fewer = first_only + second_only, min(first_only, second_only)
    return float(2 * binom.cdf(fewer, discordant, 0.5) - binom.pmf(fewer, discordant, 0.5))


def chi_square(first_only: int, second_only: int) -> float:
    """McNemar, asymptotic, with Edwards' continuity correction: (|b - c| - 1)^2 / (b + c).

    The corrected form stays on the conservative side of the exact test, so that no difference
    becomes significant by crossing from 24 to 25 discordant pairs. No discordant pairs: 1.
    """
    if first_only == second_only:
        return 1.0
    table = [[0, first_only], [second_only, 0]]
    return float(_mcnemar(table, exact=False, correction=True).pvalue)


def standard(first_only: int, second_only: int) -> float:
    """`exact` below 25 discordant pairs, `chi_square` from there on."""
    few = first_only + second_only < FEWEST_FOR_CHI_SQUARE
    return exact(first_only, second_only) if few else chi_square(first_only, second_only)


@dataclass(frozen=True)
class Comparison:
    """McNemar's test of two defenses.

    Args:
        first_only: samples that only the first got right.
        second_only: samples that only the second got right.
        p_value: two-sided, not corrected.
    """

    first: str
    second: str
    first_only: int
    second_only: int
    p_value: float


def compare(
    correct: Mapping[str, "pd.Series[bool]"], test: PairedTest = standard
) -> list[Comparison]:
    """McNemar's test for every pair, in the mapping's order.

    Args:
        correct: per defense, whether each sample was answered correctly, indexed by sample.

    Raises:
        ValueError: two defenses were not measured on the same samples.
    """
    table = paired(correct)
    results = []
    for first, second in combinations(table.columns, 2):
        first_only = int((table[first] & ~table[second]).sum())
        second_only = int((table[second] & ~table[first]).sum())
        p_value = test(first_only, second_only)
        results.append(Comparison(first, second, first_only, second_only, p_value))
    return results


def paired(correct: Mapping[str, "pd.Series[bool]"]) -> pd.DataFrame:
    """One row per sample, one boolean column per defense; pairs by sample index only.

    Raises:
        ValueError: as `require_same_samples`.
    """
    require_same_samples({name: series.index for name, series in correct.items()})
    return pd.DataFrame({name: series.astype(bool) for name, series in correct.items()})


def require_same_samples(samples: Mapping[str, "pd.Index[int]"]) -> None:
    """Refuse to pair what was not measured on the same samples.

    Raises:
        ValueError: two sets differ, or one names a sample twice.
    """
    for name, index in samples.items():
        repeated = index[index.duplicated()]
        if len(repeated):
            raise ValueError(
                f"samples of {name} must be unique, got {_some(repeated)} more than once; "
                "give one outcome per sample"
            )
    for (first, index), (second, other) in pairwise(samples.items()):
        missing, extra = index.difference(other), other.difference(index)
        if len(missing) or len(extra):
            raise ValueError(
                f"sample sets must be the same in a paired test, got {len(index)} samples of "
                f"{first} and {len(other)} of {second} (only {first}: {_some(missing)}; "
                f"only {second}: {_some(extra)}); run both with the same --samples and --seed"
            )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the given order."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def cochrans_q(correct: Mapping[str, "pd.Series[bool]"]) -> tuple[float, float] | None:
    """Cochran's Q (Cochran 1950): do all defenses have the same accuracy?

    Returns: the statistic and its p-value, or None for fewer than two defenses. Where no sample
    tells the defenses apart the statistic is 0 and the p-value 1.
    """
    table = paired(correct)
    if table.shape[1] < 2:
        return None
    rights = table.sum(axis=1)
    if bool(rights.isin([0, table.shape[1]]).all()):
        return 0.0, 1.0
    result = _cochrans_q(table.to_numpy(dtype=np.int64))
    return float(result.statistic), float(result.pvalue)


def fewest_discordant(alpha: float = ALPHA) -> int:
    """The fewest discordant pairs, all in one direction, with which the exact test reaches alpha.

    k such pairs have p = 2^(1 - k).

    Raises:
        ValueError: alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}; 0.01 is usual")
    return math.ceil(1 - math.log2(alpha))


def smallest_difference(n: int, alpha: float = ALPHA) -> float | None:
    """The smallest difference between two accuracies that ``n`` samples can show, in points.

    Any smaller difference stays above alpha, however the discordant pairs divide and before any
    correction for several comparisons.

    Returns: percentage points, or None where not even a difference of 100 points would show.

    Raises:
        ValueError: no samples, or as `fewest_discordant`.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}; a comparison needs samples")
    needed = fewest_discordant(alpha)
    return None if needed > n else 100 * needed / n


def samples_needed(
    first_only: float,
    second_only: float,
    *,
    alpha: float = ALPHA,
    power: float = POWER,
    correction: float = 1.0,
) -> int | None:
    """How many samples McNemar's test needs to show a difference of this size.

    With psi the share of discordant samples and delta the difference of the accuracies (Connor
    1987, page 209):

        delta sqrt(n) = z(1 - alpha / 2) sqrt(psi) + z(power) sqrt(psi - delta^2)

    Connor's test compares |b - c| with its deviation, `chi_square` compares |b - c| - 1: the
    ``correction``, which adds correction / sqrt(n) to the right side (our addition). The
    normal approximation is on the safe side where nearly all discordant samples are on one side:
    up to half more than the exact test needs.

    Args:
        first_only, second_only: shares of the samples that one defense alone gets right.
        alpha: two-sided level of the test.
        power: chance that the test reaches it.
        correction: what the test takes off the number of discordant samples; 0 is Connor's.

    Returns: samples, rounded up; None where the shares are equal, which no number can show.

    Raises:
        ValueError: shares that are negative or sum to more than 1, alpha or power outside (0, 1).
    """
    if not (first_only >= 0 and second_only >= 0 and first_only + second_only <= 1):
        raise ValueError(
            f"first_only and second_only must be shares that sum to at most 1, got {first_only} "
            f"and {second_only}; divide the counts by the number of samples"
        )
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(
            f"alpha and power must be between 0 and 1, got {alpha} and {power}; 0.01 and 0.8 are "
            "usual"
        )
    psi, delta = first_only + second_only, abs(first_only - second_only)
    if delta == 0:
        return None
    both = norm.isf(alpha / 2) * math.sqrt(psi) + norm.ppf(power) * math.sqrt(psi - delta**2)
    root = (both + math.sqrt(both**2 + 4 * delta * correction)) / (2 * delta)
    return math.ceil(float(root) ** 2)


def _some(samples: "pd.Index[int]") -> str:
    """A few sample indices in words."""
    shown = [str(sample) for sample in samples[:_SAMPLES_NAMED_IN_ERRORS]]
    hidden = len(samples) - len(shown)
    return (", ".join(shown) or "none") + (f" and {hidden} more" if hidden else "")
