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
                kernel = weights[f"{number}.{name}"]
                side = int(len(kernel) ** 0.5)
                convolve.weight.copy_(
                    kernel.permute(2, 1, 0).reshape(*convolve.weight.shape[:2], side, side)
                )
                norm.weight.copy_(weights[f"{number}.{name}.gain"])
                norm.bias.copy_(weights[f"{number}.{name}.shift"])
            scale.joined.weight.copy_(weights[f"{number}.joined.gain"])
            scale.joined.bias.copy_(weights[f"{number}.joined.shift"])
        self.last.weight.copy_(weights["last"][0].mT[..., None, None])
        self.last.bias.copy_(weights["last.bias"])
        return self
