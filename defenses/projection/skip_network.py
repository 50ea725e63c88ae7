"""The skip autoencoder of Deep Image Prior (Ulyanov et al. 2017), many at once as one network.

Images share nothing: each has its own weights, and every operation is a product of its own
matrices. Features are (n, pixels, channels). A 3x3 convolution is split into what depends on the
weights, a product over channels, and what does not: the neighbourhood with its reflected border,
its stride and the bilinear doubling before it are products with small fixed matrices for rows and
for columns. So convolutions after a doubling run on the smaller map, at a quarter of the work.

Biases before a normalisation, which it would take away again, are left out.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Generator, Tensor
from torch.nn import functional

_EPS = 1e-5
"""Of batch normalisation, as in every library."""

_KERNEL = 3

Weights = dict[str, Tensor]
"""By name, (n, ...) each: row i belongs to image i alone."""


@dataclass(frozen=True)
class SkipNetwork:
    """The denoising network of Ulyanov et al.'s public code, which Jalal et al. 2017 took over.

    Every scale halves the map by a convolution of stride 2, goes on to the next scale, doubles what
    comes back bilinearly, joins it with a narrow skip connection, normalises, and mixes by a 3x3
    and a 1x1 convolution; normalisation and LeakyReLU after each convolution, a sigmoid at the end.

    Args:
        scales: how often the map is halved; as often as leaves two pixels on its smaller side.
        width: channels on the way down and up.
        skip: channels of the skip connections.
        inputs: channels of the fixed random input.
        slope: of LeakyReLU.
    """

    scales: int = 5
    width: int = 128
    skip: int = 4
    inputs: int = 32
    slope: float = 0.2

    def __post_init__(self) -> None:
        for name in ("scales", "width", "skip", "inputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}; raise it")

    def depth(self, height: int, width: int) -> int:
        """The number of scales for images of a size.

        Raises:
            ValueError: images too small to be halved once.
        """
        possible = math.ceil(math.log2(min(height, width))) - 1
        if possible < 1:
            raise ValueError(
                f"images must have at least 3 pixels on each side, got {height}x{width}; "
                "choose another data set"
            )
        return min(self.scales, possible)

    def begin(self, shape: tuple[int, int, int], rng: Generator) -> Weights:
        """One image's initial weights (without a leading dimension), as PyTorch draws them.

        Args:
            shape: (channels, height, width) of the image.
        """
        channels, *sides = shape
        weights: Weights = {}

        def layer(name: str, before: int, taps: int = 1, narrow: int = 0) -> None:
            """A convolution of ``narrow`` + ``before`` channels, each part in its own layout."""
            after = self.skip if name.endswith("skip") else self.width
            drawn = _uniform((taps, narrow + before, after), (narrow + before) * taps, rng)
            if narrow:
                weights[f"{name}.narrow"] = _gathering(drawn[:, :narrow])
            wide = drawn[:, narrow:]
            down = name.endswith("down")
            weights[name] = wide[0] if taps == 1 else (_gathering if down else _scattering)(wide)
            norm(name, after)

        def norm(name: str, size: int) -> None:
            weights[f"{name}.gain"], weights[f"{name}.shift"] = torch.ones(size), torch.zeros(size)

        for scale in range(self.depth(*sides)):
            before = self.inputs if scale == 0 else self.width
            layer(f"{scale}.skip", before)
            layer(f"{scale}.down", before, _KERNEL**2)
            layer(f"{scale}.same", self.width, _KERNEL**2)
            norm(f"{scale}.joined.narrow", self.skip)
            norm(f"{scale}.joined", self.width)
            layer(f"{scale}.up", self.width, _KERNEL**2, narrow=self.skip)
            layer(f"{scale}.mix", self.width)
        weights["last"] = _uniform((self.width, channels), self.width, rng)
        weights["last.bias"] = _uniform((channels,), self.width, rng)
        return weights

    def draw(self, weights: Weights, z: Tensor) -> Tensor:
        """Images (n, C, H, W) in [0, 1] of inputs (n, ``inputs``, H, W), by weights (n, ...)."""
        n, _, height, width = z.shape
        ladder = _ladder(height, width, self.depth(height, width), z.dtype, z.device)
        h = self._scale(weights, 0, ladder, z.flatten(2).mT)
        drawn = torch.baddbmm(weights["last.bias"][:, None], h, weights["last"])
        return torch.sigmoid(drawn).mT.reshape(n, -1, height, width)

    def _scale(
        self, weights: Weights, scale: int, ladder: "tuple[_Rung, ...]", h: Tensor
    ) -> Tensor:
        """Features (n, pixels, ``width``) of one scale from those above it."""
        rung = ladder[scale]

        def normal(name: str, features: Tensor) -> Tensor:
            gain, shift = self._norm(weights, f"{scale}.{name}")
            found: Tensor = _Normalised.apply(  # type: ignore[no-untyped-call]
                features, gain, shift, self.slope
            )
            return found

        down = normal("down", rung.halving.gather(h, weights[f"{scale}.down"]))
        down = normal("same", rung.below.staying.scatter(down, weights[f"{scale}.same"]))
        if scale + 1 < len(ladder):
            down = self._scale(weights, scale + 1, ladder, down)
        skip = normal("skip", torch.bmm(h, weights[f"{scale}.skip"]))
        skip = _normalised(skip, *self._norm(weights, f"{scale}.joined.narrow"))
        down = rung.normalised_doubling(down, *self._norm(weights, f"{scale}.joined"))
        joined = rung.staying.gather(skip, weights[f"{scale}.up.narrow"])
        joined = joined + rung.doubling.scatter(down, weights[f"{scale}.up"])
        return normal("mix", torch.bmm(normal("up", joined), weights[f"{scale}.mix"]))

    @staticmethod
    def _norm(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
        """Gain and shift (n, C) of a normalisation."""
        return weights[f"{name}.gain"], weights[f"{name}.shift"]


def _uniform(shape: tuple[int, ...], fan_in: int, rng: Generator) -> Tensor:
    """PyTorch's initial weights of convolutions and their biases."""
    return (2 * torch.rand(shape, generator=rng) - 1) / math.sqrt(fan_in)


