"""Compares an image model with its reference: shares of digits, variety, path KL.

python diffusion/evaluate.py --model runs/diffusion-jsd --target 2
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fdpo.cli import arguments
from fdpo.cli.program import Run
from fdpo.cli.quiet import quiet_libraries
from fdpo.diffusion.noise import STEPS
from fdpo.runs.distributed import keep_freed_memory, partial_state
from fdpo.tasks.mnist import CLASSIFIER, MODEL


@dataclass
class EvaluateArguments:
    """Comparison."""

    model: str = field(default=str(MODEL), metadata={"help": "policy: folder or hub id"})
    reference: str = field(default=str(MODEL), metadata={"help": "folder or hub id"})
    target: int = field(default=2, metadata={"help": "the digit that counts"})
    classifier: str = field(default=str(CLASSIFIER), metadata={"help": "of digits: folder"})
    eval_samples: int = field(default=2048, metadata={"help": "samples of each model"})
    sampling_steps: int = field(default=STEPS, metadata={"help": "model evaluations per image"})
    reference_cache: str | None = field(
        default=None,
        metadata={"help": "folder of the reference's samples, or off; default: ~/.cache/fdpo"},
    )
    output_dir: str = field(
        default="runs/diffusion-evaluation", metadata={"help": "folder of metrics and plots"}
    )


def main() -> None:
    quiet_libraries()
    (args,) = arguments.parse(
        (EvaluateArguments,),
        program="evaluate.py",
        presets="diffusion",
        description=(__doc__ or "").split("\n")[0],
    )
    options = arguments.resolved(args)
    with Run("evaluate.py", args.output_dir, options, overwrite=True) as run:
        from fdpo.diffusion.models import image_shape, load_image_model
        from fdpo.tasks.mnist_classifier import load_classifier, require_size
        from fdpo.tasks.mnist_report import compare, table

        keep_freed_memory()
        policy, process = load_image_model(args.model, partial_state().device)
        base, base_process = load_image_model(args.reference, partial_state().device)
        if type(process) is not type(base_process) or image_shape(policy) != image_shape(base):
            raise ValueError(f"--model {args.model} and --reference {args.reference} do not match")
        load_classifier(args.classifier)
        require_size(image_shape(policy), args.classifier)
        run.start()
        comparison = compare(
            policy, base, process, classifier=args.classifier, target=args.target,
            samples=args.eval_samples, steps=args.sampling_steps,
            reference_cache=args.reference_cache,
        )  # fmt: skip
        print(table(comparison.metrics))
        with run.reporting("plots"):
            comparison.plot(run.folder)
        run.finish(comparison.metrics)


if __name__ == "__main__":
    main()
