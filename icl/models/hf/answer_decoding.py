"""The text of an output: without special tokens, but with the markers of its reasoning block, which may be some."""

from collections.abc import Sequence
from typing import Any

from icl.models.hf.template_facts import TemplateFacts
from icl.text.reasoning_blocks import TAG_MARKERS, with_table_markers


class AnswerDecoder:
    """Decoder of outputs.

    Markers that are not in the table of `icl.text.reasoning_blocks` are written as <think> and </think>, so that whoever
    reads the text needs no chat template.
    """

    def __init__(self, tokenizer: Any, facts: TemplateFacts) -> None:
        self.tokenizer, self.facts = tokenizer, facts
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {number: str(token.content) for number, token in added.items() if token.special}
        texts = {text for one in TAG_MARKERS for text in (one.opening, one.closing)}
        if facts.block is not None:
            texts |= {facts.block.opening, facts.block.closing, facts.answer_start}
        self.kept = {number: token for number, token in special.items() if any(token in text for text in texts)}
        """Id -> text of each special token that is within a marker."""
        self.dropped = special.keys() - self.kept.keys()

    def text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        if not self.kept:
            return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
        text = str(self.tokenizer.decode([token for token in tokens if token not in self.dropped])).strip()
        block = self.facts.block
        if block is None or block.in_outputs is block:
            return text
        return with_table_markers(text.removeprefix(self.facts.answer_start.strip()), block, tuple(self.kept.values()))
