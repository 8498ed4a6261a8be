"""Pictures from MNIST's files, scikit-learn's digits and folders, and what is wrong with some."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fdpo.diffusion.images import read_image, read_pair_folder, write_image
from fdpo.tasks.mnist_data import load_mnist, load_small_digits, target_pairs

SHAPE = (1, 28, 28)


def test_mnist_is_read_from_its_own_files(data_dir: Path, tmp_path: Path) -> None:
    """As they are, as torchvision keeps them, plain or gzip: the same pictures in [-1, 1]."""
    pictures, labels = load_mnist(data_dir / "mnist", train=False)
    assert pictures.shape == (10_000, 1, 28, 28) and pictures.dtype == torch.float32
    assert pictures.min() == -1 and pictures.max() == 1
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for file in (data_dir / "mnist").glob("t10k*"):
        (raw / file.stem).write_bytes(gzip.open(file).read())
    again, same = load_mnist(tmp_path, train=False)
    assert torch.equal(again, pictures) and torch.equal(same, labels)


def test_small_digits_have_mnists_frame() -> None:
    pictures, labels = load_small_digits(SHAPE)
    assert pictures.shape == (1797, 1, 28, 28) and labels.bincount().min() > 170
    assert pictures.min() >= -1 and pictures.max() <= 1
    assert (pictures[:, :, :4] == -1).all() and (pictures[:, :, :, -4:] == -1).all()
    assert (pictures[:, :, 4:24, 4:24].amax(dim=(1, 2, 3)) > 0.5).all()


def test_winners_show_the_target_and_losers_do_not() -> None:
    labels = torch.arange(100) % 10
    pairs = target_pairs(torch.zeros(100, *SHAPE), labels, 2, 50, torch.Generator().manual_seed(0))
    assert len(pairs) == 50
    assert {labels[a].item() for a, _ in pairs.pairs} == {2}
    assert len({labels[b].item() for _, b in pairs.pairs}) == 9
    with pytest.raises(ValueError, match="target 2: 0 of 3 pictures show it"):
        target_pairs(torch.zeros(3, *SHAPE), torch.ones(3), 2, 5, torch.Generator())


def picture(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, SHAPE, generator=generator) / 127.5 - 1


def test_files_keep_pictures(tmp_path: Path) -> None:
    colour = torch.randint(256, (3, 5, 4), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    for values in (picture(0), colour):
        write_image(tmp_path / "a.png", values)
        found = read_image(tmp_path / "a.png", tuple(values.shape))  # type: ignore[arg-type]
        torch.testing.assert_close(found, values)


def test_folders_of_pairs(tmp_path: Path) -> None:
    """By names in two folders, and by rows; a picture in several pairs is read once."""
    for first, side in ((0, "chosen"), (10, "rejected")):
        for number in (0, 1):
            write_image(tmp_path / side / f"{number}.png", picture(first + number))
    pairs = read_pair_folder(tmp_path, SHAPE)
    sides = [pairs.pair(index, torch.Generator()) for index in range(len(pairs))]
    for number, pair in enumerate(sides):
        torch.testing.assert_close(pair["chosen"], picture(number))
        torch.testing.assert_close(pair["rejected"], picture(10 + number))
    rows = [{"chosen": "chosen/1.png", "rejected": f"rejected/{name}.png"} for name in (0, 1)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = read_pair_folder(tmp_path, SHAPE)
    assert len(named) == 2 and len(named.pictures) == 3
    torch.testing.assert_close(named.pair(0, torch.Generator())["chosen"], picture(1))


def test_wrong_folders_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        read_pair_folder(tmp_path / "nowhere", SHAPE)
    with pytest.raises(ValueError, match="neither train.jsonl nor pictures in chosen/"):
        read_pair_folder(tmp_path, SHAPE)
    for side in ("chosen", "rejected"):
        write_image(tmp_path / side / "0.png", picture(0))
    write_image(tmp_path / "chosen/1.png", picture(1))
    with pytest.raises(ValueError, match="2 pictures in chosen/, 1 in rejected/; chosen/1.png has"):
        read_pair_folder(tmp_path, SHAPE)
    (tmp_path / "rejected/1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="rejected/1.png: cannot be read as a picture"):
        read_pair_folder(tmp_path, SHAPE)
    with pytest.raises(ValueError, match="0.png: has 28 x 28 pixels, the model 32 x 32"):
        read_pair_folder(tmp_path, (1, 32, 32))
    (tmp_path / "train.jsonl").write_text('{"chosen": "a.png", "rejected": "b.png"}\n')
    with pytest.raises(ValueError, match="a.png: no such file"):
        read_pair_folder(tmp_path, SHAPE)


def test_wrong_data_roots(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST", offline)
    with pytest.raises(ValueError, match="no MNIST there .* cannot be downloaded .*put the four"):
        load_mnist(tmp_path)
    for file in (data_dir / "mnist").glob("t10k*"):
        shutil.copyfile(file, tmp_path / file.name)
    images, labels = (tmp_path / f"t10k-{n}.gz" for n in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    shutil.copyfile(labels, images)
    with pytest.raises(ValueError, match=r"not MNIST: pictures \(10000,\)"):
        load_mnist(tmp_path, train=False)
    images.write_bytes(b"what")
    with pytest.raises(ValueError, match="images-idx3-ubyte.gz: not a gzip file"):
        load_mnist(tmp_path, train=False)
    images.write_bytes(gzip.compress(b"\0\0\x08\x03 too short"))
    with pytest.raises(ValueError, match="images-idx3-ubyte.gz: not an IDX file"):
        load_mnist(tmp_path, train=False)
