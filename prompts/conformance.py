"""What every orderer, transform and composer must do, as calls for our tests and for anyone's own.

    check_orderer(Mine())        check_transform(Mine())        check_composer(Mine())

All are tried on contexts of 0 to 4 demonstrations with no, one and several images an example. What declares the need
of the gold gets it; what does not declare the need of labels must do the same whatever the demonstrations answer.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from icl import spans
from icl.images import Image
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Part, Prompt, Query
from prompts.base import Composer, Orderer, Transform
from prompts.composers.chat import Chat
from prompts.scripted_models import Guessing, Saying, guessed_pool


def sample_contexts() -> list[Context]:
    """Contexts of 0 to 4 demonstrations, the query with none, one or two images."""
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
    """The same with answers that repeat, two options, captions, and the gold of each query beside it for oracles."""
    found = []
    for context in sample_contexts():
        demos = tuple(
            replace(demo, example=_labeled(demo.example, ("yes", "no")[demo.rank % 2])) for demo in context.demos
        )
        query: Any = context.query
        gold = Example(
            query.id, query.images, query.question, ("no",), ("yes", "no"), "no", meta={"caption": "a query"}
        )
        oracle: Any = gold
        found.append(replace(context, query=oracle, demos=demos))
    return found


def check_orderer(orderer: Orderer, contexts: Iterable[Context] | None = None) -> None:
    """Raises AssertionError with a sentence where demonstrations are lost or changed, or chance is not the query's.

    One that needs the model is fitted on one that guesses.
    """
    if "model" in orderer.needs:
        asking: Any = orderer
        orderer = asking.fitted(guessed_pool(), Guessing())
    for given in contexts or labeled_contexts():
        context = _as_declared(orderer, given)
        at = f"{len(context.demos)} demonstrations"
        ordered = orderer.order(context)
        before, after = (Counter(_told(demo) for demo in c.demos) for c in (context, ordered))
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


def check_transform(transform: Transform, contexts: Iterable[Context] | None = None) -> None:
    """Raises AssertionError with a sentence where it reads what it does not declare, or loses more than it says.

    A transform keeps the demonstrations and their places. It keeps the query whole, unless its parameter `where` is not
    'demos'. Its choices belong to the query: not to the order of demonstrations. One that needs the model is fitted on
    one that says something, one that needs the pool on one of colored images.
    """
    if transform.needs & {"model", "pool"}:
        asking: Any = transform
        transform = asking.fitted(guessed_pool(), Saying())
    for given in contexts or labeled_contexts():
        context = _as_declared(transform, given)
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
        bare: Any = done.query
        shown = replace(done, query=bare.query) if isinstance(bare, Example) else done
        if shown.query.images or shown.query.question:  # unless the query was removed altogether, as asked
            check_composer(Chat(), [shown])


def _check_marks(component: Orderer | Transform, before: Context, after: Context, at: str) -> None:
    """Marks are kept; an oracle says that it is one, and a transform that it saw labels."""
    kept = after.provenance[: len(before.provenance)] == before.provenance
    assert kept, f"{at}: marks of what was done before are gone."
    own = " ".join(after.provenance[len(before.provenance) :])
    changed = after.demos != before.demos or after.query != before.query
    if "gold" in component.needs and changed:
        assert "saw the gold" in own, f"{at}: an oracle must leave the mark 'saw the gold'."
    if "labels" in component.needs and changed and hasattr(component, "transform"):
        assert "saw labels" in own, f"{at}: it saw labels and must leave the mark 'saw labels'."


def _as_declared(component: Orderer | Transform, context: Context) -> Context:
    """With the gold for oracles alone."""
    query: Any = context.query
    if "gold" in component.needs or not isinstance(query, Example):
        return context
    return replace(context, query=query.query)


def _other_answers(context: Context) -> Context:
    """Each demonstration answering something else."""
    return _relabeled(context, lambda demo: f"word {demo.rank}")


def _without_answers(context: Context) -> Context:
    return _relabeled(context, lambda demo: "")


def _relabeled(context: Context, answer: Callable[[Demo], str]) -> Context:
    demos = (replace(d, example=replace(d.example, answers=(answer(d),), label=answer(d))) for d in context.demos)
    return replace(context, demos=tuple(demos))


def _places(context: Context) -> list[tuple[str, float, int]]:
    return [(demo.example.id, demo.score, demo.rank) for demo in context.demos]


def check_composer(composer: Composer, contexts: Iterable[Context] | None = None) -> None:
    """Raises AssertionError with a sentence where a prompt lacks, repeats or misplaces a piece of its context."""
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
    shown: list[tuple[str, Query | Example]] = [(spans.demo(i), demo.example) for i, demo in enumerate(context.demos)]
    shown.append((spans.QUERY, context.query))
    for name, item in shown:
        asked = spans.question(name)
        question = parts[asked].content if asked in parts else ""
        assert question == item.question, f"{at}: {asked} is {question!r}, not {item.question!r}."
        for j, image in enumerate(item.images):
            place = spans.image(name, j)
            seen = parts[place].image if place in parts else None
            assert seen == image, f"{at}: {place} is not the image."
        if isinstance(item, Example):
            said = spans.answer(name)
            answer = parts[said].content if said in parts else None
            assert answer == item.answer, f"{at}: {said} is {answer!r}, not {item.answer!r}."
    images = [image for _, item in shown for image in item.images]
    assert len(prompt.images) == len(images), f"{at}: {len(prompt.images)} images, not {len(images)}."


def _check_places(context: Context, prompt: Prompt, names: list[str], at: str) -> None:
    owners = [spans.owner_of(name) for name in names if name != spans.INSTRUCTION]
    blocks = [owner for i, owner in enumerate(owners) if i == 0 or owners[i - 1] != owner]
    wanted = [*(spans.demo(i) for i in range(len(context.demos))), spans.QUERY]
    assert blocks == wanted, f"{at}: the pieces stand in the order {blocks}, not {wanted}."
    assert prompt.turns[-1].role == "user", f"{at}: the last turn is the {prompt.turns[-1].role}'s: nothing is asked."
    assert all(turn.parts for turn in prompt.turns), f"{at}: a turn is empty."


def _ids(context: Context) -> list[str]:
    return [demo.example.id for demo in context.demos]


def _told(demo: Demo) -> tuple[str, str, str, float, int]:
    return demo.example.id, demo.example.question, demo.example.answer, demo.score, demo.rank


def _example(name: str, images: int, question: str, answer: str) -> Example:
    return Example(name, tuple(_image(f"{name}/{j}") for j in range(images)), question, (answer,))


def _labeled(example: Example, answer: str) -> Example:
    return replace(example, answers=(answer,), options=("yes", "no"), label=answer, meta={"caption": f"a {example.id}"})


def _image(name: str) -> Image:
    from PIL import Image as PILImage

    shade = StreamKey(0, name).numpy("shade").integers(256, size=3)
    return Image.from_pil(PILImage.new("RGB", (8, 8), tuple(int(value) for value in shade)), name)
