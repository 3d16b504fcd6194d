"""Pixels and placeholder text of single images, from the image processor. No weights are needed.

Some processors treat an image among others differently from a single image: LLaVA-OneVision then cuts no tiles. Each
processor is tested once for this.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from icl import PIL, LRUByteCache, ModelError
from icl.images import Image
from icl.models.checkpoint_errors import FAILURES, reason
from icl.models.hf import TOWER_IMAGES, Key, image_placeholder, nbytes, slice_field

SMALL_BATCH, SMALL_BATCH_PIXELS = 4 * TOWER_IMAGES, TOWER_IMAGES * 224**2
"""Images of equal size in one call of the processor, at most, and pixels of a call with more than one pass reads.

With small images, the overhead of each call counts."""

UNKNOWN_TEXT = ""
"""Stands for the text of an image if the processor does not return it."""

Processed = tuple[dict[str, Any], str]
"""An image's processed inputs, and the text that the processor writes for it."""


class ImageProcessor:
    """The image processor of a checkpoint, applied to single images. limit: bytes of processed pixels in the cache."""

    def __init__(self, processor: Any, limit: int) -> None:
        self.processor, self.slot = processor, image_placeholder(processor).token
        self.cache = LRUByteCache[Key, Processed](limit, lambda made: nbytes(made[0]))
        self.texts: dict[tuple[int, int, bool], str] = {}
        self._depends_on_others: bool | None = None
        self._lock, self._has_own_tokenizer = Lock(), False

    @cached_property
    def lone_slot(self) -> str:
        """The placeholder, between start and end tokens if the processor refuses it without them."""
        try:
            self._call([self.slot], [[PIL.Image.new("RGB", (96, 64))]])
        except ValueError:
            start, end = (getattr(self.processor, f"image_{side}_token", None) or "" for side in ("start", "end"))
            return f"{start}{self.slot}{end}"
        return self.slot

    @property
    def depends_on_others(self) -> bool:
        """Whether an image is processed differently if its prompt has other images."""
        if self._depends_on_others is None:
            image = PIL.Image.new("RGB", (96, 64), (90, 120, 150))
            self._depends_on_others = self.process(image, 1)[1] != self.process(image, 2)[1]
        return self._depends_on_others

    def key(self, image: Image, among: int) -> Key:
        """Cache key of an image in a prompt of `among` images."""
        return image.digest, among > 1 and self.depends_on_others

    def text(self, image: Image, among: int) -> str:
        """Placeholders of an image. They depend on its size only, so each size is processed once. Raises ModelError."""
        pil_image = image.open()
        several = among > 1 and self.depends_on_others
        key = (pil_image.width, pil_image.height, several)
        if key not in self.texts:
            with _accepted(image, pil_image):
                _, text = self.process(pil_image, 2 if several else 1)
            self.texts[key] = self.check_text(text)
        return self.texts[key]

    def check_text(self, text: str) -> str:
        """The text, unless it is `UNKNOWN_TEXT`. Raises ModelError."""
        if text == UNKNOWN_TEXT:
            raise ModelError(
                f"{type(self.processor).__name__} does not report what it writes for an image "
                "(text_replacement_offsets)"
            )
        return text

    def pixels(self, images: Sequence[tuple[Image, bool]]) -> list[Processed]:
        """Processed inputs of images, with their edits of processed pixels.

        Variants of one image share the work, and images of equal size are processed in one call.

        Args:
            images: Images, and whether each has other images next to it.

        Raises:
            ModelError: The processor does not take an image.
        """
        bases = [(without_pixel_edits(image), several) for image, several in images]
        keys = [(base.digest, several) for base, several in bases]
        images_of = {key: base for key, (base, _) in zip(keys, bases, strict=True)}
        made: dict[Key, Processed] = {}
        groups: dict[tuple[Any, bool], dict[Key, PIL.Image.Image]] = {}
        for key, (base, several) in zip(keys, bases, strict=True):
            inputs = made.get(key) or self.cache.get(key)
            if inputs is None:
                pil_image = base.open()
                groups.setdefault((pil_image.size, several), {})[key] = pil_image
            else:
                made[key] = inputs
        for group in groups.values():
            batch = images_per_call(*next(iter(group.values())).size)
            for start in range(0, len(group), batch):
                some = list(group)[start : start + batch]
                with _accepted(images_of[some[0]], group[some[0]]):
                    processed = self._process_equal_sizes([group[key] for key in some], some[0][1])
                for key, one in zip(some, processed, strict=True):
                    made[key] = self.cache.put(key, one)
        return [_edited(made[key], image, several) for key, (image, several) in zip(keys, images, strict=True)]

    def prepare_ahead(self, images: Sequence[tuple[Image, bool]]) -> None:
        """Fill the cache with the processed images, in another thread. For the argument see `pixels`."""
        self.separate_tokenizer()
        self.pixels([(without_pixel_edits(image), several) for image, several in images])

    def separate_tokenizer(self) -> None:
        """Uses a copy of the tokenizer from now on. The processor pads, so other threads cannot use its tokenizer."""
        with self._lock:
            if self._has_own_tokenizer:
                return
            processor = copy.copy(self.processor)
            if hasattr(processor, "tokenizer"):
                processor.tokenizer = copy.deepcopy(processor.tokenizer)
            self.processor, self._has_own_tokenizer = processor, True

    def _process_equal_sizes(self, images: Sequence[PIL.Image.Image], several: bool) -> list[Processed]:
        """Images of equal size, each processed as if it were alone. One call for each image if the result cannot be
        split.
        """
        if several or len(images) == 1:
            return [self.process(image, 2 if several else 1) for image in images]
        inputs = self._call([self.lone_slot] * len(images), [[image] for image in images])
        texts = [offsets[0]["replacement"] for offsets in self._replacements(inputs)]
        if any(len(value) % len(images) for value in inputs.values()):
            return [self.process(image, 1) for image in images]
        return [
            ({name: slice_field(name, value, i, len(images)) for name, value in inputs.items()}, text)
            for i, text in enumerate(texts[: len(images)])
        ]

    def process(self, image: PIL.Image.Image, copies: int) -> Processed:
        """Processed inputs of a prompt that consists of `copies` copies of this image."""
        inputs = self._call([self.lone_slot * copies], [[image] * copies])
        return inputs, self._replacements(inputs)[0][0]["replacement"]

    def _replacements(self, inputs: dict[str, Any]) -> Any:
        """Removed from the inputs: a text for each image of each prompt."""
        offsets = inputs.pop("text_replacement_offsets", None)
        return offsets if offsets and all(offsets) else [[{"replacement": UNKNOWN_TEXT}]] * SMALL_BATCH

    def _call(self, texts: list[str], images: list[list[PIL.Image.Image]]) -> dict[str, Any]:
        with self._lock:
            made = self.processor(
                text=texts, images=images, padding=True, return_tensors="pt", return_text_replacement_offsets=True
            )
        return {name: value for name, value in made.items() if name not in ("input_ids", "attention_mask")}


