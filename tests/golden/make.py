"""Golden values of the programs and functions: written once, compared after each change.

    python tests/golden/make.py --write
    python tests/golden/make.py --check [--exact] [--only NAME ...]

Cases that need real data take it from FDPO_DATA, or ``shared/data`` beside the checkout, and are
left out without it. Everything is computed in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.golden import data, images, mathematics, pretraining, results, stable_diffusion, text
from tests.golden.compare import differences, plain, read_golden, write_golden
from tests.golden.workplace import ENVIRONMENT, ROOT, Workplace

CASES: dict[str, Callable[[Workplace], Any]] = {
    "losses": mathematics.losses_float64,
    "losses_float32": mathematics.losses_float32,
    "loss_options": mathematics.loss_options,
    "estimators": mathematics.estimates,
    "text_train": text.text_train,
    "text_train_lora": text.text_train_lora,
    "text_train_ipo": text.text_train_ipo,
    "text_resume": text.text_resume,
    "text_evaluate": text.text_evaluate,
    "text_generate": text.text_generate,
    "dataset_text": data.dataset_text,
    "dataset_groups": data.dataset_groups,
    "dataset_images": data.dataset_images,
    "image_train": images.image_train,
    "image_evaluate": images.image_evaluate,
    "image_sample": images.image_sample,
    "sd_train": stable_diffusion.sd_train,
    "sd_compare": stable_diffusion.sd_compare,
    "pretrain": pretraining.pretrain,
    "sweep_text": text.sweep_text,
    "sweep_print": text.sweep_print,
    "results": results.results,
    "notebook": results.notebook,
}
"""The cases in the order of their computation."""
NEED_DATA = ("pretrain",)


def data_folder() -> Path | None:
    """Returns the folder of real data, if there is one."""
    folder = Path(os.environ.get("FDPO_DATA", ROOT.parent / "shared/data"))
    return folder if folder.is_dir() else None


def computed(name: str, work: Workplace) -> Any:
    """Computes a case."""
    return plain(CASES[name](work))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the golden files")
    action.add_argument("--check", action="store_true", help="compare with the golden files")
    parser.add_argument("--exact", action="store_true", help="allow floats no tolerance")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    return parser.parse_args(argv)


def handled(name: str, work: Workplace, write: bool, exact: bool) -> list[str]:
    """Writes the golden value of a case, or lists the differences from it."""
    try:
        value = computed(name, work)
    except RuntimeError as error:
        return [f": {error}"]
    if write:
        write_golden(name, value)
        return []
    return differences(read_golden(name), value, exact)


def main(argv: Sequence[str] | None = None) -> int:
    """Computes the cases; returns how many of them differ or fail."""
    options, different = parsed(argv), 0
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        work = Workplace(Path(folder).resolve(), data_folder())
        for name in options.only:
            if name in NEED_DATA and work.data is None:
                print(f"{name}: left out, there is no real data", flush=True)
                continue
            start = time.monotonic()
            lines = handled(name, work, options.write, options.exact)
            seconds = time.monotonic() - start
            print(f"{name}: {len(lines)} differences ({seconds:.0f} s)", flush=True)
            print("".join(f"  {name}{line}\n" for line in lines), end="", flush=True)
            different += bool(lines)
    return different


if __name__ == "__main__":
    sys.exit(min(main(), 1))
