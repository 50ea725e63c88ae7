"""Rules about the defense itself: is it a function of the image, and does its gradient help?"""

from collections.abc import Callable, Iterator, Mapping

from benchmark.diagnostics.evidence import Evidence
from benchmark.diagnostics.finding import Seen, Severity
from benchmark.probes import DefenseProbe, Share
from benchmark.scores import split_key

MANY = 0.25
"""Share of the probed images from which a property is one of the defense and not of an image."""
LEAST_COVERAGE = 0.5


def zero_gradients(evidence: Evidence) -> Iterator[Seen | None]:
    """A surrogate whose gradient vanishes, so that an attack along it stays where it starts.

    Shattered gradients (Athalye et al. 2018, section 3) or a saturated loss (Carlini & Wagner,
    "Defensive distillation is not robust", 2016); AutoAttack's flags warn of the same. From a
    quarter of the images on numbers are in doubt; a single image may sit on a plateau.
    """
    yield from _by_surrogate(
        evidence, lambda probe: probe.zero_gradients, "the gradient is zero", few=Severity.NOTE
    )


def non_finite_gradients(evidence: Evidence) -> Iterator[Seen | None]:
    """A surrogate whose gradient is NaN or infinite; one such image is one too many.

    A numerically unstable layer (Athalye et al. 2018, section 3): attacks stop there silently.
    """
    yield from _by_surrogate(
        evidence,
        lambda probe: probe.odd_gradients,
        "the gradient is not finite",
        few=Severity.SUSPECT,
    )


def flat_landscape(evidence: Evidence) -> Iterator[Seen | None]:
    """Gradients that are no better than random directions (Tramèr et al. 2020)."""
    yield from _by_surrogate(
        evidence, lambda probe: probe.flat, "a random direction does as well as the gradient"
    )


def jagged_landscape(evidence: Evidence) -> Iterator[Seen | None]:
    """Gradients that promise more than a short step keeps (Carlini et al. 2019).

    The local slope is then not that of the region, as behind quantisation or under strong noise.
    """
    yield from _by_surrogate(
        evidence, lambda probe: probe.jagged, "a short step keeps less than half of its promise"
    )


def not_deterministic(evidence: Evidence) -> Iterator[Seen | None]:
    """A defense that declares no randomness and answers differently to two generators.

    Attacks then don't average over its noise, and judges ask only once: robustness by luck
    (Athalye et al. 2018, section 4.2; AutoAttack's flag for randomized classifiers).
    """
    for defense, probe in evidence.probes.defenses.items():
        if not probe.stochastic:
            said = "answers change with the seed although it declares itself deterministic"
            yield from _of_defense(defense, probe.repeats, said)


def batch(evidence: Evidence) -> Iterator[Seen | None]:
    """A defense whose answer to an image depends on what else is asked with it.

    The point that an attack found in its batch is then not the point that is judged; such
    test-time defenses need attacks of their own (Croce et al. 2022).
    """
    for defense, probe in evidence.probes.defenses.items():
        yield from _of_defense(
            defense, probe.batches, "answers differ between an image alone and in a batch"
        )


def order(evidence: Evidence) -> Iterator[Seen | None]:
    """A defense whose answer depends on the order of the questions, as with hidden state.

    Numbers can then not be repeated (Croce et al. 2022, on defenses that adapt while they run).
    """
    for defense, probe in evidence.probes.defenses.items():
        yield from _of_defense(defense, probe.orders, "answers change with the order of the images")


def device(evidence: Evidence) -> Iterator[Seen | None]:
    """A defense that answers differently on the CPU and on the accelerator.

    A few images near a boundary may turn with rounding; from a quarter on, the number belongs to
    the device. The rule and its share are ours.
    """
    for defense, probe in evidence.probes.defenses.items():
        yield from _of_defense(
            defense, probe.devices, "answers differ between CPU and accelerator", few=Severity.NOTE
        )


def refuses(evidence: Evidence) -> Iterator[Seen | None]:
    """A defense that accepts less than half of the clean images.

    Accepted errors say little of it: who refuses everything makes none (Carlini et al. 2019: report
    what a detector refuses of clean data). The records count, else the probe.
    """
    for defense in evidence.scores.defenses:
        clean = evidence.scores.clean(defense)
        probe = evidence.probes.defenses.get(defense)
        refused = Share(clean.rejected, clean.n) if clean.measured else probe and probe.refused
        if refused and refused.of:
            accepts_enough = 1 - refused.hits / refused.of >= LEAST_COVERAGE
            text = f"{_of(refused, 'clean images')} are refused"
            yield None if accepts_enough else Seen(defense=defense, text=text)


def _of_defense(
    defense: str, share: Share, text: str, few: Severity = Severity.SUSPECT
) -> Iterator[Seen | None]:
    """What a probe says of one defense; nothing where the question does not arise.

    Args:
        few: severity where fewer than a quarter of the images are concerned.
    """
    if not share.of:
        return
    severity = few if share.hits < MANY * share.of else Severity.SUSPECT
    seen = Seen(defense=defense, severity=severity, text=f"{text} ({_of(share, 'images')})")
    yield seen if share.hits else None


def _by_surrogate(
    evidence: Evidence,
    shares: Callable[[DefenseProbe], Mapping[str, Share]],
    text: str,
    few: Severity | None = None,
) -> Iterator[Seen | None]:
    """What a probe says of each surrogate; in doubt only where an attack climbs it.

    Args:
        few: severity where fewer than a quarter of the images are concerned; None is silent.
    """
    for defense, probe in evidence.probes.defenses.items():
        for surrogate, share in shares(probe).items():
            if not share.of:
                continue
            severity = Severity.SUSPECT if share.hits >= MANY * share.of else few
            if not share.hits or severity is None:
                yield None
                continue
            climbed = _climbed(evidence, defense, probe, surrogate)
            aside = "" if climbed else "; no attack here climbs it"
            yield Seen(
                defense=defense,
                severity=severity if climbed else Severity.NOTE,
                text=f"on surrogate {surrogate} {text} ({_of(share, 'images')}){aside}",
            )


def _climbed(evidence: Evidence, defense: str, probe: DefenseProbe, surrogate: str) -> bool:
    """Whether an attack of the table uses a surrogate, as far as is known."""
    named = {
        split_key(attack)[1]
        for attacks in evidence.scores.attacks.values()
        for attack in attacks
        if (defense, attack) not in evidence.scores.not_applicable
    }
    is_default = probe.strongest in ("", surrogate)
    return surrogate in named or ("" in named and is_default)


def _of(share: Share, what: str) -> str:
    return f"{share.hits} of {share.of} {what}"
