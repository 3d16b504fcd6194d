"""Prompts of base models, and the tokenizer of a language model that reads text only, in the place of a processor.

A base model has no chat template. Its prompts are then plain text, as in papers on such models: one user turn, in which
a composer has written demonstrations and query, and after it the answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from icl.models.hf.template_facts import TemplateFacts
from icl.text.reasoning_blocks import TAG_MARKERS, with_table_markers

PLAIN_TEXT = (
    "{% for message in messages %}"
    "{% if message['role'] != ('user', 'assistant', '')[[loop.index0, 2] | min] %}{{ raise_exception("
    "'the checkpoint has no chat template, so a prompt is one text: use a composer of a single user turn, such as "
    "interleaved') }}{% endif %}"
    "{{ ' ' if loop.index0 }}{{ message['content'] }}{% endfor %}"
)
"""The chat template of a checkpoint that has none: the text of one turn, and its answer after a blank."""


def plain_text(slot: str) -> str:
    """`PLAIN_TEXT` for turns of images and texts. slot: the placeholder of an image."""
    item = "{% if item['type'] == 'image' %}SLOT{% else %}{{ item['text'] }}{% endif %}".replace("SLOT", slot)
    items = "{% for item in message['content'] %}" + item + "{% endfor %}"
    return PLAIN_TEXT.replace("{{ message['content'] }}", items)


def is_plain_text(template: Any) -> bool:
    """Whether a checkpoint has no chat template of its own."""
    return str(template).startswith(PLAIN_TEXT.partition("{{ message['content'] }}")[0])


class TextProcessor:
    """The parts of a processor that a tokenizer has.

    Attributes:
        tokenizer: The tokenizer.
        chat_template: Its chat template, or `PLAIN_TEXT`.
    """

    image_processor = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template: Any = tokenizer.chat_template or PLAIN_TEXT

    @property
    def adds_special_tokens(self) -> bool:
        """Whether a rendered prompt lacks its start token. A chat template writes it where the model needs one."""
        return self.chat_template is PLAIN_TEXT

    def apply_chat_template(self, conversation: Sequence[Mapping[str, Any]], **arguments: Any) -> str:
        """The rendered conversation. arguments: those of the tokenizer's method."""
        template = self.chat_template
        return str(
            self.tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=False, **arguments)
        )


# The text of an output: no special tokens but those of the markers of its reasoning block.


class AnswerDecoder:
    """Decoder of outputs.

    Markers that are not in the table of `icl.text.reasoning_blocks` are written as <think> and </think>, so that who
    reads the text needs no chat template.
    """

    def __init__(self, tokenizer: Any, facts: TemplateFacts) -> None:
        self.tokenizer, self.facts = tokenizer, facts
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {number: str(token.content) for number, token in added.items() if token.special}
        texts = {text for one in TAG_MARKERS for text in (one.opening, one.closing)}
        if facts.block is not None:
            texts |= {facts.block.opening, facts.block.closing, facts.block.answer_end, facts.answer_start}
        self.marker_tokens = {
            number: token for number, token in special.items() if any(token in text for text in texts)
        }
        """Id -> text of each special token that is within a marker."""
        self.dropped = special.keys() - self.marker_tokens.keys()

    def text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        block = self.facts.block
        has_table_markers = block is None or block.in_outputs is block
        if not self.marker_tokens and has_table_markers:
            return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
        text = str(self.tokenizer.decode([token for token in tokens if token not in self.dropped])).strip()
        if block is None or has_table_markers:
            return text
        return with_table_markers(
            text.removeprefix(self.facts.answer_start.strip()), block, tuple(self.marker_tokens.values())
        )
