"""Fashion-MNIST: 28x28 articles of clothing (Xiao, Rasul, Vollgraf 2017; arXiv 1708.07747)."""

from benchmark.datasets.idx import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    IdxSource,
)
from defenses.base import Task

FASHION_MNIST = IdxSource(
    name="fashion_mnist",
    summary="28x28 articles of clothing, 60000 + 10000 images",
    task=Task(
        shape=(1, 28, 28),
        num_classes=10,
        architecture="mnist",
        noise_std=0.2,
        epsilon_linf=0.1,
        epsilon_l2=1.5,
    ),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    digests={
        TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)
