"""Compares an image model with its reference: share of a digit, out of distribution, variety, KL.

python diffusion/evaluate.py --model runs/diffusion-jsd --target 2
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fdpo import runs
from fdpo.cli import arguments
from fdpo.diffusion.models import image_shape, load
from fdpo.diffusion.noise import STEPS
from fdpo.runs.distributed import keep_freed_memory, partial_state
from fdpo.tasks import PRETRAINED
from fdpo.tasks.mnist import load_classifier, require_size
from fdpo.tasks.mnist_feedback import require_digit
from fdpo.tasks.mnist_report import compare, table


@dataclass
class EvaluateArguments:
    """Comparison."""

    model: str = field(
        default=str(PRETRAINED / "mnist-ddpm"), metadata={"help": "policy: folder or hub id"}
    )
    reference: str = field(
        default=str(PRETRAINED / "mnist-ddpm"), metadata={"help": "folder or hub id"}
    )
    target: int = field(default=2, metadata={"help": "the digit that counts"})
    classifier: str = field(
        default=str(PRETRAINED / "mnist-classifier"), metadata={"help": "of digits: folder"}
    )
    eval_samples: int = field(default=2048, metadata={"help": "samples of each model"})
    sampling_steps: int = field(
        default=STEPS, metadata={"help": "evaluations of the model a picture"}
    )
    reference_cache: str | None = field(
        default=None,
        metadata={"help": "folder of the reference's samples, or off; default: ~/.cache/fdpo"},
    )
    output_dir: str = field(
        default="runs/diffusion-evaluation", metadata={"help": "folder of figures and pictures"}
    )

    def __post_init__(self) -> None:
        require_digit(self.target)
        for name in ("eval_samples", "sampling_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")


def main() -> None:
    keep_freed_memory()
    (own,) = arguments.parse(
        (EvaluateArguments,),
        program="evaluate.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
    )
    with arguments.usage_errors("evaluate.py"):
        policy, process = load(own.model, partial_state().device)
        base, other = load(own.reference, partial_state().device)
        if type(process) is not type(other) or image_shape(policy) != image_shape(base):
            raise ValueError(f"--model {own.model} and --reference {own.reference} do not match")
        load_classifier(own.classifier)
        require_size(image_shape(policy), own.classifier)
        folder = runs.prepare(own.output_dir, arguments.resolved(own), overwrite=True)
    metrics = compare(
        policy, base, process, folder, classifier=own.classifier, target=own.target,
        samples=own.eval_samples, steps=own.sampling_steps, reference_cache=own.reference_cache,
    )  # fmt: skip
    runs.write_json(folder / runs.METRICS, metrics)
    print(table(metrics))
    print(f"{folder} holds samples.png and histogram.png")


if __name__ == "__main__":
    main()
