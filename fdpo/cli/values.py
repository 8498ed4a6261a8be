"""Values of options: the ranges of numbers, and texts that a file can hold.

Ranges are declared once for all programs, by the name of the option, those of TRL and transformers
included. A dataclass whose range differs has it in its own ``RANGES``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fdpo.cli.fields import option_fields
from fdpo.runs.folder import require_file, require_folder

DEEPEST = 32  # levels of lists and mappings in an option
LARGEST = 2**31 - 1  # the largest integer that every library takes


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes; finite ones only, unless ``infinite``.

    Arguments:
        low: The least number.
        high: The largest number.
        open_low: True if ``low`` itself is excluded.
        open_high: True if ``high`` itself is excluded.
        also: One more number, which stands for something else.
        infinite: True if infinity is a value.

    Example:
        >>> 0.5 in Range(0, 1, open_high=True), 1 in Range(0, 1, open_high=True)
        (True, False)
        >>> print(Range(0, open_low=True), "|", Range(1, also=-1), "|", Range(0, 1, open_high=True))
        a finite number above 0 | at least 1 (or -1) | in [0, 1)
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: float | None = None
    infinite: bool = False

    def __contains__(self, value: float) -> bool:
        if value == self.also:
            return True
        if isinstance(value, int) and value > max(self.high if self.bounded else 0, LARGEST):
            return False
        if not (math.isfinite(value) or (self.infinite and value == math.inf)):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    @property
    def bounded(self) -> bool:
        """True if there is a largest number."""
        return self.high < math.inf

    def __str__(self) -> str:
        if self.bounded:
            ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
            text = f"in {ends[0]}{self.low:.16g}, {self.high:.16g}{ends[1]}"
        elif self.low == -math.inf:
            text = "a finite number"
        elif self.open_low:
            text = f"a {'' if self.infinite else 'finite '}number above {self.low:g}"
        else:
            text = f"at least {self.low:g}"
        return text if self.also is None else f"{text} (or {self.also:g})"


NUMBER, ABOVE_0 = Range(), Range(0, open_low=True)
AT_LEAST_0, AT_LEAST_1, AT_LEAST_2 = Range(0), Range(1), Range(2)
BELOW_1, UP_TO_1 = Range(0, 1, open_high=True), Range(0, 1)
SEED = Range(0, 2**32 - 1)  # numpy's

RANGES: dict[str, Range] = {
    **dict.fromkeys(
        "adam_epsilon adam_weight_decay dataloader_num_workers diversity dpo_weight eval_delay "
        "eval_num_prompts guidance_scale learning_rate lr_warmup_steps max_grad_norm min_gap "
        "negative_sft_weight neftune_noise_alpha no_repeat_ngram_size num_validation_images "
        "prompt_words rank repeat_draws router_aux_loss_coef save_total_limit sft_weight "
        "validation_steps warmup_steps weight_decay".split(),
        AT_LEAST_0,
    ),
    **dict.fromkeys(
        "beta check_betas eval_steps kappa learning_rates logging_steps lora_alpha max_kappa "
        "negative_sft_bound num_train_epochs save_steps temperature".split(),
        ABOVE_0,
    ),
    **dict.fromkeys(
        "batch_size check_steps checkpointing_steps checkpoints_total_limit columns context "
        "dataloader_prefetch_factor dataset_num_proc ddp_bucket_cap_mb ddp_timeout "
        "eval_accumulation_steps eval_samples eval_tokens generation_batch_size "
        "gradient_accumulation_steps heads held_out jobs k k_top layers lora_r max_length "
        "max_new_tokens max_train_samples max_train_steps num_groups num_inference_steps "
        "num_prompts pad_to_multiple_of per_device_eval_batch_size per_device_train_batch_size "
        "precompute_ref_batch_size ref_model_sync_steps resolution samples sampling_steps "
        "sheet_rows timesteps_per_pair torch_empty_cache_steps train_batch_size vocab_size "
        "width".split(),
        AT_LEAST_1,
    ),
    **dict.fromkeys(
        "adam_beta1 adam_beta2 ema_decay label_smoothing_factor lora_dropout "
        "proportion_empty_prompts test_share test_size".split(),
        BELOW_1,
    ),
    **dict.fromkeys("ld_alpha loser_gradient ref_model_mixup_alpha".split(), UP_TO_1),
    **dict.fromkeys("alpha discopop_tau f_alpha_divergence_coef".split(), NUMBER),
    **dict.fromkeys("seed data_seed".split(), SEED),
    "completions": AT_LEAST_2,
    "label_smoothing": Range(0, 0.5, open_high=True),
    "local_rank": Range(-1),
    "max_steps": Range(1, also=-1),
    "tail": Range(0, open_low=True, infinite=True),
    "target": Range(0, 9),
}
"""The range of each numeric option, unless the ``RANGES`` of its dataclass has another."""


def number_range(kind: type, name: str) -> Range | None:
    """Returns the range of an option of a dataclass, ``None`` where it has none."""
    for one in kind.__mro__:
        if name in (own := vars(one).get("RANGES", {})):
            return own[name]
    return RANGES.get(name)


def require_ranges(options: Any) -> None:
    """Raises ``ValueError``, naming the option, if a number of a dataclass is out of its range."""
    for field in option_fields(options):
        require_range(type(options), field.name, getattr(options, field.name))


def require_range(kind: type, name: str, value: Any) -> None:
    """Raises ``ValueError`` if the value of a dataclass's option is out of its range."""
    allowed = number_range(kind, name)
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, (int, float)) or allowed is None:
            continue
        if number not in allowed:
            large = isinstance(number, int) and number > LARGEST and not allowed.bounded
            text = f"at most {LARGEST:,}" if large else str(allowed)
            raise ValueError(f"--{name} must be {text}, got {shortened(number)}")


