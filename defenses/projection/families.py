"""Which kind of generative model draws which images."""

from dataclasses import replace
from enum import StrEnum

from defenses.projection.began import BEGAN
from defenses.projection.vae import ConvolutionalVAE, DenseVAE
from defenses.projection.wgan import WGAN

_FACES = (3, 64, 64)


class Kind(StrEnum):
    """What a recipe or a specification may ask for.

    `PAPER` is what the paper chose for such images (Jalal et al. 2017, section 4.1), and where it
    has none the nearest of ours.
    """

    PAPER = "paper"
    DENSE_VAE = "dense_vae"
    CONVOLUTIONAL_VAE = "convolutional_vae"
    BEGAN = "began"
    WGAN = "wgan"


AnyFamily = DenseVAE | ConvolutionalVAE | BEGAN | WGAN
"""A `Family` that says how wide it is, how many latents it has and how fast it learns."""

FAMILIES: dict[Kind, AnyFamily] = {
    Kind.DENSE_VAE: DenseVAE(),
    Kind.CONVOLUTIONAL_VAE: ConvolutionalVAE(),
    Kind.BEGAN: BEGAN(),
    Kind.WGAN: WGAN(),
}
"""As published; `Kind.PAPER` is one of them, by the shape of the images."""


def suited(shape: tuple[int, int, int]) -> Kind:
    """The kind that stands for `Kind.PAPER` where images have this shape.

    The paper has a VAE for 28x28 grey digits and a BEGAN for 64x64 faces.
    """
    if shape == _FACES:
        return Kind.BEGAN
    return Kind.DENSE_VAE if shape[0] == 1 else Kind.CONVOLUTIONAL_VAE


def family_for(
    kind: Kind, shape: tuple[int, int, int], *, width: int = 0, latent: int = 0
) -> AnyFamily:
    """The family of a kind for images of a shape.

    Args:
        width: its hidden units or channels; 0 leaves what was published.
        latent: d; 0 leaves what was published.

    Raises:
        ValueError: a negative width or latent.
    """
    family = FAMILIES[suited(shape) if kind is Kind.PAPER else kind]
    for name, value in (("width", width), ("latent", latent)):
        if value < 0:
            raise ValueError(
                f"{name} must be positive, or 0 for what was published, got {value}; raise it"
            )
    return replace(family, width=width or family.width, latent=latent or family.latent)
