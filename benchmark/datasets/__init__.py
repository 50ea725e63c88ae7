"""The data sets, in the order in which tables and listings show them."""

from benchmark.datasets.base import Batch, Dataset, Source, Split, test_sample
from benchmark.datasets.digits import DIGITS
from benchmark.datasets.fashion_mnist import FASHION_MNIST
from benchmark.datasets.mnist import MNIST

__all__ = ["DATASETS", "Batch", "Dataset", "Source", "Split", "test_sample"]

DATASETS: dict[str, Source] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
}
