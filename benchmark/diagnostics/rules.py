"""The rules by name, in the order in which they are told."""

from benchmark.diagnostics import behavior, budgets, comparisons
from benchmark.diagnostics.finding import Rule

RULES: dict[str, Rule] = {
    "attack-invalid": Rule(
        budgets.attack_invalid,
        "its numbers are withheld: raise its budget or mend it, then measure again",
    ),
    "iterative-weaker-than-single-step": Rule(
        comparisons.iterative_weaker,
        "look for masked gradients, then try another step size and more restarts",
    ),
    "white-box-weaker-than-black-box": Rule(
        comparisons.white_box_weaker,
        "the gradients mislead: build a differentiable surrogate of what masks them",
    ),
    "noise-as-strong-as-attack": Rule(
        comparisons.noise_as_strong,
        "the attack found nothing: check its surrogate, loss and step size",
    ),
    "budget-not-converged": Rule(
        budgets.not_converged,
        "read the number as an upper limit and raise the budget until nothing changes",
    ),
    "robust-at-unbounded-epsilon": Rule(
        budgets.robust_unbounded,
        "the attack fails, not the radius: use another loss, surrogate or a gradient-free attack",
    ),
    "surrogate-does-not-transfer": Rule(
        budgets.does_not_transfer,
        "use a surrogate nearer to the deployed defense, or more averaged samples",
    ),
    "rounding-undoes-the-attack": Rule(
        budgets.rounding,
        "say which threat model is meant; the number may be too low for image files",
    ),
    "zero-gradients": Rule(
        behavior.zero_gradients,
        "attack through a smooth surrogate, another loss or without gradients",
    ),
    "non-finite-gradients": Rule(
        behavior.non_finite_gradients,
        "find the unstable layer and give the surrogate a stable form of it",
    ),
    "flat-landscape": Rule(
        behavior.flat_landscape,
        "confirm with a gradient-free attack such as Square",
    ),
    "jagged-landscape": Rule(
        behavior.jagged_landscape,
        "average the gradient over noise, or smooth the surrogate",
    ),
    "declared-deterministic-but-is-not": Rule(
        behavior.not_deterministic,
        "declare it stochastic, so that attacks average and the judge asks often",
    ),
    "depends-on-batch": Rule(
        behavior.batch,
        "make each answer a function of its image, or attack and judge images one by one",
    ),
    "depends-on-order": Rule(
        behavior.order,
        "remove the state that the defense keeps between questions",
    ),
    "depends-on-device": Rule(
        behavior.device,
        "compare numbers of one device only, and find the operation that differs",
    ),
    "refuses-nearly-everything": Rule(
        behavior.refuses,
        "lower its thresholds before reading accepted errors",
    ),
    "detector-implies-robust-classifier": Rule(
        comparisons.implied_classifier,
        "where that exceeds what classifiers reach, attack the detector with knowledge of refusals",
    ),
}
"""Adding a rule is one function and one line here."""
