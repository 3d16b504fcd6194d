"""Image features with a cache: each distinct image passes through the vision tower once.

Each image is encoded alone. This determines its tiles, grids and splits without code for any architecture. The cache
holds the text that the processor writes for the image, its features, and the grid that positions are computed from.
`forward` receives the features in its public argument `mm_encoder_outputs`.

Interventions and observers can act in the vision tower, at the sites `vision` and `vision_mlp`. The tower reads an
image once, before any prompt with it is prefilled, and its features are cached. So what acts in the tower becomes an
edit of the images that it addresses. Its digest is a part of the image's digest: the image has features of its own
then, and its prompt shares no prefix with others.

    prompt with an intervention at sites of the tower    -> prompt without it, whose images have a `TowerEdit`
    images of equal size under equal edits               -> one pass of the tower, with hooks on its layers
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from icl import PIL, BatchLimit, Edit, Image, Intervention, LRUByteCache, Site, StateObserver, moved_to_device
from icl.models.hf import ImageProcessor, ModelCounters, execution_device, run_within_limit
from icl.models.hf.image_features import EncodedImage, Key, slice_field
from icl.models.hf.memory import TOWER_IMAGES, UNBOUNDED, tower_sizes

Acts: TypeAlias = Intervention | StateObserver


@dataclass(frozen=True)
class TowerEdit(Edit):
    """What acts on states of the tower while it reads an image. The pixels stay as they are.

    Attributes:
        acts: The intervention or observer.
        places: Its modules, each with its site as it stands in `acts`.
        name: The edit's part of the image's digest.
    """

    acts: Acts
    places: tuple[tuple[nn.Module, Site], ...]
    name: str

    def describe(self) -> str:
        return self.name

    def act(self, site: Site, images: int, module: nn.Module, args: Any, output: Any) -> Any:
        """A forward hook in a pass over `images` equally large images: the output with edited states [..., d]."""
        states = output[0] if isinstance(output, tuple) else output
        x = states.float().flatten(0, -2)
        rows = [i * images // len(x) for i in range(len(x))]
        if not isinstance(self.acts, Intervention):
            self.acts.see(site, x, rows)
            return None
        edited = self.acts.edit(site, x, rows)
        if edited is x:
            return None
        new = edited.view(states.shape).to(states.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new


@contextmanager
def attached(edits: Sequence[Edit], images: int) -> Iterator[None]:
    """Hooks of an image's edits on the tower, for a pass over `images` equally large images under these edits."""
    handles: list[Any] = []
    try:
        # Each before all hooks of the model, which collect hidden states for the projector.
        for edit in reversed([one for one in edits if isinstance(one, TowerEdit)]):
            for module, site in edit.places:
                handles.append(module.register_forward_hook(partial(edit.act, site, images), prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


PROBE_SIDE = 96
"""Side in pixels of the image that shows which modules of a model read images."""

FIELDS = ("pooler_output", "last_hidden_state", "deepstack_features")


class ImageEncoder:
    """The vision tower with an LRU cache of features, bounded in bytes.

    Attributes:
        finish: Called with each image after its pass, and gives what is cached.
    """

    def __init__(self, pixels: ImageProcessor, model: Any, limit: int, counters: ModelCounters) -> None:
        self.pixels, self.model, self.counters = pixels, model, counters
        self.limit, self.max_bytes, self.tower = BatchLimit(TOWER_IMAGES), UNBOUNDED, tower_sizes(model.config)
        if self.tower is not None:
            attention = str(getattr(model.config, "_attn_implementation", None) or "sdpa")
            self.tower = replace(self.tower, element_bytes=model.dtype.itemsize, attention=attention)
        self.base = model.base_model
        self.finish: Callable[[EncodedImage], EncodedImage] = itself
        self.cache = LRUByteCache[Key, EncodedImage](limit, lambda part: part.size)
        positions = getattr(self.base, "get_rope_index", None)
        self.grid_names = (
            set(inspect.signature(positions).parameters) - {"input_ids", "attention_mask", "mm_token_type_ids"}
            if positions
            else set()
        )
        self.tower_names = set(inspect.signature(self.base.get_image_features).parameters)

    def encode(self, prompts: Sequence[Sequence[Image]]) -> list[list[EncodedImage]]:
        """Encoded images of each prompt. Equal images give the same object. Raises ImageError."""
        keys = [[self.pixels.key(image, len(images)) for image in images] for images in prompts]
        missing: dict[Key, Image] = {}
        parts: dict[Key, EncodedImage] = {}
        for row, images in zip(keys, prompts, strict=True):
            for key, image in zip(row, images, strict=True):
                if key not in parts:
                    part = self.cache.get(key)
                    if part is None:
                        missing[key] = image
                    else:
                        parts[key] = part
        missing_keys = list(missing)
        for start in range(0, len(missing_keys), 4 * TOWER_IMAGES):  # bounds the memory of pixels
            parts.update(
                self._encode_missing({key: missing[key] for key in missing_keys[start : start + 4 * TOWER_IMAGES]})
            )
        return [[parts[key] for key in row] for row in keys]

    def prepare_ahead(self, prompts: Sequence[Sequence[Image]]) -> None:
        """Process the images that are not encoded, in another thread. Raises ImageError."""
        keys = {self.pixels.key(image, len(images)): image for images in prompts for image in images}
        self.pixels.prepare_ahead([(image, key[1]) for key, image in keys.items() if key not in self.cache.items])

    def _encode_missing(self, missing: Mapping[Key, Image]) -> dict[Key, EncodedImage]:
        groups: dict[Any, list[tuple[Key, dict[str, Any], str]]] = {}
        edits = {key: image.edits for key, image in missing.items()}
        processed = self.pixels.pixels([(image, key[1]) for key, image in missing.items()])
        for key, (inputs, text) in zip(missing, processed, strict=True):
            self.pixels.check_text(text)
            shapes = tuple((k, tuple(v.shape)) for k, v in inputs.items() if isinstance(v, Tensor))
            like = (key[1], shapes, *(one.describe() for one in edits[key] if isinstance(one, TowerEdit)))
            groups.setdefault(like, []).append((key, inputs, text))
        made: dict[Key, EncodedImage] = {}
        for group in groups.values():
            parts = run_within_limit(
                partial(self._tower, edits=edits[group[0][0]]),
                group,
                self.limit,
                "images",
                may_join=lambda batch: not batch[0][0][1] and self._peak_bytes(batch) <= self.max_bytes,
                relieve=self.cache.clear,
            )
            for part in parts:
                made[part.key] = self.cache.put(part.key, part)
        return made

    def _peak_bytes(self, group: Sequence[tuple[Key, dict[str, Any], str]]) -> float:
        """Peak of a pass over images of equal size, in bytes. 0 if the tower's sizes are not known."""
        return 0.0 if self.tower is None else self.tower.of(group[0][1]).peak_bytes(len(group))

    def _tower(
        self, group: Sequence[tuple[Key, dict[str, Any], str]], edits: Sequence[Edit] = ()
    ) -> list[EncodedImage]:
        """One forward pass of the tower for images with processed inputs of equal shapes and equal `TowerEdit`s."""
        count = len(group) * (2 if group[0][0][1] else 1)
        inputs = {
            name: on_model(torch.cat([each[name] for _, each, _ in group]), self.model)
            for name, value in group[0][1].items()
            if name in self.tower_names and isinstance(value, Tensor)
        }
        with torch.no_grad(), attached(edits, count):
            output = self.base.get_image_features(**inputs, return_dict=True)
        self.counters.images_encoded += len(group)
        fields = {name: output.get(name) for name in FIELDS if output.get(name) is not None}
        if "pooler_output" in fields:
            fields.pop("last_hidden_state", None)
        return [
            self.finish(
                EncodedImage(
                    key,
                    text,
                    type(output),
                    {name: slice_field(name, value, i * count // len(group), count) for name, value in fields.items()},
                    {name: each[name] for name in each if name in self.grid_names and isinstance(each[name], Tensor)},
                )
            )
            for i, (key, each, text) in enumerate(group)
        ]


def on_model(value: Tensor, model: Any) -> Tensor:
    """The tensor on the model's device. Floating-point tensors get the model's dtype."""
    on_device = moved_to_device(value, execution_device(model))
    return on_device.to(model.dtype) if value.is_floating_point() else on_device


def itself(image: EncodedImage) -> EncodedImage:
    """The image as it is."""
    return image


def probe_image() -> Image:
    """An image of random pixels. No two modules output its features by accident."""
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (PROBE_SIDE, PROBE_SIDE, 3), dtype=np.uint8)
    return Image.from_pil(PIL.Image.fromarray(pixels), "probe")
