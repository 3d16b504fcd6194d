"""Conventions of transformers that a checkpoint must follow, and the error message for the first one that it breaks.

This backend names no architecture. A checkpoint that follows these conventions works, even a new one. The processor is
checked before any weights are read. A language model that reads text only (`reads_text_only`) has a tokenizer in the
place of the processor, and needs the fifth convention alone.

 1. The processor has a `tokenizer` and an `image_processor`.
 2. Its chat template, if it has one, takes typed content and writes one `image_token` for each image, in its place.
 3. It names this placeholder and the ids of the tokens that it writes for images, or its tokenizer or the config does
    (`image_placeholder`).
 4. It writes as many of these tokens as the vision tower returns features.
 5. The class has no text encoder, and its `forward` takes `input_ids`, `attention_mask`, `position_ids` and `cache` by
    these names.

Two more are optional and save time: the processor returns the text that it wrote for each image
(`text_replacement_offsets`), and the class has `get_image_features` and takes `mm_encoder_outputs`. If one of them is
missing, images are encoded again for each prompt.
"""

import inspect
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from packaging.version import Version

from icl.errors import ModelError
from icl.libraries import transformers

CONFIG_IDS = ("image_token_id", "image_token_index")
"""Names under which a config has the id of the image token."""

CROSS_ATTENTION_KEYS = ("cross_attention_layers", "cross_layer_interval")
"""Names under which a config has its layers with cross-attention to images."""


@dataclass(frozen=True)
class ImagePlaceholder:
    """The placeholder of one image.

    Attributes:
        token: Text in a rendered prompt, one for each image. '' if nothing names it.
        ids: Token ids that stand for an image in a tokenized prompt: patches and markers.
        patches: Token ids that stand for features of an image.
    """

    token: str
    ids: tuple[int, ...]
    patches: tuple[int, ...] = ()


def takes_interleaved_images(processor: Any) -> bool:
    """Whether images are passed to the processor among the texts, because it replaces no placeholder."""
    return not hasattr(processor, "image_token")


def image_placeholder(processor: Any, config: Any = None) -> ImagePlaceholder:
    """The placeholder of a processor, and the token ids that it writes for an image.

    A processor usually names both. Where it does not, the tokenizer or the config does:

        processor.image_token       else tokenizer.image_token, else the token of the first id below. If the template
                                    writes another token than the processor, image_placeholder_token comes first
        processor.image_token_ids   else processor.image_token_id, else the config's image_token_id (or
                                    image_token_index), else the id of the placeholder

    The ids of the config are always included: some processors declare one token and write another. They alone are
    patches: the features of images replace their embeddings. Others, such as the end of a row, are markers.

    Args:
        processor: The processor, with its tokenizer.
        config: The config of the model, if it is at hand.
    """
    tokenizer = processor.tokenizer
    named, own = getattr(processor, "image_token_id", None), [getattr(config, name, None) for name in CONFIG_IDS]
    ids = [*getattr(processor, "image_token_ids", ()), named, *own]
    numbers = [number for number in dict.fromkeys(ids) if isinstance(number, int)]
    token = getattr(processor, "image_placeholder_token", None) or getattr(processor, "image_token", None)
    if not hasattr(processor, "image_token"):
        token = getattr(tokenizer, "image_token", None)
        token = tokenizer.convert_ids_to_tokens(numbers[0]) if token is None and numbers else token
    if not numbers and token is not None:
        number = tokenizer.convert_tokens_to_ids(token)
        numbers = [] if number is None or number == tokenizer.unk_token_id else [number]
    patches = next((kind for kind in (own, [named]) if any(isinstance(number, int) for number in kind)), numbers)
    return ImagePlaceholder(
        str(token or ""), tuple(numbers), tuple(number for number in dict.fromkeys(patches) if isinstance(number, int))
    )


def reads_text_only(config: Any) -> bool:
    """Whether a config is that of a language model, which reads neither images nor sounds.

    For a class of the checkpoint's own code, `auto_map` decides, unless the config mentions images.
    """
    if any(type(config) in mapping for mapping in _model_mappings()):
        return False
    own = getattr(config, "auto_map", None) or {}
    mentions_images = any(getattr(config, name, None) is not None for name in ("vision_config", *CONFIG_IDS))
    return type(config) in transformers.AutoModelForCausalLM._model_mapping or (
        "AutoModelForCausalLM" in own and "AutoModelForImageTextToText" not in own and not mentions_images
    )


def image_token_problem(config: Any) -> str | None:
    """Why images have no tokens in prompts of a model, according to its config. None if they have."""
    if reads_text_only(config):
        return "this model reads text only. Name texts instead."
    text = config.get_text_config(decoder=True)
    if not any(getattr(text, name, None) for name in CROSS_ATTENTION_KEYS):
        return None
    return "this model reads images by cross-attention, so they have no tokens that could be named. Name texts instead."


FORWARD = ("input_ids", "attention_mask", "position_ids", "cache")


