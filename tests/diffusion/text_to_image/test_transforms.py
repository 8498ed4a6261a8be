"""Decoding and transforms of image files: orientation, transparency, depth, crops, sizes."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fdpo.diffusion.text_to_image.transforms import Crop, PairTransform, decode_image


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


def test_images_are_flipped_and_cropped_as_the_crop_says() -> None:
    wide = halves(16, 4)
    pixels, sizes = PairTransform(4).apply(wide, Crop())
    assert pixels.shape == (3, 4, 4) and pixels.min() == -1 and pixels.max() == 1
    assert sizes.tolist() == [4, 16, 0, 6, 4, 4]
    assert (pixels[:, :, 0] == 1).all() and (pixels[:, :, 3] == -1).all()
    mirrored, _ = PairTransform(4).apply(wide, Crop(flip=True))
    assert torch.equal(mirrored, pixels.flip(2))
    for left, place, value in ((0.0, 0, 1), (1.0, 12, -1)):
        cropped, sizes = PairTransform(4, random_crop=True).apply(wide, Crop(left=left))
        assert (cropped == value).all() and sizes.tolist() == [4, 16, 0, place, 4, 4]
    tall, sizes = PairTransform(8).apply(Image.new("RGB", (4, 10), "white"), Crop(top=0.5))
    assert tall.shape == (3, 8, 8) and sizes.tolist() == [10, 4, 6, 0, 8, 8]


def test_samples_follow_the_options_and_use_the_generator_equally() -> None:
    def crops(**options: bool) -> tuple[list[Crop], float]:
        generator = torch.Generator().manual_seed(0)
        samples = [PairTransform(8, **options).sample(generator) for _ in range(400)]
        return samples, torch.rand((), generator=generator).item()

    plain, rest = crops()
    assert set(plain) == {Crop()}
    both, same_rest = crops(random_flip=True, random_crop=True)
    assert rest == same_rest
    assert sum(crop.flip for crop in both) / 400 == pytest.approx(0.5, abs=4 * 0.5 / 20)
    assert len({crop.top for crop in both}) == 400 == len({crop.left for crop in both})
    flips, _ = crops(random_flip=True)
    assert [crop.flip for crop in flips] == [crop.flip for crop in both]
