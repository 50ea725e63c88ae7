"""The defended classifiers, by name, in the order of the tables."""

from defenses.adversarial_training import AdversarialTraining
from defenses.base import Recipe, Wrapped
from defenses.cnn import CNN
from defenses.gmvae import GaussianMixtureVAE, Reclassification
from defenses.informed_substitute import InformedSubstitute
from defenses.magnet import MagNet
from defenses.projection.classifiers import ManifoldClassifier
from defenses.projection.descent import Momentum
from defenses.projection.families import Kind
from defenses.projection.learned_inverter import InverterImitation
from defenses.projection.recipe import AutoencodeAndClassify, InvertAndClassify
from defenses.projection.redrawing import RedrawAndClassify
from defenses.projection.robust_training import OverpoweredTraining
from defenses.purification import DEFENSE_VAE_PAIRS, Purification
from defenses.purification.learner import Reduction
from defenses.purification.networks import Spread
from defenses.substitutes import TABLE_6, Substitute
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
_MAGNET = Wrapped("magnet", MagNet(summary="undefended: the classifier that MAD-VAE protects"))
_INC_CLASSIFIER = Wrapped(
    "inc_classifier",
    ManifoldClassifier(summary="undefended: the classifier that Invert-and-Classify protects"),
)
_INC = Wrapped(
    "inc",
    InvertAndClassify(
        summary="Invert-and-Classify: onto a generator's range by descent, then the classifier",
        classifier=_INC_CLASSIFIER,
        epochs=75,
        batch_size=100,
    ),
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
    "magnet": _MAGNET.recipe,
    "identity_vae": Purification(
        summary="a VAE of clean images before MagNet's classifier: the null case of the purifiers",
        classifier=_MAGNET,
        pairs=(),
        epochs=10,
    ),
    "defense_vae": Purification(
        summary="a VAE that turns adversarial into clean images before MagNet's classifier",
        classifier=_MAGNET,
    ),
    "defense_vae_official": Purification(
        summary="Defense-VAE as its public code trains it: summed cross-entropy, no divergence",
        classifier=_MAGNET,
        pairs=DEFENSE_VAE_PAIRS,
        batch_size=16,
        learning_rate=5e-4,
        decay=1.0,
        reduction=Reduction.SUM,
        divergence=0.0,
        spread=Spread.LOG_VARIANCE,
        clip=0.0,
    ),
    "mad_vae_classification": Purification(
        summary="Defense-VAE with the classifier's loss on what it decodes",
        classifier=_MAGNET,
        epochs=10,
        classification=0.1,
    ),
    "mad_vae_proximity_distance": Purification(
        summary="Defense-VAE with latents near their class's centre and far from the others",
        classifier=_MAGNET,
        proximity=0.01,
        distance=1e-5,
    ),
    "mad_vae_combined": Purification(
        summary="MAD-VAE: Defense-VAE with both additions",
        classifier=_MAGNET,
        epochs=10,
        classification=0.1,
        proximity=0.01,
        distance=1e-5,
    ),
    **{
        f"substitute_{letter.lower()}": Substitute(
            summary=f"network {letter} of MAD-VAE's Table 6, trained on MagNet's answers",
            letter=letter,
            target=_MAGNET,
        )
        for letter in TABLE_6
    },
    "inc_classifier": _INC_CLASSIFIER.recipe,
    "inc": _INC.recipe,
    "inc_overpowered_training": OverpoweredTraining(
        summary="Invert-and-Classify whose classifier was trained against the Overpowered attack",
        classifier=_INC_CLASSIFIER,
    ),
    "autoencode_classify": AutoencodeAndClassify(
        summary="the encoder of Invert-and-Classify's generator in place of the descent",
        classifier=_INC_CLASSIFIER,
    ),
    "autoencode_classify_2d": AutoencodeAndClassify(
        summary="the same with a generator of two latents, which can be drawn in a plane",
        classifier=_INC_CLASSIFIER,
        latent=2,
        starts_from="inc[latent=2]",
    ),
    "defense_gan": InvertAndClassify(
        summary="Invert-and-Classify as Defense-GAN: a WGAN, ten starts, 200 steps of momentum",
        classifier=_INC_CLASSIFIER,
        generator=Kind.WGAN,
        epochs=926,
        batch_size=50,
        learning_rate=1e-4,
        steps=200,
        descent=Momentum(),
        tolerance=0.0,
        restarts=10,
        start_std=128**-0.5,
    ),
    "inc_substitute": InformedSubstitute(
        summary="a network like Invert-and-Classify's classifier, trained on inc's answers",
        target=_INC,
    ),
    "inc_inverter": InverterImitation(
        summary="an encoder trained on inc's projections, then inc's generator and classifier",
        target=_INC,
    ),
    "dip_inc": RedrawAndClassify(
        summary="an untrained network redraws the image (Deep Image Prior), then the classifier",
        classifier=_INC_CLASSIFIER,
        steps=200,
    ),
    "dip_inc_paper": RedrawAndClassify(
        summary="the same, stopped as the paper does for the smaller epsilons that it knows",
        classifier=_INC_CLASSIFIER,
    ),
}
