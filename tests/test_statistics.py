"""Statistics against values computed by hand, textbook examples and exact sums."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from benchmark import statistics


def _outcomes(*values: int, first: int = 0) -> pd.Series:
    return pd.Series([bool(v) for v in values], index=range(first, first + len(values)))


def test_wilson_matches_the_published_formula():
    z, n, p = 1.959963984540054, 100, 0.87
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert statistics.wilson(87, 100) == pytest.approx((centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize("n", [10, 37, 100])
@pytest.mark.parametrize("p", [0.03, 0.2, 0.5, 0.87, 0.99])
def test_wilson_covers_the_true_accuracy_about_as_often_as_it_says(n, p):
    covered = sum(
        float(binom.pmf(k, n, p))
        for k in range(n + 1)
        if statistics.wilson(k, n)[0] <= p <= statistics.wilson(k, n)[1]
    )
    assert covered > 0.89  # Wilson's exact coverage oscillates around 0.95


def test_wilson_covers_the_nominal_share_on_average():
    n, grid = 50, np.linspace(0.005, 0.995, 199)
    low, high = np.array([statistics.wilson(k, n) for k in range(n + 1)]).T
    covers = (low[:, None] <= grid) & (grid <= high[:, None])
    chance = binom.pmf(np.arange(n + 1)[:, None], n, grid)
    assert 0.945 < float((covers * chance).sum(axis=0).mean()) < 0.965


@given(st.integers(1, 300), st.data())
def test_wilson_contains_the_observed_share_and_stays_in_the_unit_interval(n, data):
    k = data.draw(st.integers(0, n))
    low, high = statistics.wilson(k, n)
    assert -1e-12 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1 + 1e-12


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="must be"):
        statistics.wilson(successes, n)


def test_a_bootstrapped_mean_has_the_normal_interval_of_many_values():
    values = np.random.default_rng(1).exponential(2.0, 2000)
    low, high = statistics.bootstrapped_mean(values)
    spread = 1.96 * values.std() / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - spread, rel=0.02)
    assert high == pytest.approx(values.mean() + spread, rel=0.02)
    assert statistics.bootstrapped_mean(values) == (low, high)


def test_a_bootstrapped_mean_never_leaves_the_values():
    assert statistics.bootstrapped_mean([0.5] * 7) == (0.5, 0.5)
    low, high = statistics.bootstrapped_mean([0.0, 0.0, 9.0])
    assert low == 0 and high <= 9
    with pytest.raises(ValueError, match="values must be at least one, got none"):
        statistics.bootstrapped_mean([])


def test_exact_mcnemar_is_the_binomial_tail_by_hand():
    # 10 discordant pairs, 2 against 8: 2 * (1 + 10 + 45) / 2^10.
    assert statistics.exact(2, 8) == pytest.approx(2 * 56 / 1024)
    assert statistics.exact(0, 8) == pytest.approx(2 / 256)
    assert statistics.exact(5, 5) == 1.0
    assert statistics.exact(0, 0) == 1.0


def test_mid_p_mcnemar_counts_the_observed_split_half():
    assert statistics.mid_p(2, 8) == pytest.approx((2 * 56 - 45) / 1024)
    assert statistics.mid_p(0, 8) == pytest.approx(1 / 256)
    assert statistics.mid_p(4, 4) == pytest.approx(1.0)
    assert statistics.mid_p(0, 0) == 1.0


def test_mid_p_agrees_with_the_airway_example_of_fagerland_2013():
    # Bentur et al. (2009): 1 and 7 discordant children; the article reports 0.0391 for mid-p and
    # 0.0703 for the exact test.
    assert statistics.mid_p(1, 7) == pytest.approx(0.0391, abs=5e-5)
    assert statistics.exact(1, 7) == pytest.approx(0.0703, abs=5e-5)


def test_chi_square_mcnemar_agrees_with_the_textbook_example():
    # The usual 2x2 example, a drug's effect before and after: 121 and 59 discordant pairs give
    # (62 - 1)^2 / 180 = 20.672 with one degree of freedom, so p = erfc(sqrt(statistic / 2)).
    statistic = (abs(121 - 59) - 1) ** 2 / 180
    assert statistic == pytest.approx(20.672, abs=1e-3)
    assert statistics.chi_square(121, 59) == pytest.approx(math.erfc(math.sqrt(statistic / 2)))
    assert statistics.chi_square(30, 30) == 1.0


def test_standard_mcnemar_changes_test_at_twenty_five_discordant_pairs():
    assert statistics.standard(6, 18) == statistics.exact(6, 18)
    assert statistics.standard(6, 19) == statistics.chi_square(6, 19)
    assert statistics.exact(6, 19) != statistics.chi_square(6, 19)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_symmetric_and_a_probability(first_only, second_only):
    for test in (statistics.exact, statistics.mid_p, statistics.chi_square, statistics.standard):
        p = test(first_only, second_only)
        assert 0 <= p <= 1 + 1e-12
        assert p == pytest.approx(test(second_only, first_only))


@given(st.integers(0, 40), st.integers(0, 40))
def test_mid_p_never_exceeds_the_exact_test(first_only, second_only):
    assert (
        statistics.mid_p(first_only, second_only)
        <= statistics.exact(first_only, second_only) + 1e-12
    )


def test_comparison_counts_the_samples_each_defense_alone_got_right():
    correct = {"a": _outcomes(1, 1, 1, 0, 0, 1), "b": _outcomes(1, 0, 0, 1, 0, 0)}
    (result,) = statistics.compare(correct)
    assert (result.first, result.second) == ("a", "b")
    assert (result.first_only, result.second_only) == (3, 1)
    assert result.p_value == pytest.approx(2 * 5 / 16)


def test_comparison_pairs_by_sample_and_not_by_position():
    a = _outcomes(1, 0, 1, 0)
    shuffled = a.iloc[[3, 1, 0, 2]]
    (result,) = statistics.compare({"a": a, "b": shuffled})
    assert (result.first_only, result.second_only) == (0, 0)


def test_comparison_covers_every_pair_in_order():
    correct = {name: _outcomes(1, 0) for name in "abcd"}
    pairs = [(r.first, r.second) for r in statistics.compare(correct)]
    assert pairs == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]


def test_comparison_accepts_another_test():
    correct = {"a": _outcomes(1, 1, 1), "b": _outcomes(0, 0, 0)}
    (result,) = statistics.compare(correct, statistics.mid_p)
    assert result.p_value == statistics.mid_p(3, 0)


def test_comparison_names_the_samples_that_are_not_shared():
    with pytest.raises(ValueError, match=r"only cnn: 0; only eabs: 3\); run both with the same"):
        statistics.compare({"cnn": _outcomes(1, 1, 1), "eabs": _outcomes(1, 1, 1, first=1)})


def test_comparison_refuses_a_sample_named_twice():
    twice = pd.Series([True, False], index=[4, 4])
    with pytest.raises(ValueError, match="samples of cnn must be unique, got 4 more than once"):
        statistics.compare({"cnn": twice})


def test_holm_matches_the_step_down_procedure_by_hand():
    # Ordered: 0.005*4 = 0.02, 0.01*3 = 0.03, max(0.03*2, 0.03) = 0.06, max(0.04*1, 0.06) = 0.06.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = statistics.holm(p_values)
    assert all(a >= p - 1e-12 for a, p in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= -1e-12)


def test_cochrans_q_matches_its_formula():
    values = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0], [1, 1, 1]])
    columns, rows, k = values.sum(axis=0), values.sum(axis=1), 3
    expected = (k - 1) * (k * (columns**2).sum() - columns.sum() ** 2)
    expected /= k * rows.sum() - (rows**2).sum()
    frame = {name: _outcomes(*values[:, i]) for i, name in enumerate("abc")}
    statistic, p_value = statistics.cochrans_q(frame)
    assert statistic == pytest.approx(expected)
    assert p_value == pytest.approx(math.exp(-expected / 2))  # chi-square with 2 degrees of freedom


def test_cochrans_q_of_identical_defenses_finds_no_difference():
    same = {name: _outcomes(1, 0, 1) for name in "abc"}
    assert statistics.cochrans_q(same) == (0.0, 1.0)


def test_cochrans_q_needs_two_defenses():
    assert statistics.cochrans_q({"a": _outcomes(1, 0)}) is None


@pytest.mark.parametrize(("n", "points"), [(100, 8.0), (1000, 0.8), (50, 16.0), (7, None)])
def test_smallest_difference_is_eight_one_sided_pairs_at_alpha_one_percent(n, points):
    assert statistics.smallest_difference(n) == points


@given(st.integers(1, 400), st.sampled_from([0.2, 0.05, 0.01, 0.001]))
def test_smallest_difference_is_significant_and_one_sample_less_is_not(n, alpha):
    points = statistics.smallest_difference(n, alpha)
    pairs = n + 1 if points is None else round(points * n / 100)
    if points is not None:
        assert statistics.exact(pairs, 0) <= alpha
    assert statistics.exact(pairs - 1, 0) > alpha


@pytest.mark.parametrize(("n", "alpha"), [(0, 0.01), (10, 0.0), (10, 1.0), (10, math.nan)])
def test_smallest_difference_refuses_senseless_input(n, alpha):
    with pytest.raises(ValueError, match="must be"):
        statistics.smallest_difference(n, alpha)
