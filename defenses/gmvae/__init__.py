"""The Gaussian mixture variational autoencoder of Ghosh et al. 2019."""

from defenses.gmvae.classifier import GMVAE
from defenses.gmvae.recipe import GaussianMixtureVAE
from defenses.gmvae.reclassification import Reclassification, Reclassifying
from defenses.gmvae.rejection import Spread

__all__ = ["GMVAE", "GaussianMixtureVAE", "Reclassification", "Reclassifying", "Spread"]
