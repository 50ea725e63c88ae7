"""What a table's samples cannot tell apart, in words and as data."""

import math
from itertools import combinations

import pytest

from benchmark import accuracy, scores, significance, statistics
from benchmark.accuracy import Layout
from benchmark.significance import Group, Unresolved
from tests.synthetic_records import write_cell


def _found(tmp_path, outcomes):
    """The verdicts of defenses with these outcomes under one attack."""
    cells = []
    for defense, letters in outcomes.items():
        cells.append(write_cell(tmp_path, defense, "clean", "c" * len(letters)))
        cells.append(write_cell(tmp_path, defense, "pgd-l2", {1.5: letters}))
    read = scores.read(cells)
    layout = Layout(accuracy.choose_radii(read))
    return read, layout, significance.verdicts(read, layout)


def _first(correct, n=100):
    return "c" * correct + "w" * (n - correct)


def test_defenses_are_grouped_by_what_cannot_be_separated(tmp_path):
    shares = {"abs": 80, "eabs": 82, "cnn": 79, "bad": 10}
    *_, found = _found(tmp_path, {name: _first(count) for name, count in shares.items()})
    (here,) = significance.indistinguishable(found)
    assert [group.defenses for group in here.groups] == [("abs", "eabs", "cnn")]
    assert here.defenses == ("abs", "eabs", "cnn", "bad")
    assert here.n == 100


def test_a_defense_between_two_others_is_in_both_groups(tmp_path):
    shares = {"low": 60, "middle": 68, "high": 76}
    *_, found = _found(tmp_path, {name: _first(count) for name, count in shares.items()})
    (here,) = significance.indistinguishable(found)
    assert [group.defenses for group in here.groups] == [("low", "middle"), ("middle", "high")]


def test_groups_are_exactly_the_pairs_that_are_not_significant(tmp_path):
    shares = {"a": 50, "b": 58, "c": 66, "d": 67, "e": 90, "f": 90}
    *_, found = _found(tmp_path, {name: _first(count) for name, count in shares.items()})
    (here,) = significance.indistinguishable(found)
    grouped = {pair for group in here.groups for pair in combinations(group.defenses, 2)}
    separate = {
        (comparison.first, comparison.second)
        for comparison, adjusted in zip(found[0].comparisons, found[0].adjusted, strict=True)
        if adjusted > statistics.ALPHA
    }
    assert grouped == separate
    assert 2 < len(separate) < 15


def test_the_samples_of_a_group_are_those_of_its_largest_and_smallest_difference(tmp_path):
    shares = {"a": 80, "b": 82, "c": 85}
    *_, found = _found(tmp_path, {name: _first(count) for name, count in shares.items()})
    (group,) = significance.indistinguishable(found)[0].groups
    alpha = statistics.ALPHA / 3
    assert group.fewest == statistics.samples_needed(0.05, 0, alpha=alpha)
    assert group.most == statistics.samples_needed(0.02, 0, alpha=alpha)
    assert not group.equal


@pytest.mark.parametrize("alpha", [0.01, 0.01 / 36])
def test_a_difference_that_was_not_significant_needs_more_samples_than_there_were(alpha):
    for first_only in range(1, 40):
        for second_only in range(first_only):
            if statistics.standard(first_only, second_only) > alpha:
                for n in {first_only + second_only, 100}:
                    shares = first_only / n, second_only / n
                    needed = statistics.samples_needed(*shares, alpha=alpha)
                    assert needed is not None
                    assert needed > n


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (
            (Group(("abs", "eabs"), 845, 845, equal=False),),
            "Cannot tell these apart at n = 100, All L2, epsilon = 1.5: abs and eabs "
            "(about 850 samples).",
        ),
        (
            (
                Group(("abs", "eabs", "cnn"), 312, 11_801, equal=False),
                Group(("cnn", "magnet"), None, None, equal=True),
            ),
            "Cannot tell these apart at n = 100, All L2, epsilon = 1.5: abs, eabs and cnn "
            "(about 320 to 12,000 samples); cnn and magnet (no difference seen).",
        ),
        (
            (Group(("abs", "eabs", "cnn"), 312, 312, equal=True),),
            "Cannot tell these apart at n = 100, All L2, epsilon = 1.5: abs, eabs and cnn "
            "(about 320 samples or more).",
        ),
        ((), "Every two of these differ at n = 100, All L2, epsilon = 1.5: abs, eabs and cnn."),
    ],
)
def test_what_cannot_be_told_apart_reads_as_a_sentence(groups, sentence):
    place = "All L2, epsilon = 1.5"
    defenses = ("abs", "eabs", "cnn")
    here = Unresolved("correct answers", "l2", 1.5, place, 100, defenses, groups)
    assert significance.in_words(here) == sentence


