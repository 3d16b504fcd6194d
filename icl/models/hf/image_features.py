"""What the vision tower gives for one image: kept by image, cut out of a batch, and put together for a forward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from icl.errors import ModelError

Key = tuple[str, bool]
"""An image's digest, and whether it stands among others."""


@dataclass
class ImageFeatures(BaseModelOutputWithPooling):  # type: ignore[misc]
    """As `get_image_features` returns them. deepstack_features: one entry a layer, added inside the language model."""

    deepstack_features: Any = None


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """What the cache keeps of one image. key: its digest and whether it stood among others."""

    key: Key
    text: str
    features: Mapping[str, Any]
    grids: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        return nbytes(self.features) + nbytes(self.grids)


def given(parts: Sequence[EncodedImage]) -> dict[str, Any]:
    """The argument of `forward` that stands for `pixel_values`, for the images of a batch in order."""
    if not parts:
        return {}
    fields = {name: merged(name, [part.features[name] for part in parts]) for name in parts[0].features}
    return {"mm_encoder_outputs": {"image": ImageFeatures(**fields)}}


def merged(name: str, parts: Sequence[Any]) -> Any:
    """One value of a field for images in a row: tensors are joined, lists run on, deep features join by layer."""
    if name == "deepstack_features":
        return [merged("", layer) for layer in zip(*parts, strict=True)]
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return [item for part in parts for item in part]


def share(name: str, value: Any, index: int, shares: int) -> Any:
    """The part of one image in a field of `shares` images alike."""
    if name == "deepstack_features":
        return [share("", layer, index, shares) for layer in value]
    size, rest = divmod(len(value), shares)
    if rest:
        raise ModelError(f"the vision tower gave {len(value)} entries of '{name}' for {shares} equal images.")
    part = value[index * size : (index + 1) * size]  # cloned: a view would keep the whole batch in memory
    return part.clone() if isinstance(part, Tensor) else [p.clone() if isinstance(p, Tensor) else p for p in part]


def nbytes(value: Any) -> int:
    """Bytes of all tensors in a nest of mappings and sequences."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(nbytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(nbytes, value))
    return 0
