"""The attack suite: every attack by name, in table order, with the E-ABS paper's parameters."""

from attacks.base import Attack
from attacks.eot import View
from attacks.from_foolbox import (
    BIM,
    DDN,
    FGSM,
    PGD,
    AdditiveNoise,
    Boundary,
    CarliniWagner,
    DeepFool,
    PGDEstimated,
)
from attacks.latent_descent import LatentDescent
from attacks.threat import Norm

_EOT = View(samples=5)

ATTACKS: dict[str, Attack] = {
    "pgd-linf": PGD(norm=Norm.LINF, steps=80, relative_step=0.01 / 0.3, restarts=20, view=_EOT),
    "deepfool-linf": DeepFool(norm=Norm.LINF, steps=100, view=_EOT),
    "noise-linf": AdditiveNoise(norm=Norm.LINF, repeats=100),
    "pgd-l2": PGD(norm=Norm.L2, steps=80, relative_step=0.025, restarts=20, view=_EOT),
    "ddn": DDN(steps=80, view=_EOT),
    "cw-l2": CarliniWagner(binary_search_steps=5, steps=100, view=_EOT),
    "deepfool-l2": DeepFool(norm=Norm.L2, steps=100, view=_EOT),
    "noise-l2": AdditiveNoise(norm=Norm.L2, repeats=100),
    "boundary": Boundary(steps=100_000),
    "pgd-estimated-linf": PGDEstimated(steps=50, samples=100),
    "fgsm": FGSM(norm=Norm.LINF, view=_EOT),
    "bim": BIM(norm=Norm.LINF, view=_EOT),
    "latent-descent": LatentDescent(coarse_steps=51, binary_steps=10),
}

SUITES: dict[str, tuple[str, ...]] = {
    "all_linf": ("pgd-linf", "deepfool-linf", "noise-linf"),
    "all_l2": ("pgd-l2", "ddn", "cw-l2", "deepfool-l2", "noise-l2"),
    "gradient_free": ("boundary", "pgd-estimated-linf"),
    "all": tuple(ATTACKS),
}
