"""Building blocks of transforms: changes of examples, and derangements of values."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from icl import Context, Demo, Example, PlanError, normalize_text
from icl.types import Where
from prompts.label_renaming import compose_names, new_name, with_answer

T = TypeVar("T")


def change_examples(context: Context, where: Where, change: Callable[[Any], Any], mark: str) -> Context:
    """Apply `change` to the demonstrations, to the query, or to all. Adds the mark if anything changed."""
    demos = (
        context.demos
        if where == "query"
        else tuple(_with_example(demo, change(demo.example)) for demo in context.demos)
    )
    query = context.query if where == "demos" else change(context.query)
    if query is context.query and not _differs(demos, context.demos):
        return context
    return replace(context, demos=demos, query=query, provenance=(*context.provenance, mark))


def sort_by_rank(context: Context) -> list[Demo]:
    """The demonstrations by rank. Random choices use this order, so they do not depend on the order in the prompt."""
    return sorted(context.demos, key=lambda demo: demo.rank)


def random_places(context: Context, factor: str) -> list[int]:
    """A random order of the positions in `sort_by_rank`, keyed by the ids of the demonstrations."""
    return context.key.order(factor, [demo.example.id for demo in sort_by_rank(context)])


def random_answer(context: Context, factor: str, answers: Sequence[str]) -> str:
    """One of the answers, uniformly. It depends on their texts, not on their order."""
    return answers[context.key.order(factor, [normalize_text(answer) for answer in answers])[0]]


def replace_demos(context: Context, by_rank: Sequence[Demo], mark: str) -> Context:
    """Replace the demonstrations, each in its place. Adds the mark if anything changed."""
    new = {demo.rank: demo for demo in by_rank}
    demos = tuple(new[demo.rank] for demo in context.demos)
    if not _differs(demos, context.demos):
        return context
    return replace(context, demos=demos, provenance=(*context.provenance, mark))


def rename_answers(context: Context, names: Mapping[str, str], mark: str) -> Context:
    """Rename answers in demonstrations and options, and in the gold that scores the query."""
    demos = tuple(_rename_demo(demo, names) for demo in context.demos)
    return replace(
        context,
        query=replace(context.query, options=tuple(new_name(option, names) for option in context.query.options)),
        demos=demos,
        provenance=(*context.provenance, mark),
        label_map=compose_names(context.label_map, names),
        relabels_gold=True,
    )


def derange(values: Sequence[T], shuffled: Sequence[int], key: Callable[[T], Hashable]) -> tuple[list[T], float]:
    """Permute values so that as many places as possible get a value with another key.

    Values are taken in a random order of their places (`shuffled`), grouped by key with the largest group first,
    and rotated by its size. Not all places change if one key has the majority. For distinct values the result is a
    random cycle.

    Returns:
        The permuted values, and the share of places with a changed key.
    """
    places: dict[Hashable, list[int]] = {}
    for place in shuffled:
        places.setdefault(key(values[place]), []).append(place)
    groups = sorted(places.values(), key=len, reverse=True)
    order = [place for group in groups for place in group]
    turn = len(groups[0]) if groups else 0
    result = list(values)
    for i, place in enumerate(order):
        result[place] = values[order[(i + turn) % len(order)]]
    moved = sum(key(result[i]) != key(values[i]) for i in range(len(values)))
    return result, moved / len(values) if values else 0.0


def _rename_demo(demo: Demo, names: Mapping[str, str]) -> Demo:
    renamed = with_answer(demo, new_name(demo.example.answer, names))
    options = tuple(new_name(option, names) for option in demo.example.options)
    return replace(renamed, example=replace(renamed.example, options=options))


def _with_example(demo: Demo, example: Example) -> Demo:
    return demo if example is demo.example else replace(demo, example=example)


def _differs(new: Sequence[Demo], old: Sequence[Demo]) -> bool:
    """Compares by identity, because equality of images would decode them."""
    return any(a is not b for a, b in zip(new, old, strict=True))


def gold_of(context: Context, who: str) -> Example:
    """The query with its gold. Raises PlanError if the context has no gold."""
    query: Any = context.query
    if not isinstance(query, Example):
        raise PlanError(
            f"{who} is an oracle: it needs the gold of query '{query.id}'. In Python, give the context the Example in "
            "the place of its query; a run does so for components that declare the need."
        )
    return query
