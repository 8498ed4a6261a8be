"""Cache of encoded images and captions on disk, which runs share.

A file's name follows from everything that its contents depend on: the weights of the encoder, its
dtype, the resolution, and the image's bytes and flip, or the caption. Another VAE or resolution
uses other files; data sets that share images share their latents. Random crops differ in every
epoch and cannot be cached.

The cache never costs a run. Damaged files are encoded again; where one cannot be written, the
images and captions of all batches are encoded as they come; one that is lost in training is encoded
in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fdpo.diffusion.images import decode_image
from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.text_to_image.transforms import Crop, PairTransform
from fdpo.preferences.pairs import SIDES, Side
from fdpo.runs.cache import LEFTOVER_AGE, fingerprint, model_config
from fdpo.runs.distributed import any_process, partial_state, sharded
from fdpo.runs.files import remove_leftovers, replacing
from fdpo.runs.notes import note, reason

THREADS = 8  # images decoded at the same time
IMAGES_PER_PART = 32  # images that a process reads ahead while it encodes

DAMAGED = "is damaged and made again, as all such files are"
LOST = "is lost and encoded as it comes, as all such files are"
UNWRITTEN = "is not written, so that images and captions are encoded as they come"

Item = TypeVar("Item")
Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""The shape and the dtype of a file's tensors, by name."""
Image = tuple[Path, tuple[int, Side], bool]
"""The file of an image in the cache, its place among the pairs, and whether it is flipped."""


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
        self.problems: dict[str, Exception] = {}

    def image(self, data: bytes, flip: bool, where: str) -> dict[str, Tensor]:
        """Returns ``moments``, with shape (2, C, h, w), and ``time_ids``, with shape (6).

        Arguments:
            data: The bytes of the image file.
            flip: True if the image is flipped.
            where: The name of the image in errors.
        """
        file = self._image_file(data, flip)
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            self._note(LOST, file, error)
        pixels, sizes = self.transform.apply(decode_image(data, where), Crop(flip))
        return {"moments": self.model.moments(pixels[None])[0].cpu(), "time_ids": sizes}

    def text(self, caption: str) -> dict[str, Tensor]:
        """Returns the embeddings of a caption, without the batch's dimension."""
        file = self._text_file(caption)
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            self._note(LOST, file, error)
        return {name: value[0].cpu() for name, value in self.model.encode_text([caption]).items()}

    def fill(
        self,
        pairs: CaptionedPairs,
        *,
        sides: Sequence[Side] = SIDES,
        captions: Iterable[str] = (),
        batch_size: int = 8,
    ) -> int | None:
        """Encodes what the cache lacks; the processes of a launcher share the work.

        Arguments:
            pairs: The pairs whose captions and images are encoded.
            sides: The sides whose images are encoded.
            captions: Additional captions.
            batch_size: Images or captions encoded at a time.

        Returns:
            The number of files that this process wrote; ``None`` if any process could not write
            one, so that the cache is of no use.
        """
        for folder in (self.text_folder, self.image_folder):
            remove_leftovers(folder.glob("*/.*"), age=LEFTOVER_AGE)
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
        unwritten = torch.tensor(UNWRITTEN in self.problems, device=partial_state().device)
        return None if any_process(unwritten) else sum(written)

    def _has_captions(self, captions: list[str]) -> bool:
        return all(self._is_whole(self._text_file(caption)) for caption in captions)

    def _encode_captions(self, captions: list[str]) -> int:
        """Encodes captions if a file is missing: another batch would round differently."""
        files = [self._text_file(caption) for caption in captions]
        missing = [not self._is_whole(file) for file in files]
        if UNWRITTEN in self.problems or not any(missing):
            return 0
        embeddings = self.model.encode_text(captions)
        return sum(
            self._write(file, {name: value[i] for name, value in embeddings.items()})
            for i, file in enumerate(files)
            if missing[i]
        )

    def _encode_images(
        self, pairs: CaptionedPairs, pool: ThreadPoolExecutor, batch_size: int,
        places: list[tuple[int, Side]],
    ) -> int:  # fmt: skip
        """Decodes in threads, encodes meanwhile; returns the number of files written.

        A batch with a missing file is encoded whole: another batch would round differently.
        """
        if UNWRITTEN in self.problems:
            return 0
        found = _each_once(chain.from_iterable(pool.map(partial(self._images, pairs), places)))
        missing = {image[0]: not self._is_whole(image[0]) for image in found}
        batches = list(_batches(found, batch_size))
        incomplete = [batch for batch in batches if any(missing[image[0]] for image in batch)]
        loaded = pool.map(partial(self._load, pairs), chain.from_iterable(incomplete))
        written = 0
        for batch in incomplete:
            pixels, sizes = zip(*islice(loaded, len(batch)), strict=True)
            moments = self.model.moments(torch.stack(pixels))
            for (file, _, _), value, time_ids in zip(batch, moments, sizes, strict=True):
                if missing[file]:
                    written += self._write(file, {"moments": value, "time_ids": time_ids})
        return written

    def _images(self, pairs: CaptionedPairs, place: tuple[int, Side]) -> list[Image]:
        data = pairs.read(*place)
        flips = (False, True) if self.transform.random_flip else (False,)
        return [(self._image_file(data, flip), place, flip) for flip in flips]

    def _load(self, pairs: CaptionedPairs, image: Image) -> tuple[Tensor, Tensor]:
        """Decodes and transforms an image; returns its pixels and sizes."""
        _, place, flip = image
        decoded = decode_image(pairs.read(*place), pairs.where(*place))
        return self.transform.apply(decoded, Crop(flip))

    def _is_whole(self, file: Path) -> bool:
        """Returns whether a file holds what it should; says once that one does not."""
        layout = self._image_layout if self.image_folder in file.parents else self._text_layout
        try:
            if not file.exists():
                return False
            with safe_open(file, "pt") as tensors:  # reads the sizes alone, which tell of a cut
                slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
                found = {n: (tuple(s.get_shape()), s[:0].dtype) for n, s in slices.items()}
            if found != layout:
                raise ValueError(f"it holds {found}")
        except OSError:  # writing it will say so
            return False
        except (SafetensorError, ValueError) as error:
            self._note(DAMAGED, file, error)
            return False
        return True

    @cached_property
    def _image_layout(self) -> Layout:
        shape = (2, *self.model.latent_shape(self.transform.resolution))
        return {"moments": (shape, self.model.dtype), "time_ids": ((6,), torch.float32)}

    @cached_property
    def _text_layout(self) -> Layout:
        embeddings = self.model.encode_text([""])
        return {name: (tuple(value.shape[1:]), value.dtype) for name, value in embeddings.items()}

    def _write(self, file: Path, tensors: dict[str, Tensor]) -> bool:
        """Writes a file; says once that this fails, and returns whether it did not."""
        try:
            with replacing(file, durable=False) as beside:
                save_file(
                    {name: value.cpu().contiguous() for name, value in tensors.items()}, beside
                )
        except (OSError, SafetensorError) as error:
            self._note(UNWRITTEN, file, error)
        return UNWRITTEN not in self.problems

    def _note(self, problem: str, file: Path, error: Exception) -> None:
        """Says the first time that files have a problem."""
        if self.problems.setdefault(problem, error) is error:
            note(f"latent cache: {file} {problem} ({reason(error)})")

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


def _each_once(images: Iterable[Image]) -> list[Image]:
    """Returns the first image of each file."""
    first: dict[Path, Image] = {}
    for image in images:
        first.setdefault(image[0], image)
    return list(first.values())


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
