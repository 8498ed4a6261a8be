"""Fixtures of all tests: no network, the folder of real data, a tiny model, pairs."""

import os
import tempfile
from pathlib import Path

import pytest

# Set before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"
os.environ["COLUMNS"] = "100"  # the width of help texts
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # which share the cores
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(workers)))
os.environ["FDPO_CACHE"] = tempfile.mkdtemp(prefix="fdpo-cache-")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: FDPO_DATA, or ``shared/data`` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FDPO_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set FDPO_DATA to its folder")
    return folder


def sentence(i: int, size: int) -> str:
    """The i-th of many sentences of ``size`` words, with a space in front."""
    words = "the film was a truly great bad dull fine story and I loved hated it so much".split()
    return "".join(" " + words[(i * 7 + j * (i + 3)) % len(words)] for j in range(size))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained GPT-2 of two layers, context 64, and its tokenizer."""
    from fdpo.tasks import imdb

    folder = tmp_path_factory.mktemp("tiny-gpt2")
    tokenizer = imdb.train_tokenizer([sentence(i, 40) for i in range(50)], vocab_size=320)
    model = imdb.gpt2_from_scratch(tokenizer, width=32, layers=2, heads=2, context=64)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pair_rows() -> list[dict[str, str]]:
    """Sixteen pairs of short sentences."""
    return [
        {
            "prompt": sentence(i, 3),
            "chosen": sentence(i + 5, 4 + i % 5),
            "rejected": sentence(i + 9, 3 + i % 4),
        }
        for i in range(16)
    ]
