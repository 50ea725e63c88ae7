"""The saddle point of the Overpowered attack (Jalal et al. 2017, Eq. 3), over latents of a decoder.

    sup over z, z' of L(C(G(z)), C(G(z')))   such that   ||G(z) - G(z')|| <= eta

One search serves both forms of it: G(z') near another latent's image, which is free to move, and
G(z') near a given image. The paper prints the Lagrangian with the wrong sign (SPEC 2.4); here the
latents descend on loss + lambda * excess while lambda >= 0 ascends, and because simultaneous steps
only circle around the saddle point, the best iterate *inside the budget* is kept.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from attacks.eot import View
from attacks.evasion import lead
from attacks.row_adam import RowAdam
from defenses.base import Decodes, Defense
from defenses.randomness import child, noise_like_rows

_REACH = 1e-5
"""Relative excess over a radius that rounding may cause and a projection then takes away."""

_LEAST = 1e-3
"""Radius below which excess is no longer measured relative to it."""

_LOOK = 10
"""Steps between looks at which problems are solved: each look waits for the device."""


class LatentProblems(NamedTuple):
    """P searches, each from its own start.

    Args:
        starts: (P, M, d) latents. The first of each is to leave its class; the second, where M is
            2, is to keep it.
        anchors: (P, C, H, W) images near which the first's image is to stay; None is the image of
            the second.
        classes: (P,) what the first leaves and the second keeps.
        radii: (P,) budgets in L2, pixel units.
        keys: (P, ...) of whose bytes the noise of a problem is a function.
    """

    starts: Tensor
    anchors: Tensor | None
    classes: Tensor
    radii: Tensor
    keys: Tensor

    def split(self, size: int) -> Iterator["LatentProblems"]:
        """At most ``size`` problems at a time."""
        for first in range(0, len(self.starts), size):
            rows = slice(first, first + size)
            anchors = None if self.anchors is None else self.anchors[rows]
            yield LatentProblems(
                self.starts[rows], anchors, self.classes[rows], self.radii[rows], self.keys[rows]
            )

    def keep(self, rows: Tensor) -> "LatentProblems":
        """These problems (a mask) alone."""
        anchors = None if self.anchors is None else self.anchors[rows]
        return LatentProblems(
            self.starts[rows], anchors, self.classes[rows], self.radii[rows], self.keys[rows]
        )


class Found(NamedTuple):
    """Where P searches ended.

    Args:
        leads: (P,) of the best iterate inside the budget, in logits, the mean over noise: by how
            much another class leads at the first latent or, if that is less, the class at the
            second. -inf where no iterate was inside.
        latents: (P, M, d) of that iterate; the start where none was inside.
        images: (P, M, C, H, W) that it decodes to; those of the start where none was inside.
        last: (P, M, C, H, W) images of the last iterate, inside the budget or not.
        trace: (P, T, M, d) latents of the best iterate so far, after each of T numbers of steps.
    """

    leads: Tensor
    latents: Tensor
    images: Tensor
    last: Tensor
    trace: Tensor


@dataclass(frozen=True, kw_only=True)
class LatentSearch:
    """Simultaneous descent on latents and ascent on one multiplier per problem.

    The loss of a problem is a hinge on the lead of each of its M latents, averaged over noisy
    copies of the decoded image:

        h' = mean over u of relu(margin - lead(C(G(z') + u)))
        h  = mean over u of relu(margin - kept lead(C(G(z) + u)))            where M is 2
        M log mean exp(h', [h]) / slope + lambda (d^2 - eta^2) / (2 eta),    d = ||G(z') - anchor||

    where u is ``noise_norm`` long in a random direction, fresh at every step, and the slope is that
    of the lead in the pixels at the start. So both terms are lengths, lambda is near 1 at the
    saddle point, and neither the scale of the logits nor that of the budget matters much. Of two
    latents the one that is worse off by a logit or more counts alone: a sum of hinges is as low
    with both of them on one side of the boundary, where it leaves most pairs if the margin is out
    of reach.

    Args:
        steps: of both.
        rate: Adam's, on latents (Jalal et al.'s and MAD-VAE's code: 0.05).
        multiplier: the first lambda.
        ascent: lambda <- [lambda + ascent * excess]_+ after each step.
        margin: lead in logits beyond which a noisy copy pulls no longer; a problem whose copies
            all lead by it inside the budget leaves.
        noise_norm: length of the noise in L2; 0 asks one copy without noise.
        noise_samples: noisy copies per step.
        chunk: noisy copies held in memory at once; changes no result.
    """

    steps: int
    rate: float
    multiplier: float
    ascent: float
    margin: float
    noise_norm: float
    noise_samples: int
    chunk: int

    @classmethod
    def of(cls, settings: object) -> "LatentSearch":
        """The search of an attack that has fields of the same names."""
        return cls(**{each.name: getattr(settings, each.name) for each in fields(cls)})

    def run(
        self,
        defense: Decodes,
        problems: LatentProblems,
        rng: Generator,
        marks: Sequence[int] = (),
    ) -> Found:
        """Search all problems, in chunks.

        Args:
            rng: names the noise of each step; consumed by nothing else.
            marks: numbers of steps, ascending, for `Found.trace`; change nothing else.
        """
        copies = problems.starts.shape[1] * (self.noise_samples if self.noise_norm else 1)
        parts = problems.split(max(1, self.chunk // copies))
        found = [self._saddle(defense, part, rng, marks) for part in parts]
        return Found(*(torch.cat(each) for each in zip(*found, strict=True)))

    def _saddle(
        self, defense: Decodes, problems: LatentProblems, rng: Generator, marks: Sequence[int]
    ) -> Found:
        """One chunk of problems, until all have left or the steps are used up."""
        running = torch.arange(len(problems.starts), device=problems.starts.device)
        solved = torch.zeros_like(running, dtype=torch.bool)
        latents = problems.starts
        with torch.no_grad():
            images = _decoded(defense, latents)
        record = _Record(latents, images, marks)
        multipliers = torch.full_like(problems.radii, self.multiplier)
        adam = RowAdam(latents, self.rate)
        for step in range(self.steps + 1):
            with torch.enable_grad():
                latents = latents.detach().requires_grad_()
                images = _decoded(defense, latents)
                noisy = self._noisy(images, problems.keys, child(rng, "step", step))
                leads = _leads(defense.classify(noisy.flatten(0, 2)), noisy, problems.classes)
                hinges = (self.margin - leads).relu().mean(dim=2)
                pulls = hinges.shape[1] * (hinges.logsumexp(dim=1) - math.log(hinges.shape[1]))
                squares = _squared_distances(images, problems.anchors)
                excess = (squares - problems.radii**2) / (2 * problems.radii.clamp_min(_LEAST))
                if step == 0:
                    slopes = _slopes(leads, images)
                loss = (pulls / slopes + multipliers * excess).sum()
            inside = squares.detach().sqrt() <= problems.radii * (1 + _REACH)
            solved = solved | (inside & (hinges.detach() == 0).all(dim=1))
            record.see(running, inside, leads.detach(), latents.detach(), images.detach())
            record.mark(step)
            if step == self.steps:
                break
            (gradient,) = torch.autograd.grad(loss, latents)
            latents = latents.detach() - adam.step(gradient)
            multipliers = ascended(multipliers, excess.detach(), self.ascent)
            if step % _LOOK == 0 and bool(solved.any()):
                stay = ~solved
                running, solved, latents = running[stay], solved[stay], latents[stay]
                problems, slopes = problems.keep(stay), slopes[stay]
                multipliers = multipliers[stay]
                adam.keep(stay)
                if len(running) == 0:
                    break
        record.mark(self.steps)
        return record.found

    def _noisy(self, images: Tensor, keys: Tensor, rng: Generator) -> Tensor:
        """Copies (P, M, S, C, H, W) of the images, the same S directions for a problem's M."""
        if not self.noise_norm:
            return images[:, :, None]
        noise = noise_like_rows(rng, keys, (self.noise_samples, *images.shape[2:]))
        lengths = noise.flatten(2).norm(dim=2)[..., None, None, None]
        directions: Tensor = noise / lengths
        return images[:, :, None] + self.noise_norm * directions[:, None]


