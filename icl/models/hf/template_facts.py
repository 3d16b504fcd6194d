"""What a chat template does, read from about twenty conversations that it renders. No model is named.

    answered     <user>Q</user><assistant><think>⏎⏎</think>⏎⏎A     what stands between Q and A, and in a demonstration
    reasoned     <user>Q</user><assistant><think>⏎R⏎</think>⏎⏎A    the markers around R
    with system  <system>S</system><user>Q</user>                  the place of S, and what it replaces

Texts of the conversations are private characters that no template contains.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

from icl.models.hf import Message, typed_turn
from icl.models.hf.conversations import rendered_as_read
from icl.parameter_files import cache_folder, write_cache
from icl.text.json_text import canonical_digest
from icl.text.reasoning_blocks import REASONING_MARKERS, TAG_MARKERS, ReasoningMarkers, opened_block
from icl.types import EmptyBlocks

Render = Callable[[Sequence[Message], bool], str | None]
"""The rendered messages, up to the next answer if the second argument is true; None if the template refuses them."""

SystemTurn = Literal["own turn", "in the user turn", "moved", "dropped", "refused"]
Reasoning = Literal["kept", "removed", "after an empty block", "refused"]

REVISION = 3
"""Increased if facts are read in another way, so that kept ones are read again."""

QUESTIONS = "\ue001", "\ue002"
ANSWERS = "\ue003", "\ue004"
SYSTEM, REASONING = "\ue005", "\ue006"
WORDS = re.compile(r"[^\W\d_]{2,} [^\W\d_]{2,}")
"""Two words in a row, which no marker of a turn has."""
_MARK = r"(\[[A-Z]+(?: [A-Z]+)+\])"
MARKED_ANSWER = re.compile(
    r"(?i:(?:^|[.!?;,:\n])\s*(?:(?:and|then|finally|please|you|must|should|will|always)\s+)*"
    r"(?:write|provide|give|state|put|present|answer|respond|reply|output|begin|start)\b)[^.!?;,\[]*"
    rf"{_MARK}(?:\s*(?:\.\.\.|…)\s*{_MARK})?"
)
"""What the system prompt of a template asks for around an answer: [START] ... [END], or [START] alone, in words.

