"""Wrong inputs of the programs, generated from their own tables of options.

An input is wrong by its type, out of its range, no text that a file can hold, a place that cannot
be written to, or excluded by another option. :func:`draw` varies the values with a seed.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments

from fdpo.cli.arguments import _Parser
from fdpo.cli.fields import hint_types, option_fields
from fdpo.cli.sweep import SweepArguments
from fdpo.cli.values import number_range

EXCLUDED: dict[str, list[tuple[str, str]]] = {
    "train_dpo.train": [
        ("--alpha {share} --loss jsd", "alpha"),
        ('--loss alpha --alpha {share} --loss_args {{"alpha":{share}}}', "alpha"),
        ('--loss skew_js --loss_args {{"t":1{count}}}', "t"),
        ("--loss {share}*js+0*kl", "loss"),
        ("--rule all --k {count}", "k"),
        ("--loss_type hinge", "loss_type"),
        ("--ld_alpha {share}", "ld_alpha"),
        ("--padding_free", "padding_free"),
        ("--fp16 --bf16", "fp16"),
        ("--eval_strategy steps --save_strategy epoch --load_best_model_at_end", "load_best"),
    ],
    "train_dpo.generate": [
        ("--prompt {count} --prompts a.txt", "prompts"),
        ("--prompt {count} --num_prompts {count}", "num_prompts"),
    ],
    "train_dpo.sweep": [
        ("--check_betas {share}", "check_betas"),
        ("--learning_rates {share} --learning_rate {share}", "learning_rate"),
        ("--resume_from_checkpoint last", "resume_from_checkpoint"),
        ("--loss jsd --alpha {share}", "alpha"),
    ],
    "dataset.main": [
        ("--groups a.jsonl --num_prompts {count}", "num_prompts"),
        ("--diversity {count}", "diversity"),
        ("--method diverse_beams --temperature {share}", "temperature"),
        ("--prompts a.txt --prompt_words {count}", "prompt_words"),
        ("--rule best_worst --k_top {count}", "k_top"),
    ],
    "dataset.main --modality image": [
        ("--num_prompts {count}", "num_prompts"),
        ("--prompts a.txt --num_groups {count}", "num_groups"),
        ("--test_size {share}", "test_size"),
    ],
    "diffusion.train": [
        ("--kappa {count} --true_weight", "kappa"),
        ("--optimizer adafactor --adam_beta1 {share}", "adam_beta1"),
        ("--data mnist", "data_root"),
        ("--data_root a", "data_root"),
        ("--eval_samples 0 --validation_steps {count}", "validation_steps"),
        ("--dpo_weight 0 --sft_weight 0", "dpo_weight"),
    ],
    "diffusion.train_sd": [
        ("--cache_latents --random_crop", "random_crop"),
        ("--skip_unreadable --check_images false", "skip_unreadable"),
        ("--hub_model_id a/b", "hub_model_id"),
        ("--num_validation_images 0 --validation_steps {count}", "validation_steps"),
        ("--train_batch_size 3", "train_batch_size"),
    ],
    "diffusion.pretrain": [
        ("--model flow --prediction_type v_prediction", "prediction_type"),
        ("--model classifier --init a", "init"),
        ("--model classifier --resume_from_checkpoint last", "resume_from_checkpoint"),
    ],
    "diffusion.sweep": [("--check_betas {share}", "check_betas")],
}
"""Options of a program that exclude each other, and the one that the error names.

