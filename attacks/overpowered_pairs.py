"""The Overpowered attack as its paper has it: pairs of a decoder's images, both of them free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.evasion import evasion_lead
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.latent_search import Found, LatentProblems, LatentSearch, lacking, near_encodings
from attacks.threat import Norm
from defenses.base import Decodes, Defense
from defenses.randomness import child


@final
@dataclass(frozen=True, kw_only=True)
class OverpoweredPairs(FixedEpsilonAttack):
    """Latents z and z' whose images are near each other and classified apart (Jalal et al. 2017,
    Eqs. 1 and 2).

    Neither image is bound to a given one: of each image x only the class counts, which G(z) is to
    keep and G(z') to leave, and E(x), near which both begin. What is handed over is G(z'), so what
    the sweep measures is the transfer to the deployed defense, whose own inversion of G(z') need
    not end at z' ("none of these images actually induce different classifications on the end-to-end
    classifier", section 4.3). Of an image's starts the one counts that fools most of ``asks`` fresh
    runs of it (Athalye et al. 2018 and SPEC 5.4 keep points that fool 9 of 10).

    `attacks.latent_search` says how the saddle point is searched, with a hinge on the logits' lead
    in place of the paper's distance of softmax outputs, which is flat where the classifier is sure.

    Args:
        mean_square: of G(z') - G(z) per pixel and channel that is allowed: eta^2 = 2.46 of the
            paper's 64x64 RGB images in [-1, 1] is 2e-4, in [0, 1] a quarter of that.
        starts: searches per image, the first from E(x).
        spread: standard deviation of the others' starts around E(x).
        asks: fresh runs of the deployed defense per candidate; deterministic ones are asked once.
        steps: of the search (section 4.3: 10,000; in training 500).
        rate, multiplier, ascent, margin, noise_norm, noise_samples, chunk: see `LatentSearch`; the
            paper has no noise.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.UNRESTRICTED,)
    skips: ClassVar[bool] = False
    counts_from_zero: ClassVar[tuple[str, ...]] = ()

    norm: Norm = Norm.UNRESTRICTED
    mean_square: float = 5e-5
    starts: int = 5
    spread: float = 0.5
    asks: int = 10
    steps: int = 10_000
    rate: float = 0.05
    multiplier: float = 1.0
    ascent: float = 0.2
    margin: float = 1.0
    noise_norm: float = 0.0
    noise_samples: int = 10
    chunk: int = 500

    def needs(self, defense: Defense) -> str | None:
        """A decoder, and no view: the search is over latents."""
        return lacking(defense, self.view)

    def pairs(self, defense: Decodes, starts: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Latents z and z' (n, d) each: see `FindsPairs`.

        Both begin at ``starts`` (n, d); the class to keep and to leave is the one there. Where no
        pair inside the budget was met, both are the start.
        """
        found = self.searched(defense, starts, rng)
        return found.latents[:, 1], found.latents[:, 0]

    def searched(
        self, defense: Decodes, starts: Tensor, rng: Generator, marks: Sequence[int] = ()
    ) -> Found:
        """What `pairs` found, with its trace: of M = 2 latents z' is the first, z the second.

        Args:
            marks: see `LatentSearch.run`.
        """
        with torch.no_grad():
            images = defense.decode(starts)
            classes = defense.classify(images).argmax(dim=1)
        return self.saddle(defense, starts, classes, images, rng, marks=marks)

    def saddle(
        self,
        defense: Decodes,
        starts: Tensor,
        classes: Tensor,
        keys: Tensor,
        rng: Generator,
        *,
        marks: Sequence[int] = (),
    ) -> Found:
        """Pairs from ``starts`` (P, d): first the latents that leave ``classes`` (P,).

        Args:
            keys: (P, C, H, W) whose bytes the noise depends on.
            marks: see `LatentSearch.run`.
        """
        eta = (self.mean_square * keys[0].numel()) ** 0.5 if len(keys) else 0.0
        problems = LatentProblems(
            starts=starts[:, None].repeat(1, 2, 1),
            anchors=None,
            classes=classes,
            radii=starts.new_full((len(starts),), eta),
            keys=keys,
        )
        search = LatentSearch.of(self)
        return search.run(defense, problems, rng, marks)

    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`.

        Raises:
            ValueError: the defense does not decode; `needs` says so beforehand.
        """
        if not isinstance(defense, Decodes):
            raise ValueError(f"defense must decode, got {type(defense).__name__}; see needs()")
        rows = torch.arange(len(x), device=x.device).repeat(self.starts)
        starts = near_encodings(
            defense, x, self.starts, self.spread, chunk=self.chunk, rng=child(rng, "starts")
        )
        found = self.saddle(defense, starts, y[rows], x[rows], child(rng, "search"))
        points = found.images[:, 0].clamp(0, 1)
        fooled, leads = self._asked(defense, points, y[rows], child(rng, "ask"))
        order = fooled.to(leads.dtype) + leads.sigmoid() / 2  # leads decide among equals
        best = order.reshape(self.starts, -1).argmax(dim=0)
        return points.reshape(-1, *x.shape)[best, torch.arange(len(x), device=x.device)]

    def _asked(
        self, defense: Defense, points: Tensor, y: Tensor, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """How many fresh runs (P,) each point fools, and its mean lead (P,)."""
        runs = []
        for run in range(self.asks if defense.stochastic else 1):
            parts = zip(points.split(self.chunk), y.split(self.chunk), strict=True)
            answers = [evasion_lead(defense.decide(p, child(rng, run)), own) for p, own in parts]
            runs.append(torch.cat(answers))
        leads = torch.stack(runs)
        return (leads > 0).sum(dim=0), leads.mean(dim=0)
