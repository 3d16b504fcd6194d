"""Public checks of orderers, transforms and composers, for the toolkit's own and for users' components.

    check_orderer(Mine())        check_transform(Mine())        check_composer(Mine())

The test contexts have 0 to 4 demonstrations with no, one and several images. A component receives the gold only if it
declares this need. A component that does not declare 'labels' must give the same result for any answers.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from icl import (
    PIL,
    Context,
    Demo,
    Example,
    Generation,
    Image,
    Part,
    Pool,
    Prompt,
    Query,
    Request,
    StreamKey,
    build,
    spans,
)
from icl.testing.require import accepts_class
from prompts.base import Composer, Orderer, Transform


def sample_contexts() -> list[Context]:
    """Contexts with 0 to 4 demonstrations and a query with no, one or two images."""
    demos = [
        Demo(_example(f"demo-{i}", count, f"What is {{this}}, no. {i}?", f"thing {i}"), score=0.9 - i / 10, rank=i)
        for i, count in enumerate((1, 2, 0, 1))
    ]
    demos[3] = replace(demos[3], example=replace(demos[3].example, question=demos[0].example.question))
    return [
        Context(_example(f"query-{count}", count, "¿Qué es <esto>?", "").query, tuple(demos[:shots]), StreamKey(3, "q"))
        for count in (0, 1, 2)
        for shots in range(5)
    ]


def labeled_contexts() -> list[Context]:
    """The same contexts with repeated answers, two options, captions, and the query's gold for oracles."""
    contexts = []
    for context in sample_contexts():
        demos = tuple(
            replace(demo, example=_labeled(demo.example, ("yes", "no")[demo.rank % 2])) for demo in context.demos
        )
        query: Any = context.query
        gold = Example(
            query.id, query.images, query.question, ("no",), ("yes", "no"), "no", meta={"caption": "a query"}
        )
        oracle: Any = gold
        contexts.append(replace(context, query=oracle, demos=demos))
    return contexts


@accepts_class
def check_orderer(orderer: Orderer, contexts: Iterable[Context] | None = None) -> None:
    """Check an orderer. One that needs a model is fitted on a fake one.

    Raises:
        AssertionError: Demonstrations are lost or changed, the result is not reproducible, or an undeclared need
            exists.
    """
    if "model" in orderer.needs:
        asking: Any = orderer
        orderer = asking.fitted(guessed_pool(), GuessingModel())
    for labeled in contexts or labeled_contexts():
        context = _with_declared_gold(orderer, labeled)
        at = f"{len(context.demos)} demonstrations"
        ordered = orderer.order(context)
        before, after = (Counter(_summary(demo) for demo in c.demos) for c in (context, ordered))
        assert before == after, f"{at}: they are not the same after ordering."
        assert ordered.query == context.query, f"{at}: the query was changed."
        assert ordered.key == context.key, f"{at}: the stream key was changed."
        assert _ids(orderer.order(context)) == _ids(ordered), f"{at}: a second call gives another order."
        turned = replace(context, demos=context.demos[::-1])
        assert _ids(orderer.order(turned)) == _ids(ordered), f"{at}: the order depends on more than the ranks."
        if "labels" not in orderer.needs and "gold" not in orderer.needs:
            same = _ids(orderer.order(_other_answers(context))) == _ids(ordered)
            assert same, f"{at}: the order depends on the answers, and 'labels' is not among its needs."
        _check_marks(orderer, context, ordered, at)


