"""Probes of defenses and cells whose weakness is known, and the sweep that makes them."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from attacks.base import Attack
from attacks.eot import View
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.from_foolbox import PGD
from attacks.goals import Goal
from attacks.threat import Norm
from benchmark import catalog, probes, probing, records, runner
from benchmark.behaviour import Questions, probe_defense
from benchmark.datasets import Split
from benchmark.judge import Verdict
from benchmark.landscape import Sight, survey
from benchmark.presets import PRESETS
from benchmark.probed_cells import CellDoubt, doubled, probe_cell
from benchmark.probes import Share
from benchmark.progress import Progress
from benchmark.records import Outcome
from benchmark.runner import Plan
from defenses.base import Defense, Surrogate, accepts_all
from defenses.randomness import generator
from tests import fakes
from tests.fakes import TASK, TINY, Brightness, Make, Noisy, Walk, shelf
from tests.linear import Scripted
from tests.planted import BROKEN, Wrapping
from tests.test_cells import CELL

PROBED = replace(TINY, probed=2, asked=6)
PLAN = Plan(dataset="images", defenses=("brightness",), attacks=("walk",), preset=PROBED)
IMAGES = fakes.Images().load().test
ALL, NONE = Share(8, 8), Share(0, 8)


class Mean(nn.Module):
    """Logits that differ by 20 times the mean pixel's excess over 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        ahead = 10 * (x.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([-ahead, ahead], dim=1)


class Social(Brightness):
    """Compares every image with the mean of its batch."""

    def _decide(self, x, rng):
        return accepts_all(self.logits(x - x.mean() + 0.5))


class Queueing(Brightness):
    """Gives the first half of a batch one class, the others the other."""

    def _decide(self, x, rng):
        late = torch.arange(len(x)) >= len(x) / 2
        return accepts_all(torch.stack([late, ~late], dim=1).float())


class Faulty(Brightness):
    """Shows the attacker nothing."""

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        raise RuntimeError("no view")


@dataclass(frozen=True, kw_only=True)
class Steps(FixedEpsilonAttack):
    """Walks through Brightness's boundary in steps too small for its budget."""

    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    norm: Norm = Norm.LINF
    steps: int = 1
    length: float = 0.1

    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        sign = torch.where(y == 1, -1.0, 1.0).reshape(-1, 1, 1, 1)
        return (x + sign * self.steps * self.length).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Refuse(Walk):
    """A walk that is after refusals."""

    goal: ClassVar[Goal] = Goal.REFUSAL


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def questions(defense: Defense, count: int = 8) -> Questions:
    cell = replace(CELL, defense=type(defense).__name__, defense_repr=repr(id(defense)))
    return Questions(cell, lambda device: defense.eval(), IMAGES.take(np.arange(count)), TASK)


def asked(defense: Defense) -> probes.DefenseProbe:
    probe, error = probe_defense(questions(defense), "cpu")
    assert probe is not None, error
    return probe


def doubt(defense: Defense, attack: Attack, points, labels, **changes) -> CellDoubt:
    """A cell whose judged points are given; all images are black and were right before."""
    count = len(points)
    split = Split(np.zeros((count, *TASK.shape), dtype=np.uint8), np.array(labels))
    cell = replace(
        CELL,
        defense_repr=repr(id(defense)),
        samples=tuple(range(count)),
        norm=str(attack.norm),
        epsilons=(0.6,),
        votes=5,
    )
    right = Verdict(
        np.full(count, Outcome.CORRECT, dtype=object),
        split.labels,
        np.zeros(count, dtype=bool),
        np.zeros(count),
        np.full(count, np.nan),
    )
    outcomes: Sequence[Outcome] = changes.pop("outcomes", [Outcome.CORRECT] * count)
    return CellDoubt(
        **{
            "cell": cell,
            "load": lambda device: defense.eval(),
            "attack": attack,
            "epsilon": 0.6,
            "images": split,
            "outcomes": np.array(outcomes, dtype=object),
            "clean": right,
            "points": np.array(points, dtype=np.float32).reshape(count, 1, 2, 2),
            "probed": 4,
            "asked": 10,
            "block": 2,
            **changes,
        }
    )


