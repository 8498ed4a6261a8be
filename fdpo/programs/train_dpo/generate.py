"""Prints samples of a language model.

python train_dpo/generate.py --prompt "This movie"
python train_dpo/generate.py --model runs/jsd --prompts prompts.txt --output samples.jsonl
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fdpo.cli import arguments
from fdpo.cli.quiet import quiet_libraries
from fdpo.cli.values import require_dtype
from fdpo.preferences.prompts import read_prompts
from fdpo.runs.distributed import partial_state
from fdpo.runs.files import write_jsonl
from fdpo.tasks import PRETRAINED


@dataclass
class GenerateArguments:
    """Generation."""

    model: str = field(default=str(PRETRAINED / "imdb-gpt2"), metadata={"help": "folder or hub id"})
    prompt: list[str] | None = field(
        default=None, metadata={"help": "prompts; default: prompts that the model samples itself"}
    )
    prompts: str | None = field(default=None, metadata={"help": ".txt file with a prompt a line"})
    num_prompts: int | None = field(
        default=None, metadata={"help": "prompts that the model samples itself; default: 4"}
    )
    samples: int = field(default=2, metadata={"help": "samples of each prompt"})
    max_new_tokens: int = field(default=64, metadata={"help": "longest sample, tokens"})
    temperature: float = field(default=1.0, metadata={"help": "1: the model as it is"})
    batch_size: int = field(default=64, metadata={"help": "samples in a batch"})
    seed: int = field(default=0, metadata={"help": "seed of prompts and samples"})
    dtype: str = field(default="float32", metadata={"help": "the model's dtype, e.g. bfloat16"})
    output: str | None = field(
        default=None,
        metadata={"help": "JSONL file to write the samples to, with ids and log-probs"},
    )

    def __post_init__(self) -> None:
        given = [name for name in ("prompt", "prompts", "num_prompts") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if self.prompts and not self.prompts.endswith(".txt"):
            raise ValueError(f"prompts {self.prompts}: a .txt file with a prompt a line is needed")
        require_dtype(self.dtype, automatic=True)


def main() -> None:
    quiet_libraries()
    (args,) = arguments.parse(
        (GenerateArguments,),
        program="generate.py",
        presets="train_dpo",
        description=(__doc__ or "").split("\n")[0],
        aliases={"openings": "num_prompts"},  # its name in version 0.1
    )
    rows = generate(args)
    for row in rows:
        ending = " …" if row["truncated"] else ""
        print(f"[{row['prompt']}]{row['text']}{ending}\n  (log-prob {row['log_prob']:.1f})\n")
    if args.output:
        write_jsonl(args.output, rows)


def generate(args: GenerateArguments) -> list[dict[str, Any]]:
    """Samples completions; returns a row for each, with its prompt."""
    # Here, so that --help and usage errors do not wait for transformers.
    from fdpo.llm.generation.prompts import sample_prompts
    from fdpo.llm.generation.sampling import sample
    from fdpo.llm.generation.tokens import prompt_ids, require_room
    from fdpo.llm.models import load_model, load_tokenizer

    with arguments.usage_errors("generate.py"):
        prompts = read_prompts(args.prompts) if args.prompts else args.prompt
        tokenizer = load_tokenizer(args.model)
        model = load_model(args.model, partial_state().device, args.dtype)
        if not prompts:
            prompts = sample_prompts(model, tokenizer, args.num_prompts or 4, seed=args.seed)
        require_room(model, prompts, prompt_ids(tokenizer, prompts), args.max_new_tokens)
    completions = sample(
        model,
        tokenizer,
        prompts,
        samples=args.samples,
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
        seed=args.seed,
        temperature=args.temperature,
    )
    return [
        {"prompt": prompt, **asdict(completion)}
        for prompt, row in zip(prompts, completions, strict=True)
        for completion in row
    ]


if __name__ == "__main__":
    main()