def check_processor(processor: Any, path: str) -> None:
    """Raise ModelError for the first convention that the processor breaks."""
    kind = type(processor).__name__
    for part, what in (("tokenizer", "tokenizer"), ("image_processor", "image processor")):
        if getattr(processor, part, None) is None:
            raise ModelError(
                f"model.path: the processor of {path} has no {what}. Use a vision-language checkpoint with "
                "its complete processor."
            )
    placeholder = image_placeholder(processor)
    if not placeholder.token:
        raise ModelError(
            f"model.path: the processor of {path} ({kind}) defines no image placeholder "
            "(image_token), so images cannot be interleaved with text."
        )
    if not placeholder.ids:
        raise ModelError(
            f"model.path: the processor of {path} ({kind}) does not define which tokens represent an "
            "image (image_token_id, or image_token_ids if there are several), so they cannot be distinguished "
            "from words."
        )


def auto_class(config: Any) -> Any:
    """The class of transformers that loads models of this config: `AutoModelForImageTextToText`, or
    `AutoModelForMultimodalLM` if only that one has the type, as for Phi-4 multimodal. `AutoModelForCausalLM` for a
    language model that reads text only.

    Raises ModelError if none has it, and the checkpoint's own code has no class for it.
    """
    if reads_text_only(config):
        return transformers.AutoModelForCausalLM
    here, there = _model_mappings()
    is_only_there = type(config) in there and type(config) not in here
    own = getattr(config, "auto_map", None) or {}
    if type(config) not in here and not is_only_there and "AutoModelForImageTextToText" not in own:
        raise ModelError(
            f"model.path: there is no model for the config class {type(config).__name__} (model_type "
            f"'{config.model_type}'): transformers has none that reads images, and `auto_map` of config.json names no "
            "AutoModelForImageTextToText. Add the class to `auto_map`, or use another checkpoint."
        )
    return transformers.AutoModelForMultimodalLM if is_only_there else transformers.AutoModelForImageTextToText


def reading_config(config: Any) -> Any:
    """The config of the part that reads images and writes text, or the config itself.

    A model that also speaks has such a part, as the thinker of Qwen-Omni. The class of the whole has no `forward`;
    transformers loads the part alone from the same files.
    """
    readers, whole = _model_mappings()
    if type(config) in readers or type(config) not in whole:
        return config
    parts = [getattr(config, name) for name in config.sub_configs]
    return next((part for part in parts if type(part) in readers), config)


def _model_mappings() -> tuple[Any, Any]:
    """The classes of models by the class of their config: models that read images, and those with other media."""
    return transformers.AutoModelForImageTextToText._model_mapping, transformers.AutoModelForMultimodalLM._model_mapping


def check_class(model: Any, path: str) -> None:
    """Raise ModelError if sessions cannot call the class."""
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"model.path: {path} ({kind}) is an encoder-decoder model. Sessions need a decoder-only model."
        )
    names = inspect.signature(model.forward).parameters
    if missing := [name for name in FORWARD if name not in names]:
        raise ModelError(
            f"model.path: {path} cannot be opened: the forward of {kind} has no argument "
            f"{' and no '.join(missing)}. Current "
            f"transformers classes accept {', '.join(FORWARD)}. Remote code for an older release may not."
        )


def offloaded_parts(model: Any) -> list[str]:
    """The modules outside decoder and head that `device_map` has left in main memory or on the disk."""
    if not hasattr(model, "get_decoder"):
        return []
    head = model.get_output_embeddings()
    decoder = {*model.get_decoder().parameters(), *(head.parameters() if head is not None else ())}
    names = [
        name.rpartition(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.device.type == "meta" and parameter not in decoder
    ]
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))


def mismatch(error: Exception, model: Any, path: str) -> ModelError:
    """The error for a prompt with an image that the processor itself wrote and that the model cannot read."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    why = (
        "A processor writes as many image tokens as the vision tower gives features, and gives inputs by the names "
        "that the class takes: processor and weights are of two models, or of two releases."
    )
    if isinstance(error, AttributeError | NameError) and "'NoneType'" not in first:  # None: a missing input
        why = (
            f"This is a bug of the class in transformers {transformers.__version__}: try another release, or "
            "`model: vllm`, which has its own code for most models."
        )
    if (parts := offloaded_parts(model)) and re.search(r"\bmeta\b", first):
        return ModelError(
            f"model.device_map: {path} cannot read an image with {', '.join(parts)} outside the devices: "
            f"{type(model).__name__} reads weights there without bringing them back ({first.rstrip('.')}). Use smaller "
            "weights (`quantize`, `dtype`) or more devices, so that only layers of the decoder are offloaded."
        )
    return ModelError(
        f"model.path: {path} cannot read an image: what its processor writes does not go through "
        f"{type(model).__name__} ({type(error).__name__}: {first.rstrip('.')}). {why}"
    )


MIN_VERSION = "5.24"


def check_version(installed: str | None = None) -> None:
    """Raise ModelError if the installed transformers is older than MIN_VERSION.

    Sessions need `cache` and `mm_encoder_outputs`, which older releases ignore. The package itself allows older ones:
    vLLM pins one, and needs this backend for rendering only.
    """
    release = installed or version("transformers")
    if Version(release) < Version(MIN_VERSION):
        raise ModelError(
            f"the backend 'hf' needs transformers {MIN_VERSION} or newer to answer, and this environment has {release} "
            "(vLLM pins it). Use `model: vllm` here, or another environment for `model: hf`."
        )