def doubted(task: CellDoubt) -> probes.CellProbe:
    probe, error = probe_cell(task, "cpu")
    assert probe is not None, error
    return probe


def test_a_linear_defense_shows_nothing_to_worry_about():
    probe = asked(Wrapping(Mean(), 2))
    assert {probe.repeats, probe.batches, probe.orders, probe.refused} == {NONE}
    assert probe.devices == Share(0, 0)
    for found in (probe.zero_gradients, probe.odd_gradients, probe.flat, probe.jagged):
        assert found == {"exact": NONE}


@pytest.mark.parametrize("name", ["masked", "vanishing_temperature", "rounding"])
def test_gradients_that_are_hidden_are_zero_and_the_landscape_is_flat(name):
    probe = asked(BROKEN[name](Mean(), 2))
    assert probe.zero_gradients == probe.flat == {"exact": ALL}
    assert probe.jagged == {"exact": Share(0, 0)}


def test_noise_in_a_defense_declared_deterministic_changes_answers():
    probe = asked(BROKEN["noise_without_eot"](Mean(), 2))
    assert not probe.stochastic
    assert probe.repeats.hits >= 1
    assert probe.batches == probe.orders == NONE


def test_a_rejector_that_refuses_everything_is_seen_to_do_so():
    probe = asked(BROKEN["refuses_everything"](Mean(), 2))
    assert probe.refused == ALL


def test_an_answer_that_depends_on_the_batch_or_its_order_is_seen_to_do_so():
    social, queueing = asked(Social()), asked(Queueing())
    assert social.batches.hits >= 3
    assert social.orders == NONE
    assert queueing.orders == ALL


def test_a_gradient_that_is_not_finite_is_odd():
    def rooted(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 0, 0], (x - x).sum(dim=(1, 2, 3)).sqrt()], dim=1)

    x, y = IMAGES.batch(np.arange(8)).x, torch.zeros(8, dtype=torch.long)
    found = survey(Sight(Scripted(rooted), "scripted", TASK), x, y, generator(0))
    assert (found.odd, found.zero) == (ALL, NONE)


def test_a_ripple_that_promises_more_than_it_keeps_is_jagged():
    def rippled(x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([mean * 0, mean - 0.5 + 0.001 * torch.sin(1e5 * mean)], dim=1)

    x, y = IMAGES.batch(np.arange(40)).x, torch.zeros(40, dtype=torch.long)
    found = survey(Sight(Scripted(rippled), "scripted", TASK), x, y, generator(0))
    assert found.jagged.of == 40
    assert found.jagged.hits >= 35
    assert found.zero == Share(0, 40)


def test_a_stochastic_defense_is_not_called_jagged_for_its_noise():
    assert asked(Noisy(0.5)).jagged == {"exact": Share(0, 0)}


def test_a_break_below_half_a_grey_level_is_undone_by_rounding():
    first = Scripted(lambda x: torch.stack([0.4 - 255 * x[:, 0, 0, 0], x[:, 0, 0, 0] * 0], dim=1))
    points = [np.full(4, grey / 255) for grey in (0.45, 0.9, 0.2)]
    outcomes = [Outcome.WRONG, Outcome.WRONG, Outcome.CORRECT]
    probe = doubted(doubt(first, Walk(), points, [0, 0, 0], outcomes=outcomes))
    assert probe.rounded == Share(1, 2)


def test_points_that_fool_the_view_alone_do_not_transfer():
    def dark(x: Tensor) -> Tensor:
        return torch.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] * 0], dim=1)

    defense = Scripted(lambda x: dark(x - 0.3), dark)
    points = [np.full(4, grey) for grey in (0.6, 0.7, 0.9, 0.1)]
    outcomes = [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG, Outcome.CORRECT]
    probe = doubted(doubt(defense, Walk(), points, [0, 0, 0, 0], outcomes=outcomes))
    assert probe.untransferred == Share(2, 3)


