"""Building blocks of transforms: changes of examples, new names of answers, and derangements of values."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from icl import Context, Demo, Example, PlanError, normalize_text
from icl.option_listing import OPTION_TEXTS, in_texts, with_letters
from icl.types import Where

# Renaming of answers: the answers of a context, maps of new names, and the gold that scores a renamed query.
#
# Flipped labels and symbols use one map for each context. A map applies to whole answers, compared by `normalize_text`.
# Answers that it does not contain keep their names.


def answers_of(context: Context) -> tuple[str, ...]:
    """Distinct answers of a context: the query's options, then the demonstrations' answers, the best-ranked first."""
    ranked = sorted(context.demos, key=lambda demo: demo.rank)
    answers = [*context.query.options, *(demo.example.answer for demo in ranked)]
    return tuple(
        {normalize_text(answer): answer for answer in reversed(answers)}[key]
        for key in dict.fromkeys(map(normalize_text, answers))
    )


def rivals_of(context: Context) -> list[tuple[str, ...]]:
    """Groups of competing answers: the options of one example, and all answers of examples without options.

    Option sets with a common answer are merged. A context with yes/no questions and questions about colors has two
    groups. Answers are in the order of `answers_of`, and each is in one group.
    """
    ranked = [demo.example for demo in sorted(context.demos, key=lambda demo: demo.rank)]
    free = [example.answer for example in ranked if not example.options]
    sets = [context.query.options, *((*example.options, example.answer) for example in ranked if example.options), free]
    groups: list[dict[str, str]] = []
    for answers in sets:
        own = {normalize_text(answer): answer for answer in reversed(answers)}
        own = {key: own[key] for key in dict.fromkeys(map(normalize_text, answers))}
        touching = [group for group in groups if group.keys() & own.keys()]
        whole: dict[str, str] = {}
        for group in (*touching, own):
            whole |= {key: answer for key, answer in group.items() if key not in whole}
        place = groups.index(touching[0]) if touching else len(groups)
        groups = [group for group in groups if not any(group is other for other in touching)]
        if whole:
            groups.insert(place, whole)
    return [tuple(group.values()) for group in groups]


def rivals(answer: str, groups: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The group that contains an answer, in its order."""
    return next(group for group in groups if normalize_text(answer) in map(normalize_text, group))


def new_name(answer: str, names: Mapping[str, str]) -> str:
    """The answer's new name, or the answer itself."""
    return {normalize_text(old): new for old, new in names.items()}.get(normalize_text(answer), answer)


def with_answer(demo: Demo, answer: str) -> Demo:
    """The demonstration with another answer. Its label changes too if it has one."""
    example = demo.example
    label = example.label if example.label is None else answer
    return replace(demo, example=replace(example, answers=(answer,), label=label))


def check_gold_unchanged(context: Context, who: str) -> None:
    """Raise PlanError if the gold is already renamed, since it would be renamed again."""
    if context.relabels_gold:
        raise PlanError(
            f"{who} does not change the gold answer, so it must come before symbols and synonyms. Change the order."
        )


def compose_names(before: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The map of a context that has been renamed by `before` and is renamed again by `names`."""
    renamed = {old: new_name(new, names) for old, new in before.items()}
    names_before = {normalize_text(new) for new in before.values()} | {normalize_text(old) for old in before}
    return renamed | {old: new for old, new in names.items() if normalize_text(old) not in names_before}


def scored_example(example: Example, context: Context) -> Example:
    """The query with the gold that scores its answer, under its new name if the context renames the gold.

    If the context lists options by letters, answers and options are letters too.
    """
    if context.relabels_gold:
        names = context.label_map
        example = replace(
            example,
            answers=tuple(new_name(answer, names) for answer in example.answers),
            options=tuple(new_name(option, names) for option in example.options),
            label=None if example.label is None else new_name(example.label, names),
        )
    texts = () if OPTION_TEXTS in example.meta else context.query.meta.get(OPTION_TEXTS, ())
    return with_letters(example, texts) if texts else example


def gold_before_after(scored: Example, context: Context) -> tuple[str, ...]:
    """The right answer as the task names it and as the demonstrations name it. Empty if they are equal."""
    if (by_text := in_texts(scored)) is not scored and context.label_map:
        letters = dict(zip(map(normalize_text, by_text.options), scored.options, strict=True))
        names_of_text = gold_before_after(by_text, context)
        if names_of_text:
            return tuple(letters.get(normalize_text(name), name) for name in names_of_text)
    names = context.label_map
    if context.relabels_gold:
        old = next((old for old, new in names.items() if normalize_text(new) == normalize_text(scored.answer)), None)
        return () if old is None or normalize_text(old) == normalize_text(scored.answer) else (old, scored.answer)
    new = new_name(scored.answer, names)
    return () if normalize_text(new) == normalize_text(scored.answer) else (scored.answer, new)


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
