"""The types of `AutoModelForImageTextToText` without a row in the table, and why."""

import inspect
from collections.abc import Mapping
from functools import cache

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from icl.models.hf.conventions import FORWARD
from tests.random_models.make import ARCHITECTURES, PLAIN

UNSUITABLE: Mapping[str, str] = {
    "diffusion_gemma": "It denoises blocks of tokens, so there are no logits of a next token.",
    "git": "Its processor has no image placeholder: one image stands before the text.",
    "kosmos-2": "Its processor has no image placeholder: one image stands before the text.",
    "kosmos-2.5": "Its processor has no image placeholder: one image stands before the text.",
    "mistral4": "The class reads text only.",
    "pi0": "It returns actions of a robot.",
    "pp_chart2table": "Its processor has no image placeholder: one image stands before the text.",
}
"""Types whose processor or output does not suit demonstrations with images."""
TIMM = ("fast_vlm", "gemma3n", "perception_lm")
"""Types whose vision tower comes from the package timm."""
UNCHECKED = "Its class follows the conventions; there is no random checkpoint yet."


@cache
def covered_types() -> frozenset[str]:
    """The model types of all rows."""
    return frozenset(make(PLAIN).config.model_type for make in ARCHITECTURES.values())


def uncovered_types() -> dict[str, str]:
    """The reason for each type without a row, sorted by type."""
    types = sorted(set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - covered_types())
    return {name: reason(name) for name in types}


def reason(name: str) -> str:
    """Why a type has no row, from its class where that says it."""
    kind = getattr(transformers, str(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[name]))
    if _is_encoder_decoder(name):
        return "It is an encoder-decoder model; sessions need a decoder-only model."
    missing = [argument for argument in FORWARD if argument not in inspect.signature(kind.forward).parameters]
    if missing:
        return f"The forward of {kind.__name__} has no argument {' and no '.join(missing)}."
    if name in UNSUITABLE:
        return UNSUITABLE[name]
    return "Its vision tower needs the package timm." if name in TIMM else UNCHECKED


def _is_encoder_decoder(name: str) -> bool:
    config = getattr(transformers, CONFIG_MAPPING_NAMES[name])
    return bool(getattr(config, "is_encoder_decoder", False)) or name == "vision-encoder-decoder"
