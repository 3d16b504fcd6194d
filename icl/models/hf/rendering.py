"""Rendering by a checkpoint's own chat template: text with one placeholder for each image, then token ids.

The number of placeholders is compared with the number of images, and every text of the prompt must occur in order. So a
template that drops a system turn raises an error before any forward pass. Data that contains a chat marker also does
(`icl.models.chat_messages`). Where a template moves images to the front, they are written within the texts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import cached_property, lru_cache
from typing import Any

from icl import EmptyBlocks, LRUByteCache, ModelError, Part, Prompt, Turn, jinja2, transformers
from icl.models.chat_messages import check_markers, marker_pattern
from icl.models.hf import TextProcessor, argument_names, image_placeholder, with_day
from icl.models.hf.conversations import (
    Message,
    Piece,
    Script,
    SlotText,
    as_strings,
    images_in_texts,
    messages,
    rendered_as_read,
    script,
)
from icl.models.hf.template_facts import TemplateFacts, read_facts, with_empty_blocks
from icl.models.hf.template_process import PROCESS, TemplateLimitError, TemplateRefusedError
from icl.text.reasoning_blocks import REASONING_MARKERS, ReasoningMarkers, opened_block, split_reasoning

CACHED_TEXTS = 4096
"""Number of rendered texts in the cache."""

CACHED_ID_BYTES = 64 * 2**20
"""Size of the cache of token ids."""

ANSWER = "\ue000"
"""Stands for any answer, to find what a template writes before one: a private character that no template contains."""

UNDEFINED = re.compile(r"UndefinedError: '(\w+)' is undefined")
"""Jinja's error for a variable without a value."""

ID_BYTES = 40
"""Size of a token id in a tuple: the number and its reference."""


