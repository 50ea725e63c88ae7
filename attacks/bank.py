"""Images of every class that an attack may start toward."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from attacks.base import Attack


@dataclass(frozen=True, eq=False)
class Bank:
    """A seeded choice of training images; its repr tells which, given the data set.

    Args:
        images: (B, C, H, W) uint8; 255 is the brightest.
        labels: (B,).
        per_class: images of each class, where there are so many.
        seed: of the choice.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    per_class: int
    seed: int

    def nearest(self, x: Tensor, num_classes: int) -> Tensor:
        """Per image and class the index (N, K) of the nearest image in L2; -1 for no such image."""
        images = self.of(torch.arange(len(self.labels)), x).flatten(1)
        # The default computes distances by a matrix product, whose rounding depends on the batch.
        mode = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(x.flatten(1), images, compute_mode=mode)
        labels = self.labels.to(x.device)
        found = torch.full((len(x), num_classes), -1, device=x.device)
        for k in range(num_classes):
            own = (labels == k).nonzero().squeeze(1)
            if len(own):
                found[:, k] = own[distances[:, own].argmin(dim=1)]
        return found

    def of(self, index: Tensor, like: Tensor) -> Tensor:
        """Images (n, C, H, W) by index, as floats in [0, 1] where ``like`` is."""
        return self.images[index.to(self.images.device)].to(like.device).to(like.dtype) / 255


@runtime_checkable
class InformedByExamples(Protocol):
    """An attack that makes use of training images if it gets any; the runner hands them over."""

    def informed(self, bank: Bank) -> Attack:
        """This attack with the bank."""
        ...
