"""Targeted attacks in one batch: an image and a class for which it should be taken."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Problems(NamedTuple):
    """P pairs of an image and a wanted class.

    Args:
        rows: (P,) indices of the images.
        wanted: (P,) classes.
    """

    rows: Tensor
    wanted: Tensor

    def repeat(self, times: int) -> "Problems":
        """The same pairs several times, one block after the other."""
        return Problems(self.rows.repeat(times), self.wanted.repeat(times))


def every_other_class(y: Tensor, num_classes: int) -> Problems:
    """Each image of label ``y`` (N,) with each class but its own: K - 1 blocks of all N images."""
    shift = torch.arange(1, num_classes, device=y.device)
    wanted = (y + shift[:, None]) % num_classes
    rows = torch.arange(len(y), device=y.device).expand_as(wanted)
    return Problems(rows.flatten(), wanted.flatten())


def in_chunks(count: int, problems: int, chunk: int, device: torch.device) -> Iterator[Tensor]:
    """Indices of images, as many at once as make a chunk of problems and at least one.

    An image's problems are never torn apart.

    Args:
        count: images.
        problems: of each image.
        chunk: problems at once.
    """
    yield from torch.arange(count, device=device).split(max(1, chunk // problems))
