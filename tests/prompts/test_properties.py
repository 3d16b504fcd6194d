"""Every registered orderer, transform and composer on generated contexts."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from icl.images import Image
from icl.registry import build, entries
from icl.streams import StreamKey
from icl.types import Context, Demo, Example
from prompts.budget import fit
from prompts.composers.turns import Chat
from prompts.conformance import NamingModel, check_composer, check_orderer, check_transform, guessed_pool

IMAGES = [Image.from_pil(PILImage.new("RGB", (3, 2), (i, 0, 0)), f"p{i}") for i in range(4)]
WORDS = st.text("abyes no.Ü|{%}\n", min_size=1, max_size=6).filter(str.strip)
QUICK = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@st.composite
def examples(draw: st.DrawFn, name: str, options: tuple[str, ...]) -> Example:
    sets: list[tuple[str, ...]] = [options, (), ("up", "down")]
    own = draw(st.sampled_from(sets))
    answer = draw(st.sampled_from(own)) if own and draw(st.booleans()) else draw(WORDS)
    return Example(
        name,
        tuple(draw(st.lists(st.sampled_from(IMAGES), max_size=2, unique=True))),
        draw(WORDS),
        (answer, *draw(st.lists(WORDS, max_size=1))),
        own,
        draw(st.sampled_from([None, answer])),
        meta={"caption": draw(WORDS)},
    )


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    """With the gold beside the query."""
    options = tuple(
        draw(st.lists(WORDS, max_size=3, unique_by=lambda word: " ".join(word.casefold().split()).rstrip(".")))
    )
    count = draw(st.integers(0, 5))
    demonstrations = [draw(examples(f"e{i}", options)) for i in range(count)]
    ranks = draw(st.permutations(range(count)))
    demos = tuple(Demo(example, 0.5, rank) for example, rank in zip(demonstrations, ranks, strict=True))
    query: Any = draw(examples("q", options))
    return Context(query, demos, StreamKey(draw(st.integers(0, 3)), "q"), ("before",))


@pytest.mark.parametrize("name", entries("orderer"))
@given(context=contexts())
@QUICK
def test_orderers(name: str, context: Context) -> None:
    check_orderer(build("orderer", name), [context])


@pytest.mark.parametrize("name", entries("transform"))
@given(context=contexts())
@QUICK
def test_transforms(name: str, context: Context) -> None:
    check_transform(build("transform", name), [context])


@pytest.mark.parametrize("name", entries("composer"))
@given(context=contexts())
@QUICK
def test_composers_and_the_budget(name: str, context: Context) -> None:
    query: Any = context.query
    blind = Context(query.query, context.demos, context.key)
    composer = build("composer", name)
    check_composer(composer, [blind])
    limit = len(composer.compose(blind).text) - 1 if context.demos else None
    prompt, fitted, dropped = fit(blind, composer, lambda one: len(one.text), limit)
    check_composer(composer, [fitted])
    assert len(fitted.demos) + len(dropped) == len(context.demos)
    assert bool(dropped) == bool(context.demos)
    assert prompt == composer.compose(fitted)


@given(
    context=contexts(),
    nodes=st.lists(st.sampled_from([n for n in entries("transform") if n != "synonyms"]), max_size=3),
)
@QUICK
def test_transforms_after_one_another_keep_every_mark_and_compose(context: Context, nodes: list[str]) -> None:
    done = context
    for node in sorted(nodes, key=["flip_labels", "unlearn"].__contains__, reverse=True):
        before = done.provenance
        transform = build("transform", node)
        if transform.needs & {"model", "pool"}:
            transform = transform.fitted(guessed_pool(), NamingModel())
        done = transform.transform(done)
        assert done.provenance[: len(before)] == before
    query: Any = done.query
    assert query.id == context.query.id
    if query.question or query.images:
        check_composer(Chat(), [Context(query.query, done.demos, done.key)])
