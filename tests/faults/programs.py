"""Programs under test with their tiny set-ups: a new program is one entry of ``PROGRAMS``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.golden.workplace import ROOT, write_jsonl

RUN = "run"
"""The run folder of every program, in the folder that it works in."""
LAST = ("--resume_from_checkpoint", "last")


@dataclass(frozen=True)
class Program:
    """A program and the command that runs it.

    Arguments:
        script: Its path.
        options: Its options; ``{setup}`` is the folder of its set-up.
        set_up: Makes the set-up in a folder.
        resume: What the command that resumes has more.
        interrupted: The point at which a run is killed before its files are damaged.
        damaged: The files to damage then, as patterns within the folder that it works in.
        points: The points at which it is killed, as ``event pattern n``.
        caches: A pattern of the files of its cache, within the trial's folder.
        upload: What the command that uploads its results has more.
        adopts: True where the next call waits for the processes that a killed one left.
        largest: The size of files that a full disk does not take any more, in bytes.
    """

    script: str
    options: tuple[str, ...]
    set_up: Callable[[Path], object]
    resume: tuple[str, ...] = ()
    interrupted: str = ""
    damaged: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    caches: str = ""
    upload: tuple[str, ...] = ()
    adopts: bool = False
    largest: int = 0

    def command(self, setup: Path) -> list[str]:
        """Returns the words of the command, without the interpreter."""
        options = [option.replace("{setup}", str(setup)) for option in self.options]
        return [str(ROOT / self.script), *options, "--output_dir", RUN]


def write_prompts(folder: Path) -> None:
    """Writes six prompts."""
    starts = ("The film was", "I went to see", "Two brothers in", "A quiet", "The last", "She was")
    text = "".join(f"{start} a story of\n" for start in starts)
    (folder / "prompts.txt").write_text(text, encoding="utf-8")


def write_groups(folder: Path) -> None:
    """Writes the golden tests' scored groups."""
    from tests.golden.text import groups

    write_jsonl(folder / "groups.jsonl", groups())


def write_texts(folder: Path) -> None:
    """Writes texts to train a language model on."""
    from tests.golden.text import groups

    texts = [
        "".join([row["prompt"], *row["completions"]]) * 6 for row in groups() for _ in range(3)
    ]
    write_jsonl(folder / "texts.jsonl", [{"text": f"{i}. {t}"} for i, t in enumerate(texts)])


