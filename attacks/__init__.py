"""The attack suite: every attack by name, in table order, with the papers' parameters."""

from dataclasses import replace

from attacks.apgd import APGD
from attacks.base import Attack
from attacks.carlini_wagner_l0 import CarliniWagnerL0
from attacks.carlini_wagner_linf import CarliniWagnerLinf
from attacks.eot import View
from attacks.fab import FAB
from attacks.feature_matching import FeatureMatching
from attacks.fooling import Fooling
from attacks.from_foolbox import (
    BIM,
    DDN,
    FGSM,
    FMN,
    MIM,
    PGD,
    AdditiveNoise,
    Boundary,
    CarliniWagner,
    DeepFool,
    HopSkipJump,
    PGDEstimated,
    RandFGSM,
)
from attacks.latent_descent import LatentDescent
from attacks.losses import Loss
from attacks.overpowered import Overpowered
from attacks.overpowered_pairs import OverpoweredPairs
from attacks.refusal import Refusal
from attacks.selective import Rule, SelectiveDescent
from attacks.single_pixel import SinglePixel
from attacks.square import Square
from attacks.strongest import Strongest
from attacks.threat import Norm
from attacks.threshold_aware import ThresholdAware
from attacks.threshold_hinge import ThresholdHinge
from attacks.thresholds import Metric
from attacks.transfer import Transfer

_EOT = View(samples=5)
_EOT_20 = View(samples=20)

_SINGLE: dict[str, Attack] = {
    "pgd-linf": PGD(norm=Norm.LINF, steps=80, relative_step=0.01 / 0.3, restarts=20, view=_EOT),
    "deepfool-linf": DeepFool(norm=Norm.LINF, steps=100, view=_EOT),
    "noise-linf": AdditiveNoise(norm=Norm.LINF, repeats=100),
    "pgd-l2": PGD(norm=Norm.L2, steps=80, relative_step=0.025, restarts=20, view=_EOT),
    "ddn": DDN(steps=80, view=_EOT),
    "cw-l2": CarliniWagner(binary_search_steps=5, steps=100, view=_EOT),
    "deepfool-l2": DeepFool(norm=Norm.L2, steps=100, view=_EOT),
    "cw-linf": CarliniWagnerLinf(view=_EOT),
    "cw-l0": CarliniWagnerL0(view=_EOT),
    "noise-l2": AdditiveNoise(norm=Norm.L2, repeats=100),
    "boundary": Boundary(steps=100_000),
    "square-linf": Square(norm=Norm.LINF),
    "square-l2": Square(norm=Norm.L2),
    "hopskipjump-l2": HopSkipJump(norm=Norm.L2),
    "hopskipjump-linf": HopSkipJump(norm=Norm.LINF),
    "fmn-linf": FMN(norm=Norm.LINF, view=_EOT),
    "fmn-l2": FMN(norm=Norm.L2, view=_EOT),
    "fmn-l1": FMN(norm=Norm.L1, view=_EOT),
    "fmn-l0": FMN(norm=Norm.L0, view=_EOT),
    "fab-linf": FAB(norm=Norm.LINF, view=_EOT),
    "fab-l2": FAB(norm=Norm.L2, view=_EOT),
    "fab-l1": FAB(norm=Norm.L1, view=_EOT),
    "pgd-estimated-linf": PGDEstimated(steps=50, samples=100),
    "fgsm": FGSM(norm=Norm.LINF, view=_EOT),
    "rand-fgsm": RandFGSM(view=_EOT),
    "bim": BIM(norm=Norm.LINF, view=_EOT),
    "mim-linf": MIM(view=_EOT),
    "apgd-ce-linf": APGD(norm=Norm.LINF, loss=Loss.CROSS_ENTROPY, restarts=5, view=_EOT_20),
    "apgd-ce-l2": APGD(norm=Norm.L2, loss=Loss.CROSS_ENTROPY, restarts=5, view=_EOT_20),
    "apgd-ce-l1": APGD(norm=Norm.L1, loss=Loss.CROSS_ENTROPY, restarts=5, view=_EOT_20),
    "apgd-margin-linf": APGD(norm=Norm.LINF, loss=Loss.MARGIN, restarts=5, view=_EOT_20),
    "apgd-margin-l2": APGD(norm=Norm.L2, loss=Loss.MARGIN, restarts=5, view=_EOT_20),
    "apgd-margin-l1": APGD(norm=Norm.L1, loss=Loss.MARGIN, restarts=5, view=_EOT_20),
    "apgd-dlr-linf": APGD(norm=Norm.LINF, loss=Loss.DLR, restarts=5, view=_EOT_20),
    "apgd-dlr-l2": APGD(norm=Norm.L2, loss=Loss.DLR, restarts=5, view=_EOT_20),
    "apgd-targeted-linf": APGD(norm=Norm.LINF, loss=Loss.DLR, targets=9, view=_EOT_20),
    "apgd-targeted-l2": APGD(norm=Norm.L2, loss=Loss.DLR, targets=9, view=_EOT_20),
    "apgd-targeted-l1": APGD(norm=Norm.L1, loss=Loss.DLR, targets=9, view=_EOT_20),
    "apgd-true-class-linf": APGD(norm=Norm.LINF, loss=Loss.TRUE_CLASS, restarts=5, view=_EOT_20),
    "apgd-true-class-l2": APGD(norm=Norm.L2, loss=Loss.TRUE_CLASS, restarts=5, view=_EOT_20),
    "apgd-lowpass-linf": APGD(
        norm=Norm.LINF, loss=Loss.MARGIN, band=0.25, restarts=5, view=_EOT_20
    ),
    "apgd-lowpass-l2": APGD(norm=Norm.L2, loss=Loss.MARGIN, band=0.25, restarts=5, view=_EOT_20),
    "single-pixel": SinglePixel(view=_EOT),
    "transfer-fgsm": Transfer(norm=Norm.LINF, crafting=FGSM(norm=Norm.LINF)),
    "transfer-bim": Transfer(
        norm=Norm.LINF, crafting=BIM(norm=Norm.LINF, steps=20, relative_step=0.1)
    ),
    "transfer-pgd-linf": Transfer(
        norm=Norm.LINF, crafting=PGD(norm=Norm.LINF, steps=80, relative_step=0.01 / 0.3)
    ),
    "transfer-pgd-l2": Transfer(
        norm=Norm.L2, crafting=PGD(norm=Norm.L2, steps=80, relative_step=0.025)
    ),
    "overpowered-l2": Overpowered(norm=Norm.L2),
    "overpowered-unrestricted": Overpowered(norm=Norm.UNRESTRICTED),
    "overpowered-pairs": OverpoweredPairs(),
    "latent-descent": LatentDescent(coarse_steps=51, binary_steps=10),
    "threshold-aware-l2": ThresholdAware(),
    "threshold-aware-printed-l2": ThresholdAware(metric=Metric.PRINTED),
    "threshold-hinge-linf": ThresholdHinge(norm=Norm.LINF),
    "threshold-hinge-l2": ThresholdHinge(norm=Norm.L2),
    "threshold-selective-linf": SelectiveDescent(norm=Norm.LINF),
    "threshold-selective-l2": SelectiveDescent(norm=Norm.L2),
    "threshold-orthogonal-linf": SelectiveDescent(norm=Norm.LINF, rule=Rule.ORTHOGONAL),
    "threshold-orthogonal-l2": SelectiveDescent(norm=Norm.L2, rule=Rule.ORTHOGONAL),
    "feature-matching-linf": FeatureMatching(norm=Norm.LINF),
    "feature-matching-l2": FeatureMatching(norm=Norm.L2),
    "fooling": Fooling(),
    "fooling-printed": Fooling(metric=Metric.PRINTED),
    "refusal-linf": Refusal(norm=Norm.LINF, view=_EOT),
    "refusal-l2": Refusal(norm=Norm.L2, view=_EOT),
}


