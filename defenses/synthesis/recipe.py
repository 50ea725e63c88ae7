"""How the family is built from parts and trained (E-ABS, Algorithm 1)."""

from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Generator, Tensor
from torch.nn import functional

from defenses.architectures import ARCHITECTURES
from defenses.base import Defense, InnerAttack, Learner, Recipe, Task
from defenses.synthesis.classifier import SynthesisClassifier
from defenses.synthesis.decoders import ClassDecoders
from defenses.synthesis.encoding import Encoding
from defenses.synthesis.inference import InferenceSettings
from defenses.synthesis.posterior import Posterior, gaussian_divergence
from defenses.synthesis.prior import Discriminators, Prior


@final
@dataclass(frozen=True, kw_only=True)
class Synthesis(Recipe):
    """A member of the ABS family: an encoding, a prior and a posterior.

    Args:
        encoding: one encoder per class, or a shared one with the discriminative loss (D).
        prior: Gaussian, or adversarial (A).
        posterior: a point, or a distribution (V).
        target: what a noisy training image is compared with; the papers do not say.
        candidates: see `InferenceSettings`, as the next four.
        candidate_score: see there.
        candidate_seed: see there.
        latent_steps: see there.
        latent_rate: see there.
        refine_steps: latent steps per query of the `fixed_latent` surrogate after its first.
        follow_radius: see `SynthesisClassifier`; no paper carries latents along.
    """

    inference_fields = frozenset(
        {
            "candidates",
            "candidate_score",
            "candidate_seed",
            "latent_steps",
            "latent_rate",
            "refine_steps",
            "follow_radius",
        }
    )

    encoding: Encoding
    prior: Prior
    posterior: Posterior
    epochs: int = 500
    target: Literal["noisy", "clean"] = "noisy"
    candidates: int = 8000
    candidate_score: Literal["sample", "mean"] = "sample"
    candidate_seed: int = 0
    latent_steps: int = 50
    latent_rate: float = 0.05
    refine_steps: int = 4
    follow_radius: float = 1.0

    def build(self, task: Task) -> SynthesisClassifier:
        """Untrained networks of Table 9 for the task's kind of image."""
        architecture = ARCHITECTURES[task.architecture]
        discriminators = None
        if self.prior.adversarial:
            discriminators = Discriminators(
                self.encoding.discriminator_count(task),
                architecture.latent,
                architecture.discriminator,
                architecture.slope,
            )
        return SynthesisClassifier(
            encoding=self.encoding,
            posterior=self.posterior,
            prior=self.prior,
            settings=InferenceSettings(
                candidates=self.candidates,
                candidate_score=self.candidate_score,
                candidate_seed=self.candidate_seed,
                latent_steps=self.latent_steps,
                latent_rate=self.latent_rate,
            ),
            refine_steps=self.refine_steps,
            follow_radius=self.follow_radius,
            encoders=self.encoding.build(task, architecture),
            decoders=ClassDecoders(task.num_classes, architecture),
            discriminators=discriminators,
        )

    def learner(self, defense: Defense, task: Task, attack: InnerAttack | None) -> Learner:
        """Autoencoders and discriminators, updated in turn."""
        if not isinstance(defense, SynthesisClassifier):
            raise ValueError(f"defense must be a SynthesisClassifier, got {type(defense).__name__}")
        return SynthesisLearner(defense, self, task.noise_std)


@final
@dataclass
class SynthesisLearner(Learner):
    """Algorithm 1: one update of encoders and decoders, then one of the discriminators.

    Args:
        defense: the networks.
        recipe: learning rate and reconstruction target.
        noise_std: of the Gaussian input noise; noisy images are clipped to the box.
    """

    defense: SynthesisClassifier
    recipe: Synthesis
    noise_std: float
    optimizers: tuple[torch.optim.Optimizer, ...] = field(init=False)

    def __post_init__(self) -> None:
        rate, defense = self.recipe.learning_rate, self.defense
        autoencoder = [*defense.encoders.parameters(), *defense.decoders.parameters()]
        self.optimizers = (torch.optim.Adam(autoencoder, lr=rate),)
        if defense.discriminators is not None:
            parameters = defense.discriminators.parameters()
            self.optimizers += (torch.optim.Adam(parameters, lr=rate),)

    def update(self, x: Tensor, y: Tensor, rng: Generator) -> dict[str, Tensor]:
        """One step of each optimiser on Eq. 5 (sums over pixels, mean over the batch)."""
        noise = torch.randn(x.shape, generator=rng).to(x.device)
        noisy = (x + self.noise_std * noise).clamp(0, 1)
        target = noisy if self.recipe.target == "noisy" else x
        defense = self.defense
        networks = (defense.encoders, defense.decoders)
        encoded = defense.encoding.encode(networks, noisy, target, y, rng)
        divergence = gaussian_divergence(encoded.mean, encoded.log_variance)
        energy = self._own(encoded.z, divergence, encoded.y)
        loss = (encoded.error + energy + encoded.discriminative).mean()
        self._step(self.optimizers[0], loss)
        losses = {
            "error": encoded.error.mean(),
            "energy": energy.mean(),
            "discriminative": encoded.discriminative.mean(),
        }
        if len(self.optimizers) > 1:
            with torch.no_grad():
                outliers, faked = defense.encoding.outliers(
                    defense.encoders, noisy, y, encoded.z, rng
                )
            encodings = torch.cat([encoded.z.detach(), outliers])
            loss = self._discriminator_loss(encodings, torch.cat([encoded.y, faked]), rng)
            self._step(self.optimizers[1], loss)
            losses["discriminator"] = loss
        return {name: value.detach() for name, value in losses.items()}

    def validate(self, x: Tensor, y: Tensor) -> Tensor:
        """The class whose decoder explains the encoder's own suggestion best, without a search."""
        with torch.no_grad():
            return self.defense.suggested(x) == y

    def _own(self, z: Tensor, divergence: Tensor, y: Tensor) -> Tensor:
        """The prior's charge (M,) of latents (M, d) in their own classes."""
        shape = (len(z), self.defense.num_classes)
        energies = self.defense.prior.energy(
            z[:, None].expand(*shape, -1),
            divergence[:, None].expand(shape),
            self.defense.discriminators,
        )
        return energies.gather(1, y[:, None]).squeeze(1)

    def _discriminator_loss(self, encodings: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """-beta mean[log D(prior) + log(1 - D(encoding))], the GAN objective.

        Algorithm 1 prints one z for both; they are two different latents.
        """
        discriminators = self.defense.discriminators
        if discriminators is None:
            raise ValueError("discriminators must be networks, got None")
        drawn = torch.randn(encodings.shape, generator=rng).to(encodings.device)
        genuine, faked = discriminators.own(drawn, y), discriminators.own(encodings, y)
        losses = functional.softplus(-genuine) + functional.softplus(faked)
        return self.defense.prior.beta * losses.mean()

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
