"""From names at the command line to objects: look-ups that suggest, attack specifications, lists.

An attack specification is ``name[field=value,...]@surrogate``, for example
``pgd-linf[steps=100,restarts=5,eot=3]@fixed_latent``. Fields are those of the registered attack's
dataclass, and ``eot``, the samples averaged per query. What a specification does not name comes
from the preset, and from the registered attack where the preset is silent.

A defense specification is ``name[field=value,...]``, for example ``gmvae[coverage=0.98]``, with the
fields of its recipe. A field that holds another defense takes a registered name:
``defense_vae[classifier=cnn]``.

``timm:resnet152``, ``torchvision:resnet50`` and ``robustbench:cifar10/Linf/Carmon2019Unlabeled``
are names of defenses wherever one is asked for: classifiers that others trained
(`defenses.pretrained`). So is ``my_package.my_module:build``, what a module of the user's gives
(`defenses.foreign`), and ``my_package.my_module:MyAttack`` that of an attack
(`benchmark.own_attacks`), whose norm is then a field, too.
"""

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, TypeVar, get_args, get_type_hints

from attacks import ATTACKS, SUITES
from attacks.base import Attack
from attacks.strongest import Composed
from attacks.threat import Norm
from benchmark.datasets import DATASETS
from benchmark.own_attacks import is_own, own_attack
from benchmark.presets import PRESETS, Preset
from defenses import DEFENSES
from defenses.base import Recipe, Wrapped
from defenses.foreign import Foreign
from defenses.pretrained import LIBRARIES, Pretrained

T = TypeVar("T")

