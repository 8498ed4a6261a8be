"""Prints samples of a language model, drawn from it as it is.

python train_dpo/generate.py --prompt "This movie"
python train_dpo/generate.py --model runs/train_dpo-jsd --prompts prompts.txt --output samples.jsonl
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch

from fdpo import runs
from fdpo.cli import arguments
from fdpo.llm import models
from fdpo.llm.generation.decoder import prompt_ids, require_room
from fdpo.llm.generation.prompts import read_prompts
from fdpo.llm.generation.sampling import openings, sample
from fdpo.tasks import PRETRAINED


@dataclass
class GenerateArguments:
    """Generation."""

    model: str = field(default=str(PRETRAINED / "imdb-gpt2"), metadata={"help": "folder or hub id"})
    prompt: list[str] | None = field(
        default=None, metadata={"help": "prompts; default: openings that the model samples itself"}
    )
    prompts: str | None = field(default=None, metadata={"help": ".txt file with a prompt a line"})
    openings: int | None = field(
        default=None, metadata={"help": "openings where no prompts are given; default: 4"}
    )
    samples: int = field(default=2, metadata={"help": "samples of each prompt"})
    max_new_tokens: int = field(default=64, metadata={"help": "longest sample, tokens"})
    temperature: float = field(default=1.0, metadata={"help": "1: the model as it is"})
    batch_size: int = field(default=64, metadata={"help": "samples drawn at a time"})
    seed: int = field(default=0, metadata={"help": "of openings and samples"})
    dtype: str = field(default="float32", metadata={"help": "the model's dtype, e.g. bfloat16"})
    output: str | None = field(
        default=None,
        metadata={"help": "JSONL file to write the samples to, with ids and log-probs"},
    )

    def __post_init__(self) -> None:
        given = [name for name in ("prompt", "prompts", "openings") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if self.prompts and not self.prompts.endswith(".txt"):
            raise ValueError(f"prompts {self.prompts}: a .txt file with a prompt a line is needed")
        if min(self.samples, self.max_new_tokens, self.batch_size) < 1 or self.temperature <= 0:
            raise ValueError("samples, tokens, batch size and temperature must be above 0")


def main() -> None:
    (own,) = arguments.parse(
        (GenerateArguments,),
        program="generate.py",
        presets="train_dpo",
        description=(__doc__ or "").split("\n")[0],
    )
    with arguments.usage_errors("generate.py"):
        tokenizer = models.load_tokenizer(own.model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = models.load_model(own.model, device, own.dtype)
        if own.prompts:
            prompts = read_prompts(own.prompts)
        else:
            prompts = own.prompt or openings(model, tokenizer, own.openings or 4, seed=own.seed)
        require_room(model, prompts, prompt_ids(tokenizer, prompts), own.max_new_tokens)
    drawn = sample(
        model,
        tokenizer,
        prompts,
        samples=own.samples,
        max_new_tokens=own.max_new_tokens,
        batch_size=own.batch_size,
        seed=own.seed,
        temperature=own.temperature,
    )
    rows = [
        {"prompt": prompt, **asdict(completion)}
        for prompt, completions in zip(prompts, drawn, strict=True)
        for completion in completions
    ]
    for row in rows:
        ending = " …" if row["truncated"] else ""
        print(f"[{row['prompt']}]{row['text']}{ending}\n  (log-prob {row['log_prob']:.1f})\n")
    if own.output:
        runs.write_jsonl(own.output, rows)


if __name__ == "__main__":
    main()
