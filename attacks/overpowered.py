"""The Overpowered attack (Jalal et al. 2017): adversarial images of a decoder's own making."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from attacks.evasion import evasion_lead
from attacks.fixed_epsilon import FixedEpsilonAttack
from attacks.latent_search import LatentProblems, LatentSearch, lacking, near_encodings
from attacks.threat import Norm
from defenses.base import Decodes, Defense
from defenses.randomness import child


@final
@dataclass(frozen=True, kw_only=True)
class Overpowered(FixedEpsilonAttack):
    """The latent z' whose image G(z') is near x and taken for another class, noise or not.

    `attacks.latent_search` says how it is searched. The classifier sees G(z') under noise, because
    the deployed defense will not reproduce it exactly; of an image's starts that one is handed over
    whose best iterate leads most by the deployed defense's own answer C(G(E(G(z')))).

    In L2 the budget is the epsilon and every candidate is inside it. Unrestricted, as MAD-VAE
    tabulates it (Table 3), the budget is in the Lagrangian only: each start's last iterate is a
    candidate too, however far it is.

    Args:
        budget: radius of the unrestricted search in L2 (MAD-VAE's code: 4); in L2 the epsilon
            takes its place.
        noise_norm: length of the noise (MAD-VAE: 1, 2.5, 3 and 3.5, an attack each).
        noise_samples: noisy copies per step (MAD-VAE's code: 100).
        starts: searches per image (MAD-VAE's code: 20), the first from E(x).
        spread: standard deviation of the others' starts around E(x) (MAD-VAE's code begins all of
            them at E(x)).
        steps: see `LatentSearch`, as for the fields that follow (MAD-VAE's code: 1000).
        rate: of Adam (MAD-VAE's code: 0.05).
        multiplier: first lambda (MAD-VAE's code has another form of loss and excess, and begins
            with so large a lambda that at first the image alone counts).
        ascent: of lambda (ours).
        margin: lead that is enough (Jalal et al.'s code: 1).
        chunk: noisy copies held in memory at once; changes no result.
    """

    norms: ClassVar[tuple[Norm, ...]] = (Norm.L2, Norm.UNRESTRICTED)
    skips: ClassVar[bool] = False

    budget: float = 4.0
    noise_norm: float = 1.0
    noise_samples: int = 100
    starts: int = 20
    spread: float = 0.5
    steps: int = 1000
    rate: float = 0.05
    multiplier: float = 1.0
    ascent: float = 0.2
    margin: float = 1.0
    chunk: int = 250

    def needs(self, defense: Defense) -> str | None:
        """A decoder, and no view: the search is over latents."""
        return lacking(defense, self.view)

    def perturb(
        self, defense: Defense, x: Tensor, y: Tensor, epsilon: Tensor, rng: Generator
    ) -> Tensor:
        """See `FixedEpsilonAttack.perturb`.

        Raises:
            ValueError: the defense does not decode; `needs` says so beforehand.
        """
        if not isinstance(defense, Decodes):
            raise ValueError(f"defense must decode, got {type(defense).__name__}; see needs()")
        limited = self.norm is Norm.L2
        rows = torch.arange(len(x), device=x.device).repeat(self.starts)
        problems = LatentProblems(
            starts=near_encodings(
                defense, x, self.starts, self.spread, chunk=self.chunk, rng=child(rng, "starts")
            )[:, None],
            anchors=x[rows],
            classes=y[rows],
            radii=(epsilon if limited else torch.full_like(epsilon, self.budget))[rows],
            keys=x[rows],
        )
        found = LatentSearch.of(self).run(defense, problems, child(rng, "search"))
        inside = (found.leads > -torch.inf).reshape(-1, 1, 1, 1)
        points = torch.where(inside, found.images[:, 0], x[rows])
        if not limited:
            points, rows = torch.cat([points, found.last[:, 0]]), rows.repeat(2)
        points = self.norm.project(x[rows], points, epsilon[rows])
        answers = child(rng, "answer")
        leads = torch.cat(
            [
                evasion_lead(defense.decide(points[some], child(answers)), y[rows[some]])
                for some in torch.arange(len(rows), device=x.device).split(self.chunk)
            ]
        )
        best = leads.reshape(-1, len(x)).argmax(dim=0)
        return points.reshape(-1, *x.shape)[best, rows[: len(x)]]