class PromptRenderer:
    """Renderer and tokenizer of prompts, by one processor.

    name: the checkpoint, for error messages. trusted: whether its chat template ships with the toolkit, so that it is
    rendered in this process and without limits. arguments: of the chat template. day: the date that the template may
    write; None: today's.
    """

    def __init__(
        self,
        processor: Any,
        name: str,
        trusted: bool = False,
        arguments: Mapping[str, Any] | None = None,
        day: date | None = None,
    ) -> None:
        self.processor, self.name, self.trusted = processor, name, trusted
        self.arguments, self.day = dict(arguments or {}), day or date.today()
        self.tokenizer = processor.tokenizer
        self.text_only = isinstance(processor, TextProcessor)
        self.slot: str = image_placeholder(processor).token
        self.marks = marker_pattern(self.tokenizer, self.slot)
        self._text = lru_cache(CACHED_TEXTS)(self._rendered)
        self._ids = LRUByteCache[str, tuple[int, ...]](CACHED_ID_BYTES, lambda ids: ID_BYTES * len(ids))
        self._option = lru_cache(CACHED_TEXTS)(self._option_ids)
        self._start = lru_cache(CACHED_TEXTS)(self._found_start)

    @cached_property
    def facts(self) -> TemplateFacts:
        """What the chat template does. Raises ModelError if it exceeds a limit."""
        try:
            arguments = argument_names(self)
        except ModelError:  # no prompt can be rendered, and its error says why
            arguments = ()
        other_day = PromptRenderer(
            self.processor, self.name, self.trusted, self.arguments, self.day - timedelta(days=400)
        )
        return read_facts(self._attempted, self.slot, arguments, self.template, other_day._attempted)

    @property
    def template(self) -> str:
        """The chat template. A processor may have several by name."""
        template = self.processor.chat_template
        return str(template.get("default", "") if isinstance(template, Mapping) else template)

    def text(self, prompt: Prompt) -> str:
        """The rendered prompt with its `answer_start`. Raises ModelError.

        Cached, because a prompt is counted before it is opened, and its branches often have the same text.
        """
        turns = self._script(prompt)
        text = self._text(turns)
        if prompt.empty_blocks != "as_template":
            text = self._with_blocks(prompt.empty_blocks, turns, text)
        check_markers(prompt, self.marks, self.name)
        return text + prompt.answer_start

    def _with_blocks(self, mode: EmptyBlocks, turns: Script, text: str) -> str:
        if not self.facts.empty_block:
            raise ModelError(
                f"{self.name}: composer.empty_blocks: {mode}: the chat template writes no empty reasoning block before "
                "an answer. Remove it."
            )
        return with_empty_blocks(mode, text, self._answer_places(turns, text), self.facts)

    def _answer_places(self, turns: Script, text: str) -> list[int]:
        """Where the answers of demonstrations are in a rendered prompt."""
        places, place = [], 0
        for role, pieces in turns:
            for number, piece in enumerate(pieces):
                written = piece.strip() if isinstance(piece, str) else self.slot if piece is None else piece.text
                place = text.find(written, place)
                places += [place] if role == "assistant" and number == 0 else []
                place += len(written)
        return places

    def answer_start(self, prompt: Prompt, reasoning: str = "") -> str:
        """What the template writes between the prompt and an answer, without the blank before the answer's first word.

            <assistant>⏎<think>⏎ | ⏎</think>⏎⏎ | red      prompt, `answer_start`, answer

        A reasoning block that is then still open is closed as by a thinking budget: some templates open one in prompts
        only. Empty if the template writes answers elsewhere. Raises ModelError.

        Args:
            prompt: The prompt.
            reasoning: What the reasoning block contains; nothing if it is empty.
        """
        start = self._start(self._script(prompt)) if prompt.empty_blocks == "as_template" else ""
        if not reasoning:
            return start
        block = self._block(prompt)
        if self.opened_block(replace(prompt, answer_start="")) is not None:
            return f"{reasoning}{block.forced}"
        return f"{start[: len(start) - len(start.lstrip())]}{block.opening}{reasoning}{block.forced}"

    def _block(self, prompt: Prompt) -> ReasoningMarkers:
        """Markers of the block in which the model reasons about a prompt."""
        return self.facts.block or self.opened_block(replace(prompt, answer_start="")) or REASONING_MARKERS[0]

    def opened_block(self, prompt: Prompt) -> ReasoningMarkers | None:
        """Markers of the reasoning block in which the rendered prompt ends, or None."""
        return opened_block(self.text(prompt), self.facts.block)

    def expanded(self, text: str, replacements: Sequence[str]) -> str:
        """The text with each placeholder replaced by the processor's text for that image."""
        if not replacements:
            return text
        texts, _ = self.processor.get_text_with_replacements([text], list(replacements))
        return str(texts[0])

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids, cached. A start token is added only if the text does not begin with it."""
        ids = self._ids.get(text)
        return self._ids.put(text, self._tokenized(text)) if ids is None else ids

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        """Token ids of each option as the template would write it as the answer.

        Raises:
            ModelError: The prompt lacks its `answer_start`. An option has no own tokens, or contains a chat marker.
        """
        start = self.answer_start(prompt)
        if prompt.answer_start != start and not prompt.answer_start.endswith(self._block(prompt).forced):
            raise ModelError(
                f"{self.name}: the chat template writes {start!r} between this prompt and an answer, so options cannot "
                "follow the prompt directly. Pass the prompt that before_answer(prompt) of the model returns."
            )
        for option in options:
            check_markers(Prompt((Turn("assistant", (Part(option, "query.option"),)),)), self.marks, self.name)
        text, turns = self.text(prompt), self._script(prompt)
        tail, answered = text.rpartition(self.slot)[2] if self.slot else text, self._text(turns) + start
        return [list(self._option(tail, self._continuation(turns, answered, option))) for option in options]

    def _script(self, prompt: Prompt) -> Script:
        """What the template reads of a prompt. Raises ModelError if a model that reads text only gets an image."""
        if not self.text_only:
            return script(prompt)
        if image_part := next((part for part in prompt.parts() if part.image is not None), None):
            raise ModelError(
                f"{self.name} reads text only, and the prompt has an image ({image_part.name or 'unnamed'}). Write its "
                "images as text (transforms: [{name: captions, where: all}], or the task as_text for generated "
                "images), or use a vision-language model."
            )
        return script(prompt.map(lambda part: replace(part, fills_image_slot=False)))

    def _rendered(self, turns: Script) -> str:
        text = self._written(turns, answers=True)
        self._check_slots(turns, text)
        if problem := self._order_problem(turns, text):
            raise ModelError(problem)
        return self._filled(turns, text)

    def _found_start(self, turns: Script) -> str:
        text = self._text(turns)
        gap, match, _ = self._after(turns, text, ANSWER).partition(ANSWER)
        start = gap.rstrip(" ") if match else ""
        markers = opened_block(text + start, self.facts.block)
        return start if markers is None else start + markers.forced

    def _filled(self, turns: Script, text: str) -> str:
        """The rendered text with slot texts in the place of their placeholders."""
        slots = [piece for _, pieces in turns for piece in pieces if not isinstance(piece, str)]
        if not slots:
            return text
        first, *others = text.split(self.slot)
        fills = [self.slot if piece is None else piece.text for piece in slots]
        return first + "".join(fill + other for fill, other in zip(fills, others, strict=True))

    def _tokenized(self, text: str) -> tuple[int, ...]:
        start = self.tokenizer.bos_token
        has_start = start is not None and text.startswith(start)
        adds = self.processor.adds_special_tokens if self.text_only else not has_start
        own, usual = type(self.tokenizer), transformers.TokenizersBackend
        if (own.__call__, getattr(own, "_encode_plus", None)) != (usual.__call__, usual._encode_plus):
            return tuple(self.tokenizer(text, add_special_tokens=adds, verbose=False)["input_ids"])
        # The usual class asks the same backend, with these settings, but also for offsets: twice the time.
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        backend.no_padding()
        backend.no_truncation()
        return tuple(backend.encode_batch_fast([text], add_special_tokens=adds)[0].ids)

    def _option_ids(self, tail: str, option: str) -> tuple[int, ...]:
        """tail: the text after the last image. No token crosses the image's placeholder."""
        before, both = self.ids(tail), self.ids(tail + option)
        if both[: len(before)] != before or len(both) == len(before):
            raise ModelError(
                f"{self.name}: the option {option!r} merges with the end of the prompt {tail[-20:]!r} when both are "
                "tokenized together, so it has no token of its own. Write the options so that each starts a new word."
            )
        return both[len(before) :]

    def _continuation(self, turns: Script, text: str, option: str) -> str:
        """The option with the white space that the template puts before an answer."""
        gap, match, _ = self._after(turns, text, option).partition(option)
        return gap + option if match and not gap.strip() else option

    def _after(self, turns: Script, text: str, answer: str) -> str:
        """What the template writes after the text of the prompt if it is answered; empty if it changes the text."""
        answered: Script = (*turns, ("assistant", (answer,)))
        whole = self._filled(answered, self._written(answered, answers=False))
        return whole[len(text) :] if whole.startswith(text) else ""

    def _written(self, turns: Script, answers: bool) -> str:
        """The rendered turns. Images are a part of the texts if the template puts all images of a turn first.

        So does the code of LLaVA's authors: `<image>\\n` stands in the text wherever an image is. The template writes
        the same for an image, but can only write it before the texts.
        """
        text = self._with_items(turns, answers)
        if self.slot and self._missing(turns, text) and not overrides_rendering(self.processor):
            within = self._template(turns, images_in_texts(turns, self._image_text), answers)
            if within.count(self.slot) == text.count(self.slot) and self._missing(turns, within) is None:
                return within
        return text

    @cached_property
    def _image_text(self) -> str:
        """The placeholder with the white space that the template writes after an image."""
        probe: Script = (("user", (None, ANSWER)),)
        gap = self._with_items(probe, answers=True).partition(self.slot)[2].partition(ANSWER)[0]
        return self.slot if gap.strip() else self.slot + gap

    def _with_items(self, turns: Script, answers: bool) -> str:
        text, role = rendered_as_read(
            lambda conversation: self._template(turns, conversation, answers), messages(turns)
        )
        if role is not None:
            raise ModelError(
                f"{self.name}: the chat template prints the content of the {role} turn as Python or JSON. Use a "
                "composer whose turns of this role have no images."
            )
        return text or ""

    def _template(self, turns: Script, conversation: Sequence[Message], answers: bool) -> str:
        try:
            return self._applied(conversation, answers)
        except TemplateRefusedError as error:
            roles, problem = ", ".join(role for role, _ in turns), str(error).rstrip(".")
            if self._reads_strings_only:
                raise ModelError(
                    f"{self.name}: the chat template reads texts only, so it cannot place images ({problem}). Use a "
                    "checkpoint of this model that was converted for transformers, often named `-hf`."
                ) from error
            if (missing := UNDEFINED.fullmatch(problem)) and missing[1] in argument_names(self):
                raise ModelError(
                    f"model.template: the chat template of {self.name} needs '{missing[1]}', which is not set. Set "
                    f"it: `template: {{{missing[1]}: ...}}`."
                ) from error
            if problem.startswith("TemplateSyntaxError"):
                raise ModelError(
                    f"{self.name}: the chat template is not Jinja ({problem}). Mend its chat_template.jinja."
                ) from error
            raise ModelError(
                f"{self.name}: the chat template does not accept these turns ({roles}): {problem}.{self._advice(turns)}"
            ) from error

    def _advice(self, turns: Script) -> str:
        """What a prompt that the template refuses should be instead, if its turns are the reason."""
        without_system = tuple(turn for turn in turns if turn[0] != "system")
        if len(without_system) < len(turns) and self._attempted(messages(without_system), answers=True) is not None:
            return " It takes them without the system turn: use `instruction_text` of the composer instead."
        has_answers = any(role == "assistant" for role, _ in turns)
        if has_answers and self.facts.accepts_images and not self.facts.accepts_turns:
            return " It takes no answers as turns: use a composer of a single user turn, such as `interleaved`."
        return ""

    @cached_property
    def _reads_strings_only(self) -> bool:
        """Whether the template takes one turn as a string, and refuses it as a list of items."""
        string: Message = {"role": "user", "content": ANSWER}
        try:
            self._applied([string], answers=True)
        except TemplateRefusedError:
            return False
        try:
            self._applied([{**string, "content": [{"type": "text", "text": ANSWER}]}], answers=True)
        except TemplateRefusedError:
            return True
        return False

    def _attempted(self, conversation: Sequence[Message], answers: bool) -> str | None:
        """The rendered conversation, or None if the template refuses it."""
        try:
            return self._applied(conversation, answers)
        except (TemplateRefusedError, ValueError, KeyError, AttributeError, IndexError):
            return None

    def _applied(self, conversation: Sequence[Message], answers: bool) -> str:
        """The rendered conversation. Raises TemplateRefusedError."""
        if self.text_only:
            conversation = as_strings(conversation)
        try:
            values = {
                **self.tokenizer.special_tokens_map,
                **self.arguments,
                "messages": conversation,
                "add_generation_prompt": answers,
                "tools": None,
                "documents": None,
            }
            if self.trusted:
                text = str(with_day(self.template, self.day.isoformat()).render(values))
            else:  # first within limits, which refuse what a stranger's template must not do
                text = self.render_limited(conversation, answers)
            if overrides_rendering(self.processor):
                with_day(self.template, self.day.isoformat())
                text = str(
                    self.processor.apply_chat_template(conversation, add_generation_prompt=answers, **self.arguments)
                )
        except (jinja2.exceptions.TemplateError, TypeError) as error:
            raise TemplateRefusedError(str(error)) from error
        return text

    def render_limited(
        self, conversation: Sequence[Message], answers: bool, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """The conversation, rendered in a process with limits.

        Args:
            conversation: Messages as processors take them.
            answers: Whether the text ends where the answer begins.
            arguments: Of the template, in place of the renderer's own.

        Raises:
            TemplateRefusedError: The template raises an error.
            ModelError: The template exceeds a limit.
        """
        own = self.arguments if arguments is None else arguments
        try:
            values = {**self.tokenizer.special_tokens_map, **own}
            return PROCESS.render(self.template, conversation, answers, values, self.day)
        except TemplateLimitError as error:
            raise ModelError(
                f"{self.name}: rendering the chat template was stopped, because it {error}. Use another checkpoint, or "
                "mend its chat_template.jinja."
            ) from error

    def _check_slots(self, turns: Script, text: str) -> None:
        pieces = [piece for _, own in turns for piece in own]
        if not self.slot:
            return
        slots, images = text.count(self.slot), sum(not isinstance(piece, str) for piece in pieces)
        if slots != images or any(isinstance(piece, SlotText) and self.slot in piece.text for piece in pieces):
            raise ModelError(
                f"{self.name}: the rendered prompt has {slots} image placeholders ({self.slot}) for {images} "
                f"images{self._why(pieces, slots > images)}."
            )

    def _why(self, pieces: Sequence[Piece], more: bool) -> str:
        texts = [piece.text if isinstance(piece, SlotText) else piece or "" for piece in pieces]
        if any(self.slot in text for text in texts):
            return "; a text of the prompt contains the placeholder itself. Remove it from the data"
        return "; the chat template writes more than one for each" if more else "; the chat template omits some"

    def _order_problem(self, turns: Script, text: str) -> str:
        """A sentence on the first piece that the text does not have in its place; '' if all are there."""
        if (missing := self._missing(turns, text)) is None:
            return ""
        role, piece = missing
        if turns[0][0] == "system" and self._missing(turns[1:], text) is None:
            return (
                f"{self.name}: the chat template drops the system turn, or moves it behind other turns. Use "
                "`instruction_text` of the composer instead."
            )
        what = f"the text {piece.strip()[:40]!r}" if isinstance(piece, str) else "an image"
        problem = f"{self.name}: the chat template drops {what} of the {role} turn, or moves it to another position."
        if role == "assistant" and isinstance(piece, str) and split_reasoning(piece).has_reasoning:
            return f"{problem} It removes the reasoning of earlier answers. Use demonstrations without reasoning."
        if self.facts.images_first:
            return f"{problem} It puts all images of a turn first. Use a composer with images before texts."
        return problem

    def _missing(self, turns: Script, text: str) -> tuple[str, Piece] | None:
        """The role and the content of the first piece that the text does not have in its place."""
        place = 0
        for role, pieces in turns:
            for piece in pieces:
                needle = piece.strip() if isinstance(piece, str) else self.slot
                position = text.find(needle, place)
                if position < 0:
                    return role, piece
                place = position + len(needle)
        return None


def overrides_rendering(processor: Any) -> bool:
    """Whether the class of the processor has its own way of applying the template."""
    return isinstance(processor, transformers.ProcessorMixin) and (
        type(processor).apply_chat_template is not transformers.ProcessorMixin.apply_chat_template
    )