def test_two_defenses_that_differ_are_said_to_differ(tmp_path):
    read, layout, found = _found(tmp_path, {"a": _first(90), "b": _first(40)})
    text = significance.explanation(read, layout, found)
    assert text.endswith("\n- These differ at n = 100, All L2, epsilon = 1.5: a and b.")


def test_accepted_errors_have_a_sentence_of_their_own(tmp_path):
    outcomes = {"a": "c" * 50 + "r" * 50, "b": "c" * 50 + "w" * 50}
    read, layout, found = _found(tmp_path, outcomes)
    text = significance.explanation(read, layout, found)
    assert (
        "- Cannot tell these apart at n = 100, All L2, epsilon = 1.5: a and b (no difference seen)."
        in text
    )
    assert "- These differ at n = 100, All L2, epsilon = 1.5, accepted errors: a and b." in text


@pytest.mark.parametrize("n", [7, 100])
def test_the_smallest_difference_is_data_too(n):
    found = significance.limit(n)
    assert found.smallest == statistics.smallest_difference(n)
    assert (found.n, found.discordant, found.alpha) == (n, 8, 0.01)


def test_the_published_examples_of_connors_formula():
    # powerandsamplesize.com and clinicaltrials-tools' calculators of Connor 1987: 23 and 155 pairs.
    plain = {"alpha": 0.05, "power": 0.8, "correction": 0.0}
    assert statistics.samples_needed(0.45, 0.05, **plain) == 23
    assert statistics.samples_needed(0.30, 0.15, **plain) == 155


def _power(n, first_only, second_only, alpha):
    """Of the tables' test, exactly: over all splits of all numbers of discordant samples."""
    psi, chance, power = first_only + second_only, first_only / (first_only + second_only), 0.0
    for discordant in range(n + 1):
        weight = _binomial(n, discordant, psi)
        if weight < 1e-9:
            continue
        reached = 0.0
        for b in range(discordant // 2, -1, -1):  # outwards from the middle, both sides at once
            if statistics.standard(b, discordant - b) <= alpha:
                tails = range(b + 1), range(discordant - b, discordant + 1)
                reached = sum(_binomial(discordant, k, chance) for tail in tails for k in tail)
                break
        power += weight * reached
    return power


def _binomial(n, k, p):
    if p in (0.0, 1.0):
        return float(k == n * p)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))


@pytest.mark.parametrize(
    ("first_only", "second_only", "alpha"),
    [(0.3, 0.1, 0.01), (0.12, 0.04, 0.05), (0.25, 0.1, 0.01 / 6)],
)
def test_so_many_samples_give_the_tables_test_its_power(first_only, second_only, alpha):
    n = statistics.samples_needed(first_only, second_only, alpha=alpha)
    assert _power(n, first_only, second_only, alpha) == pytest.approx(0.8, abs=0.05)
    assert _power(n // 2, first_only, second_only, alpha) < 0.6


def test_a_difference_that_is_all_on_one_side_needs_fewer_samples_than_estimated():
    n = statistics.samples_needed(0.1, 0.0)
    assert 0.9 < _power(n, 0.1, 0.0, 0.01) < 1
    assert _power(2 * n // 3, 0.1, 0.0, 0.01) < 0.8


@pytest.mark.parametrize(
    "arguments",
    [
        {"first_only": -0.1, "second_only": 0.2},
        {"first_only": 0.7, "second_only": 0.4},
        {"first_only": 0.2, "second_only": 0.1, "alpha": 0.0},
        {"first_only": 0.2, "second_only": 0.1, "power": 1.0},
    ],
)
def test_senseless_shares_and_levels_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        statistics.samples_needed(**arguments)


def test_no_number_of_samples_shows_a_difference_of_nothing():
    assert statistics.samples_needed(0.2, 0.2) is None
    assert statistics.samples_needed(0.0, 0.0) is None