A clause that begins with the request to write it has to precede it: "Never reveal the [SYSTEM PROMPT]" marks no answer.
"""


@dataclass(frozen=True)
class TemplateFacts:
    """What a chat template does.

    Attributes:
        accepts_images: Whether it renders a turn with an image, and writes one placeholder for it.
        accepts_turns: Whether it renders demonstrations as turns.
        prompt_end: What a prompt has after the query's text, up to where the model goes on.
        answer_start: What it writes between a prompt and its answer.
        demo_start: What a demonstration has between its question and its answer.
        block: Markers of the reasoning block that it writes or names, or None.
        opens_block: Whether a prompt ends in an open reasoning block.
        system: What becomes of a system turn.
        default_system: What it writes before the first turn by itself, if that has words.
        replaces_default: Whether a system turn replaces that text.
        keeps_white_space: Whether white space between texts and images stays.
        images_first: Whether it puts the images of a turn before its texts.
        reasoning: What becomes of a reasoning block in the text of a demonstration.
        accepts_reasoning: Whether it writes the field `reasoning_content` of a demonstration.
        writes_date: Whether a prompt has the date of the day on which it is rendered.
        arguments: The names that `model.template` can set.
    """

    accepts_images: bool = False
    accepts_turns: bool = False
    prompt_end: str = ""
    answer_start: str = ""
    demo_start: str = ""
    block: ReasoningMarkers | None = None
    opens_block: bool = False
    system: SystemTurn = "refused"
    default_system: str = ""
    replaces_default: bool = False
    keeps_white_space: bool = True
    images_first: bool = False
    reasoning: Reasoning = "refused"
    accepts_reasoning: bool = False
    writes_date: bool = False
    arguments: tuple[str, ...] = ()

    @property
    def query_start(self) -> str:
        """What the query has between its question and its answer."""
        return self.prompt_end + self.answer_start

    @property
    def empty_block(self) -> str:
        """The empty reasoning block that it writes before an answer of the query, '' if it writes none."""
        query = self.query_start
        if self.demos_lack_block and query.startswith(self.demo_start):
            return query[len(self.demo_start) :]
        markers = () if self.block is None else (self.block.opening, self.block.closing)
        return query[min(places) :] if (places := [i for one in markers if (i := query.rfind(one)) >= 0]) else ""

    @property
    def demos_lack_block(self) -> bool:
        """Whether the query has an empty reasoning block before its answer, and demonstrations have none."""
        return self.accepts_turns and len(self.query_start.strip()) > len(self.demo_start.strip())

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> "TemplateFacts":
        """The inverse of `to_dict`."""
        block = facts["block"]
        own = {"block": None if block is None else ReasoningMarkers(**block), "arguments": tuple(facts["arguments"])}
        return cls(**{**facts, **own})


def with_empty_blocks(mode: EmptyBlocks, text: str, answers: Sequence[int], facts: TemplateFacts) -> str:
    """A rendered prompt with an empty reasoning block before all answers, or before none.

    Args:
        mode: Which answers follow a block.
        text: The prompt as the template writes it.
        answers: The places of the answers of demonstrations.
        facts: What the template does; it has an empty block.
    """
    block, whole = facts.empty_block, text + facts.answer_start
    if mode == "nowhere":
        text = whole.removesuffix(block)
    elif mode == "everywhere":
        text = whole
    for place in sorted(answers, reverse=True):
        before = text[:place].removesuffix(block) if mode != "as_template" else text[:place]
        text = before + (block if mode == "everywhere" else "") + text[place:]
    return text


def kept_facts(identity: Any, read: Callable[[], TemplateFacts]) -> TemplateFacts:
    """The facts from the cache folder, or those that `read` returns, which are then kept there.

    identity: What they depend on besides REVISION and the version of transformers.
    """
    digest = canonical_digest([identity, REVISION, version("transformers")])
    path = cache_folder() / "template_facts" / f"{digest[:32]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        return TemplateFacts.from_dict(json.loads(path.read_text(encoding="utf-8")))
    facts = read()
    write_cache(path, facts.to_dict())
    return facts


def read_facts(
    render: Render, slot: str, arguments: tuple[str, ...], source: str, render_other_day: Render
) -> TemplateFacts:
    """The facts of a template.

    Args:
        render: Renders messages.
        slot: The placeholder of an image.
        arguments: The names of the template's arguments.
        source: The text of the template.
        render_other_day: Renders messages with another date.
    """
    one = render([user(None, QUESTIONS[0])], True)
    has_images = bool(slot) and one is not None and one.count(slot) == 1
    pieces = (None,) if has_images else ()
    turns = [user(*pieces, QUESTIONS[0]), bot(ANSWERS[0]), user(*pieces, QUESTIONS[1])]
    facts = _Reader(render, slot if has_images else "", source, turns).read()
    return replace(facts, arguments=arguments, writes_date=render(turns[:1], True) != render_other_day(turns[:1], True))


@dataclass(frozen=True)
class _Reader:
    """Renders conversations. turns: two questions and an answer, with images if the template takes them."""

    render: Render
    slot: str
    source: str
    turns: Sequence[Message]

    def read(self) -> TemplateFacts:
        (first, _), (answer, _) = QUESTIONS, ANSWERS
        prompt, demos = self.text(*self.turns[:1]), self.text(*self.turns)
        if prompt is None:
            return TemplateFacts()
        answered = self.text(*self.turns[:2], answers=False) or ""
        start, is_answered, _ = answered.removeprefix(prompt).partition(answer)
        answer_start = start.rstrip(" ") if is_answered and answered.startswith(prompt) else ""
        user_start = between(demos or "", answer, QUESTIONS[1])
        head = prompt.partition(self.slot or first)[0]
        preamble = head.removesuffix(common_end(head, user_start.partition(self.slot)[0] if self.slot else user_start))
        default = preamble if WORDS.search(preamble) else ""
        block, opens = self.block(prompt, answer_start, default)
        if opens and block is not None and not answer_start:
            answer_start = block.forced
        system, replaces = self.system(default)
        return TemplateFacts(
            accepts_images=bool(self.slot),
            accepts_turns=demos is not None,
            prompt_end=prompt.partition(first)[2],
            answer_start=answer_start,
            demo_start=between(demos or "", first, answer).rstrip(" "),
            block=block,
            opens_block=opens,
            system=system,
            default_system=default,
            replaces_default=replaces,
            keeps_white_space=self.keeps_white_space(),
            images_first=self.images_first(),
            reasoning=self.reasoning(block),
            accepts_reasoning=REASONING in (self.text(self.turns[0], bot(answer, REASONING), self.turns[2]) or ""),
        )

    def text(self, *messages: Message, answers: bool = True) -> str | None:
        text, role = rendered_as_read(lambda conversation: self.render(conversation, answers), messages)
        return text if role is None else None

    def block(self, prompt: str, answer_start: str, default: str) -> tuple[ReasoningMarkers | None, bool]:
        """The markers of the reasoning block, and whether the prompt ends in one that is open."""
        listed, answer, (first, second) = opened_block(prompt), ANSWERS[0], QUESTIONS
        users = self.text(user(first), user(second)) or self.text(user(first), bot(answer), user(second)) or ""
        user_start = re.split(f"{first}|{answer}", users.partition(second)[0])[-1]
        reasoned = self.text(self.turns[0], bot(answer, REASONING), answers=False) or ""
        head, has_block, rest = reasoned.partition(REASONING)
        end, is_answered, _ = rest.partition(answer)
        if has_block and is_answered and end.strip():
            opening = listed.opening if listed else opening_of(head, user_start)
            if opening and prompt.startswith(head.rstrip()) and not prompt[len(head.rstrip()) :].strip():
                return markers_of(opening, end), True
            own = head.removeprefix(prompt) if head.startswith(prompt) else opening_of(head, user_start)
            if own.strip():
                return markers_of(own.strip(), end), False
        if listed is not None:
            return (markers_of(listed.opening, answer_start) if listed.closing in answer_start else listed), True
        opening = opening_of(prompt, user_start) if answer_start.strip() else ""
        if opening and is_marker(opening) and is_marker(answer_start.strip()):
            return markers_of(opening, answer_start), True
        if marked := MARKED_ANSWER.search(default):
            return ReasoningMarkers("", marked[1], "\n", answer_end=marked[2] or ""), True
        return next((one for one in TAG_MARKERS if one.opening in self.source), None), False

    def system(self, default: str) -> tuple[SystemTurn, bool]:
        """What becomes of a system turn, and whether it replaces the default one."""
        turn = typed_turn("system", SYSTEM)
        text, plain = self.text(turn, *self.turns), self.text(*self.turns)
        if text is None or plain is None:
            return "refused", False
        words = WORDS.search(default)
        replaces = words is not None and words[0] not in text
        place, first = text.find(SYSTEM), text.find(QUESTIONS[0])
        if place < 0:
            return "dropped", replaces
        if place > first:
            return "moved", replaces
        own = common_end(plain.partition(self.slot or QUESTIONS[0])[0], text[: text.find(self.slot or QUESTIONS[0])])
        return ("in the user turn" if SYSTEM in own or not own.strip() else "own turn"), replaces

    def keeps_white_space(self) -> bool:
        """Whether white space around images stays, as a delimiter between blocks of a turn."""
        if not self.slot:
            return True
        one, two = f"{QUESTIONS[0]} \n\n", f" {QUESTIONS[1]}"
        text = self.text(user(None, one, None, two))
        return text is None or (one in text and two in text)

    def images_first(self) -> bool:
        """Whether an image comes before the text that precedes it in its turn."""
        (first, second), slot = QUESTIONS, self.slot
        texts = [self.text(user(first, None)), self.text(user(first, None, second))] if slot else []
        return any(text is not None and slot in text and text.find(slot) < text.find(first) for text in texts)

    def reasoning(self, block: ReasoningMarkers | None) -> Reasoning:
        """What becomes of a block that stands in the text of a demonstration."""
        markers = block or REASONING_MARKERS[0]
        written = f"{markers.opening}\n{REASONING}{markers.forced}{ANSWERS[0]}"
        text = self.text(self.turns[0], bot(written), self.turns[2])
        if text is None:
            return "refused"
        if REASONING not in text:
            return "removed"
        before = between(text, QUESTIONS[0], REASONING)
        return "after an empty block" if markers.closing in before else "kept"


user = partial(typed_turn, "user")


def bot(text: str, reasoning: str | None = None) -> Message:
    """An assistant turn, with reasoning under each name that templates read."""
    names = ("reasoning_content", "reasoning", "thinking")
    more = {} if reasoning is None else dict.fromkeys(names, reasoning)
    return typed_turn("assistant", text) | more


def markers_of(opening: str, end: str) -> ReasoningMarkers:
    """The markers of a block that a template ends with `end`."""
    closing = end.strip()
    before, _, after = end.partition(closing)
    return ReasoningMarkers(opening, closing, after, before)


def opening_of(text: str, user_start: str) -> str:
    """The marker at the end of a text that begins an answer: what it has more than the start of a user turn.

    <|im_end|>⏎<|im_start|>user⏎ and <|im_end|>⏎<|im_start|>assistant⏎<think>⏎: <think>
    """
    start = text.rpartition(QUESTIONS[0])[2]
    same = common_start(start, user_start)
    rest, end = start[same:], user_start[same:]
    tail = next((end[i:] for i in range(len(end)) if end[i:] in rest), "")
    return rest.partition(tail)[2].strip() if tail else ""


def is_marker(text: str) -> bool:
    """Whether a text begins with a bracket."""
    return text.startswith(("<", "[", "◁"))


def between(text: str, first: str, second: str) -> str:
    """What a text has between two others."""
    return text.partition(first)[2].partition(second)[0]


def common_start(one: str, other: str) -> int:
    """The length of the longest text that both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def common_end(one: str, other: str) -> str:
    """The longest text that both end with."""
    length = common_start(one[::-1], other[::-1])
    return one[len(one) - length :]
