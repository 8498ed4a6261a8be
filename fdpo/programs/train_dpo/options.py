"""Options of ``train_dpo/train.py``, which its sweep reads too."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import ModelConfig

from fdpo import preferences, runs
from fdpo.llm.config import FDPOConfig
from fdpo.tasks import PRETRAINED

MODEL, SCORER = PRETRAINED / "imdb-gpt2", PRETRAINED / "imdb-sentiment"
COMMON = (
    "model_name_or_path", "use_peft", "lora_r", "lora_alpha", "dtype", "output_dir",
    "learning_rate", "lr_scheduler_type", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_length",
    "precompute_ref_log_probs", "eval_strategy", "save_steps", "logging_steps", "seed", "bf16",
    "gradient_checkpointing", "use_cpu", "resume_from_checkpoint", "report_to", "push_to_hub",
)  # fmt: skip


@dataclass
class DataArguments(preferences.PairingConfig):
    """Data and evaluation."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "pairs or scored groups: hub id, file or folder; default: made here"},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "configuration of a data set that has several"}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "split to train on"})
    dataset_test_split: str = field(default="test", metadata={"help": "split to hold out"})
    test_share: float = field(
        default=0.1, metadata={"help": "share of prompts held out where there is no such split"}
    )
    eval_prompts: str | None = field(
        default=None,
        metadata={
            "help": "prompts to compare on: a .txt file with one a line, or model: sampled from "
            "it; default: the held-out prompts of --dataset, else model"
        },
    )
    eval_num_prompts: int = field(
        default=200, metadata={"help": "held-out prompts to compare on before and after; 0: none"}
    )
    eval_samples: int = field(default=4, metadata={"help": "samples of each prompt"})
    eval_tokens: int = field(default=48, metadata={"help": "longest sample, tokens"})
    scorers: list[str] = field(
        default_factory=lambda: [str(SCORER), "vader"],
        metadata={"help": "rewards to compare: classifiers, vader, package.module:function"},
    )


@dataclass
class TrainConfig(FDPOConfig):
    """f-DPO."""

    output_dir: str | None = field(
        default=None, metadata={"help": "run folder; default: runs/train_dpo-LOSS"}
    )
    learning_rate: float = field(default=2e-4, metadata={"help": "peak learning rate of AdamW"})
    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the pairs"})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "pairs per process"})
    warmup_steps: float = field(default=0.1, metadata={"help": "steps, or a share below 1"})
    save_steps: float = field(
        default=0.25, metadata={"help": "checkpoint: steps, or a share below 1"}
    )
    save_total_limit: int | None = field(default=1, metadata={"help": "checkpoints to keep"})

    def __post_init__(self) -> None:
        if self.output_dir is None:
            name = self.loss if self.alpha is None else f"{self.loss}-{self.alpha:g}"
            self.output_dir = "runs/train_dpo-" + runs.file_name(name)
        super().__post_init__()


@dataclass
class PolicyArguments(ModelConfig):
    """Model."""

    model_name_or_path: str = field(
        default=str(MODEL), metadata={"help": "policy and reference: hub id or folder"}
    )


TYPES = (DataArguments, TrainConfig, PolicyArguments)
ALIASES = {
    "dataset": "dataset_name",
    "model": "model_name_or_path",
    "eval_openings": "eval_num_prompts",  # its name in version 0.1
}
