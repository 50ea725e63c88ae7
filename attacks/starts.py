"""Starting points for decision-based attacks: images that the defense takes for another class."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from attacks.evasion import evades
from attacks.mean_decision import Decides
from defenses.randomness import child, noise_like_rows


def random_starts(
    defense: Decides, x: Tensor, y: Tensor, tries: int, rng: Generator
) -> tuple[Tensor, Tensor]:
    """A random image per row that is wrong and accepted, where one is found.

    E-ABS, section 4.2: "a random sample that is classified as a different class". White noise alone
    is often taken for one and the same class, so the tries go round several kinds of image. Every
    row has images of its own, and a row without a start costs the others nothing.

    Args:
        x: clean images (N, C, H, W).
        y: labels (N,).
        tries: images tried per row.

    Returns:
        starts (N, C, H, W), ``x`` where none was found, and found (N,) bool.
    """
    starts = x.clone()
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for attempt in range(tries):
        rows = (~found).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        own = child(rng, "try", attempt)
        proposals = _KINDS[attempt % len(_KINDS)](x[rows], child(own, "image"))
        hit = evades(defense, proposals, y[rows], child(own, "ask"))
        starts[rows[hit]] = proposals[hit]
        found[rows[hit]] = True
    return starts, found


def approach(
    defense: Decides, x: Tensor, starts: Tensor, y: Tensor, *, steps: int, rng: Generator
) -> Tensor:
    """The start moved toward ``x`` by bisection while it evades (N, C, H, W)."""
    near, far = torch.zeros_like(x[:, :1, :1, :1]), torch.ones_like(x[:, :1, :1, :1])
    for step in range(steps):
        middle = (near + far) / 2
        hit = evades(defense, x + middle * (starts - x), y, child(rng, "step", step))
        hit = hit.reshape(-1, 1, 1, 1)
        near, far = torch.where(hit, near, middle), torch.where(hit, middle, far)
    return torch.where(far < 1, x + far * (starts - x), starts)


def _white_noise(x: Tensor, rng: Generator) -> Tensor:
    return noise_like_rows(rng, x, x.shape[1:], torch.rand)


def _blotches(x: Tensor, rng: Generator) -> Tensor:
    coarse = noise_like_rows(rng, x, (x.shape[1], 4, 4), torch.rand)
    return functional.interpolate(coarse, size=x.shape[2:], mode="bilinear").clamp(0, 1)


def _sparse_noise(x: Tensor, rng: Generator) -> Tensor:
    return (_white_noise(x, rng) > 0.9).to(x.dtype)


def _negative(x: Tensor, rng: Generator) -> Tensor:
    return 1 - x


def _flat(x: Tensor, rng: Generator) -> Tensor:
    return noise_like_rows(rng, x, (1, 1, 1), torch.rand).expand_as(x).clone()


def _rearranged(x: Tensor, rng: Generator) -> Tensor:
    """A mixture of the image's own flips: shapes that look like other classes."""
    weights = noise_like_rows(rng, x, (3, 1, 1, 1), torch.rand).square()
    flips = torch.stack([x.flip(3), x.flip(2), x.flip(2, 3)], dim=1)
    return (weights * flips).sum(dim=1).clamp(0, 1)


_KINDS: tuple[Callable[[Tensor, Generator], Tensor], ...] = (
    _white_noise,
    _blotches,
    _sparse_noise,
    _negative,
    _flat,
    _rearranged,
)
