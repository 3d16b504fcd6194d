"""What transforms are made of: a change on the examples of demonstrations and query, and derangements of values."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from icl.types import Context, Demo, Example, Where
from prompts.label_renaming import called, composed, shown_as

T = TypeVar("T")


def changed(context: Context, where: Where, change: Callable[[Any], Any], mark: str) -> Context:
    """`change` on each example of the demonstrations, on the query, or on all; the mark where there was one."""
    demos = context.demos if where == "query" else tuple(_example(demo, change(demo.example)) for demo in context.demos)
    query = context.query if where == "demos" else change(context.query)
    if query is context.query and not _replaced(demos, context.demos):
        return context
    return replace(context, demos=demos, query=query, provenance=(*context.provenance, mark))


def ranked(context: Context) -> list[Demo]:
    """The demonstrations by rank: what a choice is made on, so that it does not depend on their order."""
    return sorted(context.demos, key=lambda demo: demo.rank)


def with_demos(context: Context, by_rank: Sequence[Demo], mark: str) -> Context:
    """The demonstrations replaced, each in its place; the mark where there was one to replace."""
    new = {demo.rank: demo for demo in by_rank}
    demos = tuple(new[demo.rank] for demo in context.demos)
    if not _replaced(demos, context.demos):
        return context
    return replace(context, demos=demos, provenance=(*context.provenance, mark))


def rescored(context: Context, names: Mapping[str, str], mark: str) -> Context:
    """Answers under new names everywhere: in demonstrations and options, and in the gold that scores the query."""
    demos = tuple(_renamed(demo, names) for demo in context.demos)
    return replace(
        context,
        query=replace(context.query, options=tuple(called(option, names) for option in context.query.options)),
        demos=demos,
        provenance=(*context.provenance, mark),
        label_map=composed(context.label_map, names),
        relabels_gold=True,
    )


def deranged(values: Sequence[T], rng: np.random.Generator, key: Callable[[T], Hashable]) -> tuple[list[T], float]:
    """The values in places where their key differs from what stood there, and the share of places that got another.

    Where no arrangement moves all of them (one value has the majority), as many as possible move: in random order but
    grouped by key, the largest group first, and turned by its size. Of distinct values it draws a random cycle.
    """
    places: dict[Hashable, list[int]] = {}
    for place in rng.permutation(len(values)):
        places.setdefault(key(values[place]), []).append(int(place))
    groups = sorted(places.values(), key=len, reverse=True)
    order = [place for group in groups for place in group]
    turn = len(groups[0]) if groups else 0
    found = list(values)
    for i, place in enumerate(order):
        found[place] = values[order[(i + turn) % len(order)]]
    moved = sum(key(found[i]) != key(values[i]) for i in range(len(values)))
    return found, moved / len(values) if values else 0.0


def _renamed(demo: Demo, names: Mapping[str, str]) -> Demo:
    shown = shown_as(demo, called(demo.example.answer, names))
    options = tuple(called(option, names) for option in demo.example.options)
    return replace(shown, example=replace(shown.example, options=options))


def _example(demo: Demo, example: Example) -> Demo:
    return demo if example is demo.example else replace(demo, example=example)


def _replaced(new: Sequence[Demo], old: Sequence[Demo]) -> bool:
    """By identity: equality of images would decode them."""
    return any(a is not b for a, b in zip(new, old, strict=True))
