"""The thinking budget: a limit of the reasoning block that does not consume the tokens of the answer.

If the block is still open at its limit, the next tokens are forced to be its end marker. This is the budget forcing of
s1 (Muennighoff et al., 2025). The answer then has its own limit, `max_new_tokens`.

    P <think> a b c d </think> red      P: the prompt, max_thinking_tokens: 5, max_new_tokens: 1
      |---- 5 -----|  forced   | 1 |

Only one block is cut. Whatever follows counts as answer, so an output ends after both budgets and the forced marker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from icl import Prompt, ThinkingEnd, TokenPart
from icl.text.reasoning_blocks import ReasoningMarkers, known_markers, opened_block

BLANK_TOKENS = 4
"""So many blank tokens between a block and its answer count as neither."""

MARKER_WINDOW = 24
"""Tokens at the end of an output that are searched for a marker. The longest marker has fewer."""


class Detokenizer(Protocol):
    """Decoder of token ids: a model, or its renderer alone."""

    @property
    def stop_tokens(self) -> frozenset[int]: ...
    def text(self, tokens: Sequence[int]) -> str: ...


@dataclass
class Thinking:
    """The reasoning blocks of one output, and what its budgets still allow.

    Attributes:
        tokenizer: The `transformers` tokenizer of the model.
        limit: The thinking budget in tokens, with the markers that the model writes itself.
        markers: Markers of the block that is open, or None.
        num_tokens: Tokens in blocks.
        num_answer_tokens: Tokens outside, without the forced ones.
        forced: Tokens that come next, whatever the model prefers.
        end: How the last block ended.
        blocks: Markers, first token and end of each finished block, without its opening marker.
        own: Markers of the model's chat template, besides the table.
    """

    tokenizer: Any
    limit: int
    markers: ReasoningMarkers | None = None
    num_tokens: int = 0
    num_answer_tokens: int = 0
    forced: list[int] = field(default_factory=list)
    end: ThinkingEnd = ""
    blocks: list[tuple[ReasoningMarkers, int, int]] = field(default_factory=list)
    own: ReasoningMarkers | None = None
    _start: int = 0  # the first token that the search for a marker reads
    _is_forcing: bool = False
    _forced_answer: int | None = None  # the first token after a forced closing marker

    def __post_init__(self) -> None:
        if self.markers is not None:
            self.end = "open"
            self._close_at_limit()

    @property
    def is_answering(self) -> bool:
        """Whether the last token belongs to the answer."""
        return self.markers is None and self.num_answer_tokens > 0

    def read(self, tokens: Sequence[int]) -> None:
        """Counts the last token of the output, and opens or closes a block after it."""
        if self._is_forcing:
            assert self.markers is not None
            if self._forced_answer is None and self.markers.closing in self._window(tokens):
                self._forced_answer = len(tokens)
            if not self.forced:
                self._finish_block(tokens, "cut")
        elif self.markers is None:
            self.num_answer_tokens += not (self.end and self._is_blank(tokens, self._start))
            if self.end != "cut":
                self._find_opening(tokens)
        else:
            self.num_tokens += 1
            if self.markers.closing in self._window(tokens):
                self._finish_block(tokens, "closed")
            else:
                self._close_at_limit()

    def part(self, tokens: Sequence[int]) -> TokenPart:
        """The part of the output that the last token, which was read, leads on to.

        The answer begins after the closing marker, whether the model wrote it or the limit forced it.
        """
        if self._forced_answer is not None:
            return TokenPart("answer", self._is_blank(tokens, self._forced_answer))
        if self.markers is not None:
            return TokenPart("think", self._is_blank(tokens, self._start))
        if self.end:
            return TokenPart("answer", self._is_blank(tokens, self._start))
        return TokenPart("" if self.may_open(tokens) else "answer")

    def may_open(self, tokens: Sequence[int]) -> bool:
        """Whether the output so far is the beginning of an opening marker."""
        if self.end or len(tokens) > MARKER_WINDOW:
            return False
        text = self._window(tokens).strip()
        return any(markers.opening.startswith(text) for markers in known_markers(self.own))

    def text(self, detokenizer: Detokenizer, tokens: Sequence[int]) -> str:
        """The output with the markers of its blocks, which are special tokens of some models."""
        text, start = detokenizer.text(tokens), 0
        blocks = [(markers.in_outputs, first, end) for markers, first, end in self.blocks]
        if all(markers.closing in text for markers, _, _ in blocks):
            return text
        parts: list[str] = []
        for markers, first, end in blocks:
            parts += [detokenizer.text(tokens[start:first]), markers.opening if first else ""]
            parts += [detokenizer.text(tokens[first:end]), markers.forced]
            start = end
        return "".join([*parts, detokenizer.text(tokens[start:])])

    def _is_blank(self, tokens: Sequence[int], start: int) -> bool:
        """Whether the tokens from `start` on are few and blank."""
        return len(tokens) - start <= BLANK_TOKENS and not self.tokenizer.decode(list(tokens[start:])).strip()

    def _window(self, tokens: Sequence[int], size: int = MARKER_WINDOW) -> str:
        return str(self.tokenizer.decode(list(tokens[max(self._start, len(tokens) - size) :])))

    def _find_opening(self, tokens: Sequence[int]) -> None:
        window = self._window(tokens)
        self.markers = next(
            (markers for markers in known_markers(self.own) if markers.opening and markers.opening in window), None
        )
        if self.markers is None:
            return
        length = 1
        while self.markers.opening not in self._window(tokens, length):
            length += 1
        self.num_answer_tokens -= length
        self.num_tokens += length
        self._start, self.end = len(tokens), "open"
        self._close_at_limit()

    def _close_at_limit(self) -> None:
        if self.markers is not None and self.num_tokens >= self.limit:
            self.forced = list(self.tokenizer.encode(self.markers.forced, add_special_tokens=False))
            self._is_forcing = True

    def _finish_block(self, tokens: Sequence[int], end: ThinkingEnd) -> None:
        assert self.markers is not None
        self.blocks.append((self.markers, self._start, len(tokens)))
        self._start, self.end, self.markers, self._is_forcing = len(tokens), end, None, False


class Renderer(Protocol):
    """Writes prompts and tokenizes: a model, or its renderer alone."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def reasoning_block(self) -> ReasoningMarkers | None: ...
    def render(self, prompt: Prompt) -> str | None: ...


def begin_thinking(model: Renderer, prompt: Prompt, limit: int | None) -> Thinking | None:
    """The state of an answer under a thinking budget, or None without one.

    Raises:
        ModelError: The model has no tokenizer.
    """
    if limit is None:
        return None
    own = model.reasoning_block
    return Thinking(model.tokenizer, limit, opened_block(model.render(prompt) or "", own), own=own)
