"""Objects by name, ``my_package.my_module:attribute``, from wherever Python finds modules."""

import hashlib
import re
import sys
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_DIGEST_BYTES = 16


def imported(specification: str) -> Any:
    """What a module holds under a name.

    Raises:
        ValueError: the specification is not of this form.
        LookupError: no such module, one that cannot be imported, or one without that name.
    """
    if not _FORM.fullmatch(specification):
        raise ValueError(
            f"name must look like my_package.my_module:build, got {specification!r}; "
            "name a module and what to take from it"
        )
    name, _, attribute = specification.partition(":")
    held = vars(module_of(specification))
    if attribute not in held:
        public = [each for each in held if not each.startswith("_")]
        near = get_close_matches(attribute, public, n=1)
        guess = f"did you mean {f'{name}:{near[0]}'!r}? " if near else ""
        raise LookupError(f"unknown name {attribute!r} in {name}; {guess}it has: {listed(public)}")
    return held[attribute]


def module_of(specification: str) -> ModuleType:
    """The module that a specification names.

    Raises:
        LookupError: there is none, or it cannot be imported.
    """
    name = specification.partition(":")[0]
    try:
        return import_module(name)
    except ImportError as error:
        missing = error.name or ""
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{missing}."):
            raise LookupError(
                f"module {name!r} must be found for {specification}, got no module {missing!r}; "
                f"start in the folder that holds {name.partition('.')[0]}, or install it"
            ) from error
        raise LookupError(
            f"module {name!r} must be importable for {specification}, got: {error}; "
            "mend it, or install what it needs"
        ) from error


@cache
def sources(module: ModuleType) -> str:
    """Hash of a module's file and of the files beside it that it uses, as they were first seen.

    Files elsewhere (installed packages, other folders) have no part in it.
    """
    folder = _file(module).parent
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        path = _file(current)
        if current.__name__ in found or path.parent != folder or not path.is_file():
            continue
        found[current.__name__] = path
        for value in vars(current).values():
            used = value if isinstance(value, ModuleType) else _home(value)
            waiting += [used] if used is not None else []
    parts = [f"{name}\n{found[name].read_text()}" for name in sorted(found)]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def listed(names: list[str]) -> str:
    """Names for an error's end."""
    return ", ".join(sorted(names)) or "nothing"


def _home(value: object) -> ModuleType | None:
    """The module that defines a class or a function."""
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _file(module: ModuleType) -> Path:
    return Path(getattr(module, "__file__", None) or "built-in")
