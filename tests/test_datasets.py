"""Splits, samples and the registry."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from attacks.threat import Norm
from benchmark.datasets import DATASETS, base
from benchmark.datasets.base import Dataset, Split
from defenses import DEFENSES
from defenses.randomness import generator

digits = DATASETS["digits"].load()


def tiny_split(count: int = 6, classes: int = 10) -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 1, 8, 8), np.uint8)
    return Split(images, np.arange(count, dtype=np.int64) % classes)


def as_rows(split: Split) -> set[bytes]:
    return {image.tobytes() + label.tobytes() for image, label in zip(*astuple(split), strict=True)}


def astuple(split: Split) -> tuple[np.ndarray, np.ndarray]:
    return split.images, split.labels


@pytest.mark.parametrize("name", DATASETS)
def test_registered_source_has_its_name_and_a_one_line_summary(name):
    source = DATASETS[name]
    assert source.name == name
    assert source.summary and "\n" not in source.summary


@pytest.mark.parametrize("name", DATASETS)
def test_registered_curves_increase_within_the_norm_and_contain_the_tables_budgets(name):
    source = DATASETS[name]
    assert set(source.curve) == set(source.epsilons) == set(Norm) - {Norm.L1}
    for norm, curve in source.curve.items():
        assert list(curve) == sorted(set(curve))
        assert set(source.epsilons[norm]) <= set(curve)
        assert curve[0] > 0 and curve[-1] <= norm.largest(source.task.shape)


def test_published_budgets_are_those_of_the_paper():
    # E-ABS, Tables 1-4 and section 4.3.
    rows = {
        name: (s.task.epsilon_linf, s.task.epsilon_l2, s.task.noise_std)
        for name, s in DATASETS.items()
        if name not in ("digits", "coil100", "celeba", "imagenet")
    }
    assert rows == {
        "mnist": (0.3, 1.5, 0.2),
        "fashion_mnist": (0.1, 1.5, 0.2),
        "svhn": (8 / 255, 1.5, 0.01),
        "gtsrb10": (8 / 255, 1.5, 0.01),
        "supertraffic10": (8 / 255, 1.5, 0.01),
    }


@pytest.mark.parametrize("name", ["coil100", "celeba", "imagenet"])
def test_budgets_that_no_paper_states_are_those_of_svhn_for_as_many_pixels(name):
    task, svhn = DATASETS[name].task, DATASETS["svhn"].task
    growth = np.prod(task.shape) / np.prod(svhn.shape)
    assert task.epsilon_l2 == pytest.approx(svhn.epsilon_l2 * growth**0.5)
    assert task.noise_std == svhn.noise_std
    # Jalal et al. 2017, Table 2, halved for pixels in [0, 1].
    stated = {"imagenet": 0.05 / 2}
    assert task.epsilon_linf == stated.get(name, svhn.epsilon_linf)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("defense", ["cnn", "eabs"])
def test_registered_tasks_are_answered_by_networks_of_their_shape(name, defense):
    task = DATASETS[name].task
    if defense == "eabs":  # which has a decoder for each class: three show the shape
        task = replace(task, num_classes=3)
    built = DEFENSES[defense].build(task).eval()
    if defense == "cnn":
        assert built.decide(torch.rand(2, *task.shape), generator(0)).logits.shape == (
            2,
            task.num_classes,
        )
    else:
        latents = torch.zeros(1, built.decoders.latent)
        assert built.decoders(latents).shape == (1, task.num_classes, *task.shape)
        mean, _ = built.encoders(torch.rand(2, *task.shape))
        assert mean.shape == (2, built.decoders.latent)


def test_digits_are_all_there_and_every_class_is_tested():
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797
    assert len(digits.test) == 500
    assert np.bincount(digits.test.labels).min() >= 45
    assert digits.caveat == ""


def test_digits_keep_scikit_learns_values_to_half_a_grey_level():
    original = {
        tuple(np.floor(image.ravel() * 255 / 16 + 0.5).astype(int))
        for image in load_digits().images
    }
    ours = {tuple(image.ravel().tolist()) for image in digits.test.images}
    assert ours <= original
    assert digits.train.images.max() == 255


def test_digits_load_equal_twice():
    again = DATASETS["digits"].load()
    assert again.digest == digits.digest
    assert np.array_equal(again.validation.images, digits.validation.images)


def test_splits_hold_every_training_image_exactly_once():
    split = tiny_split(100)
    train, validation = base.hold_out("any", split)
    assert len(validation) == 10
    assert len(train) + len(validation) == len(split)
    assert as_rows(train) | as_rows(validation) == as_rows(split)
    assert not as_rows(train) & as_rows(validation)


def test_held_out_images_depend_on_the_data_sets_name_only():
    split = tiny_split(100)
    first, again, other = (base.hold_out(name, split)[1] for name in ("a", "a", "b"))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=80).filter(lambda g: len(set(g)) > 1))
def test_groups_are_never_torn_between_train_and_validation(groups):
    images = np.arange(len(groups), dtype=np.uint8).reshape(-1, 1, 1, 1)
    split = Split(images, np.zeros(len(groups), np.int64))
    train, validation = base.hold_out("any", split, np.array(groups))
    of = np.array(groups)
    held = set(of[validation.images.ravel()].tolist())
    assert held and not held & set(of[train.images.ravel()].tolist())
    assert len(train) + len(validation) == len(groups)


def test_a_single_group_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"must form at least 2 groups, got 1"):
        base.hold_out("any", tiny_split(), np.zeros(6, int))


def test_groups_must_be_as_many_as_the_images():
    with pytest.raises(ValueError, match="must be one for each of 6 images, got 5"):
        base.hold_out("any", tiny_split(), np.arange(5))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 2**31))
def test_smaller_samples_are_prefixes_of_larger_ones(one, other, seed):
    few, many = sorted((one, other))
    large = base.test_sample(digits, many, seed)
    assert len(set(large.tolist())) == many
    assert large.min() >= 0 and large.max() < len(digits.test)
    assert np.array_equal(base.test_sample(digits, few, seed), large[:few])


def test_samples_of_another_seed_differ():
    one, other = (base.test_sample(digits, 50, seed) for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("count", [0, -3, 501])
def test_samples_beyond_the_data_set_are_refused(count):
    with pytest.raises(
        ValueError, match=rf"samples must be at (least 1|most 500 for digits), got {count};"
    ):
        base.test_sample(digits, count, 0)


def test_sampling_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    base.test_sample(digits, 5, 0)
    base.hold_out("any", tiny_split())
    assert torch.equal(before, torch.get_rng_state())


def test_batches_are_float32_in_the_unit_box_in_the_order_asked_for():
    wanted = np.array([7, 3, 3])
    batch = digits.test.batch(wanted)
    assert batch.x.dtype == torch.float32 and batch.x.shape == (3, 1, 8, 8)
    assert batch.y.tolist() == digits.test.labels[wanted].tolist()
    assert batch.index.tolist() == [7, 3, 3] and batch.index.dtype == torch.int64
    assert np.array_equal(
        (batch.x * 255).round().to(torch.uint8).numpy(), digits.test.images[wanted]
    )
    batch.x.zero_()
    assert digits.test.images[wanted].any()


def test_digest_sees_one_pixel_and_one_label():
    test = digits.test
    pixels, labels = test.images.copy(), test.labels.copy()
    pixels[0, 0, 0, 0] ^= 1
    labels[0] = (labels[0] + 1) % 10
    digests = {
        digits.digest,
        replace(digits, test=Split(pixels, test.labels)).digest,
        replace(digits, test=Split(test.images, labels)).digest,
        replace(digits, train=digits.validation, validation=digits.train).digest,
    }
    assert len(digests) == 4
    assert replace(digits, caveat="other words").digest == digits.digest


def test_data_sets_survive_pickling():
    again: Dataset = pickle.loads(pickle.dumps(digits))
    assert again.digest == digits.digest
    assert np.array_equal(again.test.images, digits.test.images)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 1, 8, 8)), np.zeros(2, np.int64), "images must be uint8"),
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int64), "images must be uint8"),
        (np.zeros((0, 1, 8, 8), np.uint8), np.zeros(0, np.int64), "N > 0"),
        (np.zeros((2, 1, 8, 8), np.uint8), np.zeros(3, np.int64), "labels must be int64"),
        (np.zeros((2, 1, 8, 8), np.uint8), np.zeros(2, np.int32), "labels must be int64"),
    ],
)
def test_split_refuses_other_arrays(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


@pytest.mark.parametrize("label", [-1, 10])
def test_data_set_refuses_labels_without_a_class(label):
    wrong = Split(digits.test.images, np.full(len(digits.test), label))
    with pytest.raises(
        ValueError, match=rf"test labels of digits must lie in \[0, 10\), got {label}"
    ):
        replace(digits, test=wrong)


def test_data_set_refuses_images_of_another_shape():
    wrong = Split(np.zeros((1, 1, 9, 8), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match=r"test images of digits must have shape \(1, 8, 8\)"):
        replace(digits, test=wrong)


def real_folder(file: str) -> Path:
    """$BENCH_DATA, where it holds the file."""
    folder = Path(os.environ.get("BENCH_DATA", "nowhere"))
    if not (folder / file).is_file():
        pytest.skip(f"BENCH_DATA holds no {file}")
    return folder


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_official_files_are_recognised(name):
    data = DATASETS[name].load(real_folder(f"{name}/train-images-idx3-ubyte.gz"))
    assert data.caveat == ""
    assert (len(data.train), len(data.validation), len(data.test)) == (54000, 6000, 10000)


def test_prepared_traffic_signs_are_named_and_parted_by_track():
    folder = real_folder("gtsrb10/gtsrb10.npz")
    data = DATASETS["gtsrb10"].load(folder)
    assert data.classes[:4] == ("yield", "speed limit 30", "priority road", "speed limit 50")
    assert "prepared" in data.caveat
    with np.load(folder / "gtsrb10" / "gtsrb10.npz") as arrays:
        images = arrays["images_train"].transpose(0, 3, 1, 2)
        tracks = dict(
            zip((image.tobytes() for image in images), arrays["track_train"].tolist(), strict=True)
        )
    held = {tracks[image.tobytes()] for image in data.validation.images}
    assert not held & {tracks[image.tobytes()] for image in data.train.images}
