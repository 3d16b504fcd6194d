"""Training of the projector alone, with frozen decoder and vision tower.

It starts from the model's own weights, or from random ones as in MAPL (Manas et al., EACL 2023): a mapping between two
frozen models. `icl.models.hf.projector` says which modules it is. A Q-Former before it stays frozen.

The vision tower encodes each image once. The cache has what the projector reads, and every step projects that anew.

Differs from the released code in the mapping: MAPL's is a transformer of 4 layers with 32 queries; here it has the
layers of the model's own projector.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from experiments.config.keys import TuneSpec
from experiments.tuning.trained_parts import TrainedAdapter
from icl import BatchLimit, ModelError
from icl.models.hf import HF, EncodedImage, ImageEncoder, itself, nbytes, tensors
from icl.models.hf.projector import (
    CONSTANT,
    Call,
    CallRecorder,
    feature_sources,
    first_tensor,
    projector_modules,
)

NO_MODULES = "dummy-target-modules"
"""peft's `target_modules` if no module gets LoRA matrices."""


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
                return [renew(one) for one in value] if isinstance(value, list | tuple) else value
            call, rows = next(sources)
            output = first_tensor(call.module(*call.args, **call.kwargs))
            assert output is not None
            renewed = output.flatten(0, -2)[rows].view(value.shape)
            return torch.where((rows == CONSTANT).view(*value.shape[:-1], 1), value, renewed)

        return replace(self, features={name: renew(value) for name, value in self.features.items()})


class TrainedProjector(TrainedAdapter):
    """All weights of the projector, which train inside the model of an engine."""

    def __init__(self, model: HF, spec: TuneSpec) -> None:
        super().__init__(model, spec)
        self.encoder = _encoder(model)
        self.encoder.cache.clear()
        base = model.engine.runner.model
        self.recorder = CallRecorder([base.get_submodule(name) for name in self.config.modules_to_save or ()])
        self.encoder.finish = self._with_calls

    def _settings(self, model: HF, spec: TuneSpec) -> dict[str, Any]:
        try:
            modules = projector_modules(model, _encoder(model))
        except ModelError as error:
            raise ModelError(f"tune.parameters: {error} Use parameters: lora.") from error
        return {"target_modules": NO_MODULES, "modules_to_save": modules}

    def image_features(self, images: Sequence[EncodedImage]) -> Sequence[EncodedImage]:
        projected = {one.key: one.project() for one in images if isinstance(one, ProjectedImage)}
        self.recorder.calls.clear()
        return [projected[one.key] for one in images]

    def close(self) -> None:
        super().close()
        self.recorder.close()
        self.encoder.finish = itself
        self.encoder.cache.clear()  # its features come from the projector before the training

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
        source = next(feature_sources(features, calls), None)
        if source is None:
            raise ModelError(
                "tune.parameters: the model changes the features of an image after its projector, such as by pooling "
                "those of a large one. Use smaller images, or parameters: lora."
            )
        return source


class NewProjector(TrainedProjector):
    """The projector with random first weights: those that transformers gives its modules in a new model."""

    def __init__(self, model: HF, spec: TuneSpec) -> None:
        super().__init__(model, spec)
        learned = {name: one.detach().clone() for name, one in self.parameters.items()}
        base = model.engine.runner.model
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            for name in self.config.modules_to_save or ():
                base.get_submodule(name).modules_to_save.apply(base._init_weights)
        for name, one in self.parameters.items():
            if torch.equal(one, learned[name]) and bool((one != one.flatten()[0]).any()):
                raise ModelError(
                    f"tune.parameters: {type(base).__name__} does not initialize {name}. Use parameters: projector."
                )


def _encoder(model: HF) -> ImageEncoder:
    encoder = model.engine.prompt_encoder.encoder
    if encoder is None:
        raise ModelError(f"{model.path} reads text only, so it has no projector.")
    encoder.is_repeatable, encoder.limit = False, BatchLimit(1)  # a pass over one image shows the image's calls
    return encoder
