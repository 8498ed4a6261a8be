"""Code that hides in the files of checkpoints, run folders, models, adapters and caches never runs.

Each file in turn is replaced by a pickle that leaves a mark where it is loaded, with its safe
counterpart there or not. The outcome is a result or an error of one line.
"""

from __future__ import annotations

import gc
import pickle
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from fdpo import runs
from fdpo.cli.mistakes import MISTAKES
from fdpo.runs.cache import ReferenceCache
from fdpo.runs.checkpoints import CheckpointError
from tests.diffusion import tiny
from tests.llm.training import LORA, config
from tests.runs.damage import Payload, plant

BESIDE = {
    "adapter_model.bin", "custom_checkpoint_0.pkl", "dl_state_dict.bin", "model.pkl",
    "optimizer.bin", "optimizer.pt", "pytorch_model.bin", "random_states_0.pkl", "rng_state.pth",
    "sampler.bin", "scaler.pt", "scheduler.bin", "scheduler.pt", "training_args.bin",
    "diffusion_pytorch_model.bin", "pytorch_model_fsdp_0/.metadata", "global_step2/state.pt",
}  # fmt: skip
"""Pickled files that one library or another looks for."""
ONE_LINE = (*MISTAKES, CheckpointError)


def raw(path: Path, mark: Path) -> None:
    """Replaces a file by a pickle without torch's archive around it."""
    path.write_bytes(pickle.dumps(Payload(mark)))


def hostile_copies(folder: Path, work: Path) -> Iterator[tuple[Path, str, Path]]:
    """Yields copies of a folder with code in one of its files, its name, and the mark."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    there.discard("manifest.json")
    mark = work / "mark"
    for name, write in [*product(sorted(there), (plant, raw)), *product(sorted(BESIDE), (plant,))]:
        copy = work / "copy" / folder.name
        shutil.copytree(folder, copy)
        (copy / "manifest.json").unlink(missing_ok=True)  # a stranger's would fit the file
        (copy / name).parent.mkdir(exist_ok=True)
        write(copy / name, mark)
        yield copy, name, mark
        if name not in there and "model" in name:  # alone, without the safe weights
            for weights in copy.glob("*.safetensors"):
                weights.unlink()
            yield copy, f"{name} alone", mark
        shutil.rmtree(work / "copy")


def assert_no_code_runs(folder: Path, work: Path, load: Callable[[Path], object]) -> None:
    load(folder)
    gc.freeze()  # transformers collects garbage at each start
    for copy, name, mark in hostile_copies(folder, work):
        try:
            load(copy)
        except ONE_LINE as error:
            assert not isinstance(error, CheckpointError) or "\n" not in str(error), name
        except Exception as error:
            raise AssertionError(f"{name}: not one line: {error!r}") from error
        finally:
            ran = mark.exists()
        assert not ran, name


@pytest.mark.parametrize("adapter", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_checkpoint_of_text_training(
    tiny_model: Path, pair_rows: list[dict[str, str]], tmp_path: Path, adapter: bool
) -> None:
    from fdpo.llm.trainer import FDPOTrainer

    args = config(tmp_path, max_steps=2, save_strategy="steps", save_steps=1, loss="jsd")
    data = Dataset.from_list(pair_rows)
    peft = {"peft_config": LORA} if adapter else {}
    trainer = FDPOTrainer(str(tiny_model), args, train_dataset=data, **peft)
    trainer.train()
    trainer.args.save_strategy = "no"
    folder = tmp_path / "checkpoint-1"
    assert_no_code_runs(folder, tmp_path / "work", lambda copy: trainer.train(str(copy)))


def test_a_checkpoint_of_image_training(tmp_path: Path) -> None:
    from fdpo.diffusion import DDPM, DiffusionConfig, DiffusionTrainer

    tiny.reset_accelerate()
    options = DiffusionConfig(
        output_dir=str(tmp_path), train_batch_size=2, max_train_steps=2, checkpointing_steps=1,
        checkpoints_total_limit=2, use_ema=True, use_cpu=True, reference_cache="off",
    )  # fmt: skip
    trainer = DiffusionTrainer(tiny.tiny_model(), DDPM(), tiny.tiny_pairs(), options)
    trainer.train()
    trainer.config.checkpointing_steps = 9
    assert_no_code_runs(tmp_path / "checkpoint-1", tmp_path / "work", trainer.train)


@pytest.mark.parametrize("adapter", [False, True])
def test_a_language_model(tiny_model: Path, tmp_path: Path, adapter: bool) -> None:
    from fdpo.llm.models import load_model, load_tokenizer

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    if adapter:
        from peft import get_peft_model

        shutil.rmtree(folder)
        model: Any = load_model(str(tiny_model))
        get_peft_model(model, LORA).save_pretrained(folder)
        load_tokenizer(str(tiny_model)).save_pretrained(folder)

    def load(copy: Path) -> None:
        load_tokenizer(str(copy))
        load_model(str(copy))

    assert_no_code_runs(folder, tmp_path / "work", load)


def test_an_image_model(tmp_path: Path) -> None:
    from fdpo.diffusion import DDPM
    from fdpo.diffusion.models import load_image_model, save_image_model

    save_image_model(tiny.tiny_model(), DDPM(), tmp_path / "model")
    assert_no_code_runs(
        tmp_path / "model", tmp_path / "work", lambda copy: load_image_model(str(copy))
    )


def test_a_run_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    runs.prepare(folder, {"seed": 3})
    (folder / "metrics.json").write_text("{}")

    def read(copy: Path) -> None:
        runs.run_options(copy)
        runs.checkpoint(copy, "last")
        runs.require_free(copy, {"seed": 3}, "last")

    assert_no_code_runs(folder, tmp_path / "work", read)


def test_a_reference_cache(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path / "cache")
    cache.add(torch.arange(4).view(2, 2), torch.ones(2))
    cache.save()
    assert_no_code_runs(tmp_path / "cache", tmp_path / "work", ReferenceCache)