def _gathering(kernel: Tensor) -> Tensor:
    """(9, C, O) as `_Taps.gather` wants it: (3, 3 C, O)."""
    return kernel.reshape(_KERNEL, -1, kernel.shape[2])


def _scattering(kernel: Tensor) -> Tensor:
    """(9, C, O) as `_Taps.scatter` wants it: (3, C, 3 O)."""
    _, before, after = kernel.shape
    by_row = kernel.reshape(_KERNEL, _KERNEL, before, after).transpose(1, 2)
    return by_row.reshape(_KERNEL, before, _KERNEL * after)


class _Normalised(torch.autograd.Function):
    """Batch normalisation over the pixels of each image, then LeakyReLU, in few passes.

    ``features`` (n, pixels, C); ``gain`` and ``shift`` (n, C).
    """

    @staticmethod
    def forward(ctx, features, gain, shift, slope):  # type: ignore[no-untyped-def]
        centred = features - features.mean(dim=1, keepdim=True)
        inverse = (centred.square().mean(dim=1, keepdim=True) + _EPS).rsqrt()
        normal = torch.addcmul(shift[:, None], centred, inverse * gain[:, None])
        normal = functional.leaky_relu_(normal, slope)
        ctx.save_for_backward(centred, normal, inverse, gain)
        ctx.slope = slope
        return normal

    @staticmethod
    def backward(ctx, slope_of_normal):  # type: ignore[no-untyped-def]
        centred, normal, inverse, gain = ctx.saved_tensors
        count = centred.shape[1]
        inner = torch.where(normal > 0, slope_of_normal, slope_of_normal * ctx.slope)
        of_shift = inner.sum(dim=1)
        of_gain = (inner * centred).sum(dim=1) * inverse[:, 0]
        inner.sub_(of_shift[:, None] / count)
        inner.addcmul_(centred, -(of_gain[:, None] * inverse / count))
        return inner.mul_(inverse * gain[:, None]), of_gain, of_shift, None


