"""Image files and folders of image pairs, and errors in them."""

import json
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fdpo.diffusion.images import decode_image, read_image, read_pair_folder, write_image

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
    with pytest.raises(ValueError, match="rejected/1.png: not an image"):
        read_pair_folder(tmp_path, SHAPE)
    with pytest.raises(ValueError, match="0.png: has 28 x 28 pixels, the model 32 x 32"):
        read_pair_folder(tmp_path, (1, 32, 32))
    (tmp_path / "train.jsonl").write_text('{"chosen": "a.png", "rejected": "b.png"}\n')
    with pytest.raises(ValueError, match="a.png: no such file"):
        read_pair_folder(tmp_path, SHAPE)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def halves(width: int = 8, height: int = 4) -> Image.Image:
    """White on the left, black on the right."""
    image = Image.new("RGB", (width, height), "black")
    image.paste("white", (0, 0, width // 2, height))
    return image


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright: Any = decode_image(encoded(halves(64, 32), "JPEG", quality=95, exif=exif), "a")
    assert upright.size == (32, 64)
    assert upright.getpixel((16, 4)) > (200,) * 3 and upright.getpixel((16, 60)) < (50,) * 3


def test_grey_and_transparent_images_become_rgb() -> None:
    grey = decode_image(encoded(Image.new("L", (3, 2), 90)), "a")
    assert grey.mode == "RGB" and grey.getpixel((0, 0)) == (90, 90, 90)
    deep = Image.fromarray(np.full((2, 3), 65535 // 3, dtype=np.uint16))
    assert decode_image(encoded(deep), "a").getpixel((0, 0)) == (85, 85, 85)
    clear = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    flat = decode_image(encoded(clear), "a")
    assert flat.getpixel((0, 0)) == (255, 0, 0) and flat.getpixel((2, 1)) == (255, 255, 255)
    palette = Image.new("P", (3, 2), 0)
    palette.putpalette([0, 255, 0] * 256)
    assert decode_image(encoded(palette, transparency=0), "a").getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_broken_images_are_named(form: str) -> None:
    whole = encoded(halves(64, 64), form)
    with pytest.raises(ValueError, match=r"row 7, jpg_1: cannot be read as an image \(.*\)$"):
        decode_image(whole[: len(whole) // 2], "row 7, jpg_1")
    with pytest.raises(ValueError, match=r"row 7, jpg_1: not an image \(5 bytes\)"):
        decode_image(b"hello", "row 7, jpg_1")


RAMP = np.arange(256).reshape(16, 16)
DEEP = (257 * RAMP).astype(np.uint16)


@pytest.mark.parametrize(
    "values, form",
    [
        (RAMP.astype(np.uint8), "PNG"),
        (DEEP, "PNG"),
        (DEEP, "TIFF"),
        (DEEP, "PPM"),
        (DEEP.astype(np.int32), "TIFF"),
        (RAMP.astype(np.int32), "TIFF"),
        (((2**31 - 1) // 255 * RAMP).astype(np.int32), "TIFF"),
        ((RAMP / 255).astype(np.float32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        (DEEP.astype(np.float32), "TIFF"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}-{value.max():g}",
)
def test_grey_of_any_depth_is_its_share_of_white(
    tmp_path: Path, values: np.ndarray, form: str
) -> None:
    file = tmp_path / "image"
    file.write_bytes(encoded(Image.fromarray(values), form))
    expected = torch.from_numpy(RAMP)[None] / 127.5 - 1
    torch.testing.assert_close(read_image(file, (1, 16, 16)), expected.float())
    torch.testing.assert_close(read_image(file, (3, 16, 16)), expected.float().expand(3, -1, -1))


def test_a_dark_image_of_16_bits_stays_dark() -> None:
    dark = Image.fromarray((RAMP // 64).astype(np.uint16))
    for form in ("PNG", "PPM", "TIFF"):
        assert decode_image(encoded(dark, form), "a").getextrema() == ((0, 0),) * 3


COLOUR = (10, 100, 200)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "RGBA", "P", "LA", "1"])
def test_modes_are_shown_as_they_look(mode: str) -> None:
    rgb = Image.new("RGB", (4, 4), COLOUR if mode in "CMYK YCbCr LAB RGBA P".split() else "white")
    image = rgb.convert(mode)
    shown: Any = decode_image(encoded(image, "TIFF"), "a").getpixel((1, 1))
    near = 60 if mode == "P" else 15  # a palette of few colours
    assert shown == pytest.approx(rgb.getpixel((1, 1)), abs=near)


@pytest.mark.parametrize("values", [[-0.5, 0.5], [0.0, float("nan")], [0.0, 1e6]])
def test_values_without_a_white_are_refused(values: list[float]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    with pytest.raises(ValueError, match=r"a: cannot be read .*values lie in \["):
        decode_image(encoded(image, "TIFF"), "a")


def test_a_folder_is_read_as_a_viewer_shows_it(tmp_path: Path) -> None:
    """A stroke in the alpha channel lies on white; EXIF turns the image before its size counts."""
    stroke = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    stroke.paste((0, 0, 0, 255), (10, 0, 18, 28))
    stroke.save(tmp_path / "stroke.png")
    read = read_image(tmp_path / "stroke.png", SHAPE)
    assert (read[..., 10:18] == -1).all() and (read[..., :10] == 1).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    halves(28, 14).convert("L").save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = read_image(tmp_path / "turned.jpg", (1, 28, 14))
    assert turned[:, :12].min() > 0.9 and turned[:, 16:].max() < -0.9


def png(width: int, height: int, *, text: bytes = b"", rows: bytes = b"\0") -> bytes:
    """A PNG file that claims a size, with a text chunk that is packed, and packed rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4)
        return len(data).to_bytes(4) + kind + data + checksum

    size = width.to_bytes(4) + height.to_bytes(4)
    packed = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(text)) if text else b""
    chunks = [chunk(b"IHDR", size + b"\x08\x02\0\0\0"), packed, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
HOSTILE = {
    "too large": (png(13_000, 13_000), "169,000,000 pixels: more than 40,000,000 .*FDPO_MAX_PIX"),
    "far too large": (png(2**31 - 1, 2**31 - 1), "more than 40,000,000 pixels.*FDPO_MAX_PIXELS"),
    "a packed text": (png(2, 2, text=b"a" * 2**27), "cannot be read as an image .*Decompress"),
    "no pixels": (png(0, 4), "image"),
    "no rows": (png(4, 4), "cannot be read as an image"),
    "a program": (POSTSCRIPT, "not an image .* none of PNG, JPEG"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_refused_before_they_are_decoded(name: str) -> None:
    data, message = HOSTILE[name]
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"row 7, jpg_1: .*{message}"):
        decode_image(data, "row 7, jpg_1")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_the_limit_of_pixels_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    image = encoded(halves(64, 64))
    monkeypatch.setenv("FDPO_MAX_PIXELS", "4095")
    with pytest.raises(ValueError, match="a: 4,096 pixels: more than 4,095"):
        decode_image(image, "a")
    monkeypatch.setenv("FDPO_MAX_PIXELS", "4096")
    assert decode_image(image, "a").size == (64, 64)
    for wrong in ("", "0", "-1", "many", "1e9", "9" * 30):
        monkeypatch.setenv("FDPO_MAX_PIXELS", wrong)
        with pytest.raises(ValueError, match="FDPO_MAX_PIXELS must be a number of pixels"):
            decode_image(image, "a")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # Pillow's own limit follows
    monkeypatch.setenv("FDPO_MAX_PIXELS", str(10**9))
    assert decode_image(encoded(halves(100, 100)), "a").size == (100, 100)


def test_of_an_animation_the_first_image_is_read() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG", "WEBP"):
        moving = encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
        assert decode_image(moving, "a").getpixel((1, 1)) == (255, 0, 0)


def test_images_outside_the_folder_are_named_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for path in (tmp_path / "a.png", tmp_path / "b.png", folder / "c.png"):
        Image.new("L", (28, 28)).save(path)
    (folder / "link.png").symlink_to(tmp_path / "b.png")
    rows = [("c.png", str(tmp_path / "a.png")), ("link.png", "../b.png"), ("c.png", "../b.png")]
    lines = [json.dumps({"prompt": "", "chosen": a, "rejected": b}) for a, b in rows]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.warns(UserWarning) as warned:
        read_pair_folder(folder, SHAPE)
    [line] = {str(one.message) for one in warned if "outside" in str(one.message)}
    assert line.startswith(f"outside {folder}, to be read as its data: ")
    assert line.endswith(" and 2 more")
    (folder / "train.jsonl").write_text(
        json.dumps({"prompt": "", "chosen": "c.png", "rejected": "./c.png"}), encoding="utf-8"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pair_folder(folder, SHAPE)
