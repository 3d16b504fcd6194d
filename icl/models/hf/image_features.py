"""Features of images: split from a batch of the vision tower, and merged for a forward pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

import torch
from torch import Tensor

from icl.errors import ModelError

Key = tuple[str, bool]
"""An image's digest, and whether its prompt has other images that change its processing."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """One image in the cache.

    Attributes:
        key: Identity of the image.
        text: Placeholders that the processor writes for it.
        output: Class of the vision tower's output.
        features: Fields of that output.
        grids: Tensors from which positions are computed.
    """

    key: Key
    text: str
    output: Callable[..., Any]
    features: Mapping[str, Any]
    grids: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """Bytes of features and grids."""
        return nbytes(self.features) + nbytes(self.grids)


def vision_arguments(parts: Sequence[EncodedImage]) -> dict[str, Any]:
    """The arguments of `forward` that replace `pixel_values`, for the images of a batch in order."""
    if not parts:
        return {}
    fields = {name: merge_field(name, [part.features[name] for part in parts]) for name in parts[0].features}
    return {"mm_encoder_outputs": {"image": parts[0].output(**_unused(parts[0].output) | fields)}}


def _unused(output: Callable[..., Any]) -> dict[str, None]:
    """The fields that the class of an output requires, such as `last_hidden_state` of timm's towers, as None."""
    declared = dataclass_fields(output) if is_dataclass(output) else ()
    return {each.name: None for each in declared if each.default is MISSING and each.default_factory is MISSING}


def merge_field(name: str, parts: Sequence[Any]) -> Any:
    """One field for several images: tensors and lists are concatenated, deepstack features by layer."""
    if name == "deepstack_features":
        return [merge_field("", layer) for layer in zip(*parts, strict=True)]
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return [item for part in parts for item in part]


def slice_field(name: str, value: Any, index: int, shares: int) -> Any:
    """The entry of one image in a field of `shares` equally large images."""
    if name == "deepstack_features":
        return [slice_field("", layer, index, shares) for layer in value]
    size, rest = divmod(len(value), shares)
    if rest:
        raise ModelError(f"the vision tower returned {len(value)} items of '{name}' for {shares} equal images.")
    part = value[index * size : (index + 1) * size]  # cloned, since a view keeps the batch alive
    return part.clone() if isinstance(part, Tensor) else [p.clone() if isinstance(p, Tensor) else p for p in part]


def nbytes(value: Any) -> int:
    """Bytes of all tensors in nested mappings and sequences."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(nbytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(nbytes, value))
    return 0


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings and sequences, in their order. Other values, such as numbers, are skipped."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(one)
