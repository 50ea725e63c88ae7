"""Imports point one way: defenses <- attacks <- benchmark (DESIGN, section 1)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("attacks", "benchmark", "defenses")
NO_TORCH = (
    *("statistics", "tables", "selective", "risk_figure", "rates", "records", "cells"),
    *("agreement", "gap", "overpowered", "maps", "parquet", "latent_cells", "latent_numbers"),
    *("luck", "bounds", "bounds_figure"),
    *("diagnostics", "diagnose", "doubts", "probes", "sections"),
    "report.page",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imported(module: str) -> Iterator[str]:
    """The modules that a module's source names, ours as precisely as they exist."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module} imports relatively"
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (member if member in MODULES else node.module for member in members)


def reached(module: str) -> set[str]:
    """Everything imported with a module, through ours; packages run their __init__ first."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parents = [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]
        for found in (name, *parents):
            if found not in seen:
                seen.add(found)
                waiting += imported(found) if found in MODULES else []
    return seen


def package(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def test_the_tree_that_is_checked_is_the_whole_source():
    assert len(MODULES) > 30
    assert {package(module) for module in MODULES} == set(PACKAGES)


def test_defenses_import_neither_attacks_nor_benchmark():
    for module in MODULES:
        if package(module) == "defenses":
            assert {package(name) for name in imported(module)}.isdisjoint({"attacks", "benchmark"})


def test_attacks_see_of_defenses_only_contract_and_randomness():
    allowed = {"defenses.base", "defenses.randomness"}
    for module in MODULES:
        if package(module) == "attacks":
            names = set(imported(module))
            assert "benchmark" not in {package(name) for name in names}, module
            assert {name for name in names if package(name) == "defenses"} <= allowed, module


def test_foolbox_and_eagerpy_appear_in_one_place_only():
    users = {
        module
        for module in MODULES
        if {package(name) for name in imported(module)} & {"foolbox", "eagerpy"}
    }
    assert users
    assert all(module.startswith("attacks.from_foolbox") for module in users)


@pytest.mark.parametrize("name", [name for name in NO_TORCH if f"benchmark.{name}" in MODULES])
def test_reading_records_never_imports_torch(name):
    assert "torch" not in {package(found) for found in reached(f"benchmark.{name}")}


def test_the_reach_of_a_module_includes_torch_where_it_is_used():
    assert "torch" in reached("benchmark.runner")
