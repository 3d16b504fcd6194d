"""A prompt as a checkpoint's own chat template writes it: text with one placeholder a picture, then token ids.

The placeholders are compared with the prompt's pictures, and every piece of the prompt must stand in the text in its
order: a template that drops a system turn, or moves pictures in front of the words, is an error before any forward.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from icl.errors import ModelError
from icl.types import Prompt, Turn

Message = dict[str, Any]


class Renderer:
    """Text and ids of prompts, by one processor. name: what error messages call the checkpoint."""

    def __init__(self, processor: Any, name: str) -> None:
        self.processor, self.name = processor, name
        self.tokenizer = processor.tokenizer
        self.slot: str = processor.image_token
        self._option = lru_cache(4096)(self._option_ids)

    def text(self, prompt: Prompt) -> str:
        """The template's text, up to where the model answers. Raises ModelError."""
        text = self._template(messages(prompt), prompt, answers=True)
        self._check_slots(prompt, text)
        self._check_order(prompt, text)
        return text

    def expanded(self, text: str, replacements: Sequence[str]) -> str:
        """The text with what the processor writes for each picture in place of its placeholder."""
        if not replacements:
            return text
        texts, _ = self.processor.get_text_with_replacements([text], list(replacements))
        return str(texts[0])

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids, without padding. A start token is added only where the text does not begin with it."""
        if not texts:
            return []
        start = self.tokenizer.bos_token
        plain = start is not None and texts[0].startswith(start)
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=not plain)["input_ids"]
        return ids

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        """The ids of each option as the template would write it as the answer. Raises ModelError where ids merge."""
        text = self.text(prompt)
        tail = text[text.rfind(self.slot) + len(self.slot) :] if self.slot in text else text
        return [list(self._option(tail, self._continuation(prompt, text, option))) for option in options]

    def _option_ids(self, tail: str, option: str) -> tuple[int, ...]:
        """tail: the text behind the last picture, whose placeholder no token reaches across."""
        before, both = self.ids([tail, tail + option])
        if both[: len(before)] != before or len(both) == len(before):
            raise ModelError(
                f"{self.name}: the option {option!r} melts into the end of the prompt {tail[-20:]!r} when both are "
                "tokenized together, so it has no token of its own. Write the options so that they begin a new word."
            )
        return tuple(both[len(before) :])

    def _continuation(self, prompt: Prompt, text: str, option: str) -> str:
        """The option with the white space that the template puts before an answer."""
        answered = [*messages(prompt), {"role": "assistant", "content": [{"type": "text", "text": option}]}]
        whole = self._template(answered, prompt, answers=False)
        rest = whole[len(text) :] if whole.startswith(text) else ""
        gap, found, _ = rest.partition(option)
        return gap + option if found and not gap.strip() else option

    def _template(self, conversation: list[Message], prompt: Prompt, answers: bool) -> str:
        from jinja2.exceptions import TemplateError

        try:
            return str(self.processor.apply_chat_template(conversation, add_generation_prompt=answers))
        except (TemplateError, TypeError) as error:
            roles = ", ".join(turn.role for turn in prompt.turns)
            raise ModelError(
                f"{self.name}: the chat template does not take these turns ({roles}): {error}. Compose the prompt "
                "otherwise (composer: interleaved makes a single user turn)."
            ) from error

    def _check_slots(self, prompt: Prompt, text: str) -> None:
        slots, pictures = text.count(self.slot), len(prompt.pictures)
        if slots != pictures:
            raise ModelError(
                f"{self.name}: the rendered prompt has {slots} picture placeholders ({self.slot}) for {pictures} "
                f"pictures{self._why(prompt, slots > pictures)}."
            )

    def _why(self, prompt: Prompt, more: bool) -> str:
        if any(part.text is not None and self.slot in part.text for part in prompt.parts()):
            return "; a text of the prompt contains the placeholder itself: take it out of the data"
        return "; the chat template writes more than one for each" if more else "; the chat template leaves some out"

    def _check_order(self, prompt: Prompt, text: str) -> None:
        place = 0
        for turn in prompt.turns:
            for piece in merged(turn):
                needle = self.slot if piece is None else piece.strip()
                found = text.find(needle, place)
                if found < 0:
                    what = "a picture" if piece is None else f"the text {needle[:40]!r}"
                    raise ModelError(
                        f"{self.name}: the chat template drops {what} of a {turn.role} turn, or moves it out of its "
                        "place. Some templates put all pictures of a turn first: compose with `chat`, pictures before "
                        "questions."
                    )
                place = found + len(needle)


def messages(prompt: Prompt) -> list[Message]:
    """The conversation as processors take it."""
    return [
        {
            "role": turn.role,
            "content": [{"type": "image"} if p is None else {"type": "text", "text": p} for p in merged(turn)],
        }
        for turn in prompt.turns
    ]


def merged(turn: Turn) -> list[str | None]:
    """The turn's texts and pictures (None); texts that stand side by side are one, so no template comes between."""
    pieces: list[str | None] = []
    for part in turn.parts:
        if part.text is not None and pieces and pieces[-1] is not None:
            pieces[-1] += part.text
        else:
            pieces.append(part.text)
    return [piece for piece in pieces if piece != ""]
