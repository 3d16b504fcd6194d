"""Settings of a checkpoint's image processor (`model.image_processor`): the names that it takes, and their effect.

transformers ignores a name that no image processor has, and some image processors ignore a name that they list. So a
name is compared with those of the processor, and the effect of each is measured on images.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from icl import PIL, ModelError, models, torch
from icl.models import hf

NOT_SETTINGS = frozenset(
    {"return_tensors", "data_format", "input_data_format", "device", "disable_grouping"}
    | {"image_processor_type", "feature_extractor_type", "processor_class", "auto_map"}
)
"""Names of what a call returns, and of classes."""

PROBE_SIZES = ((96, 64), (640, 480), (1600, 1200))
"""Width and height of the images on which effects are measured: small, usual and large."""


def setting_names(checkpoint: "hf.Checkpoint") -> list[str]:
    """The names that the image processor takes; none if the model reads text only. Raises ModelError."""
    own = _own(checkpoint)
    if own is None:
        return []
    names = {*own.to_dict(), *getattr(getattr(own, "valid_kwargs", None), "__annotations__", ())}
    return sorted(name for name in names - NOT_SETTINGS if not name.startswith("_"))


def _own(checkpoint: "hf.Checkpoint") -> Any:
    """The image processor without the settings. None if the model reads text only."""
    return getattr(replace(checkpoint, image_processor={}).processor, "image_processor", None)


def check_settings(checkpoint: "hf.Checkpoint") -> None:
    """Raise ModelError if the image processor has no such setting, if its value contradicts the weights, or if images
    cannot be processed with it.
    """
    names = setting_names(checkpoint)
    reader = f"the image processor of {checkpoint.path}" if names else f"{checkpoint.path}, which reads text only,"
    models.check_read(checkpoint.image_processor, names, "model.image_processor", reader)
    _check_weights_fit(checkpoint)
    written = ", ".join(f"{name}: {value!r}" for name, value in checkpoint.image_processor.items())
    try:
        processed = _processed(checkpoint)
    except (*models.FAILURES, ModelError) as error:
        raise ModelError(
            f"model.image_processor: the image processor of {checkpoint.path} does not accept {{{written}}}: "
            f"{models.reason(error.__cause__ or error)}"
        ) from error
    if not all(_is_finite(value) for inputs, _ in processed for value in inputs.values()):
        raise ModelError(
            f"model.image_processor: with {{{written}}}, the image processor of {checkpoint.path} gives pixels that "
            "are infinite or no numbers. Use other values."
        )


def _check_weights_fit(checkpoint: "hf.Checkpoint") -> None:
    """Raise ModelError if a setting differs from the size in the vision config that the processor has by itself."""
    own, vision = _own(checkpoint), getattr(checkpoint.config, "vision_config", None)
    for name, value in checkpoint.image_processor.items():
        for config_name in (name, f"spatial_{name}"):  # merge_size of processors is spatial_merge_size of configs
            size = getattr(vision, config_name, None)
            if size is not None and size == getattr(own, name, None) != value:
                raise ModelError(
                    f"model.image_processor: {name}: {value!r} contradicts the weights of {checkpoint.path}, which "
                    f"were trained with {size!r} (vision_config.{config_name} of config.json). Remove it."
                )


def setting_notes(checkpoint: "hf.Checkpoint") -> Iterator[str]:
    """A sentence for each setting without which images have the same tokens and pixels."""
    own = _processed(checkpoint)
    for name, value in checkpoint.image_processor.items():
        others = {other: its_value for other, its_value in checkpoint.image_processor.items() if other != name}
        without = _processed(replace(checkpoint, image_processor=others))
        if all(_is_same(one, other) for one, other in zip(own, without, strict=True)):
            sizes = ", ".join(f"{width} x {height}" for width, height in PROBE_SIZES)
            yield (
                f"image_processor: {name}: {value!r} has no effect, images of {sizes} pixels have the same tokens and "
                "pixels without it"
            )


def _processed(checkpoint: "hf.Checkpoint") -> "list[hf.Processed]":
    """The processed probes: model inputs, and the text that stands for the image."""
    processor = hf.ImageProcessor(checkpoint.processor, 0)
    return [processor.process(_probe(*size), 1) for size in PROBE_SIZES]


@cache
def _probe(width: int, height: int) -> "PIL.Image.Image":
    channels = (PIL.Image.linear_gradient("L"), PIL.Image.radial_gradient("L"), PIL.Image.new("L", (256, 256), 90))
    return PIL.Image.merge("RGB", channels).resize((width, height))


def _is_finite(value: Any) -> bool:
    """Whether all numbers of a tensor are finite. True for other values."""
    return not isinstance(value, torch.Tensor) or bool(value.isfinite().all())


def _is_same(one: "hf.Processed", other: "hf.Processed") -> bool:
    (inputs, text), (other_inputs, other_text) = one, other
    return (
        text == other_text
        and inputs.keys() == other_inputs.keys()
        and all(_is_same_value(value, other_inputs[name]) for name, value in inputs.items())
    )


def _is_same_value(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    return bool(one == other)
