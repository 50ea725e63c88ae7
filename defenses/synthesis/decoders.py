"""K decoders as one network while they are trained (E-ABS, Table 9)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from defenses.architectures import Architecture, Conv

_MOMENTUM = 0.1  # torch's default for running statistics


class ClassLayer(nn.Module):
    """One transposed convolution for all classes, with batch normalisation and ReLU or a sigmoid.

    Class k's parameters are the k-th block of every tensor.

    Args:
        num_classes: K.
        channels: incoming channels per class.
        conv: the layer of Table 9.
        last: no normalisation, and a sigmoid.
    """

    def __init__(self, num_classes: int, channels: int, conv: Conv, last: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv = conv
        self.convolution = nn.ConvTranspose2d(
            num_classes * channels,
            num_classes * conv.channels,
            conv.kernel,
            conv.stride,
            conv.padding,
            groups=num_classes,
        )
        self.norm = None if last else nn.BatchNorm2d(num_classes * conv.channels)

    def forward(self, h: Tensor) -> Tensor:
        """All classes at once: (N, K * C_in, s, s) to (N, K * C_out, s', s')."""
        h = self.convolution(h)
        return h.sigmoid() if self.norm is None else functional.relu(self.norm(h))

    def of_class(self, k: int, h: Tensor) -> Tensor:
        """Class k alone: (N, C_in, s, s) to (N, C_out, s', s'), channels last."""
        h = h.contiguous(memory_format=torch.channels_last)
        bias = self._bias()[k]
        weight = self.convolution.weight.chunk(self.num_classes)[k]
        h = functional.conv_transpose2d(h, weight, bias, self.conv.stride, self.conv.padding)
        if self.norm is None:
            return h.sigmoid()
        mean, variance = self._statistics(self.norm)
        return functional.batch_norm(
            h,
            mean[k],
            variance[k],
            self.norm.weight.chunk(self.num_classes)[k],
            self.norm.bias.chunk(self.num_classes)[k],
            self.training,
            _MOMENTUM,
            self.norm.eps,
        ).relu()

    @torch.no_grad()
    def folded(self) -> tuple[list[Tensor], list[Tensor]]:
        """Each class's weight (C_in, C_out, k, k) and bias (C_out,) with the norm folded in."""
        weights = list(self.convolution.weight.chunk(self.num_classes))
        biases = list(self._bias())
        if self.norm is None:
            return [w.clone() for w in weights], [b.clone() for b in biases]
        mean, variance = self._statistics(self.norm)
        for k, (scale, shift) in enumerate(
            zip(
                self.norm.weight.chunk(self.num_classes),
                self.norm.bias.chunk(self.num_classes),
                strict=True,
            )
        ):
            slope = scale / (variance[k] + self.norm.eps).sqrt()
            weights[k] = weights[k] * slope[None, :, None, None]
            biases[k] = (biases[k] - mean[k]) * slope + shift
        return weights, biases

    def _bias(self) -> tuple[Tensor, ...]:
        if self.convolution.bias is None:
            raise ValueError("the convolution must have a bias, got none")
        return self.convolution.bias.chunk(self.num_classes)

    def _statistics(self, norm: nn.BatchNorm2d) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Running means and variances by class: views, which training updates in place."""
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("the normalisation must keep running statistics, got none")
        return norm.running_mean.chunk(self.num_classes), norm.running_var.chunk(self.num_classes)


class ClassDecoders(nn.Module):
    """One decoder per class: a fully connected layer, dropout, transposed convolutions, sigmoid.

    The same weights run as one grouped network (`forward` on a GPU) or class by class (`decode`,
    and `forward` on a CPU, where separate convolutions are measurably faster than grouped ones).

    Args:
        num_classes: K.
        architecture: layers and latent dimensions.
    """

    def __init__(self, num_classes: int, architecture: Architecture) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.latent = architecture.latent
        self.dropout = architecture.dropout
        convs = architecture.decoder
        stem = convs[0].channels
        bound = 1 / math.sqrt(architecture.latent)
        self.stem_weight = nn.Parameter(
            torch.empty(num_classes, stem, architecture.latent).uniform_(-bound, bound)
        )
        self.stem_bias = nn.Parameter(torch.empty(num_classes, stem).uniform_(-bound, bound))
        inputs = (stem, *(conv.channels for conv in convs[:-1]))
        self.layers: list[ClassLayer] = []
        for index, (channels, conv) in enumerate(zip(inputs, convs, strict=True)):
            layer = ClassLayer(num_classes, channels, conv, last=index == len(convs) - 1)
            self.add_module(f"layer{index}", layer)
            self.layers.append(layer)

    def forward(self, z: Tensor) -> Tensor:
        """Every class's image (N, K, C, H, W) of the latents z (N, d)."""
        if not z.is_cuda:
            return torch.stack([self.decode(k, z) for k in range(self.num_classes)], dim=1)
        h = torch.einsum("nd,kcd->nkc", z, self.stem_weight) + self.stem_bias
        h = functional.dropout(h.flatten(1), self.dropout, self.training)[:, :, None, None]
        for layer in self.layers:
            h = layer.forward(h)
        rows, _, height, width = h.shape
        return h.reshape(rows, self.num_classes, -1, height, width)

    def decode(self, k: int, z: Tensor) -> Tensor:
        """Class k's images (N, C, H, W) of the latents z (N, d)."""
        h = functional.linear(z, self.stem_weight[k], self.stem_bias[k])
        h = functional.dropout(h, self.dropout, self.training)[:, :, None, None]
        for layer in self.layers:
            h = layer.of_class(k, h)
        return h
