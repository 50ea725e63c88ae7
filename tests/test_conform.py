"""The conformance command passes what keeps the contract and names what does not, in words."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark import conform
from benchmark.attack_contracts import ATTACK_CHECKS
from benchmark.contracts import DEFENSE_CHECKS
from tests import own


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(own.write(tmp_path).parent)
    forget()
    yield
    forget()


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == own.PACKAGE:
            del sys.modules[name]


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    status = conform.main(arguments)
    return status, capsys.readouterr().out.splitlines()


def failures(lines: list[str]) -> dict[str, str]:
    found = [re.fullmatch(r"FAILED +(.*?): (.*)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize(
    ("name", "inapplicable"),
    [
        ("my_package.plain:build", []),
        ("my_package.guarded:Guard", ["has a surrogate that agrees with its answers"]),
        ("cnn", ["expects pixels in [0, 1]"]),
    ],
)
def test_a_good_defense_keeps_every_promise(name, inapplicable, capsys):
    status, lines = told([name], capsys)
    assert status == 0
    passed = [line.removeprefix("passed").strip() for line in lines if line.startswith("passed")]
    assert passed == [check for check in DEFENSE_CHECKS if check not in inapplicable]
    others = [line for line in lines if line.startswith("not applicable")]
    assert len(others) == len(inapplicable) == len(lines) - len(passed)


@pytest.mark.parametrize(
    ("name", "promise", "message"),
    [
        ("Random", "is stochastic exactly where it says so", "must be a function of the generator"),
        ("Random", "leaves global randomness alone", "got draws from that of torch"),
        ("BatchNorm", "answers alike in any batch and order", "must not depend on its batch"),
        ("BatchNorm", "is in evaluation mode, frozen and unchanged by answers", "training mode in"),
        ("VoidOnBlack", "answers everywhere in the box", "got NaN or infinity for 1 of 4 images"),
        ("Rounded", "has surrogates with finite gradients that do not vanish", "got 0 for every"),
        ("Detached", "has surrogates with finite gradients that do not vanish", "got no gradient"),
        ("InPlace", "leaves images as they are", "got them changed in place"),
        ("Forgetful", "is the same when loaded in another process", "must answer alike, got"),
        ("Refuser", "rejects only if it says that it can", "got 1 of 20 refused; set can_reject"),
        ("Claims", "is stochastic exactly where it says so", "got the same logits; set stochastic"),
        ("Undeclared", "is stochastic exactly where it says so", "set stochastic = True"),
        ("Disagrees", "has a surrogate that agrees with its answers", "'exact' must give the depl"),
        ("Fails", "has the surrogates that it names", "got RuntimeError: no such view yet"),
    ],
)
def test_a_broken_promise_is_named_with_what_was_seen(name, promise, message, capsys):
    status, lines = told([f"my_package.broken:{name}"], capsys)
    assert status == 1
    assert message in failures(lines)[promise]


def test_a_network_for_pixels_up_to_255_is_told_so(capsys):
    status, lines = told(["my_package.bright:Bytes"], capsys)
    assert status == 1
    assert "scale inside the module" in failures(lines)["expects pixels in [0, 1]"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Wide", "got (2, 20); return one logit per class"),
        ("Void", "must be finite, got NaN or infinity"),
        ("Colour", "name a data set that fits"),
    ],
)
def test_what_cannot_be_built_for_the_data_set_fails_by_name(name, message, capsys):
    status, lines = told([f"my_package.broken:{name}"], capsys)
    assert status == 1
    assert message in failures(lines)["is built for the data set"]


@pytest.mark.parametrize("spec", ["my_package.attack:Sign", "pgd-linf[steps=3,restarts=1]"])
def test_a_good_attack_keeps_every_promise(spec, capsys):
    status, lines = told(["--attack", spec], capsys)
    assert (status, lines) == (0, [f"passed          {check}" for check in ATTACK_CHECKS])


@pytest.mark.parametrize(
    ("name", "promise", "message"),
    [
        ("Bare", "breaks an undefended network", "must be broken at epsilon 1, got 0 of 20"),
        ("Unchecked", "refuses pixels and budgets out of range", "a pixel of 1.5 must be a Value"),
        ("Far", "stays in ball and box", "must stay within epsilon, got linf distance"),
        ("Global", "leaves global randomness alone", "got draws from that of torch"),
        ("Global", "is a function of its generator alone", "difference for the same seed"),
        ("Crowd", "finds alike in any batch and order", "must not depend on its batch"),
        ("Backward", "leaves images, labels and weights as they are", "weights must get no grad"),
    ],
)
def test_an_attacks_broken_promise_is_named_with_what_was_seen(name, promise, message, capsys):
    status, lines = told(["--attack", f"my_package.attack:{name}[norm=linf]"], capsys)
    assert status == 1
    assert message in failures(lines)[promise]


def test_an_attack_that_needs_more_than_a_linear_network_is_not_judged(capsys):
    status, lines = told(["--attack", "latent-descent"], capsys)
    assert status == 0
    assert all(line.startswith("not applicable  ") for line in lines)


@pytest.mark.parametrize("arguments", [[], ["cnn", "--attack", "fgsm"]])
def test_conform_is_asked_about_one_thing(arguments, capsys):
    assert conform.main(arguments) == 2
    assert "must be given a defense or --attack" in capsys.readouterr().err


def test_conform_names_a_module_that_is_not_there(capsys):
    assert conform.main(["my_package.plan:build"]) == 2
    assert "must be found" in capsys.readouterr().err
