"""Analysis by synthesis: ABS (Schott et al. 2018), E-ABS (Ju and Wagner 2020), its ablations."""

from defenses.synthesis.classifier import SynthesisClassifier
from defenses.synthesis.encoding import ClassEncoders, SharedEncoder
from defenses.synthesis.posterior import PointPosterior, VariationalPosterior
from defenses.synthesis.prior import AdversarialPrior, GaussianPrior
from defenses.synthesis.recipe import Synthesis

__all__ = [
    "AdversarialPrior",
    "ClassEncoders",
    "GaussianPrior",
    "PointPosterior",
    "SharedEncoder",
    "Synthesis",
    "SynthesisClassifier",
    "VariationalPosterior",
]
