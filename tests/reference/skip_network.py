"""Ulyanov et al.'s skip network, one image at a time, by PyTorch's own layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def convolution(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    border = [nn.ReflectionPad2d(kernel // 2)] if kernel > 1 else []
    return nn.Sequential(*border, nn.Conv2d(before, after, kernel, stride))


def block(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    layers = (nn.BatchNorm2d(after), nn.LeakyReLU(0.2))
    return nn.Sequential(convolution(before, after, kernel, stride), *layers)


class Scale(nn.Module):
    def __init__(self, before: int, width: int, skip: int, inner: nn.Module | None) -> None:
        super().__init__()
        self.skip = block(before, skip, 1)
        self.down = block(before, width, 3, 2)
        self.same = block(width, width, 3)
        self.inner = inner
        self.joined = nn.BatchNorm2d(skip + width)
        self.up = block(skip + width, width, 3)
        self.mix = block(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.same(self.down(x))
        if self.inner is not None:
            h = self.inner(h)
        h = functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
        h = h[..., : x.shape[2], : x.shape[3]]
        joined = self.joined(torch.cat([self.skip(x), h], dim=1))
        return self.mix(self.up(joined))


class Reference(nn.Module):
    def __init__(self, scales: int, width: int, skip: int, inputs: int, channels: int) -> None:
        super().__init__()
        inner: Scale | None = None
        for scale in reversed(range(scales)):
            inner = Scale(inputs if scale == 0 else width, width, skip, inner)
        assert inner is not None
        self.body = inner
        self.last = nn.Conv2d(width, channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.last(self.body(z)))

    def scales(self) -> list[Scale]:
        found: list[Scale] = []
        scale: nn.Module | None = self.body
        while isinstance(scale, Scale):
            found.append(scale)
            scale = scale.inner
        return found

    @torch.no_grad()
    def take(self, weights: dict[str, Tensor]) -> "Reference":
        """One image's weights of the grouped network, in this one's layout."""
        for number, scale in enumerate(self.scales()):
            for name in ("skip", "down", "same", "up", "mix"):
                body = getattr(scale, name)
                convolve, norm = body[0][-1], body[1]
                convolve.weight.copy_(kernel(weights, f"{number}.{name}"))
                norm.weight.copy_(weights[f"{number}.{name}.gain"])
                norm.bias.copy_(weights[f"{number}.{name}.shift"])
            for part, own in (("gain", scale.joined.weight), ("shift", scale.joined.bias)):
                narrow, wide = (
                    weights[f"{number}.joined{each}.{part}"] for each in (".narrow", "")
                )
                own.copy_(torch.cat([narrow, wide]))
        self.last.weight.copy_(weights["last"].mT[..., None, None])
        self.last.bias.copy_(weights["last.bias"])
        return self


def kernel(weights: dict[str, Tensor], name: str) -> Tensor:
    """A convolution's weight (O, C, side, side) from one image's weights of the grouped network."""
    own = weights[name]
    if own.dim() == 2:
        return own.mT[..., None, None]
    kind = name.rpartition(".")[2]
    if kind == "down":  # (3, 3 C, O)
        return gathered(own)
    wide = own.unflatten(2, (3, -1)).permute(3, 1, 0, 2)  # (3, C, 3 O)
    if kind != "up":
        return wide
    return torch.cat([gathered(weights[f"{name}.narrow"]), wide], dim=1)


def gathered(own: Tensor) -> Tensor:
    return own.unflatten(1, (3, -1)).permute(3, 2, 0, 1)
