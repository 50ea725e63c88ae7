"""Agreement: what MAD-VAE and Defense-VAE call accuracy (MAD-VAE, Tables 1 and 2).

The share of samples for which the purified adversarial image gets the class that the bare
classifier gives to the *clean* image; the label does not matter. So a defense may agree more often
than the classifier is right. The attacks of those tables see the classifier alone: in our records
they are those ``@classifier``, and for the bare classifier itself the plain attack of that name.

As everywhere here, an image that the defense gets wrong when clean is not attacked; it agrees where
both give it the same wrong class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from benchmark import published
from benchmark.accuracy import Counterpart, Layout, ball_name
from benchmark.cells import CLEAN
from benchmark.records import Outcome
from benchmark.scores import AGREEMENT, SEVERITY, Score, Scores, split_key
from benchmark.sheet import Entry, Footnotes, Line, Sheet

OBLIVIOUS = "classifier"
"""The surrogate of attacks that see the bare classifier and not the defense around it."""

ANSWERED_BY = "answered_by"
"""Field of a purifier: the substitute that classifies in place of its own classifier."""

BARE = "no defense"
NOTE = (
    "Agreement is not accuracy: it is the share of images, in percent with its 95 % Wilson "
    "interval, whose class under attack is the bare classifier's class of the *clean* image, "
    "right or wrong. The papers print it as accuracy. `@classifier` attacks the bare classifier "
    "and knows nothing of the defense; *no defense* is that classifier under the same attack. An "
    "image whose clean class is already wrong is not attacked."
)


@dataclass(frozen=True)
class Setting:
    """One row: an attack at one radius, or none."""

    attack: str = CLEAN
    norm: str = ""
    epsilon: float = 0.0


@dataclass(frozen=True)
class Company:
    """A bare classifier and the defenses that contain it, by column.

    Args:
        reference: key of the classifier.
        members: column heading -> key of a defense; the classifier itself is under `BARE`.
    """

    reference: str
    members: dict[str, str]


def companies(scores: Scores) -> tuple[Company, ...]:
    """Every bare classifier of the records with its defenses, in the records' order.

    Only defenses whose paper counts agreements.
    """
    found: dict[str, list[str]] = {}
    for defense in scores.defenses:
        reference = scores.reference(defense)
        if reference is not None and scores.counts(defense) == AGREEMENT:
            found.setdefault(reference, []).append(defense)
    return tuple(
        Company(reference, {BARE: reference, **_columns(defenses)})
        for reference, defenses in found.items()
    )


def deployed(scores: Scores) -> Scores:
    """Without defenses answered by a substitute, which exist in one paper's protocol alone.

    Attacks that apply to none of the others leave with them. Where there are no others all stay.
    """
    kept = tuple(key for key in scores.defenses if not is_answered(key))
    if len(kept) in (0, len(scores.defenses)):
        return scores
    attacks = {
        norm: tuple(
            name for name in names if any((key, name) not in scores.not_applicable for key in kept)
        )
        for norm, names in scores.attacks.items()
    }
    return replace(scores, defenses=kept, attacks=attacks)


def is_answered(defense: str) -> bool:
    """Whether a substitute answers in place of the defense's own classifier."""
    return ANSWERED_BY in published.specification(split_key(defense)[0])[1]


def agreement(
    scores: Scores, defense: str, attacks: Sequence[str], norm: str, epsilon: float
) -> Score:
    """How often a defense agrees, per sample under all of some attacks, with its bare classifier.

    Args:
        defense: a purifier, or the bare classifier of one.
        attacks: keys, or `CLEAN` alone with an empty norm and epsilon 0.

    Returns: counts in which *correct* is agreement and a refusal is none; where a cell has no
        number, its state.
    """
    reference = scores.reference(defense) or defense
    clean = scores.clean(reference)
    for score in (clean, *(scores.score(defense, name, norm, epsilon) for name in attacks)):
        if not score.measured:
            return score
    if not attacks:
        return Score(reason="no attack applies", applicable=False)
    expected = _answers(scores, reference, [CLEAN], "", 0.0).set_index("sample")["answer"]
    rows = _answers(scores, defense, attacks, norm, epsilon)
    same = rows["answer"] == rows["sample"].map(expected)
    accepted = rows["severity"] != SEVERITY[Outcome.REJECTED]
    agrees = (same & accepted).groupby(rows["sample"]).all()
    return Score(correct=int(agrees.sum()), wrong=int((~agrees).sum()))


def of_member(scores: Scores, company: Company, column: str, setting: Setting) -> Score:
    """The agreement in one field; the bare classifier is its own view ``@classifier``."""
    defense = company.members[column]
    attack = _own_view(scores, setting) if column == BARE else setting.attack
    return agreement(scores, defense, [attack], setting.norm, setting.epsilon)


def settings(scores: Scores, layout: Layout, company: Company) -> Iterator[Setting]:
    """The rows of a company: clean, and at each radius what any of its defenses faced."""
    yield Setting()
    defenses = [key for column, key in company.members.items() if column != BARE]
    for norm, radii in layout.radii.items():
        for epsilon in radii:
            for attack in scores.attacks[norm]:
                faced = [scores.score(key, attack, norm, epsilon) for key in defenses]
                if any(score.n for score in faced):
                    yield Setting(attack, norm, epsilon)


