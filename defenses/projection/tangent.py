"""How a projection moves with its image, to first order: Gauss and Newton's normal equations."""

import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad

from defenses.projection.generator import GenerativeModel


def jacobian(model: GenerativeModel, z: Tensor) -> Tensor:
    """J = dG/dz (N, D, d) at latents (N, d), D the number of an image's values.

    Forward mode, a latent dimension at a time: there are far fewer of them than pixels.
    """
    columns = []
    with warnings.catch_warnings():
        # PyTorch's forward mode scripts its own rules when first used, and deprecates scripting.
        warnings.simplefilter("ignore", DeprecationWarning)
        for axis in torch.eye(z.shape[1], dtype=z.dtype, device=z.device):
            with forward_ad.dual_level():
                image = model.decode(forward_ad.make_dual(z, axis.repeat(len(z), 1)))
                columns.append(forward_ad.unpack_dual(image).tangent.flatten(1))
    return torch.stack(columns, dim=2)


class Tangent:
    """The linear map that takes a change of the image to that of its projection.

        dG(z*) = J (J' J + mu I)^-1 J' dx        (SPEC 5.4)

    Exact where the image lies in the generator's range or the generator is linear (mu = 0); a
    residual times the generator's curvature is what it leaves out. The map is symmetric. Where the
    generator draws no number nothing moves.

    Args:
        model: in evaluation mode.
        z: (N, d), where the images' projections are.
        damping: mu, as a share of the mean of J' J's diagonal; ours.
    """

    def __init__(self, model: GenerativeModel, z: Tensor, damping: float) -> None:
        with torch.no_grad():
            self._columns = jacobian(model, z).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            normal = self._columns.mT @ self._columns
            scale = normal.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(_TINY)
            ridge = damping * scale[:, None, None] * torch.eye(z.shape[1]).to(z)
            self._inverse = torch.linalg.pinv(normal + ridge, hermitian=True)

    def __call__(self, change: Tensor) -> Tensor:
        """The projection's change (N, C, H, W) for a change of the images; differentiable."""
        along = self._columns.mT @ change.flatten(1)[..., None]
        moved: Tensor = self._columns @ (self._inverse @ along)
        return moved.reshape(change.shape)


_TINY = 1e-12