def write_model(folder: Path) -> None:
    """Writes an untrained GPT-2 of two layers and its tokenizer."""
    from fdpo.tasks import imdb
    from tests.golden.text import groups

    texts = ["".join([row["prompt"], *row["completions"]]) for row in groups()]
    tokenizer = imdb.train_tokenizer(texts, vocab_size=400)
    model = imdb.gpt2_from_scratch(tokenizer, width=32, layers=2, heads=2, context=128)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def write_pipeline(folder: Path) -> None:
    """Writes a tiny Stable Diffusion pipeline and four pairs of images."""
    from tests.golden.stable_diffusion import image, pipeline

    pipeline(False).save_pretrained(folder / "pipeline")
    (folder / "pairs").mkdir()
    rows = []
    for i in range(4):
        rows.append({"caption": f"image {i}", "chosen": f"r{i}.png", "rejected": f"b{i}.png"})
        image(i, (20, 16), (255, 0, 0)).save(folder / f"pairs/r{i}.png")
        image(i, (18, 24), (0, 0, 255)).save(folder / f"pairs/b{i}.png")
    (folder / "pairs/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


NEWEST = (f"{RUN}/checkpoint-4/*", f"{RUN}/checkpoint-4/*/*")


def trainer_points(state: str, weights: str) -> tuple[str, ...]:
    """Returns the points of a trainer of six steps that saves a checkpoint every two."""
    return (
        f"open work/{RUN}/*checkpoint-4*/{state} 1",  # while the second checkpoint is saved
        f"rename work/{RUN}/checkpoint-4 1",
        f"rename+ work/{RUN}/checkpoint-6 1",
        f"save work/{RUN}/*checkpoint-2*/* 1",
        f"save work/{RUN}/{weights} 1",  # while the model is saved
        f"rename work/{RUN}/metrics.json 1",
        f"rename+ work/{RUN}/run.json 1",
    )


TRAINED = (
    "--dataset", "{setup}/groups.jsonl", "--test_share", "0.25", "--learning_rate", "1e-3",
    "--per_device_train_batch_size", "4", "--logging_steps", "1", "--report_to", "none",
    "--use_cpu",
)  # fmt: skip
SAVED = ("--max_steps", "6", "--save_steps", "2", "--save_total_limit", "2")
SAMPLED = ("--eval_num_prompts", "2", "--eval_samples", "2", "--eval_tokens", "4")
DIGITS = (
    "--data", "digits", "--train_batch_size", "4", "--lr_warmup_steps", "0", "--use_cpu",
    "--logging_steps", "1", "--max_train_steps", "6", "--checkpointing_steps", "2",
    "--checkpoints_total_limit", "2", "--eval_samples", "8", "--sampling_steps", "2",
)  # fmt: skip

TRAIN = Program(
    "train_dpo/train.py", (*TRAINED, *SAVED, *SAMPLED), write_groups, LAST,
    interrupted=f"mkdir work/{RUN}/*checkpoint-6* 1", damaged=NEWEST,
    points=trainer_points("trainer_state.json", "model.safetensors"),
    caches="home/.cache/fdpo/*", largest=4_000_000,
    upload=("--push_to_hub", "--hub_model_id", "user/data"),
)  # fmt: skip
IMAGES = Program(
    "diffusion/train.py", DIGITS, lambda _: None, LAST,
    interrupted=f"mkdir work/{RUN}/*checkpoint-6* 1", damaged=NEWEST,
    points=trainer_points("trainer_state.json", "diffusion_pytorch_model.safetensors"),
    caches="home/.cache/fdpo/*", largest=1_000_000,
)  # fmt: skip

PROGRAMS: dict[str, Program] = {
    "text data": Program(
        "dataset/main.py",
        (
            "--prompts", "{setup}/prompts.txt", "--completions", "4", "--max_new_tokens", "8",
            "--generation_batch_size", "4", "--test_size", "0.25",
        ),
        write_prompts,
        interrupted=f"rename+ work/{RUN}/parts/* 3", damaged=(f"{RUN}/parts/000001.jsonl",),
        points=(
            f"rename work/{RUN}/parts/* 2", f"rename work/{RUN}/train.jsonl 1",
            f"rename work/{RUN}/README.md 1", f"rename+ work/{RUN}/README.md 1",
            f"open work/{RUN}/parts/.* 2",
        ),
        largest=1_000, upload=("--push_to_hub", "user/data"),
    ),
    "image data": Program(
        "dataset/main.py",
        (
            "--modality", "image", "--num_groups", "6", "--completions", "4", "--sampling_steps",
            "2",
        ),
        lambda _: None,
        interrupted=f"rename+ work/{RUN}/parts/*.jsonl 3",
        damaged=(f"{RUN}/pictures/*0.png", f"{RUN}/parts/000001.jsonl", f"{RUN}/samples*/*"),
        points=(
            f"rename work/{RUN}/pictures/*.png 3", f"rename work/{RUN}/parts/*.jsonl 2",
            f"rename+ work/{RUN}/parts/*.jsonl 6", f"rename work/{RUN}/README.md 1",
        ),
        largest=200, upload=("--push_to_hub", "user/data"),
    ),
    "train": TRAIN,
    "train on own samples": Program(  # which dataset/main.py makes as its child
        "train_dpo/train.py",
        ("--model", "{setup}/model", "--max_steps", "2", "--eval_num_prompts", "0", *TRAINED[2:]),
        write_model, LAST,
    ),
    "images": IMAGES,
    "images, LoRA": Program(
        "diffusion/train.py", (*DIGITS, "--rank", "2", "--use_ema", "false"), lambda _: None, LAST,
        interrupted=f"mkdir work/{RUN}/*checkpoint-6* 1", damaged=NEWEST,
        points=IMAGES.points, caches=IMAGES.caches, largest=1_000_000,
    ),
    "Stable Diffusion": Program(
        "diffusion/train_sd.py",
        (
            "--pretrained_model_name_or_path", "{setup}/pipeline", "--dataset", "{setup}/pairs",
            "--rank", "2", "--cache_latents", "--max_train_steps", "6", "--checkpointing_steps",
            "2", "--checkpoints_total_limit", "2", "--train_batch_size", "2", "--use_cpu",
            "--gradient_accumulation_steps", "1", "--scale_lr", "false", "--lr_warmup_steps", "0",
            "--kappa", "100", "--logging_steps", "1", "--num_inference_steps", "2",
            "--num_validation_images", "2", "--validation_steps", "2", "--learning_rate", "0.02",
        ),
        write_pipeline, LAST,
        interrupted=f"mkdir work/{RUN}/*checkpoint-6* 1",
        damaged=(*NEWEST, "runs/cache/*/*/*"),
        points=(
            *trainer_points("trainer_state.json", "pytorch_lora_weights.safetensors"),
            "rename work/runs/cache/* 2",
        ),
        caches="work/runs/cache/*", largest=20_000,
        upload=("--push_to_hub", "--hub_model_id", "user/data"),
    ),
    "sweep": Program(
        "train_dpo/sweep.py",
        (
            *TRAINED, "--loss", "sigmoid", "--beta", "0.1", "0.4", "--seed", "0", "--max_steps",
            "2", "--eval_num_prompts", "0",
        ),
        write_groups,
        points=(
            f"rename work/{RUN}/runs/*/metrics.json 1", f"rename work/{RUN}/table.csv 1",
            f"save work/{RUN}/runs/*/model.safetensors 1",
        ),
        caches="home/.cache/fdpo/*", adopts=True, largest=4_000_000,
    ),
    "SFT": Program(
        "train_dpo/sft.py",
        (
            "--dataset", "{setup}/texts.jsonl", "--model", str(ROOT / "pretrained/imdb-gpt2"),
            "--held_out", "8", "--context", "64", *SAVED, "--learning_rate", "1e-3",
            "--per_device_train_batch_size", "4", "--logging_steps", "1", "--report_to", "none",
            "--use_cpu",
        ),
        write_texts, LAST,
        interrupted=f"mkdir work/{RUN}/*checkpoint-6* 1", damaged=NEWEST,
        points=trainer_points("trainer_state.json", "model.safetensors"), largest=4_000_000,
    ),
}  # fmt: skip
"""The programs by the name that the table has for them."""
