"""Presets: how much of the published budget a run spends. No budget hides elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attacks.from_foolbox import BIM, PGD
from attacks.threat import Norm
from defenses.gmvae import Spread
from defenses.purification import defense_vae_pairs, mad_pairs

Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Preset:
    """One named set of budgets, printed under every table made with it.

    Args:
        samples: test images per cell.
        votes: fresh seeds with which the judge asks a stochastic defense about one candidate.
        block: samples per unit of work; a killed run loses one block per worker at most.
        every: of the data set's curve a run without ``--epsilons`` takes every so-manieth radius,
            and always the tables' own.
        defenses: fields that replace those of a registered recipe, by defense.
        by_dataset: further such fields for one data set only.
        attacks: fields that replace those of a registered attack, by attack.
        transfers: pairs of latents at most that a deployed defense is asked about, as often as the
            attack's ``asks`` (`benchmark.latent_pairs`).
        probed: images of each defense and surviving images of each cell that are probed
            (`benchmark.probing`); 0 makes no probes and no self-tests.
        asked: fresh seeds with which a probe asks a stochastic defense about each judged point.
        restarts: PGD restarts by number of colour channels; empty leaves them as registered.
    """

    name: str
    summary: str
    samples: int
    votes: int
    block: int
    every: int = 1
    transfers: int = 100
    probed: int = 0
    asked: int = 2
    defenses: Overrides = field(default_factory=dict)
    by_dataset: Mapping[str, Overrides] = field(default_factory=dict)
    attacks: Overrides = field(default_factory=dict)
    restarts: Mapping[int, int] = field(default_factory=dict)


_CLASS_ENCODERS = ("abs", "a_abs", "v_abs", "av_abs")
_SHARED_ENCODER = ("d_abs", "ad_abs", "dv_abs", "eabs")
_SYNTHESIS = _CLASS_ENCODERS + _SHARED_ENCODER
_QUICK_SYNTHESIS = {
    "learning_rate": 2e-3,
    "halve_every": 2,
    "least_updates": 1000,
    "candidates": 1000,
    "latent_steps": 30,
}
_GMVAE = ("gmvae", "gmvae_semi", "gmvae_variable_entropy")
_MAD_VAE = (
    "defense_vae",
    "mad_vae_classification",
    "mad_vae_proximity_distance",
    "mad_vae_combined",
)
_SUBSTITUTES = tuple(f"substitute_{letter}" for letter in "abcde")
_OBJECTS = {"coil100": {name: {"spread": Spread.POOLED} for name in _GMVAE}}
"""COIL-100 has at most 72 images of an object, its latent space 100 dimensions."""
_THRESHOLD_DESCENTS = (
    "threshold-aware-l2",
    "threshold-aware-printed-l2",
    "fooling",
    "fooling-printed",
)
_THRESHOLD_PROBLEMS = (
    "threshold-hinge-linf",
    "threshold-hinge-l2",
    "threshold-selective-linf",
    "threshold-selective-l2",
    "threshold-orthogonal-linf",
    "threshold-orthogonal-l2",
    "feature-matching-linf",
    "feature-matching-l2",
)
_SMOKE_ROUNDS = {"steps": 3, "initial_const": 1.0, "const_factor": 10.0, "refresh": 5, "eot": 1}
_QUICK_ROUNDS = {"initial_const": 0.1, "const_factor": 4.0, "inset": 0.01, "eot": 1}
_OVERPOWERED = ("overpowered-l2", "overpowered-unrestricted")
_APGD = tuple(
    f"apgd-{kind}"
    for kind in (
        *(f"{loss}-{norm}" for loss in ("ce", "margin") for norm in ("linf", "l2", "l1")),
        *(f"{loss}-{norm}" for loss in ("dlr", "true-class", "lowpass") for norm in ("linf", "l2")),
    )
)
_APGD_TARGETED = tuple(f"apgd-targeted-{norm}" for norm in ("linf", "l2", "l1"))
_SQUARE = ("square-linf", "square-l2")
_HOP_SKIP_JUMP = ("hopskipjump-l2", "hopskipjump-linf")
_FMN = ("fmn-linf", "fmn-l2", "fmn-l1", "fmn-l0")
_FAB = ("fab-linf", "fab-l2", "fab-l1")
_ADVERSARIAL = ("adv_linf", "adv_l2")

_ASKING = ("inc_substitute", "inc_inverter")
_REDRAWING = ("dip_inc", "dip_inc_paper")
_SHORT_INVERSION = {"steps": 5, "refine_steps": 2, "unrolled_steps": 2}


def _pgd(norm: Norm, steps: int, relative_step: float) -> dict[str, PGD]:
    """What makes the candidates of a transfer."""
    return {"crafting": PGD(norm=norm, steps=steps, relative_step=relative_step)}


def _each(names: tuple[str, ...], **overrides: Any) -> Overrides:
    """The same fields for several entries."""
    return dict.fromkeys(names, overrides)


PRESETS: dict[str, Preset] = {
    "smoke": Preset(
        name="smoke",
        summary="seconds, for tests: every part runs, no number means anything",
        samples=8,
        votes=2,
        block=8,
        transfers=4,
        probed=2,
        defenses={
            "cnn": {"epochs": 1, "batch_size": 128},
            **_each(_ADVERSARIAL, epochs=1, batch_size=128),
            **_each(_SYNTHESIS, epochs=1, batch_size=128, candidates=50, latent_steps=3),
            **_each(_GMVAE, epochs=1, labelled_alone=5),
            "gmvae_reclassify": {"steps": 5},
            "magnet": {"epochs": 1},
            "identity_vae": {"epochs": 1, "batch_size": 128},
            **_each(
                _MAD_VAE,
                epochs=1,
                batch_size=64,
                pairs=mad_pairs("binary_search_steps=1,steps=3"),
                pairs_per_attack=32,
            ),
            "defense_vae_official": {
                "epochs": 1,
                "batch_size": 64,
                "pairs": defense_vae_pairs(3),
                "pairs_per_attack": 32,
            },
            **_each(_SUBSTITUTES, epochs=1),
            "inc_classifier": {"epochs": 1},
            "inc": {"epochs": 1, **_SHORT_INVERSION},
            "defense_gan": {"epochs": 1, "width": 4, "restarts": 2, **_SHORT_INVERSION},
            "inc_overpowered_training": {
                "epochs": 1,
                "inner_attack": "overpowered-pairs[steps=3]",
                "pairs": 4,
                **_SHORT_INVERSION,
            },
            **_each(_ASKING, epochs=1, batch_size=32, asked=32, asked_per_epoch=32),
            **_each(_REDRAWING, scales=2, width=4, steps=3),
        },
        by_dataset=_OBJECTS,
        attacks={
            "pgd-linf": {"steps": 3, "restarts": 1, "eot": 1},
            "pgd-l2": {"steps": 3, "restarts": 1, "eot": 1},
            "ddn": {"steps": 3, "eot": 1},
            "cw-l2": {"binary_search_steps": 1, "steps": 3, "eot": 1},
            "deepfool-l2": {"steps": 2, "candidates": 3, "eot": 1},
            "deepfool-linf": {"steps": 2, "candidates": 3, "eot": 1},
            "cw-linf": {**_SMOKE_ROUNDS, "largest_const": 10.0, "decrease": 0.5},
            "cw-l0": {**_SMOKE_ROUNDS, "largest_const": 100.0},
            "noise-l2": {"repeats": 2},
            "noise-linf": {"repeats": 2},
            "boundary": {"steps": 20},
            **_each(_SQUARE, queries=10, seeds=1),
            **_each(
                _HOP_SKIP_JUMP,
                steps=2,
                initial_gradient_eval_steps=5,
                max_gradient_eval_steps=10,
                seeds=1,
            ),
            **_each(_FMN, steps=3, eot=1),
            **_each(_FAB, steps=3, targets=1, eot=1),
            "pgd-estimated-linf": {"steps": 2, "samples": 4},
            "bim": {"steps": 3},
            "mim-linf": {"steps": 3, "eot": 1},
            **_each(_APGD, steps=3, restarts=1, eot=1),
            **_each(_APGD_TARGETED, steps=3, restarts=1, targets=1, eot=1),
            "rand-fgsm": {"eot": 1},
            "single-pixel": {"max_pixels": 4, "abreast": 4, "eot": 1},
            "transfer-bim": {"crafting": BIM(norm=Norm.LINF, steps=3)},
            "transfer-pgd-linf": _pgd(Norm.LINF, 3, 0.4),
            "transfer-pgd-l2": _pgd(Norm.L2, 3, 0.4),
            **_each(_OVERPOWERED, steps=3, starts=2, noise_samples=2),
            "overpowered-pairs": {"steps": 3, "starts": 2, "asks": 2},
            "latent-descent": {"coarse_steps": 5, "binary_steps": 2},
            **_each(_THRESHOLD_DESCENTS, steps=3),
            **_each(_THRESHOLD_PROBLEMS, steps=3),
            "refusal-linf": {"steps": 3, "eot": 1},
            "refusal-l2": {"steps": 3, "eot": 1},
        },
    ),
    "quick": Preset(
        name="quick",
        summary="minutes on two cores: the default",
        samples=100,
        votes=3,
        block=100,
        every=2,
        probed=10,
        asked=10,
        transfers=40,
        defenses={
            "cnn": {"epochs": 4, "batch_size": 128, "halve_every": 1, "least_updates": 1000},
            **_each(
                _ADVERSARIAL,
                epochs=5,
                batch_size=128,
                learning_rate=1e-3,
                halve_every=2,
                least_updates=500,
            ),
            **_each(_CLASS_ENCODERS, epochs=5, batch_size=128, **_QUICK_SYNTHESIS),
            **_each(_SHARED_ENCODER, epochs=6, batch_size=64, **_QUICK_SYNTHESIS),
            **_each(_GMVAE, epochs=12, halve_every=3, least_updates=1000),
            "gmvae_semi": {"epochs": 6, "halve_every": 2, "least_updates": 1000},
            "gmvae_reclassify": {"steps": 300},
            "magnet": {"epochs": 3, "halve_every": 1, "least_updates": 1000},
            "identity_vae": {"epochs": 1, "batch_size": 128, "least_updates": 400},
            # On MNIST some 5 CPU minutes for the pairs and 5 for each purifier. CW's steps are long
            # enough to turn black pixels, at the ends of tanh, white in 40 of them.
            **_each(
                _MAD_VAE,
                epochs=2,
                batch_size=128,
                least_updates=500,
                pairs=mad_pairs("binary_search_steps=1,steps=40,stepsize=0.3,initial_const=3"),
                pairs_per_attack=4000,
            ),
            "defense_vae_official": {
                "epochs": 2,
                "batch_size": 64,
                "least_updates": 500,
                "pairs": defense_vae_pairs(40),
                "pairs_per_attack": 3000,
            },
            **_each(_SUBSTITUTES, epochs=2, batch_size=128, least_updates=500),
            "inc": {"epochs": 12, "halve_every": 4, "least_updates": 1000, "steps": 300},
            "inc_overpowered_training": {
                "epochs": 1,
                "least_updates": 400,
                "inner_attack": "overpowered-pairs[steps=100]",
                "pairs": 20,
                "steps": 300,
            },
            # A quarter of the published width: 50 images of 32x32 pixels in seconds, not minutes.
            **_each(_REDRAWING, width=32),
            # A quarter of the published width, a fiftieth of the updates: blurred digits. Still ten
            # times as slow as `inc` per step, so attacks carry latents along.
            "defense_gan": {
                "epochs": 16,
                "learning_rate": 2e-4,
                "least_updates": 2000,
                "width": 16,
                "restarts": 2,
                "refine_steps": 10,
                "unrolled_steps": 10,
            },
            "inc_classifier": {
                "epochs": 3,
                "batch_size": 128,
                "learning_rate": 1e-3,
                "halve_every": 1,
                "least_updates": 1000,
            },
        },
        by_dataset={
            **_OBJECTS,
            "digits": {  # the default of `make bench`: all of it in five minutes
                **_each(_ADVERSARIAL, least_updates=200),
                **_each(_SYNTHESIS, least_updates=400, latent_steps=20),
            },
        },
        attacks={
            # Half the steps: the published lengths would barely cross the ball, and in L2 broke a
            # third of the E-ABS samples that these break (MNIST, epsilon 1.5).
            "pgd-linf": {"steps": 40, "relative_step": 0.1, "restarts": 2, "eot": 1},
            "pgd-l2": {"steps": 40, "relative_step": 0.1, "restarts": 2, "eot": 1},
            "ddn": {"steps": 40, "eot": 1},
            # Foolbox's 0.01 hardly moves black and white pixels, at the ends of tanh, in 40 steps.
            "cw-l2": {
                "binary_search_steps": 3,
                "steps": 40,
                "stepsize": 0.1,
                "initial_const": 1.0,
                "eot": 1,
            },
            "deepfool-l2": {"steps": 10, "candidates": 5, "eot": 1},
            "deepfool-linf": {"steps": 10, "candidates": 5, "eot": 1},
            # A fiftieth of the published budgets' queries, half a minute for 50 images of MNIST; on
            # 8 of them and the CNN their medians: 0.132 in Linf and 10.5 pixels.
            "cw-linf": {**_QUICK_ROUNDS, "steps": 50, "rate": 0.03, "decrease": 0.95},
            "cw-l0": {**_QUICK_ROUNDS, "steps": 30, "rate": 0.2, "largest_const": 1e4},
            "noise-l2": {"repeats": 10},
            "noise-linf": {"repeats": 10},
            "boundary": {"steps": 1000},
            **_each(_SQUARE, queries=1000, seeds=3),
            **_each(
                _HOP_SKIP_JUMP,
                steps=10,
                initial_gradient_eval_steps=50,
                max_gradient_eval_steps=500,
                seeds=3,
            ),
            **_each(_FMN, steps=50, eot=1),
            **_each(_FAB, steps=50, targets=3, eot=1),
            "pgd-estimated-linf": {"steps": 20, "relative_step": 0.1, "samples": 20},
            "mim-linf": {"eot": 1},
            **_each(_APGD, steps=50, restarts=1, eot=1),
            **_each(_APGD_TARGETED, steps=50, restarts=1, targets=3, eot=1),
            "rand-fgsm": {"eot": 1},
            "single-pixel": {"eot": 1},
            "transfer-pgd-linf": _pgd(Norm.LINF, 40, 0.1),
            "transfer-pgd-l2": _pgd(Norm.L2, 40, 0.1),
            # 50 images of MNIST's size in a minute on two cores; more broke no more of digits.
            **_each(_OVERPOWERED, steps=100, starts=5, noise_samples=4),
            "overpowered-pairs": {"steps": 300, "asks": 10},
            "latent-descent": {"coarse_steps": 20, "binary_steps": 8},
            **_each(_THRESHOLD_DESCENTS, steps=100, rate=0.05, patience=20),
            **_each(_THRESHOLD_PROBLEMS, steps=25, relative_step=0.3),
            "refusal-linf": {"steps": 20, "relative_step": 0.25, "eot": 1},
            "refusal-l2": {"steps": 20, "relative_step": 0.25, "eot": 1},
        },
    ),
    "paper": Preset(
        name="paper",
        summary="the published parameters, sample counts and training lengths",
        samples=1000,
        votes=10,
        block=50,
        probed=32,
        asked=20,
        # Stated for ABS and E-ABS; their ablations get as long, to differ in nothing else.
        by_dataset={**_OBJECTS, "svhn": _each(_SYNTHESIS, epochs=800)},
        restarts={1: 5, 3: 20},
        attacks=_each(_APGD, restarts=5),
    ),
}
