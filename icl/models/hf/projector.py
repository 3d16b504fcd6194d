"""The projector of a loaded model: the modules that turn outputs of the vision tower into features for the decoder.

Structure identifies it: for each tensor of features, it is the outermost module that outputs the tensor's rows and does
not contain the first module that reads pixels. A Q-Former before it is no part of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icl import BatchLimit, Image, ModelError
from icl.models.hf import EncodedImage, ImageEncoder, ModelCounters, tensors
from icl.models.hf.image_encoder import probe_image
from icl.models.hf.model import HF

CONSTANT = -1
"""The row of an output that gives a row of features which no output gives."""
AT_ONCE = 16
"""Number of images with features in memory at the same time."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a module. output: its first tensor, None if there is none."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor | None


class CallRecorder:
    """Records the calls of modules, in the order of their ends, until it is closed."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.calls: list[Call] = []
        self.handles = [one.register_forward_hook(self._record, with_kwargs=True) for one in modules]

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.calls.append(Call(module, args, kwargs, first_tensor(output)))

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def projector_modules(model: HF, encoder: ImageEncoder) -> list[str]:
    """Full names of the modules of the projector. Raises ModelError if there is none."""
    whole = model.engine.runner.model
    with _recorded(whole) as recorder:
        [[image]] = encoder.encode([[probe_image()]])
    encoder.cache.clear()
    calls = {call.module: call for call in reversed(recorder.calls)}  # the first call of each module
    reads_pixels = next(call.module for call in recorder.calls if list(call.module.parameters(recurse=False)))
    candidates = {
        calls[module]: name
        for name, module in whole.named_modules()  # parents first
        if module in calls and list(module.parameters()) and reads_pixels not in set(module.modules())
    }
    names = []
    for features in tensors(image.features):
        call, _ = next(feature_sources(features, candidates), (None, None))
        if call is None:
            raise ModelError(
                f"no module of {type(whole).__name__} is a projector: none after the vision tower has the features "
                "that the decoder reads as its output."
            )
        names.append(candidates[call])
    return list(dict.fromkeys(names))


def output_rows(features: Tensor, output: Tensor) -> Tensor | None:
    """Where the rows of features come from. Some models reorder rows, drop some, or add a vector that ends a line.

    Args:
        features: [..., d], the features that the decoder reads.
        output: [..., d], the output of a module.

    Returns:
        For each row of the features, the equal row of the output, or `CONSTANT`. None if the features are not made of
        rows of the output and at most one other vector.
    """
    if features.shape[-1] != output.shape[-1] or output.ndim < 2:
        return None
    places: dict[bytes, int] = {}
    for i, row in enumerate(_row_bytes(output)):
        places.setdefault(row, i)
    own = _row_bytes(features)
    others = {row for row in own if row not in places}
    if len(others) > 1 or len(others) == len(set(own)):
        return None
    return torch.tensor([places.get(row, CONSTANT) for row in own], device=features.device)


def first_tensor(output: Any) -> Tensor | None:
    """A module's output, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((one for one in values if isinstance(one, Tensor)), None)


def feature_sources(features: Tensor, calls: Iterable[Call]) -> Iterator[tuple[Call, Tensor]]:
    """The calls that output the rows of features, and which rows these are."""
    for call in calls:
        rows = None if call.output is None else output_rows(features, call.output)
        if rows is not None:
            yield call, rows


def _row_bytes(value: Tensor) -> list[bytes]:
    array = value.detach().flatten(0, -2).cpu().contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in array]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[CallRecorder]:
    recorder = CallRecorder(model.modules())
    try:
        yield recorder
    finally:
        recorder.close()


def projector_means(model: HF, images: Sequence[Image]) -> list[tuple[Tensor, Tensor]]:
    """What the projector reads and what the decoder reads in its place, as means over the tokens of each image.

    Args:
        model: A loaded model.
        images: Each is encoded alone, as in a prompt without other images.

    Returns:
        For each image [D] and [E] in float32 on the CPU: the input of the projector, and the features.

    Raises:
        ModelError: The model has no projector.
        ImageError: An image cannot be read.
    """
    whole = model.engine.runner.model
    if not hasattr(whole.base_model, "get_image_features"):
        raise ModelError(f"model.path: {model.path} has no `get_image_features`, which its projector is read with.")
    encoder = ImageEncoder(model.pixels, whole, 0, ModelCounters())
    encoder.limit = BatchLimit(1)
    recorder = CallRecorder([whole.get_submodule(projector_modules(model, encoder)[0])])
    means: dict[Any, tuple[Tensor, Tensor]] = {}

    def finish(image: EncodedImage) -> EncodedImage:
        inputs = [first_tensor([*call.args, *call.kwargs.values()]) for call in recorder.calls]
        recorder.calls.clear()
        vectors = [one for one in inputs if one is not None and one.is_floating_point()]
        if not vectors:
            raise ModelError(f"model.path: the projector of {model.path} reads ids of a codebook and no vectors.")
        means[image.key] = _mean(vectors), _mean([next(tensors(image.features))])
        return image

    encoder.finish = finish
    try:
        for start in range(0, len(images), AT_ONCE):
            encoder.encode([[image] for image in images[start : start + AT_ONCE]])
    finally:
        recorder.close()
    return [means[encoder.pixels.key(image, 1)] for image in images]


def _mean(values: Sequence[Tensor]) -> Tensor:
    """[..., D] each -> [D], the mean over all rows."""
    return torch.cat([value.detach().flatten(0, -2) for value in values]).float().mean(0).cpu()
