"""K decoders as inference runs them: frozen, folded, with their gradient in the latent by hand.

The inner loop of every ABS-like defense asks for |x - G_k(z)|^2 and its gradient in z, for all
classes of all images. Four things make that fast, and change the result by rounding only:

* batch normalisation is folded into the convolutions, and the fully connected layer together with
  the first transposed convolution (nothing stands between them) into one matrix;
* the backward pass is written out: a transposed convolution's gradient is a convolution with the
  same weights, so no graph is recorded and the weights need no gradients;
* on a CPU the classes run one after the other, so that a class's activations stay in the cache;
  on a GPU they run as one grouped network;
* on a CPU activations and weights are kept channels-last, which its convolutions like best.
"""

import torch
from torch import Tensor
from torch.nn import functional

from defenses.base import Cost
from defenses.synthesis.decoders import ClassDecoders


class FrozenDecoders:
    """A snapshot of `ClassDecoders` in evaluation mode.

    Args:
        decoders: the trained networks; later changes to them are not seen.
        cost: where decoded images are counted.
    """

    def __init__(self, decoders: ClassDecoders, cost: Cost) -> None:
        self.cost = cost
        self.classes = decoders.num_classes
        self.latent = decoders.latent
        self.device = decoders.stem_weight.device
        on_gpu = self.device.type == "cuda"
        self._together = self.classes if on_gpu else 1
        self._format = torch.contiguous_format if on_gpu else torch.channels_last
        self._stem, self._stem_bias, self._stem_shape = _merged_stem(decoders)
        self._steps = [(layer.conv.stride, layer.conv.padding) for layer in decoders.layers[1:]]
        folded = [layer.folded() for layer in decoders.layers[1:]]
        self._weights = [self._bundled(weights) for weights, _ in folded]
        self._biases = [self._bundled(biases) for _, biases in folded]

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, K, C, H, W) of the latents z (N, K, d), differentiable in them."""
        self.cost.decoder += z.shape[0] * z.shape[1]
        stem = self._stem_output(z)
        images = [
            self._activations(stem, bundle)[-1].unflatten(1, (self._together, -1))
            for bundle in range(self.classes // self._together)
        ]
        return torch.cat(images, dim=1)

    @torch.no_grad()
    def error_and_gradient(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """|x - G_k(z)|^2 (N, K) and its gradient in z (N, K, d).

        Args:
            x: images (N, C, H, W).
            z: latents (N, K, d).
        """
        self.cost.decoder += z.shape[0] * z.shape[1]
        stem = self._stem_output(z)
        target = x.contiguous(memory_format=self._format)
        if self._together > 1:
            target = target.repeat(1, self._together, 1, 1)
        errors, stem_gradient = [], torch.empty_like(stem)
        for bundle in range(self.classes // self._together):
            activations = self._activations(stem, bundle)
            image = activations[-1]
            residual = image - target
            errors.append(residual.square().unflatten(1, (self._together, -1)).sum(dim=(2, 3, 4)))
            gradient = residual.mul_(2).mul_(image).mul_(1 - image)
            for layer in reversed(range(len(self._steps))):
                stride, padding = self._steps[layer]
                gradient = functional.conv2d(
                    gradient,
                    self._weights[layer][bundle],
                    None,
                    stride,
                    padding,
                    groups=self._together,
                )
                gradient = torch.ops.aten.threshold_backward(gradient, activations[layer], 0)
            classes = slice(bundle * self._together, (bundle + 1) * self._together)
            stem_gradient[classes] = gradient.reshape(len(x), self._together, -1).transpose(0, 1)
        return torch.cat(errors, dim=1), torch.bmm(
            stem_gradient, self._stem.transpose(1, 2)
        ).transpose(0, 1)

    def _stem_output(self, z: Tensor) -> Tensor:
        """(K, N, C1 * s * s): the first hidden layer, rectified."""
        return torch.baddbmm(self._stem_bias, z.transpose(0, 1), self._stem).relu_()

    def _activations(self, stem: Tensor, bundle: int) -> list[Tensor]:
        """Every layer's output for one bundle of classes, the image last."""
        first = bundle * self._together
        h = stem[first : first + self._together].unflatten(2, self._stem_shape)
        h = h.transpose(0, 1).flatten(1, 2).contiguous(memory_format=self._format)
        activations = [h]
        for layer, (stride, padding) in enumerate(self._steps):
            h = functional.conv_transpose2d(
                h,
                self._weights[layer][bundle],
                self._biases[layer][bundle],
                stride,
                padding,
                groups=self._together,
            )
            h = h.sigmoid_() if layer == len(self._steps) - 1 else h.relu_()
            activations.append(h)
        return activations

    def _bundled(self, blocks: list[Tensor]) -> list[Tensor]:
        """K classes' tensors joined into bundles of the classes that run together."""
        bundles = [
            torch.cat(blocks[first : first + self._together])
            for first in range(0, self.classes, self._together)
        ]
        if bundles[0].ndim == 4:
            return [bundle.contiguous(memory_format=self._format) for bundle in bundles]
        return bundles


@torch.no_grad()
def _merged_stem(decoders: ClassDecoders) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
    """The fully connected layer and the first transposed convolution as one affine map per class.

    Returns:
        Matrices (K, d, C1 * s * s), offsets (K, 1, C1 * s * s) and (C1, s, s).
    """
    first = decoders.layers[0]
    matrices, offsets = [], []
    for k, (weight, bias) in enumerate(zip(*first.folded(), strict=True)):
        basis = decoders.stem_weight[k].t()
        spread = functional.conv_transpose2d(
            torch.cat([basis, decoders.stem_bias[k : k + 1]])[:, :, None, None],
            weight,
            None,
            first.conv.stride,
            first.conv.padding,
        )
        matrices.append(spread[:-1].flatten(1))
        offsets.append((spread[-1] + bias[:, None, None]).reshape(1, -1))
        shape = (spread.shape[1], spread.shape[2], spread.shape[3])
    return torch.stack(matrices), torch.stack(offsets), shape