def require_dtype(name: str, *, automatic: bool = False) -> None:
    """Raises ``ValueError`` unless torch has a dtype of numbers by that name.

    Arguments:
        name: The value of ``--dtype``.
        automatic: True to allow ``auto`` too, the dtype of the model's files.
    """
    import torch  # most options need none

    dtype = getattr(torch, name, None)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        if not (automatic and name == "auto"):
            raise ValueError(f"--dtype {name}: torch has no such dtype of numbers")


def require_plain(value: Any, depth: int = 1) -> None:
    """Raises ``ValueError`` for a value that no file of a run could hold.

    These are texts with a NUL or half a character (a lone surrogate), integers of more than 64
    bits, and lists and mappings in more than :data:`DEEPEST` levels.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("holds a NUL character")
        if half := next((c for c in value if "\ud800" <= c <= "\udfff"), ""):
            raise ValueError(f"holds U+{ord(half):04X}, which is half a character: not UTF-8")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{shortened(value)} is too large")
    elif isinstance(value, (Mapping, list, tuple)):
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")
        for member in _members(value):
            require_plain(member, depth + 1)


def require_trackers(kind: type, given: str | list[str] | None) -> None:
    """Raises ``ValueError`` unless the library below a dataclass knows the trackers."""
    names = given.split(",") if isinstance(given, str) else given or []
    if set(names) <= {"none"}:
        return  # the libraries take seconds to import
    if any(base.__module__.startswith("transformers.") for base in kind.__mro__):
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        known = list(INTEGRATION_TO_CALLBACK)
    else:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        known = list(LOGGER_TYPE_TO_CLASS)
    allowed = ["none", "all", *map(str, known)]
    if wrong := [name for name in names if name not in allowed]:
        raise ValueError(f"--report_to {shortened(wrong[0])}: choose from {', '.join(allowed)}")


def require_places(options: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for folders and files to write to that cannot be made.

    Options with the beginning of files' names are in the ``PREFIXES`` of their dataclass instead.
    """
    for name in ("output_dir", "export"):
        if isinstance(path := options.get(name), str):
            require_folder(path, name)
    if isinstance(path := options.get("output"), str):
        require_file(path, "output")


def shortened(value: Any, length: int = 60) -> str:
    """Returns a value as text, the beginning of a long one."""
    if isinstance(value, int) and abs(value) >= 10**length:  # Python refuses to write long ones
        return f"an integer of {value.bit_length():,} bits"
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}…"


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value
        yield from value.values()
    else:
        yield from value
