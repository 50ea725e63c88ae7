"""One field of several defenses at once: the options ``--coverage`` and ``--classifier``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

from benchmark.catalog import base_name, registered, wrapping_fields
from defenses import DEFENSES
from defenses.base import Recipe


def with_coverage(
    specs: Iterable[str], coverage: float, defenses: Mapping[str, Recipe] = DEFENSES
) -> tuple[str, ...]:
    """The specifications, those of defenses that can refuse with this coverage.

    Raises:
        LookupError: unknown defense.
        ValueError: none of them can refuse.
    """
    return _COVERAGE.put(tuple(specs), f"{coverage:g}", defenses)


def with_classifier(
    specs: Iterable[str], classifier: str, defenses: Mapping[str, Recipe] = DEFENSES
) -> tuple[str, ...]:
    """The specifications, those of defenses that protect a classifier with this one.

    Args:
        classifier: registered, or ``library:model``; without fields.

    Raises:
        LookupError: unknown defense or classifier.
        ValueError: none of them protects a classifier.
    """
    registered(classifier, defenses)
    return _CLASSIFIER.put(tuple(specs), classifier, defenses)


def around_classifier(
    specs: Iterable[str], classifier: str, defenses: Mapping[str, Recipe] = DEFENSES
) -> tuple[str, ...]:
    """`with_classifier`, and this one in place of the classifiers that they are registered with.

    So what a table calls undefended stays what its defenses protect; raises as `with_classifier`.
    """
    asked = tuple(specs)
    recipes = [registered(base_name(spec), defenses) for spec in asked]
    bare = {recipe.wraps()["classifier"].name for recipe in recipes if _CLASSIFIER.able(recipe)}
    changed = with_classifier(asked, classifier, defenses)
    return tuple(dict.fromkeys(classifier if spec in bare else spec for spec in changed))


@dataclass(frozen=True)
class _Everywhere:
    """A field that a value goes to wherever there is such a field.

    Args:
        able: which recipes have it.
        ability: what those can, for people.
    """

    field: str
    able: Callable[[Recipe], bool]
    ability: str

    def put(
        self, specs: tuple[str, ...], text: str, defenses: Mapping[str, Recipe]
    ) -> tuple[str, ...]:
        """The specifications with the field, where they do not set it themselves."""
        able = [self.able(registered(base_name(spec), defenses)) for spec in specs]
        if not any(able):
            others = [name for name, recipe in defenses.items() if self.able(recipe)]
            raise ValueError(
                f"{self.field} is for defenses that {self.ability}, such as {', '.join(others)}; "
                f"got only {', '.join(specs)}"
            )
        return tuple(
            self._put(spec, text) if has else spec for spec, has in zip(specs, able, strict=True)
        )

    def _put(self, spec: str, text: str) -> str:
        name, bracket, written = spec.partition("[")
        if not bracket:
            return f"{name}[{self.field}={text}]"
        own = {item.partition("=")[0].strip() for item in written.removesuffix("]").split(",")}
        return spec if self.field in own else f"{spec.removesuffix(']')},{self.field}={text}]"


_COVERAGE = _Everywhere(
    "coverage",
    lambda recipe: "coverage" in {field.name for field in fields(recipe)},
    "can refuse",
)
_CLASSIFIER = _Everywhere(
    "classifier", lambda recipe: "classifier" in wrapping_fields(recipe), "protect one"
)
