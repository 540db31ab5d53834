"""Build MNIST in DATA/MNIST/raw: python datasets/mnist.py --out DATA. What it is: mnist.md."""

import sys

from torchvision.datasets import MNIST

from sfmoe_dg.data.builders.layouts import mnist_files
from sfmoe_dg.data.builders.recipe import Source, from_catalog
from sfmoe_dg.data.builders.script import main

RECIPE = from_catalog(
    "RotatedMNIST",
    # Address and MD5 are those that torchvision holds.
    *(
        Source(url=f"{MNIST.mirrors[0]}{file}", file=file, page=" or ".join(MNIST.mirrors), md5=md5, extract=False)
        for file, md5 in MNIST.resources
    ),
    prepare=mnist_files,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, say=print))
