"""The text of an output: no special tokens but those of the markers of its reasoning block."""

from collections.abc import Sequence
from typing import Any

from icl.models.hf.template_facts import TemplateFacts
from icl.text.reasoning_blocks import TAG_MARKERS, with_table_markers


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
