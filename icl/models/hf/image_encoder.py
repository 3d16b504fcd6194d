"""Each distinct image meets the vision tower once.

An image is encoded by itself, which settles what belongs to it (tiles, grids, splits) without a line about any
architecture. What is kept: the text that the processor writes for it, its features, and the grid that positions are
computed from. A forward gets the features through the public argument `mm_encoder_outputs`.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icl.lru_cache_bytes import LRUByteCache
from icl.models.hf.batch_halving import halving
from icl.models.hf.counters import ModelCounters
from icl.models.hf.image_features import EncodedImage, Key, share
from icl.models.hf.image_processing import TOGETHER, ImageProcessor

if TYPE_CHECKING:
    from icl.images import Image

FIELDS = ("pooler_output", "last_hidden_state", "deepstack_features")


class ImageEncoder:
    """The tower's half: features from a cache that is bounded in bytes, the least recently used leave first."""

    def __init__(self, pixels: ImageProcessor, model: Any, limit: int, counters: ModelCounters) -> None:
        self.pixels, self.model, self.counters = pixels, model, counters
        self.base = model.base_model
        self.known = LRUByteCache[Key, EncodedImage](limit, lambda part: part.size)
        positions = getattr(self.base, "get_rope_index", None)
        self.grid_names = (
            set(inspect.signature(positions).parameters) - {"input_ids", "attention_mask", "mm_token_type_ids"}
            if positions
            else set()
        )
        self.tower_names = set(inspect.signature(self.base.get_image_features).parameters)

    def encode(self, prompts: Sequence[Sequence["Image"]]) -> list[list[EncodedImage]]:
        """The parts of each prompt's images; equal images give the same object. Raises ImageError."""
        keys = [[self.pixels.key(image, len(shown)) for image in shown] for shown in prompts]
        wanted: dict[Key, Image] = {}
        parts: dict[Key, EncodedImage] = {}
        for row, shown in zip(keys, prompts, strict=True):
            for key, image in zip(row, shown, strict=True):
                if key not in parts:
                    found = self.known.get(key)
                    if found is None:
                        wanted[key] = image
                    else:
                        parts[key] = found
        keys_wanted = list(wanted)
        for start in range(0, len(keys_wanted), 4 * TOGETHER):  # pixels are large: never all at once
            parts.update(self._miss({key: wanted[key] for key in keys_wanted[start : start + 4 * TOGETHER]}))
        return [[parts[key] for key in row] for row in keys]

    def _miss(self, wanted: Mapping[Key, "Image"]) -> dict[Key, EncodedImage]:
        alike: dict[Any, list[tuple[Key, dict[str, Any], str]]] = {}
        processed = self.pixels.pixels([(image, key[1]) for key, image in wanted.items()])
        for key, (inputs, text) in zip(wanted, processed, strict=True):
            self.pixels.told(text)
            like = (key[1], tuple((k, tuple(v.shape)) for k, v in inputs.items() if isinstance(v, Tensor)))
            alike.setdefault(like, []).append((key, inputs, text))
        made: dict[Key, EncodedImage] = {}
        for group in alike.values():
            together = 1 if group[0][0][1] else TOGETHER
            for start in range(0, len(group), together):
                for part in halving(self._tower, group[start : start + together], "images", self.known.clear):
                    made[part.key] = self.known.put(part.key, part)
        return made

    def _tower(self, group: Sequence[tuple[Key, dict[str, Any], str]]) -> list[EncodedImage]:
        """One forward for images whose processed inputs have one shape."""
        shares = len(group) * (2 if group[0][0][1] else 1)
        inputs = {
            name: on_model(torch.cat([each[name] for _, each, _ in group]), self.model)
            for name, value in group[0][1].items()
            if name in self.tower_names and isinstance(value, Tensor)
        }
        with torch.no_grad():
            output = self.base.get_image_features(**inputs, return_dict=True)
        self.counters.images_encoded += len(group)
        found = {name: output.get(name) for name in FIELDS if output.get(name) is not None}
        if "pooler_output" in found:
            found.pop("last_hidden_state", None)
        return [
            EncodedImage(
                key,
                text,
                {name: share(name, value, i * shares // len(group), shares) for name, value in found.items()},
                {name: each[name] for name in each if name in self.grid_names and isinstance(each[name], Tensor)},
            )
            for i, (key, each, text) in enumerate(group)
        ]


def on_model(value: Tensor, model: Any) -> Tensor:
    """On the model's device; numbers that are not indices in its precision."""
    return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
