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

from icl import PIL, BatchLimit, Edit, Image, Intervention, LRUByteCache, Site, StateObserver, moved_to_device, np
from icl.models.hf import ImageProcessor, ModelCounters, execution_device, run_within_limit
from icl.models.hf.image_features import EncodedImage, Key, slice_field, tensors
from icl.models.hf.image_processing import pixel_name
from icl.models.hf.memory import TOWER_IMAGES, UNBOUNDED, tower_sizes

Acts: TypeAlias = Intervention | StateObserver

ToEncode = tuple[Key, dict[str, Any], str]
"""An image with its processed inputs and its text."""


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

FIXED_PASS_PIXELS = TOWER_IMAGES * 224**2
"""Pixels of a pass of fixed size over several images, at most. A pass with a larger image reads it alone."""

FIELDS = ("pooler_output", "last_hidden_state", "deepstack_features")


class ImageEncoder:
    """The vision tower with an LRU cache of features, bounded in bytes.

    Attributes:
        finish: Called with each image after its pass, and gives what is cached.
        is_repeatable: Whether the features of an image depend on the image alone, to the last bit. A pass then has a
            number of images that follows from their shape.
    """

    def __init__(self, pixels: ImageProcessor, model: Any, limit: int, counters: ModelCounters) -> None:
        self.pixels, self.model, self.counters = pixels, model, counters
        self.limit, self.max_bytes, self.tower = BatchLimit(TOWER_IMAGES), UNBOUNDED, tower_sizes(model.config)
        if self.tower is not None:
            attention = str(getattr(model.config, "_attn_implementation", None) or "sdpa")
            self.tower = replace(self.tower, element_bytes=model.dtype.itemsize, attention=attention)
        self.base = model.base_model
        self.finish: Callable[[EncodedImage], EncodedImage] = itself
        self.is_repeatable, self.fixed_sizes = False, dict[Any, int]()
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
        groups: dict[Any, list[ToEncode]] = {}
        edits = {key: image.edits for key, image in missing.items()}
        processed = self.pixels.pixels([(image, key[1]) for key, image in missing.items()])
        for key, (inputs, text) in zip(missing, processed, strict=True):
            self.pixels.check_text(text)
            shapes = tuple((k, tuple(v.shape)) for k, v in inputs.items() if isinstance(v, Tensor))
            like = (key[1], shapes, *(one.describe() for one in edits[key] if isinstance(one, TowerEdit)))
            groups.setdefault(like, []).append((key, inputs, text))
        made: dict[Key, EncodedImage] = {}
        for group in groups.values():
            size = self._fixed_size(group[0], edits[group[0][0]]) if self.is_repeatable else 0
            parts = run_within_limit(
                partial(self._tower, edits=edits[group[0][0]], size=size),
                group,
                BatchLimit(size) if size else self.limit,
                "images",
                may_join=lambda batch: not batch[0][0][1] and self._peak_bytes(batch) <= self.max_bytes,
                relieve=self.cache.clear,
            )
            for part in parts:
                made[part.key] = self.cache.put(part.key, part)
        return made

    def _peak_bytes(self, group: Sequence[ToEncode]) -> float:
        """Peak of a pass over images of equal size, in bytes. 0 if the tower's sizes are not known."""
        return 0.0 if self.tower is None else self.tower.of(group[0][1]).peak_bytes(len(group))

    def _fixed_size(self, one: ToEncode, edits: Sequence[Edit]) -> int:
        """Images of each pass over images of this shape. 1 unless features are the same at each place of a pass.

        Kernels follow the shape of a pass: in passes of another size, the last bits of the features differ.
        """
        (_, several), inputs, _ = one
        shapes = tuple((name, tuple(value.shape)) for name, value in inputs.items() if isinstance(value, Tensor))
        pixels, is_edited = inputs.get(pixel_name(inputs)), any(isinstance(edit, TowerEdit) for edit in edits)
        if several or is_edited or self.grid_names or not isinstance(pixels, Tensor):
            return 1
        if shapes not in self.fixed_sizes:
            size = min(TOWER_IMAGES, max(1, 3 * FIXED_PASS_PIXELS // pixels.numel()))
            self.fixed_sizes[shapes] = size if self._is_same_at_each_place(inputs, size) else 1
        return self.fixed_sizes[shapes]

    def _is_same_at_each_place(self, inputs: Mapping[str, Any], size: int) -> bool:
        """Whether random images have equal features one place further, and one of them among copies of itself."""
        generator, name = torch.Generator().manual_seed(0), pixel_name(inputs)
        images = [{**inputs, name: torch.randn(inputs[name].shape, generator=generator)} for _ in range(size)]
        passes = images, [images[-1], *images[:-1]], [images[-1]] * size
        first, moved, copies = ([list(tensors(each)) for each in self._features(own)[1]] for own in passes)
        pairs = zip([*first, first[-1]], [*moved[1:], moved[0], copies[0]], strict=True)
        return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))

    def _tower(self, group: Sequence[ToEncode], edits: Sequence[Edit] = (), size: int = 0) -> list[EncodedImage]:
        """One forward pass of the tower for images with processed inputs of equal shapes and equal `TowerEdit`s.

        size: Images of the pass, if their number is fixed. The last image fills it up.
        """
        inputs = [each for _, each, _ in group]
        several = group[0][0][1]
        output, features = self._features([*inputs, *inputs[-1:] * (size - len(group))], edits, 2 if several else 1)
        self.counters.images_encoded += len(group)
        return [
            self.finish(
                EncodedImage(
                    key,
                    text,
                    output,
                    own,
                    {name: each[name] for name in each if name in self.grid_names and isinstance(each[name], Tensor)},
                )
            )
            for (key, each, text), own in zip(group, features, strict=False)
        ]

    def _features(
        self, inputs: Sequence[Mapping[str, Any]], edits: Sequence[Edit] = (), copies: int = 1
    ) -> tuple[Callable[..., Any], list[dict[str, Any]]]:
        """The class of the tower's output for processed inputs of equal shapes, and the features of each image."""
        count = len(inputs) * copies
        arguments = {
            name: on_model(torch.cat([each[name] for each in inputs]), self.model)
            for name, value in inputs[0].items()
            if name in self.tower_names and isinstance(value, Tensor)
        }
        with torch.no_grad(), attached(edits, count):
            output = self.base.get_image_features(**arguments, return_dict=True)
        fields = {name: output.get(name) for name in FIELDS if output.get(name) is not None}
        if "pooler_output" in fields:
            fields.pop("last_hidden_state", None)
        return type(output), [
            {name: slice_field(name, value, i * copies, count) for name, value in fields.items()}
            for i in range(len(inputs))
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
    pixels = np.random.default_rng(0).integers(0, 256, (PROBE_SIDE, PROBE_SIDE, 3), dtype=np.uint8)
    return Image.from_pil(PIL.Image.fromarray(pixels), "probe")
