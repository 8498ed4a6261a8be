"""Options of generation: sampling or diverse beam search, number and length of completions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from fdpo.cli.values import require_ranges


@dataclass
class CompletionArguments:
    """Completions."""

    method: Literal["sample", "diverse_beams"] = field(
        default="sample", metadata={"help": "sample from the model, or diverse beam search"}
    )
    completions: int = field(default=6, metadata={"help": "completions of each prompt"})
    max_new_tokens: int = field(default=48, metadata={"help": "longest completion, tokens"})
    temperature: float = field(
        default=1.0, metadata={"help": "temperature of sampling; 1: the model itself"}
    )
    diversity: float = field(
        default=1.0, metadata={"help": "beams: penalty of a token that an earlier beam chose, nats"}
    )
    no_repeat_ngram_size: int = field(
        default=0, metadata={"help": "beams: length of n-grams that may not repeat; 0: all may"}
    )
    generation_batch_size: int = field(
        default=96, metadata={"help": "completions in a batch, per process"}
    )

    def __post_init__(self) -> None:
        require_ranges(self)
        for name in self._idle():
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} has no effect with method {self.method}")

    @property
    def prompts_per_batch(self) -> int:
        """The number of prompts whose completions fit a batch."""
        return max(1, self.generation_batch_size // self.completions)

    def provenance(self) -> dict[str, object]:
        """Returns the options that have an effect, for a card."""
        return {name: value for name, value in asdict(self).items() if name not in self._idle()}

    def _idle(self) -> tuple[str, ...]:
        beams = ("diversity", "no_repeat_ngram_size")
        return beams if self.method == "sample" else ("temperature",)
