"""Prompts as chat messages, and answers and option scores from an endpoint's response.

An option's score comes from the top tokens that the endpoint lists at the answer's first word:

    score(option) = log sum of p(t), over listed tokens t that begin this option and no other

An option without such a token has no score, because the probability of an unlisted token is unknown. The option is left
out if it cannot be the best one: all unlisted tokens together are less likely than the best option. An error is raised
if it could be the best, if a token that begins several options could change the best, or if no option is listed.
"""

import base64
import io
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from icl import Generation, Image, ModelError, Part, Prompt, Request, Turn, Usage

IMAGES_KEPT = 64

BROKEN_OFF = ("abort", "error")
"""Values of `finish_reason` in vLLM's server for an incomplete answer."""

GENERATE = "Use `answer_mode: generate`"

SLACK = 1e-3
"""Nats above zero that rounding may add to a log-probability."""


def messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as chat messages. Neighboring texts are merged, because servers put a line break between two.

    Raises ModelError if data contains a turn marker, or if the prompt sets `empty_blocks`.
    """
    check_markers(prompt, TURN_MARKERS, "the endpoint")
    if prompt.empty_blocks != "as_template":
        raise ModelError(
            f"composer.empty_blocks: {prompt.empty_blocks}: an endpoint applies the chat template itself. Use the "
            "model 'hf' or 'vllm', or remove it."
        )
    return [{"role": turn.role, "content": _content(turn)} for turn in prompt.turns]


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for part in turn.parts:
        if part.image is not None:
            content.append({"type": "image_url", "image_url": {"url": data_url(part.image)}})
        elif content and content[-1]["type"] == "text":
            content[-1]["text"] += part.text
        else:
            content.append({"type": "text", "text": part.text})
    if all(item["type"] == "text" for item in content):
        return "".join(item["text"] for item in content)
    return content


@lru_cache(IMAGES_KEPT)
def data_url(image: Image) -> str:
    """The image with its edits as a PNG in a data URL. Raises ModelError for edits of processed pixels."""
    if image.pixel_value_edits:
        names = ", ".join(type(edit).__name__ for edit in image.pixel_value_edits)
        raise ModelError(
            f"the edit {names} changes processed pixels, but an endpoint processes images itself. Use an edit "
            "of images, or the model 'hf'."
        )
    buffer = io.BytesIO()
    image.open().save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def read(response: dict[str, Any], request: Request, where: str) -> Generation:
    """The answer in a response. Raises ModelError if it is malformed, incomplete or withheld."""
    try:
        choice = response["choices"][0]
        message, text = choice["message"], choice["message"].get("content")
        usage = response.get("usage") or {}
        prompt_tokens, new_tokens = (int(usage.get(f"{what}_tokens") or 0) for what in ("prompt", "completion"))
        counted = Usage(max(prompt_tokens, 0), max(new_tokens, 0), 0)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ModelError(f"{where}: the answer has no choices[0].message: {str(response)[:200]}.") from error
    if choice.get("finish_reason") == "content_filter":
        raise ModelError(f"{where}: the answer was withheld by the endpoint's content filter.")
    if choice.get("finish_reason") in BROKEN_OFF:
        raise ModelError(f"{where}: the endpoint stopped the answer early (finish_reason '{choice['finish_reason']}').")
    if text is None:
        raise ModelError(f"{where}: {_silence(choice, message)}")
    if not isinstance(text, str):
        raise ModelError(f"{where}: the content of the answer is not a string: {str(text)[:200]}.")
    finish: Literal["stop", "length"] = "length" if choice.get("finish_reason") == "length" else "stop"
    scores = option_scores(choice, text, request.options, where) if request.score_options else {}
    return Generation(mended(text).strip(), finish=finish, usage=counted, option_scores=scores)


def mended(text: str) -> str:
    """The text with unpaired surrogates replaced. JSON can contain them, but UTF-8 files cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _silence(choice: dict[str, Any], message: dict[str, Any]) -> str:
    """The error message for an answer with null as its content. Null differs from an empty text."""
    if message.get("refusal"):
        return f"the model refuses: {str(message['refusal'])[:200]}"
    if message.get("tool_calls"):
        return "the answer is a call of a tool and has no text."
    if message.get("reasoning_content") or message.get("reasoning"):
        return (
            "the answer has no text (content is null): the model was still thinking when its tokens ended. Give it a "
            "larger max_new_tokens, or switch its thinking off with model.extra."
        )
    return f"the answer has no text (content is null, finish_reason {choice.get('finish_reason')!r})."


