"""MNIST and scikit-learn's digits, pairs of a target digit, and errors in MNIST's files."""

import gzip
import shutil
from pathlib import Path

import pytest
import torch

from fdpo.tasks.mnist import load_mnist, load_small_digits, target_pairs

SHAPE = (1, 28, 28)


def test_mnist_is_read_from_its_files(data_dir: Path, tmp_path: Path) -> None:
    """Original files and torchvision's, plain or gzip, give the same images in [-1, 1]."""
    images, labels = load_mnist(data_dir / "mnist", train=False)
    assert images.shape == (10_000, 1, 28, 28) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for file in (data_dir / "mnist").glob("t10k*"):
        (raw / file.stem).write_bytes(gzip.open(file).read())
    again, same = load_mnist(tmp_path, train=False)
    assert torch.equal(again, images) and torch.equal(same, labels)


@pytest.mark.parametrize("name", ["{}.idx{}", "{0}-idx{1}/{0}-idx{1}"])
@pytest.mark.parametrize("compressed", [False, True])
def test_kaggles_names_are_read(tmp_path: Path, name: str, compressed: bool) -> None:
    images = torch.arange(2 * 28 * 28).remainder(256).to(torch.uint8)
    contents = {
        ("t10k-images", "3-ubyte"): b"\0\0\x08\x03" + (2).to_bytes(4) + 2 * (28).to_bytes(4),
        ("t10k-labels", "1-ubyte"): b"\0\0\x08\x01" + (2).to_bytes(4),
    }
    for (kind, end), head in contents.items():
        data = head + (images.numpy().tobytes() if "images" in kind else b"\7\2")
        file = tmp_path / (name.format(kind, end) + (".gz" if compressed else ""))
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(gzip.compress(data) if compressed else data)
    read, labels = load_mnist(tmp_path, train=False)
    assert labels.tolist() == [7, 2]
    torch.testing.assert_close(read.flatten(), images / 127.5 - 1)


def test_small_digits_have_mnists_frame() -> None:
    images, labels = load_small_digits(SHAPE)
    assert images.shape == (1797, 1, 28, 28) and labels.bincount().min() > 170
    assert images.min() >= -1 and images.max() <= 1
    assert (images[:, :, :4] == -1).all() and (images[:, :, :, -4:] == -1).all()
    assert (images[:, :, 4:24, 4:24].amax(dim=(1, 2, 3)) > 0.5).all()


def test_winners_show_the_target_and_losers_do_not() -> None:
    labels = torch.arange(100) % 10
    pairs = target_pairs(torch.zeros(100, *SHAPE), labels, 2, 50, torch.Generator().manual_seed(0))
    assert len(pairs) == 50
    assert {labels[a].item() for a, _ in pairs.pairs} == {2}
    assert len({labels[b].item() for _, b in pairs.pairs}) == 9
    with pytest.raises(ValueError, match="target 2: 0 of 3 images show it"):
        target_pairs(torch.zeros(3, *SHAPE), torch.ones(3), 2, 5, torch.Generator())


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
    with pytest.raises(ValueError, match=r"not MNIST: images \(10000,\)"):
        load_mnist(tmp_path, train=False)
    images.write_bytes(b"what")
    with pytest.raises(ValueError, match="images-idx3-ubyte.gz: not a gzip file"):
        load_mnist(tmp_path, train=False)
    images.write_bytes(gzip.compress(b"\0\0\x08\x03 too short"))
    with pytest.raises(ValueError, match="images-idx3-ubyte.gz: not an IDX file"):
        load_mnist(tmp_path, train=False)
