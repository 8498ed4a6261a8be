"""Image files and folders of image pairs, and errors in them."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fdpo.diffusion.images import read_image, read_pair_folder, write_image

SHAPE = (1, 28, 28)


def image(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, SHAPE, generator=generator) / 127.5 - 1


def test_files_round_trip(tmp_path: Path) -> None:
    colour = torch.randint(256, (3, 5, 4), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    for values in (image(0), colour):
        write_image(tmp_path / "a.png", values)
        read = read_image(tmp_path / "a.png", tuple(values.shape))  # type: ignore[arg-type]
        torch.testing.assert_close(read, values)


def test_folders_of_pairs(tmp_path: Path) -> None:
    """By names in two folders, and by rows; an image in several pairs is read once."""
    for first, side in ((0, "chosen"), (10, "rejected")):
        for number in (0, 1):
            write_image(tmp_path / side / f"{number}.png", image(first + number))
    pairs = read_pair_folder(tmp_path, SHAPE)
    sides = [pairs.pair(index, torch.Generator()) for index in range(len(pairs))]
    for number, pair in enumerate(sides):
        torch.testing.assert_close(pair["chosen"], image(number))
        torch.testing.assert_close(pair["rejected"], image(10 + number))
    rows = [{"chosen": "chosen/1.png", "rejected": f"rejected/{name}.png"} for name in (0, 1)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = read_pair_folder(tmp_path, SHAPE)
    assert len(named) == 2 and len(named.images) == 3
    torch.testing.assert_close(named.pair(0, torch.Generator())["chosen"], image(1))


def test_wrong_folders_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        read_pair_folder(tmp_path / "nowhere", SHAPE)
    with pytest.raises(ValueError, match="neither train.jsonl nor images in chosen/"):
        read_pair_folder(tmp_path, SHAPE)
    for side in ("chosen", "rejected"):
        write_image(tmp_path / side / "0.png", image(0))
    write_image(tmp_path / "chosen/1.png", image(1))
    with pytest.raises(ValueError, match="2 images in chosen/, 1 in rejected/; chosen/1.png has"):
        read_pair_folder(tmp_path, SHAPE)
    (tmp_path / "rejected/1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="rejected/1.png: cannot be read as an image"):
        read_pair_folder(tmp_path, SHAPE)
    with pytest.raises(ValueError, match="0.png: has 28 x 28 pixels, the model 32 x 32"):
        read_pair_folder(tmp_path, (1, 32, 32))
    (tmp_path / "train.jsonl").write_text('{"chosen": "a.png", "rejected": "b.png"}\n')
    with pytest.raises(ValueError, match="a.png: no such file"):
        read_pair_folder(tmp_path, SHAPE)