def lacking(defense: Defense, view: View) -> str | None:
    """Why latents can't be searched: there must be a decoder, and no view is of any use."""
    if not isinstance(defense, Decodes):
        return f"{type(defense).__name__} has no decoder whose latents could be searched"
    if view.surrogate is not None:
        return f"latents are searched, not images, so {view.surrogate!r} has no use"
    return None


@torch.no_grad()
def near_encodings(
    defense: Decodes, x: Tensor, starts: int, spread: float, *, chunk: int, rng: Generator
) -> Tensor:
    """Latents (starts * N, d) around those of images (N, C, H, W), a block of all images each.

    Args:
        starts: blocks; the first is E(x) itself.
        spread: standard deviation of the others around it.
        chunk: images encoded at once.
    """
    encoded = torch.cat([defense.encode(part) for part in x.split(chunk)])
    offsets = noise_like_rows(rng, x, (starts, *encoded.shape[1:]))
    offsets[:, 0] = 0
    return (encoded + spread * offsets.transpose(0, 1)).flatten(0, 1)


def ascended(multipliers: Tensor, excess: Tensor, rate: float) -> Tensor:
    """[lambda + rate * excess]_+ (P,)."""
    return (multipliers + rate * excess).clamp_min(0)


def _decoded(defense: Decodes, latents: Tensor) -> Tensor:
    """G of latents (P, M, d): (P, M, C, H, W)."""
    images = defense.decode(latents.flatten(0, 1))
    return images.reshape(*latents.shape[:2], *images.shape[1:])


