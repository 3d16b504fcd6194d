"""Models that are not models: each answers by one known failure mode of in-context learning, or by decree.

They make every right answer known: a metric, a baseline or a report can be checked on them to the digit, and a grid can
be rehearsed in seconds. They need no weights, count usage as real backends do, and score options (the log-probability
of what they would say is log .9, the rest is shared by the other options).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

from icl.canonical_json import canonical_digest
from icl.constraints import Count, Fraction, PositiveInt
from icl.errors import ModelError
from icl.metrics.baselines import last_copy, nearest_copy, vote
from icl.metrics.normalize import normalize_text
from icl.models.base import Request
from icl.registry import FunctionPath, component, describe
from icl.types import Demo, Generation, Prompt, Query, Usage

SURE = 0.9


@dataclass(frozen=True, kw_only=True)
class FakeModel:
    """Base of the fakes. A token is a word; an image takes `image_tokens` of them."""

    abilities: ClassVar[frozenset[str]] = frozenset({"generate", "score"})
    needs: ClassVar[frozenset[str]] = frozenset()

    image_tokens: Count = 1  # tokens that one image takes of the context
    max_tokens: PositiveInt | None = None  # context length in tokens, prompt and answer together; None: no limit

    @cached_property
    def digest(self) -> str:
        return canonical_digest(describe(self))

    def load(self) -> None:
        """There is nothing to read."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Words separated by blanks, and `image_tokens` for each image."""
        texts = " ".join(part.text for part in prompt.parts() if part.text is not None)
        return len(texts.split()) + self.image_tokens * len(prompt.images)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        return [self._generation(request) for request in requests]

    def answer_to(self, request: Request) -> str:
        """What this fake says. Everything else follows from it."""
        raise NotImplementedError

    def _generation(self, request: Request) -> Generation:
        return _told(self.answer_to(request), request, self._prompt_tokens(request))

    def _prompt_tokens(self, request: Request) -> int:
        tokens = self.count_tokens(request.prompt)
        if self.max_tokens is not None and tokens + request.max_new_tokens > self.max_tokens:
            raise ModelError(
                f"a prompt of {tokens} tokens and an answer of {request.max_new_tokens} do not fit into "
                f"{self.max_tokens} tokens. Show fewer demonstrations."
            )
        return tokens


@component("model", "fake-copy")
@dataclass(frozen=True)
class FakeCopy(FakeModel):
    """Says what the last demonstration says, and nothing without one: pure recency."""

    needs: ClassVar[frozenset[str]] = frozenset({"demos"})

    def answer_to(self, request: Request) -> str:
        return last_copy(_demos(request), _NOBODY) or ""


@component("model", "fake-vote")
@dataclass(frozen=True)
class FakeVote(FakeModel):
    """Says what most demonstrations say (ties: the nearest), and nothing without one: the null hypothesis of ICL."""

    needs: ClassVar[frozenset[str]] = frozenset({"demos"})

    def answer_to(self, request: Request) -> str:
        return vote(_demos(request), _NOBODY) or ""


@component("model", "fake-nearest")
@dataclass(frozen=True)
class FakeNearest(FakeModel):
    """Says what the demonstration with the highest score says, and nothing without one: nearest-neighbor copying."""

    needs: ClassVar[frozenset[str]] = frozenset({"demos"})

    def answer_to(self, request: Request) -> str:
        return nearest_copy(_demos(request), _NOBODY) or ""


@component("model", "fake-gold")
@dataclass(frozen=True)
class FakeGold(FakeModel):
    """Says the gold in a fixed share of the queries, otherwise a wrong option (or nothing): accuracy by decree.

    The draw belongs to the query and the seed, so arms are paired: a larger share is right wherever a smaller is.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gold"})

    accuracy: Fraction = 1.0  # share of queries that are answered right

    def answer_to(self, request: Request) -> str:
        rng = request.prompt.key.numpy("fake-gold")
        if rng.random() < self.accuracy:
            return request.gold[0]
        gold = {normalize_text(answer) for answer in request.gold}
        wrong = [option for option in request.options if normalize_text(option) not in gold]
        return wrong[int(rng.integers(len(wrong)))] if wrong else ""


@component("model", "fake-uniform")
@dataclass(frozen=True)
class FakeUniform(FakeModel):
    """Says one of the options, each as likely; without options one of the answers that the demonstrations show.

    The draw belongs to the query and the seed of the cell: the same in any batch. Chance, measured instead of computed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"demos"})

    def answer_to(self, request: Request) -> str:
        among = request.options or tuple(dict.fromkeys(example.answer for example, _ in request.demos))
        if not among:
            return ""
        return among[int(request.prompt.key.numpy("fake-uniform").integers(len(among)))]


@component("model", "fake-scripted")
@dataclass(frozen=True)
class FakeScripted(FakeModel):
    """Says what a function says: `answer(request) -> str | Generation`, by import path or as itself.

    `answer: my_pkg.my_mod:answer` or `answer: studies/script.py:answer` in a config. It sees demonstrations and gold.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"demos", "gold"})

    answer: Annotated[Callable[[Request], "str | Generation"], FunctionPath()]  # my_mod:answer or file.py:answer

    def answer_to(self, request: Request) -> str:
        said = self.answer(request)
        return said.text if isinstance(said, Generation) else said

    def _generation(self, request: Request) -> Generation:
        said: Any = self.answer(request)
        tokens = self._prompt_tokens(request)
        if isinstance(said, Generation):
            return said
        if not isinstance(said, str):
            raise ModelError(f"fake-scripted: the function gave {said!r}; it must give a text or a Generation.")
        return _told(said, request, tokens)


_NOBODY = Query(id="", images=(), question="")


def _demos(request: Request) -> list[Demo]:
    """In prompt order, ranked by score; of equal scores the one nearer to the query in the prompt is the better."""
    order = sorted(range(len(request.demos)), key=lambda i: (-request.demos[i][1], -i))
    rank = {place: rank for rank, place in enumerate(order)}
    return [Demo(example, score, rank[i]) for i, (example, score) in enumerate(request.demos)]


def _told(text: str, request: Request, prompt_tokens: int) -> Generation:
    words = text.split()
    cut = len(words) > request.max_new_tokens
    said = " ".join(words[: request.max_new_tokens]) if cut else text
    new = min(len(words) + 1, request.max_new_tokens)  # the end of the answer is a token too
    return Generation(
        said,
        finish="length" if cut else "stop",
        usage=Usage(prompt_tokens, new, new),
        option_scores=_scores(text, request.options),
    )


def _scores(text: str, options: tuple[str, ...]) -> dict[str, float]:
    """log .9 for the option that is said; all alike where none is."""
    chosen = next((option for option in options if normalize_text(option) == normalize_text(text)), None)
    if chosen is None or len(options) == 1:
        return {option: -math.log(len(options)) for option in options}
    rest = math.log((1 - SURE) / (len(options) - 1))
    return {option: math.log(SURE) if option == chosen else rest for option in options}
