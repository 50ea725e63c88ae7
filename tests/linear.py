"""Defenses whose answers are known in closed form: linear, noisy, rejecting, prototypes, broken.

Every one computes its logits by an elementwise product and a sum over the last dimension, so that
an image's logits do not depend, to the last bit, on how many images stand beside it.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from attacks.threat import Norm
from defenses.base import Decision, Defense, Surrogate, Terms, accepts_all, never_rejects
from defenses.randomness import noise_like_rows

SHAPE = (1, 4, 4)
SIZE = 16


class Linear(Defense):
    """logits = W x + b; deterministic and exact."""

    surrogate_names = ("exact", "other")

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.num_classes = len(bias)

    def logits(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] * self.weight).sum(dim=2) + self.bias

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.logits(x))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.logits(x), never_rejects(x))


class Noisy(Linear):
    """A linear defense on images with Gaussian noise, each image's own."""

    stochastic = True

    def __init__(self, weight: Tensor, bias: Tensor, std: float = 0.02) -> None:
        super().__init__(weight, bias)
        self.std = std

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.logits(x + self.std * noise_like_rows(rng, x, x.shape[1:])))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        def noisy(x: Tensor) -> tuple[Tensor, Tensor]:
            noise = noise_like_rows(rng, x, x.shape[1:])
            return self.logits(x + self.std * noise), never_rejects(x)

        return noisy


class Rejecting(Linear):
    """A linear defense that rejects images whose projection on ``axis`` exceeds a threshold."""

    can_reject = True

    def __init__(self, weight: Tensor, bias: Tensor, axis: Tensor, threshold: float) -> None:
        super().__init__(weight, bias)
        self.axis = nn.Parameter(axis)
        self.threshold = threshold

    def margin(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) - 0.5) * self.axis).sum(dim=1) - self.threshold

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return Decision(self.logits(x), self.margin(x) > 0)

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.logits(x), self.margin(x))


class Prototypes(Defense):
    """The class of the nearest prototype; each class reconstructs by its prototype."""

    surrogate_names = ("exact",)

    def __init__(self, prototypes: Tensor) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(prototypes)
        self.num_classes = len(prototypes)

    def logits(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.prototypes).flatten(2).square().sum(dim=2)

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.logits(x))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.logits(x), never_rejects(x))

    def reconstruct(self, x: Tensor, rng: Generator) -> Tensor:
        return self.prototypes.expand(len(x), -1, -1, -1, -1)


