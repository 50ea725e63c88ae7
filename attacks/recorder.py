"""The best point an attack has seen within each budget, whatever the attack itself returns.

Attack libraries return their last iterate, their input or a black image where they fail. The
harness looks over their shoulder instead: every queried point passes through `Recorder.see`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.threat import Norm

_REACH = 1e-5
"""Relative excess over a radius that rounding may cause and `Norm.project` then takes away."""


class Recorder:
    """Per budget and image, the point with the largest lead over the true class.

    Args:
        norm: how distances are measured.
        x: clean images (N, C, H, W), the first points on record.
        epsilons: E radii, or (E, N) where every image has its own.

    Attributes:
        radii: (E, N).
        leads: (E, N), -inf until a point was seen; positive where the point evades.
    """

    def __init__(self, norm: Norm, x: Tensor, epsilons: Sequence[float] | Tensor) -> None:
        self.norm = norm
        self.x = x
        radii = torch.as_tensor(epsilons, dtype=x.dtype, device=x.device)
        self.radii = radii.reshape(len(radii), -1).expand(len(radii), len(x))
        self.leads = x.new_full(self.radii.shape, -torch.inf)
        self._points = x.repeat(len(radii), 1, 1, 1, 1)
        self._reach = self.radii * (1 + _REACH)

    @torch.no_grad()
    def see(self, points: Tensor, leads: Tensor) -> None:
        """Keep the points (N, C, H, W) that lead by more than those on record.

        NaN points and leads are never kept.
        """
        better = (self.norm.distance(self.x, points) <= self._reach) & (leads > self.leads)
        self.leads = torch.where(better, leads, self.leads)
        self._points = torch.where(better[..., None, None, None], points, self._points)

    def candidates(self, index: int) -> Tensor:
        """The record (N, C, H, W) of budget ``index``, inside its ball and the box."""
        return self.norm.project(self.x, self._points[index], self.radii[index])

    def part(self, rows: Tensor) -> "Recorder":
        """An empty record of these rows (indices) alone; see `adopt`."""
        return Recorder(self.norm, self.x[rows], self.radii[:, rows])

    def adopt(self, rows: Tensor, part: "Recorder") -> None:
        """Keep what ``part`` saw of these rows (indices) where it leads by more."""
        better = part.leads > self.leads[:, rows]
        points = self._points[:, rows]
        points = torch.where(better[..., None, None, None], part._points, points)
        self._points = self._points.index_copy(1, rows, points)
        self.leads = self.leads.index_copy(1, rows, torch.maximum(part.leads, self.leads[:, rows]))

    def merged(self, copies: int) -> "Recorder":
        """The record of n images that stand here several times, one block of all n after the other.

        Args:
            copies: blocks; of points that lead equally that of the first counts.
        """
        leads = self.leads.unflatten(1, (copies, -1))
        best = leads.argmax(dim=1)
        budgets, images = torch.meshgrid(
            *(torch.arange(size, device=best.device) for size in best.shape), indexing="ij"
        )
        one = self.part(images[0])
        one.leads = leads[budgets, best, images]
        one._points = self._points.unflatten(1, (copies, -1))[budgets, best, images]
        return one

    @torch.no_grad()
    def see_rows(self, rows: Tensor, points: Tensor, leads: Tensor) -> None:
        """`see` for these rows (indices, each once) alone."""
        reached = self.norm.distance(self.x[rows], points) <= self._reach[:, rows]
        budget, row = (reached & (leads > self.leads[:, rows])).nonzero(as_tuple=True)
        self.leads[budget, rows[row]] = leads[row].to(self.leads.dtype)
        self._points[budget, rows[row]] = points[row]
