"""The reasoning blocks that models write before their answer, and the table of the markers around them.

The table serves the thinking budget (`decoding.engine.thinking_budget`) and the extraction of answers
(`icl.metrics.machinery.answer_extraction`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TAGS = (
    "think mm:think thinking thought thoughts reasoning reason reflection scratchpad analysis seed:think cot".split()  # noqa: SIM905
)
_END_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|eom_id|end|end_of_text|end_of_sentence|end▁of▁sentence|eos|return|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<eos>|<end_of_turn>|<end_of_utterance>|<pad>",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)\s*(?:<\|message\|>)?")
_BARE_CHANNELS = re.compile(
    r"^analysis(?=[A-Z]).*assistantfinal", re.DOTALL
)  # the markers of channels without their tokens


@dataclass(frozen=True)
class ReasoningMarkers:
    """The texts around the reasoning block of a family of models.

    Attributes:
        opening: Begins the block; '' if an answer begins with its reasoning.
        closing: Ends it.
        leads_on: Follows a closing marker that a thinking budget forces.
        leads_up: Precedes it.
        answer_end: Follows the answer, '' if the end of the turn does.
    """

    opening: str
    closing: str
    leads_on: str = "\n\n"
    leads_up: str = "\n"
    answer_end: str = ""

    @property
    def forced(self) -> str:
        """What a thinking budget writes to end the block."""
        return f"{self.leads_up}{self.closing}{self.leads_on}"

    @property
    def in_outputs(self) -> "ReasoningMarkers":
        """The markers that outputs have instead, so that whoever reads them knows the markers: <think> if they are not
        in the table.
        """
        return self if any(self.opening == one.opening for one in REASONING_MARKERS) else TAG_MARKERS[0]


CHANNEL_MARKERS = ReasoningMarkers(
    "<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant<|channel|>final<|message|>"
)
"""The channels of gpt-oss. The closing marker also ends other messages, so extraction reads the name of the channel."""

TAG_MARKERS: tuple[ReasoningMarkers, ...] = (
    *(ReasoningMarkers(f"<{tag}>", f"</{tag}>") for tag in _TAGS),
    ReasoningMarkers("[THINK]", "[/THINK]"),  # Magistral
    ReasoningMarkers("◁think▷", "◁/think▷"),  # Kimi-VL
    ReasoningMarkers("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1
    ReasoningMarkers("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ReasoningMarkers("<unused94>thought", "<unused95>"),  # MedGemma
    ReasoningMarkers("<|unused94|>thought", "<|unused95|>"),
    ReasoningMarkers("<|channel>thought", "<channel|>"),  # Gemma
)
REASONING_MARKERS = (*TAG_MARKERS, CHANNEL_MARKERS)

FORCED_TOKENS = 32
"""An upper bound for the tokens of `ReasoningMarkers.forced`."""

_OPENS = re.compile("|".join(re.escape(markers.opening) for markers in TAG_MARKERS), re.IGNORECASE)
_CLOSES = re.compile("|".join(re.escape(markers.closing) for markers in TAG_MARKERS), re.IGNORECASE)


@dataclass(frozen=True)
class SplitOutput:
    """An output in its parts.

    Attributes:
        answer: The text after all reasoning blocks, up to the first end token.
        has_reasoning: There is a block.
        unclosed: The text of a block that never closes, without an answer before it. Empty otherwise.
    """

    answer: str
    has_reasoning: bool = False
    unclosed: str = ""


def max_output_tokens(max_new_tokens: int, max_thinking_tokens: int | None) -> int:
    """The largest number of tokens of reasoning, forced marker and answer together."""
    return max_new_tokens + (0 if max_thinking_tokens is None else max_thinking_tokens + FORCED_TOKENS)


def known_markers(own: ReasoningMarkers | None = None) -> tuple[ReasoningMarkers, ...]:
    """The table, after the markers of a chat template of its own."""
    return REASONING_MARKERS if own is None else (own, *REASONING_MARKERS)


def opened_block(rendered: str, own: ReasoningMarkers | None = None) -> ReasoningMarkers | None:
    """Markers of the block that a prompt opens at its end, as some chat templates do. None if it opens none."""
    return next((markers for markers in known_markers(own) if rendered.rstrip().endswith(markers.opening)), None)


def split_reasoning(output: str) -> SplitOutput:
    """The reasoning blocks and the answer of an output. A block that never closes leaves the text before it."""
    channels = list(_CHANNEL.finditer(output))
    if channels:
        final = [match for match in channels if match[1] == "final"]
        return SplitOutput(_until_end_token(output[final[-1].end() :]) if final else "", True)
    if bare := _BARE_CHANNELS.match(output):
        return SplitOutput(_until_end_token(output[bare.end() :]), True)
    closes = list(_CLOSES.finditer(output))
    rest = output[closes[-1].end() :] if closes else output
    opened = _OPENS.search(rest)
    if not opened:
        return SplitOutput(_until_end_token(rest), bool(closes))
    before = rest[: opened.start()]
    return SplitOutput(_until_end_token(before), True, "" if before.strip() else rest[opened.end() :])


def reasoning_text(output: str) -> str:
    """The first reasoning block of an output, without its markers. A prompt may have opened it."""
    body = output.lstrip()
    markers = next((one for one in REASONING_MARKERS if body.startswith(one.opening)), None)
    if markers is not None:
        return body.removeprefix(markers.opening).partition(markers.closing)[0].rstrip()
    closing = _CLOSES.search(output)
    return output[: closing.start() if closing else None].rstrip()


def with_table_markers(output: str, block: ReasoningMarkers, ends: Sequence[str]) -> str:
    """The output with the markers of the table in place of others.

    A block without an opening marker is what stands before its closing marker. Without that, the output is an answer.

    ends: Texts that begin the end of a turn. The answer has none of them.
    """
    opening, closing = block.in_outputs.opening, block.in_outputs.closing
    text = output
    if block.opening or block.closing in output:
        text = text.replace(block.opening, opening, 1).replace(block.closing, f"{closing}{block.leads_on}", 1)
    reasoning, marker, answer = text.rpartition(closing)
    places = [place for end in (*ends, block.answer_end) if end and (place := answer.find(end)) >= 0]
    return f"{reasoning}{marker}{answer[: min(places)]}".strip() if places else text


def _until_end_token(text: str) -> str:
    return next((part.strip() for part in _END_TOKEN.split(text) if part.strip()), "")
