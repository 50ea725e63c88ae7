"""How purifiers are trained: Defense-VAE, MAD-VAE's three additions to it, and their null case."""

from dataclasses import dataclass
from typing import final

from defenses.base import Defense, InnerAttack, Learner, Recipe, Task, Wrapped
from defenses.counting import Counts
from defenses.pairing import Attacked, Pairing
from defenses.purification.learner import Clusters, Loss, PurifierLearner, Rates, Reduction
from defenses.purification.networks import Spread
from defenses.purification.purifier import Purifier

CLASSIFIER = "classifier"


def mad_pairs(cw: str) -> tuple[Attacked, ...]:
    """MAD-VAE, section 3: three attacks with three settings each; values from its public code.

    Args:
        cw: further fields of Carlini and Wagner's attack.
    """
    filling = ("fgsm", "rand-fgsm[alpha=0.05]")
    return (
        *(Attacked(attack, epsilon) for attack in filling for epsilon in (0.25, 0.3, 0.35)),
        *(Attacked(f"cw-l2[confidence={confidence},{cw}]") for confidence in (5, 10, 15)),
    )


def defense_vae_pairs(steps: int) -> tuple[Attacked, ...]:
    """Defense-VAE's public code: twelve sets; its four CW attacks differ in Adam's rate alone.

    Args:
        steps: of Carlini and Wagner's attack.
    """
    filling = ("fgsm", "rand-fgsm[alpha=0.05]")
    cw = f"cw-l2[binary_search_steps=1,steps={steps},initial_const=100"
    return (
        *(Attacked(attack, epsilon) for attack in filling for epsilon in (0.2, 0.25, 0.3, 0.35)),
        *(Attacked(f"{cw},stepsize={rate}]") for rate in (6, 8, 10, 12)),
    )


MAD_PAIRS = mad_pairs("binary_search_steps=9,steps=1500")
DEFENSE_VAE_PAIRS = defense_vae_pairs(100)


@final
@dataclass(frozen=True, kw_only=True)
class Purification(Recipe):
    """Defense-VAE as MAD-VAE's "vanilla" has it; other values give the other purifiers.

    Adam's rate of 1e-3, its decay and SGD's rates are the public code's ("an exponential learning
    rate scheduler" is all that MAD-VAE says, section 3).

    Args:
        classifier: what is protected; the pairs are its adversarial examples.
        answered_by: a defense that classifies the purified images in the classifier's place, after
            training: MAD-VAE's Table 2 purifies attacks on a substitute and asks the substitute.
        pairs: the attacks that make the training pairs; none trains on clean images.
        pairs_per_attack: training images per attack, drawn anew for each, where there are so many;
            0 takes all.
        reduction, divergence, classification, proximity, distance, spread: see `Loss`.
        centres: whose centres proximity and distance mean, "shared" or "separate";
            ``[centres=separate,distance=1e-4]`` is what MAD-VAE's public code trains.
        decay, least_rate, attracting_rate, repelling_rate, centres_decay, clip: see `Rates`.
    """

    inference_fields = frozenset({"answered_by"})
    counts = Counts.AGREEMENT

    epochs: int = 5
    halve_every: int = 0
    classifier: Wrapped
    answered_by: Wrapped | None = None
    pairs: tuple[Attacked, ...] = MAD_PAIRS
    pairs_per_attack: int = 0
    reduction: Reduction = Reduction.MEAN
    divergence: float = 0.1
    classification: float = 0.0
    proximity: float = 0.0
    distance: float = 0.0
    centres: Clusters = Clusters.SHARED
    spread: Spread = Spread.ABSOLUTE
    decay: float = 0.998
    least_rate: float = 1e-5
    attracting_rate: float = 0.5
    repelling_rate: float = 1e-4
    centres_decay: float = 0.1
    clip: float = 1.0

    def pairing(self) -> Pairing | None:
        """See `Recipe.pairing`."""
        if not self.pairs:
            return None
        return Pairing(CLASSIFIER, self.pairs, self.pairs_per_attack)

    def build(self, task: Task) -> Purifier:
        """Untrained networks around an untrained classifier.

        Raises:
            ValueError: a defense inside that may reject, or images of odd sides.
        """
        joined = None if self.answered_by is None else self.answered_by.build(task)
        return Purifier(task, self.classifier.build(task), answered_by=joined)

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Adam on encoder and decoder."""
        if not isinstance(defense, Purifier):
            raise ValueError(f"defense must be a Purifier, got {type(defense).__name__}")
        loss = Loss(
            reduction=self.reduction,
            divergence=self.divergence,
            classification=self.classification,
            proximity=self.proximity,
            distance=self.distance,
            clusters=self.centres,
            spread=self.spread,
        )
        rates = Rates(
            networks=self.learning_rate,
            decay=self.decay,
            least=self.least_rate,
            attracting=self.attracting_rate,
            repelling=self.repelling_rate,
            centres_decay=self.centres_decay,
            clip=self.clip,
        )
        return PurifierLearner(defense, loss, rates)