def option_scores(choice: dict[str, Any], text: str, options: Sequence[str], where: str) -> dict[str, float]:
    """Log-probability of the first token of each listed option. Raises ModelError if these do not decide."""
    listed = _first_tokens(choice, text, where)
    own, shared = dict.fromkeys(options, 0.0), 0.0
    for token, logprob in listed:
        begins = [option for option in options if token and option.casefold().startswith(token)]
        if len(begins) == 1:
            own[begins[0]] += math.exp(logprob)
        elif begins:
            shared += math.exp(logprob)
    ranked = sorted(own.values(), reverse=True)
    if not ranked or ranked[0] == 0.0 or (len(ranked) > 1 and ranked[0] - ranked[1] <= shared):
        why = "begin with the same token" if shared else "are not among the likeliest tokens"
        raise ModelError(
            f"{where}: options cannot be scored by the first token of the answer: {', '.join(options)} {why} "
            f"({', '.join(token for token, _ in listed[:5])}). Use `answer_mode: generate`, or letters as options."
        )
    rest = max(0.0, 1.0 - sum(math.exp(logprob) for _, logprob in listed))
    missing = [option for option, p in own.items() if not p]
    if missing and ranked[0] <= rest + shared:
        raise ModelError(
            f"{where}: options cannot be scored by the first token of the answer: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not among the {len(listed)} likeliest tokens, but could still be "
            "the best. Increase model.top_logprobs if the endpoint allows it, use `answer_mode: generate`, or serve "
            "the model with `icl serve`, which scores whole options."
        )
    return {option: math.log(p) for option, p in own.items() if p}


def _first_tokens(choice: dict[str, Any], text: str, where: str) -> list[tuple[str, float]]:
    """(stripped, case-folded token, log-probability) of the top tokens at the first word of the answer `text`.

    Raises ModelError if they are missing, have another shape, or belong to another text, such as the reasoning.
    """
    reported = choice.get("logprobs")
    if not reported:
        raise ModelError(f"{where}: the answer has no log-probabilities. {GENERATE}.")
    try:
        step = next(step for step in reported["content"] if _text(step).strip())
        listed = [(_text(one).strip().casefold(), one["logprob"]) for one in step["top_logprobs"]]
    except StopIteration:
        raise ModelError(f"{where}: none of the tokens with log-probabilities has a text. {GENERATE}.") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{where}: the log-probabilities have another shape than logprobs.content[].top_logprobs of chat "
            f"completions: {str(reported)[:200]}. {GENERATE}."
        ) from error
    if not listed:
        raise ModelError(f"{where}: no other token is listed beside {step['token']!r} (top_logprobs). {GENERATE}.")
    for _, value in listed:
        if not isinstance(value, int | float) or not value <= SLACK:  # NaN is not below anything
            raise ModelError(f"{where}: {value!r} is listed as a log-probability but is not one. {GENERATE}.")
    first, written = _text(step).strip(), text.strip()
    if written and not written.startswith(first) and not first.startswith(written):
        raise ModelError(
            f"{where}: the log-probabilities begin with {first!r}, and the answer with {written[: len(first) + 1]!r}: "
            f"they are of another text, such as reasoning. {GENERATE}, or switch reasoning off by model.template."
        )
    return listed


def _text(step: dict[str, Any]) -> str:
    """The text of a token, by its bytes if they are there. Raises TypeError or ValueError for another shape."""
    if sent := step.get("bytes"):
        return bytes(sent).decode(errors="replace")
    token = step["token"]
    if not isinstance(token, str):
        raise TypeError(token)
    return token


# Chat markers within data: a model would read '<|im_start|>' in a question as the beginning of a turn.
#
# A tokenizer turns its special tokens into single ids wherever they occur, and a chat template inserts data unchanged.
# So a question or an answer with a special token can forge a turn, an end of text or an image placeholder. Such a
# sample is refused. The experimenter's own text (instructions, separators of a composer) may contain markers.


TURN_MARKERS = re.compile(r"<\|[A-Za-z0-9_-]+\|>|</?(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")
"""Common turn markers, for endpoints with an unknown tokenizer."""


def marker_pattern(tokenizer: Any, placeholder: str = "") -> re.Pattern[str] | None:
    """A pattern of the tokenizer's special tokens, the longest first. None if it has no special tokens.

    The unknown token is left out: its text is the same token as any other unknown word.

    Args:
        tokenizer: A `transformers` tokenizer.
        placeholder: The image placeholder, which is checked elsewhere.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}) or {}
    markers = {str(token) for token in tokenizer.all_special_tokens}
    markers |= {str(token.content) for token in added.values() if token.special}
    markers -= {placeholder, str(tokenizer.unk_token)}
    words = sorted((word for word in markers if word.strip()), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words))) if words else None


def check_markers(prompt: Prompt, markers: re.Pattern[str] | None, where: str) -> None:
    """Raise ModelError if data contains a marker, alone or together with the neighboring text."""
    if markers is None:
        return
    for run in _runs(prompt):
        whole = "".join(str(part.text) for part in run)
        for match in markers.finditer(whole):
            if part := _of_data(run, *match.span()):
                raise ModelError(
                    f"{where}: the text of {part.name} contains {match[0]!r}, which the model reads as a special "
                    "token (of a turn, of the end, or of an image), not as text. Remove it from the data, or rewrite "
                    "it."
                )


def _runs(prompt: Prompt) -> Iterator[list[Part]]:
    """Runs of neighboring texts in a turn, which templates receive as one."""
    for turn in prompt.turns:
        run: list[Part] = []
        for part in turn.parts:
            if part.text is not None:
                run.append(part)
            elif run:
                yield run
                run = []
        if run:
            yield run


def _of_data(run: list[Part], start: int, end: int) -> Part | None:
    """The first part of the data that overlaps the characters from `start` to `end`."""
    place = 0
    for part in run:
        size = len(str(part.text))
        if place < end and place + size > start and (part.within("query") or part.within("demos")):
            return part
        place += size
    return None
