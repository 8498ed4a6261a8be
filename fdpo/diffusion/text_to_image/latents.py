"""Cache of encoded images and captions on disk, which runs share.

A file's name follows from everything that its contents depend on: the weights of the encoder, its
dtype, the resolution, and the image's bytes and flip, or the caption. Another VAE or resolution
uses other files; data sets that share images share their latents. Random crops differ in every
epoch and cannot be cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fdpo.diffusion.images import decode_image
from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.text_to_image.transforms import Crop, PairTransform
from fdpo.preferences.pairs import SIDES, Side
from fdpo.runs.cache import fingerprint, model_config
from fdpo.runs.distributed import sharded
from fdpo.runs.files import replacing

THREADS = 8  # images decoded at the same time
IMAGES_PER_PART = 32  # images that a process reads ahead while it encodes

Item = TypeVar("Item")
Image = tuple[Path, Tensor, Tensor]
"""The file of an image in the cache, its pixels with shape (3, H, W), its sizes with shape (6)."""


class LatentCache:
    """Moments of latents and text embeddings in a folder.

    Arguments:
        folder: The folder of all caches.
        model: The pipeline that encodes.
        transform: The transform of images before they are encoded.

    Raises:
        ValueError: If crops are random.
    """

    def __init__(
        self, folder: str | Path, model: StableDiffusion, transform: PairTransform
    ) -> None:
        if transform.random_crop:
            raise ValueError("--cache_latents: random crops (--random_crop) cannot be cached")
        self.model, self.transform = model, transform
        self.image_folder = Path(folder) / f"latents-{_image_encoder(model, transform.resolution)}"
        self.text_folder = Path(folder) / f"text-{_text_encoders(model)}"

    def image(self, data: bytes, flip: bool) -> dict[str, Tensor]:
        """Returns ``moments``, with shape (2, C, h, w), and ``time_ids``, with shape (6).

        Arguments:
            data: The bytes of the image file.
            flip: True if the image is flipped.
        """
        return load_file(self._image_file(data, flip))

    def text(self, caption: str) -> dict[str, Tensor]:
        """Returns the embeddings of a caption, without the batch's dimension."""
        return load_file(self._text_file(caption))

    def fill(
        self,
        pairs: CaptionedPairs,
        *,
        sides: Sequence[Side] = SIDES,
        captions: Iterable[str] = (),
        batch_size: int = 8,
    ) -> int:
        """Encodes what the cache lacks; the processes of a launcher share the work.

        Arguments:
            pairs: The pairs whose captions and images are encoded.
            sides: The sides whose images are encoded.
            captions: Additional captions.
            batch_size: Images or captions encoded at a time.

        Returns:
            The number of files that this process wrote.
        """
        texts = list(dict.fromkeys([*captions, *map(pairs.caption, range(len(pairs)))]))
        written = sharded(
            list(_batches(texts, batch_size)), self._encode_captions, done=self._has_captions,
            title="encoding captions", size=len, unit="captions",
        )  # fmt: skip
        places = [(index, side) for index in range(len(pairs)) for side in sides]
        with ThreadPoolExecutor(THREADS) as pool:
            written += sharded(
                list(_batches(places, IMAGES_PER_PART)),
                partial(self._encode_images, pairs, pool, batch_size),
                title="encoding images", size=len, unit="images",
            )  # fmt: skip
        return sum(written)

    def _has_captions(self, captions: list[str]) -> bool:
        return all(self._text_file(caption).exists() for caption in captions)

    def _encode_captions(self, captions: list[str]) -> int:
        missing = [caption for caption in captions if not self._text_file(caption).exists()]
        embeddings = self.model.encode_text(missing)
        for i, caption in enumerate(missing):
            _write(self._text_file(caption), {name: value[i] for name, value in embeddings.items()})
        return len(missing)

    def _encode_images(
        self, pairs: CaptionedPairs, pool: ThreadPoolExecutor, batch_size: int,
        places: list[tuple[int, Side]],
    ) -> int:  # fmt: skip
        """Decodes in threads, encodes meanwhile; returns the number of files written."""
        loaded = pool.map(partial(self._load_missing, pairs), places)
        written = 0
        for batch in _batches(_each_once(chain.from_iterable(loaded)), batch_size):
            files, pixels, sizes = zip(*batch, strict=True)
            moments = self.model.moments(torch.stack(pixels))
            for file, value, time_ids in zip(files, moments, sizes, strict=True):
                _write(file, {"moments": value, "time_ids": time_ids})
            written += len(batch)
        return written

    def _load_missing(self, pairs: CaptionedPairs, place: tuple[int, Side]) -> list[Image]:
        """Decodes and transforms an image, unless its files exist."""
        data = pairs.read(*place)
        flips = (False, True) if self.transform.random_flip else (False,)
        files = {flip: self._image_file(data, flip) for flip in flips}
        missing = {flip: file for flip, file in files.items() if not file.exists()}
        if not missing:
            return []
        image = decode_image(data, pairs.where(*place))
        return [(file, *self.transform.apply(image, Crop(f))) for f, file in missing.items()]

    def _image_file(self, data: bytes, flip: bool) -> Path:
        digest = hashlib.sha256(data).hexdigest()
        name = f"{digest[2:]}{'-flipped' if flip else ''}.safetensors"
        return self.image_folder / digest[:2] / name

    def _text_file(self, caption: str) -> Path:
        digest = hashlib.sha256(caption.encode()).hexdigest()
        return self.text_folder / digest[:2] / f"{digest[2:]}.safetensors"


def _image_encoder(model: StableDiffusion, resolution: int) -> str:
    weights = model.vae.state_dict().items()
    return fingerprint(weights, model_config(model.vae), resolution, model.dtype)


def _text_encoders(model: StableDiffusion) -> str:
    weights = (
        (f"{i}.{name}", value)
        for i, encoder in enumerate(model.text_encoders)
        for name, value in encoder.state_dict().items()
    )
    configs = [model_config(encoder) for encoder in model.text_encoders]
    tokenizers = [(sorted(t.get_vocab().items()), t.model_max_length) for t in model.tokenizers]
    return fingerprint(weights, configs, tokenizers, model.dtype)


def _each_once(images: Iterable[Image]) -> Iterator[Image]:
    seen: set[Path] = set()
    for image in images:
        if image[0] not in seen:
            seen.add(image[0])
            yield image


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    with replacing(file) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary)
