"""What all random checkpoints have in common: sizes, a tokenizer of bytes, a chat template."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = 320
"""Vocabulary: bytes, special tokens, and ids without a token."""

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}SLOT{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</turn>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = ("<system>", "<user>", "<assistant>", "</turn>")


class Made(NamedTuple):
    """slot: what stands in a text for one image.

    published: what published configs have and transformers writes no more or under another name, for other readers.
    """

    config: Any
    processor: Any
    slot: str
    published: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Size:
    """width, layers: of the language model. tower: width of the vision model. window: of sliding attention."""

    width: int = 64
    layers: int = 3
    tower: int = 32
    window: int = 24


def tokenizer(
    named: dict[str, str], more: tuple[str, ...] = (), unused: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """named: attribute -> special token, which the tokenizer then has an attribute for. more: special tokens alone.

    unused: words that the vocabulary has and no text is cut into, for those who look them up.
    """
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *unused]
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = dict.fromkeys(["<pad>", "<eos>", *TURNS, *named.values(), *more])
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", padding_side="left", extra_special_tokens=named
    )


def text_settings(words: PreTrainedTokenizerFast, size: Size, **more: Any) -> dict[str, Any]:
    """Of a language model, as most text configs name them."""
    return {
        "vocab_size": WORDS,
        "hidden_size": size.width,
        "intermediate_size": 2 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": False,
    } | more


def tower_settings(size: Size, **more: Any) -> dict[str, Any]:
    """Of a vision model, as most vision configs name them."""
    return {
        "hidden_size": size.tower,
        "intermediate_size": 2 * size.tower,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    } | more


def merging_tower(size: Size, patch: int, **more: Any) -> dict[str, Any]:
    """Of a vision model that merges neighboring patches into one token, as Qwen's configs name them."""
    own = {"depth": 2, "hidden_size": size.tower, "num_heads": 2, "patch_size": patch, "out_hidden_size": size.width}
    return own | more


def sections(size: Size, *shares: int) -> list[int]:
    """Of M-RoPE: how many of a head's angles turn with time, height and width."""
    return [size.width // share for share in shares]


Maker = Callable[[Size], Made]
