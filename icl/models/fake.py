"""Fake models with known answers: each imitates one failure mode of in-context learning.

The right result of a metric, a baseline or a report is known for them exactly, and a grid can be rehearsed in seconds.
They need no weights, count usage as real backends do, and score options. The option that is the answer has the
log-probability log 0.9; the other options share the rest.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from icl import REASONING_MARKERS, Model, ModelError, Request, canonical_digest, max_output_tokens, normalize_text
from icl.metrics import is_accepted
from icl.metrics.base import last_copy, nearest_copy, vote
from icl.registry import Count, Fraction, FunctionPath, PositiveInt, component, describe
from icl.types import Demo, Generation, Prompt, Query, ThinkingEnd, Usage

ANSWER_PROBABILITY = 0.9


@dataclass(frozen=True, kw_only=True)
class FakeModel(Model):
    """Base class of the fakes. A token is a word; an image takes `image_tokens` tokens."""

    abilities: ClassVar[frozenset[str]] = frozenset({"generate", "score"})

    image_tokens: Count = 1  # context tokens of one image
    max_tokens: PositiveInt | None = None  # context length in tokens, prompt and answer together; None: no limit

    @cached_property
    def digest(self) -> str:
        return canonical_digest(describe(self))

    def count_tokens(self, prompt: Prompt) -> int:
        """Words separated by white space, and `image_tokens` for each image."""
        texts = " ".join(part.text for part in prompt.parts() if part.text is not None)
        return len(texts.split()) + self.image_tokens * len(prompt.images)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        return [self._generation(request) for request in requests]

    def thinking_budget_refusal(self) -> None:
        """None: a fake cuts reasoning blocks as an engine does."""

    def answer_to(self, request: Request) -> str:
        """The text of this fake's answer."""
        raise NotImplementedError

    def _generation(self, request: Request) -> Generation:
        return _make_generation(self.answer_to(request), request, self._prompt_tokens(request))

    def _prompt_tokens(self, request: Request) -> int:
        tokens = self.count_tokens(request.prompt)
        new_tokens = max_output_tokens(request.max_new_tokens, request.max_thinking_tokens)
        if self.max_tokens is not None and tokens + new_tokens > self.max_tokens:
            raise ModelError(
                f"a prompt of {tokens} tokens and an answer of {new_tokens} do not fit into "
                f"{self.max_tokens} tokens. Show fewer demonstrations."
            )
        return tokens


@component("model", "fake-copy")
@dataclass(frozen=True)
class FakeCopy(FakeModel):
    """A model that repeats the last demonstration's answer: pure recency bias. Without demonstrations it is empty."""

    needs: ClassVar[frozenset[str]] = frozenset({"demos"})

    def answer_to(self, request: Request) -> str:
        return last_copy(_ranked_demos(request), _EMPTY_QUERY) or ""


@component("model", "fake-vote")
@dataclass(frozen=True)
class FakeVote(FakeModel):
    """A model that gives the majority answer of the demonstrations (ties: the nearest one's): the null hypothesis of
    ICL.

    Without demonstrations the answer is empty.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"demos"})

    def answer_to(self, request: Request) -> str:
        return vote(_ranked_demos(request), _EMPTY_QUERY) or ""


@component("model", "fake-nearest")
@dataclass(frozen=True)
class FakeNearest(FakeModel):
    """A model that repeats the most similar demonstration's answer: nearest-neighbor copying.

    Without demonstrations the answer is empty.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"demos"})

    def answer_to(self, request: Request) -> str:
        return nearest_copy(_ranked_demos(request), _EMPTY_QUERY) or ""