@accepts_class
def check_transform(transform: Transform, contexts: Iterable[Context] | None = None) -> None:
    """Check a transform. One that needs a model or a pool is fitted on a fake one.

    A transform keeps the demonstrations and their order. It keeps the query unless its parameter `where` is not
    'demos'. Its random choices depend on the query, not on the order of demonstrations.

    Raises:
        AssertionError: The transform reads an undeclared input, or changes more than it declares.
    """
    if transform.needs & {"model", "pool"}:
        asking: Any = transform
        transform = asking.fitted(guessed_pool(), NamingModel())
    for labeled in contexts or labeled_contexts():
        context = _with_declared_gold(transform, labeled)
        at = f"query '{context.query.id}', {len(context.demos)} demonstrations"
        done = transform.transform(context)
        assert _places(done) == _places(context), f"{at}: demonstrations were lost, moved or rescored."
        assert (done.query.id, done.key) == (context.query.id, context.key), f"{at}: it is another query's."
        if getattr(transform, "where", "demos") == "demos":
            assert done.query.images == context.query.images, f"{at}: the query's images were changed."
            assert done.query.question == context.query.question, f"{at}: the query's question was changed."
        assert transform.transform(context) == done, f"{at}: a second call does something else."
        turned = transform.transform(replace(context, demos=context.demos[::-1]))
        assert turned.demos[::-1] == done.demos, f"{at}: what is done depends on the order of demonstrations."
        changed = (done.demos, done.query) != (context.demos, context.query)
        unmarked = changed and done.provenance == context.provenance
        assert not unmarked, f"{at}: it changes the context and leaves no mark in its provenance."
        _check_marks(transform, context, done, at)
        if "labels" not in transform.needs and "gold" not in transform.needs:
            other = transform.transform(_other_answers(context))
            same = _without_answers(other) == _without_answers(done) and other.provenance == done.provenance
            assert same, f"{at}: what is done depends on the answers, and 'labels' is not among its needs."
        query: Any = done.query
        result = replace(done, query=query.query) if isinstance(query, Example) else done
        if result.query.images or result.query.question:  # unless the transform removed the whole query
            check_composer(build("composer", "chat"), [result])


def _check_marks(component: Orderer | Transform, before: Context, after: Context, at: str) -> None:
    """Marks of earlier components are kept. Oracles and components that read labels leave their mark."""
    has_marks = after.provenance[: len(before.provenance)] == before.provenance
    assert has_marks, f"{at}: marks of what was done before are gone."
    own = " ".join(after.provenance[len(before.provenance) :])
    changed = after.demos != before.demos or after.query != before.query
    if "gold" in component.needs and changed:
        assert "saw the gold" in own, f"{at}: an oracle must leave the mark 'saw the gold'."
    if "labels" in component.needs and changed and hasattr(component, "transform"):
        assert "saw labels" in own, f"{at}: it saw labels and must leave the mark 'saw labels'."


def _with_declared_gold(component: Orderer | Transform, context: Context) -> Context:
    """The context, with the gold for oracles only."""
    query: Any = context.query
    if "gold" in component.needs or not isinstance(query, Example):
        return context
    return replace(context, query=query.query)


def _other_answers(context: Context) -> Context:
    """The context with other answers of all demonstrations."""
    return _relabeled(context, lambda demo: f"word {demo.rank}")


def _without_answers(context: Context) -> Context:
    return _relabeled(context, lambda demo: "")


def _relabeled(context: Context, answer: Callable[[Demo], str]) -> Context:
    demos = (replace(d, example=replace(d.example, answers=(answer(d),), label=answer(d))) for d in context.demos)
    return replace(context, demos=tuple(demos))


def _places(context: Context) -> list[tuple[str, float, int]]:
    return [(demo.example.id, demo.score, demo.rank) for demo in context.demos]


@accepts_class
def check_composer(composer: Composer, contexts: Iterable[Context] | None = None) -> None:
    """Check a composer.

    Raises:
        AssertionError: A prompt lacks, repeats or misplaces a piece of its context.
    """
    for context in contexts or sample_contexts():
        at = f"query '{context.query.id}', {len(context.demos)} demonstrations"
        prompt = composer.compose(context)
        parts = {part.name: part for part in prompt.parts() if part.name}
        names = [part.name for part in prompt.parts() if part.name]
        twice = [name for name, count in Counter(names).items() if count > 1]
        assert not twice, f"{at}: the names {twice} stand twice."
        strange = [name for name in names if not spans.is_span_name(name)]
        assert not strange, f"{at}: {strange} are not names of parts."
        assert prompt.key == context.key, f"{at}: the prompt does not have the context's stream key."
        assert composer.compose(context).digest == prompt.digest, f"{at}: a second call gives another prompt."
        _check_whole(context, prompt, parts, at)
        _check_places(context, prompt, names, at)


