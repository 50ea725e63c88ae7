"""How projecting defenses are built, trained and refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmark import train
from benchmark.catalog import recipe_for
from benchmark.datasets import DATASETS
from benchmark.presets import PRESETS
from benchmark.progress import Progress
from benchmark.weights import trained_tensors
from defenses import DEFENSES
from defenses.base import Task
from defenses.projection.generator import GenerativeModel
from defenses.projection.inverting import Inverting
from defenses.projection.projecting import Autoencoding
from defenses.projection.recipe import AutoencodeAndClassify, InvertAndClassify, require_images
from defenses.randomness import generator

SMOKE = PRESETS["smoke"]
DIGITS = Task((1, 8, 8), 10, "digits", 0.1, 0.1, 0.5)
FACES = Task((3, 64, 64), 2, "celeba", 0.01, 8 / 255, 1.0)


class Drawing(GenerativeModel):
    """Draws one grey level, of one shape."""

    def __init__(self, level: float, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.latent, self.level, self.shape = 2, level, shape

    def decode(self, z: Tensor) -> Tensor:
        return torch.full((len(z), *self.shape), self.level)


def test_generators_of_another_shape_or_range_are_refused_in_words() -> None:
    require_images(Drawing(0.5, (1, 8, 8)), (1, 8, 8))
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\), got \(1, 4, 4\) from Drawing"):
        require_images(Drawing(0.5, (1, 4, 4)), (1, 8, 8))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got -1 to -1 from Drawing"):
        require_images(Drawing(-1.0, (1, 8, 8)), (1, 8, 8))
    with pytest.raises(ValueError, match=r"got nan to nan"):
        require_images(Drawing(float("nan"), (1, 8, 8)), (1, 8, 8))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("inc[epochs=0]", "epochs must be at least 1, got 0; a generator that was not trained"),
        ("inc[eta=0]", "eta must be finite and above 0, got 0"),
        ("inc[steps=0]", "steps must be at least 1, got 0"),
        ("defense_gan[restarts=0]", "restarts must be at least 1, got 0"),
        ("inc[classifier=gmvae]", "must answer every image, got 'gmvae'"),
    ],
)
def test_specifications_that_make_no_sense_are_refused_in_words(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_for(spec, SMOKE, "digits").build(DIGITS)


def test_unknown_classifiers_are_named_with_those_that_exist() -> None:
    with pytest.raises(LookupError, match="unknown defense 'inc_clasifier'; did you mean"):
        recipe_for("inc[classifier=inc_clasifier]", SMOKE, "digits")


def test_a_generator_without_an_encoder_does_not_autoencode() -> None:
    recipe = recipe_for("autoencode_classify", PRESETS["paper"], "celeba")
    with pytest.raises(ValueError, match="generator must have an encoder to autoencode, got"):
        replace(recipe, width=4, latent=4).build(FACES)


def test_inc_draws_faces_by_began_and_digits_by_the_papers_vae() -> None:
    faces = replace(recipe_for("inc", SMOKE, "celeba"), width=4, latent=4).build(FACES)
    assert (
        "Equilibrium" in type(faces.generator).__name__
        or "BEGAN" in type(faces.generator).__name__.upper()
    )
    decoder = DEFENSES["inc"].build(replace(DIGITS, shape=(1, 28, 28))).generator.decoder
    assert sum(each.numel() for each in decoder.parameters()) == 653_784  # SPEC 4: .654 M


def test_inference_fields_leave_the_weights_alone() -> None:
    base = recipe_for("inc", SMOKE, "digits")
    changed = recipe_for("inc[steps=7,eta=2,restarts=3,refine_steps=1]", SMOKE, "digits")
    assert base.training() == changed.training()
    assert base.deployed() != changed.deployed()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, train.Weights]:
    """The whole chain at smoke."""
    data = DATASETS["digits"].load()
    names = ("inc", "autoencode_classify", "inc_overpowered_training", "dip_inc")
    with pytest.MonkeyPatch.context() as patch, Progress(silent=True) as progress:
        patch.setattr(train.weights, "folders", lambda: (tmp_path_factory.mktemp("weights"),))
        return {name: train.ensure(data, name, SMOKE, progress=progress) for name in names}


def test_the_encoder_and_the_descent_share_their_weights(
    trained: dict[str, train.Weights],
) -> None:
    assert trained["autoencode_classify"].digest == trained["inc"].digest


def test_robust_training_changes_the_classifier_and_nothing_else(
    trained: dict[str, train.Weights],
) -> None:
    before, after = (trained_tensors(trained[name]) for name in ("inc", "inc_overpowered_training"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("classifier.") for name in changed)


def test_the_trained_generator_draws_better_than_the_untrained(
    trained: dict[str, train.Weights],
) -> None:
    recipe = recipe_for("inc", SMOKE, "digits")
    assert isinstance(recipe, InvertAndClassify)
    x = DATASETS["digits"].load().test.batch(torch.arange(20).numpy()).x
    errors = []
    for tensors in (None, trained_tensors(trained["inc"])):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            defense = replace(recipe, steps=60).build(DIGITS)
        if tensors is not None:
            defense.load_state_dict(tensors)
        found = defense.eval().requires_grad_(False).invert(x, generator(0))
        errors.append(float(found.errors.mean()))
    assert errors[1] < 0.95 * errors[0]


def test_recipes_build_what_they_say() -> None:
    assert isinstance(recipe_for("inc", SMOKE, "digits").build(DIGITS), Inverting)
    assert isinstance(DEFENSES["autoencode_classify"], AutoencodeAndClassify)
    built = recipe_for("autoencode_classify", SMOKE, "digits").build(DIGITS)
    assert isinstance(built, Autoencoding)