def agreement_sheet(scores: Scores, layout: Layout, title: str) -> Sheet:
    """Agreements with their Wilson intervals and the published ones beside; a block per classifier.

    Without columns where no defense of the records contains another and counts agreements.
    """
    found = companies(scores)
    columns = tuple(dict.fromkeys(column for company in found for column in company.members))
    notes, lines = Footnotes(), []
    for company in found:
        if len(found) > 1:
            lines.append(Line(f"{company.reference} classifies"))
        ball = ("", 0.0)
        for setting in settings(scores, layout, company):
            if ball != (setting.norm, setting.epsilon):
                ball = (setting.norm, setting.epsilon)
                lines.append(Line(ball_name(*ball), brief=ball_name(*ball, before_radius=" ")))
            name = "Clean" if setting.attack == CLEAN else layout.row_name(setting.attack)
            entries = [Entry("")] * len(columns)
            for column, defense in company.members.items():
                score = of_member(scores, company, column, setting)
                printed = _printed(scores, layout.counterpart, defense, setting)
                entries[columns.index(column)] = _entry(score, printed, notes)
            lines.append(Line(name, tuple(entries)))
    return Sheet(title, columns, tuple(lines), tuple(notes.texts))


def tidy(scores: Scores, layout: Layout) -> pd.DataFrame:
    """One row per field of the sheet: agreement and accuracy, in percent."""
    rows = []
    for company in companies(scores):
        for setting in settings(scores, layout, company):
            for column, defense in company.members.items():
                score = of_member(scores, company, column, setting)
                low, high = score.interval if score.measured else (None, None)
                attack, surrogate, configuration = split_key(setting.attack)
                own = _own_view(scores, setting) if column == BARE else setting.attack
                right = scores.score(defense, own, setting.norm, setting.epsilon)
                printed = _printed(scores, layout.counterpart, defense, setting)
                rows.append(
                    {
                        "dataset": scores.dataset,
                        "classifier": company.reference,
                        "defense": defense,
                        "attack": f"{attack} ({configuration})" if configuration else attack,
                        "surrogate": surrogate,
                        "norm": setting.norm,
                        "epsilon": setting.epsilon,
                        "n": score.n,
                        "agreement": score.accuracy if score.measured else None,
                        "low": low,
                        "high": high,
                        "accuracy": right.accuracy if right.measured else None,
                        "published": " ".join(f"{number.value:g}" for number in printed),
                        "note": score.reason or score.state,
                    }
                )
    frame = pd.DataFrame(rows)
    shares = ["agreement", "low", "high", "accuracy"]
    return frame.assign(**frame[shares].astype(float).round(4)) if len(frame) else frame


def _columns(defenses: Sequence[str]) -> dict[str, str]:
    """Keys by the names of their columns: without fields where those tell nothing apart."""
    bare = [published.specification(split_key(key)[0])[0] for key in defenses]
    return {
        name if bare.count(name) == 1 else key: key
        for name, key in zip(bare, defenses, strict=True)
    }


def _own_view(scores: Scores, setting: Setting) -> str:
    """The attack on the classifier alone as the bare classifier's own records name it."""
    name, surrogate, _ = split_key(setting.attack)
    if surrogate != OBLIVIOUS:
        return setting.attack
    plain = [key for key in scores.attacks[setting.norm] if split_key(key)[:2] == (name, "")]
    return plain[0] if len(plain) == 1 else setting.attack


def _entry(score: Score, printed: Sequence[published.Published], notes: Footnotes) -> Entry:
    aside = f"paper {', '.join(f'{number.value:g}' for number in printed)}" if printed else ""
    said = [f"{number.source}: {number.caveat}" for number in printed if number.caveat]
    if score.reason:
        said.append(f"{'no number' if score.applicable else 'not applicable'}: {score.reason}")
    marks = tuple(notes.mark(text) for text in said)
    if not score.measured:
        return Entry(score.state, aside=aside, marks=marks)
    low, high = score.interval
    wide, brief = f"[{low:.1f}, {high:.1f}]", f"{low:.0f}–{high:.0f}"
    return Entry(f"{score.accuracy:.1f}", wide, brief, aside, marks)


def _printed(
    scores: Scores, counterpart: Counterpart, defense: str, setting: Setting
) -> tuple[published.Published, ...]:
    label, surrogate, _ = split_key(setting.attack)
    return published.lookup(
        dataset=scores.dataset,
        defense=split_key(defense)[0],
        attack=counterpart.attacks.get(label, label),
        surrogate=surrogate,
        norm=setting.norm,
        epsilon=setting.epsilon,
        metric=AGREEMENT,
        preferred=counterpart.table,
    )


def _answers(
    scores: Scores, defense: str, attacks: Sequence[str], norm: str, epsilon: float
) -> pd.DataFrame:
    frame = scores.outcomes
    chosen = (frame["defense"] == defense) & (frame["norm"] == norm)
    chosen &= (frame["epsilon"] == epsilon) & frame["attack"].isin(list(attacks))
    return frame[chosen]