class Mixture(Defense):
    """A linear encoder and decoder, a Gaussian per class, and a threshold on each.

    z = A (x - 1/2) + b with orthonormal rows A times a gain; the decoder is its pseudo-inverse, so
    that the error is the squared distance of x from a plane. One variance for all dimensions.
    """

    can_reject = True
    surrogate_names = ("exact",)

    def __init__(
        self,
        num_classes: int = 4,
        *,
        gain: float = 2.0,
        variance: float = 0.1,
        tau_enc: float = 10.0,
        tau_dec: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        rng = Generator().manual_seed(seed)
        rows = torch.linalg.qr(torch.randn(SIZE, num_classes, generator=rng))[0].T
        self.rows = nn.Parameter(rows.contiguous())
        self.gain = gain
        self.means = nn.Parameter(torch.eye(num_classes))
        self.variance = variance
        self.tau = (tau_enc, tau_dec)
        self.num_classes = num_classes
        self.asked: list[int] = []

    def encode(self, x: Tensor) -> Tensor:
        along = ((x.flatten(1) - 0.5)[:, None] * self.rows).sum(dim=2)
        return self.gain * along + 1 / self.num_classes

    def embed(self, x: Tensor) -> Tensor:
        return self.encode(x)

    def squares(self, x: Tensor) -> Tensor:
        """Squared latent distances (N, K) to the means."""
        return (self.encode(x)[:, None] - self.means).square().sum(dim=2)

    def error(self, x: Tensor) -> Tensor:
        centred = x.flatten(1) - 0.5
        along = (centred[:, None] * self.rows).sum(dim=2)
        return centred.square().sum(dim=1) - along.square().sum(dim=1)

    def logits(self, x: Tensor) -> Tensor:
        return -self.squares(x)

    def scores(self, x: Tensor, wanted: Tensor, metric: float) -> Tensor:
        own = self.squares(x).gather(1, wanted[:, None]).squeeze(1)
        tau_enc, tau_dec = self.tau
        return torch.stack([own * metric / tau_enc, self.error(x) / tau_dec], dim=1)

    def terms(self, x: Tensor, wanted: Tensor, *, printed: bool = False) -> Terms:
        self.asked.append(len(x))
        squares = self.squares(x)
        own = squares.gather(1, wanted[:, None]).squeeze(1)
        others = squares.scatter(1, wanted[:, None], torch.inf).amin(dim=1)
        metric = self.variance if printed else 1 / self.variance
        return Terms(own - others, self.scores(x, wanted, metric))

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        logits = self.logits(x)
        encoder, decoder = self.scores(x, logits.argmax(dim=1), 1 / self.variance).unbind(dim=1)
        refused = ~((encoder <= 1) & (decoder <= 1))
        return Decision(logits, refused, {"encoder": encoder, "decoder": decoder})

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        def view(x: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.logits(x)
            scores = self.scores(x, logits.argmax(dim=1), 1 / self.variance)
            return logits, scores.amax(dim=1).clamp_min(1e-9).log()

        return view


class Decoding(Linear):
    """A linear defense behind a linear autoencoder with d latents: logits = W G(E(x)) + b.

    G(z) = 1/2 + A z in the box with orthonormal columns A, and E(x) = A' (x - 1/2): a projection.
    """

    surrogate_names = ("end_to_end", "classifier")

    def __init__(self, weight: Tensor, bias: Tensor, latents: int = 6, seed: int = 0) -> None:
        super().__init__(weight, bias)
        rng = Generator().manual_seed(seed)
        self.columns = nn.Parameter(torch.linalg.qr(torch.randn(SIZE, latents, generator=rng))[0])

    def encode(self, x: Tensor) -> Tensor:
        return ((x.flatten(1) - 0.5)[..., None] * self.columns).sum(dim=1)

    def decode(self, z: Tensor) -> Tensor:
        self.cost.decoder += len(z)
        along = (z[:, None] * self.columns).sum(dim=2)
        return (0.5 + along).clamp(0, 1).reshape(-1, *SHAPE)

    def classify(self, x: Tensor) -> Tensor:
        return super().logits(x)

    def logits(self, x: Tensor) -> Tensor:
        return self.classify(self.decode(self.encode(x)))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        answer = self.logits if name == "end_to_end" else self.classify
        return lambda x: (answer(x), never_rejects(x))


class Scripted(Defense):
    """Deployed logits and surrogate logits from two functions, which may disagree."""

    surrogate_names = ("scripted",)

    def __init__(
        self,
        deployed: Callable[[Tensor], Tensor],
        view: Callable[[Tensor], Tensor] | None = None,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        self.deployed = deployed
        self.view = deployed if view is None else view
        self.num_classes = num_classes

    def _decide(self, x: Tensor, rng: Generator) -> Decision:
        return accepts_all(self.deployed(x))

    def _surrogate(self, name: str, rng: Generator) -> Surrogate:
        return lambda x: (self.view(x), never_rejects(x))


def random_linear(num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights and a bias that makes all classes equal at mid-grey."""
    rng = Generator().manual_seed(seed)
    weight = torch.randn(num_classes, SIZE, generator=rng)
    return weight, -weight.sum(dim=1) / 2


def images(count: int, seed: int = 0, spread: float = 0.15) -> Tensor:
    """Images around mid-grey, away from the box."""
    rng = Generator().manual_seed(1000 + seed)
    return 0.5 + spread * (2 * torch.rand(count, *SHAPE, generator=rng) - 1)


def labels(defense: Linear | Prototypes | Mixture, x: Tensor) -> Tensor:
    """The classes that the defense gives to clean images."""
    with torch.no_grad():
        return defense.logits(x).argmax(dim=1)


def dual_norm(normals: Tensor, norm: Norm) -> Tensor:
    """The norm (...) of normals (..., d) by which a gap of logits becomes a distance."""
    match norm:
        case Norm.L1:
            return normals.abs().amax(dim=-1)
        case Norm.L2:
            return normals.norm(dim=-1)
        case _:
            return normals.abs().sum(dim=-1)


def exact_distance(defense: Linear, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """Distance (N,) to the nearest decision boundary: min_k (l_y - l_k) / ||w_y - w_k||_dual."""
    with torch.no_grad():
        logits = defense.logits(x)
        gaps = logits.gather(1, y[:, None]) - logits
        normals = defense.weight[y][:, None] - defense.weight
        lengths = dual_norm(normals, norm)
        return (gaps / lengths).scatter(1, y[:, None], torch.inf).amin(dim=1)


def at_distance(
    distance: float, norm: Norm, count: int = 3, seed: int = 0
) -> tuple[Linear, Tensor]:
    """A two-class defense and images of class 0 that all lie exactly this far from class 1."""
    rng = Generator().manual_seed(seed)
    normal = torch.randn(SIZE, generator=rng)
    defense = Linear(torch.stack([normal, torch.zeros(SIZE)]), torch.tensor([-normal.sum() / 2, 0]))
    x = images(count, seed, spread=0.05)
    offset = ((x.flatten(1) - 0.5) * normal).sum(dim=1)
    shift = (distance * dual_norm(normal, norm) - offset) / normal.square().sum()
    return defense, x + (shift[:, None] * normal).reshape(x.shape)