``share`` and ``count`` are random numbers.
"""
NEEDED: dict[str, tuple[str, ...]] = {
    "train_dpo.evaluate": ("--model", "some/model"),
    "diffusion.compare": ("--model", "some/model", "--prompts", "a.txt"),
    "diffusion.train_sd": ("--pretrained_model_name_or_path", "some/model", "--dataset", "a/b"),
    "dataset.main --modality image": ("--modality", "image"),
}
"""Options that a program cannot do without."""


@dataclass(frozen=True)
class WrongInput:
    """A wrong input: the options, and the one that the error has to name."""

    words: tuple[str, ...]
    option: str

    def __str__(self) -> str:
        return ascii(" ".join(self.words))[1:-1][:80]


@dataclass(frozen=True)
class Program:
    """A program with its dataclasses of options.

    Arguments:
        name: The module within ``fdpo.programs``, and options that choose a variant.
        types: The dataclasses.
    """

    name: str
    types: tuple[type, ...]

    @property
    def module(self) -> Any:
        """The module with ``main``."""
        return importlib.import_module(f"fdpo.programs.{self.name.split()[0]}")

    @property
    def is_sweep(self) -> bool:
        return SweepArguments in self.types

    def numbers(self) -> list[tuple[type, str]]:
        """Returns the numeric options with their dataclasses."""
        parsers = [(one, _Parser((one,), {})) for one in self.types]
        return [
            (one, field.name)
            for one, parser in parsers
            for field in option_fields(one)
            if {int, float} & hint_types(parser.hints[field.name])
        ]


def programs() -> list[Program]:
    """Returns every program with all its options, those of TRL and transformers included."""
    from fdpo.programs.dataset import main, train_scorer
    from fdpo.programs.diffusion import compare, pretrain, sample, train, train_sd
    from fdpo.programs.diffusion import evaluate as image_evaluate
    from fdpo.programs.diffusion import sweep as image_sweep
    from fdpo.programs.train_dpo import evaluate, generate, options, sft

    return [
        Program("train_dpo.train", options.TYPES),
        Program("train_dpo.evaluate", (evaluate.EvaluationArguments,)),
        Program("train_dpo.generate", (generate.GenerateArguments,)),
        Program("train_dpo.sft", (sft.TextArguments, TrainingArguments)),
        Program("train_dpo.sweep", (SweepArguments, *options.TYPES)),
        Program("dataset.main", main.option_types("text")),
        Program("dataset.main --modality image", main.option_types("image")),
        Program("dataset.train_scorer", (train_scorer.ReviewArguments, train_scorer.ScorerConfig)),
        Program("diffusion.train", (train.DataArguments, train.TrainConfig)),
        Program("diffusion.train_sd", train_sd.TYPES),
        Program("diffusion.pretrain", (pretrain.PretrainArguments,)),
        Program("diffusion.evaluate", (image_evaluate.EvaluateArguments,)),
        Program("diffusion.compare", (compare.CompareArguments,)),
        Program("diffusion.sample", (sample.SampleArguments,)),
        Program("diffusion.sweep", (SweepArguments, *image_sweep.TRAIN.types)),
    ]


def draw(program: Program, seed: int, places: Sequence[str]) -> list[WrongInput]:
    """Returns wrong inputs of a program: each of its options, in each way that it can be wrong.

    Arguments:
        program: The program.
        seed: The seed of the values.
        places: Paths that cannot be written to.
    """
    randomness = random.Random(f"{seed} {program.name}")
    parsers = [(one, _Parser((one,), {})) for one in program.types]
    found = []
    for one, parser in parsers:
        for field in option_fields(one):
            members = hint_types(parser.hints[field.name])
            choices = parser.action(field.name).choices
            values = _of_wrong_type(members, choices, randomness)
            if {int, float} & members:
                values += _out_of_range(one, field.name, int in members, randomness)
            if str in members and choices is None:
                values += _unwritable_text(randomness)
            if field.name in ("output_dir", "export", "output"):
                values += places
            if field.name in ("report_to", "dtype"):
                values += ["".join(randomness.choices("bcdfghjklm", k=8))]
            found += [WrongInput((f"--{field.name}={v}",), field.name) for v in values]
    for text, option in EXCLUDED.get(program.name, ()):
        share, count = round(randomness.uniform(0.2, 0.8), 3), randomness.randint(5, 99)
        words = text.format(share=share, count=count).split()
        found.append(WrongInput(tuple(words), option))
    return found


def _of_wrong_type(members: set[Any], choices: Any, randomness: random.Random) -> list[str]:
    word = "".join(randomness.choices("bcdfghjklmpqrsvwxz", k=randomness.randint(4, 30)))
    if choices is not None:
        return [word]
    if dict in members:
        return [f"{{{word}", "[1]", "[" * 9999, '{"a":' * 40 + "1" + "}" * 40, '{"a": "\\ud800"}']
    if bool in members and str not in members:
        return [word]
    if {int, float} & members and str not in members:
        return [word, "", "1e", "0x" + "9" * 5000, f"{randomness.random()}.{word}"]
    return []


def _out_of_range(kind: type, name: str, whole: bool, randomness: random.Random) -> Iterator[str]:
    allowed = number_range(kind, name)
    assert allowed is not None, f"{kind.__name__}.{name} has no range (fdpo.cli.values)"
    far = 10.0 ** randomness.randint(1, 9)
    numbers: list[float] = [2**40 + randomness.randrange(2**40), 2**80] if whole else []
    if allowed.low > -math.inf:
        numbers += [allowed.low - 1 - int(randomness.random() * far)]
        numbers += [] if whole else [allowed.low - randomness.random()]
        numbers += [allowed.low] if allowed.open_low else []
    if allowed.bounded:
        numbers += [allowed.high + 1 + int(randomness.random() * far)]
        numbers += [allowed.high] if allowed.open_high else []
    yield from (
        str(int(number) if whole else number) for number in numbers if number not in allowed
    )
    if not whole:
        yield from ("nan", "-inf", *([] if allowed.infinite else ["inf"]))


def _unwritable_text(randomness: random.Random) -> list[str]:
    half = chr(randomness.randrange(0xD800, 0xE000))
    return [f"a{half}b", "a\0b"]