EOT = "eot"
_NORM = "norm"
_FORBIDDEN = (_NORM, "view")
_RESTARTS = "restarts"
_GUESSES = 3
_SPECIFICATION = re.compile(
    r"(?P<name>[^\[\]@]+)(?:\[(?P<fields>[^\[\]]*)\])?(?:@(?P<surrogate>[^\[\]@]+))?"
)
_SEPARATOR = re.compile(r",(?![^\[\]]*\])")
_WORDS = {"true": True, "false": False}


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """The entry of a registry.

    Raises:
        LookupError: unknown name; says the nearest one and all that exist.
    """
    if name in registry:
        return registry[name]
    near = get_close_matches(name, registry, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise LookupError(f"unknown {kind} {name!r}; {guess}available: {', '.join(registry)}")


def registered(name: str, defenses: Mapping[str, Recipe] = DEFENSES) -> Recipe:
    """The recipe of a defense by its name, without fields.

    Registered, ``library:model``, or else ``module:name``.

    Raises:
        LookupError: no such defense, library or model, a library that is not installed, or no such
            module or name in it.
        ValueError: a colon in what is neither.
    """
    library, colon, model = name.partition(":")
    if not colon:
        return lookup("defense", name, defenses)
    if library not in LIBRARIES and not _is_misspelt_library(library):
        return Foreign.named(name)
    known = lookup("library of classifiers", library, LIBRARIES).names()
    if model not in known:
        near = " or ".join(
            repr(f"{library}:{each}") for each in get_close_matches(model, known, n=_GUESSES)
        )
        raise LookupError(
            f"unknown model {model!r} of {library}; {f'did you mean {near}? ' if near else ''}"
            f"it has trained weights under {len(known)} names"
        )
    summary = f"undefended: {model} as {library} trained it"
    return Pretrained(summary=summary, library=library, model=model)


def _is_misspelt_library(name: str) -> bool:
    """Nearly a library's name, and no module's."""
    return bool(get_close_matches(name, LIBRARIES, n=1)) and find_spec(name) is None


def split_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Comma-separated, repeatable options as names; commas inside brackets belong to the name."""
    names = (part.strip() for text in texts for part in _SEPARATOR.split(text))
    return tuple(dict.fromkeys(name for name in names if name))


def expand(specs: Iterable[str], suites: Mapping[str, Sequence[str]] = SUITES) -> tuple[str, ...]:
    """Specifications with suites replaced by their members, in order, each once.

    ``all_l2@classifier`` puts every member on that surrogate.
    """
    expanded: list[str] = []
    for spec in specs:
        name, at, surrogate = spec.partition("@")
        expanded += (
            [member + at + surrogate for member in suites[name]] if name in suites else [spec]
        )
    return tuple(dict.fromkeys(expanded))


def require_aware_suites(
    specs: Iterable[str],
    names: Iterable[str],
    suites: Mapping[str, Sequence[str]] = SUITES,
    defenses: Mapping[str, Recipe] = DEFENSES,
) -> None:
    """A worst case over a suite means something only where its attacks know of refusals.

    Args:
        specs: attack specifications, suites not expanded.
        names: defense specifications.

    Raises:
        LookupError: unknown defense.
        ValueError: a suite on a surrogate that knows nothing of what one of the defenses refuses.
    """
    for spec in specs:
        suite, _, surrogate = spec.partition("@")
        for name in names if suite in suites else ():
            if surrogate in registered(base_name(name), defenses).blind_surrogates:
                raise ValueError(
                    f"suite must know what {name} refuses, got {spec!r}, whose worst case would "
                    f"flatter it; drop @{surrogate}, or name single attacks to see what the view "
                    "alone finds"
                )


def parse_attack(
    spec: str,
    preset: Preset | None,
    channels: int,
    attacks: Mapping[str, Attack] = ATTACKS,
    suites: Mapping[str, Sequence[str]] = SUITES,
) -> tuple[str, Attack]:
    """The label and the attack of one specification.

    Args:
        spec: see the module.
        preset: whose ``restarts`` for this number of channels (for attacks registered with more
            than one), then whose fields, are applied before the specification's own; None leaves
            the attack as registered.
        channels: of the images.

    Returns: the canonical specification without surrogate (what was written, sorted by field), and
        the attack.

    Raises:
        LookupError: unknown attack or field.
        ValueError: not a specification, or a value of the wrong type.
    """
    match = _SPECIFICATION.fullmatch(spec)
    if match is None:
        raise ValueError(
            f"attack must look like name[field=value,...]@surrogate, got {spec!r}; "
            "for example pgd-l2[steps=100,restarts=5]@classifier"
        )
    name = match["name"]
    texts = dict(_pair("attack", spec, item) for item in (match["fields"] or "").split(",") if item)
    norms: dict[str, Any] = {}
    attack: Attack | None
    if is_own(name):
        if _NORM in texts:
            norms[_NORM] = value_of("attack", name, _NORM, texts.pop(_NORM), {_NORM: Norm})
        attack = own_attack(name, norms.get(_NORM))
    else:
        attack = lookup("attack", name, {**attacks, **dict.fromkeys(suites)})
    if attack is None:
        raise ValueError(f"attack must be a single one here, got the suite {name!r}")
    types_ = _types_of(attack)
    given: dict[str, Any] = {
        field: value_of("attack", name, field, text, types_) for field, text in texts.items()
    }
    if preset is not None:
        restarts = preset.restarts.get(channels)
        if restarts is not None and getattr(attack, _RESTARTS, 1) > 1:
            attack = _with_fields(name, attack, {_RESTARTS: restarts})
        attack = _with_fields(name, attack, preset.attacks.get(name, {}))
    attack = _with_fields(name, attack, given)
    if isinstance(attack, Composed):
        attack = attack.composed(
            lambda member: parse_attack(member, preset, channels, attacks, suites)[1]
        )
    if match["surrogate"]:
        attack = replace(attack, view=replace(attack.view, surrogate=match["surrogate"]))
    stated = {**given, **norms}
    written = ",".join(f"{field}={_text(stated[field])}" for field in sorted(stated))
    return (f"{name}[{written}]" if written else name), attack


def recipe_for(
    spec: str, preset: Preset, dataset: str, defenses: Mapping[str, Recipe] = DEFENSES
) -> Recipe:
    """A registered defense with the preset's fields for a data set, then the specification's own.

    Raises:
        LookupError: as `registered`, for its own name or one inside it, or a field that it does not
            have.
        ValueError: not a specification, or a value of the wrong type.
    """
    match = _SPECIFICATION.fullmatch(spec)
    if match is None or match["surrogate"]:
        raise ValueError(
            f"defense must look like name[field=value,...], got {spec!r}; "
            "for example gmvae[coverage=0.98]"
        )
    name = match["name"]
    found = registered(name, defenses)
    hints = get_type_hints(type(found))
    given = {
        field: value_of("defense", name, field, text, hints)
        for field, text in (
            _pair("defense", spec, item) for item in (match["fields"] or "").split(",") if item
        )
    }
    overrides = {
        **preset.defenses.get(name, {}),
        **preset.by_dataset.get(dataset, {}).get(name, {}),
        **given,
    }
    known = {field.name: None for field in fields(found)}
    for field in overrides:
        lookup(f"field of defense {name!r}:", field, known)
    values = {field: overrides.get(field, getattr(found, field)) for field in known}
    inner = {
        field: value if isinstance(value, str) else value.name
        for field, value in values.items()
        if field in wrapping_fields(found) and value is not None
    }
    wrapped = {
        field: Wrapped(name, recipe_for(name, preset, dataset, defenses))
        for field, name in inner.items()
    }
    return replace(found, **{**overrides, **wrapped})


def base_name(spec: str) -> str:
    """The registered name in a specification."""
    return spec.partition("[")[0]


def wrapping_fields(recipe: Recipe) -> frozenset[str]:
    """The fields that hold another defense, or may."""
    hints = get_type_hints(type(recipe))
    return frozenset(
        field.name for field in fields(recipe) if Wrapped in _alternatives(hints[field.name])
    )


def listing() -> str:
    """Every data set, defense, attack, suite and preset with one line each."""
    sections: dict[str, dict[str, str]] = {
        "data sets": {name: source.summary for name, source in DATASETS.items()},
        "defenses": {name: entry.summary for name, entry in DEFENSES.items()}
        | {f"{name}:<model>": f"undefended: any classifier of {name}" for name in LIBRARIES}
        | {"<module>:<name>": "your own: a Defense or any torch.nn.Module on pixels in [0, 1]"},
        "attacks": {name: _summary(attack) for name, attack in ATTACKS.items()}
        | {"<module>:<name>": "your own: a class or an instance of Attack"},
        "suites": {name: ", ".join(members) for name, members in SUITES.items()},
        "presets": {name: preset.summary for name, preset in PRESETS.items()},
    }
    return "\n".join(
        f"{title}\n" + "".join(f"  {name:<20} {line}\n" for name, line in lines.items())
        for title, lines in sections.items()
    )


def _summary(attack: Attack) -> str:
    first = (type(attack).__doc__ or "").partition("\n")[0].rstrip(".")
    settings = ", ".join(
        f"{field.name}={_text(getattr(attack, field.name))}"
        for field in fields(attack)
        if field.name not in _FORBIDDEN and field.repr
    )
    return f"[{attack.norm}] {first}" + (f" ({settings})" if settings else "")


def _types_of(attack: Attack) -> dict[str, Any]:
    """Field -> type, of the fields a specification may set."""
    hints = get_type_hints(type(attack))
    settable = {
        field.name: hints[field.name]
        for field in fields(attack)
        if field.init and field.name not in _FORBIDDEN
    }
    return {**settable, EOT: int}


def _with_fields(name: str, attack: Attack, values: Mapping[str, Any]) -> Attack:
    types_ = _types_of(attack)
    for field in values:
        lookup(f"field of attack {name!r}:", field, types_)
    plain = {field: value for field, value in values.items() if field != EOT}
    if EOT in values:
        if values[EOT] < 1:
            raise ValueError(f"eot of attack {name!r} must be at least 1, got {values[EOT]}")
        plain["view"] = replace(attack.view, samples=values[EOT])
    return replace(attack, **plain)


def _pair(kind: str, spec: str, item: str) -> tuple[str, str]:
    field, equals, text = (part.strip() for part in item.partition("="))
    if not (field and equals and text):
        raise ValueError(f"field of {kind} {spec!r} must look like steps=100, got {item!r}")
    return field, text


def value_of(
    kind: str, name: str, field: str, text: str, types_: Mapping[str, Any]
) -> bool | int | float | str:
    """A field's value from its text, of the type the dataclass declares."""
    declared = lookup(f"field of {kind} {name!r}:", field, types_)
    union = _alternatives(declared)
    if isinstance(declared, type) and issubclass(declared, StrEnum):
        return lookup(f"{field} of {kind} {name!r}:", text, {str(each): each for each in declared})
    if bool in union:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        raise ValueError(f"{field} of {kind} {name!r} must be true or false, got {text!r}")
    for number, noun in ((int, "an integer"), (float, "a number")):
        if number in union:
            try:
                return number(text)
            except ValueError as error:
                raise ValueError(
                    f"{field} of {kind} {name!r} must be {noun}, got {text!r}"
                ) from error
    if str in union or Wrapped in union:
        return text
    raise ValueError(
        f"{field} of {kind} {name!r} must be set in Python, not in a specification, got {text!r}"
    )


def _alternatives(declared: Any) -> tuple[Any, ...]:
    """The types that a field's annotation allows."""
    return get_args(declared) if isinstance(declared, types.UnionType) else (declared,)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
