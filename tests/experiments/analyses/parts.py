"""Models, a task and a retriever for runs with known results of analyses."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from PIL import Image as PILImage

from icl import spans
from icl.images import Image
from icl.metrics.accuracy import Lenient
from icl.metrics.base import Better
from icl.models.base import Request
from icl.models.fake import FakeModel
from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Example, Generation, Prompt, Query, RetrievedExample
from retrievers.base import Resources

COLORS = ("red", "green", "blue")


def wordy_without_demonstrations(request: Request) -> str:
    """The right answer: a sentence, or with demonstrations their form."""
    return request.gold[0] if request.demos else f"It is {request.gold[0]}."


def dunno(request: Request) -> str:
    return "no idea"


def trusting(request: Request) -> str:
    """Right if at least half of the demonstrations have the right answer."""
    true = [example.answer == COLORS[int(example.id[-4:]) % 3] for example, _ in request.demos]
    return request.gold[0] if true and sum(true) >= len(true) / 2 else ""


def half_the_gain(request: Request) -> str:
    """Right at 0 shots for half of the queries, for all with demonstrations that have images, else as at 0 shots."""
    has_image = request.demos and request.demos[0][0].images
    return request.gold[0] if has_image or int(request.prompt.key.query[-1]) % 2 else ""


def _reads(request: Request) -> tuple[bool, bool]:
    """Whether the query has its image, and its question."""
    return "query.image[0]" in request.prompt.spans, "query.question" in request.prompt.spans


def needs_the_image(request: Request) -> str:
    return request.gold[0] if _reads(request)[0] else ""


def needs_both(request: Request) -> str:
    return request.gold[0] if all(_reads(request)) else ""


def needs_either(request: Request) -> str:
    return request.gold[0]


def first_listed(request: Request) -> str:
    """The first option."""
    question = next(part.text or "" for part in request.prompt.parts() if part.name == "query.question")
    return question.partition("Options: ")[2].partition(",")[0]


@component("metric", "test-wrong")
@dataclass(frozen=True)
class Wrong:
    """1 - lenient, of which lower is better."""

    better: ClassVar[Better] = "lower"

    def score(self, generation: Generation, example: Example) -> float | None:
        return 1 - (Lenient().score(generation, example) or 0)


@component("task", "test-leaking")
@dataclass(frozen=True)
class Leaking:
    """The pool is the queries."""

    @property
    def title(self) -> str:
        return "leaking"

    @cached_property
    def queries(self) -> Sequence[Example]:
        return tuple(self._example(i) for i in range(4))

    @cached_property
    def _pool(self) -> Pool:
        return Pool((*self.queries, Example("twin", self.queries[3].images, "?", ("a3",))))

    def pool(self, query_id: str) -> Pool:
        return self._pool

    @property
    def pool_size(self) -> int:
        return 5

    def _example(self, i: int) -> Example:
        return Example(f"q{i}", (Image.from_pil(PILImage.new("RGB", (4, 4), (i, 0, 0)), f"p{i}"),), "?", (f"a{i}",))


@component("task", "test-folds")
@dataclass(frozen=True)
class Folds:
    """Four questions in a style, of which the first two are red in style a and none in style b."""

    held_out: str = "a"

    @property
    def title(self) -> str:
        return f"folds {self.held_out}"

    @cached_property
    def queries(self) -> Sequence[Example]:
        return tuple(
            self._example(f"{self.held_out}{i}", self._answer(i), 10 * ord(self.held_out) + i, f"g{i}")
            for i in range(4)
        )

    def _answer(self, i: int) -> str:
        return "red" if self.held_out == "a" and i < 2 else "blue"

    @cached_property
    def _pool(self) -> Pool:
        return Pool(tuple(self._example(f"p{i}", "red" if i == 0 else "green", i, None) for i in range(4)))

    def pool(self, query_id: str) -> Pool:
        return self._pool

    @property
    def pool_size(self) -> int:
        return 4

    def _example(self, name: str, answer: str, mark: int, group: str | None) -> Example:
        image = Image.from_pil(PILImage.new("RGB", (4, 4), (mark % 256, mark // 256, 9)), name)
        return Example(name, (image,), "?", (answer,), label=answer, group=group)


@component("retriever", "test-first")
@dataclass(frozen=True)
class Careless:
    """The same examples of the pool for every query and number of shots."""

    needs: ClassVar[frozenset[str]] = frozenset()
    returns_k: ClassVar[bool] = False

    ids: tuple[str, ...] = ()

    def fit(self, pool: Pool, resources: Resources) -> "Careless":
        return self

    def retrieve(self, queries: Sequence[Query], k: int, policy: Any = None) -> list[tuple[RetrievedExample, ...]]:
        return [tuple(RetrievedExample(name, 1 - i / 10) for i, name in enumerate(self.ids[:k])) for _ in queries]


def bold_without_demonstrations(request: Request) -> str:
    """Always right: in bold without demonstrations, plain with them."""
    return request.gold[0] if request.demos else f"The answer is **{request.gold[0]}**."


def endless_thought(request: Request) -> str:
    return f"<think>It may be {request.gold[0]}, or"


def caption_behind_a_wrong_object(request: Request) -> str:
    """A caption of which the first object is in few scenes; with demonstrations the right caption in as many words."""
    return f"{'There are many things' if request.demos else 'a purple arrow and'} {request.gold[0]}"


def caption_cut_by_demonstrations(request: Request) -> str:
    """A caption that ends with objects of few scenes; with demonstrations only its first six words."""
    words = f"{request.gold[0]}, a gray star, a purple arrow".split()
    return " ".join(words[:6] if request.demos else words)


def needs_demonstrations(request: Request) -> str:
    return request.gold[0] if request.demos else ""


def needs_the_demonstrations_images(request: Request) -> str:
    """Right if the demonstrations have images that are not blank."""
    images = [image for image in request.prompt.images[:-1] if image.open().getextrema() != ((128, 128),) * 3]
    return request.gold[0] if images else ""


@component("model", "test-reader")
@dataclass(frozen=True, kw_only=True)
class Reader(FakeModel):
    """Answers red. A text's log-probability depends on the image before it and on how many answers are the same.

    Each word has -1 if its image shows it, -2 without an image and -4 otherwise, and 1 more for each demonstration with
    the same answer.
    """

    abilities: ClassVar[frozenset[str]] = frozenset({"generate", "text_logprobs"})

    def answer_to(self, request: Request) -> str:
        return "red"

    def text_logprobs(self, prompts: Sequence[Prompt], name: str) -> list[list[float]]:
        return [[_log_probability(prompt, name)] for prompt in prompts]


@component("model", "test-uneven")
@dataclass(frozen=True, kw_only=True)
class Uneven(Reader):
    """A reader whose answers in `longer` have one more token without their image."""

    longer: tuple[str, ...] = ("red",)

    def text_logprobs(self, prompts: Sequence[Prompt], name: str) -> list[list[float]]:
        rows = super().text_logprobs(prompts, name)
        parts = [{part.name: part.text for part in prompt.parts()} for prompt in prompts]
        image = spans.image(spans.owner_of(name))
        return [
            row + [0.0] * (own[name] in self.longer and image not in own) for row, own in zip(rows, parts, strict=True)
        ]


RGB = {(220, 30, 30): "red", (30, 170, 60): "green", (40, 60, 210): "blue"}


def _log_probability(prompt: Prompt, name: str) -> float:
    parts = {part.name: part for part in prompt.parts()}
    text, owner = parts[name].text, spans.owner_of(name)
    votes = sum(part.text == text for other, part in parts.items() if spans.is_answer(other) and other != name)
    image = parts.get(spans.image(owner))
    if image is None or image.image is None:
        return votes - 2.0
    return votes - (1.0 if RGB[image.image.open().getpixel((15, 15))] == text else 4.0)  # type: ignore[index]