@contextmanager
def _accepted(image: Image, pil_image: PIL.Image.Image) -> Iterator[None]:
    """Turn errors of the processor into ModelError with the origin and the size of the image."""
    try:
        yield
    except FAILURES as error:
        raise ModelError(
            f"image {image.origin}: the image processor does not take {pil_image.width} x {pil_image.height} pixels: "
            f"{reason(error)}"
        ) from error


def images_per_call(width: int, height: int) -> int:
    """Images of this size in one call of the processor. Each is processed as if it were alone."""
    return max(TOWER_IMAGES, min(SMALL_BATCH, SMALL_BATCH_PIXELS // (width * height)))


def pixel_name(inputs: Mapping[str, Any]) -> str:
    """Name of the processed pixels: `pixel_values`, or the only name that contains it."""
    names = [name for name in inputs if "pixel_values" in name]
    return names[0] if len(names) == 1 else "pixel_values"


def without_pixel_edits(image: Image) -> Image:
    """The image without edits of processed pixels."""
    if not image.pixel_value_edits:
        return image
    return replace(image, edits=tuple(edit for edit in image.edits if not edit.applies_to_pixel_values))


def _edited(processed: Processed, image: Image, several: bool) -> Processed:
    """Processed inputs after the image's edits of processed pixels. Raises ModelError if there are no pixel values."""
    inputs, text = processed
    if not image.pixel_value_edits:
        return processed
    name = pixel_name(inputs)
    values = inputs.get(name)
    if not isinstance(values, Tensor):
        raise ModelError(
            f"image {image.origin} has an edit on processed pixels, and this processor gives no 'pixel_values' "
            f"(only {', '.join(inputs)}). Use an edit on the image itself."
        )
    copies = 2 if several else 1
    dim = 1 if values.shape[0] == 1 and copies > 1 else 0
    one = values.narrow(dim, 0, values.shape[dim] // copies)
    for edit in image.pixel_value_edits:
        one = edit.apply_to_pixel_values(one)
    return inputs | {name: torch.cat([one] * copies, dim)}, text
