"""Attacks from outside: ``my_package.my_module:MyAttack``, a class or an instance of `Attack`."""

from dataclasses import MISSING, fields, replace

from attacks.base import Attack
from attacks.threat import Norm
from defenses.by_name import imported, module_of, sources


def is_own(name: str) -> bool:
    """Whether an attack's name or label is that of an object in a module."""
    return ":" in name.partition("[")[0]


def own_attack(specification: str, norm: Norm | None) -> Attack:
    """The attack that a module holds, in a norm; None takes its own.

    Raises:
        LookupError: no such module or name.
        ValueError: no attack, fields without defaults, no norm or one that it does not know.
    """
    found = imported(specification)
    if isinstance(found, Attack):
        return found if norm is None else replace(found, norm=norm)
    if not (isinstance(found, type) and issubclass(found, Attack)):
        kind = found.__name__ if isinstance(found, type) else type(found).__name__
        raise ValueError(
            f"{specification} must be a class or an instance of attacks.base.Attack, got {kind}; "
            "subclass Attack, FixedEpsilonAttack or MinimumNormAttack"
        )
    bare = {
        field.name
        for field in fields(found)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    }
    if others := sorted(bare - {"norm"}):
        raise ValueError(
            f"fields of {specification} must have defaults, got none for {', '.join(others)}; "
            "give them in the class, or name an instance"
        )
    if norm is not None:
        return found(norm=norm)
    if bare:
        known = [str(each) for each in found.norms]
        raise ValueError(
            f"norm must be given for {specification}, got none; write {specification}"
            f"[norm={known[0]}] (it knows {', '.join(known)}), or give the field a default"
        )
    made: Attack = found()  # type: ignore[call-arg]  # its own default is the norm
    return made


def described(label: str, attack: Attack) -> str:
    """The attack with every field; of one from outside also its files' hash.

    So a changed file is another cell, and no stale number answers for it.
    """
    if not is_own(label):
        return repr(attack)
    return f"{attack!r} from {sources(module_of(label.partition('[')[0]))}"
