"""Encoded pictures and captions on disk, so that no run encodes them twice.

What is kept follows from all that it depends on: the weights of the encoder, its dtype, the
resolution and the picture's bytes with its flip, or the caption. Another VAE or resolution reads
other files; data sets that share pictures share them here too. A crop that is drawn anew for every
epoch cannot be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from fdpo.diffusion.text_to_image.pairs import CaptionedPairs
from fdpo.diffusion.text_to_image.pipeline import StableDiffusion
from fdpo.diffusion.text_to_image.transforms import Cut, PairTransform, decode
from fdpo.preferences.pairs import SIDES, Side
from fdpo.runs.distributed import partial_state
from fdpo.runs.files import replacing

Item = TypeVar("Item")


class LatentCache:
    """Latents (their moments) and text embeddings in a folder.

    Arguments:
        folder: Where they are kept.
        model: What encodes them.
        framing: How pictures are framed.

    Raises:
        ValueError: If crops are drawn.
    """

    def __init__(self, folder: str | Path, model: StableDiffusion, framing: PairTransform) -> None:
        if framing.random_crop:
            raise ValueError("--cache_latents: the crops of --random_crop cannot be kept")
        self.model, self.framing = model, framing
        pictures = _key((framing.resolution, model.dtype), [model.vae])
        vocabularies = [sorted(one.get_vocab().items()) for one in model.tokenizers]
        lengths = [one.model_max_length for one in model.tokenizers]
        texts = _key((vocabularies, lengths, model.dtype), model.text_encoders)
        self.pictures = Path(folder) / f"latents-{pictures}"
        self.texts = Path(folder) / f"text-{texts}"

    def moments(self, data: bytes, flip: bool) -> dict[str, Tensor]:
        """Returns the ``moments`` of a picture and its ``time_ids``, which must have been kept."""
        return load_file(self._picture_file(data, flip))

    def text(self, caption: str) -> dict[str, Tensor]:
        """Returns what a caption was encoded as, without the batch's dimension."""
        return load_file(self._text_file(caption))

    def fill(
        self,
        pairs: CaptionedPairs,
        *,
        sides: Sequence[Side] = SIDES,
        captions: Iterable[str] = (),
        batch_size: int = 8,
    ) -> int:
        """Encodes what is not there yet; processes that a launcher started share the work.

        Arguments:
            pairs: The pairs whose captions and pictures are to be kept.
            sides: The sides to keep.
            captions: Other captions to keep.
            batch_size: Pictures or captions encoded at a time.

        Returns:
            The number of files that were written by this process.
        """
        state = partial_state()
        indices = range(len(pairs))
        asked = dict.fromkeys([*captions, *(pairs.caption(index) for index in indices)])
        mine = list(asked)[state.process_index :: state.num_processes]
        texts = (caption for caption in mine if not self._text_file(caption).exists())
        written = self._fill(texts, len(mine), "captions", batch_size, self._keep_texts)
        places = [(index, side) for index in indices for side in sides]
        mine_too = places[state.process_index :: state.num_processes]
        pictures = self._missing(pairs, mine_too)
        written += self._fill(
            pictures, len(mine_too) * len(self._flips()), "pictures", batch_size,
            self._keep_pictures,
        )  # fmt: skip
        state.wait_for_everyone()
        return written

    def _flips(self) -> tuple[bool, ...]:
        return (False, True) if self.framing.random_flip else (False,)

    def _missing(
        self, pairs: CaptionedPairs, places: Sequence[tuple[int, Side]]
    ) -> Iterator[tuple[Path, Tensor, Tensor]]:
        """Frames the pictures that are not kept, a few at a time in threads, each file once."""
        seen: set[Path] = set()

        def framed(place: tuple[int, Side]) -> list[tuple[Path, Tensor, Tensor]]:
            data = pairs.read(*place)
            files = {flip: self._picture_file(data, flip) for flip in self._flips()}
            absent = {flip: file for flip, file in files.items() if not file.exists()}
            if not absent:
                return []
            image = decode(data, pairs.where(*place))
            return [(file, *self.framing.apply(image, Cut(flip))) for flip, file in absent.items()]

        with ThreadPoolExecutor(8) as pool:
            for part in _parts(places, 32):
                for found in pool.map(framed, part):
                    for file, pixels, sizes in found:
                        if file not in seen:
                            seen.add(file)
                            yield file, pixels, sizes

    def _fill(
        self,
        items: Iterable[Item],
        most: int,
        what: str,
        size: int,
        keep: Callable[[list[Item]], None],
    ) -> int:
        written = 0
        show = partial_state().is_main_process
        with tqdm(desc=f"encoding {what}", total=most, disable=not show, leave=False) as bar:
            for part in _parts(items, size):
                keep(part)
                written += len(part)
                bar.update(len(part))
        return written

    def _keep_texts(self, captions: list[str]) -> None:
        found = self.model.text(captions)
        for i, caption in enumerate(captions):
            _write(self._text_file(caption), {name: value[i] for name, value in found.items()})

    def _keep_pictures(self, framed: list[tuple[Path, Tensor, Tensor]]) -> None:
        files, pixels, sizes = zip(*framed, strict=True)
        for file, moments, time_ids in zip(
            files, self.model.moments(torch.stack(pixels)), sizes, strict=True
        ):
            _write(file, {"moments": moments, "time_ids": time_ids})

    def _picture_file(self, data: bytes, flip: bool) -> Path:
        digest = hashlib.sha256(data).hexdigest()
        return self.pictures / digest[:2] / f"{digest[2:]}{'-flipped' if flip else ''}.safetensors"

    def _text_file(self, caption: str) -> Path:
        digest = hashlib.sha256(caption.encode()).hexdigest()
        return self.texts / digest[:2] / f"{digest[2:]}.safetensors"


def _key(facts: tuple[Any, ...], encoders: Sequence[nn.Module]) -> str:
    """A digest of facts and of the options and all weights of encoders."""
    digest = hashlib.sha256(repr(facts).encode())
    for encoder in encoders:
        config: Any = encoder.config
        options = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        names = sorted(n for n in options if not n.startswith("_") and "version" not in n)
        digest.update(repr([(name, options[name]) for name in names]).encode())
        for name, value in encoder.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _write(file: Path, tensors: dict[str, Tensor]) -> None:
    with replacing(file) as beside:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, beside)


def _parts(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
