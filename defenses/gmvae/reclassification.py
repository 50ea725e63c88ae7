"""A second look at what a GMVAE refuses: which latent decodes to this image? (Eq. 9)"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import torch
from torch import Generator, Tensor
from torch.nn import functional

from defenses.base import (
    Decision,
    Defense,
    InnerAttack,
    Learner,
    Recipe,
    Surrogate,
    Task,
    Terms,
    log_margin,
)
from defenses.differentiable_adam import State, adam_step, remembered
from defenses.gmvae.classifier import GMVAE, refused
from defenses.gmvae.recipe import GaussianMixtureVAE
from defenses.gmvae.rejection import require_coverage


@dataclass(frozen=True)
class LatentSearch:
    """Adam on ||g(z) - x||^2 from every class mean at once; no row knows of another.

    Args:
        steps: from the means (unstated; its authors' later code and ours: 1000).
        rate: Adam's (unstated; likewise 0.01).
        at_once: latents decoded together.
    """

    steps: int = 1000
    rate: float = 0.01
    at_once: int = 1000

    def run(self, defense: GMVAE, x: Tensor, start: Tensor, steps: int) -> Tensor:
        """Latents (N, K, d) from ``start`` of the same shape, for images (N, C, H, W)."""
        defense.cost.decoder += steps * start.shape[0] * start.shape[1]
        images = x.detach().repeat_interleave(start.shape[1], dim=0)
        parts = [
            self._descend(defense, image, z, steps)
            for image, z in zip(
                images.split(self.at_once), start.flatten(0, 1).split(self.at_once), strict=True
            )
        ]
        return torch.cat(parts).reshape(start.shape) if parts else start

    def _descend(self, defense: GMVAE, x: Tensor, start: Tensor, steps: int) -> Tensor:
        with torch.enable_grad():
            z = start.detach().clone().requires_grad_()
            adam = torch.optim.Adam([z], lr=self.rate)
            for _ in range(steps):
                (gradient,) = torch.autograd.grad(defense.errors(x, z).sum(), z)
                z.grad = gradient
                adam.step()
        return z.detach()

    def unroll(self, defense: GMVAE, x: Tensor, start: Tensor, steps: int) -> Tensor:
        """As `run`, but differentiable in the images; the start is a constant."""
        shape, images = start.shape, x.repeat_interleave(start.shape[1], dim=0)
        z = start.detach().flatten(0, 1)
        state: State = (z, torch.zeros_like(z), torch.zeros_like(z))
        for number in range(1, steps + 1):
            z, first, second = remembered(partial(self._step, defense, number), images, *state)
            state = (z, first, second)
        return state[0].reshape(shape)

    def _step(self, defense: GMVAE, number: int, x: Tensor, *state: Tensor) -> State:
        z, first, second = state
        defense.cost.decoder += len(z)
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = z if z.requires_grad else z.detach().requires_grad_()
            errors = defense.errors(x, leaf)
            (gradient,) = torch.autograd.grad(errors.sum(), leaf, create_graph=differentiable)
        return adam_step((leaf, first, second), gradient, number, self.rate)


UNROLLED_STEPS = 10
"""Latent steps that the `unrolled` view of a reclassifying GMVAE takes and differentiates.

No paper unrolls Eq. 9.
"""


@final
class Reclassifying(Defense):
    """A GMVAE that classifies what it refuses by the decoder alone.

    The networks are the base's, under the same names: so are the weights.

    Surrogates: ``fixed_latent`` answers as deployed, the latents of Eq. 9 found without gradients
    and held fixed in the image's own (they are carried from query to query); ``unrolled`` goes on
    from there by some steps that it differentiates, so that the image's part in where the latents
    end, and in the encoder's threshold on them, is seen; the others are the base's.

    Args:
        base: which refuses.
        search: how the latents are found.
        refine_steps: latent steps per query of these two after a row's first.
        refuses_fooling: refuse again where the best latent lies beyond tau_enc or its image beyond
            tau_dec; False answers every input ("scenarios where fooling samples are not expected").
    """

    can_reject = True
    surrogate_names = ("fixed_latent", "unrolled", *GMVAE.surrogate_names)

    def __init__(
        self, base: GMVAE, search: LatentSearch, refine_steps: int, *, refuses_fooling: bool
    ) -> None:
        super().__init__()
        self.num_classes = base.num_classes
        self.encoder, self.decoder, self.rejection = base.encoder, base.decoder, base.rejection
        self.search = search
        self.refine_steps = refine_steps
        self.refuses_fooling = refuses_fooling
        self._shared = (base,)  # in a tuple: its networks are registered above, once

    @property
    def base(self) -> GMVAE:
        """The GMVAE whose networks these are."""
        return self._shared[0]

    def terms(self, x: Tensor, wanted: Tensor, *, printed: bool = False) -> Terms:
        """The base's: what it answers wrongly and accepts is not looked at again."""
        return self.base.terms(x, wanted, printed=printed)

    def embed(self, x: Tensor) -> Tensor:
        """See `Embeds.embed`: the base's."""
        return self.base.embed(x)

    def means(self, count: int) -> Tensor:
        """The starts of Eq. 9, (N, K, d)."""
        return self.rejection.means.expand(count, -1, -1)

    def answers(self, x: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the latents (N, K, d) say of images: class scores (N, K), scores of the best (N,).

        A class is as likely as the best image among the latents that ended nearest to its mean;
        classes where none ended score below every other. Differentiable in the image.
        """
        errors = self.base.errors(x.repeat_interleave(z.shape[1], dim=0), z.flatten(0, 1))
        errors = errors.reshape(z.shape[:2])
        ended = torch.cdist(z, self.rejection.means.expand(len(z), -1, -1)).argmin(dim=2)
        found = functional.one_hot(ended, self.num_classes).bool()
        unreached = -2 * errors.detach().amax(dim=1)[:, None, None] - 1
        logits = torch.where(found, -errors[:, :, None], unreached).amax(dim=1)
        best = errors.argmin(dim=1)
        rows = torch.arange(len(z), device=z.device)
        tau_enc, tau_dec = self.rejection.thresholds(self.base.coverage)
        distances = self.rejection.distances(z[rows, best], ended[rows, best])
        return logits, {"encoder": distances / tau_enc, "decoder": errors[rows, best] / tau_dec}

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        first = self.base.decide(x, rng)
        rows = first.rejected.nonzero().squeeze(1)
        if len(rows) == 0:
            return first
        z = self.search.run(self.base, x[rows], self.means(len(rows)), self.search.steps)
        logits, scores = self.answers(x[rows], z)
        again = (
            refused(scores) if self.refuses_fooling else torch.zeros_like(rows, dtype=torch.bool)
        )
        return Decision(
            first.logits.index_copy(0, rows, logits),
            first.rejected.index_copy(0, rows, again),
            {name: value.index_copy(0, rows, scores[name]) for name, value in first.scores.items()},
        )

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        unrolled_steps = {"fixed_latent": 0, "unrolled": UNROLLED_STEPS}.get(name)
        if unrolled_steps is None:
            return self.base.surrogate(name, rng)
        return _CarriedLatents(self, self.base.surrogate("end_to_end", rng), unrolled_steps)


@dataclass
class _CarriedLatents:
    """As deployed, the latents of refused rows found without gradients and carried along.

    Args:
        defense: as deployed.
        first: a view of its base.
        unrolled_steps: further steps, differentiated; 0 holds the latents fixed.
    """

    defense: Reclassifying
    first: Surrogate
    unrolled_steps: int
    latents: Tensor | None = field(default=None, init=False)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, margins = self.first(x)
        rows = (margins > 0).nonzero().squeeze(1)
        if len(rows) == 0:
            return logits, margins
        z = self._latents(x.detach(), rows)
        if self.unrolled_steps:
            z = self.defense.search.unroll(self.defense.base, x[rows], z, self.unrolled_steps)
        found, scores = self.defense.answers(x[rows], z)
        again = log_margin(scores)
        if not self.defense.refuses_fooling:
            again = torch.full_like(again, -torch.inf)
        return logits.index_copy(0, rows, found), margins.index_copy(0, rows, again)

    def _latents(self, x: Tensor, rows: Tensor) -> Tensor:
        """Latents (n, K, d) of these rows: searched when first refused, then refined."""
        defense, search = self.defense, self.defense.search
        if self.latents is None:
            self.latents = torch.full_like(defense.means(len(x)), torch.nan)
        for own, steps in self._parts(rows):
            start = self.latents[own].nan_to_num() if steps < search.steps else None
            start = defense.means(len(own)) if start is None else start
            self.latents[own] = search.run(defense.base, x[own], start, steps)
        return self.latents[rows]

    def _parts(self, rows: Tensor) -> Iterator[tuple[Tensor, int]]:
        if self.latents is None:
            return
        fresh = self.latents[rows].isnan().any(dim=2).any(dim=1)
        yield rows[fresh], self.defense.search.steps
        yield rows[~fresh], self.defense.refine_steps


@final
@dataclass(frozen=True, kw_only=True)
class Reclassification(Recipe):
    """A trained GMVAE with `Reclassifying` around it: nothing of its own is trained.

    Args:
        base: the recipe of ``starts_from``.
        steps: see `LatentSearch`, as the next.
        rate: see there.
        refine_steps: see `Reclassifying`, as the next.
        refuses_fooling: see there.
        coverage: of the base.
    """

    inference_fields = frozenset({"steps", "rate", "refine_steps", "refuses_fooling", "coverage"})
    blind_surrogates = GaussianMixtureVAE.blind_surrogates

    base: GaussianMixtureVAE
    epochs: int = 0
    steps: int = 1000
    rate: float = 0.01
    refine_steps: int = 5
    refuses_fooling: bool = True
    coverage: float | None = None

    def __post_init__(self) -> None:
        require_coverage(self.coverage)

    def build(self, task: Task) -> Reclassifying:
        """Around untrained networks."""
        base = replace(self.base, coverage=self.coverage).build(task)
        search = LatentSearch(self.steps, self.rate)
        return Reclassifying(base, search, self.refine_steps, refuses_fooling=self.refuses_fooling)

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Nothing to learn.

        Raises:
            ValueError: always; `benchmark.train` takes the weights of ``starts_from``.
        """
        raise ValueError(f"a recipe of 0 epochs must not be trained; train {self.starts_from}")
