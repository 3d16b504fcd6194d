"""The image processor's half of an image, which needs no weights: pixels and placeholder text, by itself.

Some processors treat an image among others differently from an image alone (LLaVA-OneVision cuts no tiles then).
Each is asked once whether it is of that kind.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icl.errors import ModelError
from icl.lru_cache_bytes import LRUByteCache
from icl.models.hf.image_features import Key, nbytes, share

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from icl.images import Image

TOGETHER = 16
"""Images of one size that go through the processor, or through the tower, in one call."""

UNTOLD = ""
"""In place of the text that a processor wrote for an image, where it does not tell."""

Processed = tuple[dict[str, Any], str]
"""An image's processed inputs, and the text that the processor writes for it."""


class ImageProcessor:
    """Pixels and texts of single images. limit: bytes of processed pixels kept."""

    def __init__(self, processor: Any, limit: int) -> None:
        self.processor = processor
        self.known = LRUByteCache[Key, Processed](limit, lambda made: nbytes(made[0]))
        self.texts: dict[tuple[int, int, bool], str] = {}
        self._company: bool | None = None

    @property
    def company(self) -> bool:
        """Whether it matters for an image to stand among others."""
        if self._company is None:
            from PIL import Image as PILImage

            image = PILImage.new("RGB", (96, 64), (90, 120, 150))
            self._company = self.process(image, 1)[1] != self.process(image, 2)[1]
        return self._company

    def key(self, image: "Image", among: int) -> Key:
        """The image's identity for the model, in a prompt of `among` images."""
        return image.digest, among > 1 and self.company

    def text(self, image: "Image", among: int) -> str:
        """The placeholders of an image; they follow from its size, so equal sizes are asked once."""
        pil_image = image.open()
        several = among > 1 and self.company
        key = (pil_image.width, pil_image.height, several)
        if key not in self.texts:
            self.texts[key] = self.told(self.process(pil_image, 2 if several else 1)[1])
        return self.texts[key]

    def told(self, text: str) -> str:
        """Raises ModelError for the text that stands where the processor does not tell what it wrote."""
        if text == UNTOLD:
            raise ModelError(
                f"{type(self.processor).__name__} does not tell what it writes for an image (text_replacement_offsets)"
            )
        return text

    def pixels(self, wanted: Sequence[tuple["Image", bool]]) -> list[Processed]:
        """Inputs of images and whether each is among others, with the edits on pixels.

        The variants of one image share the work, and images of one size are processed in one call.
        """
        bases = [(clean(image), several) for image, several in wanted]
        keys = [(base.digest, several) for base, several in bases]
        made: dict[Key, Processed] = {}
        fresh: dict[tuple[Any, bool], dict[Key, PILImage]] = {}
        for key, (base, several) in zip(keys, bases, strict=True):
            found = made.get(key) or self.known.get(key)
            if found is None:
                pil_image = base.open()
                fresh.setdefault((pil_image.size, several), {})[key] = pil_image
            else:
                made[key] = found
        for alike in fresh.values():
            for start in range(0, len(alike), TOGETHER):
                some = list(alike)[start : start + TOGETHER]
                for key, one in zip(some, self._process_alike([alike[key] for key in some], some[0][1]), strict=True):
                    made[key] = self.known.put(key, one)
        return [_edited(made[key], image, several) for key, (image, several) in zip(keys, wanted, strict=True)]

    def _process_alike(self, images: Sequence["PILImage"], several: bool) -> list[Processed]:
        """Images of one size, each as if it were alone; one by one where the result cannot be told apart."""
        if several or len(images) == 1:
            return [self.process(image, 2 if several else 1) for image in images]
        inputs = self._call([self.processor.image_token] * len(images), [[image] for image in images])
        texts = [offsets[0]["replacement"] for offsets in self._replacements(inputs)]
        if any(len(value) % len(images) for value in inputs.values()):
            return [self.process(image, 1) for image in images]
        return [
            ({name: share(name, value, i, len(images)) for name, value in inputs.items()}, text)
            for i, text in enumerate(texts[: len(images)])
        ]

    def process(self, image: "PILImage", copies: int) -> Processed:
        """What the processor makes of a prompt that is this image, `copies` times, and nothing else."""
        inputs = self._call([self.processor.image_token * copies], [[image] * copies])
        return inputs, self._replacements(inputs)[0][0]["replacement"]

    def _replacements(self, inputs: dict[str, Any]) -> Any:
        """Taken out of the inputs, a text for each image of each prompt."""
        told = inputs.pop("text_replacement_offsets", None)
        return told if told and all(told) else [[{"replacement": UNTOLD}]] * TOGETHER

    def _call(self, texts: list[str], images: list[list["PILImage"]]) -> dict[str, Any]:
        made = self.processor(
            text=texts, images=images, padding=True, return_tensors="pt", return_text_replacement_offsets=True
        )
        return {name: value for name, value in made.items() if name not in ("input_ids", "attention_mask")}


def clean(image: "Image") -> "Image":
    """The image without the edits that act on processed pixels."""
    if not image.pixel_value_edits:
        return image
    return replace(image, edits=tuple(edit for edit in image.edits if not edit.applies_to_pixel_values))


def _edited(processed: Processed, image: "Image", several: bool) -> Processed:
    """Processed inputs with the image's edits on them. Raises ModelError where there is nothing to edit."""
    inputs, text = processed
    if not image.pixel_value_edits:
        return processed
    values = inputs.get("pixel_values")
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
    return inputs | {"pixel_values": torch.cat([one] * copies, dim)}, text
