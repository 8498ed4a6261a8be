"""Texts of a language model as preference data, the text modality of dataset/main.py."""

from __future__ import annotations

from collections import Counter

from fdpo.cli.arguments import usage_errors
from fdpo.cli.program import Run
from fdpo.llm.generation.batches import by_length
from fdpo.llm.generation.completions import completer, require_usable
from fdpo.llm.generation.options import CompletionArguments
from fdpo.llm.generation.prompts import sampled_prompts
from fdpo.llm.models import ModelSource
from fdpo.preferences.generate import make_dataset
from fdpo.preferences.prompts import read_prompts
from fdpo.programs.dataset.options import DatasetArguments, SourceArguments, plain_provenance
from fdpo.runs.distributed import partial_state
from fdpo.scorers import get_scorer

SAMPLED = 200  # prompts that the model samples by default


def generate(
    run: Run, source: SourceArguments, completion: CompletionArguments, args: DatasetArguments
) -> Counter[str]:
    """Completes and scores prompts, and writes the data set of their pairs."""
    device, words = partial_state().device, source.prompt_words or None
    origin = ModelSource(source.model, source.model_revision, bool(source.trust_remote_code))
    tokenizer, model = origin.tokenizer(), origin.model(device, source.dtype)
    scorer = get_scorer(
        source.scorer, label=source.scorer_label, logit=source.scorer_logit, device=device
    )
    sampled = source.prompts == "model"
    prompts = [""]
    if not sampled:
        prompts = read_prompts(source.prompts, source.num_prompts, words=words, seed=args.seed)
    require_usable(model, tokenizer, prompts, [scorer], completion.max_new_tokens)
    require_splittable(source.num_prompts or SAMPLED if sampled else len(prompts), args.test_size)
    run.start()
    if sampled:
        n, file = source.num_prompts or SAMPLED, run.folder / "parts/prompts.jsonl"
        with usage_errors("main.py"):
            prompts = sampled_prompts(model, tokenizer, n, words=words, seed=args.seed, file=file)
            require_usable(model, tokenizer, prompts, [scorer], completion.max_new_tokens)
    pairing = args.pairing_options() | {"test_size": args.test_size, "seed": args.seed}
    with usage_errors("main.py"):  # scores may leave no pair, or those of one prompt
        return make_dataset(
            run.folder,
            prompts,
            completer(model, tokenizer, completion, args.seed),
            scorer,
            parts=list(by_length(prompts, completion.prompts_per_batch)),
            provenance=plain_provenance(source.provenance() | completion.provenance() | pairing),
            pairing=args,
            test_size=args.test_size,
            seed=args.seed,
        )


def require_splittable(num_prompts: int, test_size: float) -> None:
    """Raises ``ValueError`` if there are too few prompts to hold some of them out."""
    if test_size and num_prompts < 2:
        raise ValueError(f"--test_size {test_size}: {num_prompts} prompt cannot be split; use 0")