def _check_whole(context: Context, prompt: Prompt, parts: dict[str, Part], at: str) -> None:
    items: list[tuple[str, Query | Example]] = [(spans.demo(i), demo.example) for i, demo in enumerate(context.demos)]
    items.append((spans.QUERY, context.query))
    for name, item in items:
        question_name = spans.question(name)
        question = parts[question_name].content if question_name in parts else ""
        assert question == item.question, f"{at}: {question_name} is {question!r}, not {item.question!r}."
        for j, image in enumerate(item.images):
            image_name = spans.image(name, j)
            image_part = parts[image_name].image if image_name in parts else None
            assert image_part == image, f"{at}: {image_name} is not the image."
        if isinstance(item, Example):
            answer_name = spans.answer(name)
            answer = parts[answer_name].content if answer_name in parts else None
            assert answer == item.answer, f"{at}: {answer_name} is {answer!r}, not {item.answer!r}."
    images = [image for _, item in items for image in item.images]
    assert len(prompt.images) == len(images), f"{at}: {len(prompt.images)} images, not {len(images)}."


def _check_places(context: Context, prompt: Prompt, names: list[str], at: str) -> None:
    owners = [spans.owner_of(name) for name in names if name not in (spans.SYSTEM, spans.INSTRUCTION)]
    blocks = [owner for i, owner in enumerate(owners) if i == 0 or owners[i - 1] != owner]
    expected = [*(spans.demo(i) for i in range(len(context.demos))), spans.QUERY]
    assert blocks == expected, f"{at}: the pieces stand in the order {blocks}, not {expected}."
    assert prompt.turns[-1].role == "user", f"{at}: the last turn is the {prompt.turns[-1].role}'s: nothing is asked."
    assert all(turn.parts for turn in prompt.turns), f"{at}: a turn is empty."


def _ids(context: Context) -> list[str]:
    return [demo.example.id for demo in context.demos]


def _summary(demo: Demo) -> tuple[str, str, str, float, int]:
    return demo.example.id, demo.example.question, demo.example.answer, demo.score, demo.rank


def _example(name: str, images: int, question: str, answer: str) -> Example:
    return Example(name, tuple(_image(f"{name}/{j}") for j in range(images)), question, (answer,))


def _labeled(example: Example, answer: str) -> Example:
    return replace(example, answers=(answer,), options=("yes", "no"), label=answer, meta={"caption": f"a {example.id}"})


def _image(name: str) -> Image:
    shade = StreamKey(0, name).numpy("shade").integers(256, size=3)
    return Image.from_pil(PIL.Image.new("RGB", (8, 8), tuple(int(value) for value in shade)), name)


WORDS, YES_NO = 64, ("yes", "no")


@dataclass(frozen=True)
class GuessingModel:
    """A model with logits that are random numbers from the prompt's digest."""

    abilities: ClassVar[frozenset[str]] = frozenset({"logits"})
    needs: ClassVar[frozenset[str]] = frozenset()

    digest: str = "guessing"

    def load(self) -> None:
        """There is nothing to read."""

    def before_answer(self, prompt: Prompt, reasoning: str = "") -> Prompt:
        return prompt

    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]:
        return [[i % WORDS] for i in range(len(options))]

    def open(self, prompts: Sequence[Prompt]) -> Any:
        return _GuessingSession(prompts)


@dataclass(frozen=True)
class NamingModel:
    """A model that answers with a word from the prompt's digest."""

    abilities: ClassVar[frozenset[str]] = frozenset({"generate"})
    needs: ClassVar[frozenset[str]] = frozenset()

    digest: str = "saying"

    def load(self) -> None:
        """There is nothing to read."""

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        return [Generation(f"a thing called {request.prompt.digest[:6]}") for request in requests]


@dataclass(frozen=True)
class _GuessingSession:
    prompts: Sequence[Prompt]

    def suffix_logprobs(self, suffixes: Sequence[Sequence[Sequence[int]]]) -> list[list[list[dict[int, float]]]]:
        scores = []
        for prompt, options in zip(self.prompts, suffixes, strict=True):
            numbers = hashlib.sha512(prompt.digest.encode()).digest()
            scores.append([[{ids[0]: -numbers[ids[0]] / 64}] for ids in options])
        return scores


def guessed_pool() -> Pool:
    """A pool of twelve examples with colored images and two answers."""
    return Pool(
        tuple(Example(f"pool-{i}", (_image(f"pool-{i}"),), f"what is {i}?", (YES_NO[i % 2],)) for i in range(12))
    )