def _normalised(features: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Batch normalisation alone."""
    centred = features - features.mean(dim=1, keepdim=True)
    inverse = (centred.square().mean(dim=1, keepdim=True) + _EPS).rsqrt()
    return torch.addcmul(shift[:, None], centred, inverse * gain[:, None])


@dataclass(frozen=True, eq=False)
class _Taps:
    """Where the nine taps of a 3x3 convolution look, for rows and for columns.

    Args:
        rows: (3, Y, y): the map of Y rows that tap t sees of one of y rows is ``rows[t]`` times it.
        columns: (3, X, x).
    """

    rows: Tensor
    columns: Tensor

    def gather(self, h: Tensor, weights: Tensor) -> Tensor:
        """Look first, mix channels afterwards: for maps that shrink, or have few channels.

        Args:
            h: (n, y x, C).
            weights: (n, 3, 3 C, O), see `_gathering`.
        """
        n, _, channels = h.shape
        (_, high, y), (_, wide, x) = self.rows.shape, self.columns.shape
        seen = _shared(self.rows.flatten(0, 1), h.reshape(n, y, x * channels))
        columns = self.columns.transpose(0, 1).reshape(wide * _KERNEL, x)
        seen = _shared(columns, seen.view(n * _KERNEL * high, x, channels))
        seen = seen.view(n, _KERNEL, high * wide, _KERNEL * channels)
        return (seen @ weights).sum(dim=1)

    def scatter(self, h: Tensor, weights: Tensor) -> Tensor:
        """Mix channels first, look afterwards: for maps that stay or grow.

        Args:
            h: as for `gather`.
            weights: (n, 3, C, 3 O), see `_scattering`.
        """
        n = len(h)
        (_, high, y), (_, wide, x) = self.rows.shape, self.columns.shape
        outputs = weights.shape[-1] // _KERNEL
        mixed = h[:, None] @ weights
        columns = self.columns.permute(1, 2, 0).reshape(wide, x * _KERNEL)
        mixed = _shared(columns, mixed.view(n * _KERNEL * y, x * _KERNEL, outputs))
        rows = self.rows.transpose(0, 1).reshape(high, _KERNEL * y)
        return _shared(rows, mixed.view(n, _KERNEL * y, wide * outputs)).view(n, -1, outputs)


def _shared(matrix: Tensor, h: Tensor) -> Tensor:
    """One matrix times each of a batch."""
    return torch.bmm(matrix.expand(len(h), *matrix.shape), h)


@dataclass(frozen=True, eq=False)
class _Rung:
    """The geometry of one scale: a map of this size, and one half as large.

    Args:
        sides: height and width of the larger map.
        dtype, device: of the matrices.
    """

    sides: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    @cached_property
    def below(self) -> "_Rung":
        """The next scale's."""
        height, width = (-(-side // 2) for side in self.sides)
        return _Rung((height, width), self.dtype, self.device)

    @cached_property
    def halving(self) -> _Taps:
        """Stride 2."""
        return _Taps(*(self._own(_taps(torch.eye(side), 2)) for side in self.sides))

    @cached_property
    def staying(self) -> _Taps:
        """Stride 1."""
        return _Taps(*(self._own(_taps(torch.eye(side))) for side in self.sides))

    @cached_property
    def doubling(self) -> _Taps:
        """Stride 1 on the smaller map doubled."""
        return _Taps(*(self._own(_taps(_doubled(side))) for side in self.sides))

    def normalised_doubling(self, h: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """What, when doubled, is the normalisation of the doubled map; (n, pixels below, C).

        Doubling is linear and keeps constants, so its mean and variance are found on the smaller
        map: ||U c||^2 = c' U'U c.
        """
        n, pixels, channels = h.shape
        rows, columns = self._doublings
        mean = torch.einsum(
            "y,x,nyxc->nc",
            rows.mean(dim=0),
            columns.mean(dim=0),
            h.view(n, rows.shape[1], columns.shape[1], channels),
        )
        centred = h - mean[:, None]
        seen = _shared(rows.mT @ rows / len(rows), centred.view(n, rows.shape[1], -1))
        seen = _shared(
            columns.mT @ columns / len(columns), seen.view(-1, columns.shape[1], channels)
        )
        variance = (seen.view(n, pixels, channels) * centred).sum(dim=1)
        scale = (variance + _EPS).rsqrt() * gain
        return torch.addcmul(shift[:, None], centred, scale[:, None])

    @cached_property
    def _doublings(self) -> tuple[Tensor, Tensor]:
        rows, columns = (self._own(_doubled(side)) for side in self.sides)
        return rows, columns

    def _own(self, matrix: Tensor) -> Tensor:
        return matrix.to(self.device, self.dtype)


@lru_cache(maxsize=8)
def _ladder(
    height: int, width: int, depth: int, dtype: torch.dtype, device: torch.device
) -> tuple[_Rung, ...]:
    """The geometry of all scales, the largest map first."""
    rungs = [_Rung((height, width), dtype, device)]
    while len(rungs) < depth:
        rungs.append(rungs[-1].below)
    return tuple(rungs)


def _taps(matrix: Tensor, stride: int = 1) -> Tensor:
    """(3, out, in): the rows of a matrix (m, in) that each tap sees, borders reflected."""
    size = len(matrix)
    places = torch.arange(0, size, stride)[None] + torch.arange(_KERNEL)[:, None] - 1
    reflected = (size - 1) - ((size - 1) - places.abs()).abs()
    return matrix[reflected]


def _doubled(size: int) -> Tensor:
    """(size, ceil(size / 2)): bilinear doubling of a half, cropped, edges at the pixels' edges."""
    half = -(-size // 2)
    doubled = functional.interpolate(
        torch.eye(half)[None], scale_factor=2, mode="linear", align_corners=False
    )
    return doubled[0].mT[:size]