def test_survivors_stand_at_no_distance_where_the_attack_works():
    still = [np.zeros(4)] * 3
    walked = doubted(doubt(Brightness(), Walk(norm=Norm.LINF), still, [0, 0, 0]))
    steps = doubted(doubt(Brightness(), Steps(), still, [0, 0, 0]))
    assert walked.unbounded == Share(0, 3)
    assert steps.unbounded == Share(3, 3)


def test_a_doubled_budget_breaks_more_where_the_first_was_too_small():
    still = [np.zeros(4)] * 6
    enough = doubted(doubt(Brightness(), Steps(length=0.28), still, [0] * 6))
    small = doubted(doubt(Brightness(), Steps(length=0.2), still, [0] * 6))
    assert enough.doubled == {"steps": Share(4, 4), "restarts": Share(0, 4)}
    assert small.doubled == {"steps": Share(0, 4), "restarts": Share(0, 4)}


def test_samples_of_a_view_are_a_budget_where_the_defense_draws_lots():
    attack = PGD(norm=Norm.LINF, steps=3, relative_step=0.1, restarts=2, view=View(samples=5))
    assert set(doubled(attack, stochastic=False)) == {"steps", "restarts"}
    noisy = doubled(attack, stochastic=True)
    assert noisy["eot"].view.samples == 10
    assert noisy["steps"] == replace(attack, steps=6)
    assert doubled(Walk(), stochastic=True) == {}


def test_a_stochastic_defense_is_asked_again_about_every_point():
    points = [np.full(4, grey) for grey in (0.0, 0.5, 1.0)]
    outcomes = [Outcome.CORRECT, Outcome.WRONG, Outcome.INVALID]
    task = doubt(Noisy(0.05), Walk(), points, [0, 0, 0], outcomes=outcomes, asked=50)
    probe = doubted(task)
    assert probe.asked == 50
    assert probe.wrong.keys() == {0, 1}
    assert probe.wrong[0] == 0
    assert 10 <= probe.wrong[1] <= 40


def test_a_deterministic_defense_repeats_what_the_record_says():
    points = [np.full(4, grey) for grey in (0.1, 0.9)]
    outcomes = [Outcome.CORRECT, Outcome.WRONG]
    probe = doubted(doubt(Brightness(), Walk(), points, [0, 0], outcomes=outcomes))
    assert (probe.asked, probe.wrong) == (1, {0: 0, 1: 1})


def test_an_attack_after_refusals_is_judged_by_them():
    points = [np.full(4, 0.48)] * 2
    outcomes = [Outcome.REJECTED, Outcome.WRONG]
    probe = doubted(doubt(fakes.Cautious(), Refuse(), points, [0, 0], outcomes=outcomes))
    assert probe.rounded == Share(0, 1)
    assert probe.untransferred == Share(0, 0)


def test_points_that_the_cache_has_lost_leave_their_questions_open():
    task = doubt(Noisy(0.05), Walk(), [np.zeros(4)] * 2, [0, 0])
    probe = doubted(replace(task, points=None))
    assert probe.rounded == probe.untransferred == Share(0, 0)
    assert (probe.asked, probe.wrong) == (1, {})
    assert probe.unbounded.of == 2


@pytest.mark.parametrize(
    ("epsilons", "main", "expected"),
    [((0.1, 0.2, 0.3), (0.1,), 0.1), ((0.1, 0.2, 0.3), (), 0.2), ((0.1, 0.4), (0.3,), 0.4)],
)
def test_a_cell_is_probed_at_the_tables_radius_or_the_middle_one(epsilons, main, expected):
    assert probing.middle(epsilons, main) == expected


