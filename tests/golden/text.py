"""Cases of the programs for text: training, evaluation, samples, sweeps."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from tests.golden.workplace import ROOT, Workplace, stable, write_jsonl

SUBJECTS = (
    "the old sailor", "a young painter", "two brothers", "the last train", "a quiet village",
    "the stolen letter", "an honest thief", "the winter king", "a lost dog", "three sisters",
    "the broken clock", "a travelling circus",
)  # fmt: skip
STARTS = ("This film about {} is", "I went to see the story of {} and it was")
JUDGEMENTS = (
    ("wonderful", 2.5), ("good", 1.25), ("long", 0.0), ("dull", -1.0), ("awful", -2.25),
    ("charming", 2.0), ("plain", 0.0),
)  # fmt: skip
ENDINGS = (
    "and I would watch it again.", "from beginning to end.", "with a weak last scene.",
    "though the music is nice.", "and nobody in the room laughed.",
)  # fmt: skip
SMALL = (
    "--test_share", 0.25, "--per_device_train_batch_size", 8, "--learning_rate", 1e-3,
    "--logging_steps", 1, "--report_to", "none", "--use_cpu",
)  # fmt: skip
WATCHED = ("--eval_strategy", "steps", "--eval_steps", 2)
SAVED = ("--max_steps", 4, "--save_steps", 2, "--save_total_limit", 3)
SAMPLED = (
    "--eval_num_prompts", 4, "--eval_samples", 2, "--eval_tokens", 8, "--eval_prompts", "model",
)  # fmt: skip
TRAINED = ("--loss", "jsd", *SMALL, *WATCHED, *SAVED, *SAMPLED, "--log_pairs", "true")


def groups() -> list[dict[str, Any]]:
    """Returns 24 scored groups of 4 completions; some texts and some scores are equal."""
    rows = []
    for i in range(24):
        completions, scores = [], []
        for j in range(4):
            word, score = JUDGEMENTS[(3 * i + j * (1 + i % 3)) % len(JUDGEMENTS)]
            completions.append(f" {word} {ENDINGS[(i + j * (i % 2)) % len(ENDINGS)]}")
            scores.append(score)
        prompt = STARTS[i % 2].format(SUBJECTS[i // 2])
        if i % 6 == 5:  # an equal text with another score
            completions[3], scores[3] = completions[0], scores[0] + 0.5
        rows.append({"prompt": prompt, "completions": completions, "scores": scores})
    return rows


def scored(work: Workplace) -> Path:
    """Writes the groups and returns their file."""
    path = work.folder / "groups.jsonl"
    write_jsonl(path, groups())
    return path


def train(work: Workplace, folder: str, *options: object) -> str:
    """Trains on the groups into a folder and returns its name."""
    data = work.once("groups", scored)
    work.run("train", "--dataset", data, *options, "--output_dir", folder)
    return folder


def trained(work: Workplace) -> str:
    """Trains the model that several cases look at."""
    return train(work, "text", *TRAINED)


def run_folder(work: Workplace, folder: str) -> dict[str, Any]:
    """Reads the contents of a run folder."""
    return {
        "metrics": metrics(work, folder),
        "log": work.rows(f"{folder}/log.jsonl"),
        "held_out_pairs": work.rows(f"{folder}/held_out_pairs.jsonl"),
        "files": work.names(folder),
        "options": work.json(f"{folder}/run.json")["options"],
        "card": sorted(work.front_matter(f"{folder}/README.md")),
    }


def metrics(work: Workplace, folder: str, file: str = "metrics.json") -> dict[str, Any]:
    """Reads the metrics of a run; of warnings, which are prose, the names only."""
    values = work.json(f"{folder}/{file}")
    if "warnings" in values:
        values["warnings"] = sorted(values["warnings"])
    return values


def text_train(work: Workplace) -> Any:
    """Trains with held-out pairs, samples and a row for each pair."""
    folder = work.once("text", trained)
    return {
        **run_folder(work, folder),
        "samples": work.rows(f"{folder}/samples.jsonl"),
        "pairs": work.rows(f"{folder}/pairs.jsonl"),
        "weights": work.weights(f"{folder}/model.safetensors"),
    }


def text_train_lora(work: Workplace) -> Any:
    """Trains a LoRA with another divergence, the hinge loss and an SFT term."""
    folder = train(
        work, "text-lora", "--loss", "alpha", "--alpha", 0.5, "--use_peft", "--preference", "hinge",
        "--sft_weight", 0.1, "--match_curvature", *SMALL, *WATCHED, "--max_steps", 3,
        "--eval_num_prompts", 0,
    )  # fmt: skip
    file = f"{folder}/adapter_model.safetensors"
    return {
        **run_folder(work, folder), "weights": work.weights(file), "shapes": work.shapes(file)
    }  # fmt: skip


def text_train_ipo(work: Workplace) -> Any:
    """Trains IPO with log-probabilities of the reference computed beforehand."""
    folder = train(
        work, "text-ipo", "--loss", "ipo", "--precompute_ref_log_probs", "--rule", "best_worst",
        "--label_smoothing", 0.1, "--loser_gradient", 0.5, "--tail", 3, "--seed", 3,
        "--shared_prompts", "false", *SMALL, "--max_steps", 2, "--eval_num_prompts", 0,
    )  # fmt: skip
    return run_folder(work, folder)


def text_resume(work: Workplace) -> Any:
    """Resumes a copy of a run that lost its end."""
    whole, parted = work.folder / work.once("text", trained), work.folder / "text-parted"
    shutil.copytree(whole, parted)
    shutil.rmtree(parted / "checkpoint-4")
    for name in ("metrics.json", "model.safetensors"):
        (parted / name).unlink()
    train(work, parted.name, *TRAINED, "--resume_from_checkpoint", "last")
    record = json.loads((parted / "run.json").read_text())
    return {
        "metrics": metrics(work, parted.name),
        "log": work.rows(f"{parted.name}/log.jsonl"),
        "commands": len(record["commands"]),
        "weights": work.weights(f"{parted.name}/model.safetensors"),
    }


def text_evaluate(work: Workplace) -> Any:
    """Compares a trained model with its reference, on pairs too."""
    folder, data = work.once("text", trained), work.once("groups", scored)
    work.run(
        "evaluate", "--model", folder, "--pairs", data, "--num_prompts", 4, "--samples", 2,
        "--max_new_tokens", 8, "--output_dir", "evaluation",
    )  # fmt: skip
    return {
        "evaluation": metrics(work, "evaluation", "evaluation.json"),
        "samples": work.rows("evaluation/samples.jsonl"),
        "files": work.names("evaluation"),
    }


def text_generate(work: Workplace) -> Any:
    """Draws samples of two prompts into a file."""
    work.run(
        "generate", "--prompt", "This film", "I went to the cinema", "--max_new_tokens", 12,
        "--samples", 3, "--temperature", 0.8, "--seed", 3, "--output", "generated.jsonl",
    )  # fmt: skip
    return work.rows("generated.jsonl")


def sweep_text(work: Workplace) -> Any:
    """Checks learning rates and trains a small grid."""
    data = work.once("groups", scored)
    work.run(
        "sweep", "--dataset", data, "--loss", "sigmoid", "--beta", 0.1, 0.4, "--seed", 0,
        "--learning_rates", 1e-4, 1e-3, "--check_betas", 0.1, "--check_steps", 2, "--max_steps", 2,
        "--test_share", 0.25, "--per_device_train_batch_size", 8, "--report_to", "none",
        "--use_cpu", "--eval_num_prompts", 0, "--output_dir", "sweep",
    )  # fmt: skip
    folders = [path.parent for path in work.folder.glob("sweep/*/*/metrics.json")]
    return {
        "learning_rates": renamed(rates(work.json("sweep/learning_rates.json"))),
        "table": table(work, work.folder / "sweep/table.csv"),
        "runs": sorted(renamed([folder.name for folder in folders])),
        "rows": renamed([row[0] for row in csv_rows(work.folder / "sweep/table.csv")[1:]]),
    }


def rates(choices: dict[str, Any]) -> dict[str, Any]:
    """Shortens the folders in a choice of learning rates; the list of runs may be renamed."""
    shortened = {}
    for method, choice in choices.items():
        trials = [Path(path).name for path in choice["trials"]]
        shortened[method] = {**choice, "trials": trials}
    return shortened


def renamed(value: Any) -> Any:
    """Returns a value in which names end before their digest."""
    return json.loads(re.sub(r"-[0-9a-f]{10}(?=\\?[\"/])", "", json.dumps(value)))


def csv_rows(path: Path) -> list[list[str]]:
    """Reads a table, its header first."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def table(work: Workplace, path: Path) -> list[dict[str, Any]]:
    """Reads a sweep's table by columns, without the first, which is the name of a run."""
    header, *lines = csv_rows(path)
    rows = [dict(zip(header[1:], map(number, line[1:]), strict=True)) for line in lines]
    return [renamed(stable(row, work.folder)) for row in rows]