def _as_registered(specification: str) -> Attack:
    """A member of an ensemble, ``name`` or ``name@surrogate``."""
    name, _, surrogate = specification.partition("@")
    attack = _SINGLE[name]
    return replace(attack, view=replace(attack.view, surrogate=surrogate or None))


ATTACKS: dict[str, Attack] = {
    **_SINGLE,
    **{
        f"strongest-{norm}": Strongest(norm=norm).composed(_as_registered)
        for norm in Strongest.norms
    },
}

SUITES: dict[str, tuple[str, ...]] = {
    "all_linf": ("pgd-linf", "deepfool-linf", "noise-linf"),
    "all_l2": ("pgd-l2", "ddn", "cw-l2", "deepfool-l2", "noise-l2"),
    "gradient_free": (
        "boundary",
        "pgd-estimated-linf",
        "square-linf",
        "square-l2",
        "hopskipjump-l2",
        "hopskipjump-linf",
    ),
    "threshold_aware": (
        "threshold-aware-l2",
        "threshold-hinge-linf",
        "threshold-hinge-l2",
        "threshold-selective-linf",
        "threshold-selective-l2",
        "threshold-orthogonal-linf",
        "threshold-orthogonal-l2",
        "feature-matching-linf",
        "feature-matching-l2",
        "fooling",
    ),
    "purifier": (
        "fgsm",
        "rand-fgsm",
        "mim-linf",
        "pgd-linf",
        "cw-l2",
        "single-pixel",
        "overpowered-l2",
    ),
    "strongest": ("strongest-linf", "strongest-l2"),
    "all": tuple(name for name, attack in _SINGLE.items() if attack.norm is not Norm.L1),
}
"""Attacks by use; `all` leaves out L1, for which no data set has budgets of its own."""
