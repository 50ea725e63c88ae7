"""Attacks that Foolbox 3 runs (Rauber et al. 2017, 2020); nothing outside imports it.

Foolbox proposes directions; which point counts is settled by our own `Recorder` and by asking the
deployed defense, so none of Foolbox's verdicts reaches a number.
"""

import warnings

with warnings.catch_warnings():
    # Foolbox imports a SciPy name by its deprecated path (attacks/blur.py).
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox  # noqa: F401

from attacks.from_foolbox.decision_based import AdditiveNoise, Boundary
from attacks.from_foolbox.descent import BIM, MIM, PGD, PGDEstimated
from attacks.from_foolbox.hop_skip_jump import HopSkipJump
from attacks.from_foolbox.minimum_norm import DDN, FMN, CarliniWagner, DeepFool, GradientSearch
from attacks.from_foolbox.single_step import FGSM, RandFGSM

__all__ = [
    "BIM",
    "DDN",
    "FGSM",
    "FMN",
    "MIM",
    "PGD",
    "AdditiveNoise",
    "Boundary",
    "CarliniWagner",
    "DeepFool",
    "GradientSearch",
    "HopSkipJump",
    "PGDEstimated",
    "RandFGSM",
]