def number(text: str) -> Any:
    """Returns a text as the JSON value that it spells, if it does."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def sweep_print(work: Workplace) -> Any:
    """Prints the commands of two grids."""
    data = work.once("groups", scored)
    text = work.run(
        "sweep", "--dataset", data, "--loss", "sigmoid", "alpha", "skew_js", "--alpha", 0.3, 0.7,
        "--loss_args", '{"t": 0.2}', "--beta", 0.1, 1, "--seed", 0, 1, "--learning_rate", 1e-3,
        "--report_to", "wandb", "--print", "--output_dir", "printed",
    )  # fmt: skip
    images = work.run(
        "image_sweep", "--config", ROOT / "diffusion/configs/sweep_mnist.yaml", "--print",
        "--learning_rate", 1e-3, 2e-3, "--output_dir", "printed",
    )  # fmt: skip
    return {name: commands(printed) for name, printed in (("text", text), ("images", images))}


def commands(printed: str) -> list[Any]:
    """Reads printed commands: their variables and options without programs and folders."""
    rows = []
    for line in printed.splitlines():
        if "--output_dir" not in line:
            continue
        words = shlex.split(line)
        options = words[: words.index("--output_dir")]
        folder = words[len(options) + 1]
        used = [re.sub(r"=/.*/", "=.../", word) for word in options if "=" in word]
        rows.append(renamed([*used, Path(folder).name]))
    return rows
