"""Local search over single pixels (Narodytska & Kasiviswanathan 2017)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.evasion import evasion_logits, lead
from attacks.minimum_norm import MinimumNormAttack
from attacks.problems import in_chunks
from attacks.recorder import Recorder
from attacks.threat import Norm
from defenses.base import Defense, Surrogate
from defenses.randomness import child, noise_like_rows


@final
@dataclass(frozen=True, kw_only=True)
class SinglePixel(MinimumNormAttack):
    """The pixel of a random choice that, made black or white, helps another class most.

    It sees scores, no gradients. The budget is a number of changed pixels: with one this is the
    paper's first attack in AdverTorch's form (MAD-VAE, Table 1), but of all pixels tried the best
    counts, not the first that evades. With more it goes on from the best point so far, each time
    with another random choice of pixels; the paper's own local search changes several at once.

    Args:
        max_pixels: pixels tried at each point (AdverTorch: 100), both extremes of the box each.
        abreast: candidates of one image in one query; divides the rest into rounds.
        chunk: queries held in memory at once; changes no result.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L0,)
    reach: ClassVar[float] = math.inf

    norm: Norm = Norm.L0
    max_pixels: int = 100
    abreast: int = 20
    chunk: int = 1000

    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """See `MinimumNormAttack.search`."""
        view, choice = child(rng, "view"), child(rng, "choice")
        for images in in_chunks(len(y), self.abreast, self.chunk, y.device):
            copies = images.repeat(self.abreast)
            part = recorder.part(copies)
            views = self.view.of(defense, child(view))
            self._climb(views, part, y[copies], child(choice))
            recorder.adopt(images, part.merged(self.abreast))

    @torch.no_grad()
    def _climb(self, view: Surrogate, record: Recorder, y: Tensor, rng: Generator) -> None:
        """From the images of one chunk, one pixel at a time, up to the largest budget.

        Args:
            record: of ``abreast`` copies of the n images, one block after the other, as the view
                sees them in every query.
            y: labels of the copies.
        """
        n = len(y) // self.abreast
        x, point = record.x[:n], record.x[:n]
        changed = torch.zeros_like(x[:, 0].flatten(1), dtype=torch.bool)
        for _ in range(min(changed.shape[1], int(record.radii.max()))):
            order = noise_like_rows(rng, x, changed.shape[1:], torch.rand)
            order = order.masked_fill(changed, math.inf)
            pixels = order.argsort(dim=1, stable=True)[:, : self.max_pixels]
            best, ahead = point, x.new_full((n,), -math.inf)
            chosen = pixels[:, 0]
            for tried in _groups(2 * pixels.shape[1], self.abreast):
                asked = pixels[:, tried // 2].T
                candidates = _painted(point, asked, (tried % 2).to(x))
                leads = _lead(view, candidates.flatten(0, 1), y)
                record.see(candidates.flatten(0, 1), leads)
                most, which = leads.nan_to_num(nan=-math.inf).reshape(-1, n).max(dim=0)
                better, rows = most > ahead, torch.arange(n, device=x.device)
                ahead = torch.where(better, most, ahead)
                chosen = torch.where(better, asked[which, rows], chosen)
                best = torch.where(_wide(better), candidates[which, rows], best)
            point = best
            changed = changed.scatter(1, chosen[:, None], True)


def _groups(count: int, size: int) -> Iterator[Tensor]:
    """0 to ``count`` - 1, ``size`` at a time; the last group repeats the last number."""
    for first in range(0, count, size):
        yield torch.arange(first, first + size).clamp_max(count - 1)


def _painted(x: Tensor, pixels: Tensor, values: Tensor) -> Tensor:
    """Copies (A, n, C, H, W) of ``x``, one pixel of each set to a value in all channels.

    Args:
        x: (n, C, H, W).
        pixels: (A, n) indices into the image's pixels, row after row.
        values: (A,).
    """
    flat = x.flatten(2).expand(len(values), -1, -1, -1)
    index = pixels[..., None, None].expand(-1, -1, x.shape[1], 1)
    painted = flat.scatter(3, index, values.reshape(-1, 1, 1, 1).expand(index.shape))
    return painted.reshape(*index.shape[:2], *x.shape[1:])


def _lead(view: Surrogate, points: Tensor, y: Tensor) -> Tensor:
    """How far the view is beyond *wrong and accepted* (N,), in logits."""
    logits, margin = view(points)
    return lead(evasion_logits(logits, margin, y), y)


def _wide(rows: Tensor) -> Tensor:
    return rows.reshape(-1, 1, 1, 1)
