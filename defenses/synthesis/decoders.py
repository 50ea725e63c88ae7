"""K decoders as one network while they are trained (E-ABS, Table 9)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from defenses.architectures import Architecture


class ClassDecoders(nn.Module):
    """One decoder per class: a fully connected layer, dropout, transposed convolutions, sigmoid.

    All but the last transposed convolution are followed by batch normalisation and ReLU. Class k's
    parameters are the k-th block of every tensor, so that the same weights run as one grouped
    network (`forward` on a GPU) or class by class (`decode`, and `forward` on a CPU, where separate
    convolutions are measurably faster than grouped ones).

    Args:
        num_classes: K.
        architecture: layers and latent dimensions.
    """

    def __init__(self, num_classes: int, architecture: Architecture) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.dropout = architecture.dropout
        self.layers = architecture.decoder
        stem = self.layers[0].channels
        bound = 1 / math.sqrt(architecture.latent)
        self.stem_weight = nn.Parameter(
            torch.empty(num_classes, stem, architecture.latent).uniform_(-bound, bound)
        )
        self.stem_bias = nn.Parameter(torch.empty(num_classes, stem).uniform_(-bound, bound))
        inputs = (stem, *(layer.channels for layer in self.layers[:-1]))
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(
                num_classes * channels,
                num_classes * layer.channels,
                layer.kernel,
                layer.stride,
                layer.padding,
                groups=num_classes,
            )
            for channels, layer in zip(inputs, self.layers, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(num_classes * layer.channels) for layer in self.layers[:-1]
        )

    def forward(self, z: Tensor) -> Tensor:
        """Every class's image (N, K, C, H, W) of the latents z (N, d)."""
        if not z.is_cuda:
            return torch.stack([self.decode(k, z) for k in range(self.num_classes)], dim=1)
        h = torch.einsum("nd,kcd->nkc", z, self.stem_weight) + self.stem_bias
        h = functional.dropout(h.flatten(1), self.dropout, self.training)[:, :, None, None]
        for convolution, norm in zip(self.convolutions[:-1], self.norms, strict=True):
            h = functional.relu(norm(convolution(h)))
        h = self.convolutions[-1](h).sigmoid()
        return h.unflatten(1, (self.num_classes, -1))

    def decode(self, k: int, z: Tensor) -> Tensor:
        """Class k's images (N, C, H, W) of the latents z (N, d)."""
        h = functional.linear(z, self.stem_weight[k], self.stem_bias[k])
        h = functional.dropout(h, self.dropout, self.training)[:, :, None, None]
        for index, layer in enumerate(self.layers):
            convolution = self.convolutions[index]
            h = functional.conv_transpose2d(
                h,
                convolution.weight.chunk(self.num_classes)[k],
                convolution.bias.chunk(self.num_classes)[k],
                layer.stride,
                layer.padding,
            )
            if index == len(self.layers) - 1:
                return h.sigmoid()
            norm = self.norms[index]
            h = functional.batch_norm(
                h,
                norm.running_mean.chunk(self.num_classes)[k],
                norm.running_var.chunk(self.num_classes)[k],
                norm.weight.chunk(self.num_classes)[k],
                norm.bias.chunk(self.num_classes)[k],
                self.training,
                norm.momentum,
                norm.eps,
            ).relu()
        raise ValueError("layers must hold at least one transposed convolution, got none")
