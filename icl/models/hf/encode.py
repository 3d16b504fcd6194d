"""Each distinct picture meets the image processor and the vision tower once.

A picture is processed and encoded by itself, which settles what belongs to it (tiles, grids, splits) without a line
about any architecture. What is kept: the text that the processor writes for it, its features, and the grid that
positions are computed from. A forward gets the features through the public argument `mm_encoder_outputs`.

Some processors treat a picture among others differently from a picture alone (LLaVA-OneVision cuts no tiles then). The
encoder asks the processor once whether it is of that kind, and then keeps both.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icl.errors import ModelError
from icl.models.hf.counters import Counters
from icl.models.hf.memory import ByteCache, halving

if TYPE_CHECKING:
    from PIL.Image import Image

    from icl.pictures import Picture

TOGETHER = 16
"""Pictures of one processed shape that go through the tower in one forward."""

Key = tuple[str, bool]
"""A picture's digest, and whether it stands among others."""

Processed = tuple[dict[str, Any], str]
"""A picture's processed inputs, and the text that the processor writes for it."""

FIELDS = ("pooler_output", "last_hidden_state", "deepstack_features")


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the cache keeps of one picture. key: its digest and whether it stood among others."""

    key: Key
    text: str
    features: Mapping[str, Any]
    grids: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        return nbytes(self.features) + nbytes(self.grids)


class PictureProcessor:
    """The image processor's half, which needs no weights: pixels and placeholder text of one picture by itself."""

    def __init__(self, processor: Any, limit: int) -> None:
        self.processor = processor
        self.known = ByteCache[Key, Processed](limit, lambda made: nbytes(made[0]))
        self.texts: dict[tuple[int, int, bool], str] = {}
        self._company: bool | None = None

    @property
    def company(self) -> bool:
        """Whether it matters for a picture to stand among others."""
        if self._company is None:
            from PIL import Image

            image = Image.new("RGB", (96, 64), (90, 120, 150))
            self._company = self.process(image, 1)[1] != self.process(image, 2)[1]
        return self._company

    def key(self, picture: "Picture", among: int) -> Key:
        """The picture's identity for the model, in a prompt of `among` pictures."""
        return picture.digest, among > 1 and self.company

    def text(self, picture: "Picture", among: int) -> str:
        """The placeholders of a picture; they follow from its size, so equal sizes are asked once."""
        image = picture.open()
        several = among > 1 and self.company
        key = (image.width, image.height, several)
        if key not in self.texts:
            self.texts[key] = self.process(image, 2 if several else 1)[1]
        return self.texts[key]

    def pixels(self, wanted: Sequence[tuple["Picture", bool]]) -> list[Processed]:
        """Inputs of pictures and whether each is among others, with the edits on pixels.

        The variants of one picture share the work, and pictures of one size are processed in one call.
        """
        bases = [(clean(picture), several) for picture, several in wanted]
        keys = [(base.digest, several) for base, several in bases]
        made: dict[Key, Processed] = {}
        fresh: dict[tuple[Any, bool], dict[Key, Image]] = {}
        for key, (base, several) in zip(keys, bases, strict=True):
            found = made.get(key) or self.known.get(key)
            if found is None:
                image = base.open()
                fresh.setdefault((image.size, several), {})[key] = image
            else:
                made[key] = found
        for alike in fresh.values():
            for start in range(0, len(alike), TOGETHER):
                some = list(alike)[start : start + TOGETHER]
                for key, one in zip(some, self._process_alike([alike[key] for key in some], some[0][1]), strict=True):
                    made[key] = self.known.put(key, one)
        return [_edited(made[key], picture, several) for key, (picture, several) in zip(keys, wanted, strict=True)]

    def _process_alike(self, images: Sequence["Image"], several: bool) -> list[Processed]:
        """Pictures of one size, each as if it were alone; one by one where the result cannot be told apart."""
        if several or len(images) == 1:
            return [self.process(image, 2 if several else 1) for image in images]
        inputs = self._call([self.processor.image_token] * len(images), [[image] for image in images])
        texts = [offsets[0]["replacement"] for offsets in inputs.pop("text_replacement_offsets")]
        if any(len(value) % len(images) for value in inputs.values()):
            return [self.process(image, 1) for image in images]
        return [
            ({name: share(name, value, i, len(images)) for name, value in inputs.items()}, text)
            for i, text in enumerate(texts)
        ]

    def process(self, image: "Image", copies: int) -> Processed:
        """What the processor makes of a prompt that is this picture, `copies` times, and nothing else."""
        inputs = self._call([self.processor.image_token * copies], [[image] * copies])
        return inputs, inputs.pop("text_replacement_offsets")[0][0]["replacement"]

    def _call(self, texts: list[str], images: list[list["Image"]]) -> dict[str, Any]:
        made = self.processor(
            text=texts, images=images, padding=True, return_tensors="pt", return_text_replacement_offsets=True
        )
        return {name: value for name, value in made.items() if name not in ("input_ids", "attention_mask")}


