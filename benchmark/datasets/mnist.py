"""MNIST: 28x28 handwritten digits (LeCun, Cortes, Burges 1998; yann.lecun.com/exdb/mnist)."""

from benchmark.datasets.idx import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    IdxSource,
)
from defenses.base import Task

MNIST = IdxSource(
    name="mnist",
    summary="28x28 handwritten digits, 60000 + 10000 images",
    task=Task(
        shape=(1, 28, 28),
        num_classes=10,
        architecture="mnist",
        noise_std=0.2,
        epsilon_linf=0.3,
        epsilon_l2=1.5,
    ),
    classes=tuple("0123456789"),
    base_url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    digests={
        TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
"""The address is the mirror that the authors of PyTorch keep: the original site refuses robots."""
