"""What the README shows runs as it is shown."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import ATTACKS
from attacks.threat import Norm
from benchmark import certify, conform, diagnose
from benchmark.run import run as run_command
from defenses import DEFENSES
from defenses.base import Task
from defenses.randomness import generator
from tests.linear import Linear, images, labels, random_linear

README = Path(__file__).parent.parent / "README.md"
TASK = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)


def source(containing: str) -> str:
    """One of the README's Python blocks."""
    (code,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if containing in code
    ]
    return code


def block(containing: str) -> dict[str, Any]:
    """The names that one of the README's Python blocks defines."""
    code = source(containing)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    return names


def test_readme_sweep_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = block("sweep(plan")
    assert len(names["paths"]) == 3
    assert "All L2" in capsys.readouterr().out


def test_readme_defense_keeps_the_contract() -> None:
    recipe = block("class NoisyInput")["NoisyCNN"](summary="noise", epochs=1)
    defense = recipe.build(TASK)
    learner = recipe.learner(defense, TASK, None)
    x = torch.rand((4, 1, 8, 8), generator=generator(0))
    learner.update(x, torch.arange(4), generator(0))
    defense.eval()
    together = defense.decide(x, generator(1)).logits
    alone = torch.cat([defense.decide(row, generator(1)).logits for row in x.split(1)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    assert not torch.equal(together, defense.decide(x, generator(2)).logits)


def test_readme_attack_reaches_a_linear_boundary() -> None:
    attack = block("class MarginSign")["MarginSign"](norm=Norm.LINF)
    defense = Linear(*random_linear())
    x = images(6)
    y = labels(defense, x)
    candidates = attack(defense, x, y, (0.001, 1.0), generator(0))
    assert (candidates[0] - x).abs().max() <= 0.001 + 1e-6
    assert (defense.decide(candidates[1], generator(0)).classes != y).any()


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder outside the project with the README's own modules."""
    net = source("class MyNet")
    (tmp_path / "my_net.py").write_text(net)
    (tmp_path / "my_rounded.py").write_text(net.replace("(x - 0.5)", "(x.round() - 0.5)"))
    (tmp_path / "my_attack.py").write_text(source("class MarginSign"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_net", "my_rounded", "my_attack"):
        sys.modules.pop(name, None)


def test_readme_shows_what_conform_says_of_a_broken_network(
    outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conform.main(["my_rounded:build"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAILED") == 1
    assert f"```\n{printed}```" in README.read_text()


@pytest.mark.parametrize(
    "arguments", [["my_net:build"], ["--attack", "my_attack:MarginSign[norm=linf]"]]
)
def test_readme_modules_outside_the_project_keep_every_promise(
    outside: Path, arguments: list[str]
) -> None:
    assert conform.main(arguments) == 0


def test_readme_names_only_commands_and_registered_things_that_exist() -> None:
    text = README.read_text()
    package = README.parent / "benchmark"
    modules = set(re.findall(r"python -m benchmark\.(\w+)", text))
    assert modules
    programs = {module: (f"{module}.py", f"{module}/__main__.py") for module in modules}
    assert all(any((package / p).exists() for p in paths) for paths in programs.values())
    artefacts = set(re.findall(r"benchmark\.reproduce (e-abs-[\w-]+)", text))
    assert all((package / "artefacts" / f"{name}.toml").exists() for name in artefacts)
    options = set(re.findall(r"--([a-z]+)", text)) - {"list"}
    commands = (run_command, certify.run, diagnose.run)
    assert options <= {name for each in commands for name in each.__annotations__}
    assert {"cnn", "eabs"} <= set(DEFENSES) and "pgd-l2" in ATTACKS