def _leads(logits: Tensor, noisy: Tensor, classes: Tensor) -> Tensor:
    """By how much each copy is beyond what is wanted of it (P, M, S), from its logits.

    Each problem's class is masked in its own rows alone. The first latent's copies want another
    class ahead, those of the second the class itself.
    """
    own = classes[:, None, None].expand(noisy.shape[:3]).flatten()
    leads = lead(logits, own).reshape(noisy.shape[:3])
    return torch.cat([leads[:, :1], -leads[:, 1:]], dim=1)


def _slopes(leads: Tensor, images: Tensor) -> Tensor:
    """How fast the first image's leads change with its pixels (P,), in logits per unit of L2."""
    (gradient,) = torch.autograd.grad(leads[:, 0].mean(dim=1).sum(), images, retain_graph=True)
    lengths: Tensor = gradient[:, 0].flatten(1).norm(dim=1)
    return torch.where((lengths > 0) & (lengths < torch.inf), lengths, 1.0)


def _squared_distances(images: Tensor, anchors: Tensor | None) -> Tensor:
    """||G(z') - anchor||^2 (P,)."""
    near = images[:, 1] if anchors is None else anchors
    squares: Tensor = (images[:, 0] - near).flatten(1).square().sum(dim=1)
    return squares


class _Record:
    """The best iterate inside the budget and the last one, of problems that leave one by one.

    Args:
        latents: (P, M, d) starts.
        images: (P, M, C, H, W) of these.
        marks: numbers of steps for the trace.
    """

    def __init__(self, latents: Tensor, images: Tensor, marks: Sequence[int]) -> None:
        leads = latents.new_full((len(latents),), -torch.inf)
        trace = latents[:, None].repeat(1, len(marks), 1, 1)
        self.found = Found(leads, latents.clone(), images.clone(), images.clone(), trace)
        self._marks = marks
        self._marked = 0

    def mark(self, steps: int) -> None:
        """After so many steps: the best latents stand at every mark that was reached."""
        reached = bisect_right(self._marks, steps)
        self.found.trace[:, self._marked : reached] = self.found.latents[:, None]
        self._marked = reached

    def see(
        self, rows: Tensor, inside: Tensor, leads: Tensor, latents: Tensor, images: Tensor
    ) -> None:
        """Look at the present iterates of these rows (indices).

        Args:
            inside: (n,) within the budget.
            leads: (n, M, S) of their copies.
        """
        best, ahead = self.found, leads.mean(dim=2).amin(dim=1)
        better = inside & (ahead > best.leads[rows])
        for kept, new in ((best.leads, ahead), (best.latents, latents), (best.images, images)):
            wide = better.reshape(-1, *[1] * (new.dim() - 1))
            kept[rows] = torch.where(wide, new, kept[rows])
        best.last[rows] = images
