"""The projector of a loaded model: the modules that turn outputs of the vision tower into features for the decoder.

It trains alone, with frozen decoder and vision tower, as in MAPL (Manas et al., EACL 2023). It is identified by
structure: for each tensor of features, the outermost module whose output has its rows and that does not contain the
first module that reads pixels. A Q-Former before it stays frozen.

The vision tower encodes each image once. The cache has what the projector reads, and every step projects that anew.

Differs from the released code in the mapping: MAPL's is new, with 4 layers and 32 queries, and starts at random.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from experiments.config.tuning_keys import TuneSpec
from experiments.tuning.trained_adapter import TrainedAdapter
from icl.errors import ModelError
from icl.images import Image
from icl.models.hf.image_encoder import ImageEncoder, itself
from icl.models.hf.image_features import EncodedImage, nbytes

if TYPE_CHECKING:
    from icl.models.hf.model import HF

NO_MODULES = "dummy-target-modules"
"""peft's `target_modules` if no module gets LoRA matrices."""
CONSTANT = -1
"""The row of an output that gives a row of features which no output gives."""
PROBE_SIDE = 96
"""Side in pixels of the image whose features identify the projector."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a module. output: its first tensor, None if there is none."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor | None


@dataclass(frozen=True, eq=False)
class ProjectedImage(EncodedImage):
    """An image in the cache, with what gives each tensor of its features, in their order.

    Attributes:
        calls: Calls of the projector, without their outputs.
        rows: For each tensor, the row of the output that each of its rows is, as `output_rows`.
    """

    calls: Sequence[Call] = ()
    rows: Sequence[Tensor] = ()

    @property
    def size(self) -> int:
        return super().size + sum(nbytes([list(one.args), one.kwargs]) for one in self.calls)

    def project(self) -> EncodedImage:
        """The image with features of the projector as it is now, with gradients."""
        sources = iter(zip(self.calls, self.rows, strict=True))

        def renew(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return [renew(one) for one in value]
            call, rows = next(sources)
            output = first_tensor(call.module(*call.args, **call.kwargs))
            assert output is not None
            renewed = output.flatten(0, -2)[rows].view(value.shape)
            return torch.where((rows == CONSTANT).view(*value.shape[:-1], 1), value, renewed)

        return replace(self, features={name: renew(value) for name, value in self.features.items()})


class TrainedProjector(TrainedAdapter):
    """All weights of the projector, which train inside the model of an engine."""

    def __init__(self, model: "HF", spec: TuneSpec) -> None:
        super().__init__(model, spec)
        self.encoder = _encoder(model)
        self.encoder.cache.clear()
        base = model.engine.runner.model
        self.recorder = CallRecorder([base.get_submodule(name) for name in self.config.modules_to_save or ()])
        self.encoder.finish = self._with_calls

    def _settings(self, model: "HF", spec: TuneSpec) -> dict[str, Any]:
        return {"target_modules": NO_MODULES, "modules_to_save": projector_modules(model)}

    def image_features(self, images: Sequence[EncodedImage]) -> Sequence[EncodedImage]:
        projected = {one.key: one.project() for one in images if isinstance(one, ProjectedImage)}
        self.recorder.calls.clear()
        return [projected[one.key] for one in images]

    def close(self) -> None:
        super().close()
        self.recorder.close()
        self.encoder.finish = itself
        self.encoder.cache.clear()  # its features are those of the projector before the training

    def _with_calls(self, image: EncodedImage) -> EncodedImage:
        calls = list(self.recorder.calls)
        self.recorder.calls.clear()
        chosen = [self._source(one, calls) for one in tensors(image.features)]
        return ProjectedImage(
            image.key,
            image.text,
            image.output,
            image.features,
            image.grids,
            calls=[replace(call, output=None) for call, _ in chosen],
            rows=[rows for _, rows in chosen],
        )

    def _source(self, features: Tensor, calls: Iterable[Call]) -> tuple[Call, Tensor]:
        source = next(_sources(features, calls), None)
        if source is None:
            raise ModelError(
                "tune.parameters: the model changes the features of an image after its projector, such as by pooling "
                "those of a large one. Use smaller images, or parameters: lora."
            )
        return source


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


def projector_modules(model: "HF") -> list[str]:
    """Full names of the modules of the projector. Raises ModelError if there is none."""
    encoder, whole = _encoder(model), model.engine.runner.model
    with _recorded(whole) as recorder:
        [[image]] = encoder.encode([[_probe_image()]])
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
        call, _ = next(_sources(features, candidates), (None, None))
        if call is None:
            raise ModelError(
                f"tune.parameters: no module of {type(whole).__name__} is a projector: none after the vision tower has "
                "the features that the decoder reads as its output. Use parameters: lora."
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


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings and sequences, in their order."""
    if isinstance(value, Tensor):
        yield value
    else:
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(one)


def first_tensor(output: Any) -> Tensor | None:
    """A module's output, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((one for one in values if isinstance(one, Tensor)), None)


def _sources(features: Tensor, calls: Iterable[Call]) -> Iterator[tuple[Call, Tensor]]:
    """The calls whose output has the rows of features, and which rows these are."""
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


def _encoder(model: "HF") -> ImageEncoder:
    encoder = model.engine.prompt_encoder.encoder
    assert encoder is not None  # `encode_images_alone` refuses a model without one
    return encoder


def _probe_image() -> Image:
    """An image of random pixels, whose features no two modules have by accident."""
    import numpy as np
    from PIL import Image as PILImage

    pixels = np.random.default_rng(0).integers(0, 256, (PROBE_SIDE, PROBE_SIDE, 3), dtype=np.uint8)
    return Image.from_pil(PILImage.fromarray(pixels), "icl tune")
