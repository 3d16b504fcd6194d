"""Each distinct picture meets the image processor and the vision tower once.

A picture is processed and encoded by itself, which settles what belongs to it (tiles, grids, splits) without a line
about any architecture. What is kept: the text that the processor writes for it, its features, and the grid that
positions are computed from. A forward gets the features through the public argument `mm_encoder_outputs`.

Some processors treat a picture among others differently from a picture alone (LLaVA-OneVision cuts no tiles then). The
encoder asks the processor once whether it is of that kind, and then keeps both.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

FIELDS = ("pooler_output", "last_hidden_state", "deepstack_features")


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the cache keeps of one picture. key: its digest and whether it stood among others."""

    key: tuple[str, bool]
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
        self.known = ByteCache[tuple[str, bool], tuple[dict[str, Any], str]](limit, lambda made: nbytes(made[0]))
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

    def key(self, picture: "Picture", among: int) -> tuple[str, bool]:
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

    def pixels(self, picture: "Picture", several: bool) -> tuple[dict[str, Any], str]:
        """Processed inputs, before the edits that act on them; the variants of one picture share the work."""
        from dataclasses import replace

        base = replace(picture, edits=tuple(edit for edit in picture.edits if not edit.on_pixels_too))
        key = (base.digest, several)
        made = self.known.get(key)
        if made is None:
            made = self.known.put(key, self.process(base.open(), 2 if several else 1))
        return made

    def process(self, image: "Image", copies: int) -> tuple[dict[str, Any], str]:
        """What the processor makes of a prompt that is this picture, `copies` times, and nothing else."""
        inputs = self.processor(
            text=[self.processor.image_token * copies],
            images=[[image] * copies],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
        return dict(inputs), inputs["text_replacement_offsets"][0][0]["replacement"]


class PictureEncoder:
    """The tower's half: features from a cache that is bounded in bytes, the least recently used leave first."""

    def __init__(self, pixels: PictureProcessor, model: Any, limit: int, counters: Counters) -> None:
        self.pixels, self.model, self.counters = pixels, model, counters
        self.base = model.base_model
        self.known = ByteCache[tuple[str, bool], Encoded](limit, lambda part: part.size)
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
        wanted: dict[tuple[str, bool], Picture] = {}
        parts: dict[tuple[str, bool], Encoded] = {}
        for row, shown in zip(keys, prompts, strict=True):
            for key, picture in zip(row, shown, strict=True):
                if key not in parts:
                    found = self.known.get(key)
                    if found is None:
                        wanted[key] = picture
                    else:
                        parts[key] = found
        parts.update(self._miss(wanted))
        return [[parts[key] for key in row] for row in keys]

    def _miss(self, wanted: Mapping[tuple[str, bool], "Picture"]) -> dict[tuple[str, bool], Encoded]:
        alike: dict[Any, list[tuple[tuple[str, bool], dict[str, Any], str]]] = {}
        for key, picture in wanted.items():
            inputs, text = edited(self.pixels, picture, key[1])
            like = (key[1], tuple((k, tuple(v.shape)) for k, v in inputs.items() if isinstance(v, Tensor)))
            alike.setdefault(like, []).append((key, inputs, text))
        made: dict[tuple[str, bool], Encoded] = {}
        for group in alike.values():
            together = 1 if group[0][0][1] else TOGETHER
            for start in range(0, len(group), together):
                for part in halving(self._tower, group[start : start + together], "pictures", self.known.clear):
                    made[part.key] = self.known.put(part.key, part)
        return made

    def _tower(self, group: Sequence[tuple[tuple[str, bool], dict[str, Any], str]]) -> list[Encoded]:
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


def edited(pixels: PictureProcessor, picture: "Picture", several: bool) -> tuple[dict[str, Any], str]:
    """Processed inputs with the picture's edits on them. Raises ModelError where there is nothing to edit."""
    inputs, text = pixels.pixels(picture, several)
    if not picture.pixel_edits:
        return inputs, text
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
