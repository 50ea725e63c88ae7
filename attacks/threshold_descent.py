"""White-box descent on the terms that decide (Ghosh et al. 2019, Eqs. 10 and 11)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor

from attacks.minimum_norm import MinimumNormAttack
from attacks.problems import every_other_class, in_chunks
from attacks.recorder import Recorder
from attacks.row_adam import RowAdam
from attacks.thresholds import Metric, depth, thresholded, why_not
from defenses.base import Defense, Thresholded
from defenses.randomness import child


@dataclass(frozen=True, kw_only=True)
class ThresholdDescent(MinimumNormAttack):
    """Adam on (decoder score)^a + (encoder score)^b + price, toward every class but the label.

    All problems, image x wanted class, run side by side and leave when they make no progress. The
    images' records keep every query that is taken for the wanted class and accepted, and where the
    problems ended. The pixels are clipped to the box after each step.

    Args:
        steps: gradient steps (unstated by the paper, as are all that follow).
        rate: Adam's.
        power: a = b of Eq. 10; the paper says above 1.
        patience: steps without progress after which a problem leaves.
        progress: share by which the loss must fall to count as progress.
        chunk: problems held in memory at once; changes no result.
        metric: the inverse covariance, or the covariance as the equations print it; which queries
            evade is decided by the defense's own scores.
    """

    steps: int = 2000
    rate: float = 0.01
    power: float = 2.0
    patience: int = 100
    progress: float = 1e-3
    chunk: int = 1000
    metric: Metric = Metric.INVERSE

    @abstractmethod
    def start(self, x: Tensor, rng: Generator) -> Tensor:
        """Where the problems of each image begin (N, C, H, W)."""

    @abstractmethod
    def price(self, x: Tensor, points: Tensor) -> Tensor:
        """What the distance from the image adds to the loss (P,)."""

    @final
    def needs(self, defense: Defense) -> str | None:
        """Differentiable thresholds."""
        return why_not(defense)

    @final
    def search(self, defense: Defense, y: Tensor, recorder: Recorder, rng: Generator) -> None:
        """See `MinimumNormAttack.search`.

        Raises:
            ValueError: the defense has no thresholds; `needs` says so beforehand.
        """
        able, others = thresholded(defense), defense.num_classes - 1
        starts = self.start(recorder.x, child(rng, "start"))
        for images in in_chunks(len(y), others, self.chunk, y.device):
            rows, wanted = every_other_class(y[images], defense.num_classes)
            part = recorder.part(images[rows])
            self._descend(able, starts[images[rows]], wanted, part)
            recorder.adopt(images, part.merged(others))

    def _descend(
        self, defense: Thresholded, points: Tensor, wanted: Tensor, record: Recorder
    ) -> None:
        """One chunk of problems, from their starts until they have all left."""
        x, running = record.x, torch.arange(len(wanted), device=wanted.device)
        adam, stall = RowAdam(points, self.rate), _Stall(points, self.progress)
        for _ in range(self.steps):
            with torch.enable_grad():
                points = points.detach().requires_grad_()
                scores, terms = self.metric.terms(defense, points, wanted)
                loss = scores.pow(self.power).sum(dim=1) + self.price(x, points)
                (gradient,) = torch.autograd.grad(loss.sum(), points)
            points, found = points.detach(), depth(terms)
            stalled = stall.look(loss.detach()) >= self.patience
            shown = (found > 0) | stalled
            record.see_rows(running[shown], points[shown], found[shown])
            moved = (points - adam.step(gradient)).clamp(0, 1)
            if bool(stalled.any()):
                stay = ~stalled
                moved, x, wanted, running = moved[stay], x[stay], wanted[stay], running[stay]
                adam.keep(stay)
                stall.keep(stay)
            points = moved
            if len(running) == 0:
                return
        with torch.no_grad():
            record.see_rows(running, points, depth(defense.terms(points, wanted)))


class _Stall:
    """For how many steps each row's loss has not fallen."""

    def __init__(self, like: Tensor, progress: float) -> None:
        self._share = 1 - progress
        self._best = like.new_full((len(like),), torch.inf)
        self._waited = torch.zeros(len(like), dtype=torch.long, device=like.device)

    def look(self, loss: Tensor) -> Tensor:
        """Steps (N,) since the loss last fell."""
        fell = loss < self._share * self._best
        self._best = torch.where(fell, loss, self._best)
        self._waited = torch.where(fell, 0, self._waited + 1)
        return self._waited

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self._best, self._waited = self._best[rows], self._waited[rows]
