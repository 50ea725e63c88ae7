"""The data sets, in the order in which tables and listings show them."""

from benchmark.datasets.base import Batch, Dataset, Source, Split, test_sample
from benchmark.datasets.celeba import CELEBA
from benchmark.datasets.coil100 import COIL_100
from benchmark.datasets.digits import DIGITS
from benchmark.datasets.fashion_mnist import FASHION_MNIST
from benchmark.datasets.gtsrb10 import GTSRB10_SIGNS
from benchmark.datasets.imagenet import IMAGENET
from benchmark.datasets.mnist import MNIST
from benchmark.datasets.supertraffic10 import SUPERTRAFFIC10
from benchmark.datasets.svhn import SVHN_CROPPED

__all__ = ["DATASETS", "Batch", "Dataset", "Source", "Split", "test_sample"]

DATASETS: dict[str, Source] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "svhn": SVHN_CROPPED,
    "gtsrb10": GTSRB10_SIGNS,
    "supertraffic10": SUPERTRAFFIC10,
    "coil100": COIL_100,
    "celeba": CELEBA,
    "imagenet": IMAGENET,
}
