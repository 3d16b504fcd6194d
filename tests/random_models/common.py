"""Common parts of all random checkpoints: sizes, a byte tokenizer, a chat template."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = 320
"""The vocabulary size: bytes, special tokens, and unused ids."""

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}SLOT{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}{% endif %}</turn>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = ("<system>", "<user>", "<assistant>", "</turn>")


class Made(NamedTuple):
    """The parts of a random checkpoint.

    Attributes:
        config: The config.
        processor: The processor.
        slot: The text of one image in a prompt.
        published: Keys of published configs that transformers no longer writes, or writes under another name.
    """

    config: Any
    processor: Any
    slot: str
    published: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Size:
    """The size of a checkpoint.

    Attributes:
        width: The width of the language model.
        layers: Its number of layers.
        tower: The width of the vision model.
        window: The length of sliding-window attention in tokens.
    """

    width: int = 64
    layers: int = 3
    tower: int = 32
    window: int = 24


def tokenizer(
    named: dict[str, str], more: tuple[str, ...] = (), unused: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A byte tokenizer.

    Args:
        named: The special token of each attribute of the tokenizer.
        more: Further special tokens.
        unused: Tokens that are in the vocabulary, but in no text.
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
    """The parameters of a language model under their usual names."""
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
    """The parameters of a vision model under their usual names."""
    return {
        "hidden_size": size.tower,
        "intermediate_size": 2 * size.tower,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    } | more


def merging_tower(size: Size, patch: int, **more: Any) -> dict[str, Any]:
    """The parameters of a vision model that merges patches into one token, under the names of Qwen's configs."""
    own = {"depth": 2, "hidden_size": size.tower, "num_heads": 2, "patch_size": patch, "out_hidden_size": size.width}
    return own | more


def sections(size: Size, *shares: int) -> list[int]:
    """The numbers of M-RoPE angles of a head for time, height and width."""
    return [size.width // share for share in shares]


Maker = Callable[[Size], Made]
