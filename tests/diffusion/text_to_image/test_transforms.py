"""Transforms of images: flips, crops, sizes."""

import pytest
import torch
from PIL import Image

from fdpo.diffusion.text_to_image.transforms import Crop, PairTransform


def halves(width: int = 8, height: int = 4) -> Image.Image:
    """White on the left, black on the right."""
    image = Image.new("RGB", (width, height), "black")
    image.paste("white", (0, 0, width // 2, height))
    return image


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
