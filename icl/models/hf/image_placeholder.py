"""The placeholder of an image in a rendered prompt, and the token ids that a processor writes for it.

A processor usually names both. Where it does not, the tokenizer or the config does:

    processor.image_token       else tokenizer.image_token, else the token of the first id below. If the template
                                writes another token than the processor, image_placeholder_token comes first
    processor.image_token_ids   else processor.image_token_id, else the config's image_token_id (or image_token_index),
                                else the id of the placeholder

The ids of the config are always included: some processors declare one token and write another. They alone are patches,
whose embeddings the features of images replace. Others, such as the end of a row, are markers.

A processor without an attribute `image_token` replaces no placeholder: it takes images among the texts.
"""

from dataclasses import dataclass
from typing import Any

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
    """The placeholder of a processor.

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


def image_token_problem(config: Any) -> str | None:
    """Why images have no tokens in prompts of a model, according to its config. None if they have."""
    text = config.get_text_config(decoder=True)
    if not any(getattr(text, name, None) for name in CROSS_ATTENTION_KEYS):
        return None
    return "this model reads images by cross-attention, so they have no tokens that could be named. Name texts instead."
