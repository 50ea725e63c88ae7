"""The attack suite: every attack by name, in table order, with the papers' parameters."""

from attacks.base import Attack
from attacks.carlini_wagner_l0 import CarliniWagnerL0
from attacks.carlini_wagner_linf import CarliniWagnerLinf
from attacks.eot import View
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
from attacks.overpowered import Overpowered
from attacks.overpowered_pairs import OverpoweredPairs
from attacks.refusal import Refusal
from attacks.single_pixel import SinglePixel
from attacks.square import Square
from attacks.threat import Norm
from attacks.threshold_aware import ThresholdAware
from attacks.threshold_hinge import ThresholdHinge
from attacks.thresholds import Metric
from attacks.transfer import Transfer

_EOT = View(samples=5)

ATTACKS: dict[str, Attack] = {
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
    "pgd-estimated-linf": PGDEstimated(steps=50, samples=100),
    "fgsm": FGSM(norm=Norm.LINF, view=_EOT),
    "rand-fgsm": RandFGSM(view=_EOT),
    "bim": BIM(norm=Norm.LINF, view=_EOT),
    "mim-linf": MIM(view=_EOT),
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
    "fooling": Fooling(),
    "fooling-printed": Fooling(metric=Metric.PRINTED),
    "refusal-linf": Refusal(norm=Norm.LINF, view=_EOT),
    "refusal-l2": Refusal(norm=Norm.L2, view=_EOT),
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
    "all": tuple(ATTACKS),
}
