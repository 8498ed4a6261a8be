"""How well the embedded classifier knows digits, and what is none, on MNIST's test pictures.

python benchmarks/digit_classifier.py --data_root DIR
"""

from __future__ import annotations

from dataclasses import dataclass, field

from programs import ROOT

from fdpo.cli import arguments
from fdpo.tasks.mnist import load_mnist
from fdpo.tasks.mnist_classifier import load_classifier, measure_classifier


@dataclass
class Arguments:
    """Classifier and data."""

    classifier: str = field(
        default=str(ROOT / "pretrained/mnist-classifier"), metadata={"help": "folder"}
    )
    data_root: str = field(default="data", metadata={"help": "folder of MNIST's files"})


def main() -> None:
    (own,) = arguments.parse((Arguments,), program="digit_classifier.py")
    with arguments.usage_errors("digit_classifier.py"):
        classifier = load_classifier(own.classifier)
        pictures, labels = load_mnist(own.data_root, train=False)
    for name, share in measure_classifier(classifier, pictures, labels).items():
        print(f"{name:18} {100 * share:6.2f} %")


if __name__ == "__main__":
    main()