def sweep(plan, folder, **attacks):
    told = io.StringIO()
    with Progress(told) as progress:
        paths = runner.sweep(
            plan, results=folder, jobs=1, progress=progress, shelf=shelf(**attacks)
        )
    return paths, told.getvalue()


def kept(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("images/records/probes/*")}


def test_a_sweep_keeps_a_probe_of_each_defense_and_attacked_cell_and_makes_none_twice(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    plan = replace(PLAN, defenses=("brightness", "noisy"), attacks=("logged", "needy"))
    paths, _ = sweep(plan, tmp_path, logged=Walk(log=log))
    folder = paths[0].parent
    first, calls = kept(tmp_path), len(list(log.iterdir()))
    assert len(first) == 4
    for path in paths:
        told = records.provenance(path)
        probe = probes.of_cell(folder, path.stem)
        assert (probe is None) == (told["attack"] != "logged")
        if probe is not None:
            assert probe.asked == (6 if told["defense"] == "noisy" else 1)
            assert len(probe.wrong) == 12
            assert set(probe.self_test) == {probes.UNDEFENDED, probes.MASKED}
    assert sweep(plan, tmp_path, logged=Walk(log=log))[0] == paths
    assert kept(tmp_path) == first
    assert len(list(log.iterdir())) == calls


def test_a_probe_sees_every_point_beside_its_own_image(tmp_path):
    path = sweep(replace(PLAN, samples=40), tmp_path)[0][1]
    frame = records.read([path])
    broken = (frame["outcome"] == Outcome.WRONG) & (frame["distance_l2"] > 0)
    probe = probes.of_cell(path.parent, path.stem)
    assert probe is not None
    assert 0 < broken.sum() < 40
    assert probe.untransferred == Share(0, int(broken.sum()))


def test_probes_of_a_finished_sweep_are_made_later_without_attacking_it_again(tmp_path):
    paths, _ = sweep(replace(PLAN, preset=TINY), tmp_path)
    before = [path.stat().st_mtime_ns for path in paths]
    assert not kept(tmp_path)
    assert sweep(PLAN, tmp_path)[0] == paths
    assert len(kept(tmp_path)) == 2
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_sweep_without_its_examples_still_probes(tmp_path):
    paths, _ = sweep(replace(PLAN, preset=TINY), tmp_path)
    shutil.rmtree(tmp_path / "cache")
    sweep(PLAN, tmp_path)
    probe = probes.of_cell(paths[0].parent, paths[1].stem)
    assert probe is not None
    assert probe.rounded == Share(0, 0)


def test_a_probe_that_fails_costs_a_line_and_no_sweep(tmp_path, monkeypatch):
    monkeypatch.setitem(fakes.DEFENSES, "faulty", Make(Faulty))
    paths, told = sweep(replace(PLAN, defenses=("faulty", "brightness")), tmp_path)
    assert "no probe of faulty: RuntimeError: no view; the same command tries it again" in told
    assert len(paths) == 4
    assert probes.of_cell(paths[0].parent, paths[3].stem) is not None


def test_an_invalid_attack_is_told_before_its_numbers(tmp_path):
    crash = fakes.Crash(threshold=2.0)
    _, told = sweep(replace(PLAN, attacks=("crasher",)), tmp_path, crasher=crash)
    invalid = told.index("attack invalid: crasher broke 0 of ")
    assert invalid < told.index("attacks: ")


def test_an_ensemble_doubles_every_budget_of_every_member_at_once():
    _, attack = catalog.parse_attack("strongest-l2", PRESETS["quick"], 1)
    (found,) = doubled(attack, stochastic=False).values()
    before, after = dict(attack.members), dict(found.members)
    assert after["apgd-ce-l2"].steps == 2 * before["apgd-ce-l2"].steps
    assert after["apgd-ce-l2"].restarts == 2 * before["apgd-ce-l2"].restarts
    assert after["square-l2"].queries == 2 * before["square-l2"].queries
    assert after["apgd-ce-l2"].view == before["apgd-ce-l2"].view