@component("model", "fake-gold")
@dataclass(frozen=True)
class FakeGold(FakeModel):
    """A model that answers a fixed share of the queries right, and the others with a wrong option (or nothing).

    The random number belongs to the query and the seed, so arms are paired: a query that is right at one accuracy is
    right at every higher accuracy.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gold"})

    accuracy: Fraction = 1.0  # share of queries that are answered right

    def answer_to(self, request: Request) -> str:
        rng = request.prompt.key.numpy("fake-gold")
        if rng.random() < self.accuracy:
            return request.gold[0]
        wrong = [option for option in request.options if not is_accepted(option, request.gold)]
        return wrong[int(rng.integers(len(wrong)))] if wrong else ""


@component("model", "fake-uniform")
@dataclass(frozen=True)
class FakeUniform(FakeModel):
    """A model that picks one of the options uniformly, or one of the demonstrations' answers if there are no options.

    The choice depends on the query and the seed of the cell only, so it is the same in any batch. It measures chance
    level.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"demos"})

    def answer_to(self, request: Request) -> str:
        choices = request.options or tuple(dict.fromkeys(example.answer for example, _ in request.demos))
        if not choices:
            return ""
        return choices[int(request.prompt.key.numpy("fake-uniform").integers(len(choices)))]


@component("model", "fake-scripted")
@dataclass(frozen=True)
class FakeScripted(FakeModel):
    """A model that answers by a function `answer(request) -> str | Generation`, which sees demonstrations and gold.

    In a config: `answer: my_pkg.my_mod:answer` or `answer: studies/script.py:answer`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"demos", "gold"})

    answer: Annotated[Callable[[Request], "str | Generation"], FunctionPath()]  # my_mod:answer or file.py:answer

    def _generation(self, request: Request) -> Generation:
        answer: object = self.answer(request)
        tokens = self._prompt_tokens(request)
        if isinstance(answer, Generation):
            return answer
        if not isinstance(answer, str):
            raise ModelError(f"fake-scripted: the function returned {answer!r}, not a string or a Generation.")
        return _make_generation(answer, request, tokens)


_EMPTY_QUERY = Query(id="", images=(), question="")


def _ranked_demos(request: Request) -> list[Demo]:
    """Demonstrations in prompt order with their rank by score.

    Of equal scores, the one nearer to the query is first.
    """
    order = sorted(range(len(request.demos)), key=lambda i: (-request.demos[i][1], -i))
    ranks = {index: rank for rank, index in enumerate(order)}
    return [Demo(example, score, ranks[i]) for i, (example, score) in enumerate(request.demos)]


def _make_generation(text: str, request: Request, prompt_tokens: int) -> Generation:
    """An answer with words as its tokens. A reasoning block over the thinking budget is cut, as an engine does it."""
    reasoning, answer, thinking, thinking_tokens = _cut_reasoning(text, request.max_thinking_tokens)
    words = answer.split()
    is_cut = len(words) > request.max_new_tokens
    new_tokens = thinking_tokens + min(len(words) + 1, request.max_new_tokens)  # the end of the answer is a token too
    return Generation(
        reasoning + (" ".join(words[: request.max_new_tokens]) if is_cut else answer),
        finish="length" if is_cut else "stop",
        usage=Usage(prompt_tokens, new_tokens, new_tokens, thinking_tokens),
        option_scores=_option_scores(text, request.options),
        thinking=thinking,
    )


def _cut_reasoning(text: str, limit: int | None) -> tuple[str, str, ThinkingEnd, int]:
    """The reasoning block at the start of a text, cut to so many words; the rest; how it ended; and its length."""
    markers = next((one for one in REASONING_MARKERS if text.startswith(one.opening)), None)
    if markers is None or limit is None:
        return "", text, "", 0
    block, closing, answer = text.removeprefix(markers.opening).partition(markers.closing)
    words = block.split()
    if len(words) > limit:
        cut = " ".join([markers.opening, *words[:limit]])
        return cut + markers.forced, answer.strip(), "cut", limit
    return markers.opening + block + closing, answer, "closed" if closing else "open", len(words)


def _option_scores(text: str, options: tuple[str, ...]) -> dict[str, float]:
    """log 0.9 for the option that is the answer. Equal scores if none is."""
    answer = next((option for option in options if normalize_text(option) == normalize_text(text)), None)
    if answer is None or len(options) == 1:
        return {option: -math.log(len(options)) for option in options}
    rest = math.log((1 - ANSWER_PROBABILITY) / (len(options) - 1))
    return {option: math.log(ANSWER_PROBABILITY) if option == answer else rest for option in options}
