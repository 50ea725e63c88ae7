"""Sizes and channels of convolutional networks between 4x4 pixels and an image."""

from torch import Tensor, nn

_SMALLEST = 4
_WIDEST = 4


def sizes(shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """(rows, columns) from the smallest feature map up to images of a shape.

    Sides are halved, rounded up, until none is above 4: 28 gives 4, 7, 14, 28, as Gulrajani et al.
    2017 have it for MNIST; 32 gives 4, 8, 16, 32; 8 gives 4, 8.

    Raises:
        ValueError: images too small to be halved once.
    """
    _, *size = shape
    if min(size) <= _SMALLEST:
        raise ValueError(
            f"sides of the images must be above {_SMALLEST}, got {size[0]}x{size[1]}; "
            "use a dense generator such as dense_vae"
        )
    found = [(size[0], size[1])]
    while max(found[0]) > _SMALLEST:
        rows, columns = found[0]
        found.insert(0, ((rows + 1) // 2, (columns + 1) // 2))
    return found


def channels(width: int, stages: int) -> list[int]:
    """Of the feature maps below the image, the smallest map first: 4, 2, 1, 1, ... times width."""
    return [width * max(1, _WIDEST >> stage) for stage in range(stages)]


class Crop(nn.Module):
    """The first rows and columns of images: doubling 4 gives 8 where 7 are wanted."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, rows, columns) of (N, C, H, W)."""
        return x[:, :, : self.rows, : self.columns]