class PictureEncoder:
    """The tower's half: features from a cache that is bounded in bytes, the least recently used leave first."""

    def __init__(self, pixels: PictureProcessor, model: Any, limit: int, counters: Counters) -> None:
        self.pixels, self.model, self.counters = pixels, model, counters
        self.base = model.base_model
        self.known = ByteCache[Key, Encoded](limit, lambda part: part.size)
        positions = getattr(self.base, "get_rope_index", None)
        self.grid_names = (
            set(inspect.signature(positions).parameters) - {"input_ids", "attention_mask", "mm_token_type_ids"}
            if positions
            else set()
        )
        self.tower_names = set(inspect.signature(self.base.get_image_features).parameters)

    def encode(self, prompts: Sequence[Sequence["Picture"]]) -> list[list[Encoded]]:
        """The parts of each prompt's pictures; equal pictures give the same object. Raises PictureError."""
        keys = [[self.pixels.key(picture, len(shown)) for picture in shown] for shown in prompts]
        wanted: dict[Key, Picture] = {}
        parts: dict[Key, Encoded] = {}
        for row, shown in zip(keys, prompts, strict=True):
            for key, picture in zip(row, shown, strict=True):
                if key not in parts:
                    found = self.known.get(key)
                    if found is None:
                        wanted[key] = picture
                    else:
                        parts[key] = found
        keys_wanted = list(wanted)
        for start in range(0, len(keys_wanted), 4 * TOGETHER):  # pixels are large: never all at once
            parts.update(self._miss({key: wanted[key] for key in keys_wanted[start : start + 4 * TOGETHER]}))
        return [[parts[key] for key in row] for row in keys]

    def _miss(self, wanted: Mapping[Key, "Picture"]) -> dict[Key, Encoded]:
        alike: dict[Any, list[tuple[Key, dict[str, Any], str]]] = {}
        processed = self.pixels.pixels([(picture, key[1]) for key, picture in wanted.items()])
        for key, (inputs, text) in zip(wanted, processed, strict=True):
            like = (key[1], tuple((k, tuple(v.shape)) for k, v in inputs.items() if isinstance(v, Tensor)))
            alike.setdefault(like, []).append((key, inputs, text))
        made: dict[Key, Encoded] = {}
        for group in alike.values():
            together = 1 if group[0][0][1] else TOGETHER
            for start in range(0, len(group), together):
                for part in halving(self._tower, group[start : start + together], "pictures", self.known.clear):
                    made[part.key] = self.known.put(part.key, part)
        return made

    def _tower(self, group: Sequence[tuple[Key, dict[str, Any], str]]) -> list[Encoded]:
        """One forward for pictures whose processed inputs have one shape."""
        shares = len(group) * (2 if group[0][0][1] else 1)
        device = self.model.device
        inputs = {
            name: torch.cat([each[name] for _, each, _ in group]).to(device)
            for name, value in group[0][1].items()
            if name in self.tower_names and isinstance(value, Tensor)
        }
        with torch.no_grad():
            output = self.base.get_image_features(**inputs, return_dict=True)
        self.counters.pictures_encoded += len(group)
        found = {name: output.get(name) for name in FIELDS if output.get(name) is not None}
        if "pooler_output" in found:
            found.pop("last_hidden_state", None)
        return [
            Encoded(
                key,
                text,
                {name: share(name, value, i * shares // len(group), shares) for name, value in found.items()},
                {name: each[name] for name in each if name in self.grid_names and isinstance(each[name], Tensor)},
            )
            for i, (key, each, text) in enumerate(group)
        ]


def clean(picture: "Picture") -> "Picture":
    """The picture without the edits that act on processed pixels."""
    if not picture.pixel_edits:
        return picture
    return replace(picture, edits=tuple(edit for edit in picture.edits if not edit.on_pixels_too))


def _edited(processed: Processed, picture: "Picture", several: bool) -> Processed:
    """Processed inputs with the picture's edits on them. Raises ModelError where there is nothing to edit."""
    inputs, text = processed
    if not picture.pixel_edits:
        return processed
    values = inputs.get("pixel_values")
    if not isinstance(values, Tensor):
        raise ModelError(
            f"picture {picture.origin} has an edit on processed pixels, and this processor gives no 'pixel_values' "
            f"(only {', '.join(inputs)}). Use an edit on the picture itself."
        )
    copies = 2 if several else 1
    dim = 1 if values.shape[0] == 1 and copies > 1 else 0
    one = values.narrow(dim, 0, values.shape[dim] // copies)
    for edit in picture.pixel_edits:
        one = edit.on_pixels(one)
    return inputs | {"pixel_values": torch.cat([one] * copies, dim)}, text


def given(parts: Sequence[Encoded]) -> dict[str, Any]:
    """The argument of `forward` that stands for `pixel_values`, for the pictures of a batch in order."""
    if not parts:
        return {}
    from icl.models.hf.outputs import Features

    fields = {name: merged(name, [part.features[name] for part in parts]) for name in parts[0].features}
    return {"mm_encoder_outputs": {"image": Features(**fields)}}


def merged(name: str, parts: Sequence[Any]) -> Any:
    """One value of a field for pictures in a row: tensors are joined, lists run on, deep features join by layer."""
    if name == "deepstack_features":
        return [merged("", layer) for layer in zip(*parts, strict=True)]
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return [item for part in parts for item in part]


def share(name: str, value: Any, index: int, shares: int) -> Any:
    """The part of one picture in a field of `shares` pictures alike."""
    if name == "deepstack_features":
        return [share("", layer, index, shares) for layer in value]
    size, rest = divmod(len(value), shares)
    if rest:
        raise ModelError(f"the vision tower gave {len(value)} entries of '{name}' for {shares} equal pictures.")
    part = value[index * size : (index + 1) * size]
    return part.clone() if isinstance(part, Tensor) else list(part)


def nbytes(value: Any) -> int:
    """Bytes of all tensors in a nest of mappings and sequences."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(nbytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(nbytes, value))
    return 0
