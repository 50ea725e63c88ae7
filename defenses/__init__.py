"""The defended classifiers, by name, in the order of the tables."""

from defenses.adversarial_training import AdversarialTraining
from defenses.base import Recipe
from defenses.cnn import CNN
from defenses.gmvae import GaussianMixtureVAE, Reclassification
from defenses.synthesis import (
    AdversarialPrior,
    ClassEncoders,
    GaussianPrior,
    PointPosterior,
    SharedEncoder,
    Synthesis,
    VariationalPosterior,
)

_GMVAE = GaussianMixtureVAE(
    summary="a VAE with a Gaussian per class that rejects by distance and reconstruction"
)

DEFENSES: dict[str, Recipe] = {
    "cnn": CNN(summary="undefended: E-ABS's encoder and a linear layer", epochs=500),
    "adv_linf": AdversarialTraining(
        summary="the CNN trained on PGD-Linf examples",
        norm="linf",
        inner_attack="pgd-linf[relative_step=0.25,steps=10]",
    ),
    "adv_l2": AdversarialTraining(
        summary="the CNN trained on PGD-L2 examples",
        norm="l2",
        inner_attack="pgd-l2[relative_step=0.25,steps=10]",
    ),
    "abs": Synthesis(
        summary="analysis by synthesis with one VAE per class",
        encoding=ClassEncoders(),
        prior=GaussianPrior(),
        posterior=PointPosterior(),
    ),
    "a_abs": Synthesis(
        summary="ABS with adversarial autoencoders",
        encoding=ClassEncoders(),
        prior=AdversarialPrior(),
        posterior=PointPosterior(),
    ),
    "d_abs": Synthesis(
        summary="ABS with a shared encoder and the discriminative loss",
        encoding=SharedEncoder(),
        prior=GaussianPrior(),
        posterior=PointPosterior(),
    ),
    "v_abs": Synthesis(
        summary="ABS with variational inference",
        encoding=ClassEncoders(),
        prior=GaussianPrior(),
        posterior=VariationalPosterior(),
    ),
    "ad_abs": Synthesis(
        summary="E-ABS without variational inference",
        encoding=SharedEncoder(),
        prior=AdversarialPrior(),
        posterior=PointPosterior(),
    ),
    "av_abs": Synthesis(
        summary="E-ABS without shared encoder and discriminative loss",
        encoding=ClassEncoders(),
        prior=AdversarialPrior(),
        posterior=VariationalPosterior(),
    ),
    "dv_abs": Synthesis(
        summary="E-ABS without adversarial autoencoders",
        encoding=SharedEncoder(),
        prior=GaussianPrior(),
        posterior=VariationalPosterior(),
    ),
    "eabs": Synthesis(
        summary="E-ABS: shared encoder, adversarial autoencoders, variational inference",
        encoding=SharedEncoder(),
        prior=AdversarialPrior(),
        posterior=VariationalPosterior(),
    ),
    "gmvae": _GMVAE,
    "gmvae_reclassify": Reclassification(
        summary="GMVAE that looks for the latent of what it refuses",
        base=_GMVAE,
        starts_from="gmvae",
    ),
    "gmvae_semi": GaussianMixtureVAE(
        summary="GMVAE that saw 100 labels per class",
        labels_per_class=100,
    ),
    "gmvae_variable_entropy": GaussianMixtureVAE(
        summary="GMVAE whose encoder learns its variance",
        learns_variance=True,
    ),
}
